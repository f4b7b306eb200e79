"""Work that nobody waits for: hard deletions, and forgetting what is past its time."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

import structlog
from msgspec import structs
from sqlalchemy import delete, select

from signaling.api.v1.service import CallsService
from signaling.calls.model import Task
from signaling.store import schema
from signaling.store.database import fetch, save
from signaling.store.kinds import TASKS, milliseconds

log = structlog.get_logger(__name__)

POLL_SECONDS = 60.0


async def run_tasks(service: CallsService) -> None:
    """Carry out every task that is not finished; one that a crash interrupted is done again."""
    async with service.database.read() as connection:
        tasks: list[Task] = await fetch(connection, TASKS, schema.tasks.c.status.in_(("pending", "running")))
    for task in tasks:
        await _delete_call(service, task)


async def _delete_call(service: CallsService, task: Task) -> None:
    """Wipe a call: its row, everything that hangs on it, and its events."""
    calls = schema.calls
    async with service.database.write(long=True) as connection:
        row = (await connection.execute(select(calls.c.type, calls.c.id).where(calls.c.key == task.argument))).first()
        if row is not None:
            # Deliveries stay: the webhooks are still to hear that the call was deleted.
            await connection.execute(delete(schema.events).where(schema.events.c.cid == f"{row.type}:{row.id}"))
            await connection.execute(delete(calls).where(calls.c.key == task.argument))
            positions = schema.webhook_positions
            await connection.execute(delete(positions).where(positions.c.cid == f"{row.type}:{row.id}"))
        now = service.now()
        done = structs.replace(task, status="completed", result={"deleted": row is not None}, updated_at=now)
        await save(connection, [done])
    if row is not None:
        service.calls.forget(row.type, row.id)


async def forget_old(service: CallsService) -> None:
    """Delete events, deliveries, kept replies and attendance that are past their time."""
    now, settings = service.now(), service.settings

    def before(seconds: float) -> int:
        at: int = milliseconds(now - timedelta(seconds=seconds))
        return at

    attendance = before(settings.attendance_retention_days * 86_400)
    async with service.database.write(long=True) as connection:
        for table, at in (
            (schema.events, before(settings.event_retention_seconds)),
            (schema.idempotency, before(settings.idempotency_ttl_seconds)),
        ):
            await connection.execute(delete(table).where(table.c.created_at < at))
        for owed in (schema.deliveries, schema.push_jobs):
            limit = before(settings.delivery_retention_seconds)
            await connection.execute(delete(owed).where(owed.c.state != "pending", owed.c.created_at < limit))
        people, sessions = schema.participants, schema.sessions
        await connection.execute(delete(people).where(people.c.present.is_(False), people.c.created_at < attendance))
        await connection.execute(
            delete(sessions).where(sessions.c.running.is_(False), sessions.c.created_at < attendance)
        )


async def loop(service: CallsService) -> None:
    while True:
        service.tasks_owed.clear()
        try:
            await run_tasks(service)
            await forget_old(service)
        except Exception:  # what is left is in the database; it is tried again
            log.exception("upkeep_failed")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await service.tasks_owed.wait()

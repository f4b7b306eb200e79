"""Work that nobody waits for: hard deletions, and forgetting what is past its time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from msgspec import structs
from sqlalchemy import Table, delete, exists, select, tuple_

from signaling.api.v1.service import CallsService
from signaling.calls.identifiers import GUEST_IDS
from signaling.calls.model import Ban, Task
from signaling.calls.rights import in_force
from signaling.store import schema
from signaling.store.database import fetch, fetch_one, outlived, save
from signaling.store.kinds import TASKS, milliseconds

POLL_SECONDS = 60.0
FORGOTTEN_AT_ONCE = 500
"""Rows deleted in one transaction: others write in between."""
TOLD_WITHIN = timedelta(seconds=1)
"""So long a call is kept after its deletion, that other processes' sockets hear of it: they read its events."""


async def run_tasks(service: CallsService) -> timedelta | None:
    """Carry out every task that is due; return how long the next one has, None if there is none.

    One that a crash interrupted is done again.
    """
    async with service.database.read() as connection:
        tasks: list[Task] = await fetch(connection, TASKS, schema.tasks.c.status.in_(("pending", "running")))
    early = []
    for task in tasks:
        left = task.created_at + TOLD_WITHIN - service.now()
        if left > timedelta():
            early.append(left)
        else:
            await _delete_call(service, task)
    return min(early, default=None)


async def _delete_call(service: CallsService, task: Task) -> None:
    """Wipe a call: its row, everything that hangs on it, and its events."""
    calls, events, positions = schema.calls, schema.events, schema.webhook_positions
    async with service.database.write(long=True, alone="tasks") as connection:
        current: Task | None = await fetch_one(connection, TASKS, id=task.id)
        if current is None or current.status == "completed":
            return  # another process was here
        row = (await connection.execute(select(calls.c.type, calls.c.id).where(calls.c.key == task.argument))).first()
        if row is not None:
            # The call first: from here on nobody writes anything of it.
            await connection.execute(delete(calls).where(calls.c.key == task.argument))
            # Deliveries stay: the webhooks are still to hear that the call was deleted.
            await connection.execute(delete(events).where(events.c.cid == f"{row.type}:{row.id}"))
            await connection.execute(delete(positions).where(positions.c.cid == f"{row.type}:{row.id}"))
        now = service.now()
        done = structs.replace(task, status="completed", result={"deleted": row is not None}, updated_at=now)
        await save(connection, [done])
    if row is not None:
        service.calls.forget(row.type, row.id)


async def forget_old(service: CallsService) -> None:
    """Delete what is past its time: events, debts, kept replies, what is over in calls, guests, addresses, audit."""
    now, settings = service.now(), service.settings

    def before(seconds: float) -> int:
        at: int = milliseconds(now - timedelta(seconds=seconds))
        return at

    over = before(settings.attendance_retention_days * 86_400)
    owed = before(settings.delivery_retention_seconds)
    people, sessions = schema.participants, schema.sessions
    await _release_addresses(service)
    await _forget(service, schema.addresses, before(settings.addresses_kept_days * 86_400), by="seen_at")
    await _forget(service, schema.events, before(settings.event_retention_seconds))
    await _forget(service, schema.idempotency, before(settings.idempotency_ttl_seconds))
    for table in (schema.deliveries, schema.push_jobs):
        await _forget(service, table, owed, table.c.state != "pending")
    # Of nodes that never came back, or what fails again and again: all else is done within seconds.
    await _forget(service, schema.orders, owed)
    await _forget(service, people, over, people.c.present.is_(False))
    await _forget(service, sessions, over, sessions.c.running.is_(False))
    for table in (schema.rings, schema.requests, schema.lobby, schema.captures):
        await _forget(service, table, over, table.c.open.is_(False))
    await _forget(service, schema.feedback, over)
    # A day at least, so that their tokens have ended.
    await _forget_guests(service, over)
    await _forget(service, schema.tasks, over, schema.tasks.c.status.not_in(("pending", "running")))
    await _forget(service, schema.audit, before(settings.audit_retention_days * 86_400))


async def _release_addresses(service: CallsService) -> None:
    """Forget the addresses of bans that have run out."""

    def over(bans: Iterable[Ban]) -> list[Ban]:
        return [ban for ban in bans if ban.addresses and not in_force(ban, service.now())]

    if over(service.directory.bans.values()):
        async with service.realm() as (connection, current):
            await save(connection, [structs.replace(ban, addresses=()) for ban in over(current.bans.values())])


async def _forget(service: CallsService, table: Table, before: int, *conditions: Any, by: str = "created_at") -> None:
    key = tuple_(*table.primary_key)
    old = select(*table.primary_key).where(table.c[by] < before, *conditions).limit(FORGOTTEN_AT_ONCE)
    while True:
        async with service.database.write(long=True) as connection:
            gone = await connection.execute(delete(table).where(key.in_(old)))
        if gone.rowcount < FORGOTTEN_AT_ONCE:
            return


async def _forget_guests(service: CallsService, before: int) -> None:
    """Delete guests, with their devices, who are members of no call, in none, and not banned."""
    users, devices, people = schema.users, schema.devices, schema.participants
    old = (
        select(users.c.id)
        .where(
            users.c.role == "guest",
            users.c.created_at < before,
            # Others have this role because somebody gave it to them.
            users.c.id.like(GUEST_IDS),
            ~exists().where(schema.members.c.user_id == users.c.id),
            ~exists().where(schema.bans.c.user_id == users.c.id),
            ~exists().where(people.c.user_id == users.c.id, people.c.present.is_(True)),
        )
        .limit(FORGOTTEN_AT_ONCE)
    )
    while True:
        async with service.database.write(long=True) as connection:
            forgotten = await connection.execute(delete(users).where(users.c.id.in_(old)).returning(users.c.id))
            gone = list(forgotten.scalars())
            if gone:
                await connection.execute(delete(devices).where(devices.c.user_id.in_(gone)))
        service.directory.forget(gone)
        if len(gone) < FORGOTTEN_AT_ONCE:
            return


async def loop(service: CallsService) -> None:
    forgotten = -math.inf
    while True:
        service.tasks_owed.clear()
        wait = POLL_SECONDS
        with outlived("upkeep_failed"):
            left = await run_tasks(service)
            if left is not None:
                wait = left / timedelta(seconds=1)
            if time.monotonic() - forgotten >= POLL_SECONDS:
                await forget_old(service)
                forgotten = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await service.tasks_owed.wait()

"""Taking what is owed: each piece by one process at a time. Whoever dies with it leaves it to the others.

What is taken is put off until its time is over, and counts as taken no longer than that. Not here: what is owed
(`journal.py`), how it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from msgspec import structs
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from signaling.store.database import Database, outlived, save
from signaling.store.kinds import OF_ENTITY, Kind, milliseconds


async def take_due(
    database: Database,
    kind: Kind[Any],
    now: datetime,
    until: datetime,
    limit: int,
    *conditions: Any,
    choose: Callable[[list[Any]], list[Any]] = list,
) -> list[Any]:
    """Take what is due, longest due first, until `until`; of what was found, what `choose` returns."""
    columns = kind.table.c
    due = (
        select(columns.doc)
        .where(columns.state == "pending", columns.next_attempt_at <= milliseconds(now), *conditions)
        .order_by(columns.next_attempt_at, columns.created_at, columns.id)
        .limit(limit)
    )
    async with database.read() as connection:
        if not list(await connection.execute(due.limit(1))):
            return []
    async with database.write() as connection:
        rows = await connection.execute(due.with_for_update(skip_locked=True))
        chosen = choose([kind.read(row.doc) for row in rows])
        taken = [structs.replace(one, next_attempt_at=until) for one in chosen]
        if taken:
            await save(connection, taken)
    return taken


async def keep(database: Database, taken: list[Any], until: datetime) -> list[Any]:
    """Hold on to what was taken until `until`; return what is still ours."""
    kept = [structs.replace(one, next_attempt_at=until) for one in taken]
    async with database.write() as connection:
        return [new for old, new in zip(taken, kept, strict=True) if await settle(connection, old, new)]


async def settle(connection: AsyncConnection, taken: Any, changed: Any) -> bool:
    """Write what became of it; tell whether it was still ours: its time may be over, or it is owed anew."""
    kind = OF_ENTITY[type(taken)]
    columns = kind.table.c
    row = kind.row(changed)
    mine = (columns.id == taken.id, columns.state == "pending")
    until = columns.next_attempt_at == milliseconds(taken.next_attempt_at)
    written = await connection.execute(update(kind.table).where(*mine, until).values(row))
    return bool(written.rowcount)


async def next_due(database: Database, kind: Kind[Any], now: datetime, *conditions: Any) -> datetime | None:
    """Return when the next piece is due, at the earliest now; None: nothing is owed."""
    columns = kind.table.c
    query = select(func.min(columns.next_attempt_at)).where(columns.state == "pending", *conditions)
    async with database.read() as connection:
        at = (await connection.execute(query)).scalar()
    return None if at is None else now + timedelta(milliseconds=max(0, at - milliseconds(now)))


async def begin_as_due(
    begin: Callable[[], Awaitable[datetime | None]],
    now: Callable[[], datetime],
    wake: asyncio.Event,
    poll_seconds: float,
    failure: str,
) -> None:
    """Run `begin` when it says that something is due, when woken, and else each `poll_seconds`, until cancelled.

    failure: the log's word for what went wrong.
    """
    while True:
        wait = poll_seconds
        wake.clear()
        with outlived(failure):
            at = await begin()
            if at is not None:
                wait = min(wait, max(0.01, (at - now()).total_seconds()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await wake.wait()

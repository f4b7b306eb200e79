"""Loads and stores a call as a whole.

A state is kept in memory and used again as long as the call's revision has not moved, so an operation costs one small
query instead of nine. Every commit of anything of a call moves its revision, and moves it only from the one it was
loaded at: two processes cannot both win.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from signaling.calls.model import Call
from signaling.calls.state import CallState
from signaling.store import schema
from signaling.store.database import fetch, fetch_one, save
from signaling.store.kinds import OF_CALL, RINGS, SESSIONS, Kind, milliseconds

CACHED_CALLS = 2_000


class Stale(Exception):
    """Somebody else changed, or made, the call meanwhile."""


@dataclass
class Loaded:
    """A state and the revision at which it was read; 0: it is not stored yet."""

    state: CallState
    revision: int


class CallRepository:
    def __init__(self) -> None:
        self._cache: OrderedDict[tuple[str, str], Loaded] = OrderedDict()

    async def load(self, connection: AsyncConnection, type_: str, call_id: str) -> Loaded | None:
        """Return the call, deleted or not; None if there is none."""
        table = schema.calls
        row = (
            await connection.execute(
                select(table.c.key, table.c.revision).where(table.c.type == type_, table.c.id == call_id)
            )
        ).first()
        if row is None:
            self._cache.pop((type_, call_id), None)
            return None
        known = self._cache.get((type_, call_id))
        if known is not None and known.revision == row.revision and known.state.call.key == row.key:
            self._cache.move_to_end((type_, call_id))
            return known
        loaded = Loaded(await self._read(connection, row.key), row.revision)
        self._remember(loaded)
        return loaded

    async def _read(self, connection: AsyncConnection, key: str) -> CallState:
        document = (await connection.execute(select(schema.calls.c.doc).where(schema.calls.c.key == key))).scalar_one()
        state = CallState(msgspec.convert(document, Call))
        running = await fetch(
            connection, SESSIONS, schema.sessions.c.call_key == key, schema.sessions.c.running.is_(True)
        )
        state.session = running[0] if running else None
        for name, kind in OF_CALL.items():
            for value in await fetch(connection, kind, *_unfinished(kind, key)):
                getattr(state, name)[_key(kind, value)] = value
        for ring in await _latest_ring(connection, key):
            state.rings.setdefault(ring.id, ring)
        _sort(state)
        return state

    def _remember(self, loaded: Loaded) -> None:
        call = loaded.state.call
        self._cache[call.type, call.id] = loaded
        self._cache.move_to_end((call.type, call.id))
        while len(self._cache) > CACHED_CALLS:
            self._cache.popitem(last=False)

    async def include(self, connection: AsyncConnection, state: CallState, also: Mapping[str, str]) -> None:
        """Bring finished things, by table and id, into a draft: an operation is about them."""
        for name, value_id in also.items():
            if value_id in getattr(state, name):
                continue
            value = await fetch_one(connection, OF_CALL[name], id=value_id, call_key=state.call.key)
            if value is not None:
                getattr(state, name)[value_id] = value

    async def store(
        self, connection: AsyncConnection, before: Loaded, after: CallState, due_at: datetime | None
    ) -> Loaded:
        """Write what differs. Raises `Stale` if the call has moved on; then nothing is written."""
        revision = before.revision + 1
        await self._store_call(connection, before.revision, after, due_at)
        key = after.call.key
        if after.session is not None and after.session is not before.state.session:
            await save(connection, [after.session], call_key=key)
        for name, kind in OF_CALL.items():
            was, is_ = getattr(before.state, name), getattr(after, name)
            changed = [value for value_id, value in is_.items() if was.get(value_id) is not value]
            if changed:
                await save(connection, changed, call_key=key)
            for value_id in was.keys() - is_.keys():
                table, column = kind.table, kind.table.c[_key_column(kind)]
                await connection.execute(delete(table).where(table.c.call_key == key, column == value_id))
        return Loaded(without_finished(after), revision)

    async def _store_call(
        self, connection: AsyncConnection, revision: int, after: CallState, due_at: datetime | None
    ) -> None:
        row = _call_row(after, due_at, revision + 1)
        if revision == 0:
            try:
                await connection.execute(schema.calls.insert(), row)
            except IntegrityError:
                raise Stale from None
            return
        table = schema.calls
        written = await connection.execute(
            update(table).where(table.c.key == after.call.key, table.c.revision == revision).values(**row)
        )
        if written.rowcount != 1:
            raise Stale

    def committed(self, loaded: Loaded) -> None:
        """Keep the new state; call it after the commit."""
        self._remember(loaded)

    def remembered(self, type_: str, call_id: str) -> Loaded | None:
        """Return the state last seen here; another process may have changed it since."""
        return self._cache.get((type_, call_id))

    def forget(self, type_: str, call_id: str) -> None:
        self._cache.pop((type_, call_id), None)


def _call_row(state: CallState, due_at: datetime | None, revision: int) -> dict[str, Any]:
    call, session = state.call, state.running
    return {
        "key": call.key,
        "type": call.type,
        "id": call.id,
        "team": call.team,
        "created_by": call.created_by,
        "created_at": milliseconds(call.created_at),
        "updated_at": milliseconds(call.updated_at),
        "starts_at": milliseconds(call.starts_at),
        "ended_at": milliseconds(call.ended_at),
        "deleted_at": milliseconds(call.deleted_at),
        "backstage_enabled": call.settings_overrides.get("backstage", {}).get("enabled"),
        "live": call.live,
        "session_id": session.id if session else None,
        "participant_count": session.participant_count if session else 0,
        "due_at": milliseconds(due_at),
        "revision": revision,
        "doc": call,
    }


def _unfinished(kind: Kind[Any], key: str) -> list[Any]:
    columns = kind.table.c
    conditions = [columns.call_key == key]
    if "open" in columns:
        conditions.append(columns.open.is_(True))
    if "present" in columns:
        conditions.append(columns.present.is_(True))
    return conditions


async def _latest_ring(connection: AsyncConnection, key: str) -> list[Any]:
    table = schema.rings
    rows = await connection.execute(
        select(table.c.doc)
        .where(table.c.call_key == key)
        .order_by(table.c.created_at.desc(), table.c.id.desc())
        .limit(1)
    )
    return [RINGS.read(doc) for (doc,) in rows]


def _key_column(kind: Kind[Any]) -> str:
    return "user_id" if "user_id" in kind.key else "id"


def _key(kind: Kind[Any], value: Any) -> str:
    key: str = getattr(value, _key_column(kind))
    return key


def _sort(state: CallState) -> None:
    for name in OF_CALL:
        table = getattr(state, name)
        setattr(state, name, dict(sorted(table.items(), key=lambda item: (item[1].created_at, item[0]))))


def without_finished(state: CallState) -> CallState:
    """Return the state as a fresh load would give it."""
    kept = state.draft()
    kept.session = state.running
    kept.participants = {p.id: p for p in state.present()}
    latest = max(state.rings.values(), key=lambda ring: (ring.created_at, ring.id), default=None)
    kept.rings = {ring.id: ring for ring in state.rings.values() if not ring.settled or ring is latest}
    kept.requests = {r.id: r for r in state.requests.values() if r.state == "pending"}
    kept.lobby = {e.id: e for e in state.lobby.values() if e.state in ("waiting", "admitted")}
    kept.captures = {c.id: c for c in state.captures.values() if c.state in ("starting", "started", "stopping")}
    return kept


def differs(before: CallState, after: CallState) -> bool:
    """Tell whether there is anything to store."""
    for field in fields(CallState):
        was, is_ = getattr(before, field.name), getattr(after, field.name)
        if isinstance(was, dict):
            if was.keys() != is_.keys() or any(is_[name] is not value for name, value in was.items()):
                return True
        elif was is not is_:
            return True
    return False


async def due_calls(connection: AsyncConnection, now: datetime, limit: int) -> list[tuple[str, str]]:
    """Return the calls whose timers are due, longest overdue first."""
    table = schema.calls
    rows = await connection.execute(
        select(table.c.type, table.c.id)
        .where(table.c.due_at <= milliseconds(now))
        .order_by(table.c.due_at)
        .limit(limit)
    )
    return [(row.type, row.id) for row in rows]


async def next_due(connection: AsyncConnection) -> int | None:
    table = schema.calls
    value: int | None = (
        await connection.execute(
            select(table.c.due_at).where(table.c.due_at.is_not(None)).order_by(table.c.due_at).limit(1)
        )
    ).scalar()
    return value


async def running_calls(
    connection: AsyncConnection, *, type_: str | None = None, user_id: str | None = None
) -> list[Any]:
    """Return (type, id) of the calls with a running session, of one type or with one user in it."""
    table, people = schema.calls, schema.participants
    query = select(table.c.type, table.c.id).where(table.c.session_id.is_not(None))
    if type_ is not None:
        query = query.where(table.c.type == type_)
    if user_id is not None:
        inside = select(people.c.call_key).where(people.c.user_id == user_id, people.c.present.is_(True))
        query = query.where(table.c.key.in_(inside))
    return [(row.type, row.id) for row in await connection.execute(query)]


async def call_of_session(connection: AsyncConnection, session_id: str) -> tuple[str, str] | None:
    table = schema.calls
    row = (await connection.execute(select(table.c.type, table.c.id).where(table.c.session_id == session_id))).first()
    return (row.type, row.id) if row else None


async def busy_users(connection: AsyncConnection, user_ids: list[str], except_key: str) -> frozenset[str]:
    """Return who of them is in a session of another call."""
    table = schema.participants
    rows = await connection.execute(
        select(table.c.user_id).where(
            table.c.user_id.in_(user_ids), table.c.present.is_(True), table.c.call_key != except_key
        )
    )
    return frozenset(row.user_id for row in rows)

"""Loads and stores a call as a whole.

A state is kept in memory and used again as long as the call's revision has not moved, so an operation costs one small
query instead of nine. Every commit of anything of a call moves its revision, and moves it only from the one it was
loaded at: two processes cannot both win.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Integer, Table, and_, bindparam, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from signaling.calls.model import Call, Ring
from signaling.calls.state import STATE_FIELDS, CallState
from signaling.store import schema
from signaling.store.database import fetch_one, save
from signaling.store.kinds import OF_CALL, RINGS, SESSIONS, Kind, milliseconds
from signaling.store.prepared import Prepared

CACHED_CALLS = 2_000
_CALLS = schema.calls.c
_WHEREABOUTS = Prepared(
    select(schema.realm.c.revision.label("realm"), _CALLS.key, _CALLS.revision).select_from(
        schema.realm.outerjoin(schema.calls, and_(_CALLS.type == bindparam("type_"), _CALLS.id == bindparam("id_")))
    )
)
_CHANGED = tuple(column.name for column in _CALLS if column.name not in ("key", "type", "id", "created_at"))
_INSERT = Prepared(schema.calls.insert().values({column.name: bindparam(column.name) for column in _CALLS}))
_OFTEN_CHANGED = ("updated_at", "participant_count", "due_at", "revision", "doc")
_SELDOM_CHANGED = tuple(name for name in _CHANGED if name not in _OFTEN_CHANGED)
"""Most of these are in indexes, of which SQLite writes a page anew for each that is named."""
_OF_SESSION = Prepared(select(_CALLS.type, _CALLS.id).where(_CALLS.session_id == bindparam("session_id_")))
_DUE = Prepared(
    select(_CALLS.type, _CALLS.id)
    .where(_CALLS.due_at <= bindparam("now_"))
    .order_by(_CALLS.due_at)
    .limit(bindparam("limit_", type_=Integer()))
)
_NEXT_DUE = Prepared(select(_CALLS.due_at).where(_CALLS.due_at.is_not(None)).order_by(_CALLS.due_at).limit(1))
_RINGS_OF = Prepared(
    select(_CALLS.type, _CALLS.id, schema.rings.c.doc)
    .join_from(schema.members, schema.rings, schema.rings.c.call_key == schema.members.c.call_key)
    .join(schema.calls, _CALLS.key == schema.members.c.call_key)
    .where(schema.members.c.user_id == bindparam("user_id_"), schema.rings.c.open.is_(True))
)


class Stale(Exception):
    """Somebody else changed, or made, the call meanwhile, or what concerns all calls."""


@dataclass
class Loaded:
    """A state and the revision at which it was read; 0: it is not stored yet.

    `read_anew`: it came from the database and not from this process's own last change.
    """

    state: CallState
    revision: int
    read_anew: bool = False


class Whereabouts(NamedTuple):
    key: str
    revision: int
    type: str
    id: str


class Rung(NamedTuple):
    """A ring, and the call that rings."""

    type: str
    id: str
    ring: Ring


NOWHERE = Whereabouts("", 0, "", "")
"""Of no call: loading it finds nothing."""


class CallRepository:
    def __init__(self) -> None:
        self._cache: OrderedDict[tuple[str, str], Loaded] = OrderedDict()

    async def whereabouts(self, connection: AsyncConnection, type_: str, call_id: str) -> Any:
        """Return the realm's revision, and key and revision of the call, None if there is none; for `load`."""
        return (await _WHEREABOUTS.rows(connection, {"type_": type_, "id_": call_id}))[0]

    async def whereabouts_of(self, connection: AsyncConnection, keys: Sequence[str]) -> list[Any]:
        """Return key, revision, type and id of these calls, as far as they are there, in the order of `keys`."""
        query = select(_CALLS.key, _CALLS.revision, _CALLS.type, _CALLS.id).where(_CALLS.key.in_(keys))
        rows = {row.key: row for row in await connection.execute(query)}
        return [rows[key] for key in keys if key in rows]

    async def load(self, connection: AsyncConnection, type_: str, call_id: str, row: Any) -> Loaded | None:
        """Return the call whose whereabouts `row` tells, deleted or not; None if there is none."""
        if row.key is None:
            self._cache.pop((type_, call_id), None)
            return None
        known = self._known(type_, call_id, row)
        if known is not None:
            return known
        loaded = Loaded((await self._read(connection, [row.key]))[row.key], row.revision, read_anew=True)
        self._remember(loaded)
        return loaded

    async def load_each(self, connection: AsyncConnection, rows: Sequence[Any]) -> list[Loaded]:
        """Return the calls of these whereabouts; what is not in memory is read together, not one by one."""
        found = {row.key: self._known(row.type, row.id, row) for row in rows}
        absent = [key for key, known in found.items() if known is None]
        states = await self._read(connection, absent) if absent else {}
        result = []
        for row in rows:
            loaded = found[row.key]
            if loaded is None:
                if row.key not in states:
                    continue  # deleted between the two reads
                loaded = Loaded(states[row.key], row.revision, read_anew=True)
                self._remember(loaded)
            result.append(loaded)
        return result

    def _known(self, type_: str, call_id: str, row: Any) -> Loaded | None:
        known = self._cache.get((type_, call_id))
        if known is None or known.revision != row.revision or known.state.call.key != row.key:
            return None
        self._cache.move_to_end((type_, call_id))
        return known

    async def _read(self, connection: AsyncConnection, keys: Sequence[str]) -> dict[str, CallState]:
        query = select(_CALLS.key, _CALLS.doc).where(_CALLS.key.in_(keys))
        states = {row.key: CallState(msgspec.convert(row.doc, Call)) for row in await connection.execute(query)}
        sessions = SESSIONS.table
        running = select(sessions.c.call_key, sessions.c.doc).where(
            sessions.c.call_key.in_(keys), sessions.c.running.is_(True)
        )
        for row in await connection.execute(running):
            if row.call_key in states:
                states[row.call_key].session = SESSIONS.read(row.doc)
        for name, kind in OF_CALL.items():
            unfinished = select(kind.table.c.call_key, kind.table.c.doc).where(*_unfinished(kind, keys))
            for row in await connection.execute(unfinished):
                value = kind.read(row.doc)
                if row.call_key in states:
                    getattr(states[row.call_key], name)[_key(kind, value)] = value
        for row in await connection.execute(_latest_rings(keys)):
            ring = RINGS.read(row.doc)
            if row.call_key in states:
                states[row.call_key].rings.setdefault(ring.id, ring)
        for state in states.values():
            _sort(state)
        return states

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
        self,
        connection: AsyncConnection,
        before: Loaded,
        after: CallState,
        due_at: datetime | None,
        realm: int | None = None,
    ) -> Loaded:
        """Write what differs. Raises `Stale` if the call has moved on; then nothing is written.

        realm: the revision at which the realm has to be too, if that matters.
        """
        revision = before.revision + 1
        await self._store_call(connection, before, after, due_at, realm)
        key = after.call.key
        if after.session is not None and after.session is not before.state.session:
            await save(connection, [after.session], call_key=key)
        for name, kind in OF_CALL.items():
            was, is_ = getattr(before.state, name), getattr(after, name)
            if not was and not is_:
                continue
            changed = [value for value_id, value in is_.items() if was.get(value_id) is not value]
            if changed:
                await save(connection, changed, call_key=key)
            for value_id in was.keys() - is_.keys():
                await _removal(kind.table, _key_column(kind)).run(connection, {"key_": key, "id_": value_id})
        return Loaded(without_finished(after), revision)

    async def _store_call(
        self, connection: AsyncConnection, before: Loaded, after: CallState, due_at: datetime | None, realm: int | None
    ) -> None:
        revision = before.revision
        row = _call_row(after, due_at, revision + 1)
        if revision == 0:
            try:
                await _INSERT.run(connection, row)
            except IntegrityError:
                raise Stale from None
            return
        was = _call_row(before.state, None, revision)
        names = _CHANGED if any(row[name] != was[name] for name in _SELDOM_CHANGED) else _OFTEN_CHANGED
        place = {"key_": after.call.key, "revision_": revision}
        if realm is not None:
            place["realm_"] = realm
        changes = {name: row[name] for name in names}
        if await _change(names, realm is not None).run(connection, {**changes, **place}) != 1:
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
        "node": session.node if session else None,
        "participant_count": session.participant_count if session else 0,
        "due_at": milliseconds(due_at),
        "revision": revision,
        "custom": call.custom,
        "doc": call,
    }


@cache
def _change(names: tuple[str, ...], in_realm: bool) -> Prepared:
    """Return the statement that changes columns of a call at a revision; `in_realm`: and at one of the realm."""
    conditions = [_CALLS.key == bindparam("key_"), _CALLS.revision == bindparam("revision_")]
    if in_realm:
        conditions.append(select(schema.realm.c.revision).scalar_subquery() == bindparam("realm_"))
    return Prepared(update(schema.calls).where(*conditions).values({name: bindparam(name) for name in names}))


def _unfinished(kind: Kind[Any], keys: Sequence[str]) -> list[Any]:
    columns = kind.table.c
    conditions = [columns.call_key.in_(keys)]
    if "open" in columns:
        conditions.append(columns.open.is_(True))
    if "present" in columns:
        conditions.append(columns.present.is_(True))
    return conditions


def _latest_rings(keys: Sequence[str]) -> Any:
    """Return the query for the last ring of each call: it is shown, and tells what a new session belongs to."""
    rings, others = schema.rings, schema.rings.alias()
    latest = (
        select(others.c.id)
        .where(others.c.call_key == _CALLS.key)
        .order_by(others.c.created_at.desc(), others.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    found = schema.calls.join(rings, rings.c.id == latest)
    return select(rings.c.call_key, rings.c.doc).select_from(found).where(_CALLS.key.in_(keys))


def _key_column(kind: Kind[Any]) -> str:
    return "user_id" if "user_id" in kind.key else "id"


@cache
def _removal(table: Table, column: str) -> Prepared:
    return Prepared(delete(table).where(table.c.call_key == bindparam("key_"), table.c[column] == bindparam("id_")))


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
    for name in STATE_FIELDS:
        was, is_ = getattr(before, name), getattr(after, name)
        if isinstance(was, dict):
            if was.keys() != is_.keys() or any(is_[key] is not value for key, value in was.items()):
                return True
        elif was is not is_:
            return True
    return False


async def due_calls(connection: AsyncConnection, now: datetime, limit: int) -> list[tuple[str, str]]:
    """Return the calls whose timers are due, longest overdue first."""
    rows = await _DUE.rows(connection, {"now_": milliseconds(now), "limit_": limit})
    return [(row.type, row.id) for row in rows]


async def next_due(connection: AsyncConnection) -> int | None:
    rows = await _NEXT_DUE.rows(connection)
    return rows[0].due_at if rows else None


async def running_calls(
    connection: AsyncConnection, *, type_: str | None = None, user_id: str | None = None
) -> list[Any]:
    """Return type, id, session and node of the calls with a running session, of one type or with one user in it."""
    table, people = schema.calls, schema.participants
    query = select(table.c.type, table.c.id, table.c.session_id, table.c.node).where(table.c.session_id.is_not(None))
    if type_ is not None:
        query = query.where(table.c.type == type_)
    if user_id is not None:
        inside = select(people.c.call_key).where(people.c.user_id == user_id, people.c.present.is_(True))
        query = query.where(table.c.key.in_(inside))
    return list(await connection.execute(query))


async def call_of_session(connection: AsyncConnection, session_id: str) -> tuple[str, str] | None:
    rows = await _OF_SESSION.rows(connection, {"session_id_": session_id})
    return (rows[0].type, rows[0].id) if rows else None


async def rings_of(connection: AsyncConnection, user_id: str) -> list[Rung]:
    """Return the rings in which a user is being rung: callees are members."""
    rows = await _RINGS_OF.rows(connection, {"user_id_": user_id})
    found = [Rung(row.type, row.id, RINGS.read(row.doc)) for row in rows]
    return [one for one in found if one.ring.rings(user_id)]


async def online_users(connection: AsyncConnection, user_ids: list[str], now: datetime) -> frozenset[str]:
    """Return who of them has an event socket at some process."""
    table = schema.presence
    found: set[str] = set()
    for start in range(0, len(user_ids), 500):
        mine = table.c.user_id.in_(user_ids[start : start + 500])
        rows = await connection.execute(select(table.c.user_id).where(mine, table.c.until > milliseconds(now)))
        found.update(row.user_id for row in rows)
    return frozenset(found)


async def busy_users(connection: AsyncConnection, user_ids: list[str], except_key: str) -> frozenset[str]:
    """Return who of them is in a session of another call."""
    table = schema.participants
    rows = await connection.execute(
        select(table.c.user_id).where(
            table.c.user_id.in_(user_ids), table.c.present.is_(True), table.c.call_key != except_key
        )
    )
    return frozenset(row.user_id for row in rows)

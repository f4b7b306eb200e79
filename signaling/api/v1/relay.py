"""Brings what other processes on the same database did to this one's event sockets.

Events are in the database before anybody is told, so each process follows that table and tells its own sockets what
it did not write itself. A call's events stay in order: before this process tells of a change of its own, it tells
what others wrote of the call before (`missed`). What concerns all calls moves the realm's revision; then sockets
are looked at anew. Not here: who hears what (`events/channel.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from signaling.api.v1.orders import WAIT_SECONDS
from signaling.calls.model import Event
from signaling.calls.problems import Problem
from signaling.calls.state import Turn
from signaling.store import schema
from signaling.store.database import Database, outlived
from signaling.store.prepared import Prepared

if TYPE_CHECKING:
    from signaling.api.v1.service import CallsService


TOLD_MAX = 50_000
"""Events remembered as told; a second's worth under heavy load is a tenth of it."""
GAP_LOOKS_MAX = 600
"""For how many looks a missing number may belong to a transaction that is still open; a minute at 10 a second."""
GAPS_MAX = 10_000
AT_ONCE = 1_000

_EVENTS = schema.events.c
_HEAD = Prepared(select(func.max(_EVENTS.number).label("number")))
_SINCE = Prepared(
    select(_EVENTS.number, _EVENTS.id, _EVENTS.cid)
    .where(_EVENTS.number > bindparam("after"))
    .order_by(_EVENTS.number)
    .limit(AT_ONCE)
)
_OF_CALL = Prepared(
    select(_EVENTS.id, _EVENTS.doc)
    .where(_EVENTS.cid == bindparam("cid_"), _EVENTS.number > bindparam("after"))
    .order_by(_EVENTS.number)
)


class Told:
    """Events that this process's sockets were told, or are about to be."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, ids: Iterable[str]) -> None:
        self._ids.update(dict.fromkeys(ids))
        while len(self._ids) > TOLD_MAX:
            self._ids.popitem(last=False)

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._ids


class Relay:
    """Follows the events' numbers. Databases give numbers before they commit, so a number may turn up late:
    those that are missing are asked for again until nobody can hold them any more.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._head: int | None = None
        self._gaps: dict[int, int] = {}
        self._untold: dict[str, list[Event]] = {}
        self.told = Told()

    async def start(self) -> None:
        """Begin behind what there is."""
        async with self._database.read() as connection:
            self._head = (await _HEAD.rows(connection))[0].number or 0

    async def look(self, *, heard: bool) -> list[str]:
        """Find what other processes committed since the last look; return the calls of which something is untold.

        heard: whether anybody is there to be told; if not, nothing is read.
        """
        if self._head is None:
            await self.start()
        async with self._database.read() as connection:
            late, rows = await self._late(connection), await _SINCE.rows(connection, {"after": self._head})
            found = [row.id for row in (*late, *rows) if row.cid is not None and row.id not in self.told]
            events: list[Event] = []
            if found and heard:
                query = select(_EVENTS.doc).where(_EVENTS.id.in_(found)).order_by(_EVENTS.number)
                events = [msgspec.convert(row.doc, Event) for row in await connection.execute(query)]
        # A database that went away in between loses nothing.
        came = {row.number for row in late}
        self._gaps = {n: looks + 1 for n, looks in self._gaps.items() if n not in came and looks < GAP_LOOKS_MAX}
        self._advance([row.number for row in rows])
        for event in events:
            self._untold.setdefault(event.cid or "", []).append(event)
        return list(self._untold)

    async def _late(self, connection: AsyncConnection) -> list[Any]:
        if not self._gaps:
            return []
        query = select(_EVENTS.number, _EVENTS.id, _EVENTS.cid).where(_EVENTS.number.in_(self._gaps))
        return list(await connection.execute(query.order_by(_EVENTS.number)))

    def _advance(self, numbers: Sequence[int]) -> None:
        if not numbers:
            return
        begin = (self._head or 0) + 1
        if numbers[-1] - begin < GAPS_MAX:
            self._gaps.update(dict.fromkeys(set(range(begin, numbers[-1])) - set(numbers), 0))
        self._head = numbers[-1]

    async def missed(self, cid: str, before: int) -> list[Event]:
        """Return what others wrote of a call before the number `before` and is untold; it counts as told."""
        after = min(self._gaps, default=(self._head or 0) + 1) - 1
        async with self._database.read() as connection:
            rows = await _OF_CALL.rows(connection, {"cid_": cid, "after": after})
        unseen = [msgspec.convert(row.doc, Event) for row in rows]
        return [*self.take(cid, before), *self._news(event for event in unseen if _is_before(event, before))]

    def take(self, cid: str, before: int | None = None) -> list[Event]:
        """Return what was found of a call and is untold, up to the number `before`; it counts as told."""
        found = self._untold.pop(cid, [])
        later = [event for event in found if before is not None and not _is_before(event, before)]
        if later:
            self._untold[cid] = later
        return self._news(event for event in found if event not in later)

    def rooms_of(self, cid: str) -> frozenset[str]:
        """Return the sessions in which what is untold of a call happened."""
        return frozenset(one.session_id for one in self._untold.get(cid, ()) if one.session_id is not None)

    def _news(self, events: Iterable[Event]) -> list[Event]:
        news = [event for event in events if event.id not in self.told]
        self.told.add(event.id for event in news)
        return news


def _is_before(event: Event, number: int) -> bool:
    return event.seq is None or event.seq < number


class Follower:
    """Tells this process's sockets what others did."""

    def __init__(self, service: CallsService) -> None:
        self._service = service
        self._realm: Any = None
        self._revision = -1
        self._put_off_since: dict[str, float] = {}

    async def look(self) -> None:
        """Tell what happened since the last time; what of it our media side has to do comes first."""
        service = self._service
        heard = bool(service.channel.online() or service.channel.watched())
        untold = await service.relay.look(heard=heard)
        # What was committed with these events is there by now.
        await service.orders.do_ours()
        async with service.database.read() as connection:
            await service.directory.refresh(connection)
            if heard and service.directory.revision != self._revision:
                await self._realm_changed(connection)
        put_off = await self._put_off(untold) if untold else ()
        for cid in untold:
            if cid not in put_off:
                await self._tell(cid)

    async def _put_off(self, untold: Sequence[str]) -> set[str]:
        """Return the calls of which is told in a later look: their node is yet to do what follows from it.

        It is not waited for here, where all calls would wait; and not for long.
        """
        rooms = {cid: self._service.relay.rooms_of(cid) for cid in untold}
        still_open = await self._service.orders.open_in(frozenset().union(*rooms.values()))
        now = time.monotonic()
        self._put_off_since = {
            cid: self._put_off_since.get(cid, now) for cid in untold if not still_open.isdisjoint(rooms[cid])
        }
        return {cid for cid, since in self._put_off_since.items() if now - since < WAIT_SECONDS}

    async def _tell(self, cid: str) -> None:
        def publish(turn: Turn) -> None:
            # Taken no sooner: an operation of this process may go first, and tells what comes before its own.
            self._service.channel.publish(turn, self._service.relay.take(cid))

        type_, _, call_id = cid.partition(":")
        try:
            await self._service.look_in_turn(type_, call_id, publish)
        except Problem:
            self._service.relay.take(cid)  # wiped meanwhile: there is nobody to tell

    async def _realm_changed(self, connection: AsyncConnection) -> None:
        """Look at all sockets anew if what they may hear can have changed."""
        service, directory = self._service, self._service.directory
        self._revision = directory.revision
        online = service.channel.online()
        users = await directory.users(connection, online)
        standing = {user_id: (u.role, u.teams, u.deleted_at is None) for user_id, u in users.items()}
        realm = (directory.app, directory.types, directory.bans, standing)
        if realm == self._realm:
            return
        self._realm = realm
        for user_id, user in users.items():
            if user_id in online and user.deleted_at is not None:
                service.channel.drop_user(user_id)
            service.channel.change_user(user)
        await service.recheck_watchers()


async def loop(service: CallsService) -> None:
    """Follow the database until cancelled."""
    follower = Follower(service)
    while True:
        # What happened while the database was away is found when it is back.
        with outlived("relay_failed"):
            await follower.look()
        await asyncio.sleep(service.settings.event_poll_ms / 1000)

"""What the media side asks and reports (`MediaFeed`), and finding out what it could not tell us.

After a start, a lost room or a database that was away, what our state says is compared with who is really connected:
who is not gets the call's grace to come back. Not here: what follows from any of it (`operations/joining.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from signaling.api.v1.service import SYSTEM, CallsService, Wanted, permission_of
from signaling.calls.media import Allow, NoMediaNode, Refuse, Verdict
from signaling.calls.model import Participant
from signaling.calls.operations import joining
from signaling.calls.problems import Problem
from signaling.calls.state import CreateRoom, Turn
from signaling.store.call_repository import call_of_session, running_calls
from signaling.store.database import DatabaseAway

log = structlog.get_logger(__name__)

KNOWN_SESSIONS = 10_000
"""Sessions whose call is remembered, so that who reconnects gets in while the database is away."""

Address = tuple[str, str]


class CallsFeed:
    """The `MediaFeed` of the calls system."""

    def __init__(self, service: CallsService) -> None:
        self._service = service
        self._known: OrderedDict[str, Address] = OrderedDict()
        self._unsure: set[Address] = set()

    async def admit(self, room: str, identity: str, address: str | None = None) -> Verdict:
        sources = self._service.addresses.sources(address)
        try:
            where = await self._call_of(room)
            if where is None:
                return Refuse("not_found", "This session has ended.")
            answer = await self._service.look(
                SYSTEM, *where, lambda turn: joining.admit(turn, identity, sources), Wanted(reach=False)
            )
        except Problem as problem:
            return Refuse(problem.code, problem.message)
        except DatabaseAway:
            log.warning("admitting_from_memory")
            return self._from_memory(room, identity, sources)
        if isinstance(answer, Participant) and answer.app_role != "anonymous":
            self._service.addresses.note(answer.user_id, sources)
        return _verdict(answer)

    def _from_memory(self, room: str, identity: str, sources: Sequence[str]) -> Verdict:
        """Decide by what was last known: a running call must not lose people because the database is away."""
        turn = self._service.remembered(*self._known[room]) if room in self._known else None
        if turn is None:
            return Refuse("unavailable", "The server cannot check this now; try again.")
        return _verdict(joining.admit(turn, identity, sources))

    async def participant_joined(self, room: str, identity: str) -> None:
        await self._report(room, lambda turn: joining.connected(turn, identity))

    async def participant_left(self, room: str, identity: str, *, clean: bool) -> None:
        await self._report(room, lambda turn: joining.disconnected(turn, identity, clean=clean))

    async def track_changed(self, room: str, identity: str, source: str, state: str) -> None:
        """Nothing of a call depends on single tracks; the media side's own events tell clients of them."""

    async def room_lost(self, room: str) -> None:
        where = await self._call_of(room)
        if where is not None:
            await self._compare(where)

    async def reconcile(self) -> None:
        """Compare every running session with the media side, and tell it what should hold."""
        async with self._service.database.read() as connection:
            running = [(row[0], row[1]) for row in await running_calls(connection)]
        for where in running:
            await self._compare(where)

    async def catch_up(self) -> None:
        """Compare those calls of which a report could not be written down."""
        for where in list(self._unsure):
            await self._compare(where)
            self._unsure.discard(where)

    async def _report(self, room: str, operation: Callable[[Turn], None]) -> None:
        try:
            where = await self._call_of(room)
            if where is not None:
                await self._service.operate(SYSTEM, *where, operation, Wanted(reach=False))
        except Problem:
            return  # deleted meanwhile
        except DatabaseAway:
            log.warning("report_put_off")
            if room in self._known:
                self._unsure.add(self._known[room])

    async def _call_of(self, session_id: str) -> Address | None:
        async with self._service.database.read() as connection:
            where = await call_of_session(connection, session_id)
        if where is None:
            self._known.pop(session_id, None)
            return None
        self._known[session_id] = where
        self._known.move_to_end(session_id)
        while len(self._known) > KNOWN_SESSIONS:
            self._known.popitem(last=False)
        return where

    async def _compare(self, where: Address) -> None:
        """Bring our state and the media side's together, whichever missed something."""
        service, wanted = self._service, Wanted(reach=False)
        try:
            room = await service.look(SYSTEM, *where, joining.room_of, wanted)
            if room is None:
                return
            connected = await self._connected(room)
            operation = partial(joining.take_stock, session_id=room.room, connected=connected)
            await service.operate(SYSTEM, *where, operation, wanted)
        except Problem:
            return  # deleted meanwhile

    async def _connected(self, room: CreateRoom) -> Sequence[str]:
        """Return who is connected; a room that is not there any more is made anew."""
        found = await self._service.media.identities(room.room)
        if found is not None:
            return found
        try:
            await self._service.create_room(room)
        except NoMediaNode:
            log.warning("room_not_made_anew", room=room.room)
        return ()


def _verdict(answer: Participant | Problem) -> Verdict:
    if isinstance(answer, Participant):
        return Allow(permission_of(answer))
    return Refuse(answer.code, answer.message)

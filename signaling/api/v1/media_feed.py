"""What the media side asks and reports (`MediaFeed`), and finding out what it could not tell us.

After a start, a lost room or a database that was away, what our state says is compared with who is really connected:
who is not gets the call's grace to come back. Not here: what follows from any of it (`operations/joining.py`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from signaling.api.v1.nodes import LOOK_SECONDS
from signaling.api.v1.service import SYSTEM, CallsService, Wanted, permission_of
from signaling.calls.media import Allow, NoMediaNode, Refuse, Verdict
from signaling.calls.model import Participant
from signaling.calls.operations import joining
from signaling.calls.problems import Problem
from signaling.calls.state import CreateRoom, Turn
from signaling.errors import Refusal
from signaling.store.call_repository import call_of_session, running_calls
from signaling.store.database import DatabaseAway, outlived

log = structlog.get_logger(__name__)

KNOWN_SESSIONS = 10_000
"""Sessions whose call is remembered, so that who reconnects gets in while the database is away."""

Address = tuple[str, str]


class CallsFeed:
    """The `MediaFeed` of the calls system."""

    def __init__(self, service: CallsService) -> None:
        self._service = service
        self._known: OrderedDict[str, Address] = OrderedDict()
        self._unsure: set[str] = set()
        """Sessions that may be otherwise than they are kept, for a report of them was not written down."""

    async def admit(self, room: str, identity: str, address: str | None = None) -> Verdict:
        sources = self._service.addresses.sources(address)
        try:
            self._service.check_started()
            where = await self._call_of(room)
            if where is None:
                return Refuse("not_found", "This session has ended.")
            answer = await self._answer(where, room, identity, sources)
        except Problem as problem:
            return Refuse(problem.code, problem.message)
        except NoMediaNode as refused:
            return Refuse("no_media_node", str(refused))
        except DatabaseAway:
            log.warning("admitting_from_memory")
            return self._from_memory(room, identity, sources)
        if isinstance(answer, Participant) and answer.app_role != "anonymous":
            self._service.addresses.note(answer.user_id, sources)
        return _verdict(answer)

    async def _answer(self, where: Address, room: str, identity: str, sources: Sequence[str]) -> Participant | Problem:
        service = self._service

        def view(turn: Turn) -> tuple[Participant | Problem, CreateRoom | None]:
            return joining.admit(turn, identity, sources), joining.room_of(turn)

        answer, placed = await service.look(SYSTEM, *where, view, Wanted(reach=False))
        if placed is None or isinstance(answer, Problem):
            return answer
        if placed.node not in ("", service.nodes.own):
            return Problem("not_found", "Another node has this session; join again.")
        if await service.media.identities(room) is None:
            # Another process placed it here, or it was lost: made while no operation ends the session.
            answer, placed = await service.look_in_turn(*where, view)
            if placed is not None and placed.room == room and not isinstance(answer, Problem):
                await service.create_room(placed)
        return answer

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
        try:
            await self._settle(room)
        except DatabaseAway as away:
            self._put_off(room, away)

    def report_lost(self, room: str) -> None:
        self._unsure.add(room)

    async def reconcile(self) -> None:
        """Compare the sessions of this node, and those of no living one, with the media side; tell it what holds.

        Rooms here that are no session's any more are closed.
        """
        service = self._service
        for row in await self._running():
            if row.node == service.nodes.own or not service.nodes.lives(row.node or ""):
                await self._compare((row.type, row.id), row.session_id)
        ours = {row.session_id for row in await self._running() if row.node == service.nodes.own}
        for room in await service.media.managed_rooms():
            if room not in ours:
                await service.media.close_room(room, "shutdown")

    async def look_after_dead(self) -> None:
        """Give the people of dead nodes the grace to come back; whoever joins again finds the session elsewhere."""
        service = self._service
        dead = set()
        for row in await self._running():
            if row.node and not service.nodes.lives(row.node):
                dead.add(row.node)
                await self._compare((row.type, row.id), row.session_id)
        await service.orders.forget(dead)
        await service.nodes.forget_dead()

    async def follow_nodes(self) -> None:
        """Keep up with which nodes are there, until cancelled."""
        service, known = self._service, frozenset[str]()
        while True:
            with outlived("nodes_failed"):
                if await service.nodes.look():
                    await self.reconcile()
                living = frozenset(await service.nodes.living())
                if known - living:
                    await self.look_after_dead()
                known = living
            await asyncio.sleep(LOOK_SECONDS)

    async def _running(self) -> list[Any]:
        async with self._service.database.read() as connection:
            return await running_calls(connection)

    async def catch_up(self) -> None:
        """Compare those sessions of which a report could not be written down."""
        for room in list(self._unsure):
            await self._settle(room)

    async def _settle(self, room: str) -> None:
        where = await self._call_of(room)
        if where is None:
            self._unsure.discard(room)
        else:
            await self._compare(where, room)

    async def _report(self, room: str, operation: Callable[[Turn], None]) -> None:
        def in_session(turn: Turn) -> None:
            session = turn.state.running
            if session is not None and session.id == room:
                operation(turn)

        try:
            # A session is never another call's; whether it still runs is seen with the call.
            where = self._known.get(room) or await self._call_of(room)
            if where is not None:
                await self._service.operate(SYSTEM, *where, in_session, Wanted(reach=False, from_memory=True))
        except Problem as problem:
            if problem.code == "unavailable":
                self._put_off(room, problem)  # else it was deleted meanwhile
        except DatabaseAway as away:
            self._put_off(room, away)

    def _put_off(self, room: str, reason: Refusal) -> None:
        log.warning("report_put_off", room=room, reason=reason.message)
        self._unsure.add(room)

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

    async def _compare(self, where: Address, session_id: str) -> None:
        """Bring our state and the media side's together, whichever missed something."""
        service, wanted = self._service, Wanted(reach=False)
        # Before anything is read: what is lost from now on may be missed by it.
        self._unsure.discard(session_id)
        try:
            room = await service.look(SYSTEM, *where, joining.room_of, wanted)
            if room is None:
                return
            if not room.node and await service.media.identities(room.room) is not None:
                room = replace(room, node=service.nodes.own)
            if room.node == service.nodes.own:
                connected = await self._connected(room)
            elif service.nodes.lives(room.node):
                return  # the process that has it looks after it
            else:
                connected = ()
            await service.operate(SYSTEM, *where, partial(joining.take_stock, room=room, connected=connected), wanted)
        except Problem as problem:
            if problem.code == "unavailable":
                self._unsure.add(session_id)  # else it was deleted meanwhile
        except DatabaseAway:
            self._unsure.add(session_id)
            raise

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

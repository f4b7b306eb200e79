"""`GET /v1/events`: frames of the event channel. Frames without a dot in `type` are control, the others events.

The token comes in the first frame within 5 s, or as the subprotocol `callyard.bearer, <token>`; never in the URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.websockets import WebSocket, WebSocketDisconnect

from signaling.api.v1.call_routes import call_reply
from signaling.api.v1.rate_limits import RateLimiter
from signaling.api.v1.replies import as_problem, problem_document
from signaling.api.v1.service import CallsService, Wanted
from signaling.calls import views
from signaling.calls.identifiers import DEVICE_ID
from signaling.calls.model import Event
from signaling.calls.principal import Principal
from signaling.calls.problems import Problem, unprocessable
from signaling.calls.rights import require
from signaling.calls.state import Turn
from signaling.errors import Refusal
from signaling.events.channel import Frame, Socket, may_watch, remind, replay
from signaling.http_server import PINGS, SEND_AT_ONCE
from signaling.store.call_repository import Rung, rings_of
from signaling.store.kinds import milliseconds
from signaling.store.schema import events as events_table

log = structlog.get_logger(__name__)

AUTH_TIMEOUT_SECONDS = 5.0
SUBPROTOCOL = "callyard.bearer"
FIRST_FRAME_SECONDS = 0.5
"""How long events wait for a client that may be about to resume."""
FRAME_MAX_BYTES = 65_536
CIDS_MAX = 100
CLOSE_EXPIRED, CLOSE_FORBIDDEN, CLOSE_IDLE, CLOSE_TOO_FAST, CLOSE_FAULT = 4401, 4403, 4408, 4429, 4500
FRAMES_PER_SECOND_MAX = 50
REFUSALS_MAX = 20
"""How many frames in a row may ask for calls too soon; the next one closes the socket."""
READ_PER_CALL = 16
"""So many events or participants that are read cost about as much as a call that is resumed without: half a ms."""
MEMBERS_SHOWN = 25
RESUME_ATTEMPTS_MAX = 5
"""How often the store is read again for a call that goes on meanwhile; after that the client gets a snapshot."""


class EventSocket:
    """ASGI-side of one connection: a reader and a writer."""

    def __init__(self, service: CallsService, limiter: RateLimiter) -> None:
        self._service = service
        self._limiter = limiter
        self._expiring: asyncio.Task[None] | None = None

    async def __call__(self, websocket: WebSocket) -> None:
        offered = websocket.scope.get("subprotocols", [])
        token = offered[1] if len(offered) == 2 and offered[0] == SUBPROTOCOL else None
        await websocket.accept(subprotocol=SUBPROTOCOL if token else None)
        try:
            socket = await self._authenticate(websocket, token)
        except Refusal as refusal:
            with contextlib.suppress(RuntimeError):
                await websocket.send_text(_error(refusal, self._service.new_id()))
                await websocket.close(_close_code(refusal))
            return
        except WebSocketDisconnect:
            return
        # One who comes back says so in his first frame: what he missed is sent before what happens now.
        socket.hold()
        socket.rings_owed = True
        self._service.channel.add(socket)
        if self._expiring is None:
            self._expiring = asyncio.create_task(self._close_expired())
        try:
            await self._run(websocket, socket)
        finally:
            self._service.channel.remove(socket)

    async def _authenticate(self, websocket: WebSocket, token: str | None) -> Socket:
        device_id = None
        if token is None:
            try:
                async with asyncio.timeout(AUTH_TIMEOUT_SECONDS):
                    frame = _parse(await websocket.receive_text())
            except (TimeoutError, KeyError):
                raise Problem("unauthenticated", "No token arrived.") from None
            if frame.get("type") != "auth" or not isinstance(frame.get("token"), str):
                raise Problem("unauthenticated", "The first frame carries the token.")
            token, device_id = frame["token"], frame.get("device_id")
            if device_id is not None and not (isinstance(device_id, str) and DEVICE_ID.match(device_id)):
                raise Problem("unauthenticated", "device_id is not a device id.")
        address = websocket.client.host if websocket.client else None
        principal = await self._service.authenticate(token, None, address)
        self._service.check_banned(principal)
        most = self._service.settings.sockets_per_user
        if principal.user_id is not None and len(self._service.channel.of_user(principal.user_id)) >= most:
            raise Problem("rate_limited", f"A user has at most {most} event sockets at a time.")
        return self.opened(principal, device_id)

    def opened(self, principal: Principal, device_id: str | None) -> Socket:
        """Return the socket of a client who is authenticated, with its greeting in the queue."""
        queue_max, user = self._service.settings.socket_queue_max, self._service.directory.known_user(principal.user_id)
        socket = Socket(self._service.new_id(), principal, principal.user_id, device_id, queue_max)
        socket.user = user
        socket.control(self._hello(socket))
        return socket

    def _hello(self, socket: Socket) -> dict[str, Any]:
        user = self._service.directory.known_user(socket.user_id)
        return {
            "type": "hello",
            "connection_id": socket.connection_id,
            "user": views.user(user) if user else None,
            "heartbeat_ms": self._service.settings.heartbeat_ms,
            "resume_token": socket.connection_id,
        }

    async def _run(self, websocket: WebSocket, socket: Socket) -> None:
        reader = asyncio.create_task(self._read(websocket, socket))
        writer = asyncio.create_task(self._write(websocket, socket))
        done, pending = await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        code = socket.close_code
        for task in done:
            error = task.exception()
            if error is not None and not isinstance(error, WebSocketDisconnect):
                log.error("event_socket_failed", error=repr(error))
                code = CLOSE_FAULT
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # whoever has gone needs no goodbye
            await websocket.close(code or 1000)

    async def _write(self, websocket: WebSocket, socket: Socket) -> None:
        socket.transmit = websocket.scope["extensions"].get(SEND_AT_ONCE)
        while True:
            while socket.outgoing:
                _, frame = socket.outgoing.popleft()
                socket.sending = True
                await websocket.send_text(frame.text.decode())
                socket.sending = False
            if socket.close_code is not None:
                return
            socket.wake.clear()
            await socket.wake.wait()

    async def _close_expired(self) -> None:
        """Close sockets when their tokens expire, as long as there are any: one clock for all of them."""
        wait: float | None = 0.0
        while wait is not None:
            await asyncio.sleep(wait)
            wait = self._service.channel.close_expired(self._service.now())
        self._expiring = None

    async def _read(self, websocket: WebSocket, socket: Socket) -> None:
        patience = 2 * self._service.settings.heartbeat_ms / 1000
        window, frames, pings = self._service.now(), 0, 0
        is_first = True
        while True:
            try:
                async with asyncio.timeout(FIRST_FRAME_SECONDS if is_first else patience):
                    text = await websocket.receive_text()
            except TimeoutError:
                if is_first:
                    is_first = False
                    await self._catch_up(socket)
                    continue
                seen = getattr(websocket.state, PINGS, 0)
                if seen == pings:
                    socket.close(CLOSE_IDLE)
                    return
                pings = seen
                continue
            except KeyError:
                binary = Problem("invalid_request", "Frames are text.")
                socket.send("control", Frame(_error(binary, self._service.new_id()).encode()))
                continue
            is_first = False
            now = self._service.now()
            if now - window > timedelta(seconds=1):
                window, frames = now, 0
            frames += 1
            if frames > FRAMES_PER_SECOND_MAX or len(text) > FRAME_MAX_BYTES:
                socket.close(CLOSE_TOO_FAST)
                return
            await self.frame(socket, text)
            await _let_others()

    async def frame(self, socket: Socket, text: str) -> None:
        """Do what a frame of the client asks."""
        try:
            frame = _parse(text)
            handlers = {
                "auth": self._renew,
                "subscribe": self._subscribe,
                "unsubscribe": self._unsubscribe,
                "resume": self._resume,
                "ping": self._ping,
            }
            kind = str(frame.get("type"))
            handler = handlers.get(kind)
            if handler is None:
                raise unprocessable("/type", "There is no such frame.")
            if kind != "resume":
                await self._catch_up(socket)
            await handler(socket, frame)
        except Refusal as refusal:
            socket.send("control", Frame(_error(refusal, self._service.new_id()).encode()))
        finally:
            socket.let_through()

    async def _catch_up(self, socket: Socket) -> None:
        """Send what was held, and the rings that go on since before the socket came, unless a resume has sent them."""
        if socket.rings_owed and socket.user_id is not None:
            try:
                await self._ring(socket, socket.user_id)
                socket.rings_owed = False
            except Refusal as refusal:  # they stay owed, and the next frame is the time to try again
                log.warning("rings_not_told", error=repr(refusal))
        socket.let_through()

    async def _ring(self, socket: Socket, user_id: str) -> None:
        async with self._service.database.read() as connection:
            found = [(one, await _event_of(connection, one)) for one in await rings_of(connection, user_id)]
        for (type_, call_id, ring), event in found:
            if event is None:
                continue
            await _let_others()
            view = partial(_remind, socket=socket, user_id=user_id, ring_id=ring.id, event=event)
            try:
                await self._service.operate(socket.principal, type_, call_id, view)
            except Problem as problem:
                if problem.status >= 500:
                    raise

    async def _renew(self, socket: Socket, frame: dict[str, Any]) -> None:
        token = frame.get("token")
        if not isinstance(token, str):
            raise unprocessable("/token", "The frame carries a token.")
        try:
            principal = await self._service.authenticate(token, None)
        except Problem:
            socket.close(CLOSE_EXPIRED)
            return
        if principal.user_id != socket.user_id or principal.kind != socket.principal.kind:
            socket.close(CLOSE_FORBIDDEN)
            return
        # He is where he was when he connected.
        socket.principal = replace(principal, sources=socket.principal.sources)
        socket.wake.set()
        socket.control(self._hello(socket))

    async def _subscribe(self, socket: Socket, frame: dict[str, Any]) -> None:
        accepted, denied, seqs = [], [], {}
        cids = _cids(frame)
        self._count(socket, len(cids))
        for cid in cids:
            await _let_others()
            try:
                seqs[cid] = await self._watch(socket, cid)
                accepted.append(cid)
            except Problem as problem:
                if problem.status >= 500:
                    raise
                denied.append({"cid": cid, "code": str(problem.code)})
        socket.control({"type": "subscribed", "cids": accepted, "denied": denied, "seqs": seqs})

    def _count(self, socket: Socket, calls: int) -> None:
        """Count calls that a frame asks for; raise if that is too soon, and close who does it again and again."""
        try:
            self._limiter.take_calls(socket.principal, calls)
        except Problem:
            socket.refusals += 1
            if socket.refusals > REFUSALS_MAX:
                socket.close(CLOSE_TOO_FAST)
            raise
        socket.refusals = 0

    async def _watch(self, socket: Socket, cid: str) -> int:
        type_, _, call_id = cid.partition(":")

        def view(turn: Turn) -> int:
            require(turn, "call.read")
            self._service.channel.watch(socket, turn)
            # What comes from here on follows this number.
            socket.sent[cid] = turn.call.seq
            return turn.call.seq

        # An operation, not a look: nothing is published between reading the number and watching.
        return (await self._service.operate(socket.principal, type_, call_id, view)).result

    async def _unsubscribe(self, socket: Socket, frame: dict[str, Any]) -> None:
        cids = _cids(frame)
        for cid in cids:
            self._service.channel.unwatch(socket, cid)
        socket.control({"type": "unsubscribed", "cids": cids, "reason": None})

    async def _resume(self, socket: Socket, frame: dict[str, Any]) -> None:
        last = frame.get("last")
        if not isinstance(last, dict) or len(last) > CIDS_MAX:
            raise unprocessable("/last", "last names calls and their last seq.")
        if any(not isinstance(seq, int) or isinstance(seq, bool) or seq < 0 for seq in last.values()):
            raise unprocessable("/last", "A seq is a number.")
        self._count(socket, len(last))
        socket.hold()
        resumed = []
        for cid, seq in last.items():
            await _let_others()
            if await self._resume_one(socket, cid, seq):
                resumed.append(cid)
        socket.control({"type": "resumed", "cids": resumed})
        await self._catch_up(socket)

    async def _resume_one(self, socket: Socket, cid: str, seq: int) -> bool:
        """Send what was missed of a call; tell whether that was possible."""
        service = self._service
        type_, _, call_id = cid.partition(":")
        missed: list[Event] | None = None
        attempt = read = 0

        def view(turn: Turn) -> bool | None:
            nonlocal read
            if not may_watch(turn, socket):
                raise Problem("not_found", "There is no such call.")
            known = [event for event in missed or [] if (event.seq or 0) <= turn.call.seq]
            if missed is not None and seq + len(known) < turn.call.seq and attempt < RESUME_ATTEMPTS_MAX:
                return None  # the call went on while the store was read
            service.channel.watch(socket, turn)
            if missed is None or len(known) != turn.call.seq - seq:
                socket.sent[cid] = turn.call.seq
                socket.control({"type": "resync", "cid": cid, "snapshot": _snapshot(turn, socket)})
                read += len(turn.state.participants)
                return False
            socket.sent[cid] = seq
            replay(turn, socket, known)
            return True

        try:
            wanted = Wanted(members_shown=MEMBERS_SHOWN)
            while True:
                attempt += 1
                missed, read = await self._missed(cid, seq)
                sent = (await service.operate(socket.principal, type_, call_id, view, wanted)).result
                self._limiter.take_calls(socket.principal, read // READ_PER_CALL, done=True)
                if sent is not None:
                    return sent
        except Problem as problem:
            if problem.status >= 500:
                raise
            socket.control({"type": "unsubscribed", "cids": [cid], "reason": "missing_capability"})
            return False

    async def _missed(self, cid: str, seq: int) -> tuple[list[Event] | None, int]:
        """Return the events after `seq`, None if they are too many or too old; and how many were read."""
        oldest = self._service.now() - timedelta(seconds=self._service.settings.event_retention_seconds)
        table, most = events_table, self._service.settings.socket_queue_max // 2
        async with self._service.database.read() as connection:
            rows = await connection.execute(
                select(table.c.doc, table.c.created_at)
                .where(table.c.cid == cid, table.c.seq > seq)
                .order_by(table.c.seq)
                .limit(most + 1)
            )
            found = list(rows)
        if len(found) > most or any(row.created_at < milliseconds(oldest) for row in found):
            return None, len(found)
        return [msgspec.convert(row.doc, Event) for row in found], len(found)

    async def _ping(self, socket: Socket, _frame: dict[str, Any]) -> None:
        socket.control({"type": "pong"})


async def _let_others() -> None:
    """Give the loop a turn: on SQLite nothing of an operation does, nor receiving what has come already."""
    await asyncio.sleep(0)


async def _event_of(connection: AsyncConnection, rung: Rung) -> Event | None:
    """Return the event that told of a ring, if it is kept."""
    table, ring = events_table, rung.ring
    rows = await connection.execute(
        select(table.c.doc).where(
            table.c.cid == f"{rung.type}:{rung.id}", table.c.created_at == milliseconds(ring.created_at)
        )
    )
    events = (msgspec.convert(doc, Event) for (doc,) in rows)
    return next((e for e in events if e.type == "call.ring" and e.data["ring"]["id"] == ring.id), None)


def _remind(turn: Turn, socket: Socket, user_id: str, ring_id: str, event: Event) -> None:
    ring = turn.state.rings.get(ring_id)
    if ring is not None and ring.rings(user_id) and may_watch(turn, socket):
        remind(turn, socket, event)


def _snapshot(turn: Turn, socket: Socket) -> dict[str, Any]:
    own_turn = Turn(socket.principal, turn.now, turn.new_id, turn.facts, turn.state)
    reply = call_reply(own_turn, MEMBERS_SHOWN, ring=turn.state.pending_ring, created=False)
    decider = "permission.grant" in reply["own_capabilities"]
    reply["participants"] = [
        views.participant(p, with_capabilities=decider or p.user_id == socket.user_id)
        for p in views.visible(turn.state.present(), socket.user_id, decider=decider)
    ]
    return reply


def _cids(frame: dict[str, Any]) -> list[str]:
    cids = frame.get("cids")
    if not isinstance(cids, list) or len(cids) > CIDS_MAX or not all(isinstance(cid, str) for cid in cids):
        raise unprocessable("/cids", f"cids is a list of at most {CIDS_MAX} calls.")
    return cids


def _parse(text: str) -> dict[str, Any]:
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        raise Problem("invalid_request", "The frame is not JSON.") from None
    if not isinstance(frame, dict):
        raise Problem("invalid_request", "The frame is not an object.")
    return frame


def _close_code(refusal: Refusal) -> int:
    """Return the code for who is not let in; a client takes 4401 for the end of his token and does not come back."""
    problem = as_problem(refusal)
    if problem.code == "banned":
        return CLOSE_FORBIDDEN
    if problem.code == "rate_limited":
        return CLOSE_TOO_FAST
    return CLOSE_FAULT if problem.status >= 500 else CLOSE_EXPIRED


def _error(refusal: Refusal, request_id: str) -> str:
    return json.dumps({"type": "error", "problem": problem_document(as_problem(refusal), request_id)})

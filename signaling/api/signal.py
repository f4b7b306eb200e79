"""The LiveKit signal connection: `WS /rtc`, `WS /rtc/v1`, and `GET …/validate` with the same checks.

Refusals come before the upgrade, as plain HTTP with a sentence; the upgrade waits until the first message is ready.
A client that reads slowly is cut off when too much waits for it, and may resume; so that nobody can make others slow,
one who makes them be told much is himself read slowly. Not here: what a message means.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog
from livekit.protocol import rtc
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from signaling.api.access_token import access_token
from signaling.errors import Refusal, Unauthenticated, status_of
from signaling.http_server import DEFLATES, SEND_AT_ONCE
from signaling.rooms.effects import SessionId
from signaling.rooms.grants import Grants
from signaling.rooms.presence import JoinParameters
from signaling.rooms.settings import RoomSettings
from signaling.runtime import Session, Telling
from signaling.wire.livekit import connecting, frames

log = structlog.get_logger(__name__)

_SIZE_OF_ONE = 4096
_DESCRIPTION_OF_ONE = 32 * 1024
"""Of descriptions, which have a section for all that one receives; only he is told of them."""
_DESCRIPTIONS = ("offer", "answer", "sync_state")
_SHARE_OF_ONE = 4
_TURN_SECONDS = 0.005
"""How long one client's messages are worked off before everybody else has a turn."""
_CLOSING_SECONDS = 3.0
_NORMAL = 1000
_UNREADABLE = 1007
_TOO_FAST = 1008
_TOO_SLOW = 1013
_REASON_MAX_BYTES = 123
"""RFC 6455 §5.5."""
_CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "Authorization"}


class Rooms(Protocol):
    """What is asked of `signaling.runtime.Rooms`."""

    async def admit(self, parameters: JoinParameters, address: str | None) -> JoinParameters: ...
    def connect(self, session: Session, parameters: JoinParameters) -> SessionId: ...
    def request(self, session: SessionId, request: rtc.SignalRequest) -> Telling: ...
    def disconnected(self, session: SessionId) -> None: ...


def signal_routes(
    rooms: Rooms,
    verify: Callable[[str], Grants],
    settings: RoomSettings,
    refused: Callable[[str], None],
) -> list[BaseRoute]:
    """Return the routes. `verify` raises `Unauthenticated`; `refused` is told the code of each refusal."""

    async def admitted(connection: HTTPConnection) -> JoinParameters:
        is_v1 = connection.url.path.startswith("/rtc/v1")
        grants = verify(_token(connection))
        parameters = connecting.parameters(
            connection.query_params, grants, is_v1=is_v1, unpacked_max_bytes=settings.join_request_max_bytes
        )
        return await rooms.admit(parameters, connection.client.host if connection.client else None)

    async def validate(request: Request) -> Response:
        try:
            await admitted(request)
        except Refusal as refusal:
            return PlainTextResponse(refusal.message, status_of(refusal).http, headers=_CORS)
        return PlainTextResponse("success", headers=_CORS)

    async def signal(websocket: WebSocket) -> None:
        connection = _Connection(websocket, settings)
        try:
            parameters = await admitted(websocket)
            session = rooms.connect(connection, parameters)
            connection.welcomed()
        except Refusal as refusal:
            refused(refusal.code)
            reply = PlainTextResponse(refusal.message, status_of(refusal).http, headers=_CORS)
            await websocket.send_denial_response(reply)
            return
        try:
            await websocket.accept()
            await connection.serve(lambda request: rooms.request(session, request), lambda: rooms.disconnected(session))
        finally:
            rooms.disconnected(session)

    return [
        Route("/rtc/validate", validate),
        Route("/rtc/v1/validate", validate),
        # Where Rust and Python SDKs of 2025 and before ask, having put the path on twice.
        Route("/rtc/rtc/validate", validate),
        WebSocketRoute("/rtc", signal),
        WebSocketRoute("/rtc/v1", signal),
    ]


def _token(connection: HTTPConnection) -> str:
    token = access_token(connection)
    if not token:
        raise Unauthenticated("no permissions to access the room: there is no access token")
    return token


class _Connection:
    """One WebSocket: a queue towards the client, and the rate at which it may speak."""

    def __init__(self, websocket: WebSocket, settings: RoomSettings) -> None:
        self._websocket = websocket
        self._settings = settings
        self._transmit: Callable[[bytes], bool] | None = websocket.scope["extensions"].get(SEND_AT_ONCE)
        self._deflates = bool(websocket.scope["extensions"].get(DEFLATES))
        self._queue: deque[frames.Frame] = deque()
        self._queued_bytes = 0
        self._queued_max_bytes: float = math.inf
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._close_code = _NORMAL
        self._close_reason = ""
        self._as_text = False
        self._tokens = float(settings.signal_messages_burst)
        self._refilled = asyncio.get_running_loop().time()
        self._told_bytes = self._told_messages = 0.0
        self._told_at = self._refilled
        self._held_seconds = 0.0

    def send(self, frame: frames.Frame) -> None:
        if self._ended.is_set():
            return
        self._queue.append(frame)
        self._queued_bytes += len(frame.binary)
        if self._queued_bytes > self._queued_max_bytes:
            self._queue.clear()
            self._end(_TOO_SLOW, "The client reads too slowly; it may come back and resume.")
        self._wake.set()

    def welcomed(self) -> None:
        """From now on the client may be too slow. What it is received with is as long as its room is large."""
        self._queued_max_bytes = self._queued_bytes + self._settings.signal_queue_max_bytes

    def close(self, reason: str) -> None:
        self._end(_NORMAL, reason)

    def _end(self, code: int, reason: str) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._close_code, self._close_reason = code, reason
        self._wake.set()

    async def serve(self, handle: Callable[[rtc.SignalRequest], Telling], gone: Callable[[], None]) -> None:
        """Read and write until either side ends it. `gone` is called as soon as the client is not served any more."""
        reading = asyncio.create_task(self._read(handle))
        writing = asyncio.create_task(self._write())
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait({reading, ended}, return_when=asyncio.FIRST_COMPLETED)
            gone()
            self.close("")
            # What was queued goes out first; one who does not read is not waited for.
            await asyncio.wait({writing}, timeout=_CLOSING_SECONDS)
            if reading.done():
                reading.result()
        finally:
            for task in (reading, writing, ended):
                task.cancel()
            await asyncio.gather(reading, writing, ended, return_exceptions=True)

    async def _write(self) -> None:
        """Send what is queued until it is closed or the client is gone."""
        try:
            while True:
                while self._queue:
                    if self._send_at_once():
                        continue
                    frame = self._queue.popleft()
                    self._queued_bytes -= len(frame.binary)
                    if self._as_text:
                        await self._websocket.send_text(frame.text)
                    else:
                        await self._websocket.send_bytes(frame.binary)
                if self._ended.is_set():
                    reason = self._close_reason.encode()[:_REASON_MAX_BYTES].decode(errors="ignore")
                    await self._websocket.close(self._close_code, reason)
                    return
                self._wake.clear()
                await self._wake.wait()
        except (WebSocketDisconnect, RuntimeError):
            # Gone while we wrote. Starlette says RuntimeError after a close.
            self._ended.set()

    def _send_at_once(self) -> bool:
        """Write all that waits, if the client reads what it is sent; tell whether that was done."""
        if self._as_text or self._transmit is None:
            return False
        written = [frame.deflated if self._deflates else frame.framed for frame in self._queue]
        if not self._transmit(b"".join(written)):
            return False
        self._queue.clear()
        self._queued_bytes = 0
        return True

    async def _read(self, handle: Callable[[rtc.SignalRequest], Telling]) -> None:
        """Take messages until the client is gone, misbehaves, or the connection is closed."""
        clock = asyncio.get_running_loop().time
        try:
            while True:
                frame = await self._websocket.receive()
                if frame["type"] == "websocket.disconnect":
                    return
                payload = frame.get("bytes")
                if payload is None:
                    payload = frame.get("text") or ""
                began = clock()
                request = frames.read(payload)
                is_description = request.WhichOneof("message") in _DESCRIPTIONS
                if not self._may_speak(len(payload) / (_DESCRIPTION_OF_ONE if is_description else _SIZE_OF_ONE)):
                    self._end(_TOO_FAST, "Too many signal messages.")
                    return
                self._as_text = isinstance(payload, str)
                telling = handle(request)
                self._held_seconds += clock() - began
                await self._let_others_read(telling)
        except Refusal as refusal:
            self._end(_UNREADABLE, refusal.message)
        except WebSocketDisconnect:
            return

    def _may_speak(self, size: float) -> bool:
        """Long messages count for several (`size`): what one says may have to be told to all."""
        now = asyncio.get_running_loop().time()
        refill = (now - self._refilled) * self._settings.signal_messages_per_second
        self._tokens = min(self._tokens + refill, self._settings.signal_messages_burst)
        self._tokens -= max(1, size)
        self._refilled = now
        return self._tokens >= 0

    async def _let_others_read(self, telling: Telling) -> None:
        """A few bytes may have all others told of everything there is of this client: it waits until they can have it.

        At once it may make as much be told as a quarter of what may wait for them; one message makes less than that.
        And however little each is told, to tell them all takes time that is everybody's.
        """
        settings = self._settings
        now = asyncio.get_running_loop().time()
        passed, self._told_at = now - self._told_at, now
        bytes_per_second = settings.signal_messages_per_second * _SIZE_OF_ONE
        self._told_bytes = max(self._told_bytes - passed * bytes_per_second, 0) + telling.most_bytes
        messages_per_second = settings.signal_deliveries_per_second
        self._told_messages = max(self._told_messages - passed * messages_per_second, 0) + telling.messages
        wait = max(
            (self._told_bytes - settings.signal_queue_max_bytes / _SHARE_OF_ONE) / bytes_per_second,
            (self._told_messages - settings.signal_deliveries_burst) / messages_per_second,
        )
        if wait > 0 or self._held_seconds >= _TURN_SECONDS:
            self._held_seconds = 0.0
            await asyncio.sleep(max(wait, 0))

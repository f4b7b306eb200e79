"""The HTTP and WebSocket listener: uvicorn with limits that hold against slow and oversize senders.

What uvicorn lacks and stands here: a time limit for the request head, request lines longer than 8 kB on WebSocket
upgrades, and signals left to `app.py`, which drains first. Not here: routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import h11
import uvicorn
import websockets.http11
from starlette.types import ASGIApp
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from sfu import open_files
from sfu.node import NodeError, prepare_run_directory, run_directory
from signaling import listener_keeper
from signaling.errors import SettingsError
from signaling.settings import HttpSettings, Settings
from signaling.websocket_deflate import DeflateFactory

_CLOSING_SECONDS = 15
"""How long a connection that has ended may take to close, a WebSocket's close frame of the client included."""
_GRACE_SECONDS = 3
"""How long responses in flight get once the listener closes; WebSockets have been told to leave before that."""

_OWN_PLACES = 64
"""Connections beyond the limit that are kept for this machine: a supervisor that is told 503 ends the server, and with
it all calls."""
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Access-Control-Allow-Origin: *\r\nContent-Length: 44\r\n\r\nThe server has as many connections as it may"
)

PINGS = "websocket_pings"
"""The name in a connection's state under which the client's WebSocket pings are counted."""
SEND_AT_ONCE = "callyard.send_at_once"
"""The name of the ASGI extension of WebSockets that takes a whole frame as it goes on the wire: see `_WebSocket`."""
DEFLATES = "callyard.deflates"
"""The name of the one that tells whether such a frame may be compressed (`signaling.wire.websocket`)."""


def listen(bind: str, port: int, backlog: int) -> socket.socket:
    """Open the listening socket. Raises `SettingsError` with a sentence when the address cannot be had."""
    host = bind.strip("[]")
    family, address = _resolve(bind, port)
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        hints = {
            "EADDRINUSE": "another program listens there; choose another with --port or CALLYARD_PORT",
            "EACCES": "ports below 1024 need a privilege; choose another with --port or CALLYARD_PORT",
            "EADDRNOTAVAIL": "this machine does not have that address; see --bind",
        }
        reason = hints.get(errno.errorcode.get(error.errno or 0, ""), error.strerror)
        raise SettingsError(f"Cannot listen on {host} port {port}: {reason}.") from None
    listener.setblocking(False)
    return listener


def open_listener(settings: Settings) -> tuple[socket.socket, listener_keeper.Keeper | None]:
    """Open the listening socket, or take over the one that a killed predecessor left; raises `SettingsError`."""
    directory = run_directory(settings.node)
    if not settings.port or directory is None:
        # Nobody could find it again.
        return listen(settings.bind, settings.port, settings.http.backlog), None
    try:
        prepare_run_directory(directory)
    except NodeError as error:
        raise SettingsError(f"No place for the workers' sockets: {error}; set CALLYARD_NODE_RUN_DIRECTORY.") from error
    inherited = listener_keeper.inherit(directory, _resolve(settings.bind, settings.port)[1][:2])
    if inherited is not None:
        return inherited
    listener = listen(settings.bind, settings.port, settings.http.backlog)
    return listener, listener_keeper.keep(directory, listener)


def _resolve(bind: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(bind.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SettingsError(f"The bind address `{bind}` cannot be resolved: {error.strerror}.") from None
    family, _, _, _, address = found[0]
    return family, address


class HttpServer(uvicorn.Server):
    """uvicorn that leaves SIGTERM and SIGINT to its owner; `stop` ends it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self, *, at_once: bool = False) -> None:
        self.force_exit = self.force_exit or at_once
        self.should_exit = True


def http_server(app: ASGIApp, settings: HttpSettings) -> HttpServer:
    """Return a server for `app`; `serve(sockets=[listen(…)])` runs it."""
    # Read at parse time by the handshake's parser, which knows no other way to be told.
    websockets.http11.MAX_LINE_LENGTH = settings.request_head_max_bytes
    places = open_files.for_connections(settings.connections_max + _OWN_PLACES, settings.files_reserved)

    class Protocol(_BoundedHead):
        head_timeout_seconds = settings.request_head_timeout_seconds
        body_timeout_seconds = settings.request_body_timeout_seconds
        unread_seconds = settings.unread_response_seconds
        connections_max = max(1, places - _OWN_PLACES)
        own_connections_max = places

    # uvicorn's own keeps state for every connection, and unpacks whatever comes.
    inflated = settings.websocket_inflated_bytes_per_second
    deflate = DeflateFactory(max(inflated, settings.websocket_message_max_bytes), inflated)

    class WebSocket(_WebSocket):
        available_extensions = (deflate,) if settings.websocket_compression else ()

    return HttpServer(
        uvicorn.Config(
            app,
            http=Protocol,
            ws=WebSocket,
            ws_max_size=settings.websocket_message_max_bytes,
            ws_per_message_deflate=False,
            ws_ping_interval=10.0,
            ws_ping_timeout=20.0,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=settings.backlog,
            timeout_keep_alive=settings.keep_alive_seconds,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            h11_max_incomplete_event_size=settings.request_head_max_bytes,
        )
    )


class _WebSocket(WebSocketsSansIOProtocol):
    """What ASGI has no words for: a refusal before the upgrade is an answer, and a client that pings is not idle.

    A transport that closes waits for a client that does not read; here it is cut off in the end.
    """

    available_extensions: Sequence[DeflateFactory]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.conn.available_extensions = self.available_extensions

    async def run_asgi(self) -> None:
        extensions: dict[str, Any] = self.scope["extensions"]
        extensions[SEND_AT_ONCE] = self.send_at_once
        extensions[DEFLATES] = bool(self.conn.extensions)
        try:
            await super().run_asgi()
        finally:
            self.loop.call_later(_CLOSING_SECONDS, self.transport.abort)

    def send_at_once(self, frame: bytes) -> bool:
        """Write a frame without a task's turn, if it does not wait for the client; tell whether it was written.

        For what goes to thousands at once: through ASGI each costs ten times as much.
        """
        open_ = self.handshake_complete and not self.close_sent and not self.disconnected
        if not open_ or not self.writable.is_set() or self.conn.state is not State.OPEN or self.transport.is_closing():
            return False
        self.transport.write(frame)
        return True

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        # uvicorn logs a refusal as an application that gave no answer.
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    def handle_ping(self) -> None:
        state = self.scope.setdefault("state", {})
        state[PINGS] = state.get(PINGS, 0) + 1
        super().handle_ping()


class _BoundedHead(H11Protocol):
    """Closes a connection whose request head is not complete in time, however slowly its bytes come, and at once one
    that is too many: uvicorn would wait for its request.

    Nor does it wait for ever, as uvicorn does, for the rest of a body that nobody asks for any more, and for a client
    that does not read its answer.
    """

    head_timeout_seconds: float
    body_timeout_seconds: float
    unread_seconds: float
    connections_max: int
    own_connections_max: int
    """The same for connections of this machine."""
    _head_timer: asyncio.TimerHandle | None = None
    _body_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as its base does
        super().connection_made(transport)
        if len(self.connections) > (self.own_connections_max if self._is_own() else self.connections_max):
            transport.write(_TOO_MANY)
            transport.close()
        else:
            self._arm()

    def _is_own(self) -> bool:
        """What comes from an address of this machine comes from the one that it goes to, on whatever interface."""
        return self.client is not None and self.server is not None and self.client[0] == self.server[0]

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        head_is_pending = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        if head_is_pending and self.transport.get_protocol() is self:
            self._arm()
        else:
            self._disarm()
        if self._body_timer is not None and not self._owes_body():
            self._body_timer.cancel()
            self._body_timer = None
            if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
                # With its first byte uvicorn has let go of the time for the next request.
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        for timer in (self._body_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._body_timer is None and self._owes_body():
            self._body_timer = self.loop.call_later(self.body_timeout_seconds, self.transport.abort)
        self._see_closed()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._see_closed()

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(msg)
        self._see_closed()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._cut_off_after(self.unread_seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread_timer is not None and not self.transport.is_closing():
            self._unread_timer.cancel()

    def _owes_body(self) -> bool:
        """Whether the request was answered before all of it had come, and the rest has not come yet."""
        return self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete

    def _see_closed(self) -> None:
        if self.transport.is_closing():
            self._cut_off_after(_CLOSING_SECONDS)

    def _cut_off_after(self, seconds: float) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        self._unread_timer = self.loop.call_later(seconds, self.transport.abort)

    def _arm(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_seconds, self.transport.abort)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

"""LiveKit's signaling as a client speaks it: the WebSocket, its messages, its pings. Knows no media.

`/rtc` with plain parameters is dual mode (the server offers the subscriber connection), `/rtc/v1` with a `join_request`
is single mode (the client makes all offers).
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import time
from typing import Self
from urllib.parse import urlencode, urlsplit, urlunsplit

from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from signaling.probe.failure import ProbeFailure, Step

PROTOCOL = 16
"""Of the client: knows `leave.action`, `request_response`, `room_moved`; no packet trailers."""

MAX_MESSAGE_BYTES = 4 << 20
_REASON_BYTES = 300

_CLOSE_SECONDS = 2.0
"""For the server's part of the closing handshake."""

PUBLISHER, SUBSCRIBER = rtc.SignalTarget.PUBLISHER, rtc.SignalTarget.SUBSCRIBER


def client_info() -> models.ClientInfo:
    return models.ClientInfo(sdk=models.ClientInfo.SDK.UNKNOWN, protocol=PROTOCOL, version="1", os="linux")


def dual_query(*, participant_sid: str = "") -> dict[str, str]:
    """Query of `/rtc`; with a sid it asks to resume."""
    query = {"protocol": str(PROTOCOL), "sdk": "probe", "auto_subscribe": "1", "adaptive_stream": "0"}
    return query | ({"reconnect": "1", "sid": participant_sid} if participant_sid else {})


def single_query(
    offer_sdp: str = "", *, offer_id: int = 1, participant_sid: str = "", packed: bool = True
) -> dict[str, str]:
    """Query of `/rtc/v1`. `packed`: gzip the request, as JavaScript does."""
    join = rtc.JoinRequest(
        client_info=client_info(),
        connection_settings=rtc.ConnectionSettings(auto_subscribe=True),
        reconnect=bool(participant_sid),
        participant_sid=participant_sid,
    )
    if offer_sdp:
        join.publisher_offer.CopyFrom(rtc.SessionDescription(type="offer", sdp=offer_sdp, id=offer_id))
    raw = join.SerializeToString()
    compression = rtc.WrappedJoinRequest.Compression
    wrapped = rtc.WrappedJoinRequest(
        compression=compression.GZIP if packed else compression.NONE,
        join_request=gzip.compress(raw) if packed else raw,
    )
    return {"join_request": base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()}


def websocket_url(url: str, path: str, query: dict[str, str]) -> str:
    """`url` may be http, https, ws or wss, with a path prefix. Raises ValueError."""
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    schemes = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"{url} is not an http, https, ws or wss URL")
    return urlunsplit((schemes[parts.scheme], parts.netloc, parts.path.rstrip("/") + path, urlencode(query), ""))


class SignalClient:
    """One signal connection. Raises `ProbeFailure` where the server does not do its part."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._pinging: asyncio.Task[None] | None = None
        self.round_trip_seconds: float | None = None

    @classmethod
    async def connect(cls, url: str, path: str, query: dict[str, str], token: str, timeout_seconds: float) -> Self:
        """Open the WebSocket; a refusal is told with its status and sentence."""
        try:
            target = websocket_url(url, path, query)
            socket = await connect(
                target,
                additional_headers={"Authorization": f"Bearer {token}"},
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=timeout_seconds,
                close_timeout=_CLOSE_SECONDS,
                ping_interval=None,
                proxy=None,
            )
        except InvalidStatus as error:
            body = (error.response.body or b"")[:_REASON_BYTES].decode(errors="replace").strip()
            said = f": {body}" if body else ""
            status = error.response.status_code
            raise ProbeFailure(Step.SIGNAL, f"The server refused {path} with status {status}{said}.") from error
        except TimeoutError as error:
            sentence = f"{url} did not answer within {timeout_seconds:g} s."
            raise ProbeFailure(Step.SIGNAL, sentence) from error
        except (OSError, InvalidHandshake, InvalidURI, ValueError) as error:
            raise ProbeFailure(Step.SIGNAL, f"No WebSocket at {url}: {error}.") from error
        return cls(socket)

    async def receive(self) -> rtc.SignalResponse:
        """The next message. Answers to our own pings are kept back."""
        while True:
            try:
                data = await self._socket.recv()
            except ConnectionClosed as error:
                raise ProbeFailure(Step.SIGNAL, f"The server closed the signal connection ({error}).") from error
            if isinstance(data, str):
                raise ProbeFailure(Step.SIGNAL, "The server answered a binary client with a text frame.")
            try:
                message = rtc.SignalResponse.FromString(data)
            except DecodeError as error:
                raise ProbeFailure(Step.SIGNAL, "The server sent a message that is no SignalResponse.") from error
            if message.WhichOneof("message") != "pong_resp":
                return message
            self.round_trip_seconds = time.time() - message.pong_resp.last_ping_timestamp / 1000

    async def send(self, request: rtc.SignalRequest) -> None:
        try:
            await self._socket.send(request.SerializeToString())
        except ConnectionClosed as error:
            raise ProbeFailure(Step.SIGNAL, f"The server closed the signal connection ({error}).") from error

    def keep_alive(self, interval_seconds: float) -> None:
        """Ping as the join asked for; 0 means never."""
        if interval_seconds > 0 and self._pinging is None:
            self._pinging = asyncio.create_task(self._ping(interval_seconds))

    async def close(self) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
        await self._socket.close()

    async def abort(self) -> None:
        """Drop the TCP connection without a close frame."""
        if self._pinging is not None:
            self._pinging.cancel()
        self._socket.transport.abort()

    async def _ping(self, interval_seconds: float) -> None:
        try:
            while True:
                await self.send(rtc.SignalRequest(ping_req=rtc.Ping(timestamp=int(time.time() * 1000))))
                await asyncio.sleep(interval_seconds)
        except ProbeFailure:
            pass  # the reader says so

"""The control socket between signaling and a worker: framing, handshake, and the messages beside the border's.

A Unix stream of frames: a 4-byte big-endian length, then one msgpack array of maps, each with a `type`. Most are border
commands and events (`sfu/border.py`), which a worker passes on without reading them. Not here: processes (`node.py`)
and what commands do (the core).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import msgspec

from sfu import border
from sfu.border import Fingerprint, Value

log = logging.getLogger("sfu.control")

PROTOCOL_VERSION: Final = 1
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
"""A frame beyond this is a fault of the sender, never a batch that happens to be large: senders cut theirs."""
MAX_VALUE_BYTES: Final = MAX_FRAME_BYTES // 2
"""What is remembered under one key; it must fit a frame in both directions, with its key. A participant who receives
a thousand tracks has half of that."""
_MAX_MESSAGE_BYTES: Final = MAX_FRAME_BYTES - 16
_BATCH_BYTES: Final = 4 * 1024 * 1024
_HEADER_BYTES: Final = 4


class ControlError(Exception):
    """The other side broke the protocol; the connection is of no use any more."""


# --- messages beside the border ----------------------------------------------------------------------------------


class Request(Value, frozen=True, kw_only=True, tag_field="type"):
    """From the controller, answered (or obeyed) by the worker process itself, not by its core."""


class Hello(Request, frozen=True, kw_only=True, tag="hello"):
    """First message of a controller. A newer controller takes the place of the one attached before."""

    version: int
    controller: str
    """Who attaches, for the log."""


class Remember(Request, frozen=True, kw_only=True, tag="remember"):
    """Keep `value` under `key` until forgotten, so that a restarted signaling process finds it. Never read here."""

    key: str
    value: bytes
    or_none: bool = False
    """Where there is no room for it, forget what was remembered before: it does not hold any more."""


class Forget(Request, frozen=True, kw_only=True, tag="forget"):
    key: str


class Recall(Request, frozen=True, kw_only=True, tag="recall"):
    """Answered by `Memory`, possibly in several parts."""


class GetCounters(Request, frozen=True, kw_only=True, tag="get_counters"):
    """Answered by `Counters`."""

    request: int


class Ping(Request, frozen=True, kw_only=True, tag="ping"):
    """Answered by `Pong`."""

    request: int


class Drain(Request, frozen=True, kw_only=True, tag="drain"):
    """Exit as soon as no transport is left, or at the deadline."""

    deadline_seconds: float


class Reply(Value, frozen=True, kw_only=True, tag_field="type"):
    """From the worker process itself."""


class Candidate(Value, frozen=True, kw_only=True):
    """Where clients reach the worker."""

    protocol: str
    """`udp` or `tcp`."""
    ip: str
    port: int


class Welcome(Reply, frozen=True, kw_only=True, tag="welcome"):
    """Answer to `Hello`: who the worker is. Stays the same for its life."""

    version: int
    worker: str
    """Unique for the process, also among its predecessors."""
    index: int
    pid: int
    build: str
    configuration: str
    """Digest of what the worker was started with."""
    udp_port: int
    tcp_port: int | None
    addresses: tuple[str, ...]
    fingerprint: Fingerprint
    started_at: float
    """Seconds since the Unix epoch."""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        over_udp = tuple(Candidate(protocol="udp", ip=ip, port=self.udp_port) for ip in self.addresses)
        if self.tcp_port is None:
            return over_udp
        return over_udp + tuple(Candidate(protocol="tcp", ip=ip, port=self.tcp_port) for ip in self.addresses)


class MemoryItem(Value, frozen=True, kw_only=True):
    key: str
    value: bytes


class Memory(Reply, frozen=True, kw_only=True, tag="memory"):
    """What is remembered. `last` is false while more parts follow."""

    items: tuple[MemoryItem, ...]
    last: bool = True


class Counters(Reply, frozen=True, kw_only=True, tag="counters"):
    """Totals since the worker's start, and the process's own figures."""

    request: int
    net: dict[str, Any]
    engine: dict[str, Any]
    process: dict[str, Any]


class Pong(Reply, frozen=True, kw_only=True, tag="pong"):
    request: int
    loop_lag_seconds: float
    """Longest lag of the worker's event loop since the last `Pong`."""


class Fault(Reply, frozen=True, kw_only=True, tag="fault"):
    """The worker could not do what was asked, or says goodbye. `code` is stable, `message` for people."""

    code: str
    message: str


AnyRequest: TypeAlias = Hello | Remember | Forget | Recall | GetCounters | Ping | Drain
AnyReply: TypeAlias = Welcome | Memory | Counters | Pong | Fault
Upward: TypeAlias = AnyReply | border.AnyEvent
ReceivedCallback: TypeAlias = Callable[[Upward], None]
LostCallback: TypeAlias = Callable[[str], None]

REQUEST_TYPES: Final = frozenset({"hello", "remember", "forget", "recall", "get_counters", "ping", "drain"})


class _Tagged(msgspec.Struct, frozen=True):
    """Any message, as far as its type."""

    type: str


_encoder = msgspec.msgpack.Encoder()
_parts = msgspec.msgpack.Decoder(list[msgspec.Raw])
_tag = msgspec.msgpack.Decoder(_Tagged)
_request = msgspec.msgpack.Decoder(AnyRequest)
_upward = msgspec.msgpack.Decoder(Upward)


def encode(message: Value) -> bytes:
    """One message, without its frame."""
    return _encoder.encode(message)


def frames(messages: Iterable[bytes]) -> Iterable[bytes]:
    """Encoded messages as frames of a good size. A message too long for any frame raises `ControlError`."""
    batch: list[bytes] = []
    size = 0
    for message in messages:
        if len(message) > _MAX_MESSAGE_BYTES:
            raise ControlError(f"a message of {len(message)} bytes does not fit a frame of {MAX_FRAME_BYTES}")
        if batch and size + len(message) > _BATCH_BYTES:
            yield _frame(batch)
            batch, size = [], 0
        batch.append(message)
        size += len(message)
    if batch:
        yield _frame(batch)


def frame_array(array: bytes) -> bytes:
    """A ready msgpack array (what the core's `recv` gives) as a frame."""
    if len(array) > MAX_FRAME_BYTES:
        raise ControlError(f"an array of {len(array)} bytes does not fit a frame of {MAX_FRAME_BYTES}")
    return len(array).to_bytes(_HEADER_BYTES, "big") + array


class FrameReader:
    """Puts frames together from reads of any size; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Bodies of the frames that `data` completes. `ControlError` as soon as a length is beyond the limit."""
        buffer = self._buffer
        buffer += data
        bodies: list[bytes] = []
        start = 0
        while len(buffer) - start >= _HEADER_BYTES:
            length = int.from_bytes(buffer[start : start + _HEADER_BYTES], "big")
            if length > MAX_FRAME_BYTES:
                raise ControlError(f"a frame claims {length} bytes, {MAX_FRAME_BYTES} are allowed")
            end = start + _HEADER_BYTES + length
            if len(buffer) < end:
                break
            bodies.append(bytes(buffer[start + _HEADER_BYTES : end]))
            start = end
        del buffer[:start]
        return bodies


def split(body: bytes) -> list[bytes]:
    """The encoded messages of one frame, in order."""
    try:
        return [bytes(part) for part in _parts.decode(body)]
    except msgspec.MsgspecError as error:
        raise ControlError(f"a frame is no msgpack array: {error}") from error


def type_of(message: bytes) -> str:
    try:
        return _tag.decode(message).type
    except msgspec.MsgspecError as error:
        raise ControlError(f"a message has no type: {error}") from error


def decode_request(message: bytes) -> AnyRequest:
    try:
        request: AnyRequest = _request.decode(message)
    except msgspec.MsgspecError as error:
        raise ControlError(f"not a request: {error}") from error
    return request


def decode_upward(message: bytes) -> Upward:
    """A reply or an event."""
    try:
        upward: Upward = _upward.decode(message)
    except msgspec.MsgspecError as error:
        raise ControlError(f"neither a reply nor an event: {error}") from error
    return upward


# --- client ------------------------------------------------------------------------------------------------------


class Controller(asyncio.Protocol):
    """Signaling's end of a control socket: what arrives goes to `received`, the end to `lost`, both at once.

    Make one with `attach`. Sending never waits: a worker that does not read for long is declared lost by its
    heartbeat, and `max_queue_bytes` bounds what piles up until then.
    """

    def __init__(self, max_queue_bytes: int) -> None:
        self._max_queue_bytes = max_queue_bytes
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytes] = []
        self._welcome: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
        self._early: list[Upward] = []
        self._received: ReceivedCallback | None = None
        self._lost: LostCallback | None = None
        self._reason = ""
        self._ended = False

    def listen(self, received: ReceivedCallback, lost: LostCallback) -> None:
        """From now on (and for what came meanwhile) these are called. `lost` is called once, with the reason."""
        self._received, self._lost = received, lost
        early, self._early = self._early, []
        for message in early:
            received(message)
        if self._ended:
            lost(self._reason)

    def send(self, messages: Sequence[Value]) -> None:
        """Queues messages in order; silently nothing once the connection has ended (`lost` tells).

        What is sent in one turn of the loop leaves at its end, together: each write may wake the worker. A message that
        fits no frame costs itself only: with it in there nothing of that turn would leave.
        """
        if self._transport is None or self._ended:
            return
        if not self._unsent:
            self._loop.call_soon(self._write)
        for message in messages:
            encoded = encode(message)
            if len(encoded) > _MAX_MESSAGE_BYTES:
                log.error("message_too_long", extra={"kind": type(message).__name__, "bytes": len(encoded)})
            else:
                self._unsent.append(encoded)

    def _write(self) -> None:
        unsent, self._unsent = self._unsent, []
        transport = self._transport
        if transport is None or self._ended or not unsent:
            return
        # Of what one turn of the loop brings, the worker cannot have read anything yet.
        is_stuck = transport.get_write_buffer_size() > self._max_queue_bytes
        transport.writelines(frames(unsent))
        if is_stuck:
            self.close("the worker does not read its commands")

    def close(self, reason: str) -> None:
        """Ends the connection without waiting for what is queued."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._write()
            self._transport.abort()

    async def handshake(self, controller: str) -> Welcome:
        self.send([Hello(version=PROTOCOL_VERSION, controller=controller)])
        welcome = await self._welcome
        if welcome.version != PROTOCOL_VERSION:
            self.close("protocol version")
            raise ControlError(f"the worker speaks version {welcome.version}, not {PROTOCOL_VERSION}")
        return welcome

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop has its own classes: no isinstance here.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._reader.feed(data):
                for part in split(body):
                    self._take(decode_upward(part))
        except ControlError as error:
            self.close(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._reason = self._reason or (str(exc) if exc else "the worker closed the connection")
        if not self._welcome.done():
            self._welcome.set_exception(ControlError(self._reason))
            # Nobody may be waiting any more.
            self._welcome.exception()
        if self._lost is not None:
            self._lost(self._reason)

    def _take(self, message: Upward) -> None:
        if isinstance(message, Welcome):
            if not self._welcome.done():
                self._welcome.set_result(message)
        elif self._received is not None:
            self._received(message)
        else:
            self._early.append(message)


async def attach(path: Path, controller: str, max_queue_bytes: int) -> tuple[Controller, Welcome]:
    """Connects to a worker's socket and shakes hands. `OSError` or `ControlError` if there is none."""
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_unix_connection(lambda: Controller(max_queue_bytes), str(path))
    try:
        return protocol, await protocol.handshake(controller)
    except BaseException:
        protocol.close("the handshake failed")
        raise


def _frame(batch: Sequence[bytes]) -> bytes:
    count = len(batch)
    if count < 16:
        head = bytes([0x90 | count])
    elif count < 1 << 16:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return frame_array(head + b"".join(batch))

"""An active ICE-TCP candidate (RFC 6544) with RFC 4571 framing, as a protocol that aioice can run checks over.

aioice speaks only UDP and TURN. Here: one TCP connection to one passive candidate, dressed as a datagram transport.
Not here: passive or simultaneous-open candidates; a client behind a firewall needs neither.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from typing import Any, cast

import aioice
from aioice.candidate import candidate_foundation
from aioice.ice import Connection, StunProtocol

MAX_FRAME_BYTES = 0xFFFF
_ACTIVE_PORT = 9
"""RFC 6544 §4.5: active candidates carry the discard port."""

# RFC 6544 §4.2: host 126, TCP active direction preference 6; lower than any UDP host candidate by its type preference.
_PRIORITY = (1 << 24) * 90 + (1 << 8) * ((6 << 13) | 0x1FFF) + 255


class FrameReader:
    """Cuts a byte stream into frames: 16-bit length, then the datagram (RFC 4571 §2)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        while len(self._buffer) >= 2:
            end = 2 + struct.unpack_from("!H", self._buffer)[0]
            if len(self._buffer) < end:
                return
            datagram = bytes(self._buffer[2:end])
            del self._buffer[:end]
            yield datagram


def frame(datagram: bytes) -> bytes:
    """Raises ValueError beyond 65 535 bytes, which a frame cannot say."""
    if len(datagram) > MAX_FRAME_BYTES:
        raise ValueError(f"a datagram of {len(datagram)} bytes does not fit a frame")
    return struct.pack("!H", len(datagram)) + datagram


class FramedTransport(asyncio.DatagramTransport):
    """What a `StunProtocol` sends through: frames instead of datagrams. The address is the connection's own."""

    def __init__(self, stream: asyncio.Transport) -> None:
        super().__init__()
        self._stream = stream

    def sendto(self, data: Any, addr: Any = None) -> None:
        if not self._stream.is_closing():
            self._stream.write(frame(bytes(data)))

    def close(self) -> None:
        self._stream.close()

    def abort(self) -> None:
        self._stream.abort()

    def is_closing(self) -> bool:
        return self._stream.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._stream.get_extra_info(name, default)


class TcpStunProtocol(asyncio.Protocol):
    """The stream's side: unpacks frames and hands them to aioice's `StunProtocol`."""

    def __init__(self, receiver: Connection) -> None:
        self.stun = StunProtocol(receiver)
        self._frames = FrameReader()
        self._remote: tuple[str, int] = ("", 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        self._remote = stream.get_extra_info("peername")[:2]
        self.stun.connection_made(FramedTransport(stream))

    def data_received(self, data: bytes) -> None:
        for datagram in self._frames.feed(data):
            if datagram:
                self.stun.datagram_received(datagram, self._remote)

    def connection_lost(self, error: Exception | None) -> None:
        self.stun.connection_lost(error)


async def connect_active(receiver: Connection, remote: aioice.Candidate, timeout_seconds: float) -> StunProtocol:
    """Connect to a passive candidate. Raises OSError when nobody answers there in time."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_seconds):
        _, protocol = await loop.create_connection(lambda: TcpStunProtocol(receiver), remote.host, remote.port)
    stun = protocol.stun
    host = stun.transport.get_extra_info("sockname")[0]
    stun.local_candidate = aioice.Candidate(
        foundation=candidate_foundation("host", "tcp", host),
        component=1,
        transport="tcp",
        priority=_PRIORITY,
        host=host,
        port=_ACTIVE_PORT,
        type="host",
        tcptype="active",
    )
    return stun

"""The media port's TCP side (RFC 6544, RFC 4571): pieces of any size, junk, and those who never say who they are."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from signaling.probe import ice_tcp
from signaling.probe.ice import Paths
from signaling.probe.ice_tcp import FrameReader, frame
from signaling.probe.participant import JoinOptions
from signaling.probe.peer import PeerOptions
from tests.e2e.harness.server import ServerProcess
from tests.e2e.raw_call import raw_call, still_a_call
from tests.e2e.test_bad_datagrams import Secrets, client_hello, rtp

pytestmark = pytest.mark.e2e

OVER_TCP = JoinOptions(single=True, peer=PeerOptions(paths=Paths(udp=False, tcp=True)))
UNAUTHENTICATED_SECONDS = 2


@pytest.fixture(scope="module")
def target() -> Iterator[ServerProcess]:
    """A server of one worker that soon tires of strangers."""
    environment = {"CALLYARD_NODE_TCP_UNAUTHENTICATED_TIMEOUT_SECONDS": str(UNAUTHENTICATED_SECONDS)}
    process = ServerProcess(workers=1, environment=environment)
    try:
        asyncio.run(process.start())
        yield process
    finally:
        process.close()


async def everything_until_closed(reader: asyncio.StreamReader, seconds: float) -> bytes:
    """All that comes until the server closes; a reset counts as closed."""
    found = b""
    async with asyncio.timeout(seconds):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4_096):
                found += data
    return found


async def test_frames_may_come_in_any_pieces(target: ServerProcess, room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_pieces(self: ice_tcp.FramedTransport, data: bytes, addr: object = None) -> None:
        stream = self._stream
        stream.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        framed = frame(bytes(data))
        for cut in (1, 2, 3, len(framed) // 2, len(framed)):
            piece, framed = framed[:cut], framed[cut:]
            if piece and not stream.is_closing():
                stream.write(piece)

    monkeypatch.setattr(ice_tcp.FramedTransport, "sendto", in_pieces)
    async with raw_call(target, room, OVER_TCP) as (alice, bob):
        await still_a_call(alice, bob)
        assert {one.participant.publisher.link.path[0] for one in (alice, bob)} == {"tcp"}
        assert {one.video_lost()[0] for one in (alice, bob)} == {0}


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x00",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
        frame(b""),
        struct.pack("!H", 65_535) + bytes(70_000),
        frame(client_hello()),
        frame(rtp(1, 1)),
        frame(Secrets("aaaa", "bbbbbbbb", "p" * 22).check()),
        b"".join(frame(bytes([first]) * 40) for first in range(256)),
    ],
    ids=[
        "silence",
        "one-byte",
        "http",
        "tls",
        "empty-frame",
        "giant-frame",
        "hello",
        "rtp",
        "unknown-user",
        "every-byte",
    ],
)
async def test_strangers_are_not_answered_and_soon_closed(target: ServerProcess, said: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.udp_port)
    writer.write(said)
    assert await everything_until_closed(reader, UNAUTHENTICATED_SECONDS + 5) == b""
    writer.close()


async def test_a_crowd_of_silent_connections_keeps_nobody_from_a_call(target: ServerProcess, room: str) -> None:
    crowd = [await asyncio.open_connection("127.0.0.1", target.udp_port) for _ in range(150)]
    try:
        async with raw_call(target, room, OVER_TCP) as (alice, bob):
            await still_a_call(alice, bob)
            ends = await asyncio.gather(
                *(everything_until_closed(reader, UNAUTHENTICATED_SECONDS + 8) for reader, _ in crowd)
            )
            assert ends == [b""] * len(crowd)
            await still_a_call(alice, bob)
    finally:
        for _, writer in crowd:
            writer.close()


async def test_a_wrong_password_is_never_a_good_check(target: ServerProcess, room: str) -> None:
    async with raw_call(target, room, OVER_TCP) as (alice, bob):
        secrets = Secrets.of(alice.participant.publisher)
        reader, writer = await asyncio.open_connection("127.0.0.1", target.udp_port)
        writer.write(frame(secrets.check(key="x" * 22)) + frame(rtp(1, 1)))
        answers = list(FrameReader().feed(await everything_until_closed(reader, UNAUTHENTICATED_SECONDS + 5)))
        assert not [answer for answer in answers if answer[:2] == b"\x01\x01"], "a success response"
        assert not [answer for answer in answers if answer[0] > 3], "something other than STUN"
        writer.close()
        await still_a_call(alice, bob)

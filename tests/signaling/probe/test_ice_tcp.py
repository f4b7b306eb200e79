"""RFC 4571 framing, whatever the stream does to it."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import aioice
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.probe.ice import IceLink, Paths, RemoteSide
from signaling.probe.ice_tcp import FrameReader, connect_active, frame
from tests.signaling.probe.pairs import eventually


@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(0, 6_000), max_size=30))
def test_frames_survive_any_cut_of_the_stream(datagrams: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame, datagrams))
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    reader = FrameReader()
    assert [one for a, b in pairwise(edges) for one in reader.feed(stream[a:b])] == datagrams


def test_a_frame_cannot_say_more_than_16_bits() -> None:
    assert len(frame(bytes(65_535))) == 65_537
    with pytest.raises(ValueError, match="65536 bytes"):
        frame(bytes(65_536))


def passive(port: int) -> aioice.Candidate:
    text = f"1 1 tcp 1 127.0.0.1 {port} typ host tcptype passive"
    return aioice.Candidate.from_sdp(text)


async def test_nobody_at_the_candidate_is_an_oserror() -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    link = IceLink(Paths(udp=False, tcp=True))
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await connect_active(link._agent, passive(port), 1.0)
    await link.close()


async def test_checks_go_out_framed_and_a_dead_candidate_fails_the_connection() -> None:
    checks: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader()
        while data := await reader.read(4_096):
            checks.extend(frames.feed(data))
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    link = IceLink(Paths(udp=False, tcp=True))
    await link.gather()
    await link.set_remote(RemoteSide("their", "p" * 22, lite=True))
    await link.add_candidate(passive(server.sockets[0].getsockname()[1]))
    connecting = asyncio.create_task(link.connect())
    await eventually(lambda: checks)
    message = aioice.stun.parse_message(checks[0])
    assert message.attributes["USERNAME"] == f"their:{link.credentials[0]}"
    assert message.check_message_integrity(b"p" * 22)
    await link.close()
    with pytest.raises(ConnectionError):
        await connecting
    server.close()

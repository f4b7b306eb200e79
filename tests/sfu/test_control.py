"""Framing, handshake and bounds of the control socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfu import border, control

MESSAGES = st.lists(
    st.one_of(
        st.builds(control.Remember, key=st.text(max_size=20), value=st.binary(max_size=2000)),
        st.builds(border.RemoveTransport, transport=st.integers(0, 2**64 - 1)),
        st.builds(border.SendData, transports=st.just((1, 2)), label=st.just("_lossy"), payload=st.binary(max_size=99)),
    ),
    max_size=40,
)


@given(MESSAGES, st.lists(st.integers(1, 500), min_size=1, max_size=10))
def test_messages_arrive_whole_and_in_order_however_the_stream_is_cut(
    messages: list[border.Value], cuts: list[int]
) -> None:
    stream = b"".join(control.frames([control.encode(message) for message in messages]))
    reader = control.FrameReader()
    parts: list[bytes] = []
    position = 0
    turn = 0
    while position < len(stream):
        step = cuts[turn % len(cuts)]
        for body in reader.feed(stream[position : position + step]):
            parts += control.split(body)
        position += step
        turn += 1
    assert parts == [control.encode(message) for message in messages]


@pytest.mark.parametrize("count", [1, 15, 16, 65_535, 65_536])
def test_a_batch_of_any_length_is_one_valid_array(count: int) -> None:
    encoded = control.encode(border.TakeSnapshot())
    [frame] = control.frames([encoded] * count)
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert msgspec.msgpack.decode(frame[4:]) == [{"type": "snapshot"}] * count


def test_large_batches_are_cut_and_too_large_messages_refused() -> None:
    large = control.encode(control.Remember(key="k", value=bytes(3 * 1024 * 1024)))
    assert [len(control.split(frame[4:])) for frame in control.frames([large] * 3)] == [1, 1, 1]
    with pytest.raises(control.ControlError, match="does not fit"):
        list(control.frames([bytes(control.MAX_FRAME_BYTES)]))


def test_a_length_beyond_the_limit_is_refused_before_it_is_awaited() -> None:
    with pytest.raises(control.ControlError, match="claims"):
        control.FrameReader().feed((control.MAX_FRAME_BYTES + 1).to_bytes(4, "big"))


@given(st.binary(max_size=200))
def test_garbage_is_a_control_error_and_nothing_else(data: bytes) -> None:
    """S-76"""
    for decode in (control.split, control.type_of, control.decode_request, control.decode_upward):
        try:
            decode(data)
        except control.ControlError:
            continue


def test_candidates_name_every_address_over_udp_then_tcp() -> None:
    welcome = control.Welcome(
        version=1,
        worker="0-a",
        index=0,
        pid=1,
        build="x",
        configuration="",
        udp_port=7,
        tcp_port=8,
        addresses=("192.0.2.1", "2001:db8::1"),
        fingerprint=border.Fingerprint(algorithm="sha-256", value="AA"),
        started_at=0.0,
    )
    assert [(c.protocol, c.ip, c.port) for c in welcome.candidates] == [
        ("udp", "192.0.2.1", 7),
        ("udp", "2001:db8::1", 7),
        ("tcp", "192.0.2.1", 8),
        ("tcp", "2001:db8::1", 8),
    ]
    assert all(c.protocol == "udp" for c in msgspec.structs.replace(welcome, tcp_port=None).candidates)


async def test_a_worker_that_closes_during_the_handshake_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), path)
    async with server:
        with pytest.raises(control.ControlError):
            await control.attach(path, "test", 1 << 20)


async def test_another_protocol_version_is_refused(tmp_path: Path) -> None:
    """F-19"""
    path = tmp_path / "s"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        welcome = control.Welcome(
            version=control.PROTOCOL_VERSION + 1,
            worker="0-a",
            index=0,
            pid=1,
            build="x",
            configuration="",
            udp_port=7,
            tcp_port=None,
            addresses=(),
            fingerprint=border.Fingerprint(algorithm="sha-256", value="AA"),
            started_at=0.0,
        )
        writer.writelines(control.frames([control.encode(welcome)]))
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(answer, path)
    async with server:
        with pytest.raises(control.ControlError, match="version"):
            await control.attach(path, "test", 1 << 20)


@asynccontextmanager
async def attached(path: Path, max_queue_bytes: int) -> AsyncIterator[tuple[control.Controller, asyncio.Queue[bytes]]]:
    """A controller of something that notes all messages it is sent."""
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = control.FrameReader()
        while data := await reader.read(1 << 20):
            for body in frames.feed(data):
                for message in control.split(body):
                    got.put_nowait(message)
        writer.close()

    server = await asyncio.start_unix_server(note, path)
    async with server:
        loop = asyncio.get_running_loop()
        _, controller = await loop.create_unix_connection(lambda: control.Controller(max_queue_bytes), str(path))
        yield controller, got
        controller.close("over")


async def test_a_message_that_fits_no_frame_costs_itself_only(tmp_path: Path) -> None:
    """S-44"""
    async with attached(tmp_path / "s", 1 << 26) as (controller, got):
        before = border.RemoveTransport(transport=1)
        after = border.RemoveTransport(transport=2)
        controller.send([before])
        controller.send([control.Remember(key="k", value=bytes(control.MAX_FRAME_BYTES)), after])
        async with asyncio.timeout(10):
            assert [await got.get(), await got.get()] == [control.encode(before), control.encode(after)]


async def test_what_is_sent_at_once_is_never_too_much(tmp_path: Path) -> None:
    async with attached(tmp_path / "s", 1 << 20) as (controller, got):
        for number in range(8):
            controller.send([control.Remember(key=f"{number}", value=bytes(1 << 20))])
        controller.send([border.RemoveTransport(transport=1)])
        async with asyncio.timeout(10):
            kinds = [control.type_of(await got.get()) for _ in range(9)]
        assert kinds == ["remember"] * 8 + ["remove_transport"]


async def test_a_worker_that_does_not_read_costs_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "s"
    release = asyncio.Event()

    async def stall(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    loop = asyncio.get_running_loop()
    server = await asyncio.start_unix_server(stall, path, limit=1024)
    async with server:
        _, controller = await loop.create_unix_connection(lambda: control.Controller(1 << 20), str(path))
        lost: asyncio.Future[str] = loop.create_future()
        controller.listen(lambda _: None, lost.set_result)
        for _ in range(8):
            controller.send([control.Remember(key="k", value=bytes(1 << 20))])
            await asyncio.sleep(0)
        assert await lost == "the worker does not read its commands"
        release.set()

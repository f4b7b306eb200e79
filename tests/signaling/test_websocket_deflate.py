"""Compression of WebSocket messages: who is offered it, that what passes is whole, and what a bomb can do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import zlib
from collections.abc import AsyncIterator

import pytest
import websockets
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import CTRL_OPCODES, Frame, Opcode
from websockets.typing import ExtensionParameter

from signaling.http_server import DEFLATES, SEND_AT_ONCE
from signaling.settings import HttpSettings
from signaling.websocket_deflate import Deflate, DeflateFactory
from signaling.wire.websocket import deflated, framed
from tests.signaling.listening import listening

MEBIBYTE = 1 << 20
LONG, SHORT = "a=rtpmap:96 VP8/90000\r\n" * 500, "pong"
CHROMIUM: list[ExtensionParameter] = [("client_max_window_bits", None)]
AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12"


async def _say_and_echo(socket: WebSocket) -> None:
    """Both texts on both ways out, then the length of whatever comes."""
    await socket.accept()
    write = deflated if socket.scope["extensions"][DEFLATES] else framed
    for text in (LONG, SHORT):
        assert socket.scope["extensions"][SEND_AT_ONCE](write(text.encode(), is_text=True))
        await socket.send_text(text)
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        await socket.send_text(str(len(message.get("bytes") or message["text"])))


APP = Starlette(routes=[WebSocketRoute("/", _say_and_echo)])


@contextlib.asynccontextmanager
async def upgraded(port: int, offer: str) -> AsyncIterator[tuple[asyncio.StreamReader, dict[str, str]]]:
    """A bare connection that made an offer, and the headers of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(bytes(16)).decode()
    head = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    writer.write(f"{head}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n".encode())
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    assert " 101 " in status
    yield reader, {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if line)}
    writer.close()


@pytest.mark.parametrize(
    ("offer", "agreed"),
    [
        ("permessage-deflate; client_max_window_bits", AGREED),
        (
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            f"{AGREED}; client_max_window_bits=12",
        ),
        # Safari, Firefox.
        ("permessage-deflate", None),
        ("x-webkit-deflate-frame", None),
        ("permessage-deflate; client_max_window_bits; server_max_window_bits=10", None),
        ("permessage-deflate; client_max_window_bits=99", None),
        ("permessage-deflate; client_max_window_bits=99, permessage-deflate; client_max_window_bits", AGREED),
    ],
)
async def test_it_is_agreed_to_with_who_is_known_to_take_it(offer: str, agreed: str | None) -> None:
    async with listening(APP) as (port, _), upgraded(port, offer) as (reader, headers):
        assert headers.get("sec-websocket-extensions") == agreed
        opcode, size = await reader.readexactly(2)
        assert opcode == (0xC1 if agreed else 0x81)
        assert size == 126
        assert (int.from_bytes(await reader.readexactly(2), "big") < len(LONG) / 20) is (agreed is not None)


async def test_it_can_be_turned_off() -> None:
    offer = "permessage-deflate; client_max_window_bits"
    settings = HttpSettings(websocket_compression=False)
    async with listening(APP, settings) as (port, _), upgraded(port, offer) as (_, headers):
        assert "sec-websocket-extensions" not in headers


@contextlib.asynccontextmanager
async def greeted(
    settings: HttpSettings | None = None, compression: str | None = "deflate"
) -> AsyncIterator[websockets.ClientConnection]:
    """A client that was told all there is."""
    async with contextlib.AsyncExitStack() as stack:
        port, _ = await stack.enter_async_context(listening(APP, settings))
        connecting = websockets.connect(f"ws://127.0.0.1:{port}", compression=compression)
        client = await stack.enter_async_context(connecting)
        assert [await client.recv() for _ in range(4)] == [LONG, LONG, SHORT, SHORT]
        yield client


async def until_closed(client: websockets.ClientConnection) -> list[websockets.Data]:
    """All that comes before the server closes the connection."""
    told = []
    with contextlib.suppress(websockets.ConnectionClosedError):
        async for message in client:
            told.append(message)
    return told


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_what_passes_is_whole_in_both_directions(compression: str | None) -> None:
    async with greeted(compression=compression) as client:
        for sent in (LONG, SHORT, bytes(100_000), b"x"):
            await client.send(sent)
            assert await client.recv() == str(len(sent))
        await client.send(["1234"] * 1_000)
        assert await client.recv() == "4000"


@pytest.mark.parametrize("sent", [bytes(MEBIBYTE + 1), [bytes(100_000)] * 11], ids=["whole", "fragments"])
async def test_a_message_that_unpacks_to_too_much_closes_the_connection(sent: bytes | list[bytes]) -> None:
    """S-41"""
    async with greeted(HttpSettings(websocket_message_max_bytes=MEBIBYTE)) as client:
        with contextlib.suppress(websockets.ConnectionClosedError):
            await client.send(sent)
        assert await until_closed(client) == []
        assert client.close_code == 1009


async def test_bombs_are_unpacked_once() -> None:
    """S-41: each is within the limit of one message, and as small as a datagram."""
    settings = HttpSettings(websocket_message_max_bytes=MEBIBYTE, websocket_inflated_bytes_per_second=65_536)
    async with greeted(settings) as client:
        with contextlib.suppress(websockets.ConnectionClosedError):
            for _ in range(100):
                await client.send(bytes(900_000))
        assert len(await until_closed(client)) <= 1
        assert client.close_code == 1009


@given(st.binary(min_size=1, max_size=60), st.sampled_from(Opcode))
def test_what_was_never_compressed_is_refused_and_nothing_else_happens(payload: bytes, opcode: Opcode) -> None:
    """Only what a protocol makes a close frame of may be raised."""
    _, agreed = DeflateFactory(burst=65_536, per_second=1).process_request_params(CHROMIUM, [])
    frame = Frame(opcode, payload, rsv1=opcode not in CTRL_OPCODES)
    with contextlib.suppress(ProtocolError, PayloadTooBig):
        assert len(agreed.decode(frame, max_size=65_536).data) <= 65_536


def test_what_was_unpacked_is_forgiven_with_time() -> None:
    now = 100.0
    factory = DeflateFactory(burst=MEBIBYTE, per_second=MEBIBYTE // 2, clock=lambda: now)
    _, agreed = factory.process_request_params(CHROMIUM, [])
    assert isinstance(agreed, Deflate)

    def take(size: int, max_size: int | None = None) -> int:
        compressor = zlib.compressobj(wbits=-15)
        packed = compressor.compress(bytes(size)) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return len(agreed.decode(Frame(Opcode.BINARY, packed[:-4], rsv1=True), max_size=max_size).data)

    assert take(MEBIBYTE - 10_000) == MEBIBYTE - 10_000
    with pytest.raises(PayloadTooBig):
        take(10_001)
    now += 0.25
    assert take(MEBIBYTE // 8) == MEBIBYTE // 8
    with pytest.raises(PayloadTooBig):
        take(20_000)
    now += 1_000
    with pytest.raises(PayloadTooBig):
        take(MEBIBYTE + 1)
    with pytest.raises(PayloadTooBig):
        take(1_001, max_size=1_000)
    assert take(MEBIBYTE, max_size=None) == MEBIBYTE


def test_what_is_not_compressed_costs_nothing_of_it() -> None:
    factory = DeflateFactory(burst=65_536, per_second=65_536, clock=lambda: 0.0)
    _, agreed = factory.process_request_params(CHROMIUM, [])
    for _ in range(3):
        plain = Frame(Opcode.BINARY, bytes(60_000))
        assert agreed.decode(plain, max_size=65_536) is plain


def test_the_factory_is_what_a_client_library_understands() -> None:
    client = ClientPerMessageDeflateFactory(client_max_window_bits=True)
    answer, _ = DeflateFactory(1, 1).process_request_params(client.get_request_params(), [])
    assert client.process_response_params(answer, []).remote_max_window_bits == 12

"""Over real sockets on loopback: the limits are about bytes on a wire."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator

import pytest
import websockets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from sfu import open_files
from signaling.errors import SettingsError
from signaling.http_server import HttpServer, listen
from signaling.settings import HttpSettings
from tests.signaling.edge import until
from tests.signaling.listening import listening


async def _length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(request.query_params.get("q", ""))))


async def _echo_length(socket_: WebSocket) -> None:
    await socket_.accept()
    await socket_.send_text(str(len(socket_.query_params["q"])))
    with contextlib.suppress(Exception):
        await socket_.send_text(str(len(await socket_.receive_bytes())))


async def _long(request: Request) -> Response:
    return Response(b"x" * 20_000_000)


APP = Starlette(routes=[Route("/length", _length), Route("/long", _long), WebSocketRoute("/ws", _echo_length)])


STRANGER = "127.0.0.2"
"""An address of loopback that the server does not listen on."""


@contextlib.asynccontextmanager
async def running(settings: HttpSettings) -> AsyncIterator[int]:
    async with listening(APP, settings) as (port, _):
        yield port


def connected(port: int, q: str, origin: str = "127.0.0.1") -> websockets.connect:
    return websockets.connect(f"ws://127.0.0.1:{port}/ws?q={q}", local_addr=(origin, 0))


async def _until_closed(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(ConnectionResetError):
        return await reader.read()
    return b""


async def test_a_request_line_of_64_kilobytes_passes_and_a_longer_head_is_refused() -> None:
    async with running(HttpSettings(request_head_max_bytes=100_000)) as port:
        for size, passes in ((65_536, True), (600_000, False)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /length?q=" + b"x" * size + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            # What was not read makes the kernel reset the connection, so the refusal itself may be lost.
            assert (b"200 OK" in await _until_closed(reader)) is passes
            writer.close()


async def test_a_websocket_upgrade_with_a_long_request_line_passes() -> None:
    async with running(HttpSettings()) as port, connected(port, "x" * 65_536) as client:
        assert await client.recv() == "65536"


async def test_an_oversize_signal_message_closes_the_connection() -> None:
    async with running(HttpSettings(websocket_message_max_bytes=65_536)) as port:
        for size in (65_536, 65_537):
            async with connected(port, "x") as client:
                await client.recv()
                await client.send(b"x" * size)
                if size == 65_536:
                    assert await client.recv() == "65536"
                else:
                    with pytest.raises(websockets.ConnectionClosedError) as closed:
                        await client.recv()
                    assert closed.value.rcvd is not None
                    assert closed.value.rcvd.code == 1009


async def test_fragments_count_together() -> None:
    """S-41"""
    settings = HttpSettings(websocket_message_max_bytes=65_536)
    async with running(settings) as port, connected(port, "x") as client:
        await client.recv()
        with contextlib.suppress(websockets.ConnectionClosedError):
            await client.send([b"x" * 1000] * 100)
        with pytest.raises(websockets.ConnectionClosedError):
            await client.recv()


@pytest.mark.parametrize("sent", [b"", b"GET /leng", b"GET /length HTTP/1.1\r\nHost: x\r\n"])
async def test_a_connection_without_a_complete_head_is_closed(sent: bytes) -> None:
    """S-40"""
    async with running(HttpSettings(request_head_timeout_seconds=0.5)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await asyncio.wait_for(_until_closed(reader), 10) == b""
        writer.close()


async def test_a_head_that_trickles_in_is_closed_although_bytes_keep_coming() -> None:
    """S-40"""
    async with running(HttpSettings(request_head_timeout_seconds=0.5)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def trickle() -> None:
            with contextlib.suppress(ConnectionError):
                for _ in range(600):
                    writer.write(b"a")
                    await writer.drain()
                    await asyncio.sleep(0.05)

        sender = asyncio.create_task(trickle())
        assert await asyncio.wait_for(_until_closed(reader), 10) == b""
        sender.cancel()
        writer.close()


async def test_a_kept_alive_connection_outlives_the_head_timeout() -> None:
    async with running(HttpSettings(request_head_timeout_seconds=0.5)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET /length?q=abc HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in await reader.readline()
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(1) == b"3"
            await asyncio.sleep(0.8)
        writer.close()


ANSWERED_EARLY = b"GET /length?q=abc HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


async def _answer(reader: asyncio.StreamReader) -> bytes:
    assert b"200 OK" in await reader.readline()
    await reader.readuntil(b"\r\n\r\n")
    return await reader.readexactly(1)


@pytest.mark.parametrize("sent", [b"", b"a"])
async def test_a_body_that_nobody_asks_for_any_more_is_not_waited_for(sent: bytes) -> None:
    """S-40: the answer needed none of it."""
    async with listening(APP, HttpSettings(request_body_timeout_seconds=0.5)) as (port, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ANSWERED_EARLY % 999_999_999)
        assert await _answer(reader) == b"3"
        assert len(server.server_state.connections) == 1
        writer.write(sent)
        assert await asyncio.wait_for(_until_closed(reader), 10) == b""
        await until(lambda: not server.server_state.connections)
        writer.close()


async def test_a_body_that_comes_after_the_answer_costs_nothing() -> None:
    settings = HttpSettings(request_body_timeout_seconds=0.5, request_head_timeout_seconds=0.5, keep_alive_seconds=1)
    async with listening(APP, settings) as (port, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(ANSWERED_EARLY % 2)
            assert await _answer(reader) == b"3"
            for rest in (b"x", b"y"):
                writer.write(rest)
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.6)
        # And then it is an idle connection like any other.
        assert await asyncio.wait_for(_until_closed(reader), 10) == b""
        await until(lambda: not server.server_state.connections)
        writer.close()


async def _cut_off_unread(port: int, server: HttpServer, header: bytes = b"") -> None:
    """Ask for much, read nothing, and wait until the server has ended the connection."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", port))
    raw.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n")
    await until(lambda: bool(server.server_state.total_requests))
    await until(lambda: not server.server_state.connections)
    raw.close()


async def test_who_does_not_read_his_answer_is_cut_off() -> None:
    """S-40"""
    async with listening(APP, HttpSettings(unread_response_seconds=0.5)) as (port, server):
        await _cut_off_unread(port, server)
        # One who reads gets all of it, and is still there.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert len(await reader.readexactly(20_000_000)) == 20_000_000
        await asyncio.sleep(0.8)
        assert len(server.server_state.connections) == 1
        writer.close()


async def test_who_does_not_read_cannot_hold_up_a_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signaling.http_server._CLOSING_SECONDS", 0.5)
    async with listening(APP, HttpSettings()) as (port, server):
        await _cut_off_unread(port, server, b"Connection: close\r\n")


def test_a_taken_port_is_said_in_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SettingsError, match="another program listens there; choose another with --port"):
            listen("127.0.0.1", taken.getsockname()[1], 16)


def test_a_foreign_address_is_said_in_a_sentence() -> None:
    with pytest.raises(SettingsError, match="does not have that address"):
        listen("192.0.2.1", 7880, 16)


async def _opened(
    port: int, number: int, origin: str = STRANGER
) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    return [await asyncio.open_connection("127.0.0.1", port, local_addr=(origin, 0)) for _ in range(number)]


async def test_a_connection_too_many_is_told_so_at_once_and_the_next_is_served_when_one_ends() -> None:
    """Also where nobody sends anything: the server's own files must not be taken by those who are only there."""
    async with running(HttpSettings(connections_max=10)) as port:
        silent = await _opened(port, 10)
        ((reader, writer),) = await _opened(port, 1)
        async with asyncio.timeout(2):
            assert (await _until_closed(reader)).startswith(b"HTTP/1.1 503 ")
        writer.close()
        silent[0][1].close()
        await silent[0][1].wait_closed()
        async with asyncio.timeout(5), connected(port, "xyz", STRANGER) as socket_:
            assert await socket_.recv() == "3"
        for _, writer in silent:
            writer.close()


async def test_where_strangers_take_all_places_a_check_of_this_machine_is_answered() -> None:
    """kubelet's liveness probe, which would end the server; of its connections there are so many and no more."""
    async with running(HttpSettings(connections_max=10)) as port:
        silent = await _opened(port, 10)
        own = await _opened(port, 64, "127.0.0.1")
        reader, writer = own[-1]
        writer.write(b"GET /length?q=xyz HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"
        for origin in (STRANGER, "127.0.0.1"):
            ((reader, writer),) = await _opened(port, 1, origin)
            async with asyncio.timeout(2):
                assert (await _until_closed(reader)).startswith(b"HTTP/1.1 503 ")
            writer.close()
        for _, writer in (*silent, *own):
            writer.close()


def test_connections_leave_files_to_the_server_s_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """F-30"""
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.append(wanted))
    assert open_files.for_connections(20_000, 256) == 768
    open_files.raise_limit()
    assert limits[-1] == (4096, 4096)
    assert open_files.for_connections(20_000, 256) == 3840
    assert open_files.for_connections(500, 256) == 500
    limits.append((resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert open_files.for_connections(20_000, 256) == 20_000

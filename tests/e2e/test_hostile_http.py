"""Requests that are no good HTTP, paths and hosts of nobody, ports that nobody opened: by hand, on a socket."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.harness.server import Endpoint, ServerProcess

pytestmark = pytest.mark.e2e

HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def exchange(server: Endpoint, request: bytes, seconds: float = 10) -> bytes:
    """All that the server says to these bytes until it closes or is silent for a second."""
    parts = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    answer = b""
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(seconds):
            while more := await asyncio.wait_for(reader.read(65536), 1):
                answer += more
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(line[9:12]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


def post(*headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((b"POST /v1/calls HTTP/1.1", b"Host: x", *headers, b"", body))


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(b"Content-Length: -1", body=HIDDEN),
        post(b"Content-Length: +5", body=b"hello" + HIDDEN),
        post(b"Content-Length: 5", b"Content-Length: 0", body=b"hello" + HIDDEN),
        post(b"Content-Length: 5, 0", body=b"hello" + HIDDEN),
        post(b"Content-Length: 99999999999999999999999", body=HIDDEN),
        post(b"Content-Length: five", body=HIDDEN),
        post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + HIDDEN),
        post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + HIDDEN),
        post(b"Transfer-Encoding: chunked", body=b"fffffffffffffffff\r\n" + HIDDEN),
        post(b"Transfer-Encoding: chunked", body=b"-1\r\n" + HIDDEN),
        post(b"Transfer-Encoding: chunked", body=b"0x5\r\nhello\r\n0\r\n\r\n" + HIDDEN),
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN),
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX\x0b: b\r\n\r\n",
        b"GET /hea lthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda request: repr(request[:60]),
)
async def test_what_two_readers_would_read_differently_is_refused(server: Endpoint, request_bytes: bytes) -> None:
    """S-52: one refusal, the connection ends, and what is hidden behind it is never read as a request."""
    answer = await exchange(server, request_bytes)
    assert len(statuses(answer)) <= 1, answer
    assert all(400 <= status < 600 for status in statuses(answer)), answer
    assert b"ok" not in answer.partition(b"\r\n\r\n")[2].lower()[:3]
    assert statuses(await exchange(server, HIDDEN)) == [200]


async def test_ranges_cost_no_more_than_the_file(server: Endpoint) -> None:
    """S-52: thousands of overlapping ranges of one file."""
    path = "/static/vendor/livekit-client.umd.js"
    ranges = ",".join(f"{start}-" for start in range(3_000))
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes={ranges}\r\nConnection: close\r\n\r\n"
    answer = await exchange(server, request.encode())
    whole = await exchange(server, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert statuses(answer)[0] in (200, 206, 400, 416, 431)
    assert len(answer) <= len(whole) + 1_000


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../../etc/passwd",
        "/static/..%2f..%2f..%2f..%2fetc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/static//etc/passwd",
        "/static/..\\..\\pyproject.toml",
        "//etc/passwd",
        "/etc/passwd",
        "/.git/config",
        "/console/static/../../settings.py",
    ],
)
async def test_no_path_leaves_what_is_served(server: Endpoint, path: str) -> None:
    """S-71: files of the server are not to be had."""
    answer = await exchange(server, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert statuses(answer)[0] in (303, 307, 400, 404, 405, 421)
    assert b"root:" not in answer
    assert b"BaseSettings" not in answer


@pytest.mark.parametrize(
    "path",
    [
        "/whip",
        "/whep",
        "/rtc/whip",
        "/debug/pprof",
        "/debug/pprof/heap",
        "/debug",
        "/debug/goroutine",
        "/admin",
        "/twirp/livekit.Egress/StartRoomCompositeEgress",
    ],
)
async def test_what_is_not_offered_is_not_there(server: Endpoint, path: str) -> None:
    """S-54, S-79, F-28: no WHIP or WHEP, no recording, no page of the process's inside."""
    for method in ("GET", "POST", "PATCH", "DELETE"):
        answer = await exchange(server, f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        assert statuses(answer)[0] in (401, 404, 405, 501), (method, path)


async def test_only_the_documented_ports_are_open() -> None:
    """S-79, S-69: signaling's port, and a port a worker for UDP and TCP; nothing else of any process of ours."""
    server = ServerProcess(workers=2)
    try:
        await server.start()
        assert server.process is not None
        pids = {server.process.pid, *server.worker_pids(), *children(server.process.pid)}
        media = {server.udp_port, server.udp_port + 1}
        assert listening(pids, "tcp") == {server.port} | media
        assert listening(pids, "udp") == media
    finally:
        server.close()


def children(pid: int) -> set[int]:
    """Of the same session: the keeper of the listening socket, the workers."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = path.read_text(errors="replace").rpartition(")")[2].split()
        if int(fields[1]) == pid:
            found |= {int(path.parent.name), *children(int(path.parent.name))}
    return found


def listening(pids: set[int], kind: str) -> set[int]:
    """Ports on which sockets of these processes take what comes."""
    inodes = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(entry.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    ports = set()
    for table in (Path(f"/proc/net/{kind}"), Path(f"/proc/net/{kind}6")):
        for fields in map(str.split, table.read_text().splitlines()[1:]):
            is_open = kind == "udp" or fields[3] == "0A"
            if is_open and fields[9] in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


async def test_an_address_that_is_merely_named_gets_no_packet(server: Endpoint, room: str) -> None:
    """S-70: a candidate of somebody else's, in the description and trickled; the server only answers."""
    from livekit.protocol import rtc

    from tests.e2e.raw_call import raw_call, still_a_call

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as victim, socket.socket() as listener:
        victim.bind(("127.0.0.1", 0))
        victim.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        udp, tcp = victim.getsockname()[1], listener.getsockname()[1]
        async with raw_call(server, room) as (alice, bob):
            for target in (rtc.SignalTarget.PUBLISHER, rtc.SignalTarget.SUBSCRIBER):
                for candidate in (
                    f"candidate:1 1 udp 2130706431 127.0.0.1 {udp} typ host",
                    f"candidate:2 1 udp 1694498815 127.0.0.1 {udp} typ srflx raddr 0.0.0.0 rport 0",
                    f"candidate:3 1 tcp 1518280447 127.0.0.1 {tcp} typ host tcptype passive",
                ):
                    init = f'{{"candidate": "{candidate}", "sdpMid": "0", "sdpMLineIndex": 0}}'
                    trickle = rtc.TrickleRequest(candidateInit=init, target=target)
                    await alice.participant._send(rtc.SignalRequest(trickle=trickle))
            await still_a_call(alice, bob)
            await asyncio.sleep(2)
            for quiet in (victim.recv, lambda _: listener.accept()):
                with pytest.raises(BlockingIOError):
                    quiet(2_048)

"""`python -m bench.floods`: joins and running calls while strangers flood the media port, beside the same without them.

Datagrams that need no right to be sent: DTLS ClientHellos from a thousand ports (an attack that ended calls on several
servers in 2023), and STUN checks for users that do not exist, each of its own. What should come of it: everybody joins,
no later than before by a tenth, running calls lose less than one packet in a thousand, and strangers get no answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import httpx2

_UDP_SEGMENT = 103
_SEGMENTS = 32
_BURSTS_PER_SECOND = 250
_HELLOS_PER_SECOND, _HELLO_PORTS = 10_000, 1_000
_CHECKS_PER_SECOND, _CHECK_PORTS = 200_000, 8
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Flood:
    """`make` gives a datagram; all of one flood have one length."""

    name: str
    per_second: int
    ports: int
    make: Callable[[], bytes]


def client_hello() -> bytes:
    """A DTLS 1.2 ClientHello whose only cipher is TLS_NULL_WITH_NULL_NULL (RFC 6347 §4.3.2)."""
    hello = b"\xfe\xfd" + secrets.token_bytes(32) + b"\0" + b"\0" + b"\0\x02\0\0" + b"\x01\0"
    message = b"\x01" + len(hello).to_bytes(3, "big") + b"\0\0" + bytes(3) + len(hello).to_bytes(3, "big") + hello
    return b"\x16\xfe\xfd" + bytes(8) + struct.pack("!H", len(message)) + message


def unknown_check() -> bytes:
    """A STUN check with everything in it, for a user that nobody is (RFC 8489 §14)."""
    username = f"{secrets.token_hex(8)}:{secrets.token_hex(2)}".encode()
    body = struct.pack("!HH", 0x0006, len(username)) + username + bytes(-len(username) % 4)
    body += struct.pack("!HHI", 0x0024, 4, 0x6E7F_1EFF) + struct.pack("!HHQ", 0x802A, 8, 7)
    body += struct.pack("!HH", 0x0008, 20) + secrets.token_bytes(20)
    head = struct.pack("!HHI", 0x0001, len(body) + 8, 0x2112_A442) + secrets.token_bytes(12)
    fingerprint = (zlib.crc32(head + body) & 0xFFFF_FFFF) ^ 0x5354_554E
    return head + body + struct.pack("!HHI", 0x8028, 4, fingerprint)


FLOODS = (
    Flood("hellos", _HELLOS_PER_SECOND, _HELLO_PORTS, client_hello),
    Flood("checks", _CHECKS_PER_SECOND, _CHECK_PORTS, unknown_check),
)


def send(flood: Flood, target: tuple[str, int], stop: Event, report: Any) -> None:
    """Until `stop`: bursts at that pace, as segmented messages, which leave as single datagrams."""
    datagrams = [flood.make() for _ in range(4_096)]
    size = len(datagrams[0])
    bursts = [b"".join(datagrams[at : at + _SEGMENTS]) for at in range(0, len(datagrams), _SEGMENTS)]
    sockets = []
    for _ in range(flood.ports):
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, size)
        one.connect(target)
        one.setblocking(False)
        sockets.append(one)
    began, sent, turn = time.monotonic(), 0, 0
    while not stop.is_set():
        due = int((time.monotonic() - began) * flood.per_second)
        # Whoever was held up does not catch up at once: a flood of that pace, not a burst, is the question.
        sent = max(sent, due - flood.per_second // 10)
        while sent + _SEGMENTS <= due:
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                sockets[turn % len(sockets)].send(bursts[turn % len(bursts)])
            turn, sent = turn + 1, sent + _SEGMENTS
        time.sleep(1 / _BURSTS_PER_SECOND)
    elapsed, answers = time.monotonic() - began, 0
    for one in sockets:
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            while one.recv(2_048):
                answers += 1
        one.close()
    report.put({"per_second": turn * _SEGMENTS / elapsed, "answers": answers})


@contextlib.contextmanager
def flooded(flood: Flood | None, target: tuple[str, int]) -> Iterator[dict[str, float]]:
    """What came of it stands in the dictionary afterwards."""
    outcome: dict[str, float] = {}
    if flood is None:
        yield outcome
        return
    context = multiprocessing.get_context("fork")
    stop, report = context.Event(), context.Queue()
    sender = context.Process(target=send, args=(flood, target, stop, report))
    sender.start()
    try:
        time.sleep(0.5)
        yield outcome
    finally:
        stop.set()
        outcome |= report.get(timeout=30)
        sender.join()


@contextlib.contextmanager
def server(port: int) -> Iterator[str]:
    """A development server with one worker; its media port is the next one."""
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="callyard-floods-") as state:
        arguments = ["--dev", "--port", str(port), "--udp-port", str(port + 1), "--workers", "1"]
        process = subprocess.Popen(
            [sys.executable, "-m", "signaling.cli", "serve", *arguments],
            env={**os.environ, "CALLYARD_STATE_DIR": state, "CALLYARD_NODE_RUN_DIRECTORY": f"{state}/run"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + _START_SECONDS
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx2.TransportError):
                    if httpx2.get(f"{url}/readyz").status_code == 200:
                        break
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.terminate()  # the second one forces
                process.wait(10)


def load(url: str, *arguments: str) -> dict[str, Any]:
    """What `callyard load` found."""
    command = [sys.executable, "-m", "signaling.cli", "load", url, "--dev", "--json", *arguments]
    found = subprocess.run(command, capture_output=True, check=False)
    document: dict[str, Any] = json.loads(found.stdout)
    return document


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.floods", description=__doc__)
    parser.add_argument("--port", type=int, default=28_880, help="of the server under test; it takes the next one too")
    parser.add_argument("--joins", type=int, default=500)
    parser.add_argument("--join-rate", type=float, default=25.0, help="joins a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of calls that are watched")
    parser.add_argument("--output", type=Path, help="write the figures there as JSON")
    arguments = parser.parse_args()
    rooms = arguments.joins // 2
    joins = ["--rooms", str(rooms), "--publishers", "1", "--subscribers", "1", "--no-video"]
    joins += ["--join-rate", str(arguments.join_rate), "--duration", "1"]
    calls = ["--rooms", "4", "--members", "3", "--publishers", "0", "--subscribers", "0", "--video-bitrate", "500000"]
    calls += ["--no-simulcast", "--duration", str(arguments.seconds)]
    figures: dict[str, Any] = {}
    for flood in (None, *FLOODS):
        name = flood.name if flood else "none"
        with server(arguments.port) as url:
            with flooded(flood, ("127.0.0.1", arguments.port + 1)) as joining:
                joined = load(url, *joins)
            with flooded(flood, ("127.0.0.1", arguments.port + 1)) as running:
                watched = load(url, *calls)
        media = watched["running"]
        expected, lost = (sum(media[kind][field] for kind in ("audio", "video")) for field in ("expected", "lost"))
        figures[name] = {
            "flood_per_second": round(min(joining.get("per_second", 0), running.get("per_second", 0))),
            "answers": joining.get("answers", 0) + running.get("answers", 0),
            "joined": joined["joined"],
            "connected": joined["transports_connected"],
            "failed": joined["failed"],
            "join_seconds": joined["join_seconds"],
            "first_media_p99_ms": joined["joining"]["first_media_time"]["p99_ns"] / 1e6,
            "expected": expected,
            "lost_share": lost / max(1, expected),
        }
        print(name, json.dumps(figures[name]), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Measures the calls system: joins at a rate, searches among many calls, and how soon event sockets are told.

`python -m bench.calls [joins|search|sockets …]`, on SQLite, the server in a process of its own with real HTTP and a
media side in memory that reports every participant. Not here: media (`bench/measure.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx2
import uvloop
from starlette.applications import Starlette

from signaling import collector
from signaling.api.v1.service import Wanted
from signaling.calls.media import MediaFeed, Permission
from signaling.calls.model import NodeFacts
from signaling.calls.operations import calls
from signaling.calls.operations.members import NamedMember
from signaling.calls.principal import Principal, mint
from signaling.calls.settings import CallsSettings
from signaling.calls_system import create_calls_system
from signaling.http_server import http_server, listen
from signaling.settings import HttpSettings

KEY, SECRET = "bench", "a secret of the bench, thirty-two characters"
JOINS_PER_SECOND, JOIN_SECONDS, PARTICIPANTS_A_CALL = 200, 10, 20
CALLS, SEARCHES = 10_000, 100
SOCKETS, CHANGES = 1_000, 20


class Media:
    """A media side in memory: takes everything, and reports a participant a moment after his token was made."""

    feed: MediaFeed
    node = "bench"

    async def create_room(self, name: str, **_: Any) -> None: ...

    async def close_room(self, name: str, reason: str) -> None: ...

    async def update_participant(self, room: str, identity: str, permission: Permission) -> None: ...

    async def remove_participant(self, room: str, identity: str, reason: str, version: int | None) -> None: ...

    async def mute_tracks(self, room: str, identity: str, sources: Sequence[str]) -> None: ...

    async def identities(self, room: str) -> Sequence[str] | None:
        return ()

    async def managed_rooms(self) -> Sequence[str]:
        return ()

    async def facts(self) -> NodeFacts:
        return NodeFacts(id=self.node, url="ws://127.0.0.1:7880")

    def mint_token(
        self, *, identity: str, name: str, room: str, permission: Permission, now: datetime, expires_at: datetime
    ) -> str:
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, lambda: loop.create_task(self.feed.participant_joined(room, identity)))
        claims = {"sub": identity, "name": name, "exp": int(expires_at.timestamp())}
        return mint({**claims, "video": permission.video_grant(room)}, KEY, SECRET)


async def serve(database: str, port: int, prepared_calls: int) -> None:
    """The server process: fill the database, say so, and serve until killed."""
    media = Media()
    system = create_calls_system(CallsSettings(), f"sqlite:///{database}", media, {KEY: SECRET}, dev=True)
    media.feed = system.feed
    await system.start()
    await _fill(system, prepared_calls)
    listener = listen("127.0.0.1", port, 2_048)
    collector.settle()
    print("ready", flush=True)
    await http_server(Starlette(routes=list(system.routes)), HttpSettings()).serve(sockets=[listener])


async def _fill(system: Any, count: int) -> None:
    service = system.service
    server = Principal("server", None, datetime.max.replace(tzinfo=UTC))
    for name in range(100):
        await service.authenticate(_token(f"u{name}"), None)

    async def some(numbers: Iterable[int]) -> None:
        for number in numbers:
            custom = {"name": f"Call {number}", "floor": number % 500, "tags": ["bench"]}
            people = [NamedMember(f"u{number % 100}", "call_member", None, "/")]
            new = calls.NewCall(people, custom)
            wanted = Wanted(users=[f"u{number % 100}"], create="blank", reach=False)
            await service.operate(
                server, "default", f"c{number}", lambda turn, new=new: calls.create(turn, new), wanted
            )

    await asyncio.gather(*(some(range(start, count, 50)) for start in range(min(50, count))))


def _token(user: str | None) -> str:
    claims: dict[str, Any] = {"sub": user} if user else {"scope": "server"}
    return mint({**claims, "exp": int(time.time()) + 86_400}, KEY, SECRET)


@dataclass(frozen=True)
class Server:
    url: str
    pid: int

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def server(prepared_calls: int = 0) -> AsyncIterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        argument = json.dumps({"database": f"{directory}/calls.db", "port": port, "prepared_calls": prepared_calls})
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.calls", "--serve", argument, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        while (line := await process.stdout.readline()) and line != b"ready\n":
            pass
        try:
            yield Server(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.kill()
            await process.wait()


def _figures(name: str, seconds: Sequence[float], bar_ms: float, at: float = 0.99) -> None:
    ordered = sorted(seconds)
    shown = {share: ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1_000 for share in (0.5, 0.9, 0.99)}
    verdict = "met" if shown[at] <= bar_ms else "MISSED"
    quantiles = "  ".join(f"p{round(share * 100)} {value:.1f}" for share, value in shown.items())
    print(f"{name:<52} {quantiles} ms   bar p{round(at * 100)} {bar_ms:g} ms: {verdict}")


def _client(url: str) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=200, max_keepalive_connections=200)
    return httpx2.AsyncClient(base_url=f"{url}/v1", trust_env=False, timeout=60, limits=limits)


async def joins() -> None:
    """Open loop: each join is due at its instant and is late from then on, whatever became of the others."""
    total = JOINS_PER_SECOND * JOIN_SECONDS
    async with server() as served, _client(served.url) as client:
        count = total // PARTICIPANTS_A_CALL
        for number in range(count):
            head = {"authorization": f"Bearer {_token(None)}"}
            assert (await client.put(f"/calls/default/c{number}", json={}, headers=head)).status_code == 201
        tokens = [_token(f"user{number}") for number in range(total)]
        for start in range(0, total, 50):  # users are made by their first request; that is not measured
            await asyncio.gather(
                *(_get(client, token, f"/users/user{start + i}") for i, token in enumerate(tokens[start : start + 50]))
            )
        before = served.cpu_seconds()
        begin = time.perf_counter() + 0.2

        async def one(number: int) -> float:
            due = begin + number / JOINS_PER_SECOND
            await asyncio.sleep(due - time.perf_counter())
            path = f"/calls/default/c{number % count}/join"
            reply = await client.post(
                path, json={"device_id": "d"}, headers={"authorization": f"Bearer {tokens[number]}"}
            )
            assert reply.status_code == 200, reply.text
            return time.perf_counter() - due

        latencies = await asyncio.gather(*(one(number) for number in range(total)))
        await asyncio.sleep(0.5)
        cpu = (served.cpu_seconds() - before) / total
    print(f"server CPU per join, the participant's report included: {cpu * 1_000:.2f} ms")
    _figures(f"join, {JOINS_PER_SECOND}/s, calls of {PARTICIPANTS_A_CALL}", latencies, 20)


async def _get(client: httpx2.AsyncClient, token: str, path: str) -> None:
    assert (await client.get(path, headers={"authorization": f"Bearer {token}"})).status_code == 200


async def search() -> None:
    filters: dict[str, tuple[dict[str, Any], int]] = {
        "by custom field": ({"custom.floor": 77}, 20),
        "by member": ({"members": {"$in": ["u7"]}}, 25),
        "by time and name": (
            {"created_at": {"$gte": "2020-01-01T00:00:00Z"}, "custom.name": {"$prefix": "Call 9"}},
            25,
        ),
        "none matches": ({"custom.name": "nothing"}, 0),
    }
    async with server(CALLS) as served, _client(served.url) as client:
        for name, (wanted, found) in filters.items():
            latencies = []
            for number in range(SEARCHES):
                head = {"authorization": f"Bearer {_token(f'u{number % 100}')}"}
                start = time.perf_counter()
                reply = await client.post("/calls/query", json={"filter": wanted}, headers=head)
                latencies.append(time.perf_counter() - start)
                assert reply.status_code == 200
                assert len(reply.json()["items"]) == found
            _figures(f"search among {CALLS} calls, {name}", latencies, 50)


class _Ear(asyncio.Protocol):
    """A bare WebSocket client: upgrades, authenticates, subscribes, and notes when bytes with the mark arrive."""

    def __init__(self, host: str, token: str, subscribed: asyncio.Queue[None], heard: dict[bytes, list[float]]) -> None:
        self._host, self._token, self._subscribed, self._heard = host, token, subscribed, heard
        self._stage = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET /v1/events HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if self._stage == 0:
            assert data.startswith(b"HTTP/1.1 101"), data
            self._say({"type": "auth", "token": self._token})
            self._stage = 1
        elif self._stage == 1 and b'"hello"' in data:
            self._say({"type": "subscribe", "cids": ["default:x"]})
            self._stage = 2
        elif self._stage == 2 and b'"subscribed"' in data:
            self._subscribed.put_nowait(None)
            self._stage = 3
        elif b'"mark":' in data:
            mark = data.partition(b'"mark":')[2][:6]
            self._heard.setdefault(mark, []).append(time.perf_counter())

    def _say(self, frame: dict[str, Any]) -> None:
        payload = json.dumps(frame).encode()
        length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
        # The mask may be all zeros: it is there against broken proxies, and there is none.
        self._transport.write(b"\x81" + length + bytes(4) + payload)


async def sockets() -> None:
    async with server() as served, _client(served.url) as client:
        head = {"authorization": f"Bearer {_token(None)}"}
        assert (await client.put("/calls/default/x", json={}, headers=head)).status_code == 201
        host, port = "127.0.0.1", int(served.url.rpartition(":")[2])
        subscribed: asyncio.Queue[None] = asyncio.Queue()
        heard: dict[bytes, list[float]] = {}
        loop = asyncio.get_running_loop()
        for start in range(0, SOCKETS, 50):
            for number in range(start, start + 50):
                token = _token(f"user{number}")
                await loop.create_connection(lambda token=token: _Ear(host, token, subscribed, heard), host, port)  # type: ignore[misc]
            for _ in range(50):
                await asyncio.wait_for(subscribed.get(), 30)
        latencies: list[float] = []
        for change in range(CHANGES):
            mark = 100_000 + change
            sent = time.perf_counter()
            reply = await client.patch("/calls/default/x", json={"custom": {"mark": mark}}, headers=head)
            assert reply.status_code == 200
            for _ in range(500):
                if len(heard.get(str(mark).encode(), ())) == SOCKETS:
                    break
                await asyncio.sleep(0.01)
            arrived = heard[str(mark).encode()]
            assert len(arrived) == SOCKETS
            latencies += [at - sent for at in arrived]
    _figures(f"a change told to {SOCKETS} event sockets", latencies, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="*", choices=["joins", "search", "sockets", []], help="which; all if none is named"
    )
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        uvloop.run(serve(**json.loads(given.serve)))
        return
    collector.settle()
    for measure in (joins, search, sockets):
        if not given.what or measure.__name__ in given.what:
            uvloop.run(measure())


if __name__ == "__main__":
    main()

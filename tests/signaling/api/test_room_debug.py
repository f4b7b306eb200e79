"""Who may record a participant's trace, within what bounds, and what it is called when it cannot be."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from starlette.applications import Starlette

from sfu import border
from sfu.border import TraceEnd
from sfu.node import NodeError, TraceRefused
from signaling import tokens
from signaling.api.room_debug import room_debug_routes
from signaling.room_service_client import RoomServiceClient, RoomServiceFailed
from tests.signaling.edge import SECRET, Edge, MemoryWorker, real

MAX_SECONDS = 60.0


@dataclass
class FakeTrace:
    chunks: list[tuple[bytes, TraceEnd | None]]
    end: TraceEnd | None = None
    stopped: int = 0

    def __aiter__(self) -> FakeTrace:
        return self

    async def __anext__(self) -> bytes:
        if not self.chunks:
            raise StopAsyncIteration
        lines, self.end = self.chunks.pop(0)
        return lines

    def stop(self) -> None:
        self.stopped += 1


@dataclass(eq=False)
class TracingWorker(MemoryWorker):
    refusal: Exception | None = None
    asked: list[tuple[int, float]] = field(default_factory=list)
    made: FakeTrace | None = None

    async def room_stats(self, room: int) -> border.RoomStats:
        return border.RoomStats(request=0, room=room, transports=(), uptracks=(), downtracks=())

    async def trace(self, transport: int, seconds: float) -> tuple[FakeTrace, bytes]:
        self.asked.append((transport, seconds))
        if self.refusal is not None:
            raise self.refusal
        tick, end = b'{"line":"tick","at_ns":1}\n', b'{"line":"end","at_ns":2,"reason":"time"}\n'
        self.made = FakeTrace([(tick, None), (tick + end, TraceEnd.TIME)])
        return self.made, b'{"line":"header"}\n{"line":"state"}\n'


@dataclass
class Server:
    edge: Edge
    worker: TracingWorker
    http: httpx2.AsyncClient

    async def get(self, path: str, **claims: Any) -> httpx2.Response:
        grants = {"video": {"roomAdmin": True, "room": "lobby"}} | claims
        token = jwt.encode({"iss": "devkey", "exp": 4_000_000_000, **grants}, SECRET, algorithm="HS256")
        return await self.http.get(path, headers={"authorization": f"Bearer {token}"})

    async def refused(self, path: str, **claims: Any) -> tuple[int, str, str]:
        reply = await self.get(path, **claims)
        body = reply.json()
        return reply.status_code, body["code"], body["message"]


def application(edge: Edge) -> Starlette:
    def verify(token: str) -> Any:
        return tokens.verify(token, edge.rooms.settings.keyring, 0)

    return Starlette(routes=room_debug_routes(edge.rooms, verify, MAX_SECONDS))


@pytest.fixture
async def server() -> Server:
    worker = TracingWorker("0-a")
    edge = await Edge.start([worker])
    await edge.join("alice")
    transport = httpx2.ASGITransport(app=application(edge))
    return Server(edge, worker, httpx2.AsyncClient(transport=transport, base_url="http://server"))


TRACE = "/debug/rooms/lobby/trace"


async def test_a_trace_is_streamed_with_what_its_numbers_stand_for(server: Server) -> None:
    reply = await server.get(f"{TRACE}?identity=alice&seconds=5")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/x-ndjson")
    assert reply.headers["cache-control"] == "no-store"
    lines = [json.loads(line) for line in reply.text.splitlines()]
    assert [line["line"] for line in lines] == ["header", "names", "state", "tick", "tick", "names", "end"]
    assert (lines[1]["room"], lines[1]["identity"], lines[1]["tracks"]) == ("lobby", "alice", {})
    alice = next(iter(server.edge.hosted().room.core.participants.values()))
    assert server.worker.asked == [(alice.receiving.transport, 5.0)]
    assert server.worker.made is not None
    assert server.worker.made.stopped == 1


@pytest.mark.parametrize("seconds", ["0", "0.5", "60.1", "-1", "nan", "inf", "many", ""])
async def test_its_length_is_bounded(server: Server, seconds: str) -> None:
    status, code, message = await server.refused(f"{TRACE}?identity=alice&seconds={seconds}")
    assert (status, code) == (400, "invalid_argument")
    assert "from 1 to 60" in message
    assert not server.worker.asked


async def test_it_lasts_half_a_minute_unless_said_otherwise(server: Server) -> None:
    await server.get(f"{TRACE}?identity=alice")
    assert server.worker.asked[0][1] == 30.0


async def test_somebody_must_be_named_who_is_there(server: Server) -> None:
    assert (await server.refused(TRACE))[:2] == (400, "invalid_argument")
    assert (await server.refused(f"{TRACE}?identity=bob"))[:2] == (404, "not_found")
    admin = {"video": {"roomAdmin": True, "room": "attic"}}
    assert (await server.refused("/debug/rooms/attic/trace?identity=alice", **admin))[:2] == (404, "not_found")


async def test_only_administrators_of_the_room_may(server: Server) -> None:
    """S-79"""
    path = f"{TRACE}?identity=alice"
    for video in ({"roomJoin": True, "room": "lobby"}, {"roomAdmin": True, "room": "attic"}, {"roomList": True}):
        assert (await server.refused(path, video=video))[:2] == (403, "permission_denied")
    reply = await server.http.get(path)
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated")
    assert not server.worker.asked


async def test_a_room_may_be_called_trace_itself(server: Server) -> None:
    room = "lobby/trace"
    await server.edge.join("bob", room)
    admin = {"video": {"roomAdmin": True, "room": room}}
    reply = await server.get(f"/debug/rooms/{room}?identity=bob", **admin)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    assert list(reply.json()["participants"]) == ["bob"]
    reply = await server.get(f"/debug/rooms/{room}/trace?identity=bob", **admin)
    assert json.loads(reply.text.splitlines()[1])["room"] == room
    # And who administers the lobby sees that of the lobby.
    reply = await server.get(f"{TRACE}?identity=alice")
    assert json.loads(reply.text.splitlines()[1])["room"] == "lobby"


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (TraceRefused(TraceEnd.TOO_MANY), 429, "resource_exhausted"),
        (TraceRefused(TraceEnd.UNKNOWN_TRANSPORT), 412, "failed_precondition"),
        (NodeError("worker 0-a did not answer in 5 s"), 503, "unavailable"),
    ],
)
async def test_what_the_worker_refuses_is_said(server: Server, refusal: Exception, status: int, code: str) -> None:
    server.worker.refusal = refusal
    assert (await server.refused(f"{TRACE}?identity=alice"))[:2] == (status, code)


async def test_the_command_lines_client_gets_the_lines_or_the_sentence(server: Server) -> None:
    client = RoomServiceClient("http://server", "devkey", SECRET, httpx2.ASGITransport(app=application(server.edge)))
    got = b"".join([chunk async for chunk in client.trace("lobby", "alice", 2)])
    assert [json.loads(line)["line"] for line in got.splitlines()][-1] == "end"
    with pytest.raises(RoomServiceFailed, match="refused: requested participant does not exist"):
        await anext(client.trace("lobby", "bob", 2))


async def test_a_real_worker_records_within_its_bounds_and_one_trace_of_each(run_directory: Path) -> None:
    async with real(run_directory) as edge:
        alice = await edge.join("alice")
        transport = edge.hosted().room.core.participants[alice.sid].receiving.transport
        worker = edge.rooms.node.workers[0]
        trace, first = await worker.trace(transport, 1.0)
        header, state = (json.loads(line) for line in first.splitlines())
        assert (header["line"], header["version"], state["line"], state["at_ns"]) == ("header", 1, "state", 0)
        assert header["settings"]["estimate_start_bps"] == edge.rooms.settings.node.engine.estimate_start_bps
        with pytest.raises(TraceRefused) as refused:
            await worker.trace(transport, 1.0)
        assert refused.value.reason is TraceEnd.TOO_MANY
        with pytest.raises(TraceRefused) as refused:
            await worker.trace(transport + 1_000, 1.0)
        assert refused.value.reason is TraceEnd.UNKNOWN_TRANSPORT
        rest = b"".join([chunk async for chunk in trace]).splitlines()
        assert json.loads(rest[-1])["reason"] == "time"
        assert trace.end is TraceEnd.TIME
        trace.stop()
        # One that nobody reads any more makes room.
        given_up, _ = await worker.trace(transport, 60.0)
        given_up.stop()
        again, _ = await worker.trace(transport, 60.0)
        worker.send(border.RemoveTransport(transport=transport))
        last = b"".join([chunk async for chunk in again]).splitlines()[-1]
        assert json.loads(last)["reason"] == "closed"
        counters = await worker.counters()
        assert counters.engine["traces"] == 3

"""The event channel (§5.3, §7.7) over real WebSockets of a real server, and what each receiver is numbered."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest
import websockets
from starlette.applications import Starlette
from websockets.asyncio.client import ClientConnection, connect

from signaling.api.client_address import TrustedProxies
from signaling.api.v1.socket import READ_PER_CALL, REFUSALS_MAX, RESUME_ATTEMPTS_MAX, EventSocket
from signaling.calls.problems import Problem
from signaling.calls.settings import CallsSettings, RateLimits
from signaling.events.channel import Frame
from signaling.store.database import DatabaseAway
from tests.signaling.api.world import Listener, World
from tests.signaling.listening import listening

CALL = "/calls/default/x"
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Wire:
    """A client's connection: frames in, frames out."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, **frame: Any) -> None:
        await self.connection.send(json.dumps(frame))

    async def receive(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(await asyncio.wait_for(self.connection.recv(), 5))
        return frame

    async def until(self, type_: str) -> list[dict[str, Any]]:
        """Return the frames up to the first of a type."""
        frames = [await self.receive()]
        while frames[-1]["type"] != type_:
            frames.append(await self.receive())
        return frames

    async def closed(self) -> int:
        """Return the code the server closes with; what comes before it is left unread."""
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await asyncio.wait_for(self.connection.recv(), 10)
        assert self.connection.close_code is not None
        return self.connection.close_code


class Server:
    def __init__(self, world: World, url: str) -> None:
        self.world, self.url = world, url

    @contextlib.asynccontextmanager
    async def wire(self, **more: Any) -> AsyncIterator[Wire]:
        async with connect(f"{self.url}/v1/events", proxy=None, **more) as connection:
            yield Wire(connection)

    @contextlib.asynccontextmanager
    async def greeted(self, user: str, device: str | None = None, **claims: Any) -> AsyncIterator[Wire]:
        async with self.wire() as wire:
            token = self.world.as_(user, **claims).token
            await wire.send(type="auth", token=token, **({"device_id": device} if device else {}))
            assert (await wire.receive())["type"] == "hello"
            yield wire


@contextlib.asynccontextmanager
async def serving(world: World, *, trusted: Sequence[str] = ()) -> AsyncIterator[Server]:
    async with listening(TrustedProxies(Starlette(routes=list(world.system.routes)), trusted)) as (port, _):
        yield Server(world, f"ws://127.0.0.1:{port}")


@pytest.fixture
async def server(world: World) -> AsyncIterator[Server]:
    async with serving(world) as made:
        yield made


@ON_SQLITE
async def test_the_first_frame_carries_the_token(server: Server) -> None:
    world = server.world
    await world.users("alice")
    async with server.wire() as wire:
        await wire.send(type="auth", token=world.as_("alice").token, device_id="phone")
        hello = await wire.receive()
        assert hello["type"] == "hello"
        assert (hello["user"]["id"], hello["user"]["name"], hello["heartbeat_ms"]) == ("alice", "Alice", 25_000)
        assert hello["connection_id"]
        assert hello["resume_token"]
        await wire.send(type="ping")
        assert await wire.receive() == {"type": "pong"}
        await wire.send(type="dance")
        wrong = await wire.receive()
        assert (wrong["type"], wrong["problem"]["code"]) == ("error", "unprocessable")
        await wire.connection.send("nonsense")
        assert (await wire.receive())["problem"]["code"] == "invalid_request"
        await wire.send(type="ping")
        assert await wire.receive() == {"type": "pong"}


@ON_SQLITE
async def test_the_token_may_come_as_a_subprotocol(server: Server) -> None:
    token = server.world.as_("alice").token
    async with server.wire(subprotocols=["callyard.bearer", token]) as wire:
        assert wire.connection.subprotocol == "callyard.bearer"
        assert (await wire.receive())["user"]["id"] == "alice"


@ON_SQLITE
@pytest.mark.parametrize(
    "frame", [{"type": "auth", "token": "nonsense"}, {"type": "subscribe", "cids": []}, {"type": "auth"}]
)
async def test_without_a_good_token_the_socket_is_closed(server: Server, frame: dict[str, Any]) -> None:
    async with server.wire() as wire:
        await wire.send(**frame)
        error = await wire.receive()
        assert (error["type"], error["problem"]["code"], error["problem"]["status"]) == (
            "error",
            "unauthenticated",
            401,
        )
        assert await wire.closed() == 4401


@ON_SQLITE
async def test_a_database_that_is_away_is_no_bad_token(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> None:
        raise DatabaseAway("The database does not answer; try again.")

    monkeypatch.setattr(server.world.service, "authenticate", away)
    async with server.wire() as wire:
        await wire.send(type="auth", token=server.world.as_("alice").token)
        problem = (await wire.receive())["problem"]
        assert (problem["code"], problem["status"]) == ("unavailable", 503)
        assert await wire.closed() == 4500


@ON_SQLITE
async def test_members_hear_without_subscribing_and_others_after_it(server: Server) -> None:
    world = server.world
    await world.users("alice", "bob")
    async with server.greeted("bob") as bob, server.greeted("carl") as carl, server.greeted("eve") as eve:
        made = await world.call("default/x", by="alice", members=["bob"])
        event = await bob.receive()
        assert {name: event[name] for name in event if name not in ("id", "data")} == {
            "type": "call.created",
            "cid": "default:x",
            "session_id": None,
            "seq": 1,
            "prev_seq": 0,
            "at": "2026-01-01T09:00:00.000Z",
            "actor": "alice",
        }
        assert event["data"] == {"call": made["call"], "members": made["members"]}
        await carl.send(type="subscribe", cids=["default:x", "default:nothing", "nonsense"])
        assert await carl.receive() == {
            "type": "subscribed",
            "cids": ["default:x"],
            "denied": [{"cid": "default:nothing", "code": "not_found"}, {"cid": "nonsense", "code": "not_found"}],
            "seqs": {"default:x": 1},
        }
        await world.as_("alice").patch(CALL, {"custom": {"n": 1}})
        for wire, prev in ((bob, 1), (carl, 1)):
            event = await wire.receive()
            assert (event["type"], event["seq"], event["prev_seq"]) == ("call.updated", 2, prev)
        await carl.send(type="unsubscribe", cids=["default:x"])
        assert await carl.receive() == {"type": "unsubscribed", "cids": ["default:x"], "reason": None}
        await world.as_("alice").patch(CALL, {"custom": {"n": 2}})
        assert (await bob.receive())["seq"] == 3
        for wire in (carl, eve):
            await wire.send(type="ping")
            assert await wire.receive() == {"type": "pong"}


@ON_SQLITE
async def test_a_watching_member_hears_once_and_prev_seq_shows_gaps_as_they_are(server: Server) -> None:
    world = server.world
    await world.call("default/x", by="alice")
    async with server.greeted("alice") as alice, server.greeted("bob") as bob:
        for wire in (alice, bob):
            await wire.send(type="subscribe", cids=["default:x"])
            await wire.receive()
        joined = await world.as_("bob").join("default/x")
        # Between these two, an event for alice alone.
        await world.as_("alice").patch(f"{CALL}/participants/bob/capabilities", {"revoke": ["media.audio"]})
        await world.as_("bob").post(f"{CALL}/permission-requests", {"capabilities": ["media.audio"]})
        await world.as_("alice").post(f"{CALL}/events", {"type": "note", "custom": {}, "to": ["alice"]})
        await world.as_("alice").patch(CALL, {"custom": {"last": 1}})
        for wire in (alice, bob):
            frames = await wire.until("call.updated")
            assert [f["prev_seq"] for f in frames] == [1, *(f["seq"] for f in frames[:-1])]
            assert len({f["id"] for f in frames}) == len(frames)
            own = [f["seq"] for f in frames]
            # Bob's sixth is not his to hear, and `prev_seq` tells him that nothing is lost.
            assert own == ([2, 3, 4, 5, 6, 7] if wire is alice else [2, 3, 4, 5, 7])
        assert joined["participant"]["user_id"] == "bob"


@ON_SQLITE
async def test_resuming_replays_what_was_missed_and_resyncs_what_is_too_old(server: Server) -> None:
    world = server.world
    await world.call("default/x", by="alice")
    await world.call("default/old", by="alice")
    async with server.greeted("alice") as alice:
        await alice.send(type="subscribe", cids=["default:x", "default:old"])
        await alice.receive()
    await world.as_("alice").patch("/calls/default/old", {"custom": {"n": 1}})
    await world.advance(301)
    for number in range(3):
        await world.as_("alice").patch(CALL, {"custom": {"n": number}})
    await world.as_("bob").join("default/x")
    async with server.greeted("alice") as alice:
        last = {"default:x": 2, "default:old": 1, "default:nothing": 4}
        await alice.send(type="resume", resume_token="whatever", last=last)
        frames = await alice.until("resumed")
        events = [f for f in frames if "." in f["type"]]
        assert [(f["type"], f["prev_seq"], f["seq"]) for f in events] == [
            ("call.updated", 2, 3),
            ("call.updated", 3, 4),
            ("session.started", 4, 5),
            ("participant.joined", 5, 6),
        ]
        (resync,) = [f for f in frames if f["type"] == "resync"]
        assert resync["cid"] == "default:old"
        snapshot = resync["snapshot"]
        read = (await world.as_("alice").get("/calls/default/old")).json()
        assert snapshot == {**read, "participants": []}
        assert {"type": "unsubscribed", "cids": ["default:nothing"], "reason": "missing_capability"} in frames
        assert frames[-1] == {"type": "resumed", "cids": ["default:x"]}
        # From there it goes on without a gap, and the call resumed is watched.
        await world.as_("alice").patch(CALL, {"custom": {"n": 9}})
        event = await alice.receive()
        assert (event["prev_seq"], event["seq"]) == (6, 7)
        await alice.send(type="resume", last={"default:x": "seven"})
        assert (await alice.receive())["problem"]["code"] == "unprocessable"


@ON_SQLITE
@pytest.mark.parametrize(
    "frame", [{"type": "subscribe", "cids": ["default:x"]}, {"type": "resume", "last": {"default:x": 1}}]
)
async def test_who_asks_while_a_call_changes_too_fast_is_asked_to_ask_again(
    server: Server, monkeypatch: pytest.MonkeyPatch, frame: dict[str, Any]
) -> None:
    await server.world.call("default/x", by="alice")
    async with server.greeted("alice") as alice:
        with monkeypatch.context() as fast:
            busy = Problem("unavailable", "The call changes too fast; try again.", retry_after_ms=100)
            fast.setattr(server.world.service, "operate", AsyncMock(side_effect=busy))
            await alice.send(**frame)
            refused = await alice.receive()
        assert (refused["type"], refused["problem"]["status"]) == ("error", 503)
        assert refused["problem"]["retry_after_ms"] == 100
        await alice.send(**frame)
        assert (await alice.receive())["cids"] == ["default:x"]


@ON_SQLITE
async def test_a_snapshot_shows_hidden_participants_to_whom_the_list_shows_them(server: Server) -> None:
    world = server.world
    await world.users("root", role="admin")
    await world.call("default/x", by="alice")
    await world.as_("bob").join("default/x")
    await world.as_("root").join("default/x", hidden=True)
    for name, seen in (("bob", ["bob"]), ("alice", ["bob", "root"]), ("root", ["bob", "root"])):
        async with server.greeted(name) as wire:
            await wire.send(type="resume", last={"default:x": 999_999_999})
            resync = await wire.receive()
        listed = (await world.as_(name).get(f"{CALL}/participants")).json()["items"]
        assert sorted(participant["user_id"] for participant in listed) == seen
        shown = sorted(resync["snapshot"]["participants"], key=lambda participant: participant["id"])
        assert shown == sorted(listed, key=lambda participant: participant["id"])


async def _numbers(wire: Wire, last: int) -> list[tuple[str, int, int]]:
    """Return type, number and the number before of all events up to the number `last`; other frames by their type."""
    seen: list[tuple[str, int, int]] = []
    while not seen or seen[-1][1] != last:
        frame = await wire.receive()
        seen.append((frame["type"], frame.get("seq", 0), frame.get("prev_seq", 0)))
    return seen


@ON_SQLITE
async def test_who_comes_back_hears_what_he_missed_before_what_happens_and_each_once(server: Server) -> None:
    world = server.world
    await world.call("default/x", by="alice")
    alice = world.as_("alice")
    async with server.greeted("alice"):
        pass
    for number in range(2):
        await alice.patch(CALL, {"custom": {"n": number}})
    async with server.wire() as wire:
        await wire.send(type="auth", token=alice.token)
        assert (await wire.receive())["type"] == "hello"
        # Something happens between his coming and his saying that he comes back.
        await alice.patch(CALL, {"custom": {"n": 2}})
        await wire.send(type="resume", resume_token="whatever", last={"default:x": 1})
        seen = await _numbers(wire, 4)
        assert seen == [("call.updated", 2, 1), ("call.updated", 3, 2), ("call.updated", 4, 3)]
        assert await wire.receive() == {"type": "resumed", "cids": ["default:x"]}
        await alice.patch(CALL, {"custom": {"n": 3}})
        assert await _numbers(wire, 5) == [("call.updated", 5, 4)]


@ON_SQLITE
async def test_what_happens_while_somebody_resumes_comes_after_the_answer(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = server.world
    alice = world.as_("alice")
    for name in ("x", "y"):
        await world.call(f"default/{name}", by="alice")
    missed = EventSocket._missed

    async def while_it_goes_on(self: EventSocket, cid: str, seq: int) -> Any:
        if cid == "default:x":
            await alice.patch("/calls/default/y", {"custom": {"n": 1}})
            await alice.patch("/calls/default/z", {"custom": {"n": 1}})
        return await missed(self, cid, seq)

    await world.call("default/z", by="alice")
    async with server.greeted("alice") as wire:
        monkeypatch.setattr(EventSocket, "_missed", while_it_goes_on)
        await wire.send(type="resume", resume_token="whatever", last={"default:x": 1, "default:y": 1})
        frames = [await wire.receive() for _ in range(3)]
        assert [(frame["type"], frame.get("cid")) for frame in frames] == [
            ("call.updated", "default:y"),
            ("resumed", None),
            ("call.updated", "default:z"),
        ]


@ON_SQLITE
@pytest.mark.parametrize("changes", [RESUME_ATTEMPTS_MAX - 1, RESUME_ATTEMPTS_MAX])
async def test_a_call_that_goes_on_faster_than_it_is_read_is_resynced_in_the_end(
    server: Server, monkeypatch: pytest.MonkeyPatch, changes: int
) -> None:
    """It changes between each reading and what follows from it; who resumes hears every change once, or a snapshot."""
    alice = server.world.as_("alice")
    await server.world.call("default/x", by="alice")
    missed, made = EventSocket._missed, 0

    async def and_then_it_changes(self: EventSocket, cid: str, seq: int) -> Any:
        nonlocal made
        found = await missed(self, cid, seq)
        if made < changes:
            made += 1
            await alice.patch(CALL, {"custom": {"n": made}})
        return found

    async with server.greeted("alice") as wire:
        monkeypatch.setattr(EventSocket, "_missed", and_then_it_changes)
        await wire.send(type="resume", resume_token="whatever", last={"default:x": 1})
        first = await wire.receive()
        if changes < RESUME_ATTEMPTS_MAX:
            seen = [first["seq"], *[number for _, number, _ in await _numbers(wire, changes + 1)]]
            assert seen == list(range(2, changes + 2))
            resumed = ["default:x"]
        else:
            assert (first["type"], first["cid"]) == ("resync", "default:x")
            assert first["snapshot"]["call"]["custom"] == {"n": changes}
            resumed = []
        assert await wire.receive() == {"type": "resumed", "cids": resumed}
        await alice.patch(CALL, {"custom": {"n": 0}})
        assert await _numbers(wire, changes + 2) == [("call.updated", changes + 2, changes + 1)]


@ON_SQLITE
async def test_who_says_nothing_hears_of_everything_within_a_second(server: Server) -> None:
    world = server.world
    await world.call("default/x", by="alice")
    async with server.greeted("alice") as wire:
        await world.as_("alice").patch(CALL, {"custom": {"n": 1}})
        event = await asyncio.wait_for(wire.receive(), 1)
        assert (event["type"], event["prev_seq"]) == ("call.updated", 0)


@ON_SQLITE
async def test_who_connects_while_he_is_rung_hears_the_ring(server: Server) -> None:
    world = server.world
    await world.users("alice", "bob")
    ring = (await world.call("default/x", by="alice", members=["bob"], ring=True))["ring"]
    async with server.greeted("bob") as silent, server.greeted("bob") as watching, server.greeted("alice") as alice:
        await watching.send(type="subscribe", cids=["default:x"])
        # Before the number from which on he watches.
        heard = [await watching.receive(), await asyncio.wait_for(silent.receive(), 1)]
        (stored,) = [event for event in await world.recorded("default:x") if event.type == "call.ring"]
        for event in heard:
            assert (event["type"], event["id"], event["seq"], event["prev_seq"]) == ("call.ring", stored.id, 2, 0)
            assert event["data"]["ring"] == ring
        assert (await watching.receive())["seqs"] == {"default:x": 2}
        for wire in (silent, watching, alice):
            await wire.send(type="ping")
            assert await wire.receive() == {"type": "pong"}
        await world.as_("bob").post(f"{CALL}/rings/{ring['id']}/accept", {"device_id": "phone"})
        for wire in (silent, watching):
            event = await wire.receive()
            assert (event["type"], event["prev_seq"]) == ("call.ring_accepted", 2)
    async with server.greeted("bob") as late:
        await late.send(type="ping")
        assert await late.receive() == {"type": "pong"}


@ON_SQLITE
@pytest.mark.parametrize(
    ("last", "heard"),
    [
        ({"default:x": 1}, ["call.ring", "resumed"]),
        ({"default:x": 2}, ["resumed"]),
        ({"default:y": 1}, ["resumed", "call.ring"]),
    ],
)
async def test_who_comes_back_while_he_is_rung_hears_the_ring_once(
    server: Server, last: dict[str, int], heard: list[str]
) -> None:
    await server.world.call("default/y", by="bob")
    await server.world.call("default/x", by="alice", members=["bob"], ring=True)
    async with server.greeted("bob") as bob:
        await bob.send(type="resume", resume_token="whatever", last=last)
        await bob.send(type="ping")
        assert [frame["type"] for frame in await bob.until("pong")] == [*heard, "pong"]


@ON_SQLITE
async def test_a_ring_that_begins_while_somebody_connects_comes_once_and_in_its_place(server: Server) -> None:
    world = server.world
    await world.users("alice", "bob")
    async with server.greeted("bob") as bob:
        await world.call("default/x", by="alice", members=["bob"], ring=True)
        await bob.send(type="ping")
        events = (await bob.until("pong"))[:-1]
        assert [(event["type"], event["prev_seq"]) for event in events] == [("call.created", 0), ("call.ring", 1)]


@ON_SQLITE
async def test_who_loses_the_right_to_read_is_unsubscribed(server: Server) -> None:
    world = server.world
    await world.call("default/x", by="alice")
    async with server.greeted("bob") as bob:
        await bob.send(type="subscribe", cids=["default:x"])
        await bob.receive()
        await world.server.patch("/call-types/default/grants", {"user": {"remove": ["call.read"]}})
        assert await bob.receive() == {"type": "unsubscribed", "cids": ["default:x"], "reason": "missing_capability"}
        await world.as_("alice").patch(CALL, {"custom": {"n": 1}})
        await bob.send(type="subscribe", cids=["default:x"])
        denied = await bob.receive()
        assert denied["denied"] == [{"cid": "default:x", "code": "missing_capability"}]


@ON_SQLITE
async def test_a_call_that_is_read_with_watch_is_watched(server: Server) -> None:
    world = server.world
    await world.call("default/x", by="alice", custom={"floor": 1})
    async with server.wire() as wire:
        await wire.send(type="auth", token=world.as_("bob").token)
        connection_id = (await wire.receive())["connection_id"]
        stranger = world.as_("eve")
        await stranger.get(CALL, params={"watch": "true", "connection_id": connection_id})
        await world.as_("alice").patch(CALL, {"custom": {"n": 1}})
        query = {"filter": {"custom.floor": 1}, "watch": True, "connection_id": connection_id}
        assert len((await world.as_("bob").post("/calls/query", query)).json()["items"]) == 1
        await world.as_("alice").patch(CALL, {"custom": {"n": 2}})
        event = await wire.receive()
        assert (event["seq"], event["prev_seq"]) == (3, 2)


@ON_SQLITE
async def test_tokens_end_and_are_renewed(server: Server) -> None:
    world = server.world
    async with server.wire() as wire, server.wire() as other:
        await wire.send(type="auth", token=world.token({"sub": "alice"}, seconds=60))
        await other.send(type="auth", token=world.token({"sub": "alice"}, seconds=60))
        for one in (wire, other):
            await one.receive()
        await wire.send(type="auth", token=world.token({"sub": "alice"}, seconds=120))
        assert (await wire.receive())["type"] == "hello"
        world.clock.now = world.clock.now.replace(minute=1)
        assert await other.closed() == 4401
        await wire.send(type="ping")
        assert await wire.receive() == {"type": "pong"}
        await wire.send(type="auth", token=world.token({"sub": "bob"}, seconds=120))
        assert await wire.closed() == 4403


@ON_SQLITE
async def test_anonymous_viewers_watch_what_their_token_lists(server: Server) -> None:
    world = server.world
    await world.call("livestream/x", by="alice")
    await world.call("livestream/y", by="alice")
    async with server.wire() as wire:
        await wire.send(type="auth", token=world.anonymous("livestream:x").token)
        assert (await wire.receive())["user"] is None
        await wire.send(type="subscribe", cids=["livestream:x", "livestream:y"])
        reply = await wire.receive()
        assert (reply["cids"], reply["denied"]) == (["livestream:x"], [{"cid": "livestream:y", "code": "not_found"}])
        await world.as_("alice").put("/calls/livestream/x/live")
        assert (await wire.receive())["type"] == "call.live_started"


@ON_SQLITE
async def test_a_socket_that_says_too_much_is_closed(server: Server) -> None:
    async with server.greeted("alice") as alice:
        for _ in range(60):
            await alice.send(type="ping")
        assert await alice.closed() == 4429


@ON_SQLITE
@pytest.mark.parametrize("kind", ["subscribe", "resume"])
async def test_a_flood_of_subscriptions_leaves_everybody_else_his_turn(
    server: Server, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """S-44, S-55: between two calls that a socket asks for, the loop goes round; nothing on SQLite would make it."""
    world = server.world
    await world.call("default/x", by="bob")
    operate, begun = world.service.operate, asyncio.Event()
    done = at_once = most = 0

    async def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal done, at_once, most
        done, at_once = done + 1, at_once + 1
        most = max(most, at_once)
        begun.set()
        return await operate(*arguments, **more)

    async def everybody_else() -> None:
        nonlocal at_once
        while True:
            await asyncio.sleep(0)
            at_once = 0

    monkeypatch.setattr(world.service, "operate", counted)
    turns = asyncio.create_task(everybody_else())
    async with server.greeted("mallory") as mallory:
        for frame in range(10):
            cids = [f"default:{frame}-{number}" for number in range(100)]
            await mallory.send(type=kind, cids=cids, last=dict.fromkeys(cids, 0))
        await begun.wait()
        assert (await world.as_("bob").get(CALL)).status_code == 200
        assert done < 1_000
        for _ in range(10):
            await mallory.until("subscribed" if kind == "subscribe" else "resumed")
    turns.cancel()
    assert (done, most) == (1_000, 1)


def _limited(**limits: int) -> CallsSettings:
    return CallsSettings(rate_limits=RateLimits(**limits))


async def _asked(listener: Listener, world: World, kind: str, cids: Sequence[str]) -> list[dict[str, Any]]:
    """Return what a frame that asks for calls is answered."""
    await world.events.frame(
        listener.socket, json.dumps({"type": kind, "cids": list(cids), "last": dict.fromkeys(cids, 0)})
    )
    return listener.frames()


@ON_SQLITE
@pytest.mark.parametrize("kind", ["subscribe", "resume"])
async def test_who_asks_for_too_many_calls_is_told_when_to_go_on_and_in_the_end_closed(
    database_url: str, kind: str
) -> None:
    """S-44"""
    world = await World.open(database_url, settings=_limited(user_subscriptions_per_minute=120), dev=False)
    alice, again = [await world.listen(world.as_("alice")) for _ in range(2)]
    bob = await world.listen(world.as_("bob"))
    cids = [f"default:{number}" for number in range(100)]
    for _ in range(2):
        assert (await _asked(alice, world, kind, cids))[-1]["type"] in ("subscribed", "resumed")
    for socket in (alice, again):
        (refused,) = await _asked(socket, world, kind, cids)
        assert (refused["type"], refused["problem"]["code"]) == ("error", "rate_limited")
        assert refused["problem"]["retry_after_ms"] == 40_500
    assert (await _asked(bob, world, kind, cids))[-1]["type"] != "error"
    world.clock.now += timedelta(milliseconds=40_500)
    assert (await _asked(alice, world, kind, cids))[-1]["type"] != "error"
    for _ in range(REFUSALS_MAX):
        assert (await _asked(alice, world, kind, cids))[-1]["type"] == "error"
    assert (alice.socket.close_code, again.socket.close_code) == (None, None)
    await _asked(alice, world, kind, cids)
    assert (alice.socket.close_code, again.socket.close_code) == (4429, None)
    await world.close()


@ON_SQLITE
async def test_what_is_replayed_counts_as_well(database_url: str) -> None:
    """S-44"""
    world = await World.open(database_url, settings=_limited(user_subscriptions_per_minute=60), dev=False)
    await world.call("default/x", by="alice")
    for number in range(READ_PER_CALL * 2):
        await world.as_("alice").patch(CALL, {"custom": {"n": number}})
    alice = await world.listen(world.as_("alice"))
    answers = [(await _asked(alice, world, "resume", ["default:x"]))[-1]["type"] for _ in range(21)]
    # Each is a call and two more for what was replayed.
    assert answers == ["resumed"] * 20 + ["error"]
    await world.close()


@ON_SQLITE
async def test_who_watches_hundreds_of_calls_may_lose_his_connection_again_and_again(database_url: str) -> None:
    world = await World.open(database_url, dev=False)
    cids = [f"default:{number}" for number in range(500)]
    for _ in range(3):
        alice = await world.listen(world.as_("alice"))
        for kind in ("resume", "subscribe"):
            for start in range(0, 500, 100):
                assert (await _asked(alice, world, kind, cids[start : start + 100]))[-1]["type"] != "error"
        alice.close()
    await world.close()


@ON_SQLITE
async def test_a_user_has_so_many_sockets_and_the_next_when_one_has_gone(database_url: str) -> None:
    """S-44"""
    world = await World.open(database_url, settings=CallsSettings(sockets_per_user=2))
    async with serving(world) as server, server.greeted("alice"):
        async with server.greeted("alice"), server.greeted("bob"), server.wire() as third:
            await third.send(type="auth", token=world.as_("alice").token)
            assert (await third.receive())["problem"]["code"] == "rate_limited"
            assert await third.closed() == 4429
        for _ in range(500):
            if len(world.service.channel.of_user("alice")) == 1:
                break
            await asyncio.sleep(0.01)
        async with server.greeted("alice"):
            pass
    await world.close()


@ON_SQLITE
async def test_a_deleted_users_sockets_are_closed(server: Server) -> None:
    await server.world.users("alice")
    async with server.greeted("alice") as alice:
        await server.world.server.delete("/users/alice")
        assert await alice.closed() == 4401


@ON_SQLITE
async def test_silence_closes_and_pings_of_either_kind_keep_open(database_url: str) -> None:
    world = await World.open(database_url, settings=CallsSettings(heartbeat_ms=1_000))
    async with (
        serving(world) as server,
        server.wire(ping_interval=None) as silent,
        server.wire(ping_interval=0.5) as pinging,
    ):
        for wire in (silent, pinging):
            await wire.send(type="auth", token=world.as_("alice").token)
            await wire.receive()
        assert await silent.closed() == 4408
        await asyncio.sleep(1.5)
        await pinging.send(type="ping")
        assert await pinging.receive() == {"type": "pong"}
    await world.close()


@ON_SQLITE
async def test_a_slow_socket_loses_counts_first_and_then_the_connection(database_url: str) -> None:
    """F-35"""
    world = await World.open(database_url, settings=CallsSettings(socket_queue_max=16))
    await world.call("default/x", by="alice")
    slow = await world.listen(world.as_("alice"), "default/x")
    slow.frames()
    for _ in range(20):
        slow.socket.send("session.counts", Frame(b"{}"))
    assert (len(slow.socket.outgoing), slow.socket.close_code) == (16, None)
    await world.as_("alice").patch(CALL, {"custom": {"n": 0}})
    assert [kind for kind, _ in slow.socket.outgoing] == ["call.updated"]
    for number in range(1, 17):
        await world.as_("alice").patch(CALL, {"custom": {"n": number}})
    assert slow.socket.close_code == 4410
    await world.close()


@ON_SQLITE
async def test_a_watcher_hears_of_the_deletion_before_he_is_unsubscribed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Types change in the moment in which the deletion is committed and nobody was told."""
    await world.call("default/x", by="alice")
    dave = await world.listen(world.as_("dave"), "default/x")
    carry_out = world.service._carry_out

    async def later(*arguments: Any) -> None:
        looking = asyncio.create_task(world.service.recheck_watchers())
        await asyncio.sleep(0.05)
        await carry_out(*arguments)
        looked.append(looking)

    looked: list[asyncio.Task[None]] = []
    monkeypatch.setattr(world.service, "_carry_out", later)
    assert (await world.as_("alice").delete(CALL)).status_code == 200
    await asyncio.gather(*looked)
    assert dave.types() == ["call.deleted", "unsubscribed"]

"""Managed rooms under a calls system: real rooms with workers in memory, a real database, its time virtual."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import pytest
from livekit.protocol import models, rtc

from signaling import media_rooms, tokens
from signaling.errors import PermissionDenied, Unavailable
from signaling.media_rooms import ManagedRooms, Reports
from tests.signaling.api.world import Clock, FakeMedia, World, code
from tests.signaling.edge import Edge, Signal, until

CALL = "/calls/default/x"
ACTIONS = rtc.LeaveRequest.Action
REASONS = models.DisconnectReason
GRACE_SECONDS, INACTIVITY_SECONDS = 15, 30


@dataclass
class Process:
    """One server: its rooms, and its part of the calls system."""

    world: World
    edge: Edge
    reports: Reports

    @classmethod
    async def start(cls, database_url: str, clock: Clock, node: str = "media", **settings: Any) -> Process:
        edge = await Edge.start(drain={"leave_seconds": 0}, **settings)
        media = ManagedRooms(edge.rooms, node=node, url=lambda: f"wss://{node}.example.com")
        world = await World.open(database_url, clock=clock, media=cast(FakeMedia, media))
        reports = Reports(world.system.feed, edge.rooms)
        edge.rooms.feed = reports
        await world.system.feed.reconcile()
        return cls(world, edge, reports)

    async def connect(self, media_token: str) -> Signal:
        """Do what an SDK does with the token of a join."""
        grants = tokens.verify(media_token, self.edge.rooms.settings.keyring, self.world.clock.now.timestamp())
        signal = await self.edge.join(room=grants.room, grants=grants)
        self.edge.connect(signal, grants.room)
        await self.reported()
        return signal

    async def join(self, user_id: str) -> tuple[dict[str, Any], Signal]:
        joined = await self.world.as_(user_id).join("default/x", connect=False)
        return joined, await self.connect(joined["media"]["token"])

    def leave(self, signal: Signal) -> None:
        """Do what an SDK does that ends its session, or is about to connect anew."""
        said = rtc.LeaveRequest(reason=REASONS.CLIENT_INITIATED)
        self.edge.rooms.request(signal.number, rtc.SignalRequest(leave=said))

    async def reported(self) -> None:
        await until(lambda: not self.reports._lanes)

    async def states(self) -> dict[str, str]:
        shown = await self.world.server.get(f"{CALL}/participants")
        return {one["user_id"]: one["state"] for one in shown.json()["items"]}

    async def told(self) -> list[str]:
        return [event.type for event in await self.world.recorded("default:x")]

    async def stop(self) -> None:
        """As at the deadline of a drain."""
        await self.edge.rooms.dismiss()
        await self.close()

    async def close(self) -> None:
        await self.reports.stop()
        await self.world.service.nodes.retire()
        await self.world.close()


# --- a server that stops --------------------------------------------------------------------------------------------


async def test_those_whom_a_stopping_server_sends_back_go_on_with_its_successor(database_url: str) -> None:
    """F-17"""
    clock = Clock()
    first = await Process.start(database_url, clock)
    await first.world.call("default/x", by="alice")
    (alice, signal), _ = await first.join("alice"), await first.join("bob")
    before = await first.told()
    await first.edge.rooms.dismiss()
    assert (signal.leave.reason, signal.leave.action) == (REASONS.SERVER_SHUTDOWN, ACTIONS.RECONNECT)
    # His SDK obeys at once, while the old server is still there; that is no reason to give up.
    with pytest.raises(Unavailable):
        await first.connect(alice["media"]["token"])
    await first.reported()
    assert await first.told() == before
    await first.close()
    # Longer than anybody's grace: nobody could come meanwhile.
    clock.now += timedelta(seconds=2 * GRACE_SECONDS)
    second = await Process.start(database_url, clock)
    assert await second.states() == {"alice": "reconnecting", "bob": "reconnecting"}
    await second.connect(alice["media"]["token"])
    assert await second.states() == {"alice": "joined", "bob": "reconnecting"}
    await second.world.advance(GRACE_SECONDS)
    assert await second.states() == {"alice": "joined"}
    shown = (await second.world.server.get(CALL)).json()
    assert shown["session"]["id"] == alice["session"]["id"]
    await second.close()


async def test_a_session_to_which_nobody_comes_back_ends_at_the_successor(database_url: str) -> None:
    clock = Clock()
    first = await Process.start(database_url, clock)
    await first.world.call("default/x", by="alice")
    await first.join("alice")
    await first.stop()
    clock.now += timedelta(days=1)
    second = await Process.start(database_url, clock)
    await second.world.advance(GRACE_SECONDS - 1)
    assert await second.states() == {"alice": "reconnecting"}
    await second.world.advance(1)
    assert await second.states() == {}
    await second.world.advance(INACTIVITY_SECONDS)
    (session,) = (await second.world.server.get(f"{CALL}/sessions")).json()["items"]
    assert session["end_reason"] == "empty"
    assert not second.edge.rooms.hosted
    await second.close()


async def test_the_people_of_a_server_that_stops_have_the_grace_to_join_at_another(database_url: str) -> None:
    clock = Clock()
    here = await Process.start(database_url, clock, node="here")
    there = await Process.start(database_url, clock, node="there")
    await here.world.call("default/x", by="alice")
    (alice, _), _ = await here.join("alice"), await here.join("bob")
    await here.stop()
    await there.world.service.nodes.look()
    await there.world.system.feed.look_after_dead()
    assert await there.states() == {"alice": "reconnecting", "bob": "reconnecting"}
    again, _ = await there.join("alice")
    assert again["session"]["id"] == alice["session"]["id"]
    assert again["media"]["url"] == "wss://there.example.com"
    await there.world.advance(GRACE_SECONDS)
    assert await there.states() == {"alice": "joined"}
    await there.close()


async def test_who_may_not_come_is_told_so_for_good_and_who_only_comes_too_soon_is_not(database_url: str) -> None:
    process = await Process.start(database_url, Clock())
    await process.world.call("default/x", by="alice")
    await process.world.users("bob")
    bob = (await process.world.as_("bob").join("default/x", connect=False))["media"]["token"]
    process.edge.rooms.is_draining = True
    process.edge.rooms.hosted.clear()
    with pytest.raises(Unavailable):
        await process.connect(bob)
    process.edge.rooms.is_draining = False
    await process.connect(bob)
    await process.world.as_("alice").put(f"{CALL}/blocks/bob", {})
    with pytest.raises(PermissionDenied):
        await process.connect(bob)
    await process.close()


# --- goodbyes -------------------------------------------------------------------------------------------------------


async def test_who_says_goodbye_and_connects_anew_with_the_same_token_has_not_left(database_url: str) -> None:
    """As SDKs reconnect fully while their signal connection lives."""
    process = await Process.start(database_url, Clock(), calls={"leave_grace_seconds": 1})
    await process.world.call("default/x", by="alice")
    (alice, signal), _ = await process.join("alice"), await process.join("bob")
    for _ in range(2):
        process.leave(signal)
        await process.reported()
        signal = await process.connect(alice["media"]["token"])
        assert signal.kinds()[0] == "join"
    await asyncio.sleep(1.1)
    await process.reported()
    assert await process.states() == {"alice": "joined", "bob": "joined"}
    assert "participant.left" not in await process.told()
    process.leave(signal)
    await until(lambda: not process.reports._leaving)
    await process.reported()
    assert await process.states() == {"bob": "joined"}
    assert (await process.told()).count("participant.left") == 1
    with pytest.raises(PermissionDenied):
        await process.connect(alice["media"]["token"])
    await process.close()


async def test_who_asks_to_come_back_after_a_goodbye_and_does_not_has_his_grace(database_url: str) -> None:
    process = await Process.start(database_url, Clock(), calls={"leave_grace_seconds": 0.5})
    await process.world.call("default/x", by="alice")
    alice, signal = await process.join("alice")
    process.leave(signal)
    rooms = process.edge.rooms
    grants = tokens.verify(alice["media"]["token"], rooms.settings.keyring, process.world.clock.now.timestamp())
    await rooms.admit(process.edge.parameters(grants=grants))
    await asyncio.sleep(0.6)
    await process.reported()
    assert await process.states() == {"alice": "reconnecting"}
    await process.world.advance(GRACE_SECONDS)
    assert await process.states() == {}
    await process.close()


# --- reports --------------------------------------------------------------------------------------------------------


async def test_what_there_was_no_room_to_report_is_found_out(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_rooms, "_QUEUE_MAX", 1)
    process = await Process.start(database_url, Clock())
    await process.world.call("default/x", by="alice")
    _, bob, carol = [(await process.join(user))[1] for user in ("alice", "bob", "carol")]
    for signal in (bob, carol):
        process.leave(signal)
    for (room, identity), timer in list(process.reports._leaving.items()):
        timer.cancel()
        process.reports._left(room, identity)
    await process.reported()
    assert await process.states() == {"alice": "joined", "carol": "joined"}
    await process.world.system.feed.catch_up()
    assert await process.states() == {"alice": "joined", "carol": "reconnecting"}
    await process.close()


# --- viewers who come and go ----------------------------------------------------------------------------------------


async def stream(database_url: str) -> Process:
    """Return a process with a livestream that everybody may see, and alice in it."""
    process = await Process.start(database_url, Clock(), calls={"leave_grace_seconds": 0.1})
    await process.world.call("livestream/x", by="alice", settings={"backstage": {"enabled": False}})
    alice = await process.world.as_("alice").join("livestream/x", connect=False)
    await process.connect(alice["media"]["token"])
    return process


async def test_nothing_is_kept_of_a_viewer_without_an_account_who_is_gone(database_url: str) -> None:
    process = await stream(database_url)
    viewer = process.world.anonymous("livestream:x")
    kicked, leaving, absent = [await viewer.join("livestream/x", connect=False) for _ in range(3)]
    (hosted,) = process.edge.rooms.hosted.values()
    await process.connect(kicked["media"]["token"])
    path = f"/calls/livestream/x/participants/{kicked['participant']['user_id']}/kick"
    assert (await process.world.as_("alice").post(path)).status_code == 204
    signal = await process.connect(leaving["media"]["token"])
    assert set(hosted.versions) == {"alice:phone", leaving["participant"]["identity"]}
    process.leave(signal)
    await until(lambda: not process.reports._leaving)
    await process.reported()
    assert set(hosted.versions) == {"alice:phone"}
    # Who never came is given up after a while.
    await process.world.advance(20)
    assert absent["participant"]["identity"] not in hosted.versions
    await process.close()


async def test_a_viewer_who_is_removed_while_he_is_let_in_stays_outside(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await stream(database_url)
    joined = await process.world.anonymous("livestream:x").join("livestream/x", connect=False)
    await process.connect(joined["media"]["token"])
    feed, asked, go_on = process.world.system.feed, asyncio.Event(), asyncio.Event()
    admit = feed.admit

    async def slow(*arguments: Any) -> Any:
        verdict = await admit(*arguments)
        asked.set()
        await go_on.wait()
        return verdict

    monkeypatch.setattr(feed, "admit", slow)
    again = asyncio.create_task(process.connect(joined["media"]["token"]))
    await asked.wait()
    path = f"/calls/livestream/x/participants/{joined['participant']['user_id']}/kick"
    assert (await process.world.as_("alice").post(path)).status_code == 204
    go_on.set()
    with pytest.raises(PermissionDenied):
        await again
    assert not process.edge.rooms.asked
    await process.close()


# --- how many may come ----------------------------------------------------------------------------------------------


async def limit(process: Process, most: int | None) -> None:
    reply = await process.world.as_("alice").patch(CALL, {"settings": {"limits": {"max_participants": most}}})
    assert reply.status_code == 200, reply.text


async def test_a_limit_that_is_raised_during_a_session_lets_more_in(database_url: str) -> None:
    process = await Process.start(database_url, Clock())
    await process.world.call("default/x", by="alice", settings={"limits": {"max_participants": 1}})
    await process.join("alice")
    await limit(process, 2)
    await process.join("bob")
    # The type's, where the call has none of its own.
    types = "/call-types/default"
    await process.world.server.patch(types, {"settings": {"limits": {"max_participants": 2}}})
    await limit(process, None)
    assert code(await process.world.as_("carol").post(f"{CALL}/join")) == (409, "call_full")
    await process.world.server.patch(types, {"settings": {"limits": {"max_participants": 3}}})
    await process.join("carol")
    assert set((await process.states()).values()) == {"joined"}
    await process.close()


async def test_a_limit_that_is_lowered_during_a_session_throws_nobody_out(database_url: str) -> None:
    process = await Process.start(database_url, Clock())
    await process.world.call("default/x", by="alice")
    tokens_of = {user: (await process.join(user))[0]["media"]["token"] for user in ("alice", "bob", "carol")}
    await limit(process, 1)
    assert set((await process.states()).values()) == {"joined"}
    assert code(await process.world.as_("dave").post(f"{CALL}/join")) == (409, "call_full")
    # Who is inside may connect anew, and take his own place again.
    await process.connect(tokens_of["bob"])
    await process.join("carol")
    assert code(await process.world.as_("carol").post(f"{CALL}/join", {"device_id": "tablet"})) == (409, "call_full")
    assert set(await process.states()) == {"alice", "bob", "carol"}
    await process.close()

"""Several processes on one database, each with a media node of its own: what was decided holds where the media is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select

from signaling.api.v1 import relay
from signaling.api.v1.relay import Follower
from signaling.api.v1.service import CallsService
from signaling.calls.media import Refuse
from signaling.store import schema
from signaling.store.database import DatabaseAway
from tests.signaling.api.world import FakeMedia, Listener, World, code

CALL = "/calls/default/x"


class Nodes:
    """`here` has the node `eu`, `there` the node `us`; time is the same for both."""

    def __init__(self, here: World, there: World) -> None:
        self.here, self.there = here, there

    async def look(self) -> None:
        for world in (self.here, self.there, self.here):
            await world.service.nodes.look()

    async def owed(self) -> list[str]:
        async with self.here.service.database.read() as connection:
            return [row.node for row in await connection.execute(select(schema.orders.c.node))]

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Have both processes do what the other has committed."""

        async def work(world: World) -> None:
            while True:
                await world.service.orders.do_ours()
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(work(world)) for world in (self.here, self.there)]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def media_in(region: str) -> FakeMedia:
    media = FakeMedia(region)
    media.served = [region]
    return media


@pytest.fixture
async def nodes(database_url: str) -> AsyncIterator[Nodes]:
    here = await World.open(database_url, media=media_in("eu"))
    there = await World.open(database_url, media=media_in("us"), clock=here.clock)
    both = Nodes(here, there)
    await both.look()
    yield both
    await there.close()
    await here.close()


def url(joined: dict[str, Any]) -> str:
    return str(joined["media"]["url"])


async def test_a_session_stays_at_its_node_whichever_process_is_asked(nodes: Nodes) -> None:
    await nodes.here.call("default/x", by="alice")
    first = await nodes.here.as_("alice").join("default/x")
    second = await nodes.there.as_("bob").join("default/x", connect=False)
    assert url(first) == url(second) == "wss://eu.example.com"
    assert second["session"]["id"] == first["session"]["id"]
    assert not nodes.there.media.rooms
    # Only the process that has the room lets anybody in.
    room, identity = second["session"]["id"], second["participant"]["identity"]
    assert isinstance(await nodes.there.system.feed.admit(room, identity), Refuse)
    await nodes.here.connect(second["participant"])
    renewed = await nodes.there.as_("bob").post(f"{CALL}/media-token", {"participant_id": second["participant"]["id"]})
    assert renewed.json()["media"]["url"] == "wss://eu.example.com"


async def test_a_region_s_node_takes_the_room_though_another_process_is_asked(nodes: Nodes) -> None:
    await nodes.here.call("default/x", by="alice", settings={"geofencing": {"names": ["us"]}})
    joined = await nodes.here.as_("alice").join("default/x", connect=False)
    assert url(joined) == "wss://us.example.com"
    # The room is made when somebody comes.
    await nodes.there.connect(joined["participant"])
    assert list(nodes.there.media.rooms) == [joined["session"]["id"]]
    assert not nodes.here.media.rooms
    await nodes.here.call("default/hinted", by="alice")
    hinted = await nodes.here.as_("alice").join("default/hinted", connect=False, region_hint="us")
    assert url(hinted) == "wss://us.example.com"
    await nodes.here.call("default/nowhere", by="alice", settings={"geofencing": {"names": ["mars"]}})
    assert code(await nodes.here.as_("alice").post("/calls/default/nowhere/join", {})) == (503, "no_media_node")


async def test_a_node_that_drains_takes_no_new_room(nodes: Nodes) -> None:
    nodes.here.media.is_open = False
    await nodes.look()
    await nodes.here.call("default/x", by="alice")
    assert url(await nodes.here.as_("alice").join("default/x", connect=False)) == "wss://us.example.com"
    nodes.there.media.is_open = False
    await nodes.look()
    await nodes.here.call("default/y", by="alice")
    assert code(await nodes.here.as_("alice").post("/calls/default/y/join", {})) == (503, "no_media_node")


async def _inside(nodes: Nodes, call: str, *users: str) -> list[dict[str, Any]]:
    """Have people join at the node of `here` and speak."""
    people = []
    for user in users:
        people.append((await nodes.here.as_(user).join(call))["participant"])
        assert nodes.here.publish(people[-1], "microphone")
    return people


async def test_what_another_process_decides_holds_at_the_node_when_it_has_answered(nodes: Nodes) -> None:
    await nodes.here.users("bob", "carol", "dave")
    await nodes.here.call("default/x", by="alice")
    bob, carol, dave = await _inside(nodes, "default/x", "bob", "carol", "dave")
    alice = nodes.there.as_("alice")
    async with nodes.at_work():
        # A right.
        await alice.patch(f"{CALL}/participants/bob/capabilities", {"revoke": ["media.audio"]})
        assert nodes.here.published(bob) == set()
        assert not nodes.here.publish(bob, "microphone")
        await alice.patch(f"{CALL}/participants/bob/capabilities", {"grant": ["media.audio"]})
        assert nodes.here.publish(bob, "microphone")
        # A mute.
        muted = await alice.post(f"{CALL}/participants/mute", {"user_ids": ["carol"], "kinds": ["audio"]})
        assert muted.status_code == 200
        assert nodes.here.media.muted == [(carol["session_id"], carol["identity"], ("microphone",))]
        # A block.
        assert (await alice.put(f"{CALL}/blocks/carol", {})).status_code == 200
        assert carol["identity"] not in nodes.here.media.rooms[carol["session_id"]].participants
        # A type's grants, a role, a ban.
        reply = await nodes.there.server.patch("/call-types/default/grants", {"user": {"remove": ["SendVideo"]}})
        assert reply.status_code == 200
        assert not nodes.here.publish(dave, "camera")
        await nodes.there.server.patch("/users/dave", {"role": "listener"})
        assert nodes.here.published(dave) == set()
        await nodes.there.server.put("/bans/dave", {})
        assert dave["identity"] not in nodes.here.media.rooms[dave["session_id"]].participants
        # A deleted user, and the end.
        await nodes.there.server.delete("/users/bob")
        assert nodes.here.media.rooms[bob["session_id"]].participants == {}
        await alice.post(f"{CALL}/end", {})
        assert nodes.here.media.closed == [(bob["session_id"], "ended_by")]
        assert not nodes.here.media.rooms
    assert await nodes.owed() == []


async def test_who_has_come_again_is_not_removed_by_what_was_meant_for_his_last_visit(nodes: Nodes) -> None:
    await nodes.here.users("bob")
    await nodes.here.call("default/x", by="alice")
    (bob,) = await _inside(nodes, "default/x", "bob")
    # The process with the node is busy: the removal waits, and is not waited for for ever.
    assert (await nodes.there.as_("alice").post(f"{CALL}/participants/bob/kick", {})).status_code == 204
    assert await nodes.owed() == ["eu"]
    again = (await nodes.here.as_("bob").join("default/x"))["participant"]
    assert again["identity"] == bob["identity"]
    await nodes.here.service.orders.do_ours()
    assert again["identity"] in nodes.here.media.rooms[again["session_id"]].participants
    # What is taken from him now is newer than all that was said of him before.
    await nodes.here.as_("alice").patch(f"{CALL}/participants/bob/capabilities", {"revoke": ["media.audio"]})
    assert not nodes.here.publish(again, "microphone")


async def test_what_is_to_be_done_comes_before_what_is_told_of_it(nodes: Nodes) -> None:
    await nodes.here.users("bob")
    await nodes.here.call("audio_room/x", by="alice")
    await nodes.here.as_("alice").put("/calls/audio_room/x/live")
    bob = (await nodes.here.as_("bob").join("audio_room/x"))["participant"]
    await nodes.here.service.relay.start()
    socket = await nodes.here.listen(nodes.here.as_("bob"))
    granted: list[bool] = []
    send = socket.socket.send

    def sent(kind: str, frame: Any) -> None:
        granted.append(nodes.here.publish(bob, "microphone"))
        send(kind, frame)

    socket.socket.send = sent  # type: ignore[method-assign]
    asking = nodes.there.as_("alice").patch(
        "/calls/audio_room/x/participants/bob/capabilities", {"grant": ["media.audio"]}
    )
    answer = asyncio.create_task(asking)
    follower = Follower(nodes.here.service)
    while not granted:
        await follower.look()
        await asyncio.sleep(0.01)
    assert (await answer).status_code == 200
    assert all(granted)


@pytest.fixture
async def third(database_url: str, nodes: Nodes) -> AsyncIterator[World]:
    """A process that neither is asked nor has the media."""
    third = await World.open(database_url, media=media_in("ap"), clock=nodes.here.clock)
    await third.service.relay.start()
    yield third
    await third.close()


async def _granted_there(nodes: Nodes, third: World) -> tuple[dict[str, Any], Listener, asyncio.Task[Any]]:
    """Have `there` grant something in a room of `here`, which is busy; return who got it and his socket at `third`."""
    await nodes.here.users("bob")
    await nodes.here.call("audio_room/x", by="alice")
    await nodes.here.as_("alice").put("/calls/audio_room/x/live")
    bob = (await nodes.here.as_("bob").join("audio_room/x"))["participant"]
    socket = await third.listen(third.as_("bob"))
    await Follower(third.service).look()
    socket.frames()
    granting = nodes.there.as_("alice").patch(
        "/calls/audio_room/x/participants/bob/capabilities", {"grant": ["media.audio"]}
    )
    answer = asyncio.create_task(granting)
    while not await nodes.owed():  # noqa: ASYNC110 - the database tells nobody
        await asyncio.sleep(0.001)
    return bob, socket, answer


async def test_a_process_beside_tells_of_a_right_when_the_node_has_given_it(nodes: Nodes, third: World) -> None:
    bob, socket, answer = await _granted_there(nodes, third)
    follower = Follower(third.service)
    for _ in range(3):
        await follower.look()
    assert not nodes.here.publish(bob, "microphone")
    assert socket.events() == []
    await nodes.here.service.orders.do_ours()
    assert nodes.here.publish(bob, "microphone")
    await follower.look()
    assert "call.capabilities_updated" in [event["type"] for event in socket.events()]
    assert (await answer).status_code == 200


async def test_a_process_beside_that_does_something_itself_waits_for_the_node_too(nodes: Nodes, third: World) -> None:
    bob, socket, answer = await _granted_there(nodes, third)
    changing = asyncio.create_task(third.as_("alice").patch("/calls/audio_room/x", {"custom": {"n": 1}}))
    await asyncio.sleep(0.2)
    assert not nodes.here.publish(bob, "microphone")
    assert socket.events() == []
    await nodes.here.service.orders.do_ours()
    assert (await changing).status_code == (await answer).status_code == 200
    told = [event["type"] for event in socket.events()]
    assert told.index("call.capabilities_updated") < told.index("call.updated")


async def test_a_node_that_does_nothing_holds_up_what_is_told_for_a_second(
    nodes: Nodes, third: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, socket, answer = await _granted_there(nodes, third)
    follower = Follower(third.service)
    await follower.look()
    assert socket.events() == []
    monkeypatch.setattr(relay, "WAIT_SECONDS", 0)
    await follower.look()
    assert "call.capabilities_updated" in [event["type"] for event in socket.events()]
    assert (await answer).status_code == 200


async def test_a_process_that_starts_leaves_the_others_people_alone(nodes: Nodes) -> None:
    await nodes.here.users("bob")
    await nodes.here.call("default/x", by="alice")
    await _inside(nodes, "default/x", "bob")
    await nodes.there.system.feed.reconcile()
    shown = (await nodes.there.server.get(f"{CALL}/participants")).json()["items"]
    assert [participant["state"] for participant in shown] == ["joined"]
    assert await nodes.owed() == []


async def test_the_people_of_a_dead_node_get_the_grace_and_who_joins_is_placed_elsewhere(nodes: Nodes) -> None:
    """F-16"""
    await nodes.here.users("bob", "carol")
    await nodes.here.call("default/x", by="alice", settings={"session": {"inactivity_seconds": 600}})
    bob, _ = await _inside(nodes, "default/x", "bob", "carol")
    # The process of `here` says nothing any more.
    nodes.here.clock.now += 2 * (nodes.there.service.nodes._lost_after)
    await nodes.there.service.nodes.look()
    await nodes.there.system.feed.look_after_dead()
    shown = (await nodes.there.server.get(f"{CALL}/participants")).json()["items"]
    assert [participant["state"] for participant in shown] == ["reconnecting", "reconnecting"]
    joined = await nodes.there.as_("bob").join("default/x")
    assert (joined["session"]["id"], url(joined)) == (bob["session_id"], "wss://us.example.com")
    await nodes.there.advance(16)
    shown = (await nodes.there.server.get(f"{CALL}/participants")).json()["items"]
    assert [(participant["user_id"], participant["state"]) for participant in shown] == [("bob", "joined")]
    # It was alive after all: what is held elsewhere now is closed there.
    assert await nodes.here.service.nodes.look()
    await nodes.here.system.feed.reconcile()
    assert not nodes.here.media.rooms
    assert list(nodes.there.media.rooms) == [bob["session_id"]]


async def test_after_a_restart_who_was_removed_meanwhile_is_gone(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is killed between the commit of a kick, or of an end, and telling its media side."""
    await nodes.here.users("bob", "carol")
    await nodes.here.call("default/x", by="alice")
    await nodes.here.call("default/y", by="alice")
    bob, carol = await _inside(nodes, "default/x", "bob", "carol")
    await _inside(nodes, "default/y", "bob")

    async def killed(*_: Any) -> None: ...

    with monkeypatch.context() as fault:
        fault.setattr(nodes.here.service, "_carry_out", killed)
        await nodes.here.as_("alice").post(f"{CALL}/participants/bob/kick", {})
        await nodes.here.as_("alice").post("/calls/default/y/end", {})
    assert len(nodes.here.media.rooms) == 2
    await nodes.here.system.feed.reconcile()
    assert {name: list(room.participants) for name, room in nodes.here.media.rooms.items()} == {
        carol["session_id"]: [carol["identity"]]
    }
    assert bob["session_id"] == carol["session_id"]


async def test_a_change_of_all_calls_is_carried_out_though_its_process_dies_over_it(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grants, roles, bans and deletions: committed, then killed before anybody in a session was looked at."""
    await nodes.here.users("bob", "carol", "dave", "erin")
    await nodes.here.call("default/x", by="alice")
    bob, carol, dave, erin = await _inside(nodes, "default/x", "bob", "carol", "dave", "erin")

    async def killed(_: CallsService, work: Any) -> None:
        raise ConnectionAbortedError("killed")

    with monkeypatch.context() as fault:
        fault.setattr(nodes.there.service.orders, "_carry_out", lambda work: killed(nodes.there.service, work))
        server = nodes.there.server
        for request in (
            server.patch("/call-types/default/grants", {"user": {"remove": ["SendVideo"]}}),
            server.patch("/users/carol", {"role": "listener"}),
            server.put("/bans/dave", {}),
            server.delete("/users/erin"),
        ):
            with contextlib.suppress(ConnectionAbortedError):
                assert (await request).status_code == 500
    assert await nodes.owed() == ["", "", "", ""]
    assert nodes.here.publish(bob, "camera")
    # Another process, or the next one, finds it.
    await nodes.here.advance(5)
    await nodes.here.service.orders.do_anybodys()
    assert not nodes.here.publish(bob, "camera")
    assert nodes.here.published(carol) == set()
    left = nodes.here.media.rooms[bob["session_id"]].participants
    assert dave["identity"] not in left
    assert erin["identity"] not in left
    assert await nodes.owed() == []


async def test_one_call_s_fault_keeps_a_change_from_no_other_and_is_tried_again(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await nodes.here.users("bob", "carol")
    people = {}
    for name, user in (("x", "bob"), ("y", "carol")):
        await nodes.here.call(f"default/{name}", by="alice")
        people[name] = (await _inside(nodes, f"default/{name}", user))[0]
    operate = nodes.here.service.operate

    async def away(principal: Any, type_: str, call_id: str, *more: Any) -> Any:
        if call_id == "x":
            raise DatabaseAway("The database does not answer; try again.")
        return await operate(principal, type_, call_id, *more)

    with monkeypatch.context() as fault:
        fault.setattr(nodes.here.service, "operate", away)
        reply = await nodes.here.server.patch("/call-types/default/grants", {"user": {"remove": ["SendVideo"]}})
        assert code(reply) == (503, "unavailable")
    assert nodes.here.publish(people["x"], "camera")
    assert not nodes.here.publish(people["y"], "camera")
    await nodes.here.advance(5)
    await nodes.here.service.orders.do_anybodys()
    assert not nodes.here.publish(people["x"], "camera")


async def test_a_node_that_has_just_come_is_not_taken_for_dead(database_url: str) -> None:
    """It has a session already, and the other process has not looked at the nodes since."""
    here = await World.open(database_url, media=media_in("eu"))
    there = await World.open(database_url, media=media_in("us"), clock=here.clock)
    await there.call("default/x", by="alice")
    await there.users("bob")
    bob = (await there.as_("bob").join("default/x"))["participant"]
    blocking = asyncio.create_task(here.as_("alice").put(f"{CALL}/blocks/bob", {}))
    while bob["identity"] in there.media.rooms[bob["session_id"]].participants:
        await there.service.orders.do_ours()
        await asyncio.sleep(0.01)
    assert (await blocking).status_code == 200
    await there.close()
    await here.close()
    again = await World.open(database_url, media=media_in("eu"), clock=here.clock)
    newer = await World.open(database_url, media=media_in("ap"), clock=here.clock)
    await newer.call("default/y", by="alice")
    first = await newer.as_("alice").join("default/y")
    second = await again.as_("bob").join("default/y", connect=False)
    assert url(first) == url(second) == "wss://ap.example.com"
    await newer.close()
    await again.close()


async def test_what_is_committed_is_told_though_the_database_goes_away_before_the_node_has_done_its_part(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await nodes.here.users("bob")
    await nodes.here.call("default/x", by="alice")
    await _inside(nodes, "default/x", "bob")
    await nodes.there.as_("alice").patch(CALL, {"custom": {"n": 1}})
    alice = await nodes.there.listen(nodes.there.as_("alice"), "default/x")

    class Away:
        def read(self) -> Any:
            raise DatabaseAway("The database does not answer; try again.")

    monkeypatch.setattr(nodes.there.service.orders, "_database", Away())
    assert (await nodes.there.as_("alice").post(f"{CALL}/participants/bob/kick", {})).status_code == 204
    assert "participant.left" in alice.types()
    assert await nodes.owed() == ["eu"]

"""Sockets of one process hear what another does on the same database, in order and once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from signaling.api.v1.relay import Follower
from signaling.calls.settings import CallsSettings
from tests.signaling.api.v1.test_event_channel import serving
from tests.signaling.api.world import Client, World

CALL = "/calls/default/x"


class Pair:
    """Two processes: `here` has the sockets, `there` is where things are done."""

    def __init__(self, here: World, there: World) -> None:
        self.here, self.there = here, there
        self.follower = Follower(here.service)

    def as_(self, user_id: str) -> Client:
        return self.there.as_(user_id)


@contextlib.asynccontextmanager
async def opened(database_url: str) -> AsyncIterator[Pair]:
    here = await World.open(database_url)
    there = await World.open(database_url, clock=here.clock, media=here.media)
    await here.service.relay.start()
    yield Pair(here, there)
    await there.close()
    await here.close()


@pytest.fixture
async def pair(database_url: str) -> AsyncIterator[Pair]:
    async with opened(database_url) as pair:
        yield pair


async def test_members_and_watchers_hear_what_another_process_did(pair: Pair) -> None:
    await pair.here.users("bob")
    await pair.here.call("default/x", by="alice", members=["bob"])
    bob = await pair.here.listen(pair.here.as_("bob"))
    dave = await pair.here.listen(pair.here.as_("dave"), "default/x")
    eve = await pair.here.listen(pair.here.as_("eve"))
    await pair.follower.look()
    await pair.as_("alice").patch(CALL, {"custom": {"n": 1}})
    await pair.as_("alice").patch(CALL, {"custom": {"n": 2}})
    await pair.follower.look()
    await pair.follower.look()
    for listener in (bob, dave):
        told = listener.events()
        assert [(event["type"], event["data"]["call"]["custom"]["n"]) for event in told] == [
            ("call.updated", 1),
            ("call.updated", 2),
        ]
        assert told[1]["prev_seq"] == told[0]["seq"]
    assert eve.events() == []


async def test_what_this_process_does_is_told_once_and_after_what_came_before_it(pair: Pair) -> None:
    await pair.here.call("default/x", by="alice")
    alice = await pair.here.listen(pair.here.as_("alice"))
    await pair.as_("alice").patch(CALL, {"custom": {"n": 1}})
    await pair.here.as_("alice").patch(CALL, {"custom": {"n": 2}})
    await pair.follower.look()
    told = alice.events()
    assert [event["data"]["call"]["custom"]["n"] for event in told] == [1, 2]
    assert told[1]["prev_seq"] == told[0]["seq"]


async def test_who_begins_to_watch_is_not_told_what_he_has_seen(pair: Pair) -> None:
    await pair.here.call("default/x", by="alice")
    await pair.as_("alice").patch(CALL, {"custom": {"n": 1}})
    dave = await pair.here.listen(pair.here.as_("dave"), "default/x")
    await pair.follower.look()
    assert dave.events() == []
    await pair.as_("alice").patch(CALL, {"custom": {"n": 2}})
    await pair.follower.look()
    assert [event["data"]["call"]["custom"]["n"] for event in dave.events()] == [2]


async def test_a_ring_reaches_a_callee_of_another_process(pair: Pair) -> None:
    await pair.here.users("bob")
    await pair.here.call("default/x", by="alice", members=["bob"])
    bob = await pair.here.listen(pair.here.as_("bob"))
    await pair.as_("alice").post(f"{CALL}/rings", {"video": True})
    await pair.follower.look()
    (ring,) = bob.only("call.ring")
    assert ring["data"]["ring"]["video"] is True


async def test_counts_have_no_number_and_are_told_too(pair: Pair) -> None:
    await pair.here.call("development/x", by="alice", settings={"limits": {"max_participants": 200}})
    alice = await pair.here.listen(pair.here.as_("alice"), "development/x")
    for number in range(101):
        await pair.as_(f"user{number}").join("development/x")
    await pair.follower.look()
    assert [event["data"]["participant_count"] for event in alice.events() if event["type"] == "session.counts"] == [
        101
    ]


async def test_rights_and_users_changed_in_another_process_hold_for_sockets(pair: Pair) -> None:
    await pair.here.call("default/x", by="alice")
    dave = await pair.here.listen(pair.here.as_("dave"), "default/x")
    gone = await pair.here.listen(pair.here.as_("gone"))
    await pair.follower.look()
    reply = await pair.there.server.patch("/call-types/default/grants", {"user": {"remove": ["call.read"]}})
    assert reply.status_code == 200
    await pair.there.server.delete("/users/gone")
    await pair.follower.look()
    assert dave.frames()[-1] == {"type": "unsubscribed", "cids": ["default:x"], "reason": "missing_capability"}
    assert gone.socket.close_code == 4401


async def test_a_call_wiped_in_between_is_told_nobody(pair: Pair) -> None:
    await pair.here.call("default/x", by="alice")
    alice = await pair.here.listen(pair.here.as_("alice"))
    await pair.as_("alice").patch(CALL, {"custom": {"n": 1}})
    assert (await pair.there.server.delete(f"{CALL}?mode=hard")).status_code == 202
    await pair.there.settle()
    await pair.follower.look()
    assert alice.events() == []
    await pair.here.call("default/x", by="alice")
    assert [event["type"] for event in alice.events()] == ["call.created"]


async def test_sockets_hear_within_a_second_without_being_told_to_look(database_url: str) -> None:
    here = await World.open(database_url, settings=CallsSettings(event_poll_ms=50))
    there = await World.open(database_url, clock=here.clock, media=here.media)
    await here.call("default/x", by="alice")
    await here.system.start()
    async with serving(here) as server, server.greeted("alice") as alice:
        await there.as_("alice").patch(CALL, {"custom": {"n": 1}})
        event = await asyncio.wait_for(alice.receive(), 5)
        assert (event["type"], event["data"]["call"]["custom"]) == ("call.updated", {"n": 1})
    await there.close()
    await here.close()

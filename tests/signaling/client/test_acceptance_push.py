"""Acceptance through the client: push and what outlives a server (A-26 … A-31, L-6, L-7, L-10)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.signaling.api.v1.test_push_delivery import Vendors
from tests.signaling.api.v1.test_push_delivery import vendors as vendors  # the fixture
from tests.signaling.api.world import World
from tests.signaling.client.conftest import People


@pytest.fixture
async def callers(vendors: Vendors) -> AsyncIterator[People]:
    people = People(vendors.world)
    yield people
    await people.close()


@pytest.mark.parametrize("video", [True, False])
async def test_a26_a27_a_ring_reaches_phones_that_are_offline(vendors: Vendors, callers: People, video: bool) -> None:
    await callers("bob").add_device("bob", "apns_voip", "aa11")
    await callers("bob").add_device("bob", "fcm", "fcm-bob")
    call = callers("alice").make_call("default", "x")
    reply = await call.get_or_create(members=["bob"], ringing=True, video=video)
    await vendors.world.settle()
    assert reply.ring is not None
    (voip,), (data,) = vendors.apns.take(), vendors.fcm.take()
    assert (voip.headers["apns-push-type"], voip.json["ring_id"], voip.json["video"]) == ("voip", reply.ring.id, video)
    assert data.json["message"]["data"]["video"] == str(video).lower()
    # A late push: the phone asks what has become of the ring.
    await vendors.world.advance(31)
    assert (await callers("bob").make_call("default", "x").get_ring(reply.ring.id)).state == "timed_out"


async def test_a28_a30_notifying_and_ringing_together(vendors: Vendors, callers: People) -> None:
    await callers("bob").add_device("bob", "apns_voip", "b1")
    await callers("bob").add_device("bob", "apns", "b2")
    await callers("carl").add_device("carl", "apns", "c1")
    await callers("alice").add_device("alice", "apns", "a1")
    call = callers("alice").make_call("default", "x")
    await call.get_or_create(members=["bob", "carl"], ringing=True, notify=True)
    await vendors.world.settle()
    got = {request.path.rpartition("/")[2]: request.json["type"] for request in vendors.apns.take()}
    assert got == {"b1": "call.ring", "c1": "call.notification"}
    await call.notify(["carl"], title="Hey", body="Now")
    await vendors.world.settle()
    assert [r.json["aps"]["alert"] for r in vendors.apns.take()] == [{"title": "Hey", "body": "Now"}]


async def test_a31_a_dead_token_takes_its_device_away(vendors: Vendors, callers: People) -> None:
    vendors.failing["gone"] = (410, {"reason": "Unregistered"})
    dead = await callers("bob").add_device("bob", "apns_voip", "gone")
    await callers("alice").make_call("default", "x").get_or_create(members=["bob"], ringing=True)
    await vendors.world.settle()
    await vendors.world.advance(10)
    assert len([r for r in vendors.apns.take() if r.headers["apns-push-type"] == "voip"]) == 1
    with pytest.raises(Exception, match="not_found"):
        await callers("bob").remove_device("bob", dead)


async def test_l6_l10_a_ring_ends_at_its_timer_though_the_caller_and_the_server_are_gone(
    database_url: str, world: World, people: People
) -> None:
    await world.users("caller", "bob")
    call = people("caller").make_call("default", "x")
    reply = await call.get_or_create(members=["bob"], ringing=True)
    await call.join()
    assert reply.ring is not None
    # Another process on the same store, as after a restart: nobody told it anything.
    again = await World.open(database_url, clock=world.clock, media=world.media)
    later = People(again)
    theirs = later("bob").make_call("default", "x")
    assert (await theirs.get_ring(reply.ring.id)).state == "pending"
    world.clock.now += timedelta(seconds=31)
    await again.settle()
    assert (await theirs.get_ring(reply.ring.id)).state == "timed_out"
    await later.close()
    await again.close()


async def test_l7_a_session_ends_when_everybody_has_vanished(world: World, people: People) -> None:
    host, guest = (people(user).make_call("default", "x") for user in ("host", "dave"))
    await host.get_or_create()
    for call in (host, guest):
        await call.join()
        await world.vanish(call.room.participant)
    assert (await host.get()).call.ongoing
    for _ in range(5):
        await world.advance(12)
    assert not (await host.get()).call.ongoing
    assert [s.end_reason async for s in host.sessions()] == ["empty"]

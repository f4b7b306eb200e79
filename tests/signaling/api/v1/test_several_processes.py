"""Sockets of one process hear what another does on the same database, in order and once."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import select

from signaling.api.v1 import timers
from signaling.api.v1.presence import Presence
from signaling.api.v1.relay import Follower
from signaling.api.v1.service import SYSTEM, Wanted
from signaling.calls.settings import CallsSettings
from signaling.events.outbound import Answer
from signaling.events.owed import settle, take_due
from signaling.store import schema
from signaling.store.call_repository import Stale
from signaling.store.database import DatabaseAway
from signaling.store.kinds import DELIVERIES
from tests.signaling.api.v1.test_event_channel import serving
from tests.signaling.api.world import Client, World
from tests.signaling.events.gateways import gateway

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


async def _rung_before(pair: Pair, ring: str, seconds: float) -> str:
    await pair.there.advance(seconds)
    shown = (await pair.as_("alice").get(f"{CALL}/rings/{ring}")).json()["ring"]
    return str(shown["callees"][0]["state"])


async def test_who_has_a_socket_at_another_process_is_rung_as_one_who_is_online(pair: Pair) -> None:
    """Rung for 60 s who is online, for 10 s who is not."""
    ring = {"auto_cancel_timeout_ms": 90_000, "incoming_call_timeout_ms": 60_000, "missed_call_timeout_ms": 10_000}
    await pair.here.users("bob")
    await pair.here.call("default/x", by="alice", members=["bob"], settings={"ring": ring})
    bob = await pair.here.listen(pair.here.as_("bob"))
    await pair.here.service.presence.write()
    first = (await pair.as_("alice").post(f"{CALL}/rings", {})).json()["ring"]["id"]
    assert [await _rung_before(pair, first, seconds) for seconds in (11, 50)] == ["ringing", "missed"]
    # 61 s later nobody believes any more what was not said again, as by a process that was killed.
    second = (await pair.as_("alice").post(f"{CALL}/rings", {})).json()["ring"]["id"]
    assert await _rung_before(pair, second, 11) == "missed"
    again = Presence(pair.here.service.database, pair.here.service.channel, "again", pair.here.clock)
    await again.write()
    third = (await pair.as_("alice").put(CALL, {"ring": True})).json()["ring"]["id"]
    assert await _rung_before(pair, third, 11) == "ringing"
    await pair.as_("alice").post(f"{CALL}/rings/{third}/cancel", {})
    # He goes, and that is written too.
    bob.close()
    await again.write()
    fourth = (await pair.as_("alice").post(f"{CALL}/rings", {})).json()["ring"]["id"]
    assert await _rung_before(pair, fourth, 11) == "missed"


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
    await pair.there.advance(2)
    await pair.follower.look()
    assert alice.events() == []
    await pair.here.call("default/x", by="alice")
    assert [event["type"] for event in alice.events()] == ["call.created"]


async def test_a_deletion_is_told_before_the_call_is_wiped_and_its_id_used_anew(pair: Pair) -> None:
    await pair.here.call("default/x", by="alice")
    alice = await pair.here.listen(pair.here.as_("alice"))
    await pair.as_("alice").patch(CALL, {"custom": {"n": 1}})
    assert (await pair.there.server.delete(f"{CALL}?mode=hard")).status_code == 202
    await pair.there.settle()
    await pair.follower.look()
    assert [event["type"] for event in alice.events()] == ["call.updated", "call.deleted"]
    await pair.there.advance(1)
    await pair.there.call("default/x", by="alice")
    await pair.follower.look()
    assert [(event["type"], event["seq"]) for event in alice.events()] == [("call.created", 1)]


async def test_what_was_found_is_told_though_an_operation_comes_in_between(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The follower has read an event and waits for the call, on which an operation of this process goes first."""
    await pair.here.call("default/x", by="alice")
    alice = await pair.here.listen(pair.here.as_("alice"))
    await pair.as_("alice").patch(CALL, {"custom": {"n": 1}})
    in_turn = pair.here.service.look_in_turn

    async def after_another(*arguments: Any) -> None:
        await pair.here.as_("alice").patch(CALL, {"custom": {"n": 2}})
        await in_turn(*arguments)

    monkeypatch.setattr(pair.here.service, "look_in_turn", after_another)
    await pair.follower.look()
    assert [event["data"]["call"]["custom"]["n"] for event in alice.events()] == [1, 2]


async def test_an_operation_that_tells_nothing_does_not_hide_what_came_before_it(pair: Pair) -> None:
    await pair.here.call("default/x", by="alice")
    alice = await pair.here.listen(pair.here.as_("alice"))
    await pair.as_("alice").patch(CALL, {"custom": {"n": 1}})
    # A timer that finds nothing to do is put off, which changes the call and tells nobody.
    await pair.here.service.operate(SYSTEM, "default", "x", timers._tick, Wanted(reach=False))
    await pair.here.as_("alice").patch(CALL, {"custom": {"n": 2}})
    await pair.follower.look()
    assert [event["data"]["call"]["custom"]["n"] for event in alice.events()] == [1, 2]


async def test_what_was_found_is_told_though_the_database_goes_away_in_between(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.here.call("default/x", by="alice")
    alice = await pair.here.listen(pair.here.as_("alice"))
    await pair.as_("alice").patch(CALL, {"custom": {"n": 1}})
    with monkeypatch.context() as away:

        async def gone(*_: Any) -> None:
            raise DatabaseAway("gone")

        away.setattr(pair.here.service, "look_in_turn", gone)
        with pytest.raises(DatabaseAway):
            await pair.follower.look()
    await pair.as_("alice").patch(CALL, {"custom": {"n": 2}})
    await pair.follower.look()
    assert [event["data"]["call"]["custom"]["n"] for event in alice.events()] == [1, 2]


async def test_a_first_request_does_not_undo_what_another_process_says_of_the_user(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between finding that there is no such user and making him, he is made an admin elsewhere."""
    make = pair.here.service._first_seen

    async def late(*arguments: Any) -> Any:
        await pair.there.server.put("/users/zoe", {"role": "admin"})
        return await make(*arguments)

    monkeypatch.setattr(pair.here.service, "_first_seen", late)
    assert (await pair.here.as_("zoe").get("/users/zoe")).json()["user"]["role"] == "admin"


async def test_a_join_is_decided_without_reading_what_this_process_knows(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.here.users("bob")
    await pair.here.call("default/x", by="alice")
    await pair.here.as_("alice").join("default/x")
    await pair.here.as_("bob").join("default/x")

    async def read(*_: Any) -> Any:
        raise AssertionError("it was read")

    monkeypatch.setattr(pair.here.service, "_turn", read)
    again = await pair.here.as_("bob").join("default/x", "laptop", connect=False)
    assert again["call"]["participant_count"] == 2
    await pair.here.system.feed.participant_joined(again["session"]["id"], again["participant"]["identity"])
    monkeypatch.undo()
    people = (await pair.here.as_("alice").get(f"{CALL}/participants")).json()["items"]
    assert [(one["device_id"], one["state"]) for one in people] == [
        ("phone", "joined"),
        ("phone", "joined"),
        ("laptop", "joined"),
    ]


@pytest.mark.parametrize("change", ["call", "type", "user", "ban"])
async def test_what_another_process_changed_holds_for_a_join_decided_from_memory(pair: Pair, change: str) -> None:
    await pair.here.users("bob")
    await pair.here.call("default/x", by="alice")
    await pair.here.as_("alice").join("default/x")
    there = pair.there.server
    changed = {
        "call": lambda: there.put(f"{CALL}/blocks/bob", {}),
        "type": lambda: there.patch("/call-types/default/grants", {"user": {"remove": ["call.join"]}}),
        "user": lambda: there.patch("/users/bob", {"role": "guest"}),
        "ban": lambda: there.put("/bans/bob", {}),
    }
    assert (await pair.here.server.patch("/call-types/default/grants", {"guest": {"remove": ["call.join"]}})).is_success
    assert (await pair.here.as_("bob").get(CALL)).is_success
    before = await _revision(pair)
    assert (await changed[change]()).is_success
    # Bob is not in the session: of the call itself only his block is.
    assert (await _revision(pair) != before) is (change == "call")
    # Who asks is known for a moment, so that nothing but the commit can notice.
    pair.here.service.directory.refreshed_at = math.inf
    refused = await pair.here.as_("bob").post(f"{CALL}/join", {"device_id": "laptop"})
    code = {"call": "blocked", "ban": "banned"}.get(change, "missing_capability")
    assert (refused.status_code, refused.json()["code"]) == (403, code)


async def _revision(pair: Pair) -> Any:
    async with pair.there.service.database.read() as connection:
        return (await connection.execute(select(schema.calls.c.revision))).scalar_one()


async def test_what_another_process_allowed_is_not_refused_from_memory(pair: Pair) -> None:
    await pair.here.users("bob")
    await pair.here.call("default/x", by="alice")
    await pair.here.as_("alice").join("default/x")
    await pair.here.server.put(f"{CALL}/blocks/bob", {})
    assert (await pair.here.as_("bob").post(f"{CALL}/join", {})).status_code == 403
    await pair.there.server.delete(f"{CALL}/blocks/bob")
    pair.here.service.directory.refreshed_at = math.inf
    assert (await pair.here.as_("bob").post(f"{CALL}/join", {})).status_code == 200


async def test_a_report_of_a_session_that_has_ended_is_of_nobody_in_the_next(pair: Pair) -> None:
    await pair.here.call("default/x", by="alice")
    before = await pair.here.as_("alice").join("default/x")
    await pair.there.server.post(f"{CALL}/end", {})
    await pair.there.server.post(f"{CALL}/reopen", {})
    now = await pair.here.as_("alice").join("default/x", connect=False)
    assert now["session"]["id"] != before["session"]["id"]
    await pair.here.system.feed.participant_joined(before["session"]["id"], now["participant"]["identity"])
    (alice,) = (await pair.here.as_("alice").get(f"{CALL}/participants")).json()["items"]
    assert alice["state"] == "connecting"


@contextlib.contextmanager
def changed_too_fast(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have somebody else be faster, whatever a process wants to commit of a call."""

    async def stale(*_: Any) -> Any:
        raise Stale

    with monkeypatch.context() as busy:
        busy.setattr(world.service.calls, "store", stale)
        yield


async def test_a_report_that_was_never_in_time_is_made_up_for(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    async def state() -> str:
        (alice,) = (await pair.as_("alice").get(f"{CALL}/participants")).json()["items"]
        return str(alice["state"])

    await pair.here.call("default/x", by="alice")
    alice = (await pair.here.as_("alice").join("default/x", connect=False))["participant"]
    with changed_too_fast(pair.here, monkeypatch):
        await pair.here.connect(alice)
        await pair.here.system.feed.catch_up()
    assert await state() == "connecting"
    await pair.here.system.feed.catch_up()
    assert await state() == "joined"
    # Nor is a lost room forgotten.
    pair.here.media.rooms.clear()
    with changed_too_fast(pair.here, monkeypatch):
        await pair.here.system.feed.room_lost(alice["session_id"])
    await pair.here.system.feed.catch_up()
    assert await state() == "reconnecting"


async def test_a_ban_reaches_a_call_that_changed_too_fast_later(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    await pair.here.users("bob")
    await pair.here.call("default/x", by="alice")
    bob = (await pair.here.as_("bob").join("default/x"))["participant"]
    with changed_too_fast(pair.here, monkeypatch):
        reply = await pair.here.server.put("/bans/bob", {})
    assert (reply.status_code, reply.json()["code"]) == (503, "unavailable")
    assert pair.here.media.removed == []
    await pair.there.advance(5)
    await pair.there.service.orders.do_anybodys()
    assert pair.here.media.removed == [(bob["session_id"], "bob:phone", "blocked")]


async def test_what_is_owed_is_sent_by_one_process(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    post = pair.here.service.outbound.post

    async def while_the_other_looks(*arguments: Any, **more: Any) -> Answer:
        await pair.there.system.webhooks.run_due()
        return await post(*arguments, **more)

    monkeypatch.setattr(pair.here.service.outbound, "post", while_the_other_looks)
    async with gateway(lambda request: (204, None)) as endpoint:
        await pair.here.server.post("/webhooks", {"url": endpoint.url})
        await pair.here.call("default/x", by="alice")
        # In time that stands still the other finds it put off, and comes back for it no sooner.
        await pair.here.system.webhooks.begin_due()
        await pair.here.system.webhooks.run_due()
        assert len(endpoint.take()) == 1
        # Who died with what he had taken leaves it to the others.
        await pair.as_("alice").patch(CALL, {"custom": {"n": 1}})
        taken = await take_due(
            pair.there.service.database, DELIVERIES, pair.there.clock(), pair.there.clock() + timedelta(seconds=15), 9
        )
        assert [delivery.type for delivery in taken] == ["call.updated"]
        await pair.here.advance(14)
        assert endpoint.take() == []
        await pair.here.advance(1)
        assert [request.json["type"] for request in endpoint.take()] == ["call.updated"]
        # And what he says of it afterwards, if he was merely slow, is not heard.
        failed = structs.replace(taken[0], state="failed", next_attempt_at=None)
        async with pair.there.service.database.write() as connection:
            assert not await settle(connection, taken[0], failed)


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

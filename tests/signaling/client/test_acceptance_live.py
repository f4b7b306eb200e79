"""Acceptance through the client: backstage and ringing (A-25 … A-32, A-71 … A-79, L)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from signaling.client import Backstage, Call, Conflict, Forbidden, InvalidRequest, MissingCapability
from tests.signaling.api.world import START, World
from tests.signaling.client.conftest import People


async def scheduled(people: People, *, starts_in: float | None, ahead: int) -> Call:
    call = people("host").make_call("livestream", "show")
    await call.get_or_create(
        starts_at=None if starts_in is None else START + timedelta(seconds=starts_in),
        settings={"backstage": {"enabled": True, "join_ahead_time_seconds": ahead}},
    )
    return call


async def test_a71_the_clock_opens_the_gate(world: World, people: People) -> None:
    await scheduled(people, starts_in=10, ahead=6)
    viewer = people("dave").make_call("livestream", "show")
    await world.advance(2)
    with pytest.raises(Backstage) as early:
        await viewer.join()
    assert early.value.opens_at == START + timedelta(seconds=4)
    assert early.value.capability == "call.join_backstage"
    await world.advance(3)
    await viewer.join()


async def test_a72_members_join_at_once(world: World, people: People) -> None:
    await world.users("alice", "bob")
    call = people("host").make_call("livestream", "show")
    await call.get_or_create(members=["alice", "bob"], starts_at=START + timedelta(seconds=500))
    for user in ("alice", "bob"):
        room: Any = await people(user).make_call("livestream", "show").join()
        assert room.connected


@pytest.mark.parametrize(("starts_in", "ahead"), [(None, 300), (-10, 0)], ids=["a73-no-start", "a74-no-ahead"])
async def test_a73_a74_only_going_live_opens(people: People, starts_in: float | None, ahead: int) -> None:
    host = await scheduled(people, starts_in=starts_in, ahead=ahead)
    viewer = people("dave").make_call("livestream", "show")
    with pytest.raises(Backstage) as closed:
        await viewer.join()
    assert closed.value.opens_at is None
    await host.go_live()
    await viewer.join()


async def test_a75_a76_going_live(world: World, people: People) -> None:
    host = await scheduled(people, starts_in=None, ahead=0)
    first = await host.go_live()
    assert (first.live, first.backstage, first.live_started_at) == (True, False, START)
    await world.advance(5)
    assert await host.go_live() == first
    with pytest.raises(MissingCapability) as refused:
        await people("dave").make_call("livestream", "show").go_live()
    assert refused.value.capability == "live.start"


async def test_a77_stopping_sends_viewers_out(world: World, people: People) -> None:
    host = await scheduled(people, starts_in=None, ahead=0)
    await host.go_live()
    hosting: Any = await host.join()
    viewing: Any = await people("dave").make_call("livestream", "show").join()
    stopped = await host.stop_live()
    assert (stopped.live, stopped.backstage, stopped.live_ended_at) == (False, True, START)
    assert (hosting.connected, viewing.connected) == (True, False)
    await host.go_live()
    viewing = await people("dave").make_call("livestream", "show").join()
    await host.stop_live(remove_viewers=False)
    assert viewing.connected


async def test_a78_the_gate_moves_with_the_start(world: World, people: People) -> None:
    host = await scheduled(people, starts_in=10, ahead=6)
    await host.update(starts_at=START + timedelta(seconds=100))
    await world.advance(20)
    viewer = people("dave").make_call("livestream", "show")
    with pytest.raises(Backstage) as early:
        await viewer.join()
    assert early.value.opens_at == START + timedelta(seconds=94)
    await world.advance(74)
    await viewer.join()


@pytest.mark.parametrize("ahead", [-1, 86_401])
async def test_a79_the_ahead_time_has_bounds(people: People, ahead: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await scheduled(people, starts_in=10, ahead=ahead)
    assert [fault.pointer for fault in refused.value.errors] == ["/settings/backstage/join_ahead_time_seconds"]


async def ringing(world: World, people: People, **more: Any) -> tuple[Call, Call]:
    await world.users("caller", "bob", "carol")
    call = people("caller").make_call("default", "x")
    await call.get_or_create(members=["bob"], **more)
    return call, people("bob", device_id="phone").make_call("default", "x")


@pytest.mark.parametrize("video", [False, True])
async def test_a25_a27_ringing_at_creation(world: World, people: People, video: bool) -> None:
    await world.users("bob")
    bob = await world.listen(world.as_("bob"))
    call, theirs = await ringing(world, people, ringing=True, video=video)
    assert [frame["data"]["ring"]["video"] for frame in bob.only("call.ring")] == [video]
    ring = call.ring_in_progress
    assert ring is not None
    assert [(callee.user_id, callee.state) for callee in ring.callees] == [("bob", "ringing")]
    assert (await theirs.get_ring(ring.id)).video is video


async def test_a28_notifying_does_not_ring(world: World, people: People) -> None:
    await world.users("bob")
    bob = await world.listen(world.as_("bob"))
    call, _ = await ringing(world, people, notify=True)
    assert {"call.notification"} <= set(bob.types())
    assert call.ring_in_progress is None
    await call.notify(["bob"], title="Standup", body="starts now")
    assert [f["data"]["title"] for f in bob.only("call.notification")] == ["Standup"]


async def test_a29_an_existing_call_rings(world: World, people: People) -> None:
    call, _ = await ringing(world, people)
    before = call.info
    reply = await people("caller").make_call("default", "x").get_or_create(ringing=True)
    assert (reply.created, reply.call) == (False, before)
    assert reply.ring is not None
    assert reply.ring.state == "pending"


async def test_a32_ringing_needs_the_right(world: World, people: People) -> None:
    await ringing(world, people)
    await people.server.admin.change_grants("default", "user", remove=["call.ring"])
    with pytest.raises(MissingCapability) as refused:
        await people("dave").make_call("default", "x").ring(video=True)
    assert refused.value.capability == "call.ring"


async def test_l2_declining_ends_the_ring(world: World, people: People) -> None:
    call, theirs = await ringing(world, people, ringing=True)
    ring = await theirs.reject()
    assert (ring.state, ring.callees[0].state, ring.callees[0].reason) == ("rejected_by_all", "rejected", "decline")
    with pytest.raises(Conflict) as late:
        await call.cancel_ring(ring.id)
    assert late.value.problem["ring"]["state"] == "rejected_by_all"
    with pytest.raises(Conflict) as resolved:
        await theirs.accept()
    assert resolved.value.code == "already_resolved"
    with pytest.raises(Conflict) as nothing:
        await people("bob").make_call("default", "x").accept()
    assert nothing.value.code == "no_ring"


async def test_l4_accepting_on_one_device(world: World, people: People) -> None:
    _, phone = await ringing(world, people, ringing=True)
    tablet = await world.listen(world.as_("bob"), device="tablet")
    ring = await phone.accept()
    assert (ring.state, ring.callees[0].device_id) == ("accepted", "phone")
    assert [f["data"]["reason"] for f in tablet.only("call.ring_accepted")] == ["answered_elsewhere"]
    assert (await phone.accept(ring.id)).state == "accepted"
    with pytest.raises(Conflict) as late:
        await people("bob", device_id="tablet").make_call("default", "x").accept(ring.id)
    assert late.value.code == "already_resolved"


async def test_l8_accepting_against_cancelling(world: World, people: People) -> None:
    call, theirs = await ringing(world, people)
    for _ in range(50):
        ring = await call.ring()
        outcomes = await asyncio.gather(call.cancel_ring(ring.id), theirs.accept(ring.id), return_exceptions=True)
        won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert len(won) == 1
        assert (await call.get_ring(ring.id)).state == won[0].state in ("accepted", "cancelled")
        if won[0].state == "accepted":
            await theirs.join()
            await theirs.leave()


async def test_l9_the_longest_duration_and_extending_it(world: World, people: People) -> None:
    call, _ = await ringing(world, people, settings={"limits": {"max_duration_seconds": 60}})
    room: Any = await call.join()
    extended = await call.extend(60)
    assert extended.expires_at == START + timedelta(seconds=120)
    await world.advance(90)
    assert room.connected
    await world.advance(31)
    assert not room.connected
    assert [s.end_reason async for s in call.sessions()] == ["max_duration"]


async def test_l12_an_ended_call_is_reopened(world: World, people: People) -> None:
    call, theirs = await ringing(world, people)
    await call.end()
    with pytest.raises(Conflict) as ended:
        await people("dave").make_call("default", "x").join()
    assert ended.value.code == "call_ended"
    with pytest.raises(Forbidden):
        await people("dave").make_call("default", "x").reopen()
    assert (await call.reopen()).ended_at is None
    await theirs.join()


async def test_l1_cancelling_tells_the_callee_once_that_he_missed_it(world: World, people: People) -> None:
    call, _ = await ringing(world, people)
    bob = await world.listen(world.as_("bob"))
    ring = await call.ring()
    cancelled = await call.cancel_ring(ring.id)
    assert (cancelled.state, cancelled.callees[0].state) == ("cancelled", "cancelled")
    heard = [
        (frame["type"], frame["data"].get("reason")) for frame in bob.frames() if frame["type"].startswith("call.ring")
    ]
    assert heard == [("call.ring", None), ("call.ring_cancelled", "cancelled"), ("call.ring_missed", "cancelled")]


async def test_l3_who_is_in_another_call_is_busy(world: World, people: People) -> None:
    call, _ = await ringing(world, people, settings={"ring": {"auto_reject_when_busy": True}})
    other = people("carol").make_call("default", "other")
    await other.get_or_create(members=["bob"])
    await people("bob").make_call("default", "other").join()
    bob = await world.listen(world.as_("bob"))
    ring = await call.ring()
    assert (ring.state, ring.callees[0].state, ring.callees[0].reason) == ("rejected_by_all", "rejected", "busy")
    assert "call.ring" not in bob.types()


async def test_l5_one_rejects_and_the_other_goes_on_ringing(world: World, people: People) -> None:
    call, bobs = await ringing(world, people)
    await call.add_members(["carol"])
    ring = await call.ring()
    after = await bobs.reject(ring.id, reason="busy")
    assert after.state == "pending"
    assert {callee.user_id: callee.state for callee in after.callees} == {"bob": "rejected", "carol": "ringing"}
    accepted = await people("carol").make_call("default", "x").accept(ring.id)
    assert accepted.state == "accepted"


async def test_who_knows_the_ring_accepts_it_after_another_did(world: World, people: People) -> None:
    call, bobs = await ringing(world, people)
    await call.add_members(["carol"])
    ring = await call.ring()
    await bobs.get()
    await people("carol").make_call("default", "x").accept()
    assert {callee.user_id: callee.state for callee in (await bobs.accept()).callees} == {
        "bob": "accepted",
        "carol": "accepted",
    }
    assert ring.state == "pending"


async def test_l11_joining_and_leaving_at_once_are_told_in_order(world: World, people: People) -> None:
    call, theirs = await ringing(world, people)
    await theirs.join()
    await theirs.leave()
    types = [event.type for event in await world.recorded("default:x")]
    assert types.index("participant.joined") < types.index("participant.left")
    await world.advance(31)
    assert [s.end_reason async for s in call.sessions()] == ["empty"]


async def test_captions_are_shown_and_refused(world: World, served: People) -> None:
    call = served("host").make_call("default", "x")
    await call.get_or_create()
    await call.join()
    async with served("dave").events([served("dave").make_call("default", "x")]) as events:
        await call.send_caption("Good morning.", language="en", final=False)
        async with asyncio.timeout(10):
            event = await anext(event async for event in events if event.type == "captions.text")
    assert event.data == {"user_id": "host", "text": "Good morning.", "language": "en", "final": False}
    with pytest.raises(MissingCapability) as refused:
        await served("dave").make_call("default", "x").send_caption("Hello.")
    assert refused.value.capability == "captions.send"
    await call.update(settings={"transcription": {"captions_mode": "disabled"}})
    with pytest.raises(Conflict, match="feature_disabled"):
        await call.send_caption("Hello.")

"""Acceptance: ringing over the event channel (A-25, A-27, A-29, A-32) and a ring's life (L-1 … L-6, T-7).

Push is in `test_push_delivery.py`, races in `test_races.py`.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.signaling.api.world import Client, Listener, World, code, pointers

CALL = "/calls/default/x"
RINGS = f"{CALL}/rings"


async def ringing(world: World, *callees: str, **body: Any) -> dict[str, Any]:
    """Make the call of alice and the callees, and have alice ring."""
    await world.users("alice", *callees)
    await world.call("default/x", by="alice", members=[{"user_id": c, "role": "call_member"} for c in callees])
    reply = await world.as_("alice").post(RINGS, body)
    assert reply.status_code == 201, reply.text
    ring: dict[str, Any] = reply.json()["ring"]
    return ring


def states(ring: dict[str, Any]) -> dict[str, str]:
    return {callee["user_id"]: callee["state"] for callee in ring["callees"]}


async def test_a_25_a_callee_who_is_online_hears_the_ring_at_once(world: World) -> None:
    await world.users("alice", "bob")
    alice, bob = await world.listen(world.as_("alice")), await world.listen(world.as_("bob"))
    made = await world.call("default/x", by="alice", members=["bob"], ring=True, video=True)
    ring = made["ring"]
    assert ring["state"] == "pending"
    assert ring["caller"] == {"id": "alice", "name": "Alice", "image": None}
    assert ring["expires_at"] == "2026-01-01T09:00:30.000Z"
    assert [(c["user_id"], c["state"], c["reason"]) for c in ring["callees"]] == [("bob", "ringing", None)]
    heard = bob.only("call.ring")
    assert [(f["cid"], f["actor"], f["data"]["ring"]) for f in heard] == [("default:x", "alice", ring)]
    assert heard[0]["data"]["call"]["cid"] == "default:x"
    assert alice.types() == ["call.created"]


async def test_a_27_video_or_audio_is_said(world: World) -> None:
    await world.users("alice", "bob")
    bob = await world.listen(world.as_("bob"))
    await world.call("default/x", by="alice", members=["bob"], ring=True)
    await world.call("default/y", by="alice", members=["bob"], ring=True, video=True)
    assert [f["data"]["ring"]["video"] for f in bob.only("call.ring")] == [False, True]


async def test_a_29_an_existing_call_rings_and_stays_as_it_is(world: World) -> None:
    await world.users("alice", "bob")
    before = await world.call("default/x", by="alice", members=["bob"])
    bob = await world.listen(world.as_("bob"))
    again = await world.call("default/x", by="alice", ring=True, video=True, custom={"ignored": True})
    assert again["created"] is False
    assert again["call"] == before["call"]
    assert again["members"]["items"] == before["members"]["items"]
    assert bob.only("call.ring")[0]["data"]["ring"] == again["ring"]
    # Asked again while it rings, the same ring is returned; the route that makes one refuses.
    assert (await world.call("default/x", by="alice", ring=True))["ring"]["id"] == again["ring"]["id"]
    assert bob.types() == []
    doubled = await world.as_("alice").post(RINGS)
    assert code(doubled) == (409, "conflict")
    assert doubled.json()["ring"]["id"] == again["ring"]["id"]


async def test_a_32_ringing_needs_the_capability(world: World) -> None:
    await world.users("alice", "bob", "carl")
    members = [{"user_id": "bob", "role": "listener"}, "carl"]
    await world.call("default/x", by="alice", members=members)
    carl = await world.listen(world.as_("carl"))
    for attempt in (
        world.as_("bob").post(RINGS),
        world.as_("bob").put(CALL, {"ring": True}),
        world.as_("bob").post(f"{CALL}/notify"),
        world.as_("bob").put(CALL, {"notify": True}),
    ):
        reply = await attempt
        assert code(reply) == (403, "missing_capability")
        assert reply.json()["capability"] in ("call.ring", "call.notify")
    assert carl.frames() == []
    assert (await world.as_("bob").get(CALL)).json()["ring"] is None


async def test_whom_a_ring_can_name(world: World) -> None:
    await world.users("alice", "bob", "carl")
    await world.call("default/x", by="alice", members=["bob", "carl"])
    reply = await world.as_("alice").post(RINGS, {"user_ids": ["bob", "nobody", "alice"]})
    assert code(reply) == (422, "unknown_user")
    assert pointers(reply) == ["/user_ids/1", "/user_ids/2"]
    ring = (await world.as_("alice").post(RINGS, {"user_ids": ["carl"], "custom": {"why": "urgent"}})).json()["ring"]
    assert states(ring) == {"carl": "ringing"}
    assert ring["custom"] == {"why": "urgent"}
    assert code(await world.as_("bob").post(f"{RINGS}/{ring['id']}/accept")) == (404, "not_found")
    assert (await world.as_("bob").get(f"{RINGS}/{ring['id']}")).json()["ring"] == ring
    assert code(await world.as_("dave").get(f"{RINGS}/{ring['id']}")) == (404, "not_found")


async def test_who_is_kept_out_is_not_rung_and_hears_nothing(world: World) -> None:
    await world.users("alice", "bob", "carl", "dora", "emil")
    await world.call("default/x", by="alice", members=["bob", "carl", "dora", "emil"])
    alice = world.as_("alice")
    await alice.put(f"{CALL}/blocks/bob", {})
    await world.server.put("/bans/carl", {})
    await world.server.delete("/users/dora")
    heard = [await world.listen(world.as_(name)) for name in ("bob", "carl", "emil")]
    ring = (await alice.post(RINGS)).json()["ring"]
    assert states(ring) == {"emil": "ringing"}
    await alice.post(f"{CALL}/notify", {})
    await alice.post(f"{CALL}/events", {"type": "chat", "to": ["bob", "carl", "emil"]})
    told = [listener.types() for listener in heard]
    assert told == [[], [], ["call.ring", "call.notification", "event.custom"]]
    # Nobody is waited for who cannot answer.
    rejected = (await world.as_("emil").post(f"{RINGS}/{ring['id']}/reject")).json()["ring"]
    assert rejected["state"] == "rejected_by_all"
    named = await alice.post(RINGS, {"user_ids": ["emil", "bob", "carl", "dora"]})
    assert (code(named), pointers(named)) == ((422, "unprocessable"), ["/user_ids/1", "/user_ids/2", "/user_ids/3"])


async def test_with_everybody_kept_out_nobody_is_rung(world: World) -> None:
    await world.users("alice", "bob")
    await world.call("default/x", by="alice", members=["bob"])
    await world.as_("alice").put(f"{CALL}/blocks/bob", {})
    assert code(await world.as_("alice").post(RINGS)) == (409, "conflict")
    assert (await world.call("default/x", by="alice", ring=True, notify=True))["ring"] is None


@pytest.mark.parametrize("act", ["block", "remove"])
async def test_who_is_not_to_come_any_more_stops_ringing_at_once_and_the_others_ring_on(world: World, act: str) -> None:
    ring = await ringing(world, "bob", "carl")
    alice, bob, carl = [await world.listen(world.as_(name)) for name in ("alice", "bob", "carl")]
    if act == "block":
        done = await world.as_("alice").put(f"{CALL}/blocks/bob", {})
    else:
        done = await world.as_("alice").delete(f"{CALL}/members/bob")
    assert done.is_success, done.text
    # Why it is over, and that it is: his devices stop.
    why = {"block": "participant.blocked", "remove": "member.removed"}[act]
    heard = [type_ for type_ in bob.types() if type_ != "call.capabilities_updated"]
    assert heard == [why, "call.ring_cancelled", "call.ring_missed"]
    (missed,) = alice.only("call.ring_missed")
    assert (missed["data"]["user_id"], missed["data"]["reason"]) == ("bob", "cancelled")
    assert states(missed["data"]["ring"]) == {"bob": "cancelled", "carl": "ringing"}
    assert missed["data"]["ring"]["state"] == "pending"
    assert not {"call.ring_cancelled", "call.ring_missed"} & set(carl.types())
    refusal = {"block": (403, "blocked"), "remove": (409, "already_resolved")}[act]
    assert code(await world.as_("bob").post(f"{RINGS}/{ring['id']}/accept", {"device_id": "phone"})) == refusal
    rejected = (await world.as_("carl").post(f"{RINGS}/{ring['id']}/reject")).json()["ring"]
    assert (rejected["state"], states(rejected)) == ("cancelled", {"bob": "cancelled", "carl": "rejected"})
    await world.advance(60)
    assert not {"call.ring_cancelled", "call.ring_missed"} & set(bob.types())


async def test_with_its_only_callee_a_ring_ends(world: World) -> None:
    ring = await ringing(world, "bob")
    await world.as_("alice").put(f"{CALL}/blocks/bob", {})
    shown = (await world.as_("alice").get(f"{RINGS}/{ring['id']}")).json()["ring"]
    assert (shown["state"], states(shown)) == ("cancelled", {"bob": "cancelled"})
    assert shown["ended_at"] is not None


async def test_l_1_the_caller_cancels_and_each_callee_misses_once(world: World) -> None:
    ring = await ringing(world, "bob", "carl")
    alice, bob = await world.listen(world.as_("alice")), await world.listen(world.as_("bob"))
    assert code(await world.as_("bob").post(f"{RINGS}/{ring['id']}/cancel")) == (403, "missing_capability")
    cancelled = (await world.as_("alice").post(f"{RINGS}/{ring['id']}/cancel")).json()["ring"]
    assert cancelled["state"] == "cancelled"
    assert states(cancelled) == {"bob": "cancelled", "carl": "cancelled"}
    heard = bob.frames()
    assert [f["type"] for f in heard] == ["call.ring_cancelled", "call.ring_missed"]
    assert heard[0]["data"] == {"ring_id": ring["id"], "reason": "cancelled", "ring": cancelled}
    assert heard[1]["data"] == {"ring_id": ring["id"], "user_id": "bob", "reason": "cancelled", "ring": cancelled}
    assert sorted(f["data"]["user_id"] for f in alice.only("call.ring_missed")) == ["bob", "carl"]
    await world.advance(60)
    assert bob.frames() == []
    again = await world.as_("alice").post(f"{RINGS}/{ring['id']}/cancel")
    assert code(again) == (409, "already_resolved")
    assert again.json()["ring"]["state"] == "cancelled"


async def test_l_2_declined_by_all_the_ring_and_the_lonely_session_end(world: World) -> None:
    ring = await ringing(world, "bob")
    joined = await world.as_("alice").join("default/x")
    alice = await world.listen(world.as_("alice"))
    reply = await world.as_("bob").post(f"{RINGS}/{ring['id']}/reject", {"reason": "decline", "device_id": "phone"})
    rejected = reply.json()["ring"]
    assert rejected["state"] == "rejected_by_all"
    assert rejected["ended_at"] == "2026-01-01T09:00:00.000Z"
    assert [(c["state"], c["reason"], c["device_id"]) for c in rejected["callees"]] == [
        ("rejected", "decline", "phone")
    ]
    frames = alice.frames()
    by_type = {f["type"]: f["data"] for f in frames}
    assert by_type["call.ring_rejected"] == {
        "ring_id": ring["id"],
        "user_id": "bob",
        "by_device": "phone",
        "reason": "decline",
        "ring": rejected,
    }
    assert by_type["session.ended"]["session"]["end_reason"] == "rejected"
    shown = (await world.as_("alice").get(CALL)).json()
    assert (shown["call"]["ongoing"], shown["call"]["ended_at"], shown["session"]) == (False, None, None)
    assert world.media.closed == [(joined["session"]["id"], "rejected")]


async def test_l_2_declined_by_all_a_session_with_company_goes_on(world: World) -> None:
    ring = await ringing(world, "bob")
    await world.as_("alice").join("default/x")
    await world.as_("carl").join("default/x")
    await world.as_("bob").post(f"{RINGS}/{ring['id']}/reject")
    assert (await world.as_("alice").get(CALL)).json()["call"]["ongoing"] is True


async def test_l_3_who_is_busy_hears_nothing(world: World) -> None:
    await world.users("alice", "bob", "carl")
    settings = {"ring": {"auto_reject_when_busy": True}}
    await world.call("default/x", by="alice", members=["bob", "carl"], settings=settings)
    await world.call("default/other", by="bob")
    await world.as_("bob").join("default/other")
    alice, bob = await world.listen(world.as_("alice")), await world.listen(world.as_("bob"))
    ring = (await world.as_("alice").post(RINGS)).json()["ring"]
    assert {c["user_id"]: (c["state"], c["reason"]) for c in ring["callees"]} == {
        "bob": ("rejected", "busy"),
        "carl": ("ringing", None),
    }
    assert bob.frames() == []
    assert [f["data"]["reason"] for f in alice.only("call.ring_rejected")] == ["busy"]


async def test_l_3_busy_is_no_reason_unless_the_settings_say_so(world: World) -> None:
    await world.users("alice", "bob")
    await world.call("default/other", by="bob")
    await world.as_("bob").join("default/other")
    bob = await world.listen(world.as_("bob"))
    ring = (await world.call("default/x", by="alice", members=["bob"], ring=True))["ring"]
    assert bob.types() == ["call.created", "call.ring"]
    said = (await world.as_("bob").post(f"{RINGS}/{ring['id']}/reject", {"reason": "busy"})).json()["ring"]
    assert said["callees"][0]["reason"] == "busy"


async def is_accepted_on_the_phone(
    bob: Client, ring: dict[str, Any], phone: Listener, tablet: Listener, alice: Listener
) -> None:
    """Everybody has heard it once, the phone may say it again, and the tablet is late."""
    assert ring["state"] == "accepted"
    assert [(c["state"], c["device_id"]) for c in ring["callees"]] == [("accepted", "phone")]
    expected = {"ring_id": ring["id"], "user_id": "bob", "by_device": "phone", "ring": ring}
    assert [f["data"] for f in phone.only("call.ring_accepted")] == [{**expected, "reason": None}]
    assert [f["data"] for f in tablet.only("call.ring_accepted")] == [{**expected, "reason": "answered_elsewhere"}]
    assert [f["data"] for f in alice.only("call.ring_accepted")] == [{**expected, "reason": None}]
    assert (await bob.post(f"{RINGS}/{ring['id']}/accept", {"device_id": "phone"})).json()["ring"] == ring
    late = await bob.post(f"{RINGS}/{ring['id']}/accept", {"device_id": "tablet"})
    assert code(late) == (409, "already_resolved")
    assert late.json()["ring"] == ring


async def test_l_4_accepted_on_the_phone_the_tablet_stops(world: World) -> None:
    ring = await ringing(world, "bob")
    bob, alice = world.as_("bob"), await world.listen(world.as_("alice"))
    phone = await world.listen(bob, device="phone")
    tablet = await world.listen(bob, device="tablet")
    accepted = (await bob.post(f"{RINGS}/{ring['id']}/accept", {"device_id": "phone"})).json()["ring"]
    await is_accepted_on_the_phone(bob, accepted, phone, tablet, alice)
    assert code(await bob.post(f"{RINGS}/{ring['id']}/reject")) == (409, "already_resolved")
    assert code(await world.as_("alice").post(f"{RINGS}/{ring['id']}/cancel")) == (409, "already_resolved")


async def test_l_4_who_joins_without_accepting_has_accepted(world: World) -> None:
    ring = await ringing(world, "bob")
    await world.as_("alice").join("default/x")
    bob, alice = world.as_("bob"), await world.listen(world.as_("alice"))
    phone = await world.listen(bob, device="phone")
    tablet = await world.listen(bob, device="tablet")
    await bob.join("default/x", device="phone")
    accepted = (await world.as_("alice").get(f"{RINGS}/{ring['id']}")).json()["ring"]
    await is_accepted_on_the_phone(bob, accepted, phone, tablet, alice)
    await world.advance(40)
    assert [tablet.only("call.ring_missed"), alice.only("call.ring_missed")] == [[], []]
    assert (await world.as_("alice").get(f"{RINGS}/{ring['id']}")).json()["ring"] == accepted


async def test_who_joins_hidden_accepts_nothing(world: World) -> None:
    ring = await ringing(world, "root", "bob")
    await world.users("root", role="admin")
    await world.as_("root").join("default/x", hidden=True)
    after = (await world.as_("alice").get(f"{RINGS}/{ring['id']}")).json()["ring"]
    assert states(after) == {"root": "ringing", "bob": "ringing"}


async def test_l_5_one_rejects_and_the_other_rings_on(world: World) -> None:
    ring = await ringing(world, "bob", "carl")
    carl = await world.listen(world.as_("carl"))
    rejected = (await world.as_("bob").post(f"{RINGS}/{ring['id']}/reject")).json()["ring"]
    assert rejected["state"] == "pending"
    assert states(rejected) == {"bob": "rejected", "carl": "ringing"}
    assert carl.frames() == []
    accepted = (await world.as_("carl").post(f"{RINGS}/{ring['id']}/accept")).json()["ring"]
    assert accepted["state"] == "accepted"
    assert states(accepted) == {"bob": "rejected", "carl": "accepted"}


async def test_l_5_accepted_by_one_the_other_rings_on_until_he_misses_it(world: World) -> None:
    ring = await ringing(world, "bob", "carl")
    await world.as_("bob").post(f"{RINGS}/{ring['id']}/accept")
    await world.advance(30)
    after = (await world.as_("alice").get(f"{RINGS}/{ring['id']}")).json()["ring"]
    assert after["state"] == "accepted"
    assert states(after) == {"bob": "accepted", "carl": "missed"}


async def test_l_6_with_the_caller_gone_the_timer_ends_the_ring(world: World) -> None:
    ring = await ringing(world, "bob")
    bob = await world.listen(world.as_("bob"))
    await world.advance(29)
    assert bob.frames() == []
    await world.advance(1)
    heard = bob.frames()
    assert [(f["type"], f["data"]["reason"], f["data"]["user_id"]) for f in heard] == [
        ("call.ring_missed", "timeout", "bob")
    ]
    assert heard[0]["data"]["ring"]["state"] == "timed_out"
    assert states(heard[0]["data"]["ring"]) == {"bob": "missed"}
    late = await world.as_("bob").post(f"{RINGS}/{ring['id']}/accept")
    assert code(late) == (409, "already_resolved")
    assert late.json()["ring"]["state"] == "timed_out"


async def test_l_6_each_deadline_is_the_sooner_of_ring_and_callee(world: World) -> None:
    await world.users("alice", "bob", "carl")
    times = {"incoming_call_timeout_ms": 10_000, "missed_call_timeout_ms": 20_000}
    await world.call("default/x", by="alice", members=["bob", "carl"], settings={"ring": times})
    bob = await world.listen(world.as_("bob"))
    ring = (await world.as_("alice").post(RINGS, {"timeout_ms": 60_000})).json()["ring"]
    assert ring["expires_at"] == "2026-01-01T09:01:00.000Z"
    await world.advance(10)
    after = (await world.as_("alice").get(f"{RINGS}/{ring['id']}")).json()["ring"]
    assert states(after) == {"bob": "missed", "carl": "ringing"}
    assert bob.types() == ["call.ring", "call.ring_missed"]
    await world.advance(10)
    after = (await world.as_("alice").get(f"{RINGS}/{ring['id']}")).json()["ring"]
    assert (after["state"], states(after)) == ("timed_out", {"bob": "missed", "carl": "missed"})


async def test_l_6_some_rejected_and_some_missed_is_timed_out(world: World) -> None:
    ring = await ringing(world, "bob", "carl")
    await world.as_("bob").post(f"{RINGS}/{ring['id']}/reject")
    await world.advance(30)
    after = (await world.as_("alice").get(f"{RINGS}/{ring['id']}")).json()["ring"]
    assert (after["state"], states(after)) == ("timed_out", {"bob": "rejected", "carl": "missed"})


async def test_the_end_of_the_call_cancels_the_ring(world: World) -> None:
    ring = await ringing(world, "bob")
    bob = await world.listen(world.as_("bob"))
    await world.as_("alice").post(f"{CALL}/end")
    heard = [f for f in bob.frames() if f["type"].startswith("call.ring")]
    assert [(f["type"], f["data"]["reason"]) for f in heard] == [
        ("call.ring_cancelled", "call_ended"),
        ("call.ring_missed", "cancelled"),
    ]
    assert code(await world.as_("alice").post(RINGS)) == (409, "call_ended")
    assert (await world.as_("bob").get(f"{RINGS}/{ring['id']}")).json()["ring"]["state"] == "cancelled"


async def test_alone_after_a_ring_the_session_ends(world: World) -> None:
    ring = await ringing(world, "bob")
    await world.as_("alice").join("default/x")
    await world.as_("bob").post(f"{RINGS}/{ring['id']}/accept")
    joined = await world.as_("bob").join("default/x")
    await world.advance(600)
    assert (await world.as_("alice").get(CALL)).json()["call"]["ongoing"] is True
    await world.vanish(joined["participant"], clean=True)
    await world.advance(29)
    assert (await world.as_("alice").get(CALL)).json()["call"]["ongoing"] is True
    await world.advance(1)
    sessions = (await world.as_("alice").get(f"{CALL}/sessions")).json()["items"]
    assert [s["end_reason"] for s in sessions] == ["alone"]
    assert (await world.as_("alice").get(CALL)).json()["call"]["ended_at"] is None


async def test_alone_without_a_ring_the_session_goes_on(world: World) -> None:
    await world.call("default/x", by="alice")
    await world.as_("alice").join("default/x")
    await world.advance(3_600)
    assert (await world.as_("alice").get(CALL)).json()["call"]["ongoing"] is True


async def test_t_7_each_ring_of_a_call_is_a_new_one(world: World) -> None:
    first = await ringing(world, "bob")
    await world.as_("bob").post(f"{RINGS}/{first['id']}/reject")
    bob = await world.listen(world.as_("bob"))
    second = (await world.as_("alice").post(RINGS)).json()["ring"]
    assert second["id"] != first["id"]
    assert [f["data"]["ring"]["id"] for f in bob.only("call.ring")] == [second["id"]]
    assert (await world.as_("bob").get(f"{RINGS}/{first['id']}")).json()["ring"]["state"] == "rejected_by_all"
    assert code(await world.as_("bob").post(f"{RINGS}/{first['id']}/accept")) == (409, "already_resolved")
    assert (await world.as_("bob").post(f"{RINGS}/{second['id']}/accept")).status_code == 200

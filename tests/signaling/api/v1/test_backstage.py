"""Acceptance: backstage, join-ahead and going live (A-71 … A-79), by an injected clock."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from signaling.calls import rights
from signaling.calls.identifiers import rfc3339
from signaling.calls.operations import live, sessions
from signaling.calls.rights import Holding, holding
from signaling.calls.state import Turn
from tests.signaling.api.world import START, World, code, pointers

CALL = "/calls/livestream/x"


def at(seconds: float) -> str:
    return str(rfc3339(START + timedelta(seconds=seconds)))


async def scheduled(world: World, starts: float | None, ahead: int, **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"settings": {"backstage": {"enabled": True, "join_ahead_time_seconds": ahead}}, **more}
    if starts is not None:
        body["starts_at"] = at(starts)
    made: dict[str, Any] = (await world.call("livestream/x", by="alice", **body))["call"]
    return made


async def refused(world: World, user: str = "dave") -> str | None:
    """Return when the call opens, from the refusal of a user's join."""
    reply = await world.as_(user).post(f"{CALL}/join")
    assert code(reply) == (403, "backstage")
    assert reply.json()["capability"] == "call.join_backstage"
    opens: str | None = reply.json()["opens_at"]
    return opens


async def test_a_71_the_clock_opens_the_call_ahead_of_its_start(world: World) -> None:
    made = await scheduled(world, 10, 6)
    assert (made["starts_at"], made["opens_at"], made["backstage"], made["live"]) == (at(10), at(4), True, False)
    await world.advance(2)
    assert await refused(world) == at(4)
    await world.advance(1.999)
    assert await refused(world) == at(4)
    await world.advance(0.001)
    joined = await world.as_("dave").join("livestream/x")
    assert (joined["call"]["backstage"], joined["call"]["live"]) == (True, False)


async def test_a_71_the_example_of_the_specification(world: World) -> None:
    await world.users("alice", "bob", "host", "dave")
    settings = {"backstage": {"enabled": True, "join_ahead_time_seconds": 300}}
    body = {"members": ["alice", "bob"], "starts_at": at(500), "settings": settings, "notify": True, "video": True}
    made = await world.as_("host").put("/calls/livestream/my-call-id", body)
    assert made.status_code == 201
    assert made.json()["call"]["opens_at"] == at(200)
    for member in ("host", "alice", "bob"):
        await world.as_(member).join("livestream/my-call-id")
    await world.advance(199)
    assert code(await world.as_("dave").post("/calls/livestream/my-call-id/join")) == (403, "backstage")
    await world.advance(1)
    await world.as_("dave").join("livestream/my-call-id")


async def test_a_72_members_prepare_at_once(world: World) -> None:
    await world.users("bob", "sue", "mod")
    members = ["bob", {"user_id": "sue", "role": "speaker"}, {"user_id": "mod", "role": "moderator"}]
    await scheduled(world, 10, 6, members=members)
    for member in ("alice", "bob", "sue", "mod"):
        joined = await world.as_(member).join("livestream/x")
        assert "media.audio" in joined["own_capabilities"]
    assert await refused(world) == at(4)


async def test_a_73_without_a_start_only_going_live_opens(world: World) -> None:
    made = await scheduled(world, None, 300)
    assert made["opens_at"] is None
    await world.advance(86_400)
    assert await refused(world) is None
    await world.as_("alice").put(f"{CALL}/live")
    await world.as_("dave").join("livestream/x")


async def test_a_74_without_ahead_time_the_start_opens_nothing(world: World) -> None:
    made = await scheduled(world, 10, 0)
    assert made["opens_at"] is None
    await world.advance(11)
    assert await refused(world) is None


async def test_a_75_going_live_opens_and_is_told(world: World) -> None:
    await world.users("bob")
    await scheduled(world, None, 0, members=[{"user_id": "bob", "role": "call_member"}])
    bob, dave = await world.listen(world.as_("bob")), await world.listen(world.as_("dave"), "livestream/x")
    await world.advance(5)
    live = (await world.as_("alice").put(f"{CALL}/live")).json()["call"]
    assert (live["live"], live["backstage"], live["live_started_at"], live["live_ended_at"]) == (
        True,
        False,
        at(5),
        None,
    )
    for listener in (bob, dave):
        assert [f["data"] for f in listener.only("call.live_started")] == [{"call": live}]
    await world.as_("dave").join("livestream/x")
    own = (await world.as_("dave").get(CALL)).json()["own_capabilities"]
    assert "call.join" in own


async def test_a_76_going_live_twice_and_without_the_right(world: World) -> None:
    await scheduled(world, None, 0)
    denied = await world.as_("dave").put(f"{CALL}/live")
    assert (code(denied), denied.json()["capability"]) == ((403, "missing_capability"), "live.start")
    first = (await world.as_("alice").put(f"{CALL}/live")).json()
    await world.advance(5)
    alice = await world.listen(world.as_("alice"))
    again = await world.as_("alice").put(f"{CALL}/live")
    assert (again.status_code, again.json()) == (200, first)
    assert alice.frames() == []
    assert code(await world.as_("dave").delete(f"{CALL}/live")) == (403, "missing_capability")


async def test_a_77_back_to_backstage_viewers_leave(world: World) -> None:
    await scheduled(world, 10, 60)
    await world.as_("alice").put(f"{CALL}/live")
    host = (await world.as_("alice").join("livestream/x"))["participant"]
    viewer = (await world.as_("dave").join("livestream/x"))["participant"]
    alice = await world.listen(world.as_("alice"))
    await world.advance(20)
    stopped = (await world.as_("alice").delete(f"{CALL}/live")).json()["call"]
    assert (stopped["live"], stopped["backstage"], stopped["live_ended_at"]) == (False, True, at(20))
    # Stopped by hand, the clock does not open it again.
    assert stopped["opens_at"] is None
    assert world.media.removed == [(viewer["session_id"], "dave:phone", "live_stopped")]
    assert [p["id"] for p in (await world.as_("alice").get(f"{CALL}/participants")).json()["items"]] == [host["id"]]
    types = alice.types()
    assert [t for t in types if t in ("participant.left", "call.live_stopped")] == [
        "participant.left",
        "call.live_stopped",
    ]
    assert await refused(world) is None
    await world.as_("alice").patch(CALL, {"starts_at": at(100)})
    assert (await world.as_("alice").get(CALL)).json()["call"]["live_ended_at"] is None
    await world.advance(20)
    await world.as_("dave").join("livestream/x")


async def test_a_77_viewers_may_be_left_inside(world: World) -> None:
    await scheduled(world, None, 0)
    await world.as_("alice").put(f"{CALL}/live")
    await world.as_("alice").join("livestream/x")
    await world.as_("dave").join("livestream/x")
    await world.as_("alice").delete(f"{CALL}/live", params={"remove_viewers": "false"})
    assert world.media.removed == []
    assert await refused(world, "erin") is None
    wrong = await world.as_("alice").delete(f"{CALL}/live", params={"remove_viewers": "maybe"})
    assert pointers(wrong) == ["/remove_viewers"]


def count_holding(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often it is worked out what somebody holds."""
    counted: Counter[str] = Counter()

    def counting(turn: Turn, *whom: Any) -> Holding:
        counted["holding"] += 1
        return holding(turn, *whom)

    for module in (rights, sessions, live):
        monkeypatch.setattr(module, "holding", counting)
    return counted


async def test_what_many_lose_at_once_is_found_out_once_of_each(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await scheduled(world, None, 0)
    await world.as_("alice").put(f"{CALL}/live")
    await world.as_("alice").join("livestream/x")
    viewer = world.anonymous("livestream:x")
    for _ in range(200):
        await viewer.join("livestream/x")
    alice = await world.listen(world.as_("alice"))
    counted = count_holding(monkeypatch)
    assert (await world.as_("alice").delete(f"{CALL}/live")).status_code == 200
    assert 201 < counted["holding"] < 5 * 201
    # Who decides on rights hears of each of them.
    assert alice.types().count("call.capabilities_updated") == 200
    assert len(world.media.removed) == 200


async def test_a_timer_looks_at_everybody_only_if_the_clock_has_opened_the_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scheduled(world, 100, 10)
    await world.as_("alice").join("livestream/x")
    tablet = (await world.as_("alice").join("livestream/x", device="tablet"))["participant"]
    looked: list[str] = []
    monkeypatch.setattr(sessions, "refresh", lambda turn, reason: looked.append(reason))
    await world.vanish(tablet)
    await world.advance(60)
    assert [removed[1:] for removed in world.media.removed] == [("alice:tablet", "connection_lost")]
    assert looked == []
    await world.advance(40)
    assert looked == ["state_changed"]


async def test_with_its_end_a_call_stops_being_live_and_opens_no_more_when_it_is_reopened(world: World) -> None:
    await scheduled(world, 10, 60)
    await world.as_("alice").put(f"{CALL}/live")
    await world.as_("dave").join("livestream/x")
    watcher = await world.listen(world.as_("erin"), "livestream/x")
    await world.advance(20)
    ended = (await world.as_("alice").post(f"{CALL}/end")).json()["call"]
    assert (ended["live"], ended["live_ended_at"], ended["ended_at"]) == (False, at(20), at(20))
    told = [(f["type"], f["data"]) for f in watcher.frames() if f["type"].startswith("call.")]
    assert told == [("call.live_stopped", {"call": ended}), ("call.ended", {"call": ended})]
    found = await world.as_("alice").post("/calls/query", {"filter": {"live": True}})
    assert found.json()["items"] == []
    reopened = (await world.as_("alice").post(f"{CALL}/reopen")).json()["call"]
    assert (reopened["live"], reopened["backstage"], reopened["ended_at"]) == (False, True, None)
    assert await refused(world) is None
    await world.as_("alice").put(f"{CALL}/live")
    await world.as_("dave").join("livestream/x")


async def test_the_end_of_a_call_that_is_not_live_says_nothing_of_it(world: World) -> None:
    await scheduled(world, None, 0)
    watcher = await world.listen(world.as_("alice"))
    ended = (await world.as_("alice").post(f"{CALL}/end")).json()["call"]
    assert (ended["live"], ended["live_ended_at"]) == (False, None)
    assert watcher.types() == ["call.ended"]


async def test_a_78_the_gate_moves_with_the_start(world: World) -> None:
    await scheduled(world, 10, 6)
    await world.advance(5)
    dave = (await world.as_("dave").join("livestream/x"))["participant"]
    listener = await world.listen(world.as_("dave"))
    moved = (await world.as_("alice").patch(CALL, {"starts_at": at(3_600)})).json()["call"]
    assert moved["opens_at"] == at(3_594)
    assert await refused(world, "erin") == at(3_594)
    # Who is inside stays, without the rights that the closed gate takes.
    assert world.media.removed == []
    (update,) = listener.only("call.capabilities_updated")
    assert update["data"]["removed"] == ["call.join"]
    states = [(p["id"], p["state"]) for p in (await world.as_("alice").get(f"{CALL}/participants")).json()["items"]]
    assert states == [(dave["id"], "joined")]
    await world.advance(3_589)
    (update,) = listener.only("call.capabilities_updated")
    assert (update["data"]["added"], update["data"]["reason"]) == (["call.join"], "state_changed")
    await world.as_("erin").join("livestream/x")


@pytest.mark.parametrize("ahead", [-1, 86_401, 1.5, "60"])
async def test_a_79_the_ahead_time_has_bounds(world: World, ahead: Any) -> None:
    body = {"settings": {"backstage": {"join_ahead_time_seconds": ahead}}}
    reply = await world.as_("alice").put(CALL, body)
    assert (code(reply), pointers(reply)) == ((422, "unprocessable"), ["/settings/backstage/join_ahead_time_seconds"])
    for fine in (0, 86_400):
        await world.call(f"livestream/{fine}", by="alice", settings={"backstage": {"join_ahead_time_seconds": fine}})


async def test_going_live_can_start_captures(world: World) -> None:
    await scheduled(world, None, 0)
    empty = await world.as_("alice").put(f"{CALL}/live", {"start_recording": True})
    assert code(empty) == (409, "conflict")
    assert (await world.as_("alice").get(CALL)).json()["call"]["live"] is False
    await world.as_("alice").join("livestream/x")
    alice = await world.listen(world.as_("alice"))
    await world.as_("alice").put(f"{CALL}/live", {"start_recording": True, "start_broadcast": True})
    assert alice.types() == [
        "call.live_started",
        "broadcast.starting",
        "broadcast.failed",
        "recording.starting",
        "recording.failed",
    ]
    await world.call("default/x", by="alice")
    await world.as_("alice").join("default/x")
    off = await world.as_("alice").put("/calls/default/x/live", {"start_broadcast": True})
    assert code(off) == (409, "feature_disabled")
    assert (await world.as_("alice").get("/calls/default/x")).json()["call"]["live"] is False

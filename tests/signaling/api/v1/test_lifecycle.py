"""Acceptance: sessions and their timers (L-7, L-9, L-11, L-12), the lobby, what a restart of the media side does."""

from __future__ import annotations

import pytest

from tests.signaling.api.v1.test_backstage import count_holding
from tests.signaling.api.world import FakeMedia, World, code, pointers

CALL = "/calls/default/x"


async def test_l_7_with_everybody_gone_the_session_ends_after_grace_and_inactivity(world: World) -> None:
    await world.call("default/x", by="alice", settings={"session": {"inactivity_seconds": 10}})
    both = [(await world.as_(name).join("default/x"))["participant"] for name in ("alice", "bob")]
    alice = await world.listen(world.as_("alice"), "default/x")
    for participant in both:
        await world.vanish(participant)
    assert {f["data"]["participant"]["state"] for f in alice.only("participant.updated")} == {"reconnecting"}
    await world.advance(14)
    assert alice.frames() == []
    await world.advance(1)
    assert [f["data"]["reason"] for f in alice.only("participant.left")] == ["connection_lost"] * 2
    await world.advance(9)
    assert (await world.as_("alice").get(CALL)).json()["call"]["ongoing"] is True
    await world.advance(1)
    assert [f["data"]["session"]["end_reason"] for f in alice.only("session.ended")] == ["empty"]
    shown = (await world.as_("alice").get(CALL)).json()["call"]
    assert (shown["ongoing"], shown["ended_at"], shown["participant_count"]) == (False, None, 0)
    assert world.media.closed == [(both[0]["session_id"], "empty")]


async def test_l_7_who_comes_back_within_the_grace_never_left(world: World) -> None:
    await world.call("default/x", by="alice")
    participant = (await world.as_("alice").join("default/x"))["participant"]
    alice = await world.listen(world.as_("alice"), "default/x")
    await world.vanish(participant)
    await world.advance(14.9)
    await world.connect(participant)
    await world.advance(60)
    assert [f["data"]["participant"]["state"] for f in alice.only("participant.updated")] == ["reconnecting", "joined"]
    (present,) = (await world.as_("alice").get(f"{CALL}/participants")).json()["items"]
    assert (present["id"], present["joined_at"]) == (participant["id"], "2026-01-01T09:00:00.000Z")


async def test_l_9_the_session_ends_at_its_longest_and_can_be_extended(world: World) -> None:
    await world.call("default/x", by="alice", settings={"limits": {"max_duration_seconds": 60}})
    joined = await world.as_("alice").join("default/x")
    await world.as_("bob").join("default/x")
    assert joined["session"]["expires_at"] == "2026-01-01T09:01:00.000Z"
    await world.advance(59)
    denied = await world.as_("bob").post(f"{CALL}/extend", {"additional_seconds": 30})
    assert (code(denied), denied.json()["capability"]) == ((403, "missing_capability"), "call.extend")
    extended = (await world.as_("alice").post(f"{CALL}/extend", {"additional_seconds": 30})).json()["session"]
    assert extended["expires_at"] == "2026-01-01T09:01:30.000Z"
    longer = await world.as_("alice").patch(CALL, {"settings": {"limits": {"max_duration_seconds": 90}}})
    assert longer.status_code == 200
    assert (await world.as_("alice").get(CALL)).json()["session"]["expires_at"] == "2026-01-01T09:02:00.000Z"
    alice = await world.listen(world.as_("alice"))
    await world.advance(60)
    assert alice.frames() == []
    await world.advance(1)
    frames = {f["type"]: f["data"] for f in alice.frames()}
    assert frames["session.ended"]["session"]["end_reason"] == "max_duration"
    assert (await world.as_("alice").get(CALL)).json()["call"]["ended_at"] is None
    assert code(await world.as_("alice").post(f"{CALL}/extend", {"additional_seconds": 30})) == (409, "conflict")
    wrong = await world.as_("alice").post(f"{CALL}/extend", {"additional_seconds": 0})
    assert pointers(wrong) == ["/additional_seconds"]


async def test_l_11_joined_and_left_at_once_are_two_events_in_order(world: World) -> None:
    await world.call("default/x", by="alice")
    alice = await world.listen(world.as_("alice"), "default/x")
    await world.as_("alice").join("default/x")
    alice.frames()
    participant = (await world.as_("bob").join("default/x"))["participant"]
    await world.advance(0.3)
    await world.as_("bob").post(f"{CALL}/leave", {"participant_id": participant["id"]})
    frames = alice.frames()
    assert [(f["type"], f["data"]["participant_count"]) for f in frames] == [
        ("participant.joined", 2),
        ("participant.left", 1),
    ]
    assert [f["data"]["participant"]["id"] for f in frames] == [participant["id"]] * 2
    assert [f["data"]["participant"]["capabilities"] is not None for f in frames] == [True, True]
    assert frames[1]["seq"] == frames[0]["seq"] + 1 == frames[1]["prev_seq"] + 1
    assert frames[1]["data"]["reason"] == "left"
    again = await world.as_("bob").post(f"{CALL}/leave", {"participant_id": participant["id"]})
    assert again.status_code == 204
    assert alice.frames() == []
    assert code(await world.as_("carl").post(f"{CALL}/leave", {"participant_id": participant["id"]})) == (
        404,
        "not_found",
    )


async def test_l_12_an_id_is_used_again_after_its_end(world: World) -> None:
    made = await world.call("default/x", by="alice", custom={"n": 1})
    first = await world.as_("alice").join("default/x")
    await world.as_("alice").post(f"{CALL}/end")
    again = await world.as_("alice").put(CALL, {"custom": {"n": 2}})
    assert (again.status_code, again.json()["created"]) == (200, False)
    assert again.json()["call"]["custom"] == made["call"]["custom"]
    await world.as_("alice").post(f"{CALL}/reopen")
    second = await world.as_("bob").join("default/x")
    assert second["session"]["id"] != first["session"]["id"]
    reasons = [s["end_reason"] for s in (await world.as_("alice").get(f"{CALL}/sessions")).json()["items"]]
    assert reasons == [None, "ended_by"]


async def test_a_lost_room_is_made_anew_and_everybody_gets_the_grace(world: World) -> None:
    await world.call("default/x", by="alice")
    alice, bob = [(await world.as_(name).join("default/x"))["participant"] for name in ("alice", "bob")]
    room = alice["session_id"]
    world.media.rooms.clear()
    await world.system.feed.room_lost(room)
    assert list(world.media.rooms) == [room]
    await world.connect(alice)
    await world.advance(15)
    page = (await world.as_("alice").get(f"{CALL}/participants")).json()["items"]
    assert [(p["user_id"], p["state"]) for p in page] == [("alice", "joined")]
    attended = (await world.as_("alice").get(f"{CALL}/sessions/{room}/attendance")).json()["items"]
    assert {p["user_id"]: p["left_reason"] for p in attended} == {"alice": None, "bob": "connection_lost"}
    assert bob["session_id"] == room


async def test_after_a_restart_the_media_side_is_asked_who_is_there(database_url: str) -> None:
    media = FakeMedia()
    world = await World.open(database_url, media=media)
    await world.call("default/x", by="alice")
    alice, bob, carl = [(await world.as_(n).join("default/x"))["participant"] for n in ("alice", "bob", "carl")]
    await world.vanish(carl)
    # Bob leaves and carl comes back while nobody is there to hear of it.
    permissions = media.rooms[alice["session_id"]].participants
    permissions[carl["identity"]] = permissions.pop(bob["identity"])
    await world.close()
    after = await World.open(database_url, media=media, clock=world.clock)
    await after.system.feed.reconcile()
    page = (await after.as_("alice").get(f"{CALL}/participants")).json()["items"]
    states = {p["user_id"]: p["state"] for p in page}
    assert states == {"alice": "joined", "bob": "reconnecting", "carl": "joined"}
    await after.advance(15)
    page = (await after.as_("alice").get(f"{CALL}/participants")).json()["items"]
    assert sorted(p["user_id"] for p in page) == ["alice", "carl"]
    await after.close()


async def test_the_lobby_lets_nobody_in_until_admitted(world: World) -> None:
    await world.call("default/x", by="alice", settings={"lobby": {"enabled": True}})
    await world.as_("alice").join("default/x")
    alice, bob = await world.listen(world.as_("alice")), await world.listen(world.as_("bob"))
    reply = await world.as_("bob").post(f"{CALL}/join")
    assert reply.status_code == 202
    entry = reply.json()["lobby"]
    assert (entry["user_id"], entry["state"], entry["expires_at"]) == ("bob", "waiting", "2026-01-01T09:10:00.000Z")
    assert "media" not in reply.json()
    assert (await world.as_("bob").post(f"{CALL}/join")).json()["lobby"] == entry
    assert [f["data"] for f in alice.only("lobby.waiting")] == [{"lobby": entry}]
    assert (await world.as_("alice").get(f"{CALL}/lobby")).json()["items"] == [entry]
    assert code(await world.as_("bob").get(f"{CALL}/lobby")) == (403, "missing_capability")
    assert code(await world.as_("bob").post(f"{CALL}/lobby/{entry['id']}/admit")) == (403, "missing_capability")
    admitted = (await world.as_("alice").post(f"{CALL}/lobby/{entry['id']}/admit")).json()["lobby"]
    assert (admitted["state"], admitted["resolved_by"]) == ("admitted", "alice")
    assert [f["data"] for f in bob.only("lobby.admitted")] == [{"lobby": admitted}]
    late = await world.as_("alice").post(f"{CALL}/lobby/{entry['id']}/deny")
    assert (code(late), late.json()["lobby"]) == ((409, "already_resolved"), admitted)
    participant = (await world.as_("bob").join("default/x"))["participant"]
    back = await world.as_("alice").post(f"{CALL}/participants/{participant['id']}/to-lobby")
    assert back.json()["lobby"]["state"] == "waiting"
    assert world.media.removed[-1] == (participant["session_id"], "bob:phone", "removed")
    assert (await world.as_("bob").post(f"{CALL}/join")).status_code == 202
    everybody = (await world.as_("alice").post(f"{CALL}/lobby/admit-all")).json()["items"]
    assert [(e["user_id"], e["state"]) for e in everybody] == [("bob", "admitted")]
    await world.as_("bob").join("default/x")


async def test_a_viewer_without_an_account_comes_back_by_his_entry_of_the_lobby(world: World) -> None:
    call, settings = "/calls/livestream/x", {"lobby": {"enabled": True}, "backstage": {"enabled": False}}
    await world.users("bob")
    await world.call("livestream/x", by="alice", settings=settings)
    viewer = world.anonymous("livestream:x")
    entry, other = [(await viewer.post(f"{call}/join")).json()["lobby"] for _ in range(2)]
    assert entry["user_id"] != other["user_id"]
    coming_back = {"resume": entry["id"]}
    assert (await viewer.post(f"{call}/join", coming_back)).json()["lobby"] == entry
    assert (await viewer.get(f"{call}/lobby/{entry['id']}")).json() == {"lobby": entry}
    assert len((await world.as_("alice").get(f"{call}/lobby")).json()["items"]) == 2
    await world.as_("alice").post(f"{call}/lobby/{entry['id']}/admit")
    assert (await viewer.get(f"{call}/lobby/{entry['id']}")).json()["lobby"]["state"] == "admitted"
    # It admits its own viewer alone, and nobody who has an account.
    assert (await viewer.post(f"{call}/join", {"resume": other["id"]})).json()["lobby"] == other
    assert (await world.as_("bob").post(f"{call}/join", coming_back)).json()["lobby"]["user_id"] == "bob"
    assert code(await world.as_("bob").get(f"{call}/lobby/{entry['id']}")) == (404, "not_found")
    joined = await viewer.join("livestream/x", **coming_back)
    assert joined["participant"]["user_id"] == entry["user_id"]
    # Reloaded, he takes his own place.
    again = await viewer.join("livestream/x", **coming_back)
    assert again["participant"]["identity"] == joined["participant"]["identity"]
    assert again["call"]["participant_count"] == 0
    assert (await world.as_("alice").get(call)).json()["call"]["participant_count"] == 1
    # A member's entry is nobody else's.
    bob = next(e for e in (await world.as_("alice").get(f"{call}/lobby")).json()["items"] if e["user_id"] == "bob")
    assert code(await viewer.get(f"{call}/lobby/{bob['id']}")) == (404, "not_found")
    assert (await viewer.post(f"{call}/join", {"resume": bob["id"]})).json()["lobby"]["user_id"] != "bob"


async def test_denied_or_forgotten_in_the_lobby(world: World) -> None:
    await world.call("default/x", by="alice", settings={"lobby": {"enabled": True, "timeout_seconds": 10}})
    bob = await world.listen(world.as_("bob"))
    entry = (await world.as_("bob").post(f"{CALL}/join")).json()["lobby"]
    denied = (await world.as_("alice").post(f"{CALL}/lobby/{entry['id']}/deny")).json()["lobby"]
    assert [f["data"] for f in bob.only("lobby.denied")] == [{"lobby": denied}]
    path = f"{CALL}/lobby/{entry['id']}"
    # Who was away when it was decided learns it here, without asking anew.
    assert (await world.as_("bob").get(path)).json() == {"lobby": denied}
    assert (await world.as_("alice").get(path)).json() == {"lobby": denied}
    assert code(await world.as_("carl").get(path)) == (404, "not_found")
    assert code(await world.as_("bob").get(f"{CALL}/lobby/nothing")) == (404, "not_found")
    second = (await world.as_("bob").post(f"{CALL}/join")).json()["lobby"]
    assert second["id"] != entry["id"]
    await world.advance(10)
    assert (await world.as_("bob").get(f"{CALL}/lobby/{second['id']}")).json()["lobby"]["state"] == "expired"
    assert (await world.as_("alice").get(f"{CALL}/lobby")).json()["items"] == []
    late = await world.as_("alice").post(f"{CALL}/lobby/{second['id']}/admit")
    assert (code(late), late.json()["lobby"]["state"]) == ((409, "already_resolved"), "expired")


async def test_with_many_inside_counts_replace_arrivals(world: World) -> None:
    await world.call("default/x", by="alice", settings={"limits": {"max_participants": 200}})
    watcher = await world.listen(world.as_("alice"), "default/x")
    for number in range(102):
        await world.as_(f"user{number}").join("default/x")
    frames = watcher.frames()
    assert sum(f["type"] == "participant.joined" for f in frames) == 100
    counts = [f for f in frames if f["type"] == "session.counts"]
    assert [(f["seq"], f["prev_seq"], f["data"]) for f in counts] == [
        (None, None, {"participant_count": 101, "by_role": {"user": 101}})
    ]
    # The one that was too soon is told at the end of the second, and that begins the next.
    await world.advance(1)
    assert [f["data"]["participant_count"] for f in watcher.only("session.counts")] == [102]
    await world.as_("late").join("default/x")
    assert not watcher.only("session.counts")
    await world.advance(1)
    assert [f["data"]["participant_count"] for f in watcher.only("session.counts")] == [103]
    recorded = [(e.type, e.seq) for e in await world.recorded("default:x")]
    assert sum(type_ == "participant.joined" for type_, _ in recorded) == 103
    # Kept for other processes; without a number nobody is replayed it.
    assert {seq for type_, seq in recorded if type_ == "session.counts"} == {None}


async def test_of_many_who_lose_contact_only_they_and_those_who_decide_are_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.call("default/x", by="alice", settings={"limits": {"max_participants": 200}})
    joined = [(await world.as_(f"user{number}").join("default/x"))["participant"] for number in range(101)]
    watcher = await world.listen(world.as_("dave"), "default/x")
    alice, user7 = [await world.listen(world.as_(name)) for name in ("alice", "user7")]
    world.media.rooms.clear()
    counted = count_holding(monkeypatch)
    await world.system.feed.room_lost(joined[0]["session_id"])
    assert 101 < counted["holding"] < 5 * 101
    for _ in range(2):
        assert watcher.only("participant.updated") == []
        told = [f["data"]["participant"]["user_id"] for f in user7.only("participant.updated")]
        assert told == ["user7"]
        await world.connect(joined[7])
    states = [f["data"]["participant"]["state"] for f in alice.only("participant.updated")]
    assert states == ["reconnecting"] * 101 + ["joined"]


async def test_the_last_counts_of_a_second_are_told_unless_newer_ones_were(world: World) -> None:
    await world.call("default/x", by="alice", settings={"limits": {"max_participants": 200}})
    joined = [await world.as_(f"user{number}").join("default/x") for number in range(104)]
    watcher = await world.listen(world.as_("alice"), "default/x")
    await world.advance(2)
    assert [f["data"]["participant_count"] for f in watcher.only("session.counts")] == [104]
    await world.advance(2)
    leaving = [one["participant"] for one in joined]
    for participant in leaving[:3]:
        await world.vanish(participant, clean=True)
    await world.advance(1)
    assert [f["data"]["participant_count"] for f in watcher.only("session.counts")] == [103, 101]
    await world.advance(1)
    # One is told at once, the second waits, and with the third everybody is told who leaves, and how many are left.
    for participant in (await world.as_("more1").join("default/x"), await world.as_("more2").join("default/x")):
        leaving.append(participant["participant"])
    for participant in leaving[3:6]:
        await world.vanish(participant, clean=True)
    await world.advance(5)
    told = [f["data"]["participant_count"] for f in watcher.frames() if "participant_count" in f["data"]]
    assert told == [102, 100]
    assert not world.service.channel._counts


async def test_nothing_is_counted_of_a_session_that_has_ended(world: World) -> None:
    await world.call("default/x", by="alice", settings={"limits": {"max_participants": 200}})
    for number in range(103):
        await world.as_(f"user{number}").join("default/x")
    watcher = await world.listen(world.as_("alice"), "default/x")
    assert (await world.server.post(f"{CALL}/end")).status_code == 200
    await world.advance(5)
    assert "session.counts" not in watcher.types()
    assert not world.service.channel._counts

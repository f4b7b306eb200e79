"""Acceptance through the client: objects, types, ids, creation, custom data, teams, changes (A-1 … 41, A-49 … 64)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from signaling.client import (
    CallyardClient,
    ClientNotReady,
    Conflict,
    InvalidRequest,
    Member,
    NotFound,
    TooLarge,
    VideoError,
    make_call,
)
from tests.signaling.api.world import START, World
from tests.signaling.client.conftest import People


def roles(reply: Any) -> dict[str, str | None]:
    return {member.user_id: member.role for member in reply.members.items}


async def test_a1_a_call_object_is_local() -> None:
    def network(request: httpx2.Request) -> httpx2.Response:
        raise AssertionError(f"{request.url} was asked for")

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(network)) as http:
        client = CallyardClient("http://nowhere.invalid", token="x.y.z", http=http)
        call = client.make_call("default", "standup")
        await call.update(custom={"name": "Standup"})
        assert (call.cid, call.info, call.room) == ("default:standup", None, None)


async def test_a2_get_or_create_makes_a_call(people: People) -> None:
    call = people("alice").make_call("default", "standup")
    reply = await call.get_or_create(custom={"name": "Standup"})
    assert reply.created
    assert reply.call.created_by == "alice"
    assert roles(reply) == {"alice": "admin"}
    assert "call.delete" in call.own_capabilities
    assert call.info == reply.call


async def test_a3_again_by_anybody_permitted_gets_the_same(world: World, people: People) -> None:
    first = await people("alice").make_call("default", "standup").get_or_create()
    await world.advance(10)
    for user in ("alice", "bob"):
        again = await people(user).make_call("default", "standup").get_or_create()
        assert not again.created
        assert again.call == first.call


async def test_a4_fifty_at_once_make_one_call(world: World, people: People) -> None:
    calls = [people(f"user{index}").make_call("default", "rush") for index in range(50)]
    replies = await asyncio.gather(*(call.get_or_create() for call in calls))
    assert [reply.created for reply in replies].count(True) == 1
    assert len({reply.call.created_by for reply in replies}) == 1
    assert [e.type for e in await world.recorded("default:rush")].count("call.created") == 1


async def test_a5_no_room_exists_before_a_join(world: World, people: People) -> None:
    call = people("alice").make_call("default", "x")
    await call.get_or_create()
    assert world.media.rooms == {}
    room: Any = await call.join()
    assert room.connected


async def test_a6_the_default_client_works_as_an_instance_does(world: World, people: People) -> None:
    await people.server.aclose()
    with pytest.raises(ClientNotReady) as early:
        make_call("default", "x")
    assert early.value.code == "client_not_ready"
    first = people("alice")
    people("bob")
    by_default, by_instance = make_call("default", "x"), first.make_call("default", "x")
    await by_default.get_or_create(custom={"a": 1})
    assert (await by_instance.get()).call == by_default.info
    assert by_default.info is not None
    assert by_default.info.created_by == "alice"
    people("bob").make_default()
    assert (await make_call("default", "y").get_or_create()).call.created_by == "bob"


async def test_a7_a8_types_and_a_custom_one(people: People) -> None:
    admin = people.server.admin
    assert {t.name for t in await admin.call_types()} == {"audio_room", "default", "development", "livestream"}
    made = await admin.create_call_type("my-call-type")
    assert made.grants == (await admin.call_type("default")).grants
    assert (await people("alice").make_call("my-call-type", "one").get_or_create()).created


async def test_a9_an_unknown_type_is_no_default(people: People) -> None:
    with pytest.raises(NotFound) as refused:
        await people("alice").make_call("defualt", "x").get_or_create()
    assert refused.value.code == "call_type_not_found"


async def test_a10_one_id_under_two_types_is_two_calls(people: People) -> None:
    assert (await people("alice").make_call("default", "x").get_or_create()).created
    other = await people("alice").make_call("livestream", "x").get_or_create()
    assert other.created
    assert other.call.cid == "livestream:x"


async def test_a14_a_built_in_type_is_changed_but_not_deleted(people: People) -> None:
    changed = await people.server.admin.update_call_type("default", settings={"limits": {"max_participants": 5}})
    assert changed.settings["limits"]["max_participants"] == 5
    with pytest.raises(Conflict):
        await people.server.admin.delete_call_type("default")


async def test_a15_an_id_is_reused_with_a_new_session(world: World, people: People) -> None:
    call = people("alice").make_call("default", "weekly")
    await call.get_or_create()
    sessions = []
    for _ in range(2):
        await call.join()
        assert call.session is not None
        sessions.append(call.session.id)
        await call.leave()
        await world.advance(86_400 / 2)
    assert sessions[0] != sessions[1]
    assert [session.id async for session in call.sessions()] == sessions[::-1]


async def test_a16_an_empty_id_is_generated_and_known_to_the_call(people: People) -> None:
    call = people("alice").make_call("default")
    with pytest.raises(Conflict) as early:
        await call.get()
    assert early.value.code == "not_created"
    reply = await call.get_or_create()
    assert call.id == reply.call.id
    assert call.id[14] == "7"
    assert (await people("alice").make_call("default", call.id).get()).call == reply.call


async def test_a17_a_call_is_found_by_its_own_id_and_ids_have_an_alphabet(people: People) -> None:
    await people("alice").make_call("default", "appointment-4711").get_or_create()
    assert (await people("bob").make_call("default", "appointment-4711").get()).call.id == "appointment-4711"
    for wrong in ("a:b", "a/live", "ü", "..", "x" * 65):
        with pytest.raises(InvalidRequest) as refused:
            await people("alice").make_call("default", wrong).get_or_create()
        assert [fault.pointer for fault in refused.value.errors] == ["/id"]


async def test_a18_a19_members_at_creation(world: World, people: People) -> None:
    await world.users("alice", "bob", "charlie")
    call = people("carol").make_call("default", "x")
    reply = await call.get_or_create(members=["alice", Member("bob"), Member("charlie", role="call_member")])
    assert roles(reply) == {"carol": "admin", "alice": "admin", "bob": "admin", "charlie": "call_member"}
    bobs = people("bob").make_call("default", "x")
    await bobs.get()
    assert "member.remove" in bobs.own_capabilities


async def test_a20_get_or_create_of_an_existing_call_adds_nobody(world: World, people: People) -> None:
    await world.users("mallory")
    before = await people("alice").make_call("default", "x").get_or_create()
    reply = await people("mallory").make_call("default", "x").get_or_create(member_ids=["mallory"], custom={"a": 1})
    assert reply.call == before.call
    assert roles(reply) == {"alice": "admin"}


async def test_a21_an_unknown_member_is_named(world: World, people: People) -> None:
    await world.users("alice")
    with pytest.raises(InvalidRequest) as refused:
        await people("carol").make_call("default", "x").get_or_create(members=["alice", Member("nobody")])
    assert refused.value.code == "unknown_user"
    assert [(f.pointer, f.code) for f in refused.value.errors] == [("/members/1/user_id", "unknown_user")]
    with pytest.raises(NotFound):
        await people.server.make_call("default", "x").get()


async def test_a22_a23_both_spellings_and_doubles(world: World, people: People) -> None:
    await world.users("alice", "bob")
    one = await people("carol").make_call("default", "one").get_or_create(member_ids=["alice", "bob", "alice"])
    two = await people("carol").make_call("default", "two").get_or_create(members=["alice", "bob", {"user_id": "bob"}])
    assert roles(one) == roles(two) == dict.fromkeys(("alice", "bob", "carol"), "admin")


async def test_a24_members_come_in_pages(world: World, people: People) -> None:
    names = [f"user{index:03}" for index in range(130)]
    await world.users(*names)
    call = people("carol").make_call("default", "x")
    reply = await call.get_or_create(members=names)
    assert len(reply.members.items) == 25
    assert reply.members.next is not None
    assert sorted([member.user_id async for member in call.members()]) == sorted(["carol", *names])
    assert [m.user_id async for m in call.members(filter={"user_id": {"$prefix": "user00"}}, limit=3)] == names[:10]


async def test_a33_a34_custom_data(people: People) -> None:
    custom = {"name": "Grüße 🎉", "n": 1.5, "deep": {"list": [1, "zwei", None, {"x": True}]}, "big": 2**53}
    call = people("alice").make_call("default", "x")
    assert (await call.get_or_create(custom=custom)).call.custom == custom
    changed = await call.update(custom={"n": None, "deep": {"more": "ü"}})
    assert changed is not None
    assert changed.custom == {
        "name": "Grüße 🎉",
        "deep": {"list": [1, "zwei", None, {"x": True}], "more": "ü"},
        "big": 2**53,
    }


async def test_a35_custom_data_has_a_limit(people: People) -> None:
    with pytest.raises(TooLarge) as refused:
        await people("alice").make_call("default", "x").get_or_create(custom={"x": "y" * 16_384})
    assert refused.value.code == "custom_too_large"


async def test_a36_calls_are_found_by_custom_data(people: People) -> None:
    for index in range(5):
        call = people("alice").make_call("default", f"call{index}")
        await call.get_or_create(custom={"name": "My first Call" if index else "Another", "n": index})
    page = await people("alice").query_calls({"custom.name": "My first Call"}, sort=["id"], limit=3)
    assert [found.call.id for found in page.items] == ["call1", "call2", "call3"]
    rest = await people("alice").query_calls({"custom.name": "My first Call"}, sort=["id"], limit=3, cursor=page.next)
    assert [found.call.id for found in rest.items] == ["call4"]
    everything = [found.call.id async for found in people("alice").find_calls(sort=[("id", "desc")])]
    assert everything == [f"call{index}" for index in (4, 3, 2, 1, 0)]


async def test_a37_a38_a39_teams(world: World, people: People) -> None:
    await world.users("red", "rose", teams=["red"])
    await world.users("blue", teams=["blue"])
    assert (await world.server.patch("/app", {"multi_tenant_enabled": True})).status_code == 200
    assert (await people("red").make_call("default", "x").get_or_create(team="red")).call.team == "red"
    stranger = people("blue").make_call("default", "x")
    for verb in (stranger.get, stranger.join, stranger.ring, lambda: stranger.add_members(["blue"])):
        with pytest.raises(NotFound):
            await verb()
    assert (await people("blue").query_calls()).items == []
    with pytest.raises(VideoError) as refused:
        await people("blue").make_call("default", "y").get_or_create(team="red")
    assert refused.value.code == "team_forbidden"
    with pytest.raises(InvalidRequest) as mixed:
        await people("red").make_call("default", "x").add_members(["blue"])
    assert mixed.value.code == "team_mismatch"


async def test_a40_a_team_stays_as_it_was_created(people: People) -> None:
    await people("alice").make_call("default", "x").get_or_create(team="red")
    again = people("alice").make_call("default", "x")
    assert (await again.get_or_create(team="blue", custom={"name": "Blue"})).call.team == "red"
    with pytest.raises(TypeError):
        await again.update(team="blue")  # type: ignore[call-arg]  # there is no such parameter
    assert (await again.get()).call.team == "red"


async def test_a41_without_the_mode_a_team_is_only_stored(people: People) -> None:
    await people("red").make_call("default", "x").get_or_create(team="red")
    assert (await people("blue").make_call("default", "x").get()).call.team == "red"


async def test_a49_update_before_creation_goes_with_it(people: People) -> None:
    call = people("alice").make_call("default", "x")
    assert await call.update(custom={"name": "My first call", "a": {"b": 1}}) is None
    await call.update(custom={"a": {"c": 2}}, settings={"video": {"enabled": False}})
    reply = await call.get_or_create(custom={"d": 3}, settings={"ring": {"auto_cancel_timeout_ms": 5_000}})
    assert reply.call.version == 1
    assert reply.call.custom == {"name": "My first call", "a": {"b": 1, "c": 2}, "d": 3}
    assert reply.call.settings["video"]["enabled"] is False
    assert reply.call.settings["ring"]["auto_cancel_timeout_ms"] == 5_000
    assert call.staged == {}


async def test_a49_staged_values_change_an_existing_call_or_the_refusal_surfaces(people: People) -> None:
    await people("alice").make_call("default", "x").get_or_create(custom={"name": "old", "kept": 1})
    again = people("alice").make_call("default", "x")
    await again.update(custom={"name": "new"})
    reply = await again.get_or_create()
    assert not reply.created
    assert again.info is not None
    assert again.info.custom == {"name": "new", "kept": 1}

    mallory = people("mallory").make_call("default", "x")
    await mallory.update(custom={"name": "mine"})
    for verb in (mallory.get_or_create, mallory.get, mallory.join):
        with pytest.raises(VideoError) as refused:
            await verb()
        assert (refused.value.code, refused.value.capability) == ("missing_capability", "call.update")
        assert mallory.staged == {"custom": {"name": "mine"}}


async def test_a49_any_verb_on_an_existing_call_brings_the_staged_values_with_it(world: World, people: People) -> None:
    await world.users("bob")
    await people("alice").make_call("livestream", "x").get_or_create()
    verbs = ["go_live", "stop_live", "end", "reopen"]
    for number, verb in enumerate(verbs):
        again = people("alice").make_call("livestream", "x")
        await again.update(custom={"n": number})
        await getattr(again, verb)()
        assert again.staged == {}
        assert again.info is not None
        assert again.info.custom == {"n": number}
    again = people("alice").make_call("livestream", "x")
    await again.update(custom={"n": "members"})
    await again.add_members(["bob"])
    assert (await again.get()).call.custom == {"n": "members"}
    gone = people("alice").make_call("livestream", "x")
    await gone.update(custom={"n": "gone"})
    await gone.delete()
    assert gone.staged == {}


GROUPS: list[tuple[str, dict[str, Any]]] = [
    ("ring", {"auto_cancel_timeout_ms": 10_000}),
    ("audio", {"mic_default_on": False}),
    ("video", {"camera_facing": "back"}),
    ("screenshare", {"enabled": False}),
    ("recording", {"mode": "disabled"}),
    ("transcription", {"language": "de"}),
    ("backstage", {"join_ahead_time_seconds": 60}),
    ("geofencing", {"names": ["eu"]}),
]


@pytest.mark.parametrize(("group", "value"), GROUPS, ids=[f"a{50 + n}-{group[0]}" for n, group in enumerate(GROUPS)])
async def test_a50_to_a57_settings_before_and_after_creation(people: People, group: str, value: dict[str, Any]) -> None:
    call = people("alice").make_call("default", "x")
    await call.update(settings={group: value})
    reply = await call.get_or_create()
    name, wanted = next(iter(value.items()))
    default = (await people.server.admin.call_type("default")).settings
    assert reply.call.settings_overrides == {group: value}
    assert reply.call.settings == {**default, group: {**default[group], name: wanted}}
    changed = await call.update(settings={group: {name: None}})
    assert changed is not None
    assert changed.settings == default
    assert (await people.server.admin.call_type("default")).settings == default


async def test_a58_a59_settings_reach_live_media(world: World, people: People) -> None:
    call = people("alice").make_call("default", "x")
    await call.get_or_create()
    room: Any = await call.join()
    assert room.publish("camera")
    assert room.publish("screen_share")
    await call.update(settings={"video": {"enabled": False}})
    assert world.published(room.participant) == {"screen_share"}
    assert not room.publish("camera")
    await call.update(settings={"screenshare": {"enabled": False}})
    assert world.published(room.participant) == set()


async def test_a62_deleting(people: People) -> None:
    call = people("alice").make_call("default", "x")
    await call.get_or_create()
    theirs = people("bob").make_call("default", "x")
    room: Any = await theirs.join()
    with pytest.raises(VideoError) as refused:
        await theirs.delete()
    assert refused.value.capability == "call.delete"
    assert await call.delete() is None
    assert not room.connected
    with pytest.raises(NotFound):
        await theirs.get()
    with pytest.raises(NotFound) as gone:
        await people("alice").make_call("default", "x").get_or_create()
    assert gone.value.code == "gone"


async def test_a63_hard_deletion_is_the_servers_and_frees_the_id(world: World, people: People) -> None:
    await people("alice").make_call("default", "x").get_or_create()
    with pytest.raises(VideoError) as refused:
        await people("alice").make_call("default", "x").delete(hard=True)
    assert refused.value.capability == "app.admin"
    task_id = await people.server.make_call("default", "x").delete(hard=True)
    await world.advance(1)
    task = (await world.server.get(f"/tasks/{task_id}")).json()["task"]
    assert task["status"] == "completed"
    assert (await people("bob").make_call("default", "x").get_or_create()).created


async def test_a64_reading_needs_the_right(people: People) -> None:
    await people("alice").make_call("default", "x").get_or_create()
    await people.server.admin.change_grants("default", "user", remove=["ReadCall"])
    with pytest.raises(VideoError) as refused:
        await people("bob").make_call("default", "x").get()
    assert (refused.value.status, refused.value.capability) == (403, "call.read")


async def test_an_update_may_ask_for_a_version(people: People) -> None:
    call = people("alice").make_call("default", "x")
    await call.get_or_create()
    await call.update(custom={"a": 1}, if_version=1)
    with pytest.raises(Conflict) as refused:
        await call.update(custom={"a": 2}, if_version=1)
    assert refused.value.code == "version_mismatch"
    assert (await call.get()).call.custom == {"a": 1}


async def test_a_start_is_moved_and_taken_away(people: People) -> None:
    call = people("alice").make_call("livestream", "x")
    await call.update(starts_at=START + timedelta(hours=1))
    reply = await call.get_or_create()
    assert reply.call.starts_at == START + timedelta(hours=1)
    changed = await call.update(starts_at=None)
    assert changed is not None
    assert changed.starts_at is None
    with pytest.raises(ValueError, match="zone"):
        await call.update(starts_at=START.replace(tzinfo=None))


@pytest.mark.parametrize("feature", ["recording", "transcription"])
async def test_a60_a61_captures_follow_their_mode(people: People, feature: str) -> None:
    call = people("alice").make_call("default", "x")
    await call.get_or_create(settings={feature: {"mode": "disabled"}})
    await call.join()
    start = call.start_recording if feature == "recording" else call.start_transcription
    captures = call.recordings if feature == "recording" else call.transcriptions
    with pytest.raises(Conflict) as disabled:
        await start()
    assert disabled.value.code == "feature_disabled"
    await call.update(settings={feature: {"mode": "available"}})
    started = await start()
    # No engine is configured here: it says so, and does not pretend.
    assert [(one.id, one.state, one.failure_reason) async for one in captures()] == [
        (started.id, "failed", "no_engine")
    ]
    await call.leave()
    automatic = people("alice").make_call("default", "y")
    await automatic.get_or_create(settings={feature: {"mode": "auto_on"}})
    await automatic.join()
    begun = automatic.recordings if feature == "recording" else automatic.transcriptions
    assert len([one async for one in begun()]) == 1

"""Acceptance through the client: members, joining, rights, roles (A-11 … 13, A-42 … 48, A-65 … 70, A-80 … 84, G)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from signaling.client import (
    Blocked,
    Conflict,
    Forbidden,
    InvalidRequest,
    Member,
    MissingCapability,
    NotFound,
    VideoError,
)
from tests.signaling.api.world import World
from tests.signaling.client.conftest import People


async def members_only(people: People) -> None:
    """Do the recipe of the brief: nobody but members joins calls of `my-call-type`."""
    admin = people.server.admin
    await admin.create_call_type("my-call-type")
    await admin.change_grants("my-call-type", "user", remove=["JoinCall"])
    await admin.change_grants("my-call-type", "call_member", add=["JoinCall"])


async def test_a11_g1_audio_room_ask_grant_publish(people: People) -> None:
    host = people("host").make_call("audio_room", "talk")
    await host.get_or_create()
    await host.join()
    await host.go_live()
    guest = people("dave").make_call("audio_room", "talk")
    room: Any = await guest.join()
    assert not room.publish("microphone")
    asked = await guest.request_permissions(["SendAudio"])
    assert asked.capabilities == ["media.audio"]
    assert [one.id for one in await host.permission_requests()] == [asked.id]
    granted = await host.grant(asked)
    assert (granted.state, granted.resolved_by) == ("granted", "host")
    assert room.publish("microphone")


async def test_a12_livestream_a_non_member_views(people: People) -> None:
    host = people("host").make_call("livestream", "show")
    await host.get_or_create()
    await host.go_live()
    viewer = people("dave").make_call("livestream", "show")
    room: Any = await viewer.join()
    assert viewer.participant is not None
    assert viewer.participant.role == "user"
    assert room.sources == set()


async def test_a13_development_everything_is_allowed(people: People) -> None:
    await people.server.admin.put_user("carol")
    call = people("alice").make_call("development", "x")
    await call.get_or_create()
    room: Any = await call.join()
    room.publish("microphone")
    anybody = people("dave").make_call("development", "x")
    await anybody.join()
    assert dict(await anybody.mute(["alice"])) == {"alice": ["audio"]}
    await people("eve").make_call("development", "x").block("carol")
    assert (await anybody.end()).ended_by == "dave"


async def test_a42_a44_access_is_granted_and_taken_mid_session(world: World, people: People) -> None:
    await members_only(people)
    await world.users("charlie")
    host = people("host").make_call("my-call-type", "x")
    await host.get_or_create()
    await host.join()
    charlie = people("charlie").make_call("my-call-type", "x")
    with pytest.raises(MissingCapability):
        await charlie.join()
    added = await host.add_members([Member("charlie", role="call_member")])
    assert {member.user_id for member in added.items} == {"host", "charlie"}
    room: Any = await charlie.join()
    assert room.connected
    await host.remove_members(["charlie"])
    assert not room.connected
    with pytest.raises(MissingCapability):
        await charlie.join()


async def test_a43_a_new_role_counts_without_a_rejoin(world: World, people: People) -> None:
    await world.users("charlie")
    host = people("host").make_call("livestream", "x")
    await host.get_or_create(members=[Member("charlie", role="listener")])
    await host.go_live()
    room: Any = await people("charlie").make_call("livestream", "x").join()
    assert not room.publish("camera")
    await host.update_members(upsert=[Member("charlie", role="speaker")])
    assert room.publish("camera")


async def test_a45_adding_and_removing_is_one_step(world: World, people: People) -> None:
    await world.users("bob", "charlie")
    host = people("host").make_call("default", "x")
    await host.get_or_create(members=[Member("bob", role="call_member")])
    with pytest.raises(InvalidRequest) as refused:
        await host.update_members(upsert=["charlie", "nobody"], remove=["bob"])
    assert refused.value.code == "unknown_user"
    assert {m.user_id async for m in host.members()} == {"host", "bob"}
    after = await host.update_members(upsert=["charlie"], remove=["bob"])
    assert {m.user_id: m.role for m in after.items} == {"host": "admin", "charlie": "call_member"}


async def test_a46_a47_a48_who_may_change_members(world: World, people: People) -> None:
    await world.users("mod", "bob")
    host = people("host").make_call("default", "x")
    await host.get_or_create(members=[Member("mod", role="moderator")])
    with pytest.raises(MissingCapability):
        await people("bob").make_call("default", "x").add_members(["bob"])
    with pytest.raises(Forbidden) as escalation:
        await people("mod").make_call("default", "x").add_members([Member("bob", role="admin")])
    assert escalation.value.code == "role_escalation"
    with pytest.raises(Conflict) as last:
        await host.remove_members(["host"])
    assert last.value.code == "last_admin"
    await host.remove_members(["host"], force=True)
    assert {m.user_id async for m in people.server.make_call("default", "x").members()} == {"mod"}


async def test_a65_a66_a69_joining(world: World, people: People) -> None:
    await world.users("bob")
    host = people("host").make_call("default", "x")
    await host.get_or_create(members=[Member("bob", role="speaker")])
    for user, role in (("bob", "speaker"), ("dave", "user"), ("host", "admin")):
        call = people(user).make_call("default", "x")
        room: Any = await call.join()
        assert room.connected
        assert call.participant is not None
        assert call.participant.role == role
    assert sorted(p.user_id for p in await host.participants()) == ["bob", "dave", "host"]
    types = [event.type for event in await world.recorded("default:x")]
    assert types.index("session.started") < types.index("participant.joined")


async def test_a67_a_refused_join_names_the_capability_and_gives_no_token(world: World, people: People) -> None:
    await members_only(people)
    await people("host").make_call("my-call-type", "members-only").get_or_create()
    call = people("dave").make_call("my-call-type", "members-only")
    with pytest.raises(VideoError) as refused:
        await call.join()
    assert type(refused.value) is MissingCapability
    assert (refused.value.code, refused.value.capability) == ("missing_capability", "call.join")
    assert refused.value.request_id
    assert "token" not in str(refused.value.problem)
    assert (call.room, call.participant, world.media.rooms) == (None, None, {})


async def test_a68_joining_a_call_that_is_not_there(people: People) -> None:
    call = people("alice").make_call("default", "x")
    with pytest.raises(NotFound):
        await call.join()
    await call.update(custom={"name": "made by joining"})
    room: Any = await call.join(create=True)
    assert room.connected
    assert call.info is not None
    assert call.info.custom == {"name": "made by joining"}


async def test_a70_a_blocked_user_does_not_come_back(people: People) -> None:
    host = people("host").make_call("default", "x")
    await host.get_or_create()
    mallory = people("mallory").make_call("default", "x")
    room: Any = await mallory.join()
    assert (await host.block("mallory", reason="spam")).blocked_by == "host"
    assert not room.connected
    with pytest.raises(AssertionError, match=r"Refuse"):
        await room.world.connect(room.participant)
    with pytest.raises(Blocked):
        await mallory.join()
    await host.unblock("mallory")
    await mallory.join()


async def test_a80_the_recipe_and_its_scope(world: World, people: People) -> None:
    await members_only(people)
    await world.users("charlie")
    host = people("host").make_call("my-call-type", "x")
    await host.get_or_create(members=[Member("charlie", role="call_member")])
    with pytest.raises(MissingCapability):
        await people("dave").make_call("my-call-type", "x").join()
    await people("charlie").make_call("my-call-type", "x").join()
    await people("host").make_call("default", "x").get_or_create()
    await people("dave").make_call("default", "x").join()


async def test_a82_a_changed_grant_reaches_running_calls_of_that_type_only(people: People) -> None:
    await people.server.admin.create_call_type("my-call-type")
    rooms: dict[str, Any] = {}
    for type_ in ("my-call-type", "default"):
        await people("host").make_call(type_, "x").get_or_create()
        rooms[type_] = await people("dave").make_call(type_, "x").join()
    await people.server.admin.change_grants("my-call-type", "user", remove=["join-call"])
    assert {type_: room.connected for type_, room in rooms.items()} == {"my-call-type": False, "default": True}


@pytest.mark.parametrize("spelling", ["JoinCall", "join-call", "call.join"])
async def test_a83_three_spellings_of_a_capability(people: People, spelling: str) -> None:
    changed = await people.server.admin.change_grants("livestream", "user", remove=[spelling])
    assert "call.join" not in changed.grants["user"]


async def test_a84_roles_are_made_used_and_kept_while_in_use(world: World, people: People) -> None:
    admin = people.server.admin
    await world.users("bob")
    await admin.create_role("usher")
    await admin.change_grants("default", "usher", add=["JoinCall", "ReadCall", "KickUser"])
    call = people("host").make_call("default", "x")
    await call.get_or_create(members=[Member("bob", role="usher")])
    bobs = people("bob").make_call("default", "x")
    await bobs.get()
    assert bobs.own_capabilities == {"call.join", "call.read", "participant.kick"}
    with pytest.raises(Conflict) as refused:
        await admin.delete_role("usher")
    assert refused.value.code == "role_in_use"
    await call.remove_members(["bob"])
    await admin.change_grants("default", "usher", remove=["JoinCall", "ReadCall", "KickUser"])
    await admin.delete_role("usher")
    assert "usher" not in await admin.roles()


async def test_g2_g4_g5_revoking_and_asking_in_vain(people: People) -> None:
    host = people("host").make_call("default", "x")
    await host.get_or_create()
    await host.join()
    dave = people("dave").make_call("default", "x")
    room: Any = await dave.join()
    with pytest.raises(Conflict) as held:
        await dave.request_permissions(["media.audio"])
    assert held.value.code == "already_held"
    assert room.publish("microphone")
    left = await host.change_capabilities("dave", revoke=["media.audio"])
    assert "media.audio" not in left.capabilities
    assert room.world.published(room.participant) == set()
    await host.update(settings={"audio": {"access_request_enabled": False}})
    with pytest.raises(Forbidden) as disabled:
        await dave.request_permissions(["media.audio"])
    assert disabled.value.code == "requests_disabled"


async def test_g3_g6_denying_and_two_deciders(people: People) -> None:
    host = people("host").make_call("audio_room", "x")
    await host.get_or_create()
    await host.join()
    await host.go_live()
    dave = people("dave").make_call("audio_room", "x")
    await dave.join()
    asked = await dave.request_permissions(["media.audio"])
    verdicts = await asyncio.gather(host.grant(asked), host.deny(asked), return_exceptions=True)
    won = [verdict for verdict in verdicts if not isinstance(verdict, BaseException)]
    lost = [verdict for verdict in verdicts if isinstance(verdict, Conflict)]
    assert len(won) == len(lost) == 1
    assert lost[0].code == "already_resolved"
    assert lost[0].problem["request"]["state"] == won[0].state
    again = await people("erin").make_call("audio_room", "x").join()
    assert again is not None


async def test_g7_g8_grants_outlive_a_rejoin_and_reach_every_device(people: People) -> None:
    host = people("host").make_call("audio_room", "x")
    await host.get_or_create()
    await host.join()
    await host.go_live()
    phone = people("dave", device_id="phone").make_call("audio_room", "x")
    tablet = people("dave", device_id="tablet").make_call("audio_room", "x")
    on_phone: Any = await phone.join()
    on_tablet: Any = await tablet.join()
    await host.grant(await phone.request_permissions(["media.audio"]))
    assert on_phone.publish("microphone")
    assert on_tablet.publish("microphone")
    await phone.leave()
    back: Any = await phone.join()
    assert back.publish("microphone")


async def test_why_somebody_may_do_what_he_may(people: People) -> None:
    host = people("host").make_call("default", "x")
    await host.get_or_create(settings={"video": {"enabled": False}})
    await people("dave").make_call("default", "x").join()
    told = await host.explain("dave")
    assert told.role == "user"
    assert "media.video" not in told.capabilities
    assert [step.removed for step in told.steps if "settings" in step.step] == [["media.video"]]
    with pytest.raises(MissingCapability):
        await people("dave").make_call("default", "x").explain("host")


async def test_kicking_and_leaving(people: People) -> None:
    host = people("host").make_call("default", "x")
    await host.get_or_create()
    dave = people("dave").make_call("default", "x")
    room: Any = await dave.join()
    await host.kick("dave")
    assert not room.connected
    again: Any = await dave.join()
    await dave.leave()
    assert not again.connected
    assert (dave.participant, dave.room) == (None, None)
    await dave.leave()
    assert await host.participants() == []


async def test_the_lobby_holds_who_is_not_admitted(world: World, served: People) -> None:
    host = served("host").make_call("default", "x")
    await host.get_or_create(settings={"lobby": {"enabled": True}})
    with pytest.raises(Forbidden) as waiting:
        await served("dave").make_call("default", "x").join(wait_in_lobby=False)
    assert waiting.value.code == "lobby_waiting"
    joining = asyncio.create_task(served("dave").make_call("default", "x").join())
    denied = asyncio.create_task(served("eve").make_call("default", "x").join())
    async with asyncio.timeout(10), served("host").events() as events:
        while len(await host.lobby()) < 2:
            await anext(events)
    for entry in await host.lobby():
        await (host.admit(entry) if entry.user_id == "dave" else host.deny_entry(entry))
    room: Any = await asyncio.wait_for(joining, 10)
    assert room.connected
    with pytest.raises(Forbidden, match="not_admitted") as refused:
        await asyncio.wait_for(denied, 10)
    entry_id = refused.value.problem["lobby"]["id"]
    assert (await served("eve").make_call("default", "x").lobby_entry(entry_id)).state == "denied"
    assert await host.lobby() == []  # to learn that leaves no new entry behind


async def test_g9_other_types_keep_their_rights(people: People) -> None:
    held = {}
    for type_ in ("default", "livestream"):
        call = people("host").make_call(type_, "x")
        await call.get_or_create()
        theirs = people("dave").make_call(type_, "x")
        await theirs.get()
        held[type_] = theirs.own_capabilities
    await people.server.admin.change_grants("livestream", "user", remove=["SendAudio", "CreateReaction"])
    for type_, gone in (("default", set()), ("livestream", {"reaction.send"})):
        theirs = people("dave").make_call(type_, "x")
        await theirs.get()
        assert held[type_] - theirs.own_capabilities == gone

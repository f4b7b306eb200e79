"""Joining: who is let in, and what he and the others are told in which order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from livekit.protocol import models, rtc

from sfu import border, sdp
from signaling.errors import InvalidRequest, Refusal, TooLarge, Unauthenticated, Unavailable
from signaling.rooms.core import LARGE_ROOM
from signaling.rooms.effects import ParticipantConnected, ParticipantJoined, ParticipantLeft, Send
from signaling.rooms.grants import Grants
from signaling.rooms.presence import JoinParameters, RoomFull, check, check_place
from signaling.rooms.settings import RoomSettings
from tests.signaling.rooms.world import ACTIONS, REASONS, SERVER, STATES, UNIX_MS, World, last_leave, states_of

# --- what no room takes ---------------------------------------------------------------------------------------------

GRANTS = Grants(key="devkey", identity="alice", room="lobby", room_join=True)


@pytest.mark.parametrize(
    ("grants", "more", "refusal", "sentence"),
    [
        (replace(GRANTS, room_join=False), {}, Unauthenticated, "no `roomJoin` grant"),
        (replace(GRANTS, identity=""), {}, InvalidRequest, "identity cannot be empty"),
        (replace(GRANTS, room=""), {}, InvalidRequest, "names no room"),
        (replace(GRANTS, identity="a\nb"), {}, InvalidRequest, "identity has control characters"),
        (replace(GRANTS, name="\x7f"), {}, InvalidRequest, "name has control characters"),
        (replace(GRANTS, name="\u202egpj.exe"), {}, InvalidRequest, "name has control characters"),
        (replace(GRANTS, room="\x00"), {}, InvalidRequest, "room name has control characters"),
        (replace(GRANTS, identity="ä" * 129), {}, TooLarge, "The identity has 258 bytes; at most 256"),
        (replace(GRANTS, metadata="x" * 70_000), {}, TooLarge, "The metadata has 70000 bytes"),
        (replace(GRANTS, attributes={"a": "x" * 70_000}), {}, TooLarge, "The attributes have 70001 bytes"),
        (GRANTS, {"metadata": "m"}, Unauthenticated, "without `canUpdateOwnMetadata`"),
        (GRANTS, {"attributes": {"a": "b"}}, Unauthenticated, "without `canUpdateOwnMetadata`"),
        (
            replace(GRANTS, can_update_own_metadata=True),
            {"attributes": {"a": "x" * 70_000}},
            TooLarge,
            "The attributes have",
        ),
    ],
)
def test_what_is_refused_before_there_is_a_room(
    grants: Grants, more: dict[str, Any], refusal: type[Refusal], sentence: str
) -> None:
    parameters = JoinParameters(grants=grants, client=models.ClientInfo(), is_single=True, **more)
    with pytest.raises(refusal, match=sentence):
        check(parameters, RoomSettings())


def test_names_of_the_whole_world_are_taken() -> None:
    for name in ("Zoë", "дом", "日本", "a b", "x" * 256, "👩‍👩‍👧"):
        grants = replace(GRANTS, identity=name, room=name, name=name)
        check(JoinParameters(grants=grants, client=models.ClientInfo(), is_single=True), RoomSettings())


def test_a_full_room_takes_only_those_who_need_no_place() -> None:
    world = World(participants_max=2)
    world.join("alice")
    world.join("spy", hidden=True)
    world.join("tape", recorder=True)
    world.join("bob")
    with pytest.raises(RoomFull, match="at most 2 participants"):
        world.join("carol")
    assert "carol" not in world.room.core.by_identity
    check_place(world.room.core, Grants(key="k", identity="bob"), world.now)
    check_place(world.room.core, Grants(key="k", identity="x", hidden=True), world.now)
    check_place(world.room.core, Grants(key="k", identity="x", recorder=True), world.now)


# --- joining --------------------------------------------------------------------------------------------------------


def test_the_order_of_messages_in_single_mode(world: World) -> None:
    client = world.join("alice", connected=False)
    assert client.order() == ["join", "refresh_token", "update", "answer"]
    join = client.heard("join")[0]
    assert not join.subscriber_primary
    answer = client.heard("answer")[0]
    assert (answer.type, answer.id) == ("answer", 1)
    sections = sdp.parse(answer.sdp).media
    assert [section.kind for section in sections] == ["audio"] * 3 + ["video"] * 3 + ["application"]
    assert not any(section.msids for section in sections)
    added = world.worker.of(border.AddTransport)
    assert [command.remote.ice.ufrag for command in added] == ["clnt"]
    assert not world.worker.opened


def test_the_order_of_messages_in_dual_mode(world: World) -> None:
    client = world.join("alice", single=False, connected=False)
    assert client.order() == ["join", "refresh_token", "update", "offer"]
    join = client.heard("join")[0]
    assert join.subscriber_primary
    assert join.fast_publish
    (offer,) = client.heard("offer")
    assert (offer.type, offer.id) == ("offer", 1)
    assert [section.kind for section in sdp.parse(offer.sdp).media] == ["application"]
    # One connection only: the other comes with the client's first offer. The channels of this one are ours to open.
    (transport,) = world.worker.transports
    assert world.worker.opened == {transport: ("_reliable", "_lossy", "_data_track")}
    assert world.worker.remotes[transport].ice.ufrag == "clnt"


def test_the_join_answer_says_everything() -> None:
    world = World(metadata="about")
    bob = world.join("bob", name="Bob", metadata="m", attributes={"a": "b"}, kind="agent")
    track = bob.publish_audio()
    world.join("spy", hidden=True)
    alice = world.join("alice", connected=False)
    join = alice.heard("join")[0]
    room = join.room
    assert (room.sid, room.name, room.metadata, room.creation_time) == ("RM_1", "lobby", "about", UNIX_MS // 1000)
    assert (room.num_participants, room.num_publishers) == (1, 1), "an agent is not counted, what it publishes is"
    assert [codec.mime for codec in room.enabled_codecs] == list(world.settings.codecs)
    assert [codec.mime for codec in join.enabled_publish_codecs] == list(world.settings.codecs)
    own = join.participant
    assert (own.identity, own.state, own.sid[:3]) == ("alice", STATES.JOINING, "PA_")
    (other,) = join.other_participants
    assert (other.identity, other.name, other.metadata, dict(other.attributes)) == ("bob", "Bob", "m", {"a": "b"})
    assert (other.state, other.kind, other.client_protocol) == (STATES.ACTIVE, models.ParticipantInfo.Kind.AGENT, 1)
    assert [one.sid for one in other.tracks] == [track.sid]
    assert (join.ping_interval, join.ping_timeout) == (5, 15)
    assert join.server_info == SERVER.info
    assert list(join.ice_servers) == list(SERVER.ice_servers)
    assert join.sif_trailer == b"trailer"


def test_a_newcomer_is_told_of_joined_and_active_and_so_are_the_others(world: World) -> None:
    bob = world.join("bob")
    bob.forget()
    alice = world.join("alice", connected=False)
    assert states_of(bob, alice.sid) == [STATES.JOINED]
    world.connect(alice)
    assert states_of(bob, alice.sid) == [STATES.JOINED, STATES.ACTIVE]
    assert states_of(alice, alice.sid) == [STATES.JOINED, STATES.ACTIVE]
    versions = [info.version for update in bob.heard("update") for info in update.participants]
    assert versions == sorted(versions)
    assert world.of(ParticipantJoined) == [ParticipantJoined("bob"), ParticipantJoined("alice")]
    assert [one.identity for one in world.of(ParticipantConnected)] == ["bob", "alice"]


def test_webhooks_follow_a_life_in_the_room(world: World) -> None:
    alice = world.join("alice", connected=False)
    assert world.events() == ["room_started"]
    alice.publish_audio()
    world.seconds += 3
    world.connect(alice)
    assert world.events() == ["room_started", "participant_joined", "track_published"]
    assert world.of(ParticipantConnected) == [ParticipantConnected("alice", 3.0)]
    alice.say(leave=rtc.LeaveRequest())
    world.wait(30)
    assert world.events()[3:] == ["track_unpublished", "participant_left", "room_finished"]
    assert world.notified[1].participant.identity == "alice"
    assert world.notified[2].track.source == models.TrackSource.MICROPHONE
    assert world.notified[4].participant.disconnect_reason == REASONS.CLIENT_INITIATED


def test_a_join_without_an_offer_is_answered_when_the_offer_comes(world: World) -> None:
    bob = world.join("bob")
    bob.publish_audio()
    alice = world.enter(world.client("alice"), offers=False)
    assert alice.order()[:3] == ["join", "refresh_token", "update"]
    assert "media_sections_requirement" not in alice.order()
    alice.offer()
    world.settle()
    assert len(alice.heard("answer")) == 1
    assert len(world.worker.downtracks) == 1


def test_announced_tracks_may_come_with_the_join(world: World) -> None:
    client = world.client("alice")
    client.sections[0].cid, client.sections[0].direction = "mic", sdp.Direction.SENDONLY
    request = rtc.AddTrackRequest(cid="mic", type=models.TrackType.AUDIO, source=models.TrackSource.MICROPHONE)
    world.enter(client, add_tracks=(request,))
    assert client.order() == ["join", "refresh_token", "update", "track_published", "update", "answer"]
    assert len(world.worker.uptracks) == 1


def test_the_first_token_has_the_rights_and_what_the_client_brought(world: World) -> None:
    client = world.client("alice", can_update_own_metadata=True, name="A", attributes={"a": "1", "b": "2"})
    world.enter(client, metadata="mine", attributes={"b": "", "c": "3"})
    (token,) = client.tokens
    assert (token.identity, token.name, token.metadata) == ("alice", "A", "mine")
    assert token.attributes == {"a": "1", "c": "3"}
    assert token.can_update_own_metadata
    assert client.heard("join")[0].participant.metadata == "mine"


def test_tokens_are_refreshed_while_the_client_is_there(world: World) -> None:
    client = world.join("alice")
    world.wait(901)
    assert len(client.tokens) == 1 + 3
    world.lose_signal(client)
    world.wait(100)
    assert len(client.tokens) == 4


def test_who_does_not_connect_in_time_is_told_to_come_back(world: World) -> None:
    bob = world.join("bob")
    alice = world.join("alice", connected=False)
    world.wait(world.settings.connect_seconds + 0.1)
    assert (last_leave(alice).reason, last_leave(alice).action) == (REASONS.JOIN_FAILURE, ACTIONS.RECONNECT)
    assert alice.session is None
    assert alice.sid not in bob.people
    assert world.events()[-1] == "participant_connection_aborted"
    assert ParticipantLeft("alice", REASONS.JOIN_FAILURE, clean=False) in world.effects
    assert len(world.worker.transports) == 1


# --- large rooms, and small ones that fill at once ------------------------------------------------------------------


def test_a_large_room_is_told_of_many_together() -> None:
    world = World()
    watcher = world.join("watcher")
    for number in range(LARGE_ROOM):
        world.join(f"early-{number}")
    world.wait(0.3)
    watcher.forget()
    late = [world.join(f"late-{number}") for number in range(40)]
    gone = [world.join(f"gone-{number}") for number in range(5)]
    for client in gone:
        client.say(leave=rtc.LeaveRequest())
    world.wait(0.24)
    assert watcher.order() == []
    world.wait(0.02)
    (update,) = watcher.heard("update")
    assert [info.identity for info in update.participants] == [client.identity for client in late + gone]
    assert {info.state for info in update.participants[:40]} == {STATES.ACTIVE}
    assert {info.state for info in update.participants[40:]} == {STATES.DISCONNECTED}
    assert all(client.sid in watcher.people for client in late)


def test_the_larger_the_room_the_rarer_its_messages() -> None:
    world = World(settings=RoomSettings(announcements_per_second=50))
    watcher = world.join("watcher")
    for number in range(LARGE_ROOM + 50):
        world.join(f"early-{number}")
    world.wait(3)
    watcher.forget()
    world.join("late")
    world.wait(1.9)
    assert watcher.heard("update") == []
    world.wait(0.2)
    assert len(watcher.heard("update")) == 1


def test_a_small_room_in_which_many_come_tells_the_first_at_once_and_then_several_together() -> None:
    world = World()
    watcher = world.join("watcher")
    watcher.forget()
    for number in range(30):
        world.join(f"u{number}")
        if number < 8:
            assert f"u{number}" in {info.identity for info in watcher.people.values()}
        world.wait(0.05)
    world.wait(0.25)
    assert len(watcher.people) == 31
    assert 16 < len(watcher.heard("update")) < 32, "30 joins and 30 connections"
    world.wait(10)
    watcher.forget()
    world.join("calm")
    assert len(watcher.heard("update")) == 2, "that he has joined, and that his media is up"


def test_in_a_large_room_a_join_costs_messages_to_the_newcomer_only() -> None:
    """F-40"""
    world = World()
    for number in range(LARGE_ROOM + 10):
        world.join(f"u{number}")
    client = world.client("late")
    client.session = 99_999
    world.clients[client.session] = client
    effects = world.room.join(client.session, world.parameters(client, offer=client.description()), world.now)
    assert {effect.session for effect in effects if isinstance(effect, Send)} == {client.session}


def test_in_a_large_room_a_publisher_is_known_before_his_media() -> None:
    world = World()
    watcher = world.join("watcher", single=False)
    for number in range(LARGE_ROOM):
        world.join(f"u{number}")
    world.wait(0.3)
    watcher.forget()
    late = world.join("late")
    late.publish_audio()
    assert watcher.order()[:3] == ["update", "subscription_permission_update", "offer"]
    assert late.sid in watcher.people


# --- the same identity again ----------------------------------------------------------------------------------------


def test_a_second_client_of_an_identity_takes_the_place_of_the_first(world: World) -> None:
    bob = world.join("bob")
    first = world.join("alice")
    first.publish_audio()
    bob.forget()
    second = world.join("alice")
    assert (last_leave(first).reason, last_leave(first).action) == (REASONS.DUPLICATE_IDENTITY, ACTIONS.DISCONNECT)
    assert first.session is None
    told = [(info.sid, info.state) for update in bob.heard("update") for info in update.participants]
    assert told.index((first.sid, STATES.DISCONNECTED)) < told.index((second.sid, STATES.JOINED))
    assert set(bob.people) == {bob.sid, second.sid}
    assert not world.worker.uptracks
    assert world.room.core.by_identity["alice"].sid == second.sid


@pytest.mark.parametrize("leaves", [True, False])
def test_in_a_large_room_who_comes_again_is_not_told_of_his_former_self(leaves: bool) -> None:
    world = World()
    watcher = world.join("watcher")
    for number in range(LARGE_ROOM + 10):
        world.join(f"u{number}")
    first = world.join("alice")
    world.wait(1)
    watcher.forget()
    if leaves:
        first.say(leave=rtc.LeaveRequest())
    second = world.join("alice")
    world.wait(1)
    told = [info for update in second.heard("update") for info in update.participants]
    assert {info.sid for info in told if info.identity == "alice"} == {second.sid}
    heard = [(info.sid, info.state) for update in watcher.heard("update") for info in update.participants]
    assert heard.index((first.sid, STATES.DISCONNECTED)) < heard.index((second.sid, STATES.ACTIVE))
    assert set(watcher.people) == set(world.room.core.participants)


def test_two_clients_of_one_identity_cannot_throw_each_other_out_without_end(world: World) -> None:
    """S-50"""
    world.join("alice")
    world.join("alice")
    third = world.client("alice")
    with pytest.raises(Unavailable, match="has just joined from elsewhere"):
        world.enter(third)
    world.seconds += 1
    world.join("alice")


def test_one_whose_client_is_gone_may_be_replaced_at_any_time(world: World) -> None:
    first = world.join("alice")
    world.join("alice")
    current = next(client for client in world.clients.values() if client is not first)
    world.lose_signal(current)
    world.join("alice")
    assert len(world.room.core.participants) == 1


# --- what an SDK can take -------------------------------------------------------------------------------------------


def test_the_go_sdk_is_answered_once_it_has_spoken(world: World) -> None:
    # It cannot take an answer that follows the join at once; its first candidate shows that it has got there.
    go = models.ClientInfo(sdk=models.ClientInfo.SDK.GO, protocol=17)
    talking, silent = world.client("talking"), world.client("silent")
    for client in (talking, silent):
        world.enter_with(client, client=go, offer=client.description())
        assert client.order()[0] == "join"
        assert "answer" not in client.order()
    talking.say(trickle=rtc.TrickleRequest(candidateInit="{}"))
    assert [answer.id for answer in talking.heard("answer")] == [1]
    assert not silent.heard("answer")
    world.wait(1)
    assert [answer.id for answer in silent.heard("answer")] == [1]
    world.wait(1)
    assert len(talking.heard("answer")) == 1


@pytest.mark.parametrize(("protocol", "told"), [(9, False), (10, True)])
def test_an_old_rust_client_gets_nothing_that_it_would_die_of(world: World, protocol: int, told: bool) -> None:
    # As the Python SDK 0.11 calls itself; it panics at a message that its protocol does not have.
    rust = models.ClientInfo(sdk=models.ClientInfo.SDK.RUST, protocol=protocol)
    old = world.client("old", single=False)
    world.enter_with(old, client=rust)
    world.connect(old)
    world.join("bob")
    sid = old.publish_video("camera").sid
    assert [one.track_sid for one in old.heard("track_subscribed")] == ([sid] if told else [])
    old.say(update_metadata=rtc.UpdateParticipantMetadata(metadata="mine", request_id=3))
    assert [one.request_id for one in old.heard("request_response")] == ([3] if told else [])

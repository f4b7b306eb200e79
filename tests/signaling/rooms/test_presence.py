"""Coming and going: who is told what, in which order, and when somebody counts as gone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from livekit.protocol import models, rtc
from livekit.protocol import room as api

from sfu import border, sdp
from sfu.border import TransportStatus
from signaling.errors import InvalidRequest, Refusal, TooLarge, Unauthenticated, Unavailable
from signaling.rooms.core import LARGE_ROOM
from signaling.rooms.effects import Ended, ParticipantConnected, ParticipantJoined, ParticipantLeft, Send
from signaling.rooms.grants import Grants
from signaling.rooms.presence import JoinParameters, RoomFull, check, check_place
from signaling.rooms.settings import RoomSettings
from tests.signaling.rooms.world import SERVER, STATES, UNIX_MS, Client, World, without_permission

REASONS = models.DisconnectReason
ACTIONS = rtc.LeaveRequest.Action


@pytest.fixture
def world() -> World:
    return World(metadata="about")


def last_leave(client: Client) -> rtc.LeaveRequest:
    leave: rtc.LeaveRequest = client.heard("leave")[-1]
    return leave


def states_of(client: Client, sid: str) -> list[int]:
    return [info.state for update in client.heard("update") for info in update.participants if info.sid == sid]


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


DEPENDENT: tuple[dict[str, Any], ...] = ({"kind": "agent"}, {"agent": True}, {"kind": "egress"}, {"recorder": True})


@pytest.mark.parametrize("grants", DEPENDENT)
def test_agents_and_recorders_take_no_place_and_are_not_counted(grants: dict[str, Any]) -> None:
    world = World(participants_max=2)
    alice, _ = world.join("alice"), world.join("helper", **grants)
    world.join("bob").publish_audio()
    with pytest.raises(RoomFull):
        world.join("carol")
    check_place(world.room.core, Grants(key="k", identity="another", **grants), world.now)
    world.wait(2)
    assert (alice.room.num_participants, alice.room.num_publishers) == (2, 1)


def test_what_an_agent_publishes_counts_among_what_is_published(world: World) -> None:
    alice = world.join("alice")
    world.join("helper", kind="agent").publish_audio()
    world.wait(2)
    assert (alice.room.num_participants, alice.room.num_publishers) == (1, 1)


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


def test_the_join_answer_says_everything(world: World) -> None:
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


# --- leaving --------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_hears_an_echo_and_everything_of_it_ends(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    alice.publish_audio()
    alice.publish_video()
    alice.say(leave=rtc.LeaveRequest(reason=REASONS.CLIENT_INITIATED))
    assert last_leave(alice).reason == REASONS.CLIENT_INITIATED
    assert alice.closed == ["client_initiated"]
    (gone,) = [info for update in bob.heard("update") for info in update.participants if info.sid == alice.sid][-1:]
    assert (gone.state, gone.disconnect_reason) == (STATES.DISCONNECTED, REASONS.CLIENT_INITIATED)
    assert not world.worker.uptracks
    assert not world.worker.downtracks
    assert len(world.worker.transports) == 1
    assert ParticipantLeft("alice", REASONS.CLIENT_INITIATED, clean=True) in world.effects


def test_the_tracks_of_one_who_leaves_are_renegotiated_together(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=False)
    for cid in ("a", "b", "c"):
        alice.publish_video(cid)
    offers = len(bob.heard("offer"))
    alice.say(leave=rtc.LeaveRequest())
    assert len(bob.heard("offer")) == offers + 1


@pytest.mark.parametrize(("protocol", "hears"), [(8, False), (9, True)])
def test_old_clients_are_not_told_of_those_who_left(world: World, protocol: int, hears: bool) -> None:
    old = world.enter(world.client("old", protocol=protocol))
    alice = world.join("alice")
    alice.say(leave=rtc.LeaveRequest())
    assert (STATES.DISCONNECTED in states_of(old, alice.sid)) is hears


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


@pytest.mark.parametrize(("protocol", "action"), [(12, ACTIONS.DISCONNECT), (13, ACTIONS.RECONNECT)])
def test_old_clients_are_told_by_a_flag_whether_to_come_back(world: World, protocol: int, action: int) -> None:
    world.enter(world.client("alice", protocol=protocol))
    client = next(iter(world.clients.values()))
    world.apply(world.room.worker_lost(world.now))
    assert (last_leave(client).action, last_leave(client).can_reconnect) == (action, True)


def test_an_administrator_removes(world: World) -> None:
    alice = world.join("alice")
    world.apply(world.room.remove("alice", world.now))
    assert (last_leave(alice).reason, last_leave(alice).action) == (REASONS.PARTICIPANT_REMOVED, ACTIONS.DISCONNECT)
    assert not last_leave(alice).can_reconnect


def test_a_room_that_is_deleted_tells_everybody_and_ends(world: World) -> None:
    clients = [world.join("alice"), world.join("bob", single=False)]
    world.apply(world.room.close(REASONS.ROOM_DELETED, world.now))
    assert [last_leave(client).reason for client in clients] == [REASONS.ROOM_DELETED] * 2
    assert not world.worker.transports
    assert world.effects[-1] == Ended()
    assert world.events()[-1] == "room_finished"


def test_a_lost_worker_sends_everybody_away_afresh_and_the_room_lives_on(world: World) -> None:
    """F-16"""
    alice = world.join("alice")
    world.apply(world.room.worker_lost(world.now))
    assert (last_leave(alice).reason, last_leave(alice).action) == (REASONS.STATE_MISMATCH, ACTIONS.RECONNECT)
    assert not world.of(Ended)
    again = world.join("alice")
    assert again.session is not None
    assert again.sid != alice.sid


# --- the room's own time --------------------------------------------------------------------------------------------


def test_a_room_that_nobody_joins_ends(world: World) -> None:
    world.wait(299)
    assert not world.of(Ended)
    world.wait(2)
    assert world.of(Ended) == [Ended()]
    assert world.events() == ["room_started", "room_finished"]


def test_a_room_waits_after_the_last_has_left_and_a_newcomer_keeps_it() -> None:
    world = World(departure_timeout_seconds=20)
    alice = world.join("alice")
    world.wait(1000)
    alice.say(leave=rtc.LeaveRequest())
    world.wait(19)
    assert not world.of(Ended)
    bob = world.join("bob")
    world.wait(1000)
    assert not world.of(Ended)
    bob.say(leave=rtc.LeaveRequest())
    world.wait(21)
    assert world.of(Ended) == [Ended()]


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("grants", DEPENDENT)
def test_agents_and_recorders_do_not_keep_a_room_open(grants: dict[str, Any], restarts: bool) -> None:
    world = World(departure_timeout_seconds=20)
    helper, alice = world.join("helper", **grants), world.join("alice")
    alice.say(leave=rtc.LeaveRequest())
    world.wait(10)
    if restarts:
        world.restart()
        world.resume(helper)
    else:
        other = world.join("other", **grants)
        other.say(leave=rtc.LeaveRequest())
    world.wait(9)
    assert not world.of(Ended)
    world.wait(12)
    assert world.of(Ended) == [Ended()]
    (told,) = helper.heard("leave")
    assert (told.reason, told.action) == (REASONS.ROOM_CLOSED, ACTIONS.DISCONNECT)
    assert world.events()[-2:] == ["participant_left", "room_finished"]


def test_an_agent_that_nobody_comes_to_waits_as_long_as_a_room_without_anybody() -> None:
    world = World(empty_timeout_seconds=300, departure_timeout_seconds=20)
    helper = world.join("helper", kind="agent")
    world.wait(100)
    world.restart()
    world.resume(helper)
    world.wait(299)
    assert not world.of(Ended)
    world.wait(2)
    assert helper.heard("leave")
    assert world.of(Ended) == [Ended()]


def test_who_comes_back_in_time_keeps_the_room_of_an_agent(world: World) -> None:
    world.join("helper", kind="agent")
    world.join("alice").say(leave=rtc.LeaveRequest())
    world.wait(19)
    world.join("alice")
    world.wait(100)
    assert not world.of(Ended)


def test_a_room_whose_last_person_is_made_a_recorder_ends_and_one_who_is_no_recorder_any_more_keeps_it(
    world: World,
) -> None:
    alice = world.join("alice")

    def change(recorder: bool) -> None:
        permission = without_permission(alice.grants, recorder=recorder)
        request = api.UpdateParticipantRequest(identity="alice", permission=permission)
        world.apply(world.room.update_participant(request, world.now))

    change(recorder=True)
    world.wait(19)
    assert (alice.room.num_participants, alice.room.active_recording) == (0, True)
    change(recorder=False)
    world.wait(100)
    assert (alice.room.num_participants, alice.room.active_recording) == (1, False)
    change(recorder=True)
    world.wait(21)
    assert world.of(Ended) == [Ended()]


@pytest.mark.parametrize("grants", DEPENDENT)
def test_in_rooms_of_calls_agents_and_recorders_are_as_before(grants: dict[str, Any]) -> None:
    world = World(departure_timeout_seconds=20)
    helper = world.join("helper", managed=True, **grants)
    world.join("alice", managed=True).say(leave=rtc.LeaveRequest())
    world.wait(100)
    assert not world.of(Ended)
    assert helper.sid in world.room.core.participants


@pytest.mark.parametrize("grants", [{"kind": "egress"}, {"recorder": True, "hidden": True}])
def test_it_is_told_whether_somebody_records(world: World, grants: dict[str, Any]) -> None:
    alice = world.join("alice")
    world.join("helper", kind="agent")
    world.wait(2)
    assert not alice.room.active_recording
    tape = world.join("tape", **grants)
    world.wait(2)
    assert alice.room.active_recording
    assert world.join("bob").room.active_recording
    tape.say(leave=rtc.LeaveRequest())
    world.wait(2)
    assert not alice.room.active_recording


def test_counts_are_told_a_little_later_and_together(world: World) -> None:
    alice = world.join("alice")
    world.wait(2)
    alice.forget()
    world.join("bob")
    world.join("carol").publish_audio()
    world.join("spy", hidden=True)
    assert not alice.heard("room_update")
    world.wait(1.1)
    (update,) = alice.heard("room_update")
    assert (update.room.num_participants, update.room.num_publishers) == (3, 1)


# --- losing the signal ----------------------------------------------------------------------------------------------


def test_one_with_media_keeps_his_place_without_a_signal_for_a_while(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sid = alice.publish_audio().sid
    world.lose_signal(alice)
    world.wait(world.settings.signal_absence_seconds - 1)
    assert alice.sid in bob.people
    assert sid in bob.record.subscriptions
    world.wait(2)
    assert alice.sid not in bob.people
    assert ParticipantLeft("alice", REASONS.CONNECTION_TIMEOUT, clean=False) in world.effects


def test_one_who_never_had_media_goes_with_his_signal(world: World) -> None:
    alice = world.join("alice", connected=False)
    world.lose_signal(alice)
    assert not world.room.core.participants
    assert ParticipantLeft("alice", REASONS.SIGNAL_CLOSE, clean=False) in world.effects


def test_an_old_connection_that_closes_late_ends_nothing(world: World) -> None:
    alice = world.join("alice")
    old = alice.session or 0
    world.resume(alice)
    world.apply(world.room.signal_closed(old, world.now))
    world.apply(world.room.request(old, rtc.SignalRequest(leave=rtc.LeaveRequest()), world.now))
    assert alice.record.session == alice.session


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("single", [True, False])
def test_the_order_of_messages_at_a_resume(world: World, single: bool) -> None:
    bob = world.join("bob")
    bob.publish_audio()
    alice = world.join("alice", single=single)
    alice.publish_video()
    world.lose_signal(alice)
    alice.forget()
    world.resume(alice)
    order = alice.order()
    assert order[:3] == ["reconnect", "update", "room_update"]
    assert "refresh_token" in order
    assert "subscribed_quality_update" in order
    assert ("offer" in order) is not single
    (update,) = alice.heard("update")[:1]
    assert [info.identity for info in update.participants] == ["bob", "alice"]
    reconnect = alice.heard("reconnect")[0]
    assert list(reconnect.ice_servers) == list(SERVER.ice_servers)
    assert reconnect.server_info == SERVER.info
    assert ("absent", alice.sid) not in world.room.core.timers


def test_in_dual_mode_a_resume_restarts_ice_by_an_offer_of_ours(world: World) -> None:
    alice = world.join("alice", single=False)
    alice.publish_audio()
    world.lose_signal(alice)
    alice.forget()
    world.resume(alice)
    (offer,) = alice.heard("offer")
    (restart,) = world.worker.restarts
    assert restart.transport == alice.record.receiving.transport
    assert restart.local is not None
    assert {section.ice_ufrag for section in sdp.parse(offer.sdp).media} == {restart.local.ufrag}
    assert len(world.worker.downtracks) == 0


def test_in_single_mode_the_client_restarts_ice_by_its_offer(world: World) -> None:
    alice = world.join("alice")
    world.lose_signal(alice)
    world.resume(alice)
    alice.forget()
    alice.ufrag = "fresh"
    alice.offer()
    world.settle()
    (restart,) = world.worker.restarts
    assert restart.remote is not None
    assert restart.remote.ufrag == "fresh"
    (answer,) = alice.heard("answer")
    assert {section.ice_ufrag for section in sdp.parse(answer.sdp).media} == {restart.local.ufrag}


def test_who_left_meanwhile_is_told_at_the_resume(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    world.lose_signal(alice)
    bob.say(leave=rtc.LeaveRequest())
    carol = world.join("carol")
    world.resume(alice)
    assert set(alice.people) == {alice.sid, carol.sid}
    gone = next(info for info in alice.heard("update")[-1].participants if info.identity == "bob")
    assert (gone.state, gone.disconnect_reason) == (STATES.DISCONNECTED, REASONS.CLIENT_INITIATED)


def test_who_left_into_a_dead_socket_is_told_at_the_resume(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    deaf = dict(alice.people)
    bob.say(leave=rtc.LeaveRequest())
    # The client was cut off before that came, and the server has not noticed.
    alice.people = deaf
    world.resume(alice)
    assert set(alice.people) == {alice.sid}


def test_who_left_long_ago_is_forgotten(world: World) -> None:
    world.join("alice")
    world.join("bob").say(leave=rtc.LeaveRequest())
    world.wait(world.settings.signal_absence_seconds + 1)
    world.join("carol").say(leave=rtc.LeaveRequest())
    assert [one.identity for one in world.record.departed] == ["carol"]


def test_tracks_that_ended_meanwhile_are_named_when_the_client_still_has_them(world: World) -> None:
    alice = world.join("alice")
    world.lose_signal(alice)
    alice.forget()
    published = rtc.TrackPublishedResponse(cid="c", track=models.TrackInfo(sid="TR_gone"))
    world.resume(alice, sync_state=rtc.SyncState(publish_tracks=[published]))
    assert [message.track_sid for message in alice.heard("track_unpublished")] == ["TR_gone"]


@pytest.mark.parametrize("case", ["unknown", "another's", "other mode", "no sid"])
def test_a_resume_to_what_is_not_there_is_sent_away_afresh(world: World, case: str) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    world.lose_signal(alice)
    stranger = world.client("alice", single=case != "other mode")
    stranger.sid = {"unknown": "PA_none", "another's": bob.sid, "other mode": alice.sid, "no sid": ""}[case]
    world.resume(stranger)
    assert stranger.order() == ["leave"]
    assert (last_leave(stranger).reason, last_leave(stranger).action) == (REASONS.STATE_MISMATCH, ACTIONS.RECONNECT)
    assert stranger.session is None
    assert bob.record.session == bob.session


@pytest.mark.parametrize("managed", [True, False])
def test_rights_that_changed_meanwhile_hold_from_the_resume_on_where_somebody_vouches_for_them(
    world: World, managed: bool
) -> None:
    alice, bob = world.join("alice", managed=managed), world.join("bob")
    sid = alice.publish_audio().sid
    world.lose_signal(alice)
    alice.grants = replace(alice.grants, can_publish=False)
    alice.forget()
    world.resume(alice)
    assert alice.order()[0] == "reconnect"
    assert (sid in bob.record.subscriptions) is not managed
    assert bool(world.worker.uptracks) is not managed
    assert bob.people[alice.sid].permission.can_publish is not managed
    assert alice.tokens[-1].can_publish is not managed


def test_a_resume_while_the_old_connection_still_stands_closes_that(world: World) -> None:
    alice = world.join("alice")
    before = alice.session
    world.resume(alice)
    assert alice.closed == ["resumed on another connection"]
    assert before not in world.room.core.by_session


def test_what_a_resuming_client_says_of_its_subscriptions_holds(world: World) -> None:
    bob = world.join("bob")
    kept, unwanted, disabled = bob.publish_audio().sid, bob.publish_video("v1").sid, bob.publish_video("v2").sid
    alice = world.join("alice")
    world.lose_signal(alice)
    state = rtc.SyncState(
        subscription=rtc.UpdateSubscription(track_sids=[unwanted], subscribe=False), track_sids_disabled=[disabled]
    )
    world.resume(alice, sync_state=state)
    assert set(alice.record.subscriptions) == {kept, disabled}
    assert alice.record.subscriptions[disabled].want.disabled


# --- losing media ---------------------------------------------------------------------------------------------------


def test_media_that_fails_sends_the_client_to_resume_and_counts_the_seconds(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    transport = alice.record.publisher.transport
    world.transport(transport, TransportStatus.FAILED)
    assert (last_leave(alice).action, last_leave(alice).reason) == (ACTIONS.RESUME, REASONS.CONNECTION_TIMEOUT)
    assert alice.session is None
    assert alice.sid in bob.people
    world.wait(world.settings.media_absence_seconds + 0.1)
    assert alice.sid not in bob.people


def test_one_who_is_back_in_time_has_as_long_as_a_newcomer_for_his_media(world: World) -> None:
    alice = world.join("alice")
    transport = alice.record.publisher.transport
    world.transport(transport, TransportStatus.FAILED)
    world.wait(world.settings.media_absence_seconds - 1)
    world.resume(alice)
    world.wait(world.settings.connect_seconds - 1)
    assert alice.sid in world.room.core.participants
    world.transport(transport, TransportStatus.CONNECTED)
    world.wait(100)
    assert alice.sid in world.room.core.participants


def test_media_that_comes_back_without_its_client_does_not_stay_for_ever(world: World) -> None:
    alice = world.join("alice")
    transport = alice.record.publisher.transport
    world.transport(transport, TransportStatus.FAILED)
    world.transport(transport, TransportStatus.CONNECTED)
    world.wait(world.settings.signal_absence_seconds + 1)
    assert not world.room.core.participants


def test_who_does_not_answer_is_asked_for_another_path_and_keeps_his_place(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    world.unanswered(alice.record.receiving.transport)
    assert (last_leave(alice).action, last_leave(alice).reason) == (ACTIONS.RESUME, REASONS.CONNECTION_TIMEOUT)
    assert alice.session is None
    world.resume(alice)
    world.wait(world.settings.signal_absence_seconds * 2)
    assert alice.sid in bob.people


def test_who_was_asked_for_another_path_has_time_to_find_it(world: World) -> None:
    alice = world.join("alice")
    transport = alice.record.receiving.transport
    world.unanswered(transport)
    world.resume(alice)
    alice.forget()
    world.wait(20)
    world.unanswered(transport)
    assert not alice.heard("leave")
    world.wait(20)
    world.unanswered(transport)
    assert last_leave(alice).action == ACTIONS.RESUME


def test_who_has_just_come_back_by_himself_is_not_asked_for_another_path(world: World) -> None:
    """F-10"""
    # Seen with Chromium in another network: it resumes at once, and its media finds the new address seconds later.
    alice = world.join("alice")
    world.lose_signal(alice)
    world.resume(alice)
    alice.forget()
    world.unanswered(alice.record.receiving.transport)
    assert not alice.heard("leave")
    assert alice.session is not None
    world.wait(world.settings.asked_again_seconds + 1)
    world.unanswered(alice.record.receiving.transport)
    assert last_leave(alice).action == ACTIONS.RESUME


def test_who_does_not_answer_and_does_not_come_back_is_gone(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    world.unanswered(alice.record.receiving.transport)
    world.wait(12)
    world.transport(alice.record.publisher.transport, TransportStatus.FAILED)
    assert alice.sid in bob.people, "he may never have heard it"
    world.wait(world.settings.media_absence_seconds + 0.1)
    assert alice.sid not in bob.people


def test_media_that_fails_after_the_signal_is_the_end(world: World) -> None:
    alice = world.join("alice")
    transport = alice.record.publisher.transport
    world.lose_signal(alice)
    world.wait(world.settings.media_absence_seconds + 0.1)
    world.transport(transport, TransportStatus.FAILED)
    assert not world.room.core.participants


def test_who_loses_signal_and_media_with_his_network_has_time_to_come_back(world: World) -> None:
    """F-09: seen with Chromium in another network; it notices by its own ping, as late as the server does."""
    alice, bob = world.join("alice"), world.join("bob")
    transport = alice.record.publisher.transport
    world.lose_signal(alice)
    world.wait(1)
    world.transport(transport, TransportStatus.FAILED)
    world.wait(world.settings.media_absence_seconds - 1)
    assert alice.sid in bob.people
    world.resume(alice)
    world.transport(transport, TransportStatus.CONNECTED)
    world.wait(world.settings.connect_seconds + 1)
    assert alice.sid in bob.people


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("consent_lost", REASONS.CONNECTION_TIMEOUT),
        ("data_lost", REASONS.CONNECTION_TIMEOUT),
        ("closed_by_peer", REASONS.CLIENT_INITIATED),
    ],
)
def test_a_transport_that_the_worker_has_closed_is_the_end(world: World, reason: str, expected: int) -> None:
    alice = world.join("alice")
    world.transport(alice.record.publisher.transport, TransportStatus.CLOSED, reason)
    assert (last_leave(alice).reason, last_leave(alice).action) == (expected, ACTIONS.RECONNECT)
    assert not world.room.core.participants


# --- simulate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["node_failure", "migration"])
def test_simulated_failures_drop_the_participant_and_a_resume_finds_nothing(world: World, scenario: str) -> None:
    alice = world.join("alice")
    given: dict[str, Any] = {scenario: True}
    alice.say(simulate=rtc.SimulateScenario(**given))
    assert alice.session is None
    assert not alice.heard("leave")
    world.resume(alice)
    assert last_leave(alice).action == ACTIONS.RECONNECT


def test_simulated_server_leave_says_shutdown(world: World) -> None:
    alice = world.join("alice")
    alice.say(simulate=rtc.SimulateScenario(server_leave=True))
    assert (last_leave(alice).reason, last_leave(alice).action) == (REASONS.SERVER_SHUTDOWN, ACTIONS.DISCONNECT)


def test_simulated_speaking_is_told_to_all(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    alice.say(simulate=rtc.SimulateScenario(speaker_update=3))
    assert bob.speaking == {alice.sid}
    # Whoever comes is told too, and everybody when it is over.
    carol = world.join("carol")
    assert carol.speaking == {alice.sid}
    world.wait(2.9)
    assert bob.speaking == {alice.sid}
    world.wait(0.2)
    assert bob.speaking == carol.speaking == set()


@pytest.mark.parametrize("said", [2**31 - 1, -1])
def test_nobody_seems_to_speak_for_ever(world: World, said: int) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    alice.say(simulate=rtc.SimulateScenario(speaker_update=said))
    world.wait(60)
    assert bob.speaking == set()


def test_of_the_hidden_nobody_is_told_that_they_speak(world: World) -> None:
    bob = world.join("bob")
    ghost = world.join("ghost", hidden=True)
    ghost.say(simulate=rtc.SimulateScenario(speaker_update=3))
    assert not bob.heard("speakers_changed")
    assert not world.room.core.speaking


def test_a_switch_to_tcp_holds_for_the_next_connection_of_that_identity(world: World) -> None:
    alice = world.join("alice")
    alice.say(simulate=rtc.SimulateScenario(switch_candidate_protocol=rtc.CandidateProtocol.TCP))
    again, bob = world.join("alice"), world.join("bob")

    def protocols(client: Client) -> set[str]:
        sections = sdp.parse(client.heard("answer")[0].sdp).media
        return {candidate.protocol for section in sections for candidate in section.candidates}

    assert protocols(again) == {"tcp"}
    assert protocols(bob) == {"udp", "tcp"}
    world.seconds += 2
    assert protocols(world.join("alice")) == {"udp", "tcp"}


@pytest.mark.parametrize("single", [True, False])
def test_a_subscriber_s_bandwidth_can_be_bounded_and_let_go(world: World, single: bool) -> None:
    alice = world.join("alice", single=single)
    for said, bound in ((300_000, 300_000), (2**62, 2**40), (0, None), (-1, None)):
        alice.say(simulate=rtc.SimulateScenario(subscriber_bandwidth=said))
        told = border.BoundDownlink(transport=alice.record.receiving.transport, max_bps=bound)
        assert world.worker.log[-1] == told


def test_a_resume_can_be_made_to_fail_once(world: World) -> None:
    alice = world.join("alice")
    alice.say(simulate=rtc.SimulateScenario(disconnect_signal_on_resume=True))
    world.lose_signal(alice)
    alice.forget()
    world.resume(alice)
    assert alice.order() == ["reconnect"]
    assert alice.session is None
    world.resume(alice)
    assert alice.order()[1:3] == ["reconnect", "update"]
    assert alice.session is not None


def test_who_resumes_is_not_told_that_one_left_who_is_here_afresh(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    again = world.join("alice")
    world.lose_signal(bob)
    bob.forget()
    world.resume(bob)
    told = [info for update in bob.heard("update") for info in update.participants]
    assert alice.sid not in {info.sid for info in told}
    assert set(bob.people) == {again.sid, bob.sid}


def test_who_missed_that_somebody_came_afresh_believes_it_after_a_resume(world: World) -> None:
    world.join("alice")
    bob = world.join("bob")
    world.lose_signal(bob)
    again = world.join("alice")
    world.resume(bob)
    assert set(bob.people) == {again.sid, bob.sid}


# --- tokens from before ---------------------------------------------------------------------------------------------

NOW = UNIX_MS / 1000


def removed(world: World, **grants: Any) -> Client:
    client = world.join("alice", **grants)
    world.apply(world.room.remove("alice", world.now))
    return client


@pytest.mark.parametrize("issued_at", [0.0, NOW - 300, NOW])
def test_who_was_removed_does_not_come_back_by_a_token_from_before(world: World, issued_at: float) -> None:
    """S-62"""
    client = removed(world, issued_at=issued_at)
    with pytest.raises(Unauthenticated, match="before this participant was removed"):
        check_place(world.room.core, client.grants, world.now)
    with pytest.raises(Unauthenticated, match="before this participant was removed"):
        world.enter(client)


@pytest.mark.parametrize(
    ("issued_at", "opens"),
    [(NOW - 1, False), (NOW, True), (NOW + 0.2, False), (NOW + 0.4, True), (NOW + 1, True)],
)
def test_a_token_of_the_second_of_a_removal_is_new_unless_it_says_the_moment(
    world: World, issued_at: float, opens: bool
) -> None:
    # Applications write whole seconds, so one made out at .55 says 0; tokens that were refreshed say the moment.
    world.join("alice", issued_at=NOW - 300)
    world.wait(0.3)
    world.apply(world.room.remove("alice", world.now))
    if opens:
        assert world.join("alice", issued_at=issued_at).sid in world.room.core.participants
    else:
        with pytest.raises(Unauthenticated, match="before this participant was removed"):
            world.join("alice", issued_at=issued_at)


def test_who_is_removed_in_the_second_of_his_token_does_not_come_back_by_it(world: World) -> None:
    """S-62"""
    client = world.join("alice", issued_at=NOW)
    world.wait(0.3)
    world.apply(world.room.remove("alice", world.now))
    with pytest.raises(Unauthenticated):
        world.enter(client)
    assert world.join("alice", issued_at=NOW + 1).sid in world.room.core.participants


def test_a_token_made_out_in_the_second_of_a_changed_permission_is_not_cut_down(world: World) -> None:
    alice = world.join("alice", issued_at=NOW - 300)
    world.wait(0.3)
    lowered = without_permission(alice.grants, can_publish=False)
    change = api.UpdateParticipantRequest(room="lobby", identity="alice", permission=lowered)
    world.apply(world.room.update_participant(change, world.now))
    assert not world.enter(alice).record.grants.can_publish
    world.wait(2)
    assert world.enter(world.client("alice", issued_at=NOW)).record.grants.can_publish


def test_a_token_made_out_after_the_removal_opens_the_room_again(world: World) -> None:
    removed(world, issued_at=NOW - 300)
    assert world.join("alice", issued_at=world.now.unix_ms / 1000 + 1).sid in world.room.core.participants
    with pytest.raises(Unauthenticated):
        world.enter(world.client("alice", issued_at=NOW - 300))


def test_a_token_that_does_not_say_when_it_was_made_out_is_told_by_its_expiry(world: World) -> None:
    client = removed(world, issued_at=0.0, expires_at=NOW + 3600)
    with pytest.raises(Unauthenticated):
        world.enter(client)
    fresh = world.enter(world.client("alice", issued_at=0.0, expires_at=NOW + 3601))
    assert fresh.sid in world.room.core.participants


def test_a_removal_may_say_which_tokens_it_revokes(world: World) -> None:
    world.join("alice", issued_at=NOW - 100)
    world.apply(world.room.remove("alice", world.now, revoked_before=NOW - 200))
    assert world.join("alice", issued_at=NOW - 100).sid in world.room.core.participants


def test_tokens_outlive_a_removal_where_that_is_set() -> None:
    world = World(settings=RoomSettings(removal_revokes_tokens=False))
    assert world.enter(removed(world, issued_at=NOW - 300)).sid in world.room.core.participants


def test_the_calls_system_decides_about_its_own(world: World) -> None:
    assert world.enter(removed(world, issued_at=0.0, managed=True)).sid in world.room.core.participants


def test_an_older_token_brings_back_no_permission_that_was_taken(world: World) -> None:
    """S-62"""
    alice = world.join("alice", issued_at=NOW - 300)
    lowered = models.ParticipantPermission(can_subscribe=True, can_publish_data=True, can_update_metadata=True)
    change = api.UpdateParticipantRequest(room="lobby", identity="alice", permission=lowered)
    world.apply(world.room.update_participant(change, world.now))
    again = world.enter(alice).record.grants
    assert (again.can_publish, again.can_subscribe, again.can_update_own_metadata) == (False, True, False)
    world.wait(2)
    fresh = world.enter(world.client("alice", issued_at=world.now.unix_ms / 1000 + 1))
    assert fresh.record.grants.can_publish


def test_the_oldest_decision_gives_way() -> None:
    world = World(settings=RoomSettings(cutoffs_max=10))
    for number in range(11):
        world.join(f"p{number}", issued_at=1.0)
        world.apply(world.room.remove(f"p{number}", world.now))
    assert list(world.room.core.record.cutoffs) == [f"p{number}" for number in range(1, 11)]

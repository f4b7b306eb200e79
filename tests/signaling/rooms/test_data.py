"""Data: the true sender stands in it, it goes to whom it names and is replayed; data tracks; the server's calls."""

from __future__ import annotations

from typing import Any

import pytest
from livekit.protocol import models, rtc
from livekit.protocol import room as api
from livekit.protocol.metrics import MetricsBatch

from sfu import border
from signaling.errors import InvalidRequest, NotFound, TooLarge
from signaling.rooms.data import Kept, ReliableCache, RpcCode
from signaling.rooms.effects import Dropped, RpcEnded
from signaling.rooms.settings import RoomSettings
from tests.signaling.rooms.world import Client, World, last_leave, user_packet, without_permission

RELIABLE, LOSSY = models.DataPacket.Kind.RELIABLE, models.DataPacket.Kind.LOSSY
RESPONSES = rtc.RequestResponse.Reason


def receivers(world: World, at: int = -1) -> set[str]:
    """Identities to whom a message went."""
    people = world.room.core.by_transport
    return {people[number].identity for number in world.worker.data[at].transports}


def packet(world: World, at: int = -1) -> models.DataPacket:
    return models.DataPacket.FromString(world.worker.data[at].payload)


# --- packets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "kind"), [("_reliable", RELIABLE), ("_lossy", LOSSY)])
@pytest.mark.parametrize("single", [True, False])
def test_a_packet_goes_to_everybody_else_on_the_same_channel(world: World, label: str, kind: int, single: bool) -> None:
    alice = world.join("alice", single=single)
    alice.publish_audio()
    world.join("bob", single=not single)
    world.join("carol")
    world.data(alice, user_packet(b"hello"), label)
    assert receivers(world) == {"bob", "carol"}
    assert world.worker.data[-1].label == label
    assert (packet(world).user.payload, packet(world).kind) == (b"hello", kind)


def test_a_packet_for_many_is_sent_with_several_commands(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signaling.rooms.data._AT_ONCE", 2)
    alice, *others = (world.join(name) for name in ("alice", "bob", "carol", "dave", "erin", "frank"))
    world.worker.data.clear()
    world.data(alice, user_packet(b"hello"))
    assert [len(sent.transports) for sent in world.worker.data] == [2, 2, 1]
    assert set.union(*(receivers(world, at) for at in range(3))) == {other.identity for other in others}
    assert {packet(world, at).user.payload for at in range(3)} == {b"hello"}


_FORGED: dict[str, Any] = {
    "user": models.UserPacket(payload=b"x", participant_sid="PA_eve", participant_identity="eve"),
    "chat_message": models.ChatMessage(id="1", message="x"),
    "transcription": models.Transcription(transcribed_participant_identity="eve"),
    "sip_dtmf": models.SipDTMF(digit="1"),
    "metrics": MetricsBatch(timestamp_ms=1),
    "rpc_request": models.RpcRequest(id="1", method="m"),
    "rpc_ack": models.RpcAck(request_id="1"),
    "rpc_response": models.RpcResponse(request_id="1", payload="x"),
    "stream_header": models.DataStream.Header(stream_id="1"),
    "stream_chunk": models.DataStream.Chunk(stream_id="1", content=b"x"),
    "stream_trailer": models.DataStream.Trailer(stream_id="1"),
    "encrypted_packet": models.EncryptedPacket(encrypted_value=b"x"),
}


@pytest.mark.parametrize("value", list(_FORGED))
def test_the_sender_stands_in_it_whatever_it_says(world: World, value: str) -> None:
    """S-46, S-47"""
    alice = world.join("alice")
    world.join("bob")
    forged = models.DataPacket(
        participant_sid="PA_eve", participant_identity="eve", kind=LOSSY, **{value: _FORGED[value]}
    )
    world.data(alice, forged)
    passed = packet(world)
    assert (passed.participant_sid, passed.participant_identity) == (alice.sid, "alice")
    assert passed.kind == RELIABLE
    assert passed.WhichOneof("value") == value
    if value == "user":
        assert (passed.user.participant_sid, passed.user.participant_identity) == (alice.sid, "alice")
        assert passed.user.payload == b"x"
    else:
        assert getattr(passed, value) == _FORGED[value]


@pytest.mark.parametrize(
    ("payload", "label", "reason"),
    [
        (b"\xff", "_reliable", "data_malformed"),
        (b"", "_reliable", "data_kind_unknown"),
        (models.DataPacket(speaker=models.ActiveSpeakerUpdate()).SerializeToString(), "_lossy", "data_kind_unknown"),
        (user_packet(b"x").SerializeToString(), "chat", "data_channel_unknown"),
    ],
)
def test_what_is_no_data_is_dropped_and_counted(world: World, payload: bytes, label: str, reason: str) -> None:
    alice = world.join("alice")
    world.join("bob")
    world.event(border.DataMessage(transport=alice.record.publisher.transport, label=label, payload=payload))
    world.event(border.DataMessage(transport=1, label=label, payload=payload))
    assert world.effects[-1] == Dropped(reason)
    assert not world.worker.data


def test_who_may_not_publish_data_sends_none(world: World) -> None:
    alice = world.join("alice", can_publish_data=False)
    world.join("bob")
    world.data(alice, user_packet(b"x"))
    assert world.effects[-1] == Dropped("data_not_allowed")
    assert not world.worker.data


@pytest.mark.parametrize("single", [True, False])
def test_who_loses_his_reliable_channel_comes_back_afresh(world: World, single: bool) -> None:
    """S-29"""
    alice, bob = world.join("alice", single=single), world.join("bob")
    transport = alice.record.receiving.transport
    world.event(border.DataChannelStalled(transport=transport, label="_lossy"))
    world.event(border.DataChannelStalled(transport=1, label="_reliable"))
    assert not alice.heard("leave")
    world.event(border.DataChannelStalled(transport=transport, label="_reliable"))
    leave = last_leave(alice)
    assert (leave.reason, leave.action) == (models.DisconnectReason.STATE_MISMATCH, rtc.LeaveRequest.Action.RECONNECT)
    assert transport not in world.worker.transports
    assert alice.sid not in bob.people
    # What is said meanwhile is not sent into the void: he gets it when he is back.
    again = world.join("alice", single=single)
    world.data(bob, user_packet(b"x"))
    assert receivers(world) == {"alice"}
    assert not again.heard("leave")


# --- for whom -------------------------------------------------------------------------------------------------------


def test_a_packet_may_be_for_some(world: World) -> None:
    """S-48"""
    alice, bob, carol = world.join("alice"), world.join("bob"), world.join("carol")
    cases = [
        (user_packet(b"x", destination_identities=["bob", "nobody"]), {"bob"}),
        (models.DataPacket(user=models.UserPacket(destination_identities=["carol"])), {"carol"}),
        (models.DataPacket(user=models.UserPacket(destination_sids=[bob.sid, carol.sid])), {"bob", "carol"}),
        (models.DataPacket(user=models.UserPacket(destination_sids=[bob.sid, "PA_none"])), {"bob"}),
        (user_packet(b"x", destination_identities=["alice", "bob"]), {"bob"}),
    ]
    for number, (sent, expected) in enumerate(cases):
        world.data(alice, sent)
        assert receivers(world) == expected
        assert len(world.worker.data) == number + 1


@pytest.mark.parametrize(
    "sent",
    [
        user_packet(b"x", destination_identities=["nobody"]),
        user_packet(b"x", destination_identities=["alice"]),
        models.DataPacket(user=models.UserPacket(destination_sids=["PA_none"])),
    ],
)
def test_a_packet_for_those_who_are_gone_is_for_nobody(world: World, sent: models.DataPacket) -> None:
    alice = world.join("alice")
    world.join("bob")
    world.data(alice, sent)
    assert not world.worker.data


# --- sequences and replay -------------------------------------------------------------------------------------------


def test_repeated_reliable_packets_are_dropped_and_numbers_pass_unchanged(world: World) -> None:
    alice = world.join("alice")
    world.join("bob")
    for number in (1, 2, 2, 1, 5, 3):
        world.data(alice, user_packet(b"x", sequence=number))
    assert [models.DataPacket.FromString(sent.payload).sequence for sent in world.worker.data] == [1, 2, 5]
    assert [effect.reason for effect in world.of(Dropped)] == ["data_repeated"] * 3
    assert alice.record.last_sequence == 5


def test_each_sender_has_his_own_numbers_and_lossy_packets_none(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    for client in (alice, bob):
        world.data(client, user_packet(b"x", sequence=1))
        world.data(client, user_packet(b"x", sequence=1), "_lossy")
    world.data(alice, user_packet(b"x"))
    assert len(world.worker.data) == 5


def test_a_resuming_client_is_told_what_the_server_saw_of_it(world: World) -> None:
    alice = world.join("alice")
    world.data(alice, user_packet(b"x", sequence=7))
    world.lose_signal(alice)
    alice.forget()
    world.resume(alice)
    assert alice.heard("reconnect")[0].last_message_seq == 7


def test_a_resuming_client_gets_what_it_missed_of_each_sender(world: World) -> None:
    alice, bob, carol = world.join("alice"), world.join("bob"), world.join("carol")
    for number in (1, 2, 3):
        world.data(alice, user_packet(b"a%d" % number, sequence=number))
        world.data(carol, user_packet(b"c%d" % number, sequence=number))
    world.data(alice, user_packet(b"not for bob", sequence=4, destination_identities=["carol"]))
    world.data(bob, user_packet(b"his own", sequence=1))
    world.worker.data.clear()
    seen = [rtc.DataChannelReceiveState(publisher_sid=alice.sid, last_seq=1)]
    world.resume(bob, sync_state=rtc.SyncState(datachannel_receive_states=seen))
    replayed = [models.DataPacket.FromString(sent.payload) for sent in world.worker.data]
    assert [(one.participant_sid, one.user.payload) for one in replayed] == [(alice.sid, b"a2"), (alice.sid, b"a3")]
    assert {sent.transports for sent in world.worker.data} == {(bob.record.receiving.transport,)}


def test_a_newcomer_gets_what_was_said_between_his_join_and_his_channel(world: World) -> None:
    alice = world.join("alice")
    world.data(alice, user_packet(b"before", sequence=1))
    world.seconds += 1
    bob = world.join("bob", connected=False)
    world.data(alice, user_packet(b"meanwhile", sequence=2))
    world.data(alice, user_packet(b"lost", sequence=0), "_lossy")
    world.worker.data.clear()
    world.connect(bob)
    assert [models.DataPacket.FromString(sent.payload).user.payload for sent in world.worker.data] == [b"meanwhile"]
    world.connect(bob)
    assert len(world.worker.data) == 1


def test_the_cache_forgets_by_age_and_by_size() -> None:
    cache = ReliableCache(max_seconds=10, max_bytes=100)
    for at in (0.0, 5.0, 11.0):
        cache.keep(Kept(at, "PA_1", int(at), None, b"x" * 10))
    assert [one.at for one in cache.kept] == [5.0, 11.0]
    cache.keep(Kept(12.0, "PA_1", 12, None, b"x" * 85))
    assert [one.at for one in cache.kept] == [11.0, 12.0]
    cache.keep(Kept(13.0, "PA_1", 13, None, b"x" * 101))
    assert (list(cache.kept), cache.size_bytes) == ([], 0)


def test_the_cache_is_bounded_by_the_settings() -> None:
    world = World(RoomSettings(reliable_cache_max_bytes=65_536))
    alice, bob = world.join("alice"), world.join("bob")
    for number in range(1, 11):
        world.data(alice, user_packet(b"x" * 15_000, sequence=number))
    world.worker.data.clear()
    seen = [rtc.DataChannelReceiveState(publisher_sid=alice.sid, last_seq=0)]
    world.resume(bob, sync_state=rtc.SyncState(datachannel_receive_states=seen))
    assert [models.DataPacket.FromString(sent.payload).sequence for sent in world.worker.data] == [7, 8, 9, 10]


# --- from the server ------------------------------------------------------------------------------------------------


def test_data_of_the_server_has_no_participant(world: World) -> None:
    world.join("alice")
    bob = world.join("bob")
    request = api.SendDataRequest(room="lobby", data=b"x", kind=LOSSY, topic="t", nonce=b"n")
    world.apply(world.room.send_data(request, world.now))
    assert (receivers(world), world.worker.data[-1].label) == ({"alice", "bob"}, "_lossy")
    passed = packet(world)
    assert (passed.user.payload, passed.user.topic, passed.user.nonce) == (b"x", "t", b"n")
    assert (passed.participant_sid, passed.participant_identity) == ("", "")
    for named in (
        api.SendDataRequest(data=b"x", destination_identities=["bob"]),
        api.SendDataRequest(data=b"x", destination_sids=[bob.sid]),
    ):
        world.apply(world.room.send_data(named, world.now))
        assert (receivers(world), world.worker.data[-1].label) == ({"bob"}, "_reliable")


def call(world: World, request_id: str = "call-1", **more: Any) -> None:
    request = api.PerformRpcRequest(room="lobby", destination_identity="alice", method="m", payload="p", **more)
    world.apply(world.room.call(request, request_id, world.now))


def test_a_call_of_the_server_reaches_the_callee_and_its_answer_ends_there(world: World) -> None:
    alice = world.join("alice")
    world.join("bob")
    call(world, response_timeout_ms=5_000)
    assert receivers(world) == {"alice"}
    asked = packet(world).rpc_request
    assert (asked.id, asked.method, asked.payload, asked.response_timeout_ms, asked.version) == (
        "call-1",
        "m",
        "p",
        5_000,
        1,
    )
    world.worker.data.clear()
    answer = models.RpcResponse(request_id="call-1", payload="done")
    world.data(alice, models.DataPacket(rpc_response=answer, destination_identities=[""]))
    assert world.effects[-1] == RpcEnded("call-1", "done", "")
    assert not world.worker.data
    world.wait(60)
    assert len(world.of(RpcEnded)) == 1


def test_an_error_and_silence_end_a_call_too(world: World) -> None:
    alice = world.join("alice")
    call(world)
    error = models.RpcError(code=1400, message="no such method")
    world.data(alice, models.DataPacket(rpc_response=models.RpcResponse(request_id="call-1", error=error)))
    assert world.effects[-1] == RpcEnded("call-1", "", "no such method", RpcCode.UNSUPPORTED_METHOD)
    call(world, "call-2")
    world.wait(9.9)
    assert len(world.of(RpcEnded)) == 1
    world.wait(0.2)
    assert world.effects[-1] == RpcEnded("call-2", "", "response timeout", RpcCode.RESPONSE_TIMEOUT)


def test_nobody_else_can_answer_a_call_of_the_server(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    call(world)
    world.data(bob, models.DataPacket(rpc_response=models.RpcResponse(request_id="call-1", payload="forged")))
    assert not world.of(RpcEnded)
    # An answer to a participant of the same id is his.
    to_bob = models.DataPacket(rpc_response=models.RpcResponse(request_id="call-1"), destination_identities=["bob"])
    world.data(alice, to_bob)
    assert not world.of(RpcEnded)
    assert receivers(world) == {"bob"}


def test_calls_need_a_callee_and_a_method(world: World) -> None:
    world.join("alice")
    with pytest.raises(NotFound):
        world.room.call(api.PerformRpcRequest(destination_identity="nobody", method="m"), "1", world.now)
    with pytest.raises(InvalidRequest, match="needs a method"):
        world.room.call(api.PerformRpcRequest(destination_identity="alice"), "1", world.now)
    request = api.PerformRpcRequest(destination_identity="alice", method="m", payload="x" * 15_361)
    with pytest.raises(TooLarge, match="The payload has 15361 bytes; at most 15360"):
        world.room.call(request, "1", world.now)
    assert not world.room.core.server_calls
    request.payload = "x" * 15_360
    world.apply(world.room.call(request, "1", world.now))
    assert packet(world).rpc_request.payload == request.payload


# --- data tracks ----------------------------------------------------------------------------------------------------


def publish(client: Client, handle: int = 1, name: str = "d") -> str:
    client.say(publish_data_track_request=rtc.PublishDataTrackRequest(pub_handle=handle, name=name))
    info = client.heard("publish_data_track_response")[-1].info
    assert (info.pub_handle, info.name) == (handle, name)
    return str(info.sid)


@pytest.mark.parametrize("single", [True, False])
def test_a_data_track_is_told_and_forwarded_under_a_handle_of_each_subscriber(world: World, single: bool) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=single)
    first, second = publish(alice, 5, "one"), publish(alice, 9, "two")
    told = bob.people[alice.sid].data_tracks
    assert [track.sid for track in told] == [first, second]
    assert not any(track.HasField("frame_encoding") or track.HasField("schema") for track in told)
    assert bob.handles == {1: first, 2: second}
    entry = bob.heard("data_track_subscriber_handles")[-1].sub_handles[1]
    assert (entry.publisher_identity, entry.publisher_sid) == ("alice", alice.sid)
    assert [(one.transport, one.pub_handle) for one in world.worker.data_uptracks.values()] == [
        (alice.record.publisher.transport, 5),
        (alice.record.publisher.transport, 9),
    ]
    assert set(world.worker.data_downtracks.values()) == {1, 2}


def test_a_data_track_announced_before_the_connection_begins_with_it(world: World) -> None:
    alice, bob = world.join("alice", single=False), world.join("bob")
    sid = publish(alice)
    assert not world.worker.data_uptracks
    assert bob.handles == {1: sid}
    alice.offer()
    world.settle()
    assert len(world.worker.data_uptracks) == len(world.worker.data_downtracks) == 1


def test_a_newcomer_gets_the_data_tracks_there_are(world: World) -> None:
    alice = world.join("alice")
    sid = publish(alice)
    bob, carol = world.join("bob"), world.join("carol", single=False)
    assert bob.handles == carol.handles == {1: sid}
    assert len(world.worker.data_downtracks) == 2


def test_data_tracks_are_subscribed_to_as_wished(world: World) -> None:
    alice = world.join("alice")
    sid = publish(alice)
    bob = world.enter(world.client("bob"), auto_subscribe_data=False)
    assert not world.worker.data_downtracks
    for subscribe in (True, False, False):
        update = rtc.UpdateDataSubscription.Update(track_sid=sid, subscribe=subscribe)
        bob.say(update_data_subscription=rtc.UpdateDataSubscription(updates=[update]))
        assert len(world.worker.data_downtracks) == len(bob.handles) == subscribe
    unknown = rtc.UpdateDataSubscription.Update(track_sid="DTR_none", subscribe=True)
    bob.say(update_data_subscription=rtc.UpdateDataSubscription(updates=[unknown]))
    assert bob.record.data_wishes.keys() == {sid}


def test_handles_are_not_used_twice_at_a_time(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    publish(alice, 1, "kept")
    bob.record.next_data_handle = 0xFFFF
    for number in range(2, 5):
        publish(alice, number, f"d{number}")
    assert sorted(bob.handles) == [1, 2, 3, 0xFFFF]


def test_a_data_track_ends_for_all(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sid = publish(alice)
    alice.say(unpublish_data_track_request=rtc.UnpublishDataTrackRequest(pub_handle=1))
    assert alice.heard("unpublish_data_track_response")[-1].info.sid == sid
    assert bob.handles == {}
    assert not bob.people[alice.sid].data_tracks
    assert not world.worker.data_uptracks
    publish(alice)
    alice.say(leave=rtc.LeaveRequest())
    assert bob.handles == {}
    assert not world.worker.data_uptracks


@pytest.mark.parametrize(
    ("handle", "name", "reason"),
    [
        (0, "x", RESPONSES.INVALID_HANDLE),
        (65_536, "x", RESPONSES.INVALID_HANDLE),
        (1, "x", RESPONSES.DUPLICATE_HANDLE),
        (2, "taken", RESPONSES.DUPLICATE_NAME),
        (2, "", RESPONSES.INVALID_NAME),
        (2, "x" * 257, RESPONSES.INVALID_NAME),
    ],
)
def test_a_refused_data_track_is_answered_with_the_request(world: World, handle: int, name: str, reason: int) -> None:
    alice = world.join("alice")
    publish(alice, 1, "taken")
    request = rtc.PublishDataTrackRequest(pub_handle=handle, name=name)
    alice.say(publish_data_track_request=request)
    response = alice.heard("request_response")[-1]
    assert (response.reason, response.publish_data_track) == (reason, request)
    assert len(alice.record.data_tracks) == 1


def test_data_tracks_need_the_right_and_are_counted() -> None:
    world = World(RoomSettings(data_tracks_max=1))
    alice, bob = world.join("alice"), world.join("bob", can_publish_data=False)
    publish(alice)
    for client, reason in ((alice, RESPONSES.LIMIT_EXCEEDED), (bob, RESPONSES.NOT_ALLOWED)):
        client.say(publish_data_track_request=rtc.PublishDataTrackRequest(pub_handle=7, name="n"))
        assert client.heard("request_response")[-1].reason == reason
    bob.say(unpublish_data_track_request=rtc.UnpublishDataTrackRequest(pub_handle=7))
    assert bob.heard("request_response")[-1].reason == RESPONSES.NOT_FOUND


def test_the_right_to_publish_data_taken_away_ends_data_tracks(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    publish(alice)
    permission = without_permission(alice.grants, can_publish_data=False)
    request = api.UpdateParticipantRequest(identity="alice", permission=permission)
    world.apply(world.room.update_participant(request, world.now))
    assert bob.handles == {}
    assert not bob.people[alice.sid].data_tracks
    assert not world.worker.data_uptracks


def test_data_tracks_that_a_resuming_client_still_has_are_published_again(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    world.lose_signal(alice)
    info = models.DataTrackInfo(pub_handle=3, name="again")
    info.frame_encoding.custom = "x-frames"
    info.schema.name = "positions"
    state = rtc.SyncState(publish_data_tracks=[rtc.PublishDataTrackResponse(info=info)])
    world.resume(alice, sync_state=state)
    (track,) = bob.people[alice.sid].data_tracks
    assert (track.name, track.frame_encoding.custom, track.schema.name) == ("again", "x-frames", "positions")
    world.resume(alice, sync_state=state)
    assert len(alice.record.data_tracks) == 1


def test_many_data_tracks_are_told_together(world: World) -> None:
    alice, bob, carol = world.join("alice"), world.join("bob"), world.join("carol", can_publish_data=False)
    bob.forget()
    infos = [models.DataTrackInfo(pub_handle=number, name=f"d{number}") for number in range(1, 100)]
    state = rtc.SyncState(publish_data_tracks=[rtc.PublishDataTrackResponse(info=info) for info in infos])
    alice.say(sync_state=state)
    assert len(alice.heard("publish_data_track_response")) == len(bob.handles) == world.settings.data_tracks_max
    assert bob.order() == ["update", "data_track_subscriber_handles"]
    carol.forget()
    sids = [track.sid for track in bob.people[alice.sid].data_tracks]
    updates = [rtc.UpdateDataSubscription.Update(track_sid=sid, subscribe=False) for sid in sids]
    carol.say(update_data_subscription=rtc.UpdateDataSubscription(updates=updates))
    assert carol.order() == ["data_track_subscriber_handles"]
    bob.forget()
    alice.say(leave=rtc.LeaveRequest())
    assert bob.order() == ["update", "data_track_subscriber_handles"]
    assert not bob.handles

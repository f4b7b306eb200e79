"""What a worker keeps for a signaling process that dies: the same room comes out as went in, and goes on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from livekit.protocol import rtc

from sfu import border
from sfu.border import IceCredentials, TransportStatus
from sfu.node import Unshown
from signaling.rooms.memory import Unpacker, pack
from tests.signaling.rooms.world import SCREEN, Client, World, last_leave, unpacked, user_packet

UNPACKER = Unpacker(lambda: IceCredentials(ufrag="again", pwd="a" * 24))


def busy_world() -> tuple[World, Client, Client]:
    world = World()
    alice = world.join("alice", can_update_own_metadata=True, attributes={"a": "1"}, can_publish_sources=("camera",))
    bob = world.join("bob", single=False)
    alice.publish_video()
    bob.publish_audio()
    alice.say(publish_data_track_request=rtc.PublishDataTrackRequest(pub_handle=3, name="d"))
    bob.say(track_setting=rtc.UpdateTrackSettings(track_sids=[alice.track("cam").sid], width=100))
    alice.say(subscription_permission=rtc.SubscriptionPermission(all_participants=True))
    alice.send_on("parked", "audio")
    world.data(alice, user_packet(b"x", sequence=4))
    return world, alice, bob


def plain(value: Any) -> Any:
    """Records as what they are packed to, to be compared."""
    return msgspec.msgpack.decode(unpacked(pack(value)))


def test_a_record_is_the_same_after_packing() -> None:
    world, _, _ = busy_world()
    for participant in world.room.core.participants.values():
        again = UNPACKER.participant(pack(participant))
        assert plain(again) == plain(participant)
        assert again.info() == participant.info()
        assert again.grants == participant.grants
        assert again.subscriptions == participant.subscriptions
        assert again.parked == participant.parked
        assert again.publishing.state == participant.publishing.state
    assert UNPACKER.room(pack(world.record)) == world.record


@pytest.mark.parametrize("single", [True, False])
def test_a_record_of_many_copies_is_short_and_the_same_after_packing(single: bool) -> None:
    world = World()
    bob = world.join("bob", single=single)
    for number in range(8):
        alice = world.join(f"alice-{number}")
        alice.publish_audio()
        alice.publish_video()
    bob.answers_by_itself = False
    alice.publish_video("screen", source=SCREEN)
    packed = pack(bob.record)
    assert len(packed) < len(unpacked(packed)) / 5
    again = UNPACKER.participant(packed)
    assert plain(again) == plain(bob.record)
    for broken in (packed[:-5], packed[:1], packed[:20] + b"\x00" + packed[21:]):
        with pytest.raises(msgspec.MsgspecError):
            UNPACKER.participant(broken)


def test_what_cannot_be_read_is_said() -> None:
    world, _, _ = busy_world()
    packed = pack(next(iter(world.room.core.participants.values())))
    for broken in (b"", b"\xc1", packed[:-5], b"\x80", pack(world.record)):
        with pytest.raises(msgspec.MsgspecError):
            UNPACKER.participant(broken)


def test_a_room_goes_on_after_a_restart() -> None:
    world, alice, bob = busy_world()
    before = {one.identity: one.info() for one in world.room.core.participants.values()}
    commands = len(world.worker.log)
    world.restart()
    world.apply(world.room.attach(world.snapshot(), frozenset(), world.now))
    assert len(world.worker.log) == commands
    assert {one.identity: one.info() for one in world.room.core.participants.values()} == before
    world.resume(alice)
    world.resume(bob)
    assert set(alice.people) == set(bob.people) == {alice.sid, bob.sid}
    # Both negotiations go on where they were.
    third = alice.publish_video("second")
    alice.stop_sending("cam")
    assert set(bob.record.subscriptions) == {third.sid}
    (copy,) = [one for one in world.worker.downtracks.values() if one.transport == bob.record.receiving.transport]
    assert bob.heard("offer")[-1].mid_to_track_id[copy.mid] == third.sid
    world.data(alice, user_packet(b"old", sequence=4))
    assert alice.record.last_sequence == 4


def test_who_does_not_come_back_after_a_restart_goes_in_time() -> None:
    world, _, bob = busy_world()
    world.restart()
    world.apply(world.room.attach(world.snapshot(), frozenset(), world.now))
    world.resume(bob)
    world.wait(world.settings.signal_absence_seconds + 1)
    assert set(bob.people) == {bob.sid}


def test_whose_media_died_meanwhile_is_gone_at_once() -> None:
    world, alice, bob = busy_world()
    world.restart()
    snapshot = world.snapshot()
    gone = alice.record.publisher.transport
    world.worker.close(gone)
    left = tuple(summary for summary in snapshot.transports if summary.transport != gone)
    world.apply(world.room.attach(msgspec.structs.replace(snapshot, transports=left), frozenset(), world.now))
    assert alice.sid not in world.room.core.participants
    world.resume(bob)
    assert set(bob.people) == {bob.sid}


def test_one_who_was_still_connecting_has_his_time() -> None:
    world = World()
    alice = world.join("alice", connected=False)
    world.restart()
    world.apply(world.room.attach(world.snapshot(alice=TransportStatus.CONNECTING), frozenset(), world.now))
    assert alice.sid in world.room.core.participants
    world.wait(world.settings.connect_seconds + 1)
    assert not world.room.core.participants


def test_an_empty_room_is_found_again_and_ends_in_time() -> None:
    world = World(departure_timeout_seconds=20)
    world.join("alice").say(leave=rtc.LeaveRequest())
    world.restart()
    assert world.room.deadline() == world.seconds + 20
    world.wait(21)
    assert world.room.core.is_over


def test_what_the_worker_needs_is_asked_of_the_publisher_after_a_restart() -> None:
    world, alice, _ = busy_world()
    world.restart()
    snapshot = world.snapshot()
    uptracks = tuple(msgspec.structs.replace(one, max_spatial=1) for one in snapshot.uptracks)
    world.apply(world.room.attach(msgspec.structs.replace(snapshot, uptracks=uptracks), frozenset(), world.now))
    world.resume(alice)
    update = alice.heard("subscribed_quality_update")[-1]
    assert [quality.enabled for quality in update.subscribed_qualities] == [True, True, False]
    world.event(border.UptrackDemand(uptrack=1, max_spatial=1))


@pytest.mark.parametrize("told", [True, False, None])
@pytest.mark.parametrize("shown", [True, False])
def test_what_is_paused_is_told_as_it_is_after_a_restart(told: bool | None, shown: bool) -> None:
    world, alice, bob = busy_world()
    number = bob.record.subscriptions[alice.track("cam").sid].downtrack
    if told is not None:
        world.event(border.DowntrackState(downtrack=number, active=told, reason="bandwidth"))
    world.restart()
    snapshot = world.snapshot()
    downtracks = tuple(
        msgspec.structs.replace(one, active=shown if one.downtrack == number else True) for one in snapshot.downtracks
    )
    world.apply(world.room.attach(msgspec.structs.replace(snapshot, downtracks=downtracks), frozenset(), world.now))
    bob.forget()
    world.resume(bob)
    states = [one.state for update in bob.heard("stream_state_update") for one in update.stream_states]
    silent = told is None and shown
    assert states == ([] if silent else [rtc.StreamState.ACTIVE if shown else rtc.StreamState.PAUSED])


def test_what_is_paused_is_told_when_only_the_link_to_the_worker_was_lost() -> None:
    world, alice, bob = busy_world()
    number = bob.record.subscriptions[alice.track("cam").sid].downtrack
    world.event(border.DowntrackState(downtrack=number, active=False, reason="bandwidth"))
    bob.forget()
    for _ in range(2):
        world.apply(world.room.attach(world.snapshot(), frozenset(), world.now))
    (update,) = bob.heard("stream_state_update")
    assert [one.state for one in update.stream_states] == [rtc.StreamState.ACTIVE]


def test_a_codec_that_was_seen_while_nobody_listened_is_known_after_a_restart() -> None:
    world, alice, _ = busy_world()
    (uplink,) = alice.record.tracks[alice.track("cam").sid].uplinks
    assert not uplink.has_media
    world.restart()
    snapshot = world.snapshot()
    uptracks = tuple(
        msgspec.structs.replace(one, mime="video/VP9", layers=(0,)) if one.uptrack == uplink.uptrack else one
        for one in snapshot.uptracks
    )
    world.apply(world.room.attach(msgspec.structs.replace(snapshot, uptracks=uptracks), frozenset(), world.now))
    record = world.room.core.by_identity["alice"]
    (uplink,) = next(track for track in record.tracks.values() if track.cids == {"cam": ""}).uplinks
    assert (uplink.mime, uplink.has_media) == ("video/VP9", True)


def test_what_the_worker_has_and_we_do_not_know_goes() -> None:
    world, alice, bob = busy_world()
    world.restart()
    (uptrack, *_) = world.worker.uptracks.values()
    copy = next(one for one in world.worker.downtracks.values() if one.uptrack == uptrack.uptrack)
    world.worker.apply(msgspec.structs.replace(uptrack, uptrack=901))
    world.worker.apply(msgspec.structs.replace(copy, downtrack=902, mid="902"))
    world.worker.apply(msgspec.structs.replace(copy, downtrack=903, uptrack=901, mid="903"))
    world.apply(world.room.attach(world.snapshot(), frozenset(), world.now))
    assert world.worker.log[-2:] == [border.RemoveUptrack(uptrack=901), border.RemoveDowntrack(downtrack=902)]
    world.resume(alice)
    world.resume(bob)
    assert world.worker.downtracks.keys() == world.room.core.by_downtrack.keys()


def test_whoever_misses_something_on_the_worker_comes_back_afresh() -> None:
    world, alice, bob = busy_world()
    number = bob.record.subscriptions[alice.track("cam").sid].downtrack
    del world.worker.downtracks[number]
    world.worker.ended.add(number)
    world.apply(world.room.attach(world.snapshot(), frozenset(), world.now))
    assert last_leave(bob).action == rtc.LeaveRequest.Action.RECONNECT
    assert set(alice.people) == {alice.sid}


def test_a_snapshot_says_nothing_of_what_changed_after_it_was_asked_for() -> None:
    world, alice, bob = busy_world()
    shown, before = world.snapshot(), len(world.worker.log)
    unshown = Unshown()
    unshown.sent([border.TakeSnapshot()])
    carol = world.join("carol")
    alice.publish_video("second")
    bob.publish_audio("later")
    alice.stop_sending("cam")
    since = world.worker.log[before:]
    unshown.sent(since)
    assert {border.AddTransport, border.AddUptrack, border.AddDowntrack, border.RemoveUptrack} <= set(map(type, since))
    world.apply(world.room.attach(shown, unshown.end(), world.now))
    assert world.worker.log[before:] == since
    assert not any(client.heard("leave") for client in (alice, bob, carol))
    assert set(carol.people) == {alice.sid, bob.sid, carol.sid}

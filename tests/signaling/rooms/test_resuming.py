"""Losing the signal and coming back: who keeps his place, and what he is told of what he has missed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from livekit.protocol import models, rtc

from sfu import sdp
from signaling.rooms.effects import ParticipantLeft
from tests.signaling.rooms.world import ACTIONS, REASONS, SERVER, STATES, World, last_leave

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

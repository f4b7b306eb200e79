"""Leaving, of one's own accord or sent away: what the leaver and the others are told, and what ends."""

from __future__ import annotations

import pytest
from livekit.protocol import rtc

from signaling.rooms.effects import Ended, ParticipantLeft
from tests.signaling.rooms.world import ACTIONS, REASONS, STATES, World, last_leave, states_of


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

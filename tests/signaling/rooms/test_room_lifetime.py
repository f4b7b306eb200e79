"""How long a room lives and whom it counts: agents and recorders neither fill it nor keep it open."""

from __future__ import annotations

from typing import Any

import pytest
from livekit.protocol import room as api
from livekit.protocol import rtc

from signaling.rooms.effects import Ended
from signaling.rooms.grants import Grants
from signaling.rooms.presence import RoomFull, check_place
from tests.signaling.rooms.world import ACTIONS, REASONS, World, without_permission

# --- when it ends ---------------------------------------------------------------------------------------------------


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


# --- agents and recorders -------------------------------------------------------------------------------------------

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


# --- what everybody is told of it -----------------------------------------------------------------------------------


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

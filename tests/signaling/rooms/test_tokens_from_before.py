"""Tokens from before a removal or a changed permission: which still open the room, and with which rights."""

from __future__ import annotations

from typing import Any

import pytest
from livekit.protocol import models
from livekit.protocol import room as api

from signaling.errors import Unauthenticated
from signaling.rooms.presence import check_place
from signaling.rooms.settings import RoomSettings
from tests.signaling.rooms.world import UNIX_MS, Client, World, without_permission

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

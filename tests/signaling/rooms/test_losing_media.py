"""Losing media: who is asked to come back by another path, how long he has, and when he counts as gone."""

from __future__ import annotations

import pytest

from sfu.border import TransportStatus
from tests.signaling.rooms.world import ACTIONS, REASONS, World, last_leave


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

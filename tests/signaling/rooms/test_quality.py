"""Connection quality and speakers: who is told what of whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol import models

from sfu import border
from sfu.border import TransportQuality, TransportStatus
from signaling.rooms.quality import score
from tests.signaling.rooms.world import Client, World

POOR, GOOD, EXCELLENT, LOST = (models.ConnectionQuality.Value(name) for name in ("POOR", "GOOD", "EXCELLENT", "LOST"))


def report(**figures: float | bool) -> TransportQuality:
    return TransportQuality(transport=1, has_media=True, **figures)  # type: ignore[arg-type] # by name in each test


def told(client: Client) -> dict[str, int]:
    return {one.participant_sid: one.quality for one in client.heard("connection_quality")[-1].updates}


@pytest.mark.parametrize(
    ("figures", "low", "high"),
    [
        ({}, 4.3, 4.5),
        ({"rtt_ms": 40.0, "jitter_up_ms": 5.0}, 4.2, 4.5),
        ({"loss_up": 0.02}, 4.1, 4.4),
        ({"loss_down": 0.10}, 3.0, 4.0),
        ({"loss_up": 0.25}, 1.0, 2.0),
        ({"rtt_ms": 800.0}, 2.0, 4.1),
        ({"limited": True}, 4.0, 4.0),
    ],
)
def test_scores_fall_as_listeners_would_have_it(figures: dict[str, float], low: float, high: float) -> None:
    assert low <= score(report(**figures)) <= high


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 5_000), st.floats(0, 1_000))
def test_scores_stay_in_bounds_and_more_loss_is_never_better(
    one: float, other: float, rtt: float, jitter: float
) -> None:
    low, high = sorted((one, other))
    better = score(report(loss_up=low, rtt_ms=rtt, jitter_down_ms=jitter))
    worse = score(report(loss_up=high, rtt_ms=rtt, jitter_down_ms=jitter))
    assert 1 <= worse <= better <= 5


def test_without_media_nothing_is_wrong() -> None:
    assert score(TransportQuality(transport=1, loss_up=1.0)) == 5.0


def test_everybody_is_told_of_himself_and_of_those_he_receives() -> None:
    world = World()
    alice, bob, carol = world.join("alice"), world.join("bob"), world.join("carol")
    alice.publish_audio()
    figures = {alice: 0.3, bob: 0.0, carol: 0.08}
    reports = [
        TransportQuality(transport=client.record.publisher.transport, has_media=True, loss_up=loss)
        for client, loss in figures.items()
    ]
    world.apply(world.room.quality(reports))
    assert told(alice) == {alice.sid: POOR}
    assert told(bob) == {bob.sid: EXCELLENT, alice.sid: POOR}
    assert told(carol) == {carol.sid: GOOD, alice.sid: POOR}
    scores = {one.participant_sid: one.score for one in bob.heard("connection_quality")[-1].updates}
    assert 1 <= scores[alice.sid] < 3


def test_the_worse_of_two_connections_counts() -> None:
    world = World()
    alice = world.join("alice", single=False)
    alice.publish_audio()
    both = (alice.record.publisher, alice.record.receiving)
    for bad in both:
        reports = [
            TransportQuality(transport=one.transport, has_media=True, loss_up=0.3 if one is bad else 0.0)
            for one in both
        ]
        world.apply(world.room.quality(reports))
        assert told(alice) == {alice.sid: POOR}


def test_lost_media_is_told_at_once_to_those_who_receive_it() -> None:
    world = World()
    alice, bob = world.join("alice"), world.join("bob")
    stranger = world.enter(world.client("stranger"), auto_subscribe=False)
    alice.publish_audio()
    transport = alice.record.publisher.transport
    world.transport(transport, TransportStatus.DISCONNECTED)
    world.transport(transport, TransportStatus.DISCONNECTED)
    assert told(bob) == {alice.sid: LOST}
    assert told(alice) == {alice.sid: LOST}
    assert len(bob.heard("connection_quality")) == 1
    assert not stranger.heard("connection_quality")
    world.transport(transport, TransportStatus.CONNECTED)
    assert told(bob) == {alice.sid: GOOD}


def test_unknown_transports_are_nobody() -> None:
    world = World()
    alice = world.join("alice")
    world.apply(world.room.quality([TransportQuality(transport=1, has_media=True, loss_up=1.0)]))
    assert told(alice) == {alice.sid: EXCELLENT}


# --- speakers -------------------------------------------------------------------------------------------------------


def speak(world: World, client: Client, level: float, *, active: bool) -> None:
    uptrack = client.record.tracks[client.track("mic").sid].uplinks[0].uptrack
    speaker = border.Speaker(uptrack=uptrack, level=level, active=active)
    world.event(border.Speakers(room=7, speakers=(speaker, border.Speaker(uptrack=1, level=1.0, active=True))))


def test_who_speaks_and_falls_silent_is_told_to_everybody() -> None:
    world = World()
    alice, bob = world.join("alice"), world.join("bob")
    alice.publish_audio()
    speak(world, alice, 0.5, active=True)
    speak(world, alice, 0.0, active=False)
    for client in (alice, bob):
        first, second = (message.speakers[0] for message in client.heard("speakers_changed"))
        assert (first.sid, first.level, first.active) == (alice.sid, 0.5, True)
        assert (second.sid, second.level, second.active) == (alice.sid, 0.0, False)


def test_a_newcomer_hears_who_is_speaking() -> None:
    world = World()
    alice, bob = world.join("alice"), world.join("bob")
    alice.publish_audio()
    bob.publish_audio()
    speak(world, alice, 0.7, active=True)
    carol = world.join("carol")
    (message,) = carol.heard("speakers_changed")
    assert [(one.sid, one.active) for one in message.speakers] == [(alice.sid, True)]
    assert carol.order()[0] == "join"


def test_audio_that_ends_in_the_middle_of_a_word_is_silence() -> None:
    world = World()
    alice, bob = world.join("alice"), world.join("bob")
    alice.publish_audio()
    speak(world, alice, 0.5, active=True)
    alice.stop_sending("mic")
    assert bob.speaking == set()


def test_hidden_speakers_are_not_told() -> None:
    world = World()
    spy, bob = world.join("spy", hidden=True), world.join("bob")
    spy.publish_audio()
    speak(world, spy, 0.5, active=True)
    assert not bob.heard("speakers_changed")


def test_who_fell_silent_meanwhile_is_told_at_the_resume() -> None:
    world = World()
    alice, bob = world.join("alice"), world.join("bob")
    alice.publish_audio()
    speak(world, alice, 0.5, active=True)
    world.lose_signal(bob)
    speak(world, alice, 0.0, active=False)
    assert bob.speaking == {alice.sid}
    world.resume(bob)
    assert bob.speaking == set()

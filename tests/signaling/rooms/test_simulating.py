"""What a client may ask to be simulated, so that it can be seen what it does then."""

from __future__ import annotations

from typing import Any

import pytest
from livekit.protocol import rtc

from sfu import border, sdp
from tests.signaling.rooms.world import ACTIONS, REASONS, Client, World, last_leave


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

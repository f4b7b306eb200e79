"""Why people leave: for each reason, what they are told, what the others see and what the webhook says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from livekit.protocol import models, rtc

import signaling
from sfu.border import TransportStatus
from signaling.rooms.effects import ParticipantLeft
from tests.signaling.rooms.world import REASONS, STATES, Client, World, last_leave

DISCONNECT, RESUME, RECONNECT = (rtc.LeaveRequest.DISCONNECT, rtc.LeaveRequest.RESUME, rtc.LeaveRequest.RECONNECT)
NEWEST, WITHOUT_ACTION = 17, 12
"""Protocol versions: up to 12 a flag says whether to come back (`can_reconnect`)."""


class Row(NamedTuple):
    """`action`: what the leaver is told; None: nothing, since he cannot hear it. `clean`: he need not be waited for."""

    why: str
    happens: Callable[[World, Client], None]
    reason: models.DisconnectReason
    action: rtc.LeaveRequest.Action | None
    clean: bool = True
    connected: bool = True


def says_so(world: World, alice: Client) -> None:
    alice.say(leave=rtc.LeaveRequest())


def closes_his_transport(world: World, alice: Client) -> None:
    world.transport(alice.record.receiving.transport, TransportStatus.CLOSED, "closed_by_peer")


def loses_his_transport(world: World, alice: Client) -> None:
    world.transport(alice.record.receiving.transport, TransportStatus.CLOSED, "consent_lost")


def joins_elsewhere(world: World, alice: Client) -> None:
    world.join("alice")


def drain_ends(world: World, alice: Client) -> None:
    world.apply(world.room.close(REASONS.SERVER_SHUTDOWN, world.now, RECONNECT))


def memory_is_short(world: World, alice: Client) -> None:
    world.apply(world.room.send_away("alice", world.now))


def simulates_server_leave(world: World, alice: Client) -> None:
    alice.say(simulate=rtc.SimulateScenario(server_leave=True))


def is_removed(world: World, alice: Client) -> None:
    world.apply(world.room.remove("alice", world.now))


def room_is_deleted(world: World, alice: Client) -> None:
    world.apply(world.room.close(REASONS.ROOM_DELETED, world.now))


def call_ends(world: World, alice: Client) -> None:
    world.apply(world.room.close(REASONS.ROOM_CLOSED, world.now))


def worker_dies(world: World, alice: Client) -> None:
    world.apply(world.room.worker_lost(world.now))


def never_connects(world: World, alice: Client) -> None:
    world.wait(world.settings.connect_seconds + 0.1)


def transport_fails_first(world: World, alice: Client) -> None:
    world.transport(alice.record.receiving.transport, TransportStatus.CLOSED, "dtls_timeout")


def signal_closes(world: World, alice: Client) -> None:
    world.lose_signal(alice)


def media_fails(world: World, alice: Client) -> None:
    world.transport(alice.record.receiving.transport, TransportStatus.FAILED)
    world.wait(world.settings.media_absence_seconds + 0.1)


def stays_away(world: World, alice: Client) -> None:
    world.lose_signal(alice)
    world.wait(world.settings.signal_absence_seconds + 0.1)


def node_fails(world: World, alice: Client) -> None:
    alice.say(simulate=rtc.SimulateScenario(node_failure=True))


ROWS = [
    Row("he says so", says_so, REASONS.CLIENT_INITIATED, DISCONNECT),
    Row("he closes DTLS", closes_his_transport, REASONS.CLIENT_INITIATED, RECONNECT),
    Row("he joins elsewhere", joins_elsewhere, REASONS.DUPLICATE_IDENTITY, DISCONNECT),
    Row("the server stops", drain_ends, REASONS.SERVER_SHUTDOWN, RECONNECT, clean=False),
    Row("memory is short", memory_is_short, REASONS.SERVER_SHUTDOWN, DISCONNECT),
    Row("simulate", simulates_server_leave, REASONS.SERVER_SHUTDOWN, DISCONNECT),
    Row("an administrator", is_removed, REASONS.PARTICIPANT_REMOVED, DISCONNECT),
    Row("DeleteRoom", room_is_deleted, REASONS.ROOM_DELETED, DISCONNECT),
    Row("the call is over", call_ends, REASONS.ROOM_CLOSED, DISCONNECT),
    Row("the worker died", worker_dies, REASONS.STATE_MISMATCH, RECONNECT, clean=False),
    Row("never up", never_connects, REASONS.JOIN_FAILURE, RECONNECT, clean=False, connected=False),
    Row("no handshake", transport_fails_first, REASONS.JOIN_FAILURE, RECONNECT, clean=False, connected=False),
    Row("no signal before media", signal_closes, REASONS.SIGNAL_CLOSE, None, clean=False, connected=False),
    Row("media fails", media_fails, REASONS.CONNECTION_TIMEOUT, RESUME, clean=False),
    Row("media is gone", loses_his_transport, REASONS.CONNECTION_TIMEOUT, RECONNECT, clean=False),
    Row("no signal for long", stays_away, REASONS.CONNECTION_TIMEOUT, None, clean=False),
    Row("simulated failure", node_fails, REASONS.UNKNOWN_REASON, None, clean=False),
]

NEVER_SAID = {
    "MIGRATION": "rooms are not moved between servers; a lost worker's clients come back by STATE_MISMATCH",
    "USER_UNAVAILABLE": "of SIP, which is not offered",
    "USER_REJECTED": "of SIP, which is not offered; calls say their own end",
    "SIP_TRUNK_FAILURE": "of SIP, which is not offered",
    "MEDIA_FAILURE": "of SIP, which is not offered: media that fails is CONNECTION_TIMEOUT",
    "AGENT_ERROR": "of agent dispatch, which is not offered",
}


@pytest.mark.parametrize("protocol", [NEWEST, WITHOUT_ACTION])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.why)
def test_each_reason_is_told_to_who_leaves_to_the_others_and_to_webhooks(row: Row, protocol: int) -> None:
    world = World()
    bob = world.join("bob")
    alice = world.client("alice", protocol=protocol)
    world.enter(alice)
    if row.connected:
        world.connect(alice)
    bob.forget()
    row.happens(world, alice)

    told = [(one.reason, one.action, one.can_reconnect) for one in alice.heard("leave")]
    if row.action is None:
        assert told == []
    else:
        action = row.action if protocol == NEWEST else DISCONNECT
        assert told == [(row.reason, action, row.action != DISCONNECT)]
    assert alice.session is None
    assert alice.closed or row.action is None

    assert ParticipantLeft("alice", row.reason, clean=row.clean) in world.effects
    event = "participant_left" if row.connected else "participant_connection_aborted"
    (left,) = [one for one in world.notified if one.participant.sid == alice.sid and one.event.startswith(event)]
    assert (left.participant.state, left.participant.disconnect_reason) == (STATES.DISCONNECTED, row.reason)
    if bob.session is not None:
        seen = [info for update in bob.heard("update") for info in update.participants if info.sid == alice.sid]
        assert (seen[-1].state, seen[-1].disconnect_reason) == (STATES.DISCONNECTED, row.reason)
    else:
        assert last_leave(bob).reason == row.reason, "it concerned the whole room"


def test_a_resume_that_finds_nothing_is_answered_and_changes_nothing_for_the_others() -> None:
    world = World()
    bob, stranger = world.join("bob"), world.client("alice")
    stranger.sid = "PA_none"
    bob.forget()
    world.resume(stranger)
    (told,) = stranger.heard("leave")
    assert (told.reason, told.action) == (REASONS.STATE_MISMATCH, RECONNECT)
    assert not bob.heard("update")
    assert "participant_left" not in world.events()


def test_every_reason_is_shown_here_or_never_said() -> None:
    shown = {REASONS.Name(row.reason) for row in ROWS}
    assert shown | set(NEVER_SAID) == set(REASONS.keys())
    assert not shown & set(NEVER_SAID)
    root = Path(signaling.__file__).parent
    written = "".join(path.read_text() for path in root.rglob("*.py"))
    said = set(re.findall(r"Reason\.([A-Z][A-Z_]+)\b", written)) & set(REASONS.keys())
    assert said == shown

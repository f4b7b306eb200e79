"""What time does to a call: every timer of it, and when the next one is due.

Timers are not kept: they follow from the state, so they survive a restart.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from signaling.calls import gate
from signaling.calls.operations import lobby, moderation, permissions, rings, sessions
from signaling.calls.state import Turn


def next_due(turn: Turn) -> datetime | None:
    """Return the earliest instant at which `tick` has something to do; None: never."""
    state = turn.state
    due = [callee.due_at for ring in state.rings.values() for callee in ring.callees if callee.state == "ringing"]
    due += [request.expires_at for request in state.requests.values() if request.state == "pending"]
    due += [entry.expires_at for entry in state.lobby.values() if entry.state == "waiting"]
    due += [entry.expires_at for entry in state.blocks.values() if entry.expires_at is not None]
    due += [p.due_at for p in state.present() if p.due_at is not None]
    session = state.running
    if session is not None:
        settings = turn.settings
        if session.expires_at is not None:
            due.append(session.expires_at)
        if session.empty_since is not None:
            due.append(session.empty_since + timedelta(seconds=settings["session"]["inactivity_seconds"]))
        alone = settings["ring"]["alone_timeout_seconds"]
        if session.alone_since is not None and alone:
            due.append(session.alone_since + timedelta(seconds=alone))
        opens = gate.opens_at(turn.call, settings)
        if opens is not None and opens > turn.now:
            due.append(opens)
    return min(due, default=None)


def tick(turn: Turn) -> None:
    """Do everything that is due now."""
    rings.expire(turn)
    permissions.expire(turn)
    lobby.expire(turn)
    moderation.expire(turn)
    for participant in turn.state.present():
        if participant.due_at is not None and participant.due_at <= turn.now:
            sessions.leave(turn, participant, "connection_lost", remove=True)
    _session(turn)
    opens = gate.opens_at(turn.call, turn.settings)
    if opens is not None and opens <= turn.now:
        # Nothing else changes what somebody may do by itself, and to look at all of many takes long.
        sessions.refresh(turn, "state_changed")


def _session(turn: Turn) -> None:
    session = turn.state.running
    if session is None:
        return
    settings = turn.settings
    alone = settings["ring"]["alone_timeout_seconds"]
    if session.expires_at is not None and session.expires_at <= turn.now:
        sessions.end(turn, "max_duration", "call_ended")
    elif session.empty_since is not None and (
        session.empty_since + timedelta(seconds=settings["session"]["inactivity_seconds"]) <= turn.now
    ):
        sessions.end(turn, "empty", "call_ended")
    elif alone and session.alone_since is not None and session.alone_since + timedelta(seconds=alone) <= turn.now:
        sessions.end(turn, "alone", "call_ended")

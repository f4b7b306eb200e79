"""Going live and back to backstage."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from signaling.calls import views
from signaling.calls.operations import captures, sessions
from signaling.calls.problems import Problem
from signaling.calls.rights import holding, others_to_reach, require
from signaling.calls.state import Turn

ALERT_LIFETIME = timedelta(hours=1)


def start(turn: Turn, features: Sequence[str], *, notify: bool) -> None:
    """Open the gate for everybody; idempotent. `features`: plural names of captures to start with it."""
    require(turn, "live.start")
    for plural in features:
        require(turn, captures.FEATURES[plural].start)
        captures.check_enabled(turn, captures.FEATURES[plural])
    if turn.call.ended_at is not None:
        raise Problem("call_ended", "The call has ended.")
    if not turn.call.live:
        turn.change_call(live=True, live_started_at=turn.now, live_ended_at=None)
        sessions.refresh(turn, "state_changed")
        turn.emit("call.live_started", {"call": views.call(turn)}, "MPWS")
        if notify:
            _notify(turn)
    if features and turn.state.running is None:
        raise Problem("conflict", "Nobody is in the call yet: there is nothing to capture.")
    for plural in features:
        captures.start(turn, captures.FEATURES[plural], None, None)


def _notify(turn: Turn) -> None:
    for user_id in others_to_reach(turn):
        payload = {"type": "call.live_started", "cid": turn.call.cid}
        turn.push(user_id, "live_started", payload, turn.now + ALERT_LIFETIME)


def stop(turn: Turn, *, remove_viewers: bool) -> None:
    """Close the gate; those who may not be backstage leave, unless told otherwise. Idempotent."""
    require(turn, "live.stop")
    if not turn.call.live:
        return
    turn.change_call(live=False, live_ended_at=turn.now)
    sessions.refresh(turn, "state_changed")
    if remove_viewers:
        for participant in turn.state.present():
            user_id = None if participant.app_role == "anonymous" else participant.user_id
            if "call.join" not in holding(turn, user_id, participant.scope).capabilities:
                sessions.leave(turn, participant, "live_stopped", remove=True)
    turn.emit("call.live_stopped", {"call": views.call(turn)}, "MPWS")

"""Recordings, transcriptions, captions, broadcasts, frames and ingests: states that tell the truth.

Where no engine is configured, a capture goes `starting` → `failed` with `no_engine`, never silence. Where the call's
settings forbid it, 409. Not here: an engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from signaling.calls import views
from signaling.calls.model import Capture
from signaling.calls.problems import Problem, not_found
from signaling.calls.rights import require
from signaling.calls.state import Turn


@dataclass(frozen=True)
class Feature:
    """`name`: of the reply and the events; `plural`: of the path."""

    name: str
    plural: str
    group: str
    mode: str
    start: str
    stop: str
    read: str
    delete: str
    kinds: tuple[str, ...]


FEATURES: dict[str, Feature] = {
    feature.plural: feature
    for feature in (
        Feature(
            "recording",
            "recordings",
            "recording",
            "mode",
            "recording.start",
            "recording.stop",
            "recording.read",
            "recording.delete",
            ("composite", "individual", "raw", "audio"),
        ),
        Feature(
            "transcription",
            "transcriptions",
            "transcription",
            "mode",
            "transcription.start",
            "transcription.stop",
            "transcription.read",
            "transcription.stop",
            ("text",),
        ),
        Feature(
            "captions",
            "captions",
            "transcription",
            "captions_mode",
            "captions.start",
            "captions.stop",
            "call.read",
            "captions.stop",
            ("text",),
        ),
        Feature(
            "broadcast",
            "broadcasts",
            "broadcasting",
            "mode",
            "broadcast.start",
            "broadcast.stop",
            "call.read",
            "broadcast.stop",
            ("hls", "rtmp"),
        ),
        Feature(
            "frames",
            "frames",
            "frame_recording",
            "mode",
            "frames.start",
            "frames.stop",
            "frames.start",
            "frames.stop",
            ("individual",),
        ),
        Feature(
            "ingest",
            "ingests",
            "ingress",
            "mode",
            "ingest.manage",
            "ingest.manage",
            "ingest.manage",
            "ingest.manage",
            ("rtmp", "whip"),
        ),
    )
}
RUNNING = ("starting", "started", "stopping")


def start(turn: Turn, feature: Feature, kind: str | None, layout: str | None) -> Capture:
    """Start a capture on somebody's behalf."""
    require(turn, feature.start)
    check_enabled(turn, feature)
    if turn.state.running is None:
        raise Problem("conflict", "The call has no running session.")
    return _begin(turn, feature, kind, layout)


def check_enabled(turn: Turn, feature: Feature) -> None:
    if turn.settings[feature.group][feature.mode] == "disabled":
        raise Problem("feature_disabled", f"The call's settings disable {feature.plural}.")


def start_automatic(turn: Turn) -> None:
    """Start what the settings want started with a session."""
    for feature in FEATURES.values():
        if turn.settings[feature.group][feature.mode] == "auto_on":
            _begin(turn, feature, None, None)


def _begin(turn: Turn, feature: Feature, kind: str | None, layout: str | None) -> Capture:
    session = turn.state.running
    settings = turn.settings[feature.group]
    capture = Capture(
        id=turn.new_id(),
        feature=feature.plural,
        session_id=session.id if session else "",
        kind=kind or settings.get("kind", feature.kinds[0]),
        layout=layout or settings.get("layout"),
        state="starting",
        failure_reason=None,
        started_by=turn.actor,
        started_at=turn.now,
        ended_at=None,
        files=(),
        created_at=turn.now,
        updated_at=turn.now,
    )
    turn.state.captures[capture.id] = capture
    _tell(turn, feature, capture)
    failed: Capture = turn.put(
        "captures", capture.id, capture, state="failed", failure_reason="no_engine", ended_at=turn.now
    )
    _tell(turn, feature, failed)
    return failed


def stop(turn: Turn, feature: Feature, capture_id: str) -> Capture:
    """Stop a capture; what has ended already stays as it is."""
    require(turn, feature.stop)
    return _stop(turn, feature, _found(turn, feature, capture_id))


def stop_all(turn: Turn) -> None:
    for capture in list(turn.state.captures.values()):
        _stop(turn, FEATURES[capture.feature], capture)


def _stop(turn: Turn, feature: Feature, capture: Capture) -> Capture:
    if capture.state not in RUNNING:
        return capture
    stopped: Capture = turn.put("captures", capture.id, capture, state="ready", ended_at=turn.now)
    _tell(turn, feature, stopped)
    return stopped


def delete(turn: Turn, feature: Feature, capture_id: str) -> None:
    require(turn, feature.delete)
    capture = _found(turn, feature, capture_id)
    if capture.state in RUNNING:
        raise Problem("conflict", "It is still running; stop it first.")
    del turn.state.captures[capture.id]


def _found(turn: Turn, feature: Feature, capture_id: str) -> Capture:
    capture = turn.state.captures.get(capture_id)
    if capture is None or capture.feature != feature.plural:
        raise not_found(feature.name)
    return capture


def _tell(turn: Turn, feature: Feature, capture: Capture) -> None:
    turn.emit(f"{feature.name}.{capture.state}", {feature.name: views.capture(capture)}, "PWS")

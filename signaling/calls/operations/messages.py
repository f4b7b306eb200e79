"""Reactions, custom events and lines of captions: told on, never kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from signaling.calls.operations import captures
from signaling.calls.problems import Problem, unprocessable
from signaling.calls.rights import require
from signaling.calls.state import Turn

MESSAGE_MAX_BYTES = 5 * 1024


def react(turn: Turn, type_: str, emoji: str | None, custom: dict[str, Any]) -> dict[str, Any]:
    require(turn, "reaction.send")
    data = _checked({"user_id": turn.actor, "type": type_, "emoji": emoji, "custom": custom})
    turn.emit("reaction.new", data, "PWS", users=(turn.actor,) if turn.actor else ())
    return data


def send(turn: Turn, type_: str, custom: dict[str, Any], to: Sequence[str] | None) -> dict[str, Any]:
    """Send a custom event to everybody in and around the call, or to some users."""
    require(turn, "event.send")
    data = _checked({"user_id": turn.actor, "type": type_, "custom": custom})
    if to is None:
        turn.emit("event.custom", data, "PWS")
    else:
        near = turn.state.members.keys() | {participant.user_id for participant in turn.state.present()}
        turn.emit("event.custom", data, "S", users=tuple(user for user in dict.fromkeys(to) if user in near))
    return data


def caption(turn: Turn, text: str, language: str | None, user_id: str | None, *, final: bool) -> dict[str, Any]:
    """Show a line of what somebody in the session says; user_id: who says it, the caller if None.

    language: the call's if None; null in the event where that is left to be found out.
    """
    require(turn, "captions.send")
    speaker = user_id or turn.actor
    if speaker is None:
        raise unprocessable("/user_id", "Name who says it.")
    captures.check_enabled(turn, captures.FEATURES["captions"])
    if turn.state.running is None:
        raise Problem("conflict", "The call has no running session.")
    if not turn.state.of_user(speaker):
        raise unprocessable("/user_id", f"{speaker!r} is not in the session.", code="unknown_user")
    usual = turn.settings["transcription"]["language"]
    spoken = language or (None if usual == "auto" else usual)
    data = _checked({"user_id": speaker, "text": text, "language": spoken, "final": final})
    turn.emit("captions.text", data, "PWS", numbered=False)
    return data


def _checked(data: dict[str, Any]) -> dict[str, Any]:
    size = len(json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode())
    if size > MESSAGE_MAX_BYTES:
        raise Problem("too_large", f"The event has {size} bytes; at most {MESSAGE_MAX_BYTES} are sent on.")
    return data

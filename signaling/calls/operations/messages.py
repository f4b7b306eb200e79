"""Reactions and custom events: told on, never kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from signaling.calls.problems import Problem
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


def _checked(data: dict[str, Any]) -> dict[str, Any]:
    size = len(json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode())
    if size > MESSAGE_MAX_BYTES:
        raise Problem("too_large", f"The event has {size} bytes; at most {MESSAGE_MAX_BYTES} are sent on.")
    return data

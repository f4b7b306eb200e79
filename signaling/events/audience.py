"""Who hears an event of a call, and how it looks to each: pure.

M members, P users with a joined participant, W who watches; users named besides; deciders hear of others' rights, of
media rights only. Capabilities of a participant are shown to himself and to deciders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from signaling.calls.capabilities import REQUESTABLE
from signaling.calls.model import Event
from signaling.calls.rights import deciders, kept_out
from signaling.calls.state import Turn


@dataclass(frozen=True)
class Audience:
    """Users who hear an event for what they are, users who are meant, and whether watchers hear it."""

    groups: frozenset[str]
    meant: frozenset[str]
    watchers: bool


def audience(turn: Turn, event: Event, online: frozenset[str]) -> Audience:
    """Return who hears it, of those who have a socket."""
    groups: set[str] = set()
    if "M" in event.groups:
        groups.update(user_id for user_id in online if user_id in turn.state.members)
    if "P" in event.groups:
        groups.update(participant.user_id for participant in turn.state.joined())
    heard = frozenset(user_id for user_id in groups if not kept_out(turn, user_id))
    # Who is kept out hears what befalls himself alone, such as that he is.
    meant = frozenset(
        user_id
        for user_id in (*event.users, *event.deciders)
        if event.data.get("user_id") == user_id or not kept_out(turn, user_id)
    )
    return Audience(heard, meant, "W" in event.groups)


def deciding_users(turn: Turn) -> frozenset[str]:
    return frozenset(deciders(turn, "permission.grant"))


def shown_to(event: Event, user_id: str | None, device_id: str | None, deciding: frozenset[str]) -> tuple[str, Any]:
    """Return the event's data for a receiver, and a name for this variant of it, so that each is encoded once."""
    data = event.data
    if event.type.startswith("participant.") and "participant" in data:
        if user_id == data["participant"]["user_id"] or user_id in deciding:
            return "full", data
        return "public", {**data, "participant": {**data["participant"], "capabilities": None}}
    if event.type == "call.capabilities_updated" and user_id != data["user_id"]:
        media = {name: [c for c in data[name] if c in REQUESTABLE] for name in ("capabilities", "added", "removed")}
        return "media", {**data, **media}
    if event.type == "call.ring_accepted" and user_id == data["user_id"] and device_id != data["by_device"]:
        return "elsewhere", {**data, "reason": "answered_elsewhere"}
    return "full", data

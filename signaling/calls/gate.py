"""Backstage: whether a call is open to everybody, and when the clock opens it.

Open iff backstage is off, or the call is live, or (it was not stopped, an ahead time and a start are set, and
now ≥ start − ahead). With an ahead time of 0 only going live opens it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from signaling.calls import call_settings
from signaling.calls.model import Call, CallType


def settings_of(call: Call, call_type: CallType) -> dict[str, Any]:
    """Return every setting in force for the call."""
    return call_settings.effective(call_type.settings, call.settings_overrides)


def opens_at(call: Call, settings: dict[str, Any]) -> datetime | None:
    """Return when the clock opens the call; None where it does not."""
    backstage = settings["backstage"]
    ahead = backstage["join_ahead_time_seconds"]
    if not backstage["enabled"] or call.live or call.live_ended_at is not None or ahead <= 0 or call.starts_at is None:
        return None
    return call.starts_at - timedelta(seconds=ahead)


def is_open(call: Call, settings: dict[str, Any], now: datetime) -> bool:
    if not settings["backstage"]["enabled"] or call.live:
        return True
    opens = opens_at(call, settings)
    return opens is not None and now >= opens

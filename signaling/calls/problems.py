"""What the calls system says no with: a stable code, a sentence, and pointers to what is wrong (RFC 9457).

`CODES` is the only place that knows a code's status and title. Not here: how a problem is written on a wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from signaling.errors import Refusal

CODES: dict[str, tuple[int, str]] = {
    "invalid_request": (400, "Malformed request"),
    "unauthenticated": (401, "Not authenticated"),
    "token_expired": (401, "Token expired"),
    "missing_capability": (403, "Missing capability"),
    "blocked": (403, "Blocked in this call"),
    "banned": (403, "Banned"),
    "backstage": (403, "Not live yet"),
    "role_escalation": (403, "Above your own role"),
    "requests_disabled": (403, "Requests are not taken"),
    "team_forbidden": (403, "Not your team"),
    "not_found": (404, "Not found"),
    "call_type_not_found": (404, "No such call type"),
    "method_not_allowed": (405, "Method not allowed"),
    "conflict": (409, "Conflict"),
    "already_resolved": (409, "Already resolved"),
    "version_mismatch": (412, "Changed meanwhile"),
    "call_ended": (409, "Call ended"),
    "call_full": (409, "Call is full"),
    "feature_disabled": (409, "Feature disabled"),
    "last_admin": (409, "Last admin"),
    "role_in_use": (409, "Role in use"),
    "already_held": (409, "Already held"),
    "gone": (410, "Gone"),
    "too_large": (413, "Too large"),
    "custom_too_large": (413, "Custom data too large"),
    "unprocessable": (422, "Unprocessable"),
    "unknown_user": (422, "Unknown user"),
    "unknown_role": (422, "Unknown role"),
    "unknown_capability": (422, "Unknown capability"),
    "team_mismatch": (422, "Teams differ"),
    "rate_limited": (429, "Too many requests"),
    "internal": (500, "Internal error"),
    "no_media_node": (503, "No media node"),
    "unavailable": (503, "Unavailable"),
}


@dataclass(frozen=True)
class Fault:
    """One wrong value. `pointer`: RFC 6901 into the body, or `/name` of a path or query parameter."""

    pointer: str
    code: str
    detail: str


class Problem(Refusal):
    """A request that is refused. `members` are the extra members of the problem document."""

    def __init__(self, code: str, detail: str, *, errors: Sequence[Fault] = (), **members: Any) -> None:
        super().__init__(detail)
        # Each code is a row of CODES, not a class: clients branch on the code, nobody catches one leaf of forty.
        self.code = code  # type: ignore[misc]
        self.status, self.title = CODES[code]
        self.errors = tuple(errors)
        self.members = members


def unprocessable(pointer: str, detail: str, *, code: str = "unprocessable") -> Problem:
    """Return the 422 for one wrong value at `pointer`."""
    return Problem(code, detail, errors=[Fault(pointer, code, detail)])


def missing(capability: str) -> Problem:
    """Return the 403 for a capability that the caller does not hold."""
    return Problem("missing_capability", f"This needs the capability {capability}.", capability=capability)


def not_found(what: str = "call") -> Problem:
    """Return the 404; it does not tell whether the thing exists for others."""
    return Problem("not_found", f"There is no such {what}.")

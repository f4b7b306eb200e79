"""Everything Callyard says no with: one tree, each leaf with a stable code for programs and a sentence for people.

    CallyardError
    ├── SettingsError              the operator's settings cannot be used
    └── Refusal                    a request is refused; carries an HTTP status
        ├── InvalidRequest         malformed, or a field is out of bounds
        │   └── InvalidInvite      forged, expired or not an invitation
        ├── Unauthenticated        no token, or one that does not hold
        ├── PermissionDenied       a valid token without the grant
        ├── NotFound               no such room, participant, track, call …
        ├── Conflict               exists already, or has changed meanwhile
        ├── PreconditionFailed     the thing is not in a state that allows this
        ├── TooLarge               a body, message or description over its limit
        ├── LimitExceeded          a rate or a count is used up
        ├── Unimplemented          understood, and not offered
        ├── TimedOut               the other side did not answer in time
        ├── CallFailed             the participant that was called answered with an error of its own
        └── Unavailable            draining, or no worker can take it; try again later
            └── Overloaded         more to do than there is CPU for

`STATUS` is the only place that knows statuses. Not here: what was dropped from the network (counted, never raised).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class CallyardError(Exception):
    """Base of all. `code` never changes once released; `message` is a sentence and may."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SettingsError(CallyardError):
    code = "invalid_settings"


class Refusal(CallyardError):
    """A request that is not carried out, through no fault of the server."""


class InvalidRequest(Refusal):
    code = "invalid_argument"


class InvalidInvite(InvalidRequest):
    code = "invalid_invite"


class Unauthenticated(Refusal):
    code = "unauthenticated"


class PermissionDenied(Refusal):
    code = "permission_denied"


class NotFound(Refusal):
    code = "not_found"


class Conflict(Refusal):
    code = "already_exists"


class PreconditionFailed(Refusal):
    code = "failed_precondition"


class TooLarge(Refusal):
    code = "too_large"


class LimitExceeded(Refusal):
    """`retry_after_seconds`: when it makes sense to ask again, if that is known."""

    code = "resource_exhausted"

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unimplemented(Refusal):
    code = "unimplemented"


class TimedOut(Refusal):
    code = "deadline_exceeded"


class CallFailed(Refusal):
    code = "call_failed"


class Unavailable(Refusal):
    code = "unavailable"


class Overloaded(Unavailable):
    code = "overloaded"


@dataclass(frozen=True)
class Status:
    """How a refusal looks on each wire. WebSocket codes: RFC 6455 §7.4.1, 4000+ are ours."""

    http: int
    websocket: int


STATUS: dict[type[Refusal], Status] = {
    InvalidRequest: Status(400, 1007),
    InvalidInvite: Status(401, 4001),
    Unauthenticated: Status(401, 4001),
    PermissionDenied: Status(403, 4003),
    NotFound: Status(404, 4004),
    Conflict: Status(409, 4009),
    PreconditionFailed: Status(412, 4012),
    TooLarge: Status(413, 1009),
    LimitExceeded: Status(429, 1008),
    Unimplemented: Status(501, 1003),
    TimedOut: Status(504, 4008),
    CallFailed: Status(502, 1011),
    Unavailable: Status(503, 1013),
    Overloaded: Status(503, 1013),
}


def status_of(refusal: Refusal) -> Status:
    """Return the status of the nearest ancestor that has one; a new leaf without a row answers as its parent does."""
    for ancestor in type(refusal).__mro__:
        if ancestor in STATUS:
            return STATUS[ancestor]
    return Status(500, 1011)

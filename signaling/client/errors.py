"""What the client raises: one tree; every leaf carries the server's stable code and whatever came with it.

    VideoError
    ├── InvalidRequest        400, 413, 422: the request is wrong; `errors` points at what
    │   └── TooLarge
    ├── Unauthenticated       401: no token, or one that does not hold any more
    ├── Forbidden             403
    │   ├── MissingCapability  `capability` names it
    │   ├── Backstage          not live yet; `opens_at` says when (None: only go-live opens)
    │   └── Blocked            blocked in the call, or banned
    ├── NotFound              404, 410
    ├── Conflict              409, 412: the state does not allow it; `problem` carries the ring, request or entry
    ├── RateLimited           429; `retry_after_seconds`
    ├── Unavailable           5xx, or the server cannot be reached
    ├── ClientNotReady        there is no default client yet
    ├── MediaSdkMissing       the extra `client` is not installed
    └── MediaConnectionFailed joined, but the media server could not be reached

Branch on `code` where a class is too coarse: codes never change once released.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Fault:
    """One wrong value of a request. `pointer`: RFC 6901 into the body, or `/name` of a parameter."""

    pointer: str
    code: str
    detail: str


class VideoError(Exception):
    """Base of all. `problem` is the whole problem document (RFC 9457), empty where none came from the server."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int | None = None,
        problem: Mapping[str, Any] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code
        self.detail = detail
        self.status = status
        self.problem: dict[str, Any] = dict(problem or {})
        self.retry_after_seconds = retry_after_seconds

    @property
    def title(self) -> str:
        return _text(self.problem.get("title"))

    @property
    def request_id(self) -> str | None:
        """What to quote to the server's operator."""
        return _text(self.problem.get("request_id")) or None

    @property
    def capability(self) -> str | None:
        """The capability that was missing, as its dotted id."""
        return _text(self.problem.get("capability")) or None

    @property
    def opens_at(self) -> datetime | None:
        """When the clock opens the call; None if nothing but going live does."""
        try:
            return datetime.fromisoformat(_text(self.problem.get("opens_at")))
        except ValueError:
            return None

    @property
    def errors(self) -> Sequence[Fault]:
        found = self.problem.get("errors")
        if not isinstance(found, list):
            return ()
        return tuple(
            Fault(_text(e.get("pointer")), _text(e.get("code")), _text(e.get("detail")))
            for e in found
            if isinstance(e, dict)
        )


class InvalidRequest(VideoError):
    pass


class TooLarge(InvalidRequest):
    pass


class Unauthenticated(VideoError):
    pass


class Forbidden(VideoError):
    pass


class MissingCapability(Forbidden):
    pass


class Backstage(Forbidden):
    pass


class Blocked(Forbidden):
    pass


class NotFound(VideoError):
    pass


class Conflict(VideoError):
    pass


class RateLimited(VideoError):
    pass


class Unavailable(VideoError):
    pass


class ClientNotReady(VideoError):
    pass


class MediaSdkMissing(VideoError):
    pass


class MediaConnectionFailed(VideoError):
    pass


_BY_CODE: dict[str, type[VideoError]] = {
    "missing_capability": MissingCapability,
    "backstage": Backstage,
    "blocked": Blocked,
    "banned": Blocked,
    "not_found": NotFound,
    "call_type_not_found": NotFound,
    "gone": NotFound,
    "unauthenticated": Unauthenticated,
    "token_expired": Unauthenticated,
}
_BY_STATUS: dict[int, type[VideoError]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: NotFound,
    412: Conflict,
    413: TooLarge,
    422: InvalidRequest,
    429: RateLimited,
}


def error_of(status: int | None, problem: Mapping[str, Any], *, retry_after_seconds: float | None = None) -> VideoError:
    """Return the error for a problem document; codes and statuses nobody knows yet become their nearest parent."""
    code = _text(problem.get("code")) or ("unavailable" if status is None or status >= 500 else "invalid_request")
    detail = _text(problem.get("detail")) or _text(problem.get("title")) or "The server refused."
    if status is None and isinstance(problem.get("status"), int):
        status = problem["status"]
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status or 0)
    if kind is None:
        kind = Unavailable if status is None or status >= 500 else InvalidRequest if status >= 400 else VideoError
    return kind(code, detail, status=status, problem=problem, retry_after_seconds=retry_after_seconds)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""

"""What the API answers with, as values. Fields a newer server adds are ignored, so that old clients go on working.

Times are aware datetimes; `settings` and `custom` stay the JSON objects they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all: read-only, compared by content."""


class Page(Value, Generic[T], frozen=True):
    """One page of a list; `next` and `prev` are cursors."""

    items: list[T]
    next: str | None = None
    prev: str | None = None


class User(Value, frozen=True):
    id: str
    name: str | None = None
    image: str | None = None
    role: str = "user"
    teams: list[str] = []
    custom: dict[str, Any] = {}


class Member(msgspec.Struct, frozen=True):
    """A member; for requests `Member("charlie", role="call_member")`.

    role: None lets the server choose: the type's `default_member_role` at creation, `call_member` afterwards.
    """

    user_id: str
    role: str | None = None
    custom: dict[str, Any] | None = None
    user: User | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


MemberLike = str | Member | Mapping[str, Any]


def member_item(member: MemberLike) -> str | dict[str, Any]:
    """Return a member as requests carry it."""
    if isinstance(member, str):
        return member
    if isinstance(member, Member):
        fields = {"user_id": member.user_id, "role": member.role, "custom": member.custom}
        return {name: value for name, value in fields.items() if value is not None}
    return dict(member)


class CallInfo(Value, frozen=True):
    cid: str
    type: str
    id: str
    version: int
    custom: dict[str, Any]
    settings: dict[str, Any]
    settings_overrides: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    team: str | None = None
    created_by: str | None = None
    starts_at: datetime | None = None
    opens_at: datetime | None = None
    backstage: bool = False
    live: bool = False
    live_started_at: datetime | None = None
    live_ended_at: datetime | None = None
    ended_at: datetime | None = None
    ended_by: str | None = None
    ongoing: bool = False
    session_id: str | None = None
    participant_count: int = 0


class Session(Value, frozen=True):
    id: str
    cid: str
    started_at: datetime
    ended_at: datetime | None = None
    end_reason: str | None = None
    expires_at: datetime | None = None
    participant_count: int = 0


class Participant(Value, frozen=True):
    """`capabilities` is None where the caller may not see them."""

    id: str
    session_id: str
    user_id: str
    device_id: str
    identity: str
    name: str
    role: str
    state: str
    hidden: bool = False
    joined_at: datetime | None = None
    left_at: datetime | None = None
    left_reason: str | None = None
    capabilities: list[str] | None = None


class Callee(Value, frozen=True):
    user_id: str
    state: str
    reason: str | None = None
    device_id: str | None = None


class Ring(Value, frozen=True):
    id: str
    cid: str
    state: str
    video: bool
    expires_at: datetime
    caller: User | None = None
    custom: dict[str, Any] | None = None
    ended_at: datetime | None = None
    callees: list[Callee] = []


class PermissionRequest(Value, frozen=True):
    id: str
    user_id: str
    capabilities: list[str]
    state: str
    expires_at: datetime
    resolved_at: datetime | None = None
    resolved_by: str | None = None


class LobbyEntry(Value, frozen=True):
    id: str
    user_id: str
    device_id: str
    state: str
    expires_at: datetime
    resolved_by: str | None = None


class Recording(Value, frozen=True):
    """A recording or another capture. There is no engine yet: it goes from `starting` to `failed`, `no_engine`."""

    id: str
    session_id: str
    state: str
    kind: str | None = None
    failure_reason: str | None = None
    started_by: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    files: list[Any] = []


class Block(Value, frozen=True):
    user_id: str
    reason: str | None = None
    expires_at: datetime | None = None
    blocked_by: str | None = None


class CapabilitySet(Value, frozen=True):
    user_id: str
    capabilities: list[str]
    version: int


class ExplainedStep(Value, frozen=True):
    step: str
    added: list[str]
    removed: list[str]


class Explanation(Value, frozen=True):
    """Why a user may do what he may: each step of the rule with what it added and took."""

    user_id: str
    role: str
    capabilities: list[str]
    steps: list[ExplainedStep]


class Media(Value, frozen=True):
    """How to reach the media server. The token opens one session for one device and is short-lived."""

    url: str
    token: str
    expires_at: datetime
    ice_servers: list[dict[str, Any]] = []


class CallReply(Value, frozen=True):
    call: CallInfo
    members: Page[Member]
    own_capabilities: list[str]
    session: Session | None = None
    ring: Ring | None = None
    created: bool = False


class JoinReply(Value, frozen=True):
    call: CallInfo
    session: Session
    participant: Participant
    own_capabilities: list[str]
    media: Media


class FoundCall(Value, frozen=True):
    call: CallInfo
    own_capabilities: list[str]


class CallType(Value, frozen=True):
    name: str
    built_in: bool
    version: int
    settings: dict[str, Any]
    grants: dict[str, list[str]]
    requestable: dict[str, list[str]]
    default_member_role: str
    notifications: dict[str, Any]


class Delivery(Value, frozen=True):
    """One event owed to one webhook."""

    id: str
    event_id: str
    type: str
    state: str
    attempts: int
    cid: str | None = None
    last_status: int | None = None
    last_error: str | None = None


def decode(data: Any, kind: type[T]) -> T:
    """Return `data` as a value of `kind`; raises `msgspec.ValidationError` where the server broke its word."""
    return msgspec.convert(data, kind)

"""What the calls system remembers, as immutable values.

Instants are aware datetimes in UTC. Not here: rules, and how a value is shown (`views.py`) or stored (`store/`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct

Custom = dict[str, Any]


class User(Struct, frozen=True, kw_only=True):
    id: str
    name: str | None = None
    image: str | None = None
    role: str = "user"
    teams: tuple[str, ...] = ()
    custom: Custom = {}
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None


class Role(Struct, frozen=True, kw_only=True):
    name: str
    built_in: bool
    created_at: datetime
    updated_at: datetime


class CallType(Struct, frozen=True, kw_only=True):
    """`settings` holds every group and key; `grants` and `requestable` sorted dotted ids by role."""

    name: str
    built_in: bool
    version: int
    settings: dict[str, Any]
    grants: dict[str, tuple[str, ...]]
    requestable: dict[str, tuple[str, ...]]
    default_member_role: str
    notifications: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class App(Struct, frozen=True, kw_only=True):
    name: str
    multi_tenant_enabled: bool
    development_type_enabled: bool
    guests_enabled: bool
    created_at: datetime
    updated_at: datetime


class Ban(Struct, frozen=True, kw_only=True):
    """`addresses`: with `ip`, hashes of where the user was seen (`api/v1/addresses.py`); shown to nobody."""

    user_id: str
    reason: str | None
    expires_at: datetime | None
    ip: bool
    banned_by: str | None
    created_at: datetime
    updated_at: datetime
    addresses: tuple[str, ...] = ()


class Call(Struct, frozen=True, kw_only=True):
    """`key` is the row's own id: a hard-deleted call's id may be used anew. `seq` numbers the call's events."""

    key: str
    type: str
    id: str
    team: str | None
    created_by: str | None
    version: int
    custom: Custom
    settings_overrides: dict[str, Any]
    starts_at: datetime | None
    live: bool
    live_started_at: datetime | None
    live_ended_at: datetime | None
    ended_at: datetime | None
    ended_by: str | None
    deleted_at: datetime | None
    created_at: datetime
    updated_at: datetime
    seq: int = 0
    pins: tuple[str, ...] = ()

    @property
    def cid(self) -> str:
        return f"{self.type}:{self.id}"


class Member(Struct, frozen=True, kw_only=True):
    """`granted` and `revoked` are session grants that were made with `persist`."""

    user_id: str
    role: str
    custom: Custom
    granted: frozenset[str] = frozenset()
    revoked: frozenset[str] = frozenset()
    created_at: datetime
    updated_at: datetime


class Session(Struct, frozen=True, kw_only=True):
    """`empty_since`: since when nobody is in it, `alone_since`: since when one is, after a ring was resolved.

    `extended_seconds`: what was added to the longest duration that the settings allow. `permissions`: the highest
    version of permissions that anybody was given in it, so that those of a later visit are higher.
    """

    id: str
    started_at: datetime
    ended_at: datetime | None = None
    end_reason: str | None = None
    expires_at: datetime | None = None
    extended_seconds: int = 0
    participant_count: int = 0
    empty_since: datetime | None = None
    alone_since: datetime | None = None
    ring_resolved: bool = False
    permissions: int = 0
    node: str = ""
    """The media node that has its room; "": it was begun before nodes were noted."""
    created_at: datetime
    updated_at: datetime


class TokenScope(Struct, frozen=True, kw_only=True):
    """How far a token narrows what its user may do; None narrows nothing."""

    role: str | None = None
    ceiling: frozenset[str] | None = None


UNNARROWED = TokenScope()


class Participant(Struct, frozen=True, kw_only=True):
    """`due_at`: when `connecting` or `reconnecting` becomes `left`."""

    id: str
    session_id: str
    user_id: str
    device_id: str
    name: str
    role: str
    app_role: str
    state: str
    hidden: bool
    scope: TokenScope
    capabilities: tuple[str, ...]
    permission_version: int
    joined_at: datetime | None = None
    left_at: datetime | None = None
    left_reason: str | None = None
    due_at: datetime | None = None
    created_at: datetime
    updated_at: datetime

    @property
    def identity(self) -> str:
        return f"{self.user_id}:{self.device_id}"


class Rights(Struct, frozen=True, kw_only=True):
    """What a user got and lost in the running session, and the set last told.

    `permission_version`: the highest that a participant of his was given, before sessions counted them for all.
    """

    user_id: str
    granted: frozenset[str] = frozenset()
    revoked: frozenset[str] = frozenset()
    capabilities: tuple[str, ...] = ()
    version: int = 0
    permission_version: int = 0
    created_at: datetime
    updated_at: datetime


class Callee(Struct, frozen=True, kw_only=True):
    user_id: str
    state: str
    reason: str | None
    device_id: str | None
    due_at: datetime
    updated_at: datetime


class Ring(Struct, frozen=True, kw_only=True):
    id: str
    caller_id: str | None
    video: bool
    custom: Custom
    state: str
    expires_at: datetime
    ended_at: datetime | None
    callees: tuple[Callee, ...]
    created_at: datetime
    updated_at: datetime

    @property
    def settled(self) -> bool:
        return all(callee.state != "ringing" for callee in self.callees)

    def rings(self, user_id: str) -> bool:
        """Tell whether this user is being rung."""
        return any(callee.user_id == user_id and callee.state == "ringing" for callee in self.callees)


class Request(Struct, frozen=True, kw_only=True):
    id: str
    session_id: str
    user_id: str
    capabilities: tuple[str, ...]
    state: str
    expires_at: datetime
    resolved_at: datetime | None
    resolved_by: str | None
    created_at: datetime
    updated_at: datetime


class LobbyEntry(Struct, frozen=True, kw_only=True):
    id: str
    user_id: str
    device_id: str
    state: str
    expires_at: datetime
    resolved_by: str | None
    created_at: datetime
    updated_at: datetime


class Block(Struct, frozen=True, kw_only=True):
    user_id: str
    reason: str | None
    expires_at: datetime | None
    blocked_by: str | None
    created_at: datetime
    updated_at: datetime


class Capture(Struct, frozen=True, kw_only=True):
    """A recording, transcription, captioning, broadcast, frame recording or ingest; `feature` tells which."""

    id: str
    feature: str
    session_id: str
    kind: str
    layout: str | None
    state: str
    failure_reason: str | None
    started_by: str | None
    started_at: datetime
    ended_at: datetime | None
    files: tuple[dict[str, Any], ...]
    created_at: datetime
    updated_at: datetime


class Feedback(Struct, frozen=True, kw_only=True):
    id: str
    session_id: str | None
    user_id: str
    rating: int
    reason: str | None
    custom: Custom
    created_at: datetime
    updated_at: datetime


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened, and who is to hear it.

    `groups`: M members, P participants, W watchers, S server. `users` hear it besides. `only_devices` and `personal`
    vary it per receiver: see `events/audience.py`.
    """

    id: str
    type: str
    cid: str | None
    session_id: str | None
    seq: int | None
    at: datetime
    actor: str | None
    data: dict[str, Any]
    groups: str = ""
    users: tuple[str, ...] = ()
    deciders: tuple[str, ...] = ()
    team: str | None = None


class Device(Struct, frozen=True, kw_only=True):
    id: str
    user_id: str
    provider: str
    token: str
    push_provider: str | None
    created_at: datetime
    updated_at: datetime


class PushProvider(Struct, frozen=True, kw_only=True):
    name: str
    type: str
    base_url: str | None
    config: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class Storage(Struct, frozen=True, kw_only=True):
    """Where captures are put; `config` has the keys too."""

    name: str
    type: str
    config: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class Webhook(Struct, frozen=True, kw_only=True):
    """`secrets`: newest first; each with the instant until which it signs, None for ever."""

    id: str
    url: str
    events: tuple[str, ...]
    call_types: tuple[str, ...] | None
    enabled: bool
    secrets: tuple[tuple[str, datetime | None], ...]
    created_at: datetime
    updated_at: datetime


class Delivery(Struct, frozen=True, kw_only=True):
    """`body` is sent as it is, so that every attempt has the same bytes under its signature."""

    id: str
    webhook_id: str
    event_id: str
    type: str
    cid: str | None
    seq: int | None
    body: str
    state: str
    attempts: int
    last_status: int | None
    last_error: str | None
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    created_at: datetime
    updated_at: datetime


class PushJob(Struct, frozen=True, kw_only=True):
    """One message owed to one device. `payload` is provider-neutral; `kind` one of ring, notification, missed …

    `provider`: type and name of the provider that it goes to; `host`: the domain of the device's own push service, ""
    where the provider is the service.
    """

    id: str
    device_id: str
    user_id: str
    kind: str
    payload: dict[str, Any]
    state: str
    attempts: int
    last_status: int | None
    last_error: str | None
    next_attempt_at: datetime | None
    expires_at: datetime
    provider: str = ""
    host: str = ""
    created_at: datetime
    updated_at: datetime


class NodeFacts(Struct, frozen=True, kw_only=True):
    """A media node as it is for those who place rooms: how clients reach it, and whether it takes new rooms."""

    id: str
    url: str
    regions: tuple[str, ...] = ()
    ice_servers: tuple[dict[str, Any], ...] = ()
    is_open: bool = True


class MediaNode(Struct, frozen=True, kw_only=True):
    """`until`: when it counts as dead, unless it says again that it is there."""

    facts: NodeFacts
    until: datetime
    created_at: datetime
    updated_at: datetime

    @property
    def id(self) -> str:
        return self.facts.id


class Order(Struct, frozen=True, kw_only=True):
    """Something that follows from what was committed with it. `node`: the media node at which it is to be done; "":
    any process does it. `data`: the fields of the work that `kind` names.
    """

    id: str
    node: str
    kind: str
    data: dict[str, Any]
    state: str
    next_attempt_at: datetime
    created_at: datetime
    updated_at: datetime


class Task(Struct, frozen=True, kw_only=True):
    id: str
    kind: str
    owner: str | None
    argument: str
    status: str
    result: dict[str, Any] | None
    error: str | None
    created_at: datetime
    updated_at: datetime


class AuditEntry(Struct, frozen=True, kw_only=True):
    id: str
    actor: str | None
    action: str
    target: str
    before: Any
    after: Any
    created_at: datetime
    updated_at: datetime

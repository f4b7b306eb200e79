"""A call as a whole, as operations see it: a draft they change, and the turn in which they do.

The values inside are immutable; a draft copies only the tables, so the difference between two states is what is not
the same object. Not here: rules, storage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from msgspec import structs

from signaling.calls.call_settings import effective
from signaling.calls.model import (
    App,
    Ban,
    Block,
    Call,
    CallType,
    Capture,
    Event,
    LobbyEntry,
    Member,
    NodeFacts,
    Participant,
    Request,
    Rights,
    Ring,
    Session,
    User,
)
from signaling.calls.principal import Principal


@dataclass
class CallState:
    """Everything of one call that operations decide on. Of rings, requests, lobby and captures: what is unfinished.

    Finished things stay until the draft is stored, and are dropped from the next one.
    """

    call: Call
    session: Session | None = None
    members: dict[str, Member] = field(default_factory=dict)
    participants: dict[str, Participant] = field(default_factory=dict)
    rights: dict[str, Rights] = field(default_factory=dict)
    rings: dict[str, Ring] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    lobby: dict[str, LobbyEntry] = field(default_factory=dict)
    blocks: dict[str, Block] = field(default_factory=dict)
    captures: dict[str, Capture] = field(default_factory=dict)

    def draft(self) -> CallState:
        return CallState(self.call, self.session, *(dict(getattr(self, name)) for name in _TABLES))

    @property
    def pending_ring(self) -> Ring | None:
        return next((ring for ring in self.rings.values() if ring.state == "pending"), None)

    @property
    def running(self) -> Session | None:
        """The session that has not ended."""
        return self.session if self.session is not None and self.session.ended_at is None else None

    def present(self) -> list[Participant]:
        """Return who has not left, by age."""
        return [participant for participant in self.participants.values() if participant.state != "left"]

    def joined(self) -> list[Participant]:
        return [p for p in self.participants.values() if p.state in ("joined", "reconnecting")]

    def seen(self) -> list[Participant]:
        """Return who is there for everybody: hidden participants are neither counted nor told of."""
        return [participant for participant in self.joined() if not participant.hidden]

    def of_user(self, user_id: str) -> list[Participant]:
        return [participant for participant in self.present() if participant.user_id == user_id]


STATE_FIELDS = tuple(one.name for one in fields(CallState))
_TABLES = STATE_FIELDS[2:]


# What the media side is to do, in this order, before anybody is told.


@dataclass(frozen=True)
class CreateRoom:
    """At `node`, before the commit if it is this process's own; another's makes it when somebody comes."""

    room: str
    node: str
    metadata: str
    empty_timeout_seconds: int
    regions: tuple[str, ...]
    region_hint: str | None


@dataclass(frozen=True)
class CloseRoom:
    room: str
    reason: str


@dataclass(frozen=True)
class UpdateParticipant:
    """`capabilities`: the full set, never a difference (T-3)."""

    room: str
    identity: str
    capabilities: tuple[str, ...]
    hidden: bool
    version: int


@dataclass(frozen=True)
class RemoveParticipant:
    """`version`: his permission's; who has come again since has a higher one and is not meant. None: whoever it is."""

    room: str
    identity: str
    reason: str
    version: int | None = None


@dataclass(frozen=True)
class MuteTracks:
    room: str
    identity: str
    kinds: tuple[str, ...]


MediaEffect = CreateRoom | CloseRoom | UpdateParticipant | RemoveParticipant | MuteTracks

# What is to be done for many calls after a commit that concerns all of them.


@dataclass(frozen=True)
class Refresh:
    """Have a change of types, roles or bans reach the sessions of one type, or those that one user is in."""

    reason: str
    type_: str | None = None
    user_id: str | None = None


@dataclass(frozen=True)
class RemoveUser:
    """Have a deleted user leave the sessions he is in."""

    user_id: str


Work = CloseRoom | UpdateParticipant | RemoveParticipant | MuteTracks | Refresh | RemoveUser


@dataclass(frozen=True)
class Push:
    """A message to every suitable device of a user. `kind`: ring, notification, missed, live_started …"""

    user_id: str
    kind: str
    payload: dict[str, Any]
    expires_at: datetime


Effect = MediaEffect | Push | Event


@dataclass
class Facts:
    """What is true around the call: loaded before an operation, constant in it."""

    app: App
    types: Mapping[str, CallType]
    roles: frozenset[str]
    users: Mapping[str, User]
    bans: Mapping[str, Ban]
    busy: frozenset[str] = frozenset()
    online: frozenset[str] = frozenset()
    """Who has an event socket, at whichever process; known where something is rung."""
    nodes: Mapping[str, NodeFacts] = field(default_factory=dict)
    """The living media nodes by id; known where somebody joins."""
    own_node: str = ""
    """The media node of the process that asks."""
    banned_addresses: Mapping[str, Sequence[Ban]] = field(default_factory=dict)
    """The bans that cover an address, by its hash; those that have run out too."""


@dataclass
class Turn:
    """One operation: who asks, when, what is known around, and what follows from it."""

    principal: Principal
    now: datetime
    new_id: Callable[[], str]
    facts: Facts
    state: CallState
    effects: list[Effect] = field(default_factory=list)
    stored: list[Any] = field(default_factory=list)
    """Records beside the call's state that the commit writes too: tasks, audit entries, feedback."""
    _settings: tuple[Any, Any, dict[str, Any]] | None = None

    @property
    def actor(self) -> str | None:
        return self.principal.user_id

    @property
    def call(self) -> Call:
        return self.state.call

    @property
    def type(self) -> CallType:
        return self.facts.types[self.state.call.type]

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting in force for the call; recomputed only after a change."""
        overrides, defaults = self.state.call.settings_overrides, self.type.settings
        if self._settings is None or self._settings[0] is not overrides or self._settings[1] is not defaults:
            self._settings = (overrides, defaults, effective(defaults, overrides))
        return self._settings[2]

    def change_call(self, **changes: Any) -> Call:
        """Set fields of the call; every change of what clients see counts up its version."""
        call = self.state.call
        self.state.call = structs.replace(call, **changes, version=call.version + 1, updated_at=self.now)
        return self.state.call

    def put(self, table: str, key: str, value: Any, **changes: Any) -> Any:
        """Store `value`, with `changes` applied and its age noted, under `key` in one of the state's tables."""
        if changes:
            value = structs.replace(value, **changes, updated_at=self.now)
        getattr(self.state, table)[key] = value
        return value

    def change_session(self, **changes: Any) -> Session | None:
        if self.state.session is not None:
            self.state.session = structs.replace(self.state.session, **changes, updated_at=self.now)
        return self.state.session

    def media(self, effect: MediaEffect) -> None:
        self.effects.append(effect)

    def push(self, user_id: str, kind: str, payload: dict[str, Any], expires_at: datetime) -> None:
        self.effects.append(Push(user_id, kind, payload, expires_at))

    def emit(
        self,
        type_: str,
        data: dict[str, Any],
        groups: str,
        *,
        users: tuple[str, ...] = (),
        deciders: tuple[str, ...] = (),
        numbered: bool = True,
        session_id: str | None = None,
    ) -> None:
        """Tell an audience. Numbered events of a call are gapless."""
        seq = None
        if numbered:
            seq = self.state.call.seq + 1
            self.state.call = structs.replace(self.state.call, seq=seq)
        session = self.state.session
        self.effects.append(
            Event(
                id=self.new_id(),
                type=type_,
                cid=self.call.cid,
                session_id=session_id or (session.id if session else None),
                seq=seq,
                at=self.now,
                actor=self.actor,
                data=data,
                groups=groups,
                users=users,
                deciders=deciders,
                team=self.call.team,
            )
        )

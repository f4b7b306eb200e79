"""Which entity lives in which table, and what its searched columns are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import Table

from signaling.calls import model
from signaling.store import schema

Entity = TypeVar("Entity", bound=msgspec.Struct)


def milliseconds(at: datetime | None) -> Any:
    return None if at is None else round(at.timestamp() * 1000)


def instant(value: int | None) -> datetime | None:
    return None if value is None else datetime.fromtimestamp(value / 1000, UTC)


@dataclass(frozen=True)
class Kind(Generic[Entity]):
    """`columns` gives what is searched, key included; `created_at` and `doc` are everybody's.

    `lasting`: columns that stay what they are as long as a row's key does, so that no index of theirs is written anew.
    """

    table: Table
    entity: type[Entity]
    columns: Callable[[Any], Mapping[str, Any]]
    lasting: frozenset[str] = frozenset()

    def row(self, value: Entity, **more: Any) -> dict[str, Any]:
        # Every entity of the model has an age.
        created: datetime = value.created_at  # type: ignore[attr-defined]
        return {**self.columns(value), **more, "created_at": milliseconds(created), "doc": value}

    def read(self, doc: Any) -> Entity:
        return msgspec.convert(doc, self.entity)

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(column.name for column in self.table.columns)

    @cached_property
    def key(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.table.primary_key)


def _by(*names: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda value: {name: getattr(value, name) for name in names}


USERS = Kind(schema.users, model.User, lambda u: {"id": u.id, "role": u.role, "deleted": u.deleted_at is not None})
ROLES = Kind(schema.roles, model.Role, _by("name"))
CALL_TYPES = Kind(schema.call_types, model.CallType, _by("name"))
BANS = Kind(schema.bans, model.Ban, _by("user_id"))
APP = Kind(schema.app, model.App, lambda _: {"id": "app"})

CALLS = Kind(schema.calls, model.Call, _by("key", "type", "id"))
"""For reading; a call is stored with its revision, by `CallRepository` alone."""
MEMBERS = Kind(schema.members, model.Member, _by("user_id", "role"))
SESSIONS = Kind(
    schema.sessions,
    model.Session,
    lambda s: {"id": s.id, "running": s.ended_at is None},
    lasting=frozenset({"created_at"}),
)
PARTICIPANTS = Kind(
    schema.participants,
    model.Participant,
    lambda p: {"id": p.id, "session_id": p.session_id, "user_id": p.user_id, "present": p.state != "left"},
    lasting=frozenset({"session_id", "user_id", "created_at"}),
)
RIGHTS = Kind(schema.rights, model.Rights, _by("user_id"))
RINGS = Kind(schema.rings, model.Ring, lambda r: {"id": r.id, "open": not r.settled})
REQUESTS = Kind(schema.requests, model.Request, lambda r: {"id": r.id, "open": r.state == "pending"})
LOBBY = Kind(schema.lobby, model.LobbyEntry, lambda e: {"id": e.id, "open": e.state in ("waiting", "admitted")})
BLOCKS = Kind(schema.blocks, model.Block, _by("user_id"))
CAPTURES = Kind(
    schema.captures,
    model.Capture,
    lambda c: {"id": c.id, "feature": c.feature, "open": c.state in ("starting", "started", "stopping")},
)
FEEDBACK = Kind(schema.feedback, model.Feedback, _by("id", "session_id"))

DEVICES = Kind(schema.devices, model.Device, _by("id", "user_id", "provider", "token"))
PUSH_PROVIDERS = Kind(schema.push_providers, model.PushProvider, _by("name"))
STORAGES = Kind(schema.storages, model.Storage, _by("name"))
WEBHOOKS = Kind(schema.webhooks, model.Webhook, _by("id"))
DELIVERIES = Kind(
    schema.deliveries,
    model.Delivery,
    lambda d: {
        "id": d.id,
        "webhook_id": d.webhook_id,
        "cid": d.cid,
        "state": d.state,
        "next_attempt_at": milliseconds(d.next_attempt_at),
    },
)
PUSH_JOBS = Kind(
    schema.push_jobs,
    model.PushJob,
    lambda j: {
        "id": j.id,
        "device_id": j.device_id,
        "user_id": j.user_id,
        "provider": j.provider,
        "host": j.host,
        "urgent": j.kind == "ring",
        "state": j.state,
        "next_attempt_at": milliseconds(j.next_attempt_at),
    },
    lasting=frozenset({"device_id", "user_id", "provider", "host", "urgent", "created_at"}),
)
NODES = Kind(schema.nodes, model.MediaNode, lambda n: {"id": n.id, "until": milliseconds(n.until)})
ORDERS = Kind(
    schema.orders,
    model.Order,
    lambda o: {"id": o.id, "node": o.node, "state": o.state, "next_attempt_at": milliseconds(o.next_attempt_at)},
)
TASKS = Kind(schema.tasks, model.Task, _by("id", "status"))
AUDIT = Kind(schema.audit, model.AuditEntry, _by("id"))

OF_ENTITY: dict[type, Kind[Any]] = {
    kind.entity: kind
    for kind in (
        USERS, ROLES, CALL_TYPES, BANS, APP, MEMBERS, SESSIONS, PARTICIPANTS, RIGHTS, RINGS, REQUESTS, LOBBY, BLOCKS,
        CAPTURES, FEEDBACK, DEVICES, PUSH_PROVIDERS, STORAGES, WEBHOOKS, DELIVERIES, PUSH_JOBS, NODES, ORDERS, TASKS,
        AUDIT,
    )
}  # fmt: skip

OF_CALL: dict[str, Kind[Any]] = {
    "members": MEMBERS,
    "participants": PARTICIPANTS,
    "rights": RIGHTS,
    "rings": RINGS,
    "requests": REQUESTS,
    "lobby": LOBBY,
    "blocks": BLOCKS,
    "captures": CAPTURES,
}
"""The tables of a `CallState`, by the name of its field."""

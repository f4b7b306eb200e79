"""The tables. Instants are milliseconds since 1970; `doc` is the entity, the other columns are what queries need.

`migrations/` creates them; a test holds the two to be equal.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import SchemaItem

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Document = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
# SQLite gives row numbers to INTEGER keys only.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")


def _doc() -> Column[object]:
    return Column("doc", Document, nullable=False)


def _created() -> Column[int]:
    return Column("created_at", BigInteger, nullable=False)


def _id(name: str = "id", length: int = 128) -> Column[str]:
    return Column(name, String(length), primary_key=True)


def _of_call(*, primary_key: bool = False) -> Column[str]:
    return Column(
        "call_key", String(36), ForeignKey("calls.key", ondelete="CASCADE"), primary_key=primary_key, nullable=False
    )


def _table(name: str, *items: SchemaItem) -> Table:
    return Table(name, metadata, *items)


realm = _table("realm", Column("id", Integer, primary_key=True), Column("revision", BigInteger, nullable=False))
app = _table("app", _id(length=8), _created(), _doc())
users = _table(
    "users", _id(), Column("role", String(64), nullable=False), Column("deleted", Boolean, nullable=False),
    _created(), _doc(),
    Index("ix_users_role_created_at", "role", "created_at"), Index("ix_users_created_at_id", "created_at", "id"),
)  # fmt: skip
roles = _table("roles", _id("name"), _created(), _doc())
call_types = _table("call_types", _id("name"), _created(), _doc())
bans = _table("bans", _id("user_id"), _created(), _doc())

calls = _table(
    "calls",
    _id("key", 36),
    Column("type", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("team", String(128), index=True),
    Column("created_by", String(128), index=True),
    _created(),
    Column("updated_at", BigInteger, nullable=False),
    Column("starts_at", BigInteger, index=True),
    Column("ended_at", BigInteger),
    Column("deleted_at", BigInteger),
    Column("backstage_enabled", Boolean),
    Column("live", Boolean, nullable=False),
    Column("session_id", String(36), index=True),
    Column("node", String(64)),
    Column("participant_count", Integer, nullable=False),
    Column("due_at", BigInteger, index=True),
    Column("revision", BigInteger, nullable=False),
    # Of the document: to read all of it for each call costs a search twice as much.
    Column("custom", Document),
    _doc(),
    UniqueConstraint("type", "id"),
    Index("ix_calls_created_at_key", "created_at", "key"),
)
members = _table(
    "members",
    _of_call(primary_key=True),
    _id("user_id"),
    Column("role", String(64), nullable=False, index=True),
    _created(),
    _doc(),
    Index("ix_members_user_id", "user_id"),
)
sessions = _table(
    "sessions",
    _id("id", 36),
    _of_call(),
    Column("running", Boolean, nullable=False),
    _created(),
    _doc(),
    Index("ix_sessions_call_key_created_at", "call_key", "created_at"),
    Index("ix_sessions_created_at", "created_at"),
)
participants = _table(
    "participants",
    _id("id", 36),
    _of_call(),
    Column("session_id", String(36), nullable=False, index=True),
    Column("user_id", String(256), nullable=False),
    Column("present", Boolean, nullable=False),
    _created(),
    _doc(),
    Index("ix_participants_call_key_present", "call_key", "present"),
    Index("ix_participants_user_id_present", "user_id", "present"),
    Index("ix_participants_created_at", "created_at"),
)
rights = _table("rights", _of_call(primary_key=True), _id("user_id", 256), _created(), _doc())


def _of_call_by_id(name: str, *items: SchemaItem) -> Table:
    """Return a table of things of a call that are open until they are resolved."""
    return _table(
        name,
        _id("id", 36),
        _of_call(),
        Column("open", Boolean, nullable=False),
        _created(),
        _doc(),
        *items,
        Index(f"ix_{name}_call_key_open", "call_key", "open"),
        Index(f"ix_{name}_created_at", "created_at"),
    )


rings = _of_call_by_id("rings", Index("ix_rings_call_key_created_at", "call_key", "created_at"))
requests = _of_call_by_id("requests")
lobby = _of_call_by_id("lobby")
captures = _of_call_by_id("captures", Column("feature", String(32), nullable=False))
blocks = _table("blocks", _of_call(primary_key=True), _id("user_id"), _created(), _doc())
feedback = _table(
    "feedback", _id("id", 36), _of_call(), Column("session_id", String(36), index=True), _created(), _doc(),
    Index("ix_feedback_created_at", "created_at"),
)  # fmt: skip

devices = _table(
    "devices",
    _id("id", 36),
    Column("user_id", String(128), nullable=False),
    Column("provider", String(16), nullable=False),
    Column("token", String(4096), nullable=False),
    _created(),
    _doc(),
    UniqueConstraint("user_id", "provider", "token"),
)
push_providers = _table("push_providers", _id("name"), _created(), _doc())
storages = _table("storages", _id("name"), _created(), _doc())
webhooks = _table("webhooks", _id("id", 36), _created(), _doc())
webhook_positions = _table(
    "webhook_positions", _id("webhook_id", 36), _id("cid", 160), Column("seq", BigInteger, nullable=False)
)
deliveries = _table(
    "deliveries",
    _id("id", 36),
    Column("webhook_id", String(36), nullable=False),
    Column("cid", String(160)),
    Column("state", String(16), nullable=False),
    Column("next_attempt_at", BigInteger),
    _created(),
    _doc(),
    Index("ix_deliveries_webhook_id_created_at", "webhook_id", "created_at"),
    Index("ix_deliveries_state_next_attempt_at", "state", "next_attempt_at"),
    Index("ix_deliveries_created_at", "created_at"),
)
push_jobs = _table(
    "push_jobs",
    _id("id", 36),
    Column("device_id", String(36), nullable=False),
    Column("user_id", String(128), nullable=False),
    Column("provider", String(80), nullable=False),
    Column("host", String(253), nullable=False),
    Column("urgent", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    Column("next_attempt_at", BigInteger),
    _created(),
    _doc(),
    Index("ix_push_jobs_state_urgent_next_attempt_at", "state", "urgent", "next_attempt_at"),
    Index("ix_push_jobs_user_id_state", "user_id", "state"),
    Index("ix_push_jobs_device_id_created_at", "device_id", "created_at"),
    Index("ix_push_jobs_created_at", "created_at"),
)
events = Table(
    "events",
    metadata,
    Column("number", RowNumber, primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("cid", String(160)),
    Column("seq", BigInteger),
    _created(),
    _doc(),
    Index("ix_events_cid_seq", "cid", "seq"),
    Index("ix_events_created_at", "created_at"),
    # No number twice: other processes follow the events by it.
    sqlite_autoincrement=True,
)
addresses = _table(
    "addresses",
    _id("user_id"),
    _id("address", 64),
    Column("seen_at", BigInteger, nullable=False, index=True),
)
nodes = _table("nodes", _id(length=64), Column("until", BigInteger, nullable=False), _created(), _doc())
orders = _table(
    "orders",
    _id("id", 36),
    Column("node", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("next_attempt_at", BigInteger, nullable=False),
    _created(),
    _doc(),
    Index("ix_orders_node_next_attempt_at", "node", "next_attempt_at"),
)
presence = _table("presence", _id("user_id", 256), _id("process", 36), Column("until", BigInteger, nullable=False))
tasks = _table(
    "tasks", _id("id", 36), Column("status", String(16), nullable=False, index=True), _created(), _doc(),
    Index("ix_tasks_created_at", "created_at"),
)  # fmt: skip
audit = _table("audit", _id("id", 36), _created(), _doc(), Index("ix_audit_created_at_id", "created_at", "id"))
idempotency = _table(
    "idempotency",
    _id("scope", 512),
    _id("idempotency_key", 255),
    Column("body_sha256", String(64), nullable=False),
    Column("status", Integer),
    Column("headers", Text),
    Column("body", Text),
    _created(),
    Index("ix_idempotency_created_at", "created_at"),
)

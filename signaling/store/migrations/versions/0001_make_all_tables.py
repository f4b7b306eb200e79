"""Make all tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "app",
        sa.Column("id", sa.String(length=8), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_app")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.create_index("ix_audit_created_at_id", ["created_at", "id"], unique=False)

    op.create_table(
        "bans",
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_bans")),
    )
    op.create_table(
        "call_types",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_call_types")),
    )
    op.create_table(
        "calls",
        sa.Column("key", sa.String(length=36), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("team", sa.String(length=128), nullable=True),
        sa.Column("created_by", sa.String(length=128), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("starts_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.Column("backstage_enabled", sa.Boolean(), nullable=True),
        sa.Column("live", sa.Boolean(), nullable=False),
        sa.Column("session_id", sa.String(length=36), nullable=True),
        sa.Column("participant_count", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_calls")),
        sa.UniqueConstraint("type", "id", name=op.f("uq_calls_type_id")),
    )
    with op.batch_alter_table("calls", schema=None) as batch_op:
        batch_op.create_index("ix_calls_created_at_key", ["created_at", "key"], unique=False)
        batch_op.create_index(batch_op.f("ix_calls_created_by"), ["created_by"], unique=False)
        batch_op.create_index(batch_op.f("ix_calls_due_at"), ["due_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_calls_session_id"), ["session_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_calls_starts_at"), ["starts_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_calls_team"), ["team"], unique=False)

    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("webhook_id", sa.String(length=36), nullable=False),
        sa.Column("cid", sa.String(length=160), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.create_index("ix_deliveries_state_next_attempt_at", ["state", "next_attempt_at"], unique=False)
        batch_op.create_index("ix_deliveries_webhook_id_created_at", ["webhook_id", "created_at"], unique=False)

    op.create_table(
        "devices",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("provider", sa.String(length=16), nullable=False),
        sa.Column("token", sa.String(length=4096), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
        sa.UniqueConstraint("user_id", "provider", "token", name=op.f("uq_devices_user_id_provider_token")),
    )
    op.create_table(
        "events",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("cid", sa.String(length=160), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_events")),
        sa.UniqueConstraint("id", name=op.f("uq_events_id")),
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index("ix_events_cid_seq", ["cid", "seq"], unique=False)
        batch_op.create_index("ix_events_created_at", ["created_at"], unique=False)

    op.create_table(
        "idempotency",
        sa.Column("scope", sa.String(length=512), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "idempotency_key", name=op.f("pk_idempotency")),
    )
    op.create_table(
        "push_jobs",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("device_id", sa.String(length=36), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_push_jobs")),
    )
    with op.batch_alter_table("push_jobs", schema=None) as batch_op:
        batch_op.create_index("ix_push_jobs_device_id_created_at", ["device_id", "created_at"], unique=False)
        batch_op.create_index("ix_push_jobs_state_next_attempt_at", ["state", "next_attempt_at"], unique=False)

    op.create_table(
        "push_providers",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_push_providers")),
    )
    op.create_table(
        "realm",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_realm")),
    )
    op.create_table(
        "roles",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_roles")),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
    )
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_tasks_status"), ["status"], unique=False)

    op.create_table(
        "users",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
    with op.batch_alter_table("users", schema=None) as batch_op:
        batch_op.create_index("ix_users_created_at_id", ["created_at", "id"], unique=False)
        batch_op.create_index(batch_op.f("ix_users_role"), ["role"], unique=False)

    op.create_table(
        "webhook_positions",
        sa.Column("webhook_id", sa.String(length=36), nullable=False),
        sa.Column("cid", sa.String(length=160), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("webhook_id", "cid", name=op.f("pk_webhook_positions")),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_table(
        "blocks",
        sa.Column("call_key", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(["call_key"], ["calls.key"], name=op.f("fk_blocks_call_key_calls"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("call_key", "user_id", name=op.f("pk_blocks")),
    )
    op.create_table(
        "captures",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("call_key", sa.String(length=36), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.Column("feature", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["call_key"], ["calls.key"], name=op.f("fk_captures_call_key_calls"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_captures")),
    )
    with op.batch_alter_table("captures", schema=None) as batch_op:
        batch_op.create_index("ix_captures_call_key_open", ["call_key", "open"], unique=False)

    op.create_table(
        "feedback",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("call_key", sa.String(length=36), nullable=False),
        sa.Column("session_id", sa.String(length=36), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["call_key"], ["calls.key"], name=op.f("fk_feedback_call_key_calls"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
    )
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_feedback_session_id"), ["session_id"], unique=False)

    op.create_table(
        "lobby",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("call_key", sa.String(length=36), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(["call_key"], ["calls.key"], name=op.f("fk_lobby_call_key_calls"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lobby")),
    )
    with op.batch_alter_table("lobby", schema=None) as batch_op:
        batch_op.create_index("ix_lobby_call_key_open", ["call_key", "open"], unique=False)

    op.create_table(
        "members",
        sa.Column("call_key", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["call_key"], ["calls.key"], name=op.f("fk_members_call_key_calls"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("call_key", "user_id", name=op.f("pk_members")),
    )
    with op.batch_alter_table("members", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_members_role"), ["role"], unique=False)
        batch_op.create_index("ix_members_user_id", ["user_id"], unique=False)

    op.create_table(
        "participants",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("call_key", sa.String(length=36), nullable=False),
        sa.Column("session_id", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=256), nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["call_key"], ["calls.key"], name=op.f("fk_participants_call_key_calls"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_participants")),
    )
    with op.batch_alter_table("participants", schema=None) as batch_op:
        batch_op.create_index("ix_participants_call_key_present", ["call_key", "present"], unique=False)
        batch_op.create_index(batch_op.f("ix_participants_session_id"), ["session_id"], unique=False)
        batch_op.create_index("ix_participants_user_id_present", ["user_id", "present"], unique=False)

    op.create_table(
        "requests",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("call_key", sa.String(length=36), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["call_key"], ["calls.key"], name=op.f("fk_requests_call_key_calls"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
    )
    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.create_index("ix_requests_call_key_open", ["call_key", "open"], unique=False)

    op.create_table(
        "rights",
        sa.Column("call_key", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=256), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(["call_key"], ["calls.key"], name=op.f("fk_rights_call_key_calls"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("call_key", "user_id", name=op.f("pk_rights")),
    )
    op.create_table(
        "rings",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("call_key", sa.String(length=36), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(["call_key"], ["calls.key"], name=op.f("fk_rings_call_key_calls"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rings")),
    )
    with op.batch_alter_table("rings", schema=None) as batch_op:
        batch_op.create_index("ix_rings_call_key_open", ["call_key", "open"], unique=False)

    op.create_table(
        "sessions",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("call_key", sa.String(length=36), nullable=False),
        sa.Column("running", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["call_key"], ["calls.key"], name=op.f("fk_sessions_call_key_calls"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
    )
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.create_index("ix_sessions_call_key_created_at", ["call_key", "created_at"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.drop_index("ix_sessions_call_key_created_at")

    op.drop_table("sessions")
    with op.batch_alter_table("rings", schema=None) as batch_op:
        batch_op.drop_index("ix_rings_call_key_open")

    op.drop_table("rings")
    op.drop_table("rights")
    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.drop_index("ix_requests_call_key_open")

    op.drop_table("requests")
    with op.batch_alter_table("participants", schema=None) as batch_op:
        batch_op.drop_index("ix_participants_user_id_present")
        batch_op.drop_index(batch_op.f("ix_participants_session_id"))
        batch_op.drop_index("ix_participants_call_key_present")

    op.drop_table("participants")
    with op.batch_alter_table("members", schema=None) as batch_op:
        batch_op.drop_index("ix_members_user_id")
        batch_op.drop_index(batch_op.f("ix_members_role"))

    op.drop_table("members")
    with op.batch_alter_table("lobby", schema=None) as batch_op:
        batch_op.drop_index("ix_lobby_call_key_open")

    op.drop_table("lobby")
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_feedback_session_id"))

    op.drop_table("feedback")
    with op.batch_alter_table("captures", schema=None) as batch_op:
        batch_op.drop_index("ix_captures_call_key_open")

    op.drop_table("captures")
    op.drop_table("blocks")
    op.drop_table("webhooks")
    op.drop_table("webhook_positions")
    with op.batch_alter_table("users", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_users_role"))
        batch_op.drop_index("ix_users_created_at_id")

    op.drop_table("users")
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_tasks_status"))

    op.drop_table("tasks")
    op.drop_table("roles")
    op.drop_table("realm")
    op.drop_table("push_providers")
    with op.batch_alter_table("push_jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_push_jobs_state_next_attempt_at")
        batch_op.drop_index("ix_push_jobs_device_id_created_at")

    op.drop_table("push_jobs")
    op.drop_table("idempotency")
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index("ix_events_created_at")
        batch_op.drop_index("ix_events_cid_seq")

    op.drop_table("events")
    op.drop_table("devices")
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.drop_index("ix_deliveries_webhook_id_created_at")
        batch_op.drop_index("ix_deliveries_state_next_attempt_at")

    op.drop_table("deliveries")
    with op.batch_alter_table("calls", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_calls_team"))
        batch_op.drop_index(batch_op.f("ix_calls_starts_at"))
        batch_op.drop_index(batch_op.f("ix_calls_session_id"))
        batch_op.drop_index(batch_op.f("ix_calls_due_at"))
        batch_op.drop_index(batch_op.f("ix_calls_created_by"))
        batch_op.drop_index("ix_calls_created_at_key")

    op.drop_table("calls")
    op.drop_table("call_types")
    op.drop_table("bans")
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.drop_index("ix_audit_created_at_id")

    op.drop_table("audit")
    op.drop_table("app")

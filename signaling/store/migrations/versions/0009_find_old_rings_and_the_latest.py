"""Find what is past its time of rings, requests, the lobby, captures, feedback and tasks, and a call's latest ring."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TABLES = ("rings", "requests", "lobby", "captures", "feedback", "tasks")


def upgrade() -> None:
    for table in TABLES:
        op.create_index(op.f(f"ix_{table}_created_at"), table, ["created_at"])
    op.create_index("ix_rings_call_key_created_at", "rings", ["call_key", "created_at"])


def downgrade() -> None:
    op.drop_index("ix_rings_call_key_created_at", "rings")
    for table in TABLES:
        op.drop_index(op.f(f"ix_{table}_created_at"), table)

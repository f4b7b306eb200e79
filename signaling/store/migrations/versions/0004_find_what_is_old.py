"""Find what is past its time without a look at everything."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = {
    "idempotency": ["created_at"],
    "deliveries": ["created_at"],
    "push_jobs": ["created_at"],
    "participants": ["created_at"],
    "sessions": ["created_at"],
}


def upgrade() -> None:
    for table, columns in INDEXES.items():
        op.create_index(op.f(f"ix_{table}_created_at"), table, columns)


def downgrade() -> None:
    for table in INDEXES:
        op.drop_index(op.f(f"ix_{table}_created_at"), table)

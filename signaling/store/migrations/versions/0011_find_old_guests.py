"""Find users of a role by their age: guests are forgotten."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_users_role_created_at", "users", ["role", "created_at"])
    op.drop_index(op.f("ix_users_role"), "users")


def downgrade() -> None:
    op.create_index(op.f("ix_users_role"), "users", ["role"])
    op.drop_index("ix_users_role_created_at", "users")

"""Tell of what is owed to devices whose it is, where it goes and whether it rings, so that nobody waits for others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# What is owed from before is sent like what is nobody's: within seconds.
COLUMNS = {"user_id": sa.String(length=128), "provider": sa.String(length=80), "host": sa.String(length=253)}


def upgrade() -> None:
    for name, kind in COLUMNS.items():
        op.add_column("push_jobs", sa.Column(name, kind, nullable=False, server_default=""))
    op.add_column("push_jobs", sa.Column("urgent", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index("ix_push_jobs_state_urgent_next_attempt_at", "push_jobs", ["state", "urgent", "next_attempt_at"])
    op.create_index("ix_push_jobs_user_id_state", "push_jobs", ["user_id", "state"])
    op.drop_index("ix_push_jobs_state_next_attempt_at", "push_jobs")


def downgrade() -> None:
    op.create_index("ix_push_jobs_state_next_attempt_at", "push_jobs", ["state", "next_attempt_at"])
    op.drop_index("ix_push_jobs_user_id_state", "push_jobs")
    op.drop_index("ix_push_jobs_state_urgent_next_attempt_at", "push_jobs")
    for name in ("urgent", *COLUMNS):
        op.drop_column("push_jobs", name)

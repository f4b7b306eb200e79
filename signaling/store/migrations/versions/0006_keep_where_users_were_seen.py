"""Keep from which addresses users were seen, as keyed hashes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "addresses",
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "address", name=op.f("pk_addresses")),
    )
    op.create_index(op.f("ix_addresses_seen_at"), "addresses", ["seen_at"])


def downgrade() -> None:
    op.drop_table("addresses")

"""Keep calls' custom fields beside their documents, for searches that look at every call."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.add_column("calls", sa.Column("custom", DOCUMENT, nullable=True))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("UPDATE calls SET custom = json_extract(doc, '$.custom')")
    else:
        op.execute("UPDATE calls SET custom = doc -> 'custom'")


def downgrade() -> None:
    op.drop_column("calls", "custom")

"""What shows whether the secret of a site is still the one that its cases were named with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of key checks, which is filled at the first use of the secret."""
    op.create_table(
        "mqi_key_check",
        sa.Column("name", sa.String(50), primary_key=True),
        sa.Column("value", sa.String(64), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    """Take the table away."""
    op.drop_table("mqi_key_check")

"""When the completion marker of a case was last withdrawn at the target."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the moment of withdrawal to arrivals."""
    op.add_column("mqi_arrival", sa.Column("marker_withdrawn_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Take the moment of withdrawal away."""
    op.drop_column("mqi_arrival", "marker_withdrawn_at")

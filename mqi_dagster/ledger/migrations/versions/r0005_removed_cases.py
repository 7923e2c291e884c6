"""What retention has removed of a case."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_COLUMNS = ("results_removed_at", "records_removed_at")


def upgrade() -> None:
    """Add the moments of removal to arrivals."""
    for name in _COLUMNS:
        op.add_column("mqi_arrival", sa.Column(name, sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Take the moments of removal away."""
    for name in _COLUMNS:
        op.drop_column("mqi_arrival", name)

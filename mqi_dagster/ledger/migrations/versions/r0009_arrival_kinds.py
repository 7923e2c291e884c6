"""An arrival says of which kind its partition is: cases come into the inbox, courses into the DICOM tree."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what arrived before is a case."""
    op.add_column("mqi_arrival", sa.Column("kind", sa.String(20), nullable=False, server_default="case"))


def downgrade() -> None:
    """Take the column away."""
    with op.batch_alter_table("mqi_arrival") as arrival:
        arrival.drop_column("kind")

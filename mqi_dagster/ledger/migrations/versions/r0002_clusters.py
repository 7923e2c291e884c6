"""Jobs on clusters, and the one look at all of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables of clusters."""
    op.create_table(
        "mqi_cluster_job",
        sa.Column("cluster", sa.String(200), primary_key=True),
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("beam", sa.String(200), nullable=False),
        sa.Column("place", sa.String(400), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("job_id", sa.String(50)),
        sa.Column("retired", sa.String, nullable=False),
        sa.Column("adopted", sa.Boolean, nullable=False),
        sa.Column("submitted", sa.String(50)),
        sa.Column("scheduler_state", sa.String(50), nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("exit_code", sa.Integer),
        sa.Column("result", sa.String),
        sa.Column("missing_since", _MOMENT),
        sa.Column("made_at", _MOMENT, nullable=False),
        sa.Column("changed_at", _MOMENT, nullable=False),
        sa.Column("ended_at", _MOMENT),
        sa.Column("cancel_asked_at", _MOMENT),
        sa.Column("removed_at", _MOMENT),
    )
    op.create_index("mqi_cluster_job_beam", "mqi_cluster_job", ["beam"])
    op.create_index("mqi_cluster_job_state", "mqi_cluster_job", ["cluster", "state"])
    op.create_table(
        "mqi_cluster",
        sa.Column("cluster", sa.String(200), primary_key=True),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("looking_until", _MOMENT),
        sa.Column("next_look", _MOMENT, nullable=False),
        sa.Column("interval_seconds", sa.Float, nullable=False),
        sa.Column("looked_at", _MOMENT),
        sa.Column("failing_since", _MOMENT),
        sa.Column("failure", sa.String, nullable=False),
        sa.Column("used_bytes", sa.Float),
        sa.Column("measured_at", _MOMENT),
    )


def downgrade() -> None:
    """Remove the tables of clusters."""
    op.drop_table("mqi_cluster")
    op.drop_table("mqi_cluster_job")

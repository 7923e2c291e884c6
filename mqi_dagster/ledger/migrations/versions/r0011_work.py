"""Jobs that workers ask for, and the workers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "mqi_work_job",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("partition", sa.String(200), nullable=False),
        sa.Column("request", sa.String, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("claims", sa.Integer, nullable=False),
        sa.Column("lease", sa.String(64)),
        sa.Column("claim", sa.String(32)),
        sa.Column("account", sa.String(100)),
        sa.Column("worker", sa.String(100)),
        sa.Column("slot", sa.String(20)),
        sa.Column("heartbeat_at", _MOMENT),
        sa.Column("phase", sa.String, nullable=False),
        sa.Column("exit_code", sa.Integer),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("result", sa.String),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("changed_at", _MOMENT, nullable=False),
        sa.Column("ended_at", _MOMENT),
        sa.Column("cancel_requested_at", _MOMENT),
        sa.Column("removed_at", _MOMENT),
    )
    op.create_index("mqi_work_job_state", "mqi_work_job", ["state", "host"])
    op.create_index("mqi_work_job_partition", "mqi_work_job", ["partition"])
    op.create_table(
        "mqi_worker",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("account", sa.String(100), nullable=False),
        sa.Column("capabilities", sa.String, nullable=False),
        sa.Column("seen_at", _MOMENT, nullable=False),
    )


def downgrade() -> None:
    """Take the tables away."""
    op.drop_table("mqi_worker")
    op.drop_table("mqi_work_job")

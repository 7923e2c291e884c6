"""How runs have ended, what people should know, and what they were told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_UNSETTLED = sa.text("settled_at IS NULL")
_OPEN = sa.text("cleared_at IS NULL")


def upgrade() -> None:
    """Create the tables of outcomes, alarms and notices."""
    op.create_table(
        "mqi_run_outcome",
        sa.Column("run_id", sa.String(200), primary_key=True),
        sa.Column("job", sa.String(200), nullable=False),
        sa.Column("partition", sa.String(200), nullable=False),
        sa.Column("verdict", sa.String(20), nullable=False),
        sa.Column("code", sa.String(50), nullable=False),
        sa.Column("cause", sa.String, nullable=False),
        sa.Column("ended_at", _MOMENT, nullable=False),
        sa.Column("first_at", _MOMENT, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("next_try_at", _MOMENT),
        sa.Column("settled_at", _MOMENT),
    )
    op.create_index("mqi_run_outcome_partition", "mqi_run_outcome", ["partition", "ended_at"])
    op.create_index(
        "mqi_run_outcome_due",
        "mqi_run_outcome",
        ["next_try_at"],
        sqlite_where=_UNSETTLED,
        postgresql_where=_UNSETTLED,
    )
    op.create_table(
        "mqi_alarm",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(50), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("first_at", _MOMENT, nullable=False),
        sa.Column("last_at", _MOMENT, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("cleared_at", _MOMENT),
        sa.Column("told_at", _MOMENT),
    )
    op.create_index(
        "mqi_alarm_open",
        "mqi_alarm",
        ["kind", "subject"],
        unique=True,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )
    op.create_table(
        "mqi_notice",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("event", sa.String(50), nullable=False),
        sa.Column("reference", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(50), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("happened_at", _MOMENT, nullable=False),
        sa.UniqueConstraint("event", "reference", name="mqi_notice_once"),
    )
    op.create_table(
        "mqi_notice_channel",
        sa.Column("channel", sa.String(50), primary_key=True),
        sa.Column("told_id", sa.Integer, nullable=False),
        sa.Column("told_at", _MOMENT),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("next_try_at", _MOMENT),
        sa.Column("failing_since", _MOMENT),
        sa.Column("failure", sa.String, nullable=False),
    )


def downgrade() -> None:
    """Remove the tables of outcomes, alarms and notices."""
    for table in ("mqi_notice_channel", "mqi_notice", "mqi_alarm", "mqi_run_outcome"):
        op.drop_table(table)

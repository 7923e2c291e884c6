"""Fractions, arrivals, slots with their leases, attempts and progress."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the first tables."""
    op.create_table(
        "mqi_fraction",
        sa.Column("plan", sa.String(200), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("first_seen", _MOMENT, nullable=False),
    )
    op.create_table(
        "mqi_delivery",
        sa.Column("plan", sa.String(200), primary_key=True),
        sa.Column("delivery", sa.String(200), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["plan", "number"], ["mqi_fraction.plan", "mqi_fraction.number"]),
    )
    op.create_table(
        "mqi_arrival",
        sa.Column("case", sa.String(200), primary_key=True),
        sa.Column("arrival", sa.String(200), nullable=False),
        sa.Column("fingerprint", sa.String(200), nullable=False),
        sa.Column("ready", sa.Boolean, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("first_seen", _MOMENT, nullable=False),
        sa.Column("changed_at", _MOMENT, nullable=False),
        sa.Column("next_check", _MOMENT),
        sa.Column("requested_fingerprint", sa.String(200)),
        sa.Column("requested_at", _MOMENT),
    )
    op.create_table(
        "mqi_slot",
        sa.Column("host", sa.String(200), primary_key=True),
        sa.Column("kind", sa.String(20), primary_key=True),
        sa.Column("slot_index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("uuid", sa.String(200), nullable=False),
        sa.Column("memory_mb", sa.Integer, nullable=False),
        sa.Column("in_service", sa.Boolean, nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("beam", sa.String(200)),
        sa.Column("owner", sa.String(200)),
        sa.Column("acquired_at", _MOMENT),
        sa.Column("heartbeat_at", _MOMENT),
        sa.Column("executor", sa.String(50)),
        sa.Column("job_id", sa.String(200)),
        sa.UniqueConstraint("beam", name="mqi_slot_beam"),
    )
    op.create_table(
        "mqi_attempt",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("beam", sa.String(200), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("run_id", sa.String(200), nullable=False),
        sa.Column("started_at", _MOMENT, nullable=False),
        sa.Column("ended_at", _MOMENT),
        sa.Column("outcome", sa.String(20)),
        sa.Column("cause", sa.String),
    )
    op.create_index("mqi_attempt_beam", "mqi_attempt", ["beam", "digest"])
    op.create_index(
        "mqi_attempt_unfinished",
        "mqi_attempt",
        ["beam", "digest"],
        unique=True,
        sqlite_where=sa.text("outcome IS NULL"),
        postgresql_where=sa.text("outcome IS NULL"),
    )
    op.create_table(
        "mqi_progress",
        sa.Column("beam", sa.String(200), primary_key=True),
        sa.Column("run_id", sa.String(200), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(50), nullable=False),
        sa.Column("batch", sa.Integer),
        sa.Column("batches", sa.Integer),
        sa.Column("percent", sa.Float, nullable=False),
        sa.Column("histories", sa.Float),
        sa.Column("message", sa.String, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
    )


def downgrade() -> None:
    """Remove every table of the ledger."""
    for table in ("progress", "attempt", "slot", "arrival", "delivery", "fraction"):
        op.drop_table(f"mqi_{table}")

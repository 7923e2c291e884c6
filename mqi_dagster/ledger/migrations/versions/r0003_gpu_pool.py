"""The GPU pool: several slots a beam, switches, what the monitor saw, who waits, the pool's limit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_NAMED = sa.text("uuid <> ''")


def upgrade() -> None:
    """Add to the slots, and create the tables of the pool."""
    # A free slot is declared anew by the next beam, so of two for one GPU only the leased one is needed.
    op.execute(
        "DELETE FROM mqi_slot WHERE beam IS NULL AND uuid <> '' AND EXISTS (SELECT 1 FROM mqi_slot AS other"
        " WHERE other.host = mqi_slot.host AND other.uuid = mqi_slot.uuid"
        " AND (other.kind <> mqi_slot.kind OR other.slot_index <> mqi_slot.slot_index))"
    )
    with op.batch_alter_table("mqi_slot") as slot:
        slot.add_column(sa.Column("switched_off_at", _MOMENT))
        slot.add_column(sa.Column("switched_off_reason", sa.String))
        slot.add_column(sa.Column("part", sa.Integer))
        slot.drop_constraint("mqi_slot_beam", type_="unique")
        slot.create_unique_constraint("mqi_slot_beam_part", ["beam", "part"])
    op.execute("UPDATE mqi_slot SET part = 0 WHERE beam IS NOT NULL")
    op.create_index(
        "mqi_slot_uuid",
        "mqi_slot",
        ["host", "uuid"],
        unique=True,
        sqlite_where=_NAMED,
        postgresql_where=_NAMED,
    )
    op.create_table(
        "mqi_gpu",
        sa.Column("host", sa.String(200), primary_key=True),
        sa.Column("uuid", sa.String(200), primary_key=True),
        sa.Column("gpu_index", sa.Integer, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("memory_mb", sa.Integer),
        sa.Column("used_mb", sa.Integer),
        sa.Column("utilisation_percent", sa.Integer),
        sa.Column("temperature_c", sa.Integer),
        sa.Column("sm_clock_mhz", sa.Integer),
        sa.Column("memory_clock_mhz", sa.Integer),
        sa.Column("foreign_processes", sa.Integer, nullable=False),
        sa.Column("allocated", sa.Boolean),
        sa.Column("seen_at", _MOMENT, nullable=False),
    )
    op.create_table(
        "mqi_waiting",
        sa.Column("beam", sa.String(200), primary_key=True),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("since", _MOMENT, nullable=False),
        sa.Column("until", _MOMENT, nullable=False),
    )
    op.create_table(
        "mqi_pool",
        sa.Column("name", sa.String(50), primary_key=True),
        sa.Column("most_runs", sa.Integer, nullable=False),
        sa.Column("set_at", _MOMENT, nullable=False),
    )


def downgrade() -> None:
    """Remove the pool; of a beam's slots only the first stays leased."""
    for table in ("pool", "waiting", "gpu"):
        op.drop_table(f"mqi_{table}")
    op.drop_index("mqi_slot_uuid", "mqi_slot")
    op.execute(
        "UPDATE mqi_slot SET beam = NULL, owner = NULL, acquired_at = NULL, heartbeat_at = NULL,"
        " executor = NULL, job_id = NULL WHERE part > 0"
    )
    with op.batch_alter_table("mqi_slot") as slot:
        slot.drop_constraint("mqi_slot_beam_part", type_="unique")
        slot.create_unique_constraint("mqi_slot_beam", ["beam"])
        slot.drop_column("part")
        slot.drop_column("switched_off_reason")
        slot.drop_column("switched_off_at")

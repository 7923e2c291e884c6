"""The unit of work is a partition of any kind, and columns bear the names that the code gives them."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_RENAMED: dict[str, dict[str, str]] = {
    "mqi_slot": {"beam": "partition"},
    "mqi_waiting": {"beam": "partition"},
    "mqi_attempt": {"beam": "partition"},
    "mqi_progress": {"beam": "partition"},
    "mqi_cluster_job": {
        "beam": "partition",
        "place": "folder",
        "made_at": "created_at",
        "cancel_asked_at": "cancel_requested_at",
    },
    "mqi_cluster": {"looking_until": "polling_until", "next_look": "next_poll", "looked_at": "polled_at"},
    "mqi_pool": {"most_runs": "max_runs"},
    "mqi_alarm": {"told_at": "notified_at"},
    "mqi_notice_channel": {"told_id": "notified_id", "told_at": "notified_at"},
}
_INDEXES: tuple[tuple[str, str, str, list[str]], ...] = (
    ("mqi_attempt", "mqi_attempt_beam", "mqi_attempt_partition", ["digest"]),
    ("mqi_cluster_job", "mqi_cluster_job_beam", "mqi_cluster_job_partition", []),
)
_NAMED = sa.text("uuid <> ''")


def upgrade() -> None:
    """Rename columns, and the indexes and the constraint over them; every row stays."""
    _rename(_RENAMED)
    for table, old, new, others in _INDEXES:
        op.drop_index(old, table)
        op.create_index(new, table, ["partition", *others])
    _constrain("mqi_slot_beam_part", "mqi_slot_partition_part", "partition")


def downgrade() -> None:
    """Give back the names of before."""
    _rename({table: {new: old for old, new in names.items()} for table, names in _RENAMED.items()})
    for table, old, new, others in _INDEXES:
        op.drop_index(new, table)
        op.create_index(old, table, ["beam", *others])
    _constrain("mqi_slot_partition_part", "mqi_slot_beam_part", "beam")


def _rename(tables: Mapping[str, Mapping[str, str]]) -> None:
    for table, names in tables.items():
        for old, new in names.items():
            op.alter_column(table, old, new_column_name=new)


def _constrain(old: str, new: str, column: str) -> None:
    # SQLite copies the table for it, and an index with a condition does not come along.
    op.drop_index("mqi_slot_uuid", "mqi_slot")
    with op.batch_alter_table("mqi_slot") as slot:
        slot.drop_constraint(old, type_="unique")
        slot.create_unique_constraint(new, [column, "part"])
    op.create_index(
        "mqi_slot_uuid",
        "mqi_slot",
        ["host", "uuid"],
        unique=True,
        sqlite_where=_NAMED,
        postgresql_where=_NAMED,
    )

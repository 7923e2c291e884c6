"""The ledger: what Dagster cannot hold, in one small database."""

from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.ledger.attempts import Attempt, Outcome
from mqi_dagster.ledger.database import sqlite_url
from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.ledger.leases import Lease, LeasedSlot, LeaseKeeper, Need, Refusal, Waiting
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.progress import ProgressReport
from mqi_dagster.ledger.slots import Slot, SlotKind

__all__ = [
    "Arrival",
    "Attempt",
    "GpuUsage",
    "Lease",
    "LeaseKeeper",
    "LeasedSlot",
    "Ledger",
    "Need",
    "Outcome",
    "ProgressReport",
    "Refusal",
    "Slot",
    "SlotKind",
    "Waiting",
    "sqlite_url",
]

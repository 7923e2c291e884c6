"""The ledger: what Dagster cannot hold, in one small database."""

from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.ledger.attempts import Attempt, Outcome
from mqi_dagster.ledger.availability import Need, Refusal
from mqi_dagster.ledger.database import sqlite_url
from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.ledger.heartbeat import LeaseKeeper
from mqi_dagster.ledger.leases import Lease, LeasedSlot
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.progress import Progress
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.ledger.waiting import Waiting

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
    "Progress",
    "Refusal",
    "Slot",
    "SlotKind",
    "Waiting",
    "sqlite_url",
]

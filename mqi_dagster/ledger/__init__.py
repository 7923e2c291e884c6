"""The ledger: what Dagster cannot hold, in one small database."""

from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.ledger.attempts import Attempt, Outcome
from mqi_dagster.ledger.database import sqlite_url
from mqi_dagster.ledger.heartbeat import LeaseKeeper
from mqi_dagster.ledger.leases import Lease, Refusal
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.progress import Progress
from mqi_dagster.ledger.slots import Slot, SlotKind

__all__ = [
    "Arrival",
    "Attempt",
    "Lease",
    "LeaseKeeper",
    "Ledger",
    "Outcome",
    "Progress",
    "Refusal",
    "Slot",
    "SlotKind",
    "sqlite_url",
]

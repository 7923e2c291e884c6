"""The ledger as everybody uses it: all its subjects behind one name."""

from __future__ import annotations

from mqi_dagster.ledger.alarms import AlarmRows
from mqi_dagster.ledger.arrivals import ArrivalRows
from mqi_dagster.ledger.attempts import AttemptRows
from mqi_dagster.ledger.cluster_jobs import ClusterJobRows
from mqi_dagster.ledger.clusters import ClusterRows
from mqi_dagster.ledger.fractions import FractionRows
from mqi_dagster.ledger.gpus import GpuRows
from mqi_dagster.ledger.key_check import KeyCheckRows
from mqi_dagster.ledger.leases import LeaseRows
from mqi_dagster.ledger.names import NameRows
from mqi_dagster.ledger.outcomes import RunOutcomeRows
from mqi_dagster.ledger.pools import PoolRows
from mqi_dagster.ledger.progress import ProgressRows
from mqi_dagster.ledger.slots import SlotRows
from mqi_dagster.ledger.waiting import WaitingRows


class Ledger(
    FractionRows,
    ArrivalRows,
    SlotRows,
    LeaseRows,
    WaitingRows,
    GpuRows,
    PoolRows,
    AttemptRows,
    ProgressRows,
    ClusterJobRows,
    ClusterRows,
    RunOutcomeRows,
    AlarmRows,
    KeyCheckRows,
    NameRows,
):
    """Arrivals, slots, leases, GPUs, attempts, progress, cluster jobs, outcomes and alarms of a site.

    One object may be used by many threads, and by a process and the children it forks.
    """

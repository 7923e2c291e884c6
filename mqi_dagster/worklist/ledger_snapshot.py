"""What the ledger says at one moment: arrivals, leases, GPUs, progress, attempts, ends, alarms and jobs."""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import datetime, timedelta

from mqi_dagster.ledger.alarms import Alarm
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.ledger.attempts import Attempt
from mqi_dagster.ledger.cluster_jobs import ClusterJob
from mqi_dagster.ledger.clusters import ClusterPoll
from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.ledger.leases import Lease
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.outcomes import RunOutcome
from mqi_dagster.ledger.progress import ProgressReport
from mqi_dagster.ledger.slots import Slot

_BEHIND = timedelta(seconds=10)
"""A change that was written later than it says is still found within this time."""
_WHOLE_EVERY_SECONDS = 300.0


class LedgerSnapshot:
    """The ledger, read again and again.

    Args:
        ledger: Opened for reading.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._whole_at: float | None = None
        self._looked: datetime | None = None
        self._next_tries: set[tuple[str, str, datetime | None]] = set()
        self.arrivals: dict[str, Arrival] = {}
        """By case, in the order of first sight."""
        self.slots: list[Slot] = []
        self.leases: dict[str, Lease] = {}
        """By beam."""
        self.work: list[Lease] = []
        """What workers have in their slots."""
        self.gpus: list[GpuUsage] = []
        self.alarms: list[Alarm] = []
        self.outcomes: dict[str, RunOutcome] = {}
        """How runs that were asked after have ended, by run id."""
        self.clusters: list[ClusterPoll] = []
        self.progress: dict[str, ProgressReport] = {}
        self.attempts: dict[str, Attempt] = {}
        self.jobs: dict[str, ClusterJob] = {}

    def refresh(self, now: datetime) -> set[str]:
        """Read all that is not asked for by key; the partitions whose arrival or next try has changed."""
        changed = self._arrivals(now) | self._retries()
        self.slots, leases = self._ledger.leases.with_slots()
        self.leases = {lease.partition: lease for lease in leases}
        self.work = self._ledger.work.leases()
        self.gpus = self._ledger.gpus.all()
        self.alarms = self._ledger.alarms.open()
        self.clusters = self._ledger.clusters.all()
        return changed

    def read_progress(self, keys: Collection[str]) -> None:
        """Read progress, attempts and jobs of the cases and beams that are in work or have just left it."""
        self.progress.update(self._ledger.progress.get_many(keys))
        self.attempts.update(self._ledger.attempts.newest(keys))
        if self.clusters:
            self.jobs.update(self._ledger.jobs.newest(keys))

    def read_ends(self, run_ids: Collection[str]) -> None:
        """Read how some failed runs were judged."""
        if run_ids:
            self.outcomes = self._ledger.outcomes.get_many(run_ids)

    def _arrivals(self, now: datetime) -> set[str]:
        if self._looked is not None and not self._is_due():
            count, rows = self._ledger.arrivals.changed_since(self._looked - _BEHIND)
            self._looked = now
            changed = {row.case for row in rows if self.arrivals.get(row.case) != row}
            self.arrivals.update((row.case, row) for row in rows)
            if count == len(self.arrivals):
                return changed
        # Some were dropped, or the time has come: the whole is read.
        before, self._looked = self.arrivals, now
        self.arrivals = {row.case: row for row in self._ledger.arrivals.all()}
        self._whole_at = time.monotonic()
        return {case for case, row in self.arrivals.items() if before.get(case) != row} | (
            before.keys() - self.arrivals.keys()
        )

    def _retries(self) -> set[str]:
        """Partitions whose next try has come, was given up, or is to come at another time."""
        before = self._next_tries
        tries = self._ledger.outcomes.open_retries()
        self._next_tries = {(one.partition, one.run_id, one.next_try_at) for one in tries}
        return {partition for partition, *_ in before ^ self._next_tries}

    def _is_due(self) -> bool:
        return self._whole_at is None or time.monotonic() - self._whole_at > _WHOLE_EVERY_SECONDS

"""The one poll of a cluster that all waiting beams share, whichever process they wait in.

Whoever finds the poll due and gets the turn asks after every open job of the cluster, and writes what it saw
into the ledger; everybody else only reads there. A poll without an answer says nothing about any job.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from mqi_dagster.errors import UnreachableError
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.hpc.polling import poll_jobs
from mqi_dagster.hpc.verdict import judge
from mqi_dagster.ledger.cluster_jobs import ClusterJob
from mqi_dagster.ledger.clusters import ClusterPoll
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.settings import Slurm

_SLOWER = 1.5
_FAILED_POLLS_GROW = 2.0
_HOLD_SECONDS = 180.0


def folder_of(job: ClusterJob, root: str) -> JobFolder:
    """Where a job's folder is on its cluster."""
    return JobFolder(root, tuple(job.folder.split("/")), job.key)


class Watcher:
    """Looks at the jobs of one cluster when it is this process's turn.

    Args:
        name: The cluster, as the settings and the ledger call it.
        connection: To it.
        slurm: Its settings.
        ledger: Where polls and jobs are shared.
        clock: Tells the time in UTC; replaced in tests.
    """

    def __init__(
        self,
        name: str,
        connection: Connection,
        slurm: Slurm,
        ledger: Ledger,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._name = name
        self._connection = connection
        self._root = slurm.root
        self._intervals = slurm.intervals
        self._ledger = ledger
        self._clock = clock

    def look(self) -> None:
        """Find out whether the cluster answers, where no job has anybody ask: whoever looks should know."""
        if not self._ledger.jobs.open(self._name):
            self.poll_if_due(idle=True)

    def poll_if_due(self, *, idle: bool = False) -> bool:
        """Poll all open jobs, if that is due and nobody else does it; whether it was done.

        Args:
            idle: Whether the cluster is also asked where there are none.
        """
        shortest = timedelta(seconds=self._intervals.poll_seconds)
        turn = self._ledger.clusters.take_turn(
            self._name, shortest=shortest, hold=timedelta(seconds=_HOLD_SECONDS)
        )
        if turn is None:
            return False
        try:
            changed = self._poll(idle)
        except UnreachableError as error:
            interval = timedelta(seconds=self._longer(turn, _FAILED_POLLS_GROW))
            self._ledger.clusters.end_turn(turn, next_in=interval, interval=interval, failure=error.message)
            return False
        except BaseException:
            # Nobody else has to wait for one who was interrupted.
            self._ledger.clusters.leave_turn(turn)
            raise
        interval = shortest if changed or idle else timedelta(seconds=self._longer(turn, _SLOWER))
        # Who looks at an idle one comes as seldom himself: it is due whenever he does.
        self._ledger.clusters.end_turn(turn, next_in=interval / 2 if idle else interval, interval=interval)
        return True

    def _longer(self, turn: ClusterPoll, factor: float) -> float:
        grown = max(turn.interval_seconds, self._intervals.poll_seconds) * factor
        return min(grown, max(self._intervals.poll_maximum_seconds, self._intervals.poll_seconds))

    def _poll(self, idle: bool) -> int:
        jobs = self._ledger.jobs.open(self._name)
        if not jobs and not idle:
            return 0
        placed = [(job, folder_of(job, self._root)) for job in jobs]
        seen = poll_jobs(self._connection, ((job.job_id, folder) for job, folder in placed if job.job_id))
        now = self._clock()
        observations = [judge(job, folder.text, seen, self._intervals, now) for job, folder in placed]
        return self._ledger.jobs.observe(self._name, observations)

"""Ending jobs that are not wanted any more, and knowing that nothing of a beam is left on the cluster."""

from __future__ import annotations

import time

from mqi_dagster.errors import UnreachableError
from mqi_dagster.hpc import slurm as commands
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.naming import job_name
from mqi_dagster.hpc.watcher import Watcher, folder_of
from mqi_dagster.ledger.cluster_jobs import ClusterJob
from mqi_dagster.ledger.cluster_jobs import ClusterJobState as State
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.settings import Slurm

_POLL_SECONDS = 1.0


class Cancellation:
    """Cancels the jobs of one cluster.

    Args:
        name: The cluster, as the settings and the ledger call it.
        connection: To it.
        slurm: Its settings.
        ledger: Where its jobs stand.
        watcher: Sees that a job has ended.
    """

    def __init__(
        self, name: str, connection: Connection, slurm: Slurm, ledger: Ledger, watcher: Watcher
    ) -> None:
        self._name = name
        self._connection = connection
        self._slurm = slurm
        self._ledger = ledger
        self._watcher = watcher

    def cancel(self, key: str) -> None:
        """End the job of a key, also one whose submission got no answer; returns when it has ended.

        Raises:
            UnreachableError: The cluster does not answer; that the job is not wanted is written down.
        """
        row = self._ledger.jobs.request_cancel(self._name, key)
        if row is None or row.state.ended:
            return
        if row.job_id is None:
            row = self._resolved(row)
            if row is None:
                return
        assert row.job_id is not None
        commands.cancel(self._connection, row.job_id, job_name(row.partition), key)
        while self._still(row):
            self._ledger.clusters.poll_soon(self._name)
            self._watcher.poll_if_due()
            cluster = self._ledger.clusters.get(self._name)
            if cluster is not None and cluster.failing_since is not None:
                raise UnreachableError(
                    f"the cluster does not confirm that the job has ended: {cluster.failure}"
                )
            time.sleep(min(_POLL_SECONDS, self._slurm.intervals.poll_seconds))

    def _still(self, row: ClusterJob) -> bool:
        """Whether that very job goes on: the key may have been submitted anew meanwhile."""
        now = self._ledger.jobs.get(self._name, row.key)
        return now is not None and now.job_id == row.job_id and not now.state.ended

    def cancel_beam(self, beam: str) -> None:
        """The same for whatever of a beam is on the cluster."""
        for row in self._ledger.jobs.all(self._name, beam):
            if not row.state.ended:
                self.cancel(row.key)

    def ended(self, beam: str) -> bool:
        """Whether nothing of a beam whose worker is gone can be on the cluster any more.

        Raises:
            UnreachableError: The cluster has to be asked and does not answer.
        """
        self._watcher.poll_if_due()
        for row in self._ledger.jobs.all(self._name, beam):
            if row.state is State.RESERVED and row.job_id is None:
                if self._resolved(row) is not None:
                    return False
            elif not row.state.ended:
                return False
        return True

    def _resolved(self, row: ClusterJob) -> ClusterJob | None:
        """A reserved job as the cluster knows it, None where it never came there."""
        folder = folder_of(row, self._slurm.root)
        found = commands.find(self._connection, folder, job_name(row.partition), row.retired)
        if found is None:
            self._ledger.jobs.end_unsubmitted(self._name, row.key)
            return None
        return self._ledger.jobs.mark_submitted(self._name, row.key, found)

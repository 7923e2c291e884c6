"""What stays on a cluster: folders of jobs go when nobody needs them, and their sum is watched."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mqi_dagster.errors import MqiError, UnreachableError
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import PathRejectedError
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.hpc.shell import require, run, run_script
from mqi_dagster.hpc.watcher import folder_of
from mqi_dagster.ledger.cluster_jobs import ClusterJob, ClusterJobState
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.settings import Keep, Slurm

_AT_ONCE = 10
_MEASURED_EVERY = timedelta(hours=1)
_FETCHED_WITHIN = timedelta(days=14)
"""How long the folder of a job that succeeded waits for whoever was to fetch its outputs."""
_REFUSALS = {
    3: "the root on the cluster is '/' or the account's home",
    4: "a link lies on the way to the job's folder",
    5: "the job's folder does not carry our marker",
}


def remove_folder(connection: Connection, folder: JobFolder) -> None:
    """Remove a job's folder; where it is gone already nothing happens.

    Raises:
        PathRejectedError: What lies there is not ours.
        UnreachableError: The cluster cannot be reached.
        RemoteCommandError: It cannot be removed.
    """
    answer = run_script(connection, "remove", folder.root, folder.below, folder.key)
    if answer.exit_code in _REFUSALS:
        raise PathRejectedError(f"nothing was removed: {_REFUSALS[answer.exit_code]}")
    require(answer, "the job's folder cannot be removed")


def used_bytes(connection: Connection, root: str) -> int:
    """What all our folders take below the root; 0 where it is not there."""
    answer = run(connection, ["sh", "-c", '[ ! -d "$1" ] || du -s -B1 -- "$1" | cut -f1', "mqi-used", root])
    text = require(answer, "the space below the root cannot be measured").text.strip()
    return int(text or 0)


class Housekeeping:
    """Removes and measures the folders of one cluster's jobs.

    Args:
        name: The cluster, as the settings and the ledger call it.
        connection: To it.
        slurm: Its settings.
        ledger: Where its jobs stand.
    """

    def __init__(self, name: str, connection: Connection, slurm: Slurm, ledger: Ledger) -> None:
        self._name = name
        self._connection = connection
        self._slurm = slurm
        self._ledger = ledger

    def clear(self, job: ClusterJob) -> str:
        """Remove the folder of a job whose outputs are verified and published, unless everything is kept.

        Returns:
            An alarm for people, empty where there is none.

        Raises:
            UnreachableError: The cluster does not answer; a later clearing does what was left.
            PathRejectedError: What lies there is not ours.
            RemoteCommandError: It cannot be removed.
        """
        if self._slurm.retention.keep is Keep.ALL:
            return self.measure()
        self._remove(job)
        left = self._remove_kept(_AT_ONCE)[1]
        alarms = [left[0].message] if left else []
        return "; ".join(alarm for alarm in (*alarms, self.measure()) if alarm)

    def kept_too_long(self) -> list[ClusterJob]:
        """The jobs whose folders nobody needs any more, or have been kept as long as the settings say.

        Of a dose that is published the folder is needed no more, where it could not be removed at once.
        """
        if self._slurm.retention.keep is Keep.ALL:
            return []
        return self._not_needed(self._ledger.jobs.removable(self._name, datetime.now(UTC)))

    def _not_needed(self, jobs: list[ClusterJob]) -> list[ClusterJob]:
        published = self._published(jobs)
        return [job for job in jobs if self._is_old(job) or job.key in published]

    def _is_old(self, job: ClusterJob) -> bool:
        keep = timedelta(days=self._slurm.retention.failed_days)
        days = max(keep, _FETCHED_WITHIN) if job.state is ClusterJobState.SUCCEEDED else keep
        return job.ended_at is not None and datetime.now(UTC) - job.ended_at > days

    def _published(self, jobs: list[ClusterJob]) -> set[str]:
        """Keys of the jobs whose dose is published, and was not asked for again since."""
        done = self._ledger.attempts.succeeded({job.partition for job in jobs})
        return {
            job.key
            for job in jobs
            # The key of a job is the beam's mark and the key of its attempt.
            if job.state is ClusterJobState.SUCCEEDED and (job.partition, job.key.partition("-")[2]) in done
        }

    def remove_kept(self, *, limit: int | None = None) -> int:
        """Remove those folders, as many as can be; how many.

        Raises:
            UnreachableError: The cluster does not answer.
            MqiError: The first that cannot be removed, after all others.
        """
        removed, left = self._remove_kept(limit)
        if left:
            raise left[0]
        return removed

    def _remove_kept(self, limit: int | None) -> tuple[int, list[MqiError]]:
        removed, left = 0, list[MqiError]()
        for job in self.kept_too_long():
            if removed == limit:
                break
            try:
                # Its dose may have been asked for again since the jobs were listed.
                removed += bool(self._not_needed([job])) and self._remove(job)
            except UnreachableError:
                raise
            except MqiError as error:
                error.message = f"the folder {job.folder}/{job.key} stays on the cluster: {error.message}"
                left.append(error)
        return removed, left

    def _remove(self, job: ClusterJob) -> bool:
        """Remove a job's folder, unless the same key has been submitted again meanwhile."""
        now = self._ledger.jobs.get(self._name, job.key)
        if now is None or not now.state.ended or now.job_id != job.job_id:
            return False
        remove_folder(self._connection, folder_of(job, self._slurm.root))
        self._ledger.jobs.mark_removed(self._name, job.key)
        return True

    def measure(self) -> str:
        """Compare what our folders take with the quota; measured at most once an hour.

        Returns:
            An alarm for people, empty where there is none.

        Raises:
            UnreachableError: The cluster does not answer.
        """
        cluster = self._ledger.clusters.get(self._name)
        now = datetime.now(UTC)
        if cluster is None or cluster.measured_at is None or now - cluster.measured_at > _MEASURED_EVERY:
            self._ledger.clusters.record_usage(
                self._name, float(used_bytes(self._connection, self._slurm.root))
            )
            cluster = self._ledger.clusters.get(self._name)
        used = (cluster.used_bytes if cluster is not None else None) or 0.0
        quota = self._slurm.retention.quota_gb * 1e9
        if used <= quota:
            return ""
        return (
            f"cluster {self._name}: {used / 1e9:.1f} GB below the root, the quota is {quota / 1e9:.1f} GB"
            f" (hosts.{self._name}.slurm.retention.quota_gb)"
        )

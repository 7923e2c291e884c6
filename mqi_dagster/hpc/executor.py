"""The second executor: engines as Slurm jobs on a cluster reached by SSH.

A job goes on when its worker dies, so nothing here ends one except `cancel`. Whatever is interrupted at any
line is found again by the job's key: in the ledger, in its folder on the cluster, and in Slurm's queue.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

from mqi_dagster.errors import (
    ConfigurationError,
    EngineError,
    InfrastructureError,
    UnreachableError,
    Where,
)
from mqi_dagster.execution.job import MARK, Job, JobHandle, JobState, JobStatus, LogPiece
from mqi_dagster.hpc import slurm as commands
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.engine_log import EngineLog
from mqi_dagster.hpc.errors import PathRejectedError, RemoteCommandError, SubmitRejectedError
from mqi_dagster.hpc.files import get_resume
from mqi_dagster.hpc.job_script import INPUT, job_script
from mqi_dagster.hpc.naming import JobFolder, job_name
from mqi_dagster.hpc.polling import Result, parse_result
from mqi_dagster.hpc.retention import Housekeeping
from mqi_dagster.hpc.shell import require, run
from mqi_dagster.hpc.staging import Source, stage
from mqi_dagster.hpc.watcher import Watcher, folder_of
from mqi_dagster.ledger.cluster_jobs import ClusterJob
from mqi_dagster.ledger.cluster_jobs import ClusterJobState as State
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.settings import Host, Slurm

_ENGINE = Where(kind="engine")
_STATES = {
    State.RESERVED: JobState.WAITING,
    State.QUEUED: JobState.WAITING,
    State.HELD: JobState.WAITING,
    State.RUNNING: JobState.RUNNING,
    State.FAILED: JobState.FAILED,
    State.OUT_OF_MEMORY: JobState.FAILED,
    State.TIMED_OUT: JobState.TIMED_OUT,
    State.CANCELLED: JobState.CANCELLED,
    State.LOST: JobState.LOST,
}
_GIVEN_UP = (State.LOST, State.CANCELLED)
"""Ends after which the same key is submitted again when somebody asks for it."""
_FAILURES = (State.FAILED, State.OUT_OF_MEMORY, State.TIMED_OUT)
_END_POLL_SECONDS = 1.0


class SlurmExecutor:
    """Runs jobs on one cluster.

    Args:
        cluster: Its name in the settings and in the ledger.
        host: How to get there.
        slurm: What Slurm needs to be told.
        ledger: Where jobs and polls are shared with every other process.
        tps_name: Name of the engine's input file, in which the job puts its own folder.
    """

    def __init__(self, cluster: str, host: Host, slurm: Slurm, ledger: Ledger, tps_name: str) -> None:
        self.name = cluster
        self.connection = Connection(host)
        self._slurm = slurm
        self._ledger = ledger
        self._tps_name = tps_name
        self._watcher = Watcher(cluster, self.connection, slurm, ledger)
        self.housekeeping = Housekeeping(cluster, self.connection, slurm, ledger)
        self._answers: dict[tuple[str, ...], str] = {}
        self._logs: dict[str, EngineLog] = {}
        self.intervals = slurm.intervals
        self.poll_seconds = min(1.0, slurm.intervals.poll_seconds / 2)

    @property
    def engine_folder(self) -> PurePosixPath:
        """What stands for the engine's folder until the job knows it."""
        return PurePosixPath(MARK)

    def answer(self, argv: Sequence[str]) -> str:
        """What a short command of the engine prints on the login node; asked once a process.

        Raises:
            ConfigurationError: The command fails.
            UnreachableError: The cluster cannot be reached.
        """
        command = tuple(argv)
        if command not in self._answers:
            try:
                self._answers[command] = require(run(self.connection, command), "the command").text.strip()
            except RemoteCommandError as error:
                raise ConfigurationError(
                    f"the engine does not tell its version on the cluster: {error.message}", where=_ENGINE
                ) from None
        return self._answers[command]

    def submit(self, job: Job) -> JobHandle:
        """Stage and submit the job, or find the one of its key that was submitted before.

        Raises:
            UnreachableError: The cluster does not answer; asking again goes on from there.
            SubmitRejectedError: Slurm does not take the job.
        """
        folder = self._folder(job)
        name = job_name(job.name)
        asked_before = self._ledger.jobs.get(self.name, job.key) is not None
        row = self._ledger.jobs.reserve(self.name, job.key, job.name, folder.below)
        if self._given_up(row) and row.job_id is not None:
            row = self._ledger.jobs.retire(self.name, job.key, row.job_id)
        if row.job_id is None:
            try:
                made = stage(self.connection, folder, self._files(job, folder))
                job_id = self._submitted(job, folder, name, row)
            except (SubmitRejectedError, RemoteCommandError, PathRejectedError):
                self._ledger.jobs.end_unsubmitted(self.name, job.key)
                raise
            adopted = not made and not asked_before
            row = self._ledger.jobs.mark_submitted(self.name, job.key, job_id, adopted=adopted)
            self._ledger.clusters.poll_soon(self.name)
        assert row.job_id is not None
        return JobHandle(self.name, row.job_id)

    def _submitted(self, job: Job, folder: JobFolder, name: str, row: ClusterJob) -> str:
        memory, duration = self._factors(row)
        options = commands.options_of(
            self._slurm, job.timeout_seconds, memory_factor=memory, time_factor=duration
        )
        try:
            return commands.submit(self.connection, folder, name, row.retired, options)
        except UnreachableError:
            # sbatch may have got through: the queue has to be asked when that can be known.
            time.sleep(self._slurm.intervals.unknown_submission_seconds * random.uniform(1.0, 1.2))
            raise

    def poll(self, job: Job, handle: JobHandle) -> JobStatus:
        """State of the job, from the newest poll of the cluster, which is made here if it is due."""
        self._watcher.poll_if_due()
        row = self._row(job.key)
        status = self._status(job, row)
        return status if status.state.ended else replace(status, alarm=self._alarm(row))

    def _status(self, job: Job, row: ClusterJob) -> JobStatus:
        if row.adopted and row.state in _FAILURES:
            return JobStatus(
                JobState.LOST, reason="an earlier installation's job of the same content had failed"
            )
        if row.result is not None and row.state in (State.SUCCEEDED, State.FAILED):
            return self._by_result(job, row)
        out_of_memory = row.state is State.OUT_OF_MEMORY
        return JobStatus(_STATES[row.state], row.exit_code, self._reason(row), out_of_memory=out_of_memory)

    @staticmethod
    def _given_up(row: ClusterJob) -> bool:
        removed = row.state.ended and row.removed_at is not None
        return row.state in _GIVEN_UP or removed or (row.adopted and row.state in _FAILURES)

    def _by_result(self, job: Job, row: ClusterJob) -> JobStatus:
        result = self._result(row)
        if result.exit_code not in job.success_exit_codes:
            if row.reason:
                # Not the engine's own end, so its profile knows nothing of the code.
                return JobStatus(JobState.FAILED, reason=row.reason)
            why = f"ended with exit code {result.exit_code}"
            if result.signal:
                why = f"was interrupted by {result.signal}"
            return JobStatus(JobState.FAILED, result.exit_code, why)
        for number in range(1, len(job.outputs) + 1):
            found = result.outputs.get(number)
            if found is None or found.size == 0:
                fault = "is empty" if found else "is missing"
                why = f"output {number} of {len(job.outputs)} of the engine {fault}"
                return JobStatus(JobState.FAILED, result.exit_code, why)
        return JobStatus(JobState.SUCCEEDED, result.exit_code, row.reason)

    def _reason(self, row: ClusterJob) -> str:
        cluster = self._ledger.clusters.get(self.name)
        if not row.state.ended and cluster is not None and cluster.failing_since is not None:
            since = f"{cluster.failing_since:%Y-%m-%d %H:%M} UTC"
            return f"cluster {self.name} has not answered since {since}: {cluster.failure}"
        words = (row.scheduler_state, row.reason)
        return ": ".join(word for word in words if word) if not row.state.ended else row.reason

    def tail(self, job: Job, handle: JobHandle, offset: int) -> LogPiece:
        """The engine's log from a byte offset on, at most 64 KiB; see `EngineLog.read`.

        While the job runs it is read at the settings' interval, once it has ended whenever this is called.

        Raises:
            UnreachableError: The cluster does not answer.
        """
        row = self._row(job.key)
        if row.state in (State.RESERVED, State.QUEUED, State.HELD) or row.job_id is None:
            return LogPiece()
        log = self._logs.get(job.key)
        if log is None or log.job_id != row.job_id:
            seconds, requeue = self._slurm.intervals.tail_seconds, self._slurm.requeue
            log = EngineLog(self.connection, folder_of(row, self._slurm.root), row.job_id, seconds, requeue)
            self._logs[job.key] = log
        result = parse_result(row.result) if row.result else None
        if row.state.ended and result is None:
            return LogPiece()
        return log.read(offset, ended_in=result.start if result is not None else None)

    def fetch(self, job: Job, handle: JobHandle) -> dict[str, Path]:
        """Download the outputs, each equal to what its job has noted.

        Raises:
            EngineError: The job has left no such output.
            UnreachableError: The cluster does not answer; asking again goes on from there.
            IntegrityError: What is on the cluster is not what the job has noted.
        """
        row = self._row(job.key)
        result = self._result(row)
        folder = folder_of(row, self._slurm.root).start(result.job_id, result.start) / "outputs"
        fetched: dict[str, Path] = {}
        for number, name in enumerate(job.outputs, start=1):
            noted = result.outputs.get(number)
            if noted is None or noted.size == 0:
                raise EngineError(f"the engine has ended without output {number}", where=_ENGINE)
            target = job.directory / name
            get_resume(self.connection, str(folder / str(number)), target, noted.sha256, noted.size)
            fetched[name] = target
        return fetched

    def cancel(self, job: Job, handle: JobHandle | None) -> None:
        """End the job, also one whose submission got no answer; returns when it has ended.

        Raises:
            UnreachableError: The cluster does not answer; that the job is not wanted is written down.
        """
        self._cancel(job.key)

    def _cancel(self, key: str) -> None:
        row = self._ledger.jobs.request_cancel(self.name, key)
        if row is None or row.state.ended:
            return
        if row.job_id is None:
            row = self._resolved(row)
            if row is None:
                return
        assert row.job_id is not None
        commands.cancel(self.connection, row.job_id, job_name(row.partition), key)
        while self._still(row):
            self._ledger.clusters.poll_soon(self.name)
            self._watcher.poll_if_due()
            cluster = self._ledger.clusters.get(self.name)
            if cluster is not None and cluster.failing_since is not None:
                raise UnreachableError(
                    f"the cluster does not confirm that the job has ended: {cluster.failure}"
                )
            time.sleep(min(_END_POLL_SECONDS, self._slurm.intervals.poll_seconds))

    def _still(self, row: ClusterJob) -> bool:
        """Whether that very job goes on: the key may have been submitted anew meanwhile."""
        now = self._ledger.jobs.get(self.name, row.key)
        return now is not None and now.job_id == row.job_id and not now.state.ended

    def _resolved(self, row: ClusterJob) -> ClusterJob | None:
        """A reserved job as the cluster knows it, None where it never came there."""
        folder = folder_of(row, self._slurm.root)
        found = commands.find(self.connection, folder, job_name(row.partition), row.retired)
        if found is None:
            self._ledger.jobs.end_unsubmitted(self.name, row.key)
            return None
        return self._ledger.jobs.mark_submitted(self.name, row.key, found)

    def leave(self, job: Job, handle: JobHandle | None, *, cancelled: bool) -> bool:
        """Leave the job to the next run, unless an operator has cancelled this one."""
        if cancelled:
            self.cancel(job, handle)
        return not cancelled

    def give_up(self, job: Job, reason: str) -> None:
        """Let the next submission of this key start the engine anew: what this job left is of no use."""
        self._ledger.jobs.mark_lost(self.name, job.key, reason)

    def clear(self, job: Job, handle: JobHandle) -> str:
        """Remove what the retention does not keep; see `Housekeeping.clear`."""
        return self.housekeeping.clear(self._row(job.key))

    def ended(self, beam: str) -> bool:
        """Whether nothing of a beam whose worker is gone can be on the cluster any more.

        Raises:
            UnreachableError: The cluster has to be asked and does not answer.
        """
        self._watcher.poll_if_due()
        for row in self._ledger.jobs.all(self.name, beam):
            if row.state is State.RESERVED and row.job_id is None:
                if self._resolved(row) is not None:
                    return False
            elif not row.state.ended:
                return False
        return True

    def cancel_beam(self, beam: str) -> None:
        """Cancel whatever of a beam is on the cluster; see `cancel`."""
        for row in self._ledger.jobs.all(self.name, beam):
            if not row.state.ended:
                self._cancel(row.key)

    def jobs(self) -> list[ClusterJob]:
        """Every job of this site on the cluster, oldest first."""
        return self._ledger.jobs.all(self.name)

    def _alarm(self, row: ClusterJob) -> str:
        """A cluster that has been silent for long, or a job held for long."""
        now, limit = datetime.now(UTC), timedelta(seconds=self._slurm.intervals.alarm_seconds)
        cluster = self._ledger.clusters.get(self.name)
        if cluster is not None and cluster.failing_since is not None and now - cluster.failing_since > limit:
            since = f"{cluster.failing_since:%Y-%m-%d %H:%M} UTC"
            return f"cluster {self.name} has not answered since {since}: {cluster.failure}"
        if row.state is State.HELD and now - row.changed_at > limit:
            return (
                f"job {row.job_id} is held in the queue of {self.name}: {row.reason or row.scheduler_state}"
            )
        return ""

    def _folder(self, job: Job) -> JobFolder:
        return JobFolder(self._slurm.root, job.parents, job.key)

    def _files(self, job: Job, folder: JobFolder) -> dict[str, Source]:
        files: dict[str, Source] = {f"{INPUT}/{name}": job.directory / name for name in job.manifest}
        files[commands.JOB_SCRIPT] = job_script(job, folder, self._slurm, self._tps_name)
        return files

    def _factors(self, row: ClusterJob) -> tuple[int, int]:
        """How much more memory and time this job gets after others of its beam had too little."""
        earlier = [
            other.state
            for other in self._ledger.jobs.all(self.name, row.partition)
            if other.key != row.key and other.key.rpartition("-")[0] == row.key.rpartition("-")[0]
        ]
        return 2 ** min(1, earlier.count(State.OUT_OF_MEMORY)), 2 ** min(1, earlier.count(State.TIMED_OUT))

    def _row(self, key: str) -> ClusterJob:
        row = self._ledger.jobs.get(self.name, key)
        if row is None:
            raise InfrastructureError("the ledger has lost the job", where=_ENGINE)
        return row

    def _result(self, row: ClusterJob) -> Result:
        result = parse_result(row.result) if row.result else None
        if result is None:
            raise InfrastructureError("the ledger has lost the job's result", where=_ENGINE)
        return result

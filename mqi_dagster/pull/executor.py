"""The third executor: jobs that workers ask for, from wherever they are.

A job goes on when the run dies that has submitted it, and when its worker dies another one begins it anew.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath

from mqi_dagster.errors import ConfigurationError, EngineError, UnreachableError, Where
from mqi_dagster.execution.job import MARK, Job, JobHandle, JobState, JobStatus, LogPiece
from mqi_dagster.execution.local import verify_inputs
from mqi_dagster.execution.work import ENGINE, Ended, Needs, Request
from mqi_dagster.execution.work_folder import SharedFolder
from mqi_dagster.files import sha256_file
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.work import CANCELLED, LOST, OPEN, WAITING, WorkJob
from mqi_dagster.pull.queue import able, lively, request_of, result_of
from mqi_dagster.pull.spool import Spool
from mqi_dagster.settings import Intervals, Pull

_ENGINE = Where(kind="engine")
_LOG_PIECE = 64 << 10
_END_POLL_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0


class PullExecutor:
    """Gives jobs to the workers of one host of the settings.

    Args:
        host: Its name in the settings and in the ledger.
        pull: What the settings say of its workers.
        ledger: Where jobs and workers stand.
        spool: Where the files of jobs are.
    """

    poll_seconds = 1.0

    def __init__(self, host: str, pull: Pull, ledger: Ledger, spool: Spool) -> None:
        self.name = host
        # Whoever asks for what no worker has told yet waits in sight.
        self.intervals = Intervals.model_validate(
            {"retry_maximum_seconds": _LONGEST_WAIT_SECONDS, "alarm_seconds": pull.alarm_seconds}
        )
        self._pull = pull
        self._ledger = ledger
        self._spool = spool

    @property
    def engine_folder(self) -> PurePosixPath:
        """What stands for the engine's folder until a worker knows it."""
        return PurePosixPath(MARK)

    def answer(self, argv: Sequence[str]) -> str:
        """The version of the engine that workers tell: each has its own command for it.

        Raises:
            UnreachableError: None has told one yet.
        """
        told = sorted(one.programs.get(ENGINE, "") for one in lively(self._ledger, self._pull))
        if not told or not told[-1]:
            raise UnreachableError(
                f"no worker of {self.name} that has asked for work tells its engine's version"
            )
        return told[-1]

    def submit(self, job: Job) -> JobHandle:
        """Offer the job to workers, or find the one of its key that was submitted before.

        Raises:
            ConfigurationError: It is no job for workers, or their folder is open to everybody.
            EngineInputError: An input is missing or differs from the manifest.
            InfrastructureError: The disk or the ledger failed.
        """
        if job.work is None:
            raise ConfigurationError("this job is none that a worker could be asked for", where=_ENGINE)
        if self._pull.folder is not None:
            SharedFolder(self._pull.folder)
        self._sweep()
        job_id, request = (
            _job_id(self.name, job.key),
            Request(
                work=job.work,
                manifest=dict(job.manifest),
                outputs=job.outputs,
                timeout_seconds=job.timeout_seconds,
                success_exit_codes=job.success_exit_codes,
            ),
        )
        row = self._ledger.work.get(job_id)
        anew = row is None or row.state in (LOST, CANCELLED) or row.removed_at is not None
        # A site that was restored has the row and not the files.
        if anew or not (row is None or row.ended or self._spool.inputs(job_id).is_file()):
            verify_inputs(job)
            self._spool.pack(job_id, job)
        self._ledger.work.ask(job_id, self.name, job.key, job.name, request.model_dump_json())
        return JobHandle(self.name, job_id)

    def poll(self, job: Job, handle: JobHandle) -> JobStatus:
        """State of the job, as its worker has told it."""
        row = self._ledger.work.require(handle.job_id)
        ended = result_of(row).ended or Ended()
        if row.ended:
            return JobStatus(
                JobState(row.state),
                row.exit_code,
                row.reason,
                out_of_memory=ended.out_of_memory,
                steps=ended.steps,
            )
        now = self._ledger.database.clock()
        if row.state == WAITING or not row.worker:
            return self._waiting(row, now)
        quiet = (now - (row.heartbeat_at or now)).total_seconds()
        words = f"not heard of for {quiet:.0f} s" if quiet > self._pull.lease_seconds else row.phase
        return JobStatus(JobState.RUNNING, reason=f"worker {row.worker}: {words}" if words else "")

    def _waiting(self, row: WorkJob, now: datetime) -> JobStatus:
        needs = request_of(row).work.needs
        before = f" ({row.reason})" if row.reason else ""
        if able(self._ledger, self._pull, needs):
            open_jobs = self._ledger.work.all(self.name, states=OPEN)
            ahead = sum(one.state == WAITING and one.created_at < row.created_at for one in open_jobs)
            return JobStatus(
                JobState.WAITING, reason=f"{ahead} jobs are before it{before}" if ahead else row.reason
            )
        wanted = f"no worker of {self.name} is there that has {_wanted(needs)}"
        late = now - row.changed_at > timedelta(seconds=self._pull.alarm_seconds)
        advice = (
            f"{wanted}, since {row.changed_at:%Y-%m-%d %H:%M} UTC: is it switched on (`mqi-worker doctor`)?"
        )
        return JobStatus(JobState.WAITING, reason=wanted + before, alarm=advice if late else "")

    def tail(self, job: Job, handle: JobHandle, offset: int) -> LogPiece:
        """The log of the lease that is the newest, from a byte offset on, at most 64 KiB."""
        row = self._ledger.work.require(handle.job_id)
        return LogPiece(self._spool.read_log(row.id, row.token, offset, _LOG_PIECE), row.token)

    def fetch(self, job: Job, handle: JobHandle) -> dict[str, Path]:
        """Copy the outputs, each equal to what has arrived.

        Raises:
            EngineError: The job has left no such output, or it was changed here.
            InfrastructureError: The disk failed.
        """
        row = self._ledger.work.require(handle.job_id)
        made, fetched = result_of(row).outputs, dict[str, Path]()
        for number, name in enumerate(job.outputs, start=1):
            source, target = self._spool.output(row.id, row.token, number), job.directory / name
            if number not in made or not source.is_file():
                raise EngineError(f"the worker has sent no output {number}", where=_ENGINE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            if sha256_file(target) != made[number].sha256:
                raise EngineError(f"output {number} is not the one that the worker has sent", where=_ENGINE)
            fetched[name] = target
        return fetched

    def leave(self, job: Job, handle: JobHandle | None, *, cancelled: bool) -> bool:
        """Leave the job to the next run, unless an operator has cancelled this one.

        Raises:
            UnreachableError: Its worker does not say that it has ended; it is told as soon as it asks.
        """
        if not cancelled:
            return True
        job_id = _job_id(self.name, job.key)
        limit = time.monotonic() + 2 * self._pull.lease_seconds + _END_POLL_SECONDS
        while not self._cancelled(job_id):
            if time.monotonic() > limit:
                raise UnreachableError(f"the worker of {self.name} does not confirm that the job has ended")
            time.sleep(_END_POLL_SECONDS)
        return False

    def _cancelled(self, job_id: str) -> bool:
        """Write down that a job is not wanted any more; whether it has ended."""
        row = self._ledger.work.get(job_id)
        if row is None or row.ended:
            return True
        now = self._ledger.database.clock()
        values: dict[str, object] = {"cancel_requested_at": row.cancel_requested_at or now}
        if row.state == WAITING:
            values |= {"state": CANCELLED, "reason": "cancelled"}
        if row.state == WAITING or row.cancel_requested_at is None:
            self._ledger.work.change(row, **values)
        return False

    def clear(self, job: Job, handle: JobHandle) -> str:
        """Remove what is here of the job."""
        self._remove(self._ledger.work.require(handle.job_id))
        return ""

    def _remove(self, row: WorkJob) -> None:
        self._spool.discard(row.id)
        self._ledger.work.change(row, removed_at=self._ledger.database.clock())

    def _sweep(self) -> None:
        """Remove what is here of jobs that have ended without anybody clearing them."""
        old = self._ledger.database.clock() - timedelta(days=self._pull.keep_days)
        for row in self._ledger.work.all(self.name, ended_before=old):
            self._remove(row)

    def give_up(self, job: Job, reason: str) -> None:
        """Let the next submission of this key begin anew: what this job left is of no use."""
        row = self._ledger.work.get(_job_id(self.name, job.key))
        if row is not None and row.ended:
            self._ledger.work.change(row, state=LOST, reason=reason)

    def ended(self, partition: str, /) -> bool:
        """Whether no job of a partition waits or is at work."""
        return not self._ledger.work.all(self.name, partition, states=OPEN)

    def cancel_beam(self, partition: str, /) -> None:
        """Cancel whatever of a partition waits or is at work; its workers end it at their next heartbeat."""
        for row in self._ledger.work.all(self.name, partition, states=OPEN):
            self._cancelled(row.id)


def _job_id(host: str, key: str) -> str:
    """What a worker knows a job by: it says nothing of it."""
    return hashlib.sha256(f"{host}/{key}".encode()).hexdigest()[:32]


def _wanted(needs: Needs) -> str:
    what = f"the program {needs.program}" + (f" {needs.version}" if needs.version else "")
    what = f"the model {needs.model} with the card that it has here" if needs.model else what
    memory = f" with {needs.gpu_memory_mb} MB" if needs.gpu_memory_mb else ""
    return what + (f" and a GPU{memory}" if needs.gpu == "needed" else "")

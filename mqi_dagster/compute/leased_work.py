"""One run's work on one partition under a lease: attempt, live progress and job, and how all of it ends."""

import hashlib
import shutil
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import dagster as dg

from mqi_dagster.compute.job_run import JobRun
from mqi_dagster.compute.progress import LiveProgress
from mqi_dagster.compute.retrying import Retrying
from mqi_dagster.errors import InfrastructureError, JobCancelledError, MqiError, Retry, Where
from mqi_dagster.execution.job import Executor, Job, JobHandle
from mqi_dagster.execution.scrub import Scrubber
from mqi_dagster.files import write_whole
from mqi_dagster.ledger.attempts import Attempt, Outcome
from mqi_dagster.ledger.leases import Lease, LeaseKeeper
from mqi_dagster.lifecycle.boundary import safe_text
from mqi_dagster.lifecycle.stages import WorkPhase
from mqi_dagster.resources.site import Site

_Run = TypeVar("_Run", bound=JobRun)


class LeasedWork(Generic[_Run]):
    """As a context manager it gives back what it holds, however it ends.

    Args:
        context: Of the step.
        site: The installation.
        executor: Where its jobs run.
        key: Of the partition.
        digest: Of what is made.
        where: The partition as the place of an error.
        scrubber: Takes identifiers and paths from what its jobs print.
        log_name: Of what they print, below the folder.
        at_work: What a job that runs is doing.
        run_type: Watches a job.
        label: On what it works, for people, where that is not the whole partition.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        site: Site,
        executor: Executor,
        key: str,
        digest: str,
        where: Where,
        scrubber: Scrubber,
        *,
        log_name: str,
        at_work: WorkPhase,
        run_type: type[_Run],
        label: str = "",
    ) -> None:
        self._context = context
        self._site = site
        self._executor = executor
        self._key = key
        self._digest = digest
        self._where = where
        self._scrubber = scrubber
        self._log_name = log_name
        self._at_work = at_work
        self._run_type = run_type
        self._label = label
        self._run_id = context.run.run_id
        self._lease: Lease | None = None
        self._keeper: LeaseKeeper | None = None
        self._attempt: Attempt | None = None
        self._progress: LiveProgress | None = None
        self._job_run: _Run | None = None

    @property
    def _held(self) -> Lease:
        if self._lease is None:
            raise InfrastructureError("the step works without a lease")
        return self._lease

    @property
    def slot(self) -> str:
        """Name of the leased slot."""
        return self._held.name

    @property
    def work(self) -> Path:
        """Folder of its job; goes with the work."""
        return self._site.work / f"{self._key}.{self._run_id}"

    @property
    def _job_key(self) -> str:
        """Key of its job: partitions whose content, and so whose digest, is the same, are told apart."""
        if self._attempt is None:
            raise InfrastructureError("the step works without an attempt")
        return f"{hashlib.sha256(self._key.encode()).hexdigest()[:8]}-{self._attempt.job_key}"

    def clear_leftovers(self) -> None:
        """Remove what earlier runs of this partition have left: the lease is ours, so it is nobody's."""
        for left in self._site.work.glob(f"{self._key}.*"):
            shutil.rmtree(left, ignore_errors=True)

    def __enter__(self) -> Self:
        execution = self._site.settings.execution
        self._keeper = LeaseKeeper(
            self._site.ledger.leases,
            self._held,
            every=timedelta(seconds=execution.heartbeat_seconds),
        )
        self._keeper.__enter__()
        self._attempt = self._site.ledger.attempts.begin(self._key, self._digest, self._run_id)
        self._progress = LiveProgress(
            self._context, self._site.ledger, self._key, self._attempt.number, self._at_work, self._label
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._job_run is not None and self._job_run.in_flight:
                cancelled = self._cancelling(error)
                try:
                    goes_on = self._job_run.leave(cancelled=cancelled)
                except MqiError as failure:
                    if not cancelled:
                        raise
                    # The job may still run, so the slot is not free; the reaper sees to both.
                    self._context.log.error("the job is not confirmed to have ended: %s", failure.message)
                    return
                if goes_on:
                    # Job, attempt and lease stay as they are: the next run takes them over.
                    self._context.log.info("detached: the job goes on, the next run continues with it")
                    return
            try:
                self._keep_log()
                if self._attempt is not None:
                    outcome, cause = self._outcome(error)
                    self._site.ledger.attempts.end(self._attempt, outcome, cause)
            finally:
                self._site.ledger.leases.release(self._held)
        finally:
            if self._keeper is not None:
                self._keeper.__exit__(kind, error, trace)
            shutil.rmtree(self.work, ignore_errors=True)

    def _cancelling(self, error: BaseException | None) -> bool:
        """Whether an interrupt is an operator's wish: a service that stops interrupts in the same way."""
        if error is None or isinstance(error, Exception):
            return False
        run = self._context.instance.get_run_by_id(self._run_id)
        ending = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
        return run is not None and run.status in ending

    def _keep_log(self) -> None:
        """Keep what the job printed, scrubbed of identifiers and paths."""
        raw = self.work / self._log_name
        if self._attempt is None or not raw.is_file():
            return
        folder = self._site.engine_logs / self._key
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / f"{self._attempt.job_key}.log", self._scrubber.bytes(raw.read_bytes()))
        except OSError as error:
            # A full disk must not hide why the job failed.
            self._context.log.warning("the job's log is not kept: %s", error.strerror)

    def _outcome(self, error: BaseException | None) -> tuple[Outcome, str | None]:
        if error is None:
            return Outcome.SUCCEEDED, None
        if isinstance(error, JobCancelledError):
            return Outcome.CANCELLED, str(error.at(self._where))
        if isinstance(error, MqiError):
            failed = error.retry is not Retry.FOREVER
            return (Outcome.FAILED if failed else Outcome.LOST), str(error.at(self._where))
        if isinstance(error, Exception):
            return Outcome.FAILED, safe_text(error)
        if self._cancelling(error):
            return Outcome.CANCELLED, "cancelled by an operator"
        return Outcome.LOST, f"interrupted: {type(error).__name__}"

    def _watching(self, job: Job) -> _Run:
        """The job, ready to be submitted; ended with this work if it is still at work then."""
        assert self._progress is not None and self._keeper is not None
        self._job_run = self._run_type(
            self._context.log,
            self._executor,
            job,
            self._progress,
            Retrying(self._context.log, self._executor.intervals, self._pause),
            self._keeper.check,
            self._note_job,
            self.slot,
        )
        return self._job_run

    def _pause(self, reason: str) -> None:
        """Between two tries: stop where the lease is gone, and say what is waited for."""
        assert self._keeper is not None and self._progress is not None
        self._keeper.check()
        if reason:
            self._progress.waiting(WorkPhase.WAITING_FOR_CLUSTER, reason)

    def _note_job(self, handle: JobHandle) -> None:
        self._lease = self._site.ledger.leases.set_job(self._held, handle.executor, handle.job_id)

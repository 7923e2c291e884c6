"""From a prepared job to its outputs, wherever it runs: submit, watch, fetch, and give back."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg

from mqi_dagster.backoff import Backoff
from mqi_dagster.compute.progress import LiveProgress
from mqi_dagster.compute.retrying import Retrying
from mqi_dagster.errors import InfrastructureError, MqiError, UnreachableError
from mqi_dagster.execution.job import Executor, Job, JobHandle, JobState, JobStatus, LogPiece
from mqi_dagster.hpc.errors import IntegrityError
from mqi_dagster.lifecycle.stages import WorkPhase

_LOST = Backoff(2.0, 300.0)
"""Before a job that the cluster has lost is submitted again."""
_STARTED = f"{JobState.RUNNING}: "
"""What `LiveProgress.started` has said of a job."""


class JobRun:
    """One job of one partition.

    Args:
        log: Of the step.
        executor: Where the job runs.
        job: What it runs.
        progress: Tells people how far it is.
        retrying: Repeats the calls of this executor that did not get through.
        check: Raises where this worker may not go on.
        note_job: Writes the job down in the lease, before anybody waits for it.
        slot: Name of the leased slot.
    """

    def __init__(
        self,
        log: dg.DagsterLogManager,
        executor: Executor,
        job: Job,
        progress: LiveProgress,
        retrying: Retrying,
        check: Callable[[], None],
        note_job: Callable[[JobHandle], None],
        slot: str,
    ) -> None:
        self._log = log
        self._executor = executor
        self._job = job
        self._progress = progress
        self._retrying = retrying
        self._check = check
        self._note_job = note_job
        self._slot = slot
        self._handle: JobHandle | None = None
        self._offset = self._start = 0
        self._said = _STARTED
        self._alarmed = ""
        self.in_flight = False
        """Whether a program may be running that only `leave` or its own end stops."""

    def log_begins(self) -> None:
        """The job starts, for the first time or anew: what was printed before is not of this result."""

    def log_goes_on(self, text: bytes) -> None:
        """The job has printed something."""

    def log_ends(self) -> None:
        """The job has ended, and its log was read whole."""

    def run(self) -> JobStatus:
        """Submit the job, or find it, and wait for its end; one that was lost is submitted again.

        Raises:
            MqiError: The job cannot be submitted, or this worker may not go on.
        """
        lost = 0
        while True:
            self._submit()
            status = self._watch()
            self.in_flight = False
            if status.state is not JobState.LOST:
                return status
            lost += 1
            self._log.warning("the job is lost and will be submitted again: %s", status.reason)
            self._progress.waiting(WorkPhase.SUBMITTING, status.reason)
            self._retrying.sleep(_LOST.seconds(lost))

    def _submit(self) -> None:
        self.log_begins()
        self._offset, self._start, self._said = 0, 0, _STARTED
        self.in_flight = True
        try:
            self._handle = self._retrying.call("submitting", lambda: self._executor.submit(self._job))
        except MqiError as error:
            # Only a definite answer says that nothing was started.
            self.in_flight = isinstance(error, InfrastructureError)
            raise
        self._note_job(self._handle)
        self._progress.started(self._slot, self._handle.job_id, self._job.key)

    def _watch(self) -> JobStatus:
        while True:
            self._check()
            status = self._executor.poll(self._job, self._submitted)
            self._read_log(whole=status.state.ended)
            if status.state.ended:
                self.log_ends()
                return status
            self._report(status)
            self._retrying.sleep(self._executor.poll_seconds)

    @property
    def _submitted(self) -> JobHandle:
        if self._handle is None:
            raise InfrastructureError("no job was submitted")
        return self._handle

    def _report(self, status: JobStatus) -> None:
        if status.alarm and status.alarm != self._alarmed:
            self._log.error("%s", status.alarm)
        self._alarmed = status.alarm
        words = f"{status.state}: {status.reason}"
        if words == self._said:
            return
        self._said = words
        if status.state is JobState.WAITING:
            self._progress.waiting(WorkPhase.QUEUED_ON_CLUSTER, status.reason)
        else:
            self._progress.running(status.reason)

    def _read_log(self, *, whole: bool) -> None:
        while True:
            try:
                piece = self._tail() if not whole else self._retrying.call("reading the log", self._tail)
            except UnreachableError:
                # What the poll says of it is enough while the job runs.
                return
            log = self._job.directory / self._job.log
            if piece.start > self._start:
                # The cluster has started the job again.
                self.log_begins()
                self._offset, self._start = 0, piece.start
                log.unlink(missing_ok=True)
            if not piece.text:
                return
            self._offset += len(piece.text)
            if self._executor.engine_folder is not None:
                with log.open("ab") as stream:
                    stream.write(piece.text)
            self.log_goes_on(piece.text)
            if not whole:
                return

    def _tail(self) -> LogPiece:
        return self._executor.tail(self._job, self._submitted, self._offset)

    def fetch(self) -> dict[str, Path]:
        """Local paths of the verified outputs by their name.

        Raises:
            MqiError: An output is not there or not what it should be.
        """
        try:
            return self._retrying.call("fetching", lambda: self._executor.fetch(self._job, self._submitted))
        except IntegrityError as error:
            # What is there is no result: the same key starts anew.
            self._executor.give_up(self._job, error.message)
            raise

    def clear(self) -> None:
        """Remove what the job needs no more; where that fails now, a later clearing does it."""
        try:
            alarm = self._executor.clear(self._job, self._submitted)
        except MqiError as error:
            self._log.warning("the job's folder stays where it ran for now: %s", error.message)
            return
        if alarm:
            self._log.error("%s", alarm)

    def leave(self, *, cancelled: bool) -> bool:
        """Stop before the job has ended, whether or not its submission got an answer; see `Executor.leave`.

        Args:
            cancelled: Whether an operator has cancelled the run.

        Returns:
            Whether the job goes on.

        Raises:
            MqiError: It is not confirmed that it has ended.
        """
        self.in_flight = self._executor.leave(self._job, self._handle, cancelled=cancelled)
        return self.in_flight

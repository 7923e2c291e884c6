"""A job, and what every executor can do with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Protocol

from mqi_dagster.execution.work import Work
from mqi_dagster.settings import Intervals

MARK = "/@job-folder@"
"""Stands for the engine's folder in its input and its command: only the job knows where that will be."""


@dataclass(frozen=True, slots=True)
class Job:
    """One start of an engine."""

    key: str
    """Digest and attempt: submitting the same key twice finds the first job."""
    name: str
    """Beam key, for people."""
    parents: tuple[str, ...]
    """Folders of the beam below an executor's own root: case and beam."""
    directory: Path
    """Prepared inputs; also the working directory of the engine."""
    manifest: Mapping[str, str]
    """SHA-256 of every input by path relative to ``directory``."""
    argv: tuple[str, ...]
    outputs: tuple[str, ...]
    """Wanted outputs, relative to ``directory``."""
    log: str
    """The engine's stdout and stderr, relative to ``directory``."""
    timeout_seconds: float
    environment: Mapping[str, str] = field(default_factory=dict)
    success_exit_codes: tuple[int, ...] = (0,)
    """Exit codes worth looking at the outputs."""
    work: Work | None = None
    """What a worker that asks for work is told in place of ``argv`` and ``environment``."""


class JobState(StrEnum):
    """State of a job, whatever runs it."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    """The engine ended and its outputs exist; whether they are a valid dose is checked elsewhere."""
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"
    """The job is gone without a verdict."""

    @property
    def ended(self) -> bool:
        """Whether the job will not change any more."""
        return self not in (JobState.WAITING, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class JobHandle:
    """How to find a submitted job again; kept in the ledger as text."""

    executor: str
    job_id: str
    """`<pid>:<start time>` locally, the Slurm job id on a cluster."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What a poll saw."""

    state: JobState
    exit_code: int | None = None
    reason: str = ""
    alarm: str = ""
    """What people should know of a job that has not ended, empty where there is nothing."""
    out_of_memory: bool = False
    """Whether the scheduler has ended it for want of memory."""
    steps: tuple[str, ...] = ()
    """Tries within the job that went on with less, in words."""


@dataclass(frozen=True, slots=True)
class LogPiece:
    """A part of an engine's log."""

    text: bytes = b""
    start: int = 0
    """Which start of the job has written it: one that is requeued begins its log anew."""


class Executor(Protocol):
    """Runs jobs; every operation may be repeated.

    Executors differ in three things, and nobody has to ask which one this is: how long its calls are repeated
    (`intervals`), where the engine works (`engine_folder`), and what becomes of a job whose worker stops
    before it has ended (`leave`).
    """

    name: str
    poll_seconds: float
    """How often a waiting worker asks."""

    @property
    def intervals(self) -> Intervals | None:
        """How calls that did not get through are repeated; None where each failure is that of the attempt.

        Jobs of a machine that can be away must not fail because it is.
        """
        ...

    @property
    def engine_folder(self) -> PurePosixPath | None:
        """The job's folder as its engine sees it, None where that is the job's own directory.

        Only in its own directory is the engine's log already here; elsewhere it is what `tail` gives.
        """
        ...

    def answer(self, argv: Sequence[str]) -> str:
        """What a short command prints where engines run.

        Raises:
            ConfigurationError: The command fails.
        """
        ...

    def submit(self, job: Job) -> JobHandle:
        """Start the job, or find it if its key was submitted before."""
        ...

    def poll(self, job: Job, handle: JobHandle) -> JobStatus:
        """State of the job now."""
        ...

    def tail(self, job: Job, handle: JobHandle, offset: int) -> LogPiece:
        """The log from a byte offset on, that of a start that nobody has read of from its beginning.

        Empty where there is nothing new.
        """
        ...

    def fetch(self, job: Job, handle: JobHandle) -> dict[str, Path]:
        """Verified local paths of the outputs by their relative name.

        Raises:
            EngineError: A wanted output is missing or empty.
        """
        ...

    def leave(self, job: Job, handle: JobHandle | None, *, cancelled: bool) -> bool:
        """Settle what becomes of a job whose worker stops before it has ended.

        A job that can go on without its worker does, unless an operator wants its end: the next submission of
        its key, by another run, finds it. Any other is ended with everything it has started, and the call
        returns when that is confirmed.

        Args:
            job: The job.
            handle: None where the submission was interrupted, so that nobody knows whether there is one.
            cancelled: Whether an operator has cancelled the run.

        Returns:
            Whether the job goes on.

        Raises:
            MqiError: It is not confirmed that the job has ended.
        """
        ...

    def clear(self, job: Job, handle: JobHandle) -> str:
        """Remove what the job needs no more, once its outputs are verified and published.

        Returns:
            An alarm for people, empty where there is none.
        """
        ...

    def give_up(self, job: Job, reason: str) -> None:
        """Let the next submission of the same key start the engine anew, though this job has ended."""
        ...


class RemoteExecutor(Executor, Protocol):
    """An executor of another machine, whose jobs outlive the run that has submitted them."""

    def ended(self, partition: str, /) -> bool:
        """Whether nothing of a partition whose run is gone can be at work there any more.

        Raises:
            MqiError: That cannot be asked now.
        """
        ...

    def cancel_beam(self, partition: str, /) -> None:
        """Cancel whatever of a partition is there.

        Raises:
            MqiError: It is not confirmed; that it is not wanted is written down.
        """
        ...

"""The engine as a child of this worker: it dies with its worker, and the next run starts it anew."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mqi_dagster.errors import (
    ConfigurationError,
    EngineError,
    EngineInputError,
    InfrastructureError,
    Where,
)
from mqi_dagster.execution.job import Job, JobHandle, JobState, JobStatus, LogPiece
from mqi_dagster.execution.processes import (
    ask,
    end_group,
    exit_code,
    process_alive,
    process_id,
    start_tied,
)
from mqi_dagster.files import sha256_file, write_whole

_SAFE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_GRACE_SECONDS = 5.0
_ENGINE = Where(kind="engine")


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    handle: JobHandle
    deadline: float
    log_made_ns: int
    outputs_before: dict[str, tuple[int, int, int]]
    verdict: JobStatus | None = None


class LocalExecutor:
    """Runs jobs as children of this process.

    Args:
        state: Folder for what it must remember across a crash; made where it is missing.
        any_thread: Whether the thread that submits a job outlives it, although it is not the main one.
    """

    name = "local"
    poll_seconds = 0.25
    intervals = None
    engine_folder = None

    def __init__(self, state: Path, *, any_thread: bool = False) -> None:
        self._any_thread = any_thread
        self.starts = state / "engine_starts"
        """One line, the job's key, for every engine that was started."""
        self._records = state / "engine_jobs"
        self._children: dict[str, _Child] = {}
        self._answers: dict[tuple[str, ...], str] = {}
        try:
            self._records.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _disk(error) from None

    def answer(self, argv: Sequence[str]) -> str:
        """What a short command prints here; asked once a process.

        Raises:
            ConfigurationError: It is missing, fails, or takes longer than a minute.
        """
        command = tuple(argv)
        if command not in self._answers:
            try:
                done = ask(command)
                done.check_returncode()
            except (OSError, subprocess.SubprocessError) as error:
                raise ConfigurationError(
                    "the engine does not tell its version; see `mqi doctor`", where=_ENGINE
                ) from error
            self._answers[command] = done.stdout.strip()
        return self._answers[command]

    def submit(self, job: Job) -> JobHandle:
        """Start the engine, or find it where this process started the same key of the same beam before.

        What another worker may have left of it is ended first.

        Raises:
            ConfigurationError: The program is missing, or this is not the main thread: a child is tied to
                the thread that started it.
            EngineInputError: An input is missing or differs from the manifest.
            InfrastructureError: The disk or the machine failed.
        """
        if not self._any_thread and threading.current_thread() is not threading.main_thread():
            raise ConfigurationError("an engine can only be started from the main thread of its worker")
        known = self._children.get(_identity(job))
        if known is not None and self._status(job, known).state is not JobState.CANCELLED:
            return known.handle
        record = self._records / _identity(job)
        self._end_leftover(record)
        verify_inputs(job)
        try:
            child = self._start(job)
            write_whole(record, child.handle.job_id.encode("ascii"))
            with self.starts.open("a", encoding="ascii") as stream:
                stream.write(f"{job.key}\n")
        except OSError as error:
            raise _disk(error) from None
        self._children[_identity(job)] = child
        return child.handle

    def poll(self, job: Job, handle: JobHandle) -> JobStatus:
        """State of the engine now; ends it where it has run too long."""
        child = self._child(job, handle)
        if child is None:
            if process_alive(handle.job_id):
                return JobStatus(JobState.RUNNING, reason="started by another worker")
            return JobStatus(JobState.LOST, reason="its worker is gone")
        return self._status(job, child)

    def tail(self, job: Job, handle: JobHandle, offset: int) -> LogPiece:
        """The engine's output from a byte offset on.

        Raises:
            InfrastructureError: The log cannot be read.
        """
        try:
            with (job.directory / job.log).open("rb") as stream:
                stream.seek(offset)
                return LogPiece(stream.read())
        except FileNotFoundError:
            return LogPiece()
        except OSError as error:
            raise _disk(error) from None

    def fetch(self, job: Job, handle: JobHandle) -> dict[str, Path]:
        """The outputs, each there, not empty, and written since the start.

        Raises:
            EngineError: An output is missing, empty or older than the start.
            InfrastructureError: The job was not started by this process.
        """
        child = self._child(job, handle)
        if child is None:
            raise InfrastructureError("the job was started by another worker", where=_ENGINE)
        fault = _output_fault(job, child)
        if fault:
            raise EngineError(fault, where=_ENGINE)
        return {name: job.directory / name for name in job.outputs}

    def cancel(self, job: Job, handle: JobHandle | None) -> None:
        """End the engine and everything it started; without a handle none was started.

        Raises:
            InfrastructureError: It cannot be ended.
        """
        if handle is None:
            return
        child = self._child(job, handle)
        if child is None:
            end_group(handle.job_id, _GRACE_SECONDS)
        elif not self._status(job, child).state.ended:
            end_group(handle.job_id, _GRACE_SECONDS)
            child.process.wait()
            child.verdict = JobStatus(JobState.CANCELLED, child.process.returncode, "cancelled")
        self._forget(job)

    def leave(self, job: Job, handle: JobHandle | None, *, cancelled: bool) -> bool:
        """End the engine, which is tied to this worker; see `cancel`."""
        self.cancel(job, handle)
        return False

    def clear(self, job: Job, handle: JobHandle) -> str:
        """Forget the engine, so that its key starts one anew; the job's folder goes with its worker."""
        self._children.pop(_identity(job), None)
        return ""

    def give_up(self, job: Job, reason: str) -> None:
        """Forget the engine, so that its key starts one anew."""
        self._children.pop(_identity(job), None)

    def _start(self, job: Job) -> _Child:
        log = job.directory / job.log
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            # The disk's own clock: a file server may tell another time than this machine.
            os.utime(stream.fileno())
            log_made_ns = os.fstat(stream.fileno()).st_mtime_ns
            before = {name: mark for name in job.outputs if (mark := _mark(job.directory / name))}
            process = start_tied(
                job.argv,
                directory=job.directory,
                environment=job.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        return _Child(
            process=process,
            handle=JobHandle(self.name, process_id(process.pid)),
            deadline=time.monotonic() + job.timeout_seconds,
            log_made_ns=log_made_ns,
            outputs_before=before,
        )

    def _status(self, job: Job, child: _Child) -> JobStatus:
        if child.verdict is None:
            child.verdict = self._verdict(job, child)
            if child.verdict is None:
                return JobStatus(JobState.RUNNING)
            self._forget(job)
        return child.verdict

    def _verdict(self, job: Job, child: _Child) -> JobStatus | None:
        code = exit_code(child.process)
        if code is None:
            if time.monotonic() < child.deadline:
                return None
            end_group(child.handle.job_id, _GRACE_SECONDS)
            child.process.wait()
            limit = f"{job.timeout_seconds:g} s"
            return JobStatus(JobState.TIMED_OUT, child.process.returncode, f"ran longer than {limit}")
        if code < 0:
            return JobStatus(JobState.FAILED, code, f"ended by signal {-code}")
        if code not in job.success_exit_codes:
            return JobStatus(JobState.FAILED, code, f"ended with exit code {code}")
        fault = _output_fault(job, child)
        return JobStatus(JobState.FAILED if fault else JobState.SUCCEEDED, code, fault)

    def _child(self, job: Job, handle: JobHandle) -> _Child | None:
        child = self._children.get(_identity(job))
        return child if child is not None and child.handle == handle else None

    def end_leftovers(self) -> None:
        """End what an earlier process has left of its jobs.

        Raises:
            InfrastructureError: Something of them cannot be ended.
        """
        for record in self._records.iterdir():
            self._end_leftover(record)
            record.unlink(missing_ok=True)

    def _end_leftover(self, record: Path) -> None:
        try:
            job_id = record.read_text(encoding="ascii")
        except FileNotFoundError:
            return
        except OSError as error:
            raise _disk(error) from None
        end_group(job_id, grace_seconds=0)

    def _forget(self, job: Job) -> None:
        try:
            (self._records / _identity(job)).unlink(missing_ok=True)
        except OSError as error:
            raise _disk(error) from None


def _identity(job: Job) -> str:
    # Two beams with equal inputs have equal digests, and so equal keys, but each its own folder and engine.
    if not (_SAFE.fullmatch(job.name) and _SAFE.fullmatch(job.key)):
        raise ConfigurationError("a job's name and key must be safe file names")
    return f"{job.name}.{job.key}"


def _disk(error: OSError) -> InfrastructureError:
    reason = error.strerror or type(error).__name__
    return InfrastructureError(f"the engine's work folder failed: {reason}", where=_ENGINE)


def verify_inputs(job: Job) -> None:
    """Check that a job's inputs are those of its manifest.

    Raises:
        EngineInputError: One is missing, is another one, or lies outside the job's folder.
    """
    for number, (name, wanted) in enumerate(sorted(job.manifest.items()), start=1):
        which = f"input {number} of {len(job.manifest)}"
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise EngineInputError(f"{which} lies outside the job's folder", where=_ENGINE)
        try:
            found = sha256_file(job.directory / name)
        except OSError as error:
            raise EngineInputError(
                f"{which} cannot be read: {error.strerror or type(error).__name__}", where=_ENGINE
            ) from None
        if found != wanted:
            raise EngineInputError(
                f"{which} differs from the manifest", where=Where(kind="engine", sha256=wanted)
            )


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _output_fault(job: Job, child: _Child) -> str:
    """What is wrong with the outputs from outside; empty where nothing is."""
    for number, name in enumerate(job.outputs, start=1):
        which = f"output {number} of {len(job.outputs)}"
        path = job.directory / name
        mark = _mark(path)
        if mark is None or not path.is_file():
            return f"the engine has ended without {which}"
        if mark[2] == 0:
            return f"{which} of the engine is empty"
        if mark == child.outputs_before.get(name) or mark[1] < child.log_made_ns:
            return f"{which} of the engine is older than its start"
    return ""

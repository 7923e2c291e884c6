"""An executor that computes in this process what the declared test engine ``quick.py`` computes."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

from mqi_dagster.errors import EngineError
from mqi_dagster.execution.job import Job, JobHandle, JobState, JobStatus, LogPiece
from tests.engines import quick

_NO_PROCESS = 4194304
"""Above every pid, so that nobody finds the engine alive once its step has ended."""


class FakeExecutor:
    """Runs each job to its end where it is submitted, as the Protocol says, without a process.

    As a resource it stands in for that of the site.

    Args:
        starts_file: Where the key of every job that was started is added as a line; None: nowhere.
    """

    name = "in process"
    poll_seconds = 0.05
    intervals = None
    engine_folder = None

    def __init__(self, starts_file: Path | None = None) -> None:
        self._starts_file = starts_file
        self.starts: list[str] = []
        """Key of every job that was started here."""
        self._ended: dict[tuple[str, str], tuple[JobHandle, JobStatus]] = {}

    def open(self) -> FakeExecutor:
        """This one."""
        return self

    def answer(self, argv: Sequence[str]) -> str:
        """Nothing of the test engine has to be asked."""
        raise AssertionError(f"a command was to be run: {argv}")

    def submit(self, job: Job) -> JobHandle:
        """Compute, or find what was computed under the same name and key."""
        known = self._ended.get((job.name, job.key))
        if known is not None:
            return known[0]
        self.starts.append(job.key)
        if self._starts_file is not None:
            with self._starts_file.open("a") as stream:
                stream.write(f"{job.key}\n")
        handle = JobHandle(self.name, f"{_NO_PROCESS}:{len(self.starts)}")
        self._ended[job.name, job.key] = handle, _computed(job)
        return handle

    def poll(self, job: Job, handle: JobHandle) -> JobStatus:
        """How the computation has ended."""
        return self._ended[job.name, job.key][1]

    def tail(self, job: Job, handle: JobHandle, offset: int) -> LogPiece:
        """What it has said, from a byte offset on."""
        return LogPiece((job.directory / job.log).read_bytes()[offset:])

    def fetch(self, job: Job, handle: JobHandle) -> dict[str, Path]:
        """The outputs where they were written."""
        found = {name: job.directory / name for name in job.outputs}
        if not all(path.is_file() for path in found.values()):
            raise EngineError("an output is missing")
        return found

    def leave(self, job: Job, handle: JobHandle | None, *, cancelled: bool) -> bool:
        """Forget it: nothing goes on."""
        self._ended.pop((job.name, job.key), None)
        return False

    def clear(self, job: Job, handle: JobHandle) -> str:
        """Forget it, as its folder is."""
        self._ended.pop((job.name, job.key), None)
        return ""

    def give_up(self, job: Job, reason: str) -> None:
        """Forget it, so that its key is computed anew."""
        self._ended.pop((job.name, job.key), None)


def _computed(job: Job) -> JobStatus:
    lines: list[str] = []
    try:
        quick.simulate(job.directory / job.argv[2], lines.append)
        return JobStatus(JobState.SUCCEEDED, 0)
    except Exception:  # noqa: BLE001 - a process would end with exit code 1 and say why
        lines += traceback.format_exc().splitlines()
        return JobStatus(JobState.FAILED, 1, "ended with exit code 1")
    finally:
        (job.directory / job.log).write_text("".join(f"{line}\n" for line in lines))

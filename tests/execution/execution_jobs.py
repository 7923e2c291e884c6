"""Jobs of small Python programs."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mqi_dagster.execution.job import Executor, Job, JobHandle, JobStatus


def make_job(directory: Path, program: str, **changes: object) -> Job:
    """A job that runs a Python program in ``directory`` and wants ``dose.raw``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "program.py").write_text(program)
    values: dict[str, object] = {
        "key": "d1-1",
        "name": "P1.fx0001__b01",
        "directory": directory,
        "manifest": {"program.py": hashlib.sha256(program.encode()).hexdigest()},
        "argv": (sys.executable, "program.py"),
        "outputs": ("dose.raw",),
        "log": "engine.log",
        "timeout_seconds": 60.0,
    }
    return Job(**{**values, **changes})  # type: ignore[arg-type]


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> float:
    """Wait until something is so; the time it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "waited in vain"
        time.sleep(0.02)
    return time.monotonic() - started


def finish(executor: Executor, job: Job, handle: JobHandle) -> JobStatus:
    """Poll a job until it has ended."""
    wait_for(lambda: executor.poll(job, handle).state.ended)
    return executor.poll(job, handle)

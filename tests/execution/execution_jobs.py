"""Jobs of small Python programs."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from mqi_dagster.execution.job import Executor, Job, JobHandle, JobStatus
from tests.waiting import wait_for

WRITES = "print('started', flush=True)\nopen('dose.raw', 'wb').write(b'dose')\n"
HANGS = "import time\nopen('pid', 'w').write('x')\nprint('started', flush=True)\ntime.sleep(100)\n"
DEAF_WITH_CHILD = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)"])
open("child.part", "w").write(str(child.pid))
os.rename("child.part", "child")
time.sleep(100)
"""


def make_job(directory: Path, program: str, **changes: object) -> Job:
    """A job that runs a Python program in ``directory`` and wants ``dose.raw``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "program.py").write_text(program)
    values: dict[str, object] = {
        "key": "d1-1",
        "name": "P1.fx0001__b01",
        "parents": ("P1.fx0001", "b01"),
        "directory": directory,
        "manifest": {"program.py": hashlib.sha256(program.encode()).hexdigest()},
        "argv": (sys.executable, "program.py"),
        "outputs": ("dose.raw",),
        "log": "engine.log",
        "timeout_seconds": 60.0,
    }
    return Job(**{**values, **changes})  # type: ignore[arg-type]


def finish(executor: Executor, job: Job, handle: JobHandle) -> JobStatus:
    """Poll a job until it has ended."""
    wait_for(lambda: executor.poll(job, handle).state.ended, "the job's end")
    return executor.poll(job, handle)


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True

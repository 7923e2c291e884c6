"""Drives one beam in a process of its own: ``beam_worker.py <spec.json>``; prints job id and outcome.

As several processes at once they only submit it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from mqi_dagster.compute.engine_run import EngineRun
from mqi_dagster.compute.retrying import Retrying
from mqi_dagster.execution.job import Job, JobHandle
from mqi_dagster.hpc.executor import SlurmExecutor
from mqi_dagster.ledger.database import sqlite_url
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.settings import Host


class Silent:
    """Nobody looks."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


def main() -> int:
    """Drive the beam of the spec."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    host = Host.model_validate(spec["host"])
    assert host.slurm is not None
    job = Job(
        **{
            **spec["job"],
            "directory": Path(spec["job"]["directory"]),
            **{name: tuple(spec["job"][name]) for name in ("parents", "argv", "outputs")},
        }
    )
    for _ in range(spec["processes"] - 1):
        if os.fork() == 0:
            break
    ledger = Ledger.open(sqlite_url(Path(spec["ledger"])))
    executor = SlurmExecutor("hpc", host, host.slurm, ledger, "moqui_tps.in")

    def note(handle: JobHandle) -> None:
        # In one piece, beside what the others say.
        sys.stdout.write(f"job {handle.job_id}\n")
        sys.stdout.flush()

    log: Any = logging.getLogger("worker")
    silent: Any = Silent()
    retrying = Retrying(log, host.slurm.intervals)
    if spec["processes"] > 1:
        note(retrying.call("submitting", lambda: executor.submit(job)))
        return 0
    run = EngineRun(log, executor, job, silent, retrying, lambda: None, note, "hpc/gpu0")
    print("begun", flush=True)
    status = run.run()
    if status.state == "succeeded":
        run.fetch()
    print("ended", status.state, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Which runs are in living hands, and the end of those hands that have outlived their code location."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

from mqi_dagster.compute import run_workers
from mqi_dagster.compute.run_workers import end_workers, worker_lives

TAGS = {".dagster/grpc_info": "{}"}


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def a_run(
    instance: dg.DagsterInstance,
    pid: int | None,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
) -> dg.DagsterRun:
    run = instance.add_run(dg.DagsterRun(job_name="beam", status=status, tags=TAGS))
    if pid is not None:
        message = f"Started process for run (pid: {pid})."
        instance.report_engine_event(message, run, EngineEventData.in_process(pid))
    return run


def test_a_worker_that_has_not_told_its_pid_yet_counts_as_living_while_its_run_starts(
    disk_instance: dg.DagsterInstance, worker: subprocess.Popen[bytes]
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living, orphan = a_run(disk_instance, worker.pid), a_run(disk_instance, dead.pid)
    starting = a_run(disk_instance, None, dg.DagsterRunStatus.STARTING)
    silent = a_run(disk_instance, None)
    cancelled = a_run(disk_instance, dead.pid, dg.DagsterRunStatus.CANCELING)
    runs = (living, orphan, starting, silent, cancelled)
    assert [worker_lives(disk_instance, run) for run in runs] == [True, False, True, False, False]


def test_a_pid_that_was_given_out_again_is_not_the_worker(
    disk_instance: dg.DagsterInstance, worker: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(disk_instance, worker.pid)
    assert worker_lives(disk_instance, run)
    # The machine was started again an hour after the worker had said its pid.
    real = run_workers._boot()
    monkeypatch.setattr(run_workers, "_boot", lambda: real + 3600)
    assert not worker_lives(disk_instance, run)


def test_workers_that_outlived_their_code_location_are_ended(
    disk_instance: dg.DagsterInstance, worker: subprocess.Popen[bytes]
) -> None:
    a_run(disk_instance, worker.pid)
    assert end_workers(disk_instance) == 1
    assert worker.wait(30) != 0
    assert end_workers(disk_instance) == 0

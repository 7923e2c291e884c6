"""What dies with its worker, and what the next worker finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mqi_dagster import tied
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.execution.job import JobHandle, JobState
from mqi_dagster.execution.local import LocalExecutor
from mqi_dagster.execution.processes import process_alive, process_id
from tests.execution.execution_jobs import DEAF_WITH_CHILD, HANGS, WRITES, finish, gone, make_job
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
_WORKER = """
import sys, time
from pathlib import Path
from tests.execution.execution_jobs import make_job
from mqi_dagster.execution.local import LocalExecutor
executor = LocalExecutor(Path(sys.argv[1]) / "state")
job = make_job(Path(sys.argv[1]) / "work", Path(sys.argv[1], "program").read_text())
print(executor.submit(job).job_id, flush=True)
time.sleep(100)
"""


def _worker(tmp_path: Path, program: str) -> tuple[subprocess.Popen[str], str]:
    (tmp_path / "program").write_text(program)
    command = [sys.executable, "-c", _WORKER, str(tmp_path)]
    worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    return worker, worker.stdout.readline().strip()


def test_the_engine_dies_with_its_killed_worker(tmp_path: Path) -> None:
    worker, job_id = _worker(tmp_path, HANGS)
    wait_for((tmp_path / "work" / "pid").exists, "the engine runs")
    assert process_alive(job_id)
    worker.kill()
    worker.communicate()
    wait_for(lambda: not process_alive(job_id), "the engine dies")


def test_an_engine_killed_with_its_worker_while_it_starts_does_not_stay(tmp_path: Path) -> None:
    worker, job_id = _worker(tmp_path, HANGS)
    worker.kill()
    worker.communicate()
    wait_for(lambda: not process_alive(job_id), "the engine dies")


def test_the_next_worker_ends_what_the_killed_one_left_and_starts_anew(
    executor: LocalExecutor, tmp_path: Path, work: Path
) -> None:
    worker, job_id = _worker(tmp_path, DEAF_WITH_CHILD)
    wait_for((work / "child").exists, "the engine's child")
    worker.kill()
    worker.communicate()
    child = int((work / "child").read_text())
    job = make_job(work, WRITES)
    assert executor.poll(job, JobHandle("local", job_id)).state is JobState.RUNNING, "its child lives on"
    handle = executor.submit(job)
    assert gone(child)
    assert not process_alive(job_id)
    assert executor.poll(job, JobHandle("local", job_id)).state is JobState.LOST
    assert finish(executor, job, handle).state is JobState.SUCCEEDED
    assert executor.starts.read_text() == "d1-1\nd1-1\n"


def test_a_job_of_another_worker_can_be_cancelled_but_not_fetched(
    executor: LocalExecutor, tmp_path: Path, work: Path
) -> None:
    worker, job_id = _worker(tmp_path, HANGS)
    job, handle = make_job(work, HANGS), JobHandle("local", job_id)
    with pytest.raises(InfrastructureError):
        executor.fetch(job, handle)
    executor.cancel(job, handle)
    assert not process_alive(job_id)
    worker.kill()
    worker.communicate()


def test_a_pid_that_was_given_out_again_is_not_the_job() -> None:
    mine = process_id(os.getpid())
    assert process_alive(mine)
    assert not process_alive(f"{os.getpid()}:1")
    with pytest.raises(InfrastructureError):
        process_alive("4711")


def test_a_program_whose_parent_died_before_it_was_tied_never_starts(tmp_path: Path) -> None:
    launcher = Path(tied.__file__)
    program = ["/bin/touch", "touch", str(tmp_path / "started")]
    for parent, code, started in ((os.getppid(), 127, False), (os.getpid(), 0, True)):
        done = subprocess.run([sys.executable, "-I", "-S", str(launcher), str(parent), *program], check=False)
        assert done.returncode == code
        assert (tmp_path / "started").exists() is started

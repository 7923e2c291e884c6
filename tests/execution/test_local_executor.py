"""The local executor: verdicts, limits, and no process that outlives its worker."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mqi_dagster.errors import ConfigurationError, EngineError, EngineInputError
from mqi_dagster.execution.job import JobState
from mqi_dagster.execution.local import LocalExecutor
from mqi_dagster.execution.processes import process_alive
from tests.execution.execution_jobs import DEAF_WITH_CHILD, HANGS, WRITES, finish, gone, make_job
from tests.waiting import wait_for


def test_an_engine_that_writes_its_output_succeeds(executor: LocalExecutor, work: Path) -> None:
    job = make_job(work, WRITES)
    handle = executor.submit(job)
    status = finish(executor, job, handle)
    assert (status.state, status.exit_code, status.reason) == (JobState.SUCCEEDED, 0, "")
    assert executor.fetch(job, handle) == {"dose.raw": work / "dose.raw"}
    assert executor.tail(job, handle, 0).text == b"started\n"
    assert executor.tail(job, handle, 5).text == b"ed\n"
    assert (work / "engine.log").stat().st_mode & 0o777 == 0o600
    assert executor.starts.read_text() == "d1-1\n"


def test_the_same_key_is_started_once_and_a_cancelled_one_anew(executor: LocalExecutor, work: Path) -> None:
    job = make_job(work, HANGS)
    handle = executor.submit(job)
    assert executor.submit(job) == handle
    assert executor.poll(job, handle).state is JobState.RUNNING
    executor.cancel(job, handle)
    assert executor.poll(job, handle).state is JobState.CANCELLED
    assert not process_alive(handle.job_id)
    executor.cancel(job, handle)
    again = executor.submit(job)
    assert again != handle
    assert executor.starts.read_text() == "d1-1\nd1-1\n"
    executor.cancel(job, again)


def test_a_job_that_was_given_up_is_started_anew(executor: LocalExecutor, work: Path) -> None:
    job = make_job(work, "import sys; sys.exit(3)")
    for _ in range(2):
        assert finish(executor, job, executor.submit(job)).exit_code == 3
    executor.give_up(job, "the GPU was lost")
    assert finish(executor, job, executor.submit(job)).exit_code == 3
    assert executor.starts.read_text() == "d1-1\nd1-1\n", "the first failure is found again until then"


def test_a_worker_that_stops_ends_its_engine(executor: LocalExecutor, work: Path) -> None:
    job = make_job(work, HANGS)
    assert executor.leave(job, None, cancelled=False) is False
    handle = executor.submit(job)
    assert executor.leave(job, handle, cancelled=False) is False
    assert not process_alive(handle.job_id)


def test_two_beams_with_equal_digests_do_not_disturb_each_other(
    executor: LocalExecutor, tmp_path: Path, work: Path
) -> None:
    first = make_job(work, HANGS)
    running = executor.submit(first)
    second = make_job(tmp_path / "other", WRITES, name="P2.fx0001__b01")
    other_worker = LocalExecutor(tmp_path / "state")
    handle = other_worker.submit(second)
    assert finish(other_worker, second, handle).state is JobState.SUCCEEDED
    assert executor.poll(first, running).state is JobState.RUNNING
    executor.cancel(first, running)
    with pytest.raises(ConfigurationError, match="safe file names"):
        executor.submit(make_job(work, WRITES, key="../x"))


@pytest.mark.parametrize(
    ("program", "code", "reason"),
    [
        ("import sys; sys.exit(3)", 3, "ended with exit code 3"),
        (WRITES + "import sys; sys.exit(1)", 1, "ended with exit code 1"),
        ("import os; os.kill(os.getpid(), 11)", -11, "ended by signal 11"),
        ("pass", 0, "the engine has ended without output 1 of 1"),
        ("open('dose.raw', 'wb')", 0, "output 1 of 1 of the engine is empty"),
        ("import os; os.mkdir('dose.raw')", 0, "the engine has ended without output 1 of 1"),
    ],
)
def test_everything_but_a_written_output_and_a_good_exit_code_is_a_failure(
    executor: LocalExecutor, work: Path, program: str, code: int, reason: str
) -> None:
    job = make_job(work, program)
    status = finish(executor, job, executor.submit(job))
    assert (status.state, status.exit_code, status.reason) == (JobState.FAILED, code, reason)


def test_the_profile_says_which_exit_codes_are_worth_looking_at_the_output(
    executor: LocalExecutor, work: Path
) -> None:
    job = make_job(work, WRITES + "import sys; sys.exit(1)", success_exit_codes=(0, 1))
    status = finish(executor, job, executor.submit(job))
    assert (status.state, status.exit_code) == (JobState.SUCCEEDED, 1)


@pytest.mark.parametrize("age", [0.0, 3600.0])
def test_an_output_from_before_the_start_is_not_taken(
    executor: LocalExecutor, work: Path, age: float
) -> None:
    work.mkdir()
    (work / "dose.raw").write_bytes(b"stale")
    then = time.time() - age
    os.utime(work / "dose.raw", (then, then))
    job = make_job(work, "pass")
    handle = executor.submit(job)
    status = finish(executor, job, handle)
    assert status.state is JobState.FAILED
    assert status.reason == "output 1 of 1 of the engine is older than its start"
    with pytest.raises(EngineError, match="older than its start"):
        executor.fetch(job, handle)


def test_an_old_output_copied_to_its_place_is_not_taken(executor: LocalExecutor, work: Path) -> None:
    program = "import os\nopen('dose.raw', 'wb').write(b'x')\nos.utime('dose.raw', (1e9, 1e9))\n"
    job = make_job(work, program)
    assert finish(executor, job, executor.submit(job)).state is JobState.FAILED


def test_inputs_are_compared_with_their_manifest_before_anything_starts(
    executor: LocalExecutor, work: Path
) -> None:
    job = make_job(work, WRITES)
    (work / "program.py").write_text(WRITES + "# changed")
    with pytest.raises(EngineInputError, match="input 1 of 1 differs"):
        executor.submit(job)
    with pytest.raises(EngineInputError, match="outside"):
        executor.submit(replace(job, manifest={"../x": "00"}))
    with pytest.raises(EngineInputError, match="cannot be read: No such file") as caught:
        executor.submit(replace(job, manifest={"DOE_JOHN": "00"}))
    assert "DOE_JOHN" not in str(caught.value)
    assert not executor.starts.exists()


def test_a_missing_program_is_a_fault_of_the_configuration(executor: LocalExecutor, work: Path) -> None:
    for program in ("no-such-engine", "/opt/DOE_JOHN/no-such-engine", "./program.py"):
        with pytest.raises(ConfigurationError, match=r"no-such-engine|program\.py") as caught:
            executor.submit(make_job(work, WRITES, argv=(program, "x")))
        assert "DOE_JOHN" not in str(caught.value)
    assert not executor.starts.exists()


def test_a_program_beside_this_python_is_found_without_a_path(
    executor: LocalExecutor, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    job = make_job(work, WRITES, argv=(Path(sys.executable).name, "program.py"))
    assert finish(executor, job, executor.submit(job)).state is JobState.SUCCEEDED


def test_only_a_few_variables_reach_the_engine(
    executor: LocalExecutor, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    program = "import os\nopen('dose.raw', 'w').write(repr(sorted(os.environ)))\n"
    job = make_job(work, program, environment={"CUDA_VISIBLE_DEVICES": "GPU-a"})
    finish(executor, job, executor.submit(job))
    names = (work / "dose.raw").read_text()
    assert "'CUDA_VISIBLE_DEVICES'" in names
    assert "'LANG'" in names
    assert "'PATH'" in names
    assert "DATABASE_PASSWORD" not in names


def test_its_version_is_asked_with_the_same_few_variables(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_MY_SHELL", "yes")
    assert executor.answer(["sh", "-c", "echo 1.0$OF_MY_SHELL"]) == "1.0"


def test_an_engine_is_only_started_from_the_main_thread(executor: LocalExecutor, work: Path) -> None:
    caught: list[Exception] = []

    def submit() -> None:
        try:
            executor.submit(make_job(work, WRITES))
        except ConfigurationError as error:
            caught.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    thread.join()
    assert len(caught) == 1


def test_an_engine_that_runs_too_long_is_ended_with_all_it_started(
    executor: LocalExecutor, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqi_dagster.execution.local._GRACE_SECONDS", 0.5)
    job = make_job(work, DEAF_WITH_CHILD, timeout_seconds=2.0)
    handle = executor.submit(job)
    wait_for((work / "child").exists, "the engine's child")
    child = int((work / "child").read_text())
    status = finish(executor, job, handle)
    assert (status.state, status.reason) == (JobState.TIMED_OUT, "ran longer than 2 s")
    assert gone(child)
    assert not process_alive(handle.job_id)


def test_what_an_engine_leaves_behind_is_ended_with_it(executor: LocalExecutor, work: Path) -> None:
    program = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "open('dose.raw', 'w').write(str(child.pid))\n"
    )
    job = make_job(work, program)
    assert finish(executor, job, executor.submit(job)).state is JobState.SUCCEEDED
    assert gone(int((work / "dose.raw").read_text()))


def test_a_killed_engine_is_a_failure_and_its_group_is_ended(executor: LocalExecutor, work: Path) -> None:
    job = make_job(work, DEAF_WITH_CHILD)
    handle = executor.submit(job)
    wait_for((work / "child").exists, "the engine's child")
    os.kill(int(handle.job_id.split(":")[0]), signal.SIGKILL)
    assert process_alive(handle.job_id), "its child lives on, so the slot is not free"
    assert finish(executor, job, handle).reason == "ended by signal 9"
    assert gone(int((work / "child").read_text()))

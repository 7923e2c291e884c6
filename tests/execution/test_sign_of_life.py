"""Whether a worker lives is told by the kernel alone: not by a clock, a pid or a word it has left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.execution.sign_of_life import Life, SignsOfLife
from tests.waiting import wait_for

WORKER = """
import subprocess, sys, time
from pathlib import Path
from mqi_dagster.execution.sign_of_life import SignsOfLife
SignsOfLife(Path(sys.argv[1])).give(sys.argv[2])
if sys.argv[3:] == ["with a child"]:
    subprocess.Popen(["sleep", "60"])
print("given", flush=True)
time.sleep(60)
"""


@contextmanager
def worker(folder: Path, run_id: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), run_id, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "given\n"
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def becomes(signs: SignsOfLife, run_id: str, life: Life) -> None:
    wait_for(lambda: signs.of(run_id) is life, f"{run_id} is {life.value}")


def test_a_process_that_works_on_many_runs_in_turn_keeps_no_sign_and_no_file_open(tmp_path: Path) -> None:
    signs = SignsOfLife(tmp_path / "workers")
    with signs.giving("run0"):
        assert signs.of("run0") is Life.ALIVE
    opened = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(5):
        with signs.giving(f"run{number}"):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
    assert signs.known() == []


def test_a_run_that_was_left_by_an_error_is_known_to_be_in_nobodys_hands(tmp_path: Path) -> None:
    signs = SignsOfLife(tmp_path / "workers")
    with pytest.raises(KeyboardInterrupt), signs.giving("run1"):
        raise KeyboardInterrupt
    assert signs.of("run1") is Life.DEAD


def test_a_worker_lives_until_it_is_killed(tmp_path: Path) -> None:
    signs = SignsOfLife(tmp_path / "workers")
    assert signs.of("run1") is Life.NEVER_SEEN
    with worker(tmp_path / "workers", "run1") as process:
        assert signs.of("run1") is Life.ALIVE
        assert signs.of("run1") is Life.ALIVE, "asking takes nothing from it"
        assert signs.known() == ["run1"]
        process.kill()
        becomes(signs, "run1", Life.DEAD)
    signs.forget("run1")
    signs.forget("run1")
    assert signs.of("run1") is Life.NEVER_SEEN
    assert signs.known() == []


def test_one_that_stands_still_lives(tmp_path: Path) -> None:
    with worker(tmp_path, "run1") as process:
        process.send_signal(signal.SIGSTOP)
        assert SignsOfLife(tmp_path).of("run1") is Life.ALIVE


def test_a_child_that_outlives_its_worker_is_no_sign_of_it(tmp_path: Path) -> None:
    with worker(tmp_path, "run1", "with a child") as process:
        process.kill()
        becomes(SignsOfLife(tmp_path), "run1", Life.DEAD)


def test_after_a_reboot_nobody_lives(tmp_path: Path) -> None:
    # All that a reboot leaves: the file, with a time that says nothing.
    (tmp_path / "run1").touch()
    os.utime(tmp_path / "run1", (2e9, 2e9))
    assert SignsOfLife(tmp_path).of("run1") is Life.DEAD


@pytest.mark.parametrize("run_id", ["../run1", "", "a/b", "."])
def test_only_a_safe_name_is_taken(tmp_path: Path, run_id: str) -> None:
    for ask in (SignsOfLife(tmp_path).of, SignsOfLife(tmp_path).give, SignsOfLife(tmp_path).forget):
        with pytest.raises(ValueError, match="safe file name"):
            ask(run_id)


def test_a_disk_that_takes_no_sign_is_lost_infrastructure_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "DOE_JOHN").write_text("a file")
    with pytest.raises(InfrastructureError) as raised:
        SignsOfLife(tmp_path / "DOE_JOHN" / "workers").give("run1")
    assert "DOE_JOHN" not in str(raised.value)

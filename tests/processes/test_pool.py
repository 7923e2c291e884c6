"""Tasks in processes that are killed, starved, stuck, or told that the disk is full."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from mqi_dagster.backoff import Backoff
from mqi_dagster.errors import InputError, Retry
from mqi_dagster.processes.causes import Cause
from mqi_dagster.processes.errors import (
    DiskIsFullError,
    TaskEndedError,
    TaskFailedError,
    TaskMemoryError,
    TaskStoppedError,
)
from mqi_dagster.processes.levels import Device, Level
from mqi_dagster.processes.pool import TaskResults, run_tasks
from mqi_dagster.processes.progress import Progress
from mqi_dagster.processes.worker_counts import THREAD_VARIABLES
from tests.processes import work
from tests.processes.test_causes import ARENA
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
SOON = Backoff(first_seconds=0.01)
MIB = 1 << 20


def levels(done: TaskResults, task: str) -> list[Level]:
    return [step.level for step in done.steps if step.task == task]


def causes(done: TaskResults, task: str) -> list[Cause]:
    return [step.cause for step in done.steps if step.task == task]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def pid_in(marker: Path) -> int:
    return int(wait_for(lambda: marker.exists() and marker.read_text(), "the task runs"))


def test_results_belong_to_their_tasks_whatever_ends_first() -> None:
    tasks = {name: {"number": number} for name, number in (("c", 3), ("a", -1), ("b", 12))}
    done = run_tasks(tasks, work.square, label="Squares", workers=3)
    assert done.results == {"a": 1, "b": 144, "c": 9}
    assert (done.errors, done.steps) == ({}, [])


def test_four_workers_and_one_give_the_same_bits() -> None:
    tasks = {f"seed{seed}": {"seed": seed} for seed in range(4)}
    four = run_tasks(tasks, work.sines, label="Sines", workers=4)
    one = run_tasks(tasks, work.sines, label="Sines", workers=1)
    assert len({str(numbers) for numbers in four.results.values()}) == 4
    assert four.results == one.results


def test_no_tasks_are_no_work() -> None:
    assert run_tasks({}, work.square, label="Squares", workers=2) == TaskResults()


def test_a_worker_killed_from_outside_costs_nobody_else_anything(tmp_path: Path) -> None:
    marker = tmp_path / "runs"
    killer = threading.Thread(target=lambda: os.kill(pid_in(marker), signal.SIGKILL))
    killer.start()
    tasks = {name: {"marker": str(tmp_path / name)} for name in ("other", "another")}
    for one in tasks.values():
        Path(one["marker"]).touch()
    done = run_tasks(
        {"victim": {"marker": str(marker)}, **tasks}, work.hang_once, label="T", workers=2, backoff=SOON
    )
    killer.join()
    assert done.results == {"victim": "done", "other": "done", "another": "done"}
    (step,) = done.steps
    assert (step.task, step.attempt, step.level, step.next_level) == ("victim", 1, Level(2), Level(1))
    assert (step.cause, step.reason) == (Cause.KILLED, "its process was ended by SIGKILL")
    assert str(step) == (
        "victim: try 1 at 2 workers: killed, its process was ended by SIGKILL: again at 1 worker"
    )


def test_exit_137_steps_down_to_one_worker_and_then_fails_as_one_that_may_be_tried_again() -> None:
    tasks = {f"t{code}": {"code": code} for code in (137, 138, 139, 140)}
    done = run_tasks(tasks, work.exit_with, label="T", workers=4, attempts=2, backoff=SOON)
    assert levels(done, "t137") == [Level(4), Level(2), Level(1)]
    assert set(causes(done, "t137")) == {Cause.KILLED}
    assert levels(done, "t138") == [Level(4), Level(1)]
    assert set(causes(done, "t138")) == {Cause.CRASHED}
    error = done.errors["t137"]
    assert isinstance(error, TaskEndedError)
    assert error.retry is Retry.FROM_BUDGET
    assert str(error) == "T: its process ended with exit code 137, on try 3 at 1 worker"


def test_at_one_worker_a_killed_task_has_all_its_attempts_and_one_without_memory_has_one() -> None:
    killed = run_tasks({"t": {"code": 137}}, work.leave_with, label="T", workers=4, attempts=3, backoff=SOON)
    assert levels(killed, "t") == [Level(1)] * 3
    starved = run_tasks({"t": {"kind": "memory"}}, work.fail, label="T", workers=4, attempts=3, backoff=SOON)
    assert levels(starved, "t") == [Level(1)]
    assert isinstance(starved.errors["t"], TaskMemoryError)
    assert starved.errors["t"].retry is Retry.NEVER


def test_a_task_that_hits_its_share_of_the_memory_gets_twice_the_share_and_the_others_keep_theirs() -> None:
    tasks = {f"small{number}": {"megabytes": 1} for number in range(3)}
    tasks |= {"big": {"megabytes": 700}, "huge": {"megabytes": 3000}}
    done = run_tasks(tasks, work.use_memory, label="T", workers=4, memory_bytes=2000 * MIB)
    assert done.results == {"big": 1000 * MIB, **{f"small{number}": 500 * MIB for number in range(3)}}
    assert [(step.level, step.memory_bytes) for step in done.steps if step.task == "huge"] == [
        (Level(4), 500 * MIB),
        (Level(2), 1000 * MIB),
        (Level(1), 2000 * MIB),
    ]
    assert causes(done, "big") == [Cause.MEMORY]
    assert isinstance(done.errors["huge"], TaskMemoryError)


def test_numpy_under_the_limit_is_starved_and_not_broken() -> None:
    done = run_tasks(
        {"a": {"megabytes": 300}, "b": {"megabytes": 1}},
        work.use_array,
        label="T",
        workers=2,
        memory_bytes=800 * MIB,
    )
    assert done.results == {"a": 300 * 256, "b": 256}
    assert causes(done, "a") == [Cause.MEMORY]


def test_a_share_in_which_a_library_finds_no_room_is_a_want_of_memory() -> None:
    done = run_tasks({"a": {}}, work.load_library, label="T", workers=1, memory_bytes=30 * MIB)
    assert causes(done, "a") == [Cause.MEMORY]


def test_what_a_task_is_made_of_is_compiled_without_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Larger than the limit while it is compiled, and small afterwards.
    lines = ",\n".join(f"    ({number}, 'a{number}')" for number in range(50_000))
    (tmp_path / "uncompiled.py").write_text(f"LARGE = len([\n{lines}\n])\ndef count():\n    return LARGE\n")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    count = import_module("uncompiled").count
    done = run_tasks({"a": {}}, count, label="T", workers=1, memory_bytes=60 * MIB)
    assert done.results == {"a": 50_000}


@pytest.mark.parametrize("succeeds_on", [Device.GPU_IN_PIECES, Device.CPU])
def test_a_gpu_model_goes_on_in_pieces_and_then_on_the_processor(succeeds_on: Device) -> None:
    texts = {
        "torch": "CUDA out of memory",
        "cublas": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "onnx": ARENA,
    }
    tasks = {name: {"succeeds_on": succeeds_on, "text": text} for name, text in texts.items()}
    done = run_tasks(tasks, work.gpu_model, label="Segmentation", workers=1, device=Device.GPU)
    assert done.results == dict.fromkeys(texts, succeeds_on)
    used = [Device.GPU] if succeeds_on is Device.GPU_IN_PIECES else [Device.GPU, Device.GPU_IN_PIECES]
    for name in texts:
        assert levels(done, name) == [Level(1, device) for device in used]
        assert set(causes(done, name)) == {Cause.GPU_MEMORY}


def test_texts_that_only_sound_like_memory_are_not_repeated() -> None:
    texts = ("zoom factor must be positive", "room", "bloom")
    tasks = {text: {"kind": "runtime", "text": text} for text in texts}
    done = run_tasks({**tasks, "v": {"kind": "value", "text": "zoom"}}, work.fail, label="T", workers=4)
    assert [step.attempt for step in done.steps] == [1, 1, 1, 1]
    assert all(isinstance(error, TaskFailedError) for error in done.errors.values())
    assert set(done.errors) == {*texts, "v"}
    assert done.errors["v"].message.startswith("ValueError in tests.processes.work, line ")
    assert "zoom" not in str(done.errors["v"])


def test_a_task_that_hangs_is_killed_and_repeated_alone(tmp_path: Path) -> None:
    marker = tmp_path / "runs"
    tasks = {name: {"marker": str(tmp_path / name)} for name in ("other", "another")}
    for one in tasks.values():
        Path(one["marker"]).touch()
    done = run_tasks(
        {"stuck": {"marker": str(marker)}, **tasks},
        work.hang_once,
        label="T",
        workers=3,
        timeout_seconds=3,
        attempts=9,
        backoff=SOON,
    )
    assert done.results == {"stuck": "done", "other": "done", "another": "done"}
    assert causes(done, "stuck")[0] is Cause.TIME_LIMIT
    assert done.steps[-1].reason == "it ran longer than 3 s"
    assert done.steps[-1].next_level == Level(1)
    assert not alive(pid_in(marker))


def test_a_task_that_hangs_on_its_last_try_fails_even_where_it_is_deaf_to_signals(tmp_path: Path) -> None:
    stuck = {name: {"marker": str(tmp_path / name), "deaf": name == "deaf"} for name in ("deaf", "hearing")}
    done = run_tasks(stuck, work.hang, label="T", workers=2, timeout_seconds=1, attempts=1)
    for name in stuck:
        assert isinstance(done.errors[name], TaskEndedError)
        assert levels(done, name) == [Level(2)]
        assert not ((tmp_path / name).exists() and alive(pid_in(tmp_path / name)))


def test_what_has_crashed_runs_alone_after_the_others(tmp_path: Path) -> None:
    (tmp_path / "running").mkdir()
    common = {"folder": str(tmp_path), "others": ["a", "b"]}
    tasks = {name: {**common, "name": name} for name in ("crasher", "a", "b")}
    done = run_tasks(tasks, work.crash_beside_others, label="T", workers=3, backoff=SOON)
    assert done.results == {"crasher": [], "a": ["a"], "b": ["b"]}
    assert [(step.task, step.cause, step.reason) for step in done.steps] == [
        ("crasher", Cause.CRASHED, "its process was ended by SIGABRT")
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "mqi-small", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk can be made by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_its_own_kind_of_failure_and_leaves_nothing_behind(
    small_disk: Path, tmp_path: Path
) -> None:
    tasks = {
        "large": {"path": str(small_disk / "large"), "count": 1_000_000},
        "small": {"path": str(small_disk / "small"), "count": 1000},
        "elsewhere": {"path": str(tmp_path / "elsewhere"), "count": 1_000_000},
    }
    done = run_tasks(tasks, work.write_bytes, label="T", workers=2, attempts=2, backoff=SOON)
    assert done.results == {"small": 1000, "elsewhere": 1_000_000}
    assert causes(done, "large") == [Cause.DISK_FULL, Cause.DISK_FULL]
    error = done.errors["large"]
    assert isinstance(error, DiskIsFullError)
    assert error.retry is Retry.FOREVER
    assert os.strerror(errno.ENOSPC) in error.message
    assert sorted(path.name for path in small_disk.iterdir()) == ["small"]


def test_a_full_device_is_known_by_its_number_and_without_it() -> None:
    tasks = {"array": {"path": "/dev/full"}}
    done = run_tasks(tasks, work.array_to_file, label="T", workers=1, attempts=1)
    assert isinstance(done.errors["array"], DiskIsFullError)


def test_a_task_waits_until_the_disk_has_room_again(tmp_path: Path) -> None:
    tasks = {"t": {"marker": str(tmp_path / "full")}}
    done = run_tasks(tasks, work.run_out_of_disk_once, label="T", workers=4, backoff=SOON)
    assert done.results == {"t": "done"}
    assert [(step.level, step.next_level) for step in done.steps] == [(Level(1), Level(1))]
    assert "DOE" not in done.steps[0].reason


def test_a_typed_error_comes_through_as_it_is_and_a_result_that_is_no_json_is_an_error() -> None:
    typed = run_tasks({"t": {}}, work.fail_typed, label="T", workers=1)
    error = typed.errors["t"]
    assert type(error) is InputError
    assert str(error) == "RT dose: two frames of reference"
    odd = run_tasks({"t": {}}, work.unheard_of, label="T", workers=1)
    assert isinstance(odd.errors["t"], TaskFailedError)
    assert "TypeError" in odd.errors["t"].message


def test_thread_limits_are_set_before_a_worker_starts_and_not_in_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    task = {"t": {"names": list(THREAD_VARIABLES)}}
    done = run_tasks(task, work.environment, label="T", workers=1, threads=3)
    assert done.results == {"t": dict.fromkeys(THREAD_VARIABLES, "3")}
    required = {"OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA"}
    assert {f"{name}_NUM_THREADS" for name in required} <= set(THREAD_VARIABLES)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_progress_is_told_of_each_task_that_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Progress] = []
    tasks = {"a": {"kind": "value"}, "b": {"kind": "runtime"}}
    with caplog.at_level("INFO"):
        run_tasks(tasks, work.fail, label="Radiomics", workers=1, progress=told.append)
    assert [(one.label, one.ended, one.total) for one in told] == [("Radiomics", 1, 2), ("Radiomics", 2, 2)]
    assert [line for line in caplog.messages if "elapsed" in line] == [str(one) for one in told]


def test_the_line_of_progress() -> None:
    assert str(Progress("Segmentation", 3, 10, 12.51)) == "Segmentation: 3/10 (30%) elapsed 12.5s ETA 29.2s"
    assert str(Progress("DVH", 0, 10, 1.0)) == "DVH: 0/10 (0%) elapsed 1.0s ETA unknown"
    assert str(Progress("DVH", 3, 3, 90.0)) == "DVH: 3/3 (100%) elapsed 90.0s ETA 0.0s"


def test_a_stop_kills_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    stop = threading.Event()
    markers = {name: tmp_path / name for name in ("a", "b", "never")}

    def stop_them() -> None:
        pids.extend(pid_in(markers[name]) for name in ("a", "b"))
        stop.set()

    pids: list[int] = []
    stopper = threading.Thread(target=stop_them)
    stopper.start()
    tasks = {name: {"marker": str(marker), "deaf": True} for name, marker in markers.items()}
    done = run_tasks(tasks, work.hang, label="T", workers=2, stop=stop)
    stopper.join()
    assert set(done.errors) == {"a", "b", "never"}
    assert all(isinstance(error, TaskStoppedError) for error in done.errors.values())
    assert not any(alive(pid) for pid in pids)
    assert not markers["never"].exists()


_PARENT = """
import signal
import sys
from tests.processes import work
from mqi_dagster.processes.pool import run_tasks
signal.signal(signal.SIGINT, signal.default_int_handler)
tasks = {name: {"marker": name, "deaf": True} for name in sys.argv[1:]}
run_tasks(tasks, work.hang, label="T", workers=2)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_the_process_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    markers = [tmp_path / "a", tmp_path / "b"]
    command = [sys.executable, "-c", _PARENT, *map(str, markers)]
    parent = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    pids = [pid_in(marker) for marker in markers]
    parent.send_signal(number)
    parent.wait()
    wait_for(lambda: not any(alive(pid) for pid in pids), "the workers end")


def test_functions_without_an_import_path_and_numbers_below_one_are_refused() -> None:
    def local(number: int) -> int:
        return number

    functions: list[Callable[..., object]] = [local, lambda number: number, Path.home]
    for function in functions:
        with pytest.raises(ValueError, match="import path"):
            run_tasks({"t": {"number": 1}}, function, label="T", workers=1)
    with pytest.raises(ValueError, match="at least 1"):
        run_tasks({"t": {"number": 1}}, work.square, label="T", workers=0)
    with pytest.raises(TypeError):
        run_tasks({"t": {"number": object()}}, work.square, label="T", workers=1)

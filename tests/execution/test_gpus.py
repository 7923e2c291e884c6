"""The GPUs of this machine: declared ones, and whose the processes on them are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.execution.gpus import ComputeProcess, Gpu, foreign, local_gpus, pool_gpus
from mqi_dagster.execution.processes import descends_from, process_id
from mqi_dagster.settings import DeclaredGpu, parse_settings

SEEN = [Gpu(0, "GPU-a", "A5000", 24564), Gpu(1, "GPU-b", "A5000", 24564)]
CHILD_IN_A_GROUP_OF_ITS_OWN = (
    "import subprocess, sys; child = subprocess.Popen(['sleep', '60'], start_new_session=True);"
    "print(child.pid, flush=True); child.wait()"
)


def declared(*gpus: tuple[int, str, int]) -> list[DeclaredGpu]:
    return [DeclaredGpu(index=index, uuid=uuid, memory_mb=memory) for index, uuid, memory in gpus]


@pytest.fixture
def engine() -> Iterator[tuple[str, int, int]]:
    """A running job: its id, its pid, and that of a process it has started in a session of its own."""
    argv = [sys.executable, "-c", CHILD_IN_A_GROUP_OF_ITS_OWN]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) as running:
        assert running.stdout is not None
        child = int(running.stdout.readline())
        try:
            yield process_id(running.pid), running.pid, child
        finally:
            os.kill(child, 9)
            running.kill()


def test_without_a_declaration_the_pool_has_what_nvml_sees() -> None:
    assert pool_gpus([], SEEN) == SEEN
    assert pool_gpus([], []) == []


def test_a_declaration_chooses_among_what_nvml_sees() -> None:
    assert pool_gpus(declared((1, "GPU-b", 24000)), SEEN) == [SEEN[1]]


def test_a_declaration_is_believed_where_nvml_sees_nothing() -> None:
    (gpu,) = pool_gpus(declared((3, "GPU-x", 8000)), [])
    assert (gpu.index, gpu.uuid, gpu.memory_mb) == (3, "GPU-x", 8000)


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ((0, "GPU-x", 8000), "NVML sees no GPU GPU-x"),
        ((1, "GPU-a", 8000), "GPU-a the index 0, not 1"),
        ((0, "GPU-a", 30000), "GPU-a has 24564 MB, not 30000 MB"),
    ],
)
def test_a_declaration_that_contradicts_nvml_is_refused(gpu: tuple[int, str, int], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        pool_gpus(declared(gpu), SEEN)


def test_an_engine_and_what_it_started_are_not_foreign(engine: tuple[str, int, int]) -> None:
    job, pid, child = engine
    processes = [ComputeProcess(pid, 1 << 30), ComputeProcess(child, None)]
    assert foreign(processes, {job}) == 0
    assert foreign(processes, set()) == 2
    assert descends_from(child, {pid}) and not descends_from(pid, {child})


def test_who_holds_no_memory_is_a_display_server_and_everybody_else_is_foreign(
    engine: tuple[str, int, int],
) -> None:
    job, *_ = engine
    others = [ComputeProcess(os.getpid(), 0), ComputeProcess(os.getpid(), 5), ComputeProcess(2**22 + 1, None)]
    assert foreign(others, {job}) == 2


def test_a_job_id_whose_pid_was_given_to_somebody_else_is_nobody(engine: tuple[str, int, int]) -> None:
    _, pid, _ = engine
    assert foreign([ComputeProcess(pid, 5)], {f"{pid}:1"}) == 1


def test_a_gpu_here_tells_who_it_is() -> None:
    gpus = local_gpus()
    if not gpus:
        pytest.skip("NVML sees no GPU on this machine")
    assert [gpu.index for gpu in gpus] == list(range(len(gpus)))
    assert all(gpu.uuid.startswith("GPU-") and gpu.name for gpu in gpus)


SITE = {"site": {"timezone": "UTC"}}
ONE = {"index": 0, "uuid": "GPU-a", "memory_mb": 8000}


@pytest.mark.parametrize(
    ("execution", "said"),
    [
        ({"gpus": [ONE, {**ONE, "uuid": "GPU-b"}]}, "two GPUs have the same index or UUID"),
        ({"gpus": [{**ONE, "memory_mb": 0}]}, "execution.gpus.0.memory_mb"),
        ({"gpus": [{**ONE, "uuid": "GPU a"}]}, "execution.gpus.0.uuid"),
    ],
)
def test_a_wrong_declaration_is_refused_by_name(execution: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse_settings({**SITE, "execution": execution}, Path("/site"))


def test_an_engine_that_needs_more_gpus_than_are_declared_is_refused() -> None:
    profile = {"command": ["moqui", "{tps}"], "needs_gpu": True, "gpus_per_beam": 2}
    engine = {"profile": "two", "profiles": {"two": profile}}
    with pytest.raises(ConfigurationError, match="1 declared, the engine's gpus_per_beam is 2"):
        parse_settings({**SITE, "engine": engine, "execution": {"gpus": [ONE]}}, Path("/site"))
    with pytest.raises(ConfigurationError, match="of an engine with needs_gpu"):
        parse_settings(
            {**SITE, "engine": {**engine, "profiles": {"two": {**profile, "needs_gpu": False}}}},
            Path("/site"),
        )

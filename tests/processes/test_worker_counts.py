"""How many workers, and how much memory, of a made-up machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.processes import worker_counts
from mqi_dagster.processes.worker_counts import (
    STAGES,
    available_memory_bytes,
    effective_workers,
    processors,
    stage_workers,
)

MEMINFO = "MemTotal:       24684092 kB\nMemFree:        21800304 kB\nMemAvailable:   16000000 kB\n"
MIB = 1 << 20


class Machine:
    """Files as the kernel shows them, of a machine with 16 processors and 16,000,000 KiB available."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.cgroups = folder / "proc", folder / "cgroup"
        self.group = self.cgroups / "user" / "job"
        (self.proc / "self").mkdir(parents=True)
        self.group.mkdir(parents=True)
        (self.proc / "meminfo").write_text(MEMINFO)
        (self.proc / "self" / "cgroup").write_text("4:memory:/elsewhere\n0::/user/job\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    return Machine(tmp_path)


def test_processors_are_those_of_the_affinity_without_a_quota(machine: Machine) -> None:
    assert processors(machine.proc, machine.cgroups) == 16
    (machine.group / "cpu.max").write_text("max 100000\n")
    assert processors(machine.proc, machine.cgroups) == 16


@pytest.mark.parametrize(
    ("quota", "count"),
    [("400000 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 16)],
)
def test_the_quota_of_a_control_group_counts(machine: Machine, quota: str, count: int) -> None:
    (machine.group / "cpu.max").write_text(f"{quota}\n")
    assert processors(machine.proc, machine.cgroups) == count


def test_the_quota_of_a_group_above_counts_too(machine: Machine) -> None:
    (machine.group / "cpu.max").write_text("400000 100000\n")
    (machine.group.parent / "cpu.max").write_text("300000 100000\n")
    (machine.cgroups.parent / "cpu.max").write_text("100000 100000\n")
    assert processors(machine.proc, machine.cgroups) == 3


def test_a_machine_without_these_files_has_its_affinity(machine: Machine, tmp_path: Path) -> None:
    assert processors(tmp_path / "none", tmp_path / "none") == 16


def test_memory_is_what_the_machine_has_available(machine: Machine) -> None:
    assert available_memory_bytes(machine.proc, machine.cgroups) == 16_384_000_000
    (machine.group / "memory.max").write_text("max\n")
    assert available_memory_bytes(machine.proc, machine.cgroups) == 16_384_000_000


def test_memory_is_what_the_control_group_leaves_and_its_cached_files_are_no_loss(machine: Machine) -> None:
    (machine.group / "memory.max").write_text(f"{4096 * MIB}\n")
    (machine.group / "memory.current").write_text(f"{3000 * MIB}\n")
    assert available_memory_bytes(machine.proc, machine.cgroups) == 1096 * MIB
    (machine.group / "memory.stat").write_text(f"anon 5\nactive_file 7\ninactive_file {1000 * MIB}\n")
    assert available_memory_bytes(machine.proc, machine.cgroups) == 2096 * MIB
    (machine.group.parent / "memory.max").write_text(f"{512 * MIB}\n")
    (machine.group.parent / "memory.current").write_text(f"{600 * MIB}\n")
    assert available_memory_bytes(machine.proc, machine.cgroups) == 0


def test_memory_that_the_kernel_does_not_tell_is_never_guessed(machine: Machine) -> None:
    (machine.proc / "meminfo").write_text("MemTotal: 5 kB\n")
    with pytest.raises(InfrastructureError, match="does not tell"):
        available_memory_bytes(machine.proc, machine.cgroups)


def test_this_machine_answers() -> None:
    assert processors() >= 1
    assert available_memory_bytes() > 0


@pytest.mark.parametrize(
    ("asked", "processors", "workers"), [(None, 8, 7), (None, 1, 1), (3, 8, 3), (12, 8, 12)]
)
def test_auto_leaves_one_processor(asked: int | None, processors: int, workers: int) -> None:
    assert effective_workers(asked, processors) == workers


@pytest.mark.parametrize(
    ("stage", "asked", "workers"),
    [
        ("segmentation", None, 1),
        ("segmentation", 4, 4),
        ("segmentation", 99, 7),
        ("segmentation_custom", None, 1),
        ("segmentation_custom", 2, 2),
        ("organize", None, 7),
        ("crop_ct", None, 7),
        ("dvh", None, 7),
        ("visualize", None, 7),
        ("radiomics", None, 7),
        ("radiomics", 3, 3),
        ("qc", None, 7),
    ],
)
def test_workers_of_each_stage_of_seven(stage: str, asked: int | None, workers: int) -> None:
    assert stage in STAGES
    assert stage_workers(stage, 7, asked) == workers


def test_no_workers_and_unknown_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        effective_workers(0, 8)
    with pytest.raises(ValueError, match="at least one"):
        stage_workers("dvh", 7, 0)
    with pytest.raises(ValueError, match="no stage 'organise'"):
        stage_workers("organise", 7)


def test_the_stages_are_those_of_the_command() -> None:
    assert set(worker_counts.STAGES) == {
        "organize", "segmentation", "segmentation_custom", "crop_ct", "dvh", "visualize", "radiomics", "qc",
    }  # fmt: skip

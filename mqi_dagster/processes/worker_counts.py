"""How many workers this process may start, and how much memory there is for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.settings.radiotherapy import Radiotherapy

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    # SimpleITK and polars have variables of their own.
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    "POLARS_MAX_THREADS",
)
"""By which numerical libraries are told how many threads they may use, before they are loaded."""
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
STAGES = (
    "organize",
    "segmentation",
    "segmentation_custom",
    "crop_ct",
    "dvh",
    "visualize",
    "radiomics",
    "qc",
)
_ONE_BY_DEFAULT = ("segmentation", "segmentation_custom")
"""Stages whose models want a GPU, or most of the memory, each for itself."""


def processors(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Processors that this process may use, at least 1: its affinity, and the quota of its control group.

    Of a quota of two and a half processors two count.

    Args:
        proc: The kernel's process file system.
        cgroups: Where the control groups (version 2) are mounted.
    """
    allowed = len(os.sched_getaffinity(0))
    for folder in _control_groups(proc, cgroups):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            allowed = min(allowed, int(quota) // int(period))
    return max(1, allowed)


def available_memory_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Memory in bytes that can be used without swapping: the machine's, or what the control group leaves.

    Args:
        proc: The kernel's process file system.
        cgroups: Where the control groups (version 2) are mounted.

    Raises:
        InfrastructureError: The kernel does not tell.
    """
    available = _field(_read(proc / "meminfo"), "MemAvailable:")
    if available is None:
        raise InfrastructureError("the kernel does not tell how much memory is available")
    left = [available * 1024]
    for folder in _control_groups(proc, cgroups):
        limit, used = _read(folder / "memory.max"), _read(folder / "memory.current")
        if limit.isdigit() and used.isdigit():
            # The kernel gives up cached files before it kills anyone.
            cached = _field(_read(folder / "memory.stat"), "inactive_file") or 0
            left.append(max(0, int(limit) - int(used) + cached))
    return min(left)


def effective_workers(asked: int | None, processors: int) -> int:
    """Workers of a run: as many as were asked for; None, ``auto``, leaves one processor to the machine.

    Raises:
        ValueError: Fewer than one were asked for.
    """
    if asked is not None and asked < 1:
        raise ValueError("at least one worker is needed")
    return max(1, processors - 1) if asked is None else asked


def stage_workers(stage: str, effective: int, asked: int | None = None) -> int:
    """Workers of one stage: no more than the run has, and for models one where nobody asks for more.

    Args:
        stage: One of `STAGES`.
        effective: The run's workers, see `effective_workers`.
        asked: What was asked for this stage (``--seg-workers``, ``--custom-model-workers``).

    Raises:
        ValueError: There is no such stage, or fewer than one were asked for.
    """
    if stage not in STAGES:
        raise ValueError(f"there is no stage {stage!r}: {', '.join(STAGES)}")
    if asked is not None and asked < 1:
        raise ValueError("at least one worker is needed")
    default = 1 if stage in _ONE_BY_DEFAULT else effective
    return min(default if asked is None else asked, effective)


def courses_at_once(settings: Radiotherapy) -> int:
    """Courses that a run of many has in work at once on this machine."""
    asked = None if settings.workers == "auto" else settings.workers
    return effective_workers(asked, processors())


def stage_limit(settings: Radiotherapy, stage: str) -> int:
    """Courses that may be in a stage at once.

    In ``radiomics`` it is one: `radiomics.workers` counts the regions of all courses together.

    Args:
        settings: Of the site.
        stage: One of `STAGES`.
    """
    asked = {
        "segmentation": settings.segmentation.workers,
        "segmentation_custom": settings.custom_models.workers,
        "dvh": settings.dvh.workers,
        "radiomics": 1,
    }.get(stage)
    effective = courses_at_once(settings)
    return stage_workers(stage, effective, effective if asked == "auto" else asked)


def _control_groups(proc: Path, cgroups: Path) -> Iterator[Path]:
    """The control group of this process and those above it: each may limit."""
    lines = _read(proc / "self" / "cgroup").splitlines()
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if path is not None:
        folder = Path(os.path.normpath(cgroups / path.lstrip("/")))
        yield from (one for one in (folder, *folder.parents) if one.is_relative_to(cgroups))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        # The group at the top, and a machine without control groups of version 2, have no such file.
        return ""


def _field(text: str, name: str) -> int | None:
    rows = (line.split() for line in text.splitlines())
    return next((int(row[1]) for row in rows if len(row) > 1 and row[0] == name), None)

"""How much a task may use at once, and what it gets next where that was too much.

``gpu`` → ``gpu in pieces`` → ``cpu``; n workers → n/2 → … → 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from mqi_dagster.errors import shown
from mqi_dagster.processes.causes import MAY_PASS, WANT_OF_MEMORY, Cause


class Device(StrEnum):
    """What a model computes on."""

    GPU = "gpu"
    GPU_IN_PIECES = "gpu in pieces"
    """One part of the image at a time."""
    CPU = "cpu"


ON_A_GPU = (Device.GPU, Device.GPU_IN_PIECES)
_NEXT_DEVICE = {Device.GPU: Device.GPU_IN_PIECES, Device.GPU_IN_PIECES: Device.CPU}


@dataclass(frozen=True, slots=True)
class Level:
    """How much a task may use."""

    workers: int
    """How many tasks of this level run at once: each has this part of the memory. At 1 a task runs alone."""
    device: Device | None = None
    """None for what knows of no GPU."""

    def __str__(self) -> str:
        """For people."""
        workers = f"{self.workers} worker{'' if self.workers == 1 else 's'}"
        return workers if self.device is None else f"{workers} on {self.device}"


@dataclass(frozen=True, slots=True)
class Step:
    """One try of a task that did not end well, and what was made of it."""

    task: str
    attempt: int
    """From 1."""
    level: Level
    memory_bytes: int | None
    """The share of the memory that it had; None where there is no limit."""
    cause: Cause
    reason: str
    next_level: Level | None
    """Where it is tried again; None where it has failed."""

    def __str__(self) -> str:
        share = "" if self.memory_bytes is None else f", {self.memory_bytes / 1e6:.0f} MB each"
        after = ": failed" if self.next_level is None else f"{_AGAIN}{self.next_level}"
        tried = f"try {self.attempt} at {self.level}{share}"
        return f"{shown(self.task)}: {tried}: {self.cause}, {self.reason}{after}"


_TRIED = re.compile(r": try \d+ at (?P<level>[^:,]+)(?:, \d+ MB each)?: (?P<cause>[^:,]+), ")
_AGAIN = ": again at "


def cause_of_less(step: str) -> Cause | None:
    """Why a task went on with less; None where it was tried again with as much, or has failed.

    Args:
        step: What `Step` says of itself.
    """
    tried, (_, again, next_level) = _TRIED.search(step), step.rpartition(_AGAIN)
    if tried is None or not again or next_level == tried["level"]:
        return None
    return Cause(tried["cause"]) if tried["cause"] in set(Cause) else None


def step_down(level: Level, cause: Cause) -> Level | None:
    """The level at which a task that ended so is worth another try; None where there is none lower.

    The GPU's memory is spared in pieces, then on the processor; the machine's by half the workers, and by
    pieces where a GPU's task runs alone. What crashed or took too long runs alone.
    """
    alone = level.workers == 1
    match cause:
        case Cause.GPU_MEMORY if level.device in _NEXT_DEVICE:
            return replace(level, device=_NEXT_DEVICE[level.device])
        case Cause.MEMORY | Cause.GPU_MEMORY | Cause.KILLED if not alone:
            return replace(level, workers=level.workers // 2)
        case Cause.MEMORY | Cause.KILLED if level.device is Device.GPU:
            return replace(level, device=Device.GPU_IN_PIECES)
        case Cause.CRASHED | Cause.TIME_LIMIT if not alone:
            return replace(level, workers=1)
    return None


def next_level(level: Level, cause: Cause, *, retry: bool) -> Level | None:
    """The level of the next try of a task that ended so; None where it has failed.

    Steps down for want of memory are always taken, others and tries at the same level where `retry` allows.

    Args:
        level: Of the try that has ended.
        cause: Why it ended.
        retry: Whether a try that promises no less is left.
    """
    lower = step_down(level, cause)
    if cause in WANT_OF_MEMORY and lower is not None:
        return lower
    return lower or level if cause in MAY_PASS and retry else None


def next_model_level(
    level: Level, cause: Cause, *, in_pieces: bool, allow_cpu: bool, retry: bool
) -> Level | None:
    """The level of a model's next try; None where it has failed. See `next_level`.

    Args:
        level: Of the try that has ended.
        cause: Why it ended.
        in_pieces: Whether the model can work in pieces; one that cannot goes past them.
        allow_cpu: Whether one that began on the GPU may go on on the processor.
        retry: Whether a try that promises no less is left.
    """
    after = next_level(level, cause, retry=retry)
    if after is not None and after.device is Device.GPU_IN_PIECES and not in_pieces:
        after = step_down(after, cause) or (level if cause in MAY_PASS and retry else None)
    leaves_gpu = after is not None and after.device is Device.CPU and level.device in ON_A_GPU
    return None if leaves_gpu and not allow_cpu else after

"""How much a task may use at once, and what it gets next where that was too much.

``gpu`` → ``gpu in pieces`` → ``cpu``; n workers → n/2 → … → 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from mqi_dagster.processes.causes import Cause


class Device(StrEnum):
    """What a model computes on."""

    GPU = "gpu"
    GPU_IN_PIECES = "gpu in pieces"
    """One part of the image at a time."""
    CPU = "cpu"


_NEXT_DEVICE = {Device.GPU: Device.GPU_IN_PIECES, Device.GPU_IN_PIECES: Device.CPU}


@dataclass(frozen=True, slots=True)
class Level:
    """How much a task may use."""

    workers: int
    """How many tasks of this level run at once: each has this part of the memory. At 1 a task runs alone."""
    device: Device | None = None
    """None for what knows of no GPU."""


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

"""The ladder, row by row."""

from __future__ import annotations

import pytest

from mqi_dagster.processes.causes import Cause
from mqi_dagster.processes.levels import Device, Level, step_down

GPU, PIECES, CPU = Device.GPU, Device.GPU_IN_PIECES, Device.CPU


@pytest.mark.parametrize(
    ("workers", "device", "cause", "after"),
    [
        (8, None, Cause.MEMORY, (4, None)),
        (5, None, Cause.MEMORY, (2, None)),
        (3, None, Cause.MEMORY, (1, None)),
        (1, None, Cause.MEMORY, None),
        (4, None, Cause.KILLED, (2, None)),
        (1, None, Cause.KILLED, None),
        (4, None, Cause.GPU_MEMORY, (2, None)),
        (1, None, Cause.GPU_MEMORY, None),
        (4, None, Cause.CRASHED, (1, None)),
        (4, None, Cause.TIME_LIMIT, (1, None)),
        (1, None, Cause.CRASHED, None),
        (1, None, Cause.TIME_LIMIT, None),
        (4, None, Cause.DISK_FULL, None),
        (4, None, Cause.ERROR, None),
        (2, GPU, Cause.GPU_MEMORY, (2, PIECES)),
        (1, GPU, Cause.GPU_MEMORY, (1, PIECES)),
        (2, PIECES, Cause.GPU_MEMORY, (2, CPU)),
        (1, PIECES, Cause.GPU_MEMORY, (1, CPU)),
        (2, CPU, Cause.GPU_MEMORY, (1, CPU)),
        (1, CPU, Cause.GPU_MEMORY, None),
        (2, GPU, Cause.MEMORY, (1, GPU)),
        (1, GPU, Cause.MEMORY, (1, PIECES)),
        (1, PIECES, Cause.MEMORY, None),
        (2, CPU, Cause.MEMORY, (1, CPU)),
        (1, CPU, Cause.MEMORY, None),
        (1, GPU, Cause.KILLED, (1, PIECES)),
        (1, PIECES, Cause.KILLED, None),
        (2, GPU, Cause.TIME_LIMIT, (1, GPU)),
        (1, GPU, Cause.CRASHED, None),
        (1, GPU, Cause.DISK_FULL, None),
        (1, GPU, Cause.ERROR, None),
    ],
)
def test_step_down(
    workers: int, device: Device | None, cause: Cause, after: tuple[int, Device | None] | None
) -> None:
    assert step_down(Level(workers, device), cause) == (None if after is None else Level(*after))


@pytest.mark.parametrize("device", [None, *Device])
@pytest.mark.parametrize("cause", list(Cause))
def test_every_ladder_has_an_end(device: Device | None, cause: Cause) -> None:
    level: Level | None = Level(64, device)
    seen = set()
    while level is not None:
        assert level not in seen
        seen.add(level)
        level = step_down(level, cause)

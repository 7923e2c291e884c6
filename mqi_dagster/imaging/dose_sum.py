"""The sum of several doses on one grid, where all of them are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mqi_dagster.dose.grid import DoseGrid, DoseUnits
from mqi_dagster.errors import DoseError, Where
from mqi_dagster.imaging.dvh import dose_at

_WHERE = Where(kind="sum of doses")
_PARALLEL = 1e-4


def summed(doses: Sequence[DoseGrid]) -> DoseGrid:
    """Add doses up.

    The sum stands on the voxels of the finest grid that lie within every other one: beyond the end of a grid
    its dose is not zero, but unknown. Doses of other grids are interpolated trilinearly.

    Args:
        doses: Of one frame of reference, and of one kind: physical or effective.

    Raises:
        DoseError: There is none, their units or axes differ, or they share no voxel.
    """
    if not doses:
        raise DoseError("there is no dose to add up", where=_WHERE)
    if {dose.units for dose in doses} != {DoseUnits.GY} or len({dose.frame for dose in doses}) > 1:
        raise DoseError("only doses in Gy, all in the patient or all in one phantom, add up", where=_WHERE)
    finest = min(doses, key=lambda dose: float(np.prod(dose.spacing_mm)))
    if any(not np.allclose(dose.directions, finest.directions, rtol=0, atol=_PARALLEL) for dose in doses):
        raise DoseError("doses on grids that are turned against each other are not added up", where=_WHERE)
    if len(doses) == 1:
        return finest
    total = np.zeros(finest.shape)
    for dose in doses:
        total += dose.values if dose is finest else _on(finest, dose)
    known = np.isfinite(total)
    # The axes are parallel, so that what is known is a box.
    spans = [np.flatnonzero(known.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if any(not len(span) for span in spans):
        raise DoseError("the doses share no voxel", where=_WHERE)
    box = tuple(slice(span[0], span[-1] + 1) for span in spans)
    if not known[box].all():
        raise DoseError("the doses do not share a box of voxels", where=_WHERE)
    x, y, z = finest.to_patient([span[0] for span in spans])
    return replace(finest, values=total[box], origin_mm=(float(x), float(y), float(z)))


def _on(grid: DoseGrid, dose: DoseGrid) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """A dose at the voxels of another grid, frame by frame; NaN where it is not known."""
    frames, rows, columns = grid.shape
    found = np.empty(grid.shape)
    in_frame = np.indices((rows, columns)).reshape(2, -1).T
    for frame in range(frames):
        indices = np.column_stack([np.full(len(in_frame), frame), in_frame])
        found[frame] = dose_at(dose, grid.to_patient(indices)).reshape(rows, columns)
    return found

"""Where the frames of an RT Dose lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ZERO_MM = 1e-3
_TOLERANCE_MM = 0.01 * (1 + 1e-6)
"""Positions are written in two decimals; what lies at the limit in them may lie beyond it in binary."""
_AXIAL = 1e-4
"""Of the z component of the frames' normal."""


def offsets_along_normal(
    offsets_mm: Sequence[float], first_z_mm: float, normal_z: float
) -> NDArray[np.float64] | None:
    """Distance of each frame to the first one along the normal [mm]; None where its rule is not known.

    Offsets that begin at 0 count along the normal; those that begin at the first frame's z are positions on
    the patient's z axis, which may run against it (PS3.3 C.8.8.3.2).

    Args:
        offsets_mm: Grid Frame Offset Vector.
        first_z_mm: Of Image Position (Patient).
        normal_z: z component of the unit normal of the frames: row direction cross column direction.
    """
    offsets = np.asarray(offsets_mm, float)
    distances: NDArray[np.float64] = offsets - offsets[0]
    if abs(offsets[0]) < _ZERO_MM:
        return distances
    if abs(offsets[0] - first_z_mm) <= _TOLERANCE_MM and abs(abs(normal_z) - 1.0) < _AXIAL:
        return distances if normal_z > 0 else -distances
    return None

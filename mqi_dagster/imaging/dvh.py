"""Dose-volume figures of a structure: how much of it gets how much dose (docs/physics.md, "Dose and volume").

The dose is interpolated trilinearly at one position in each sub-voxel of the structure, which counts with its
volume that lies inside. The position is drawn from a fixed sequence: at the centres all sub-voxels of a layer
across a gradient would get one dose, and the curve would be made of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from mqi_dagster.dose.grid import DoseFrame, DoseGrid, DoseUnits
from mqi_dagster.errors import DoseError, Where
from mqi_dagster.imaging.contours import Layer
from mqi_dagster.imaging.image_grid import ImageGrid

Floats = NDArray[np.float64]

_WHERE = Where(kind="dose-volume figures")
_AT_THE_EDGE = 0.5 + 1e-3
"""Half a voxel: a grid turned by the last digit of its direction still meets its neighbour."""
_EQUAL_GY = 1e-6
"""A dose this little below a level reaches it: a level and a dose are rounded in different places."""


@dataclass(frozen=True, slots=True)
class Dvh:
    """The doses in a structure, and the volumes that get them.

    Where none is known (`covered_cm3` is 0) every dose of it raises a DoseError.
    """

    doses: Floats
    """Shape (n,), falling, in the units of the dose."""
    volumes_cm3: Floats
    """Shape (n,): what gets at least that dose."""
    volume_cm3: float
    """Of the structure."""

    @property
    def covered_cm3(self) -> float:
        """Volume that lies within the dose grid: of the rest no dose is known."""
        return float(self.volumes_cm3[-1]) if len(self.volumes_cm3) else 0.0

    def _require_a_dose(self) -> None:
        if not len(self.doses):
            raise DoseError("no dose of the structure is known", where=_WHERE)

    @property
    def mean(self) -> float:
        """Mean dose."""
        self._require_a_dose()
        parts = np.diff(self.volumes_cm3, prepend=0.0)
        return float(self.doses @ parts) / self.covered_cm3

    @property
    def maximum(self) -> float:
        """Highest dose at a sub-voxel."""
        self._require_a_dose()
        return float(self.doses[0])

    @property
    def minimum(self) -> float:
        """Lowest dose at a sub-voxel."""
        self._require_a_dose()
        return float(self.doses[-1])

    @property
    def integral(self) -> float:
        """Dose times volume, cm³."""
        return self.mean * self.covered_cm3

    def dose_at_percent(self, percent: float) -> float:
        """D of a share of the volume: the dose that this share gets at least.

        Args:
            percent: Of the volume within the dose grid, above 0, at most 100.
        """
        return self.dose_at_cm3(self.covered_cm3 * percent / 100)

    def dose_at_cm3(self, volume_cm3: float) -> float:
        """D of a volume: the dose that this much of it gets at least; of more than there is the lowest."""
        self._require_a_dose()
        at = int(np.searchsorted(self.volumes_cm3, volume_cm3 * (1 - 1e-12)))
        return float(self.doses[min(at, len(self.doses) - 1)])

    def volume_at(self, dose: float) -> float:
        """V of a dose: the volume [cm³] that gets at least this dose."""
        count = int(np.searchsorted(-self.doses, -(dose - _EQUAL_GY), side="right"))
        return float(self.volumes_cm3[count - 1]) if count else 0.0

    def curve(self, step: float) -> tuple[Floats, Floats]:
        """The cumulative curve.

        Args:
            step: Between its doses.

        Returns:
            Doses from 0 to the first above the highest, and the volume [cm³] that gets at least each.
        """
        levels = np.arange(0.0, int(self.maximum / step) + 2) * step
        counts = np.searchsorted(-self.doses, -(levels - _EQUAL_GY), side="right")
        return np.asarray(levels), np.concatenate([[0.0], self.volumes_cm3])[counts]


def dose_volume(layers: Iterable[Layer], grid: ImageGrid, dose: DoseGrid) -> Dvh:
    """The dose-volume figures of a structure.

    Args:
        layers: Of the structure, in the frame of the grid.
        grid: Of the images.
        dose: In the same frame of reference.

    Raises:
        DoseError: It is relative, or that of a phantom.
    """
    if dose.frame is not DoseFrame.PATIENT or dose.units is not DoseUnits.GY:
        raise DoseError(
            "a dose in Gy in the patient is needed, not a relative one or one of a phantom", where=_WHERE
        )
    doses, volumes, total = [np.empty(0)], [np.empty(0)], 0.0
    lowest, highest = math.inf, -math.inf
    for number, layer in enumerate(layers):
        total += layer.volume_mm3
        inside = np.argwhere(layer.coverage > 0)
        size = np.array(layer.subvoxel_mm)
        spread = np.random.default_rng(number).random((len(inside), 3)) - 0.5
        at = np.column_stack([np.full(len(inside), layer.height_mm), layer.first_mm + inside * size[1:]])
        at += spread * size
        found = dose_at(dose, grid.to_patient(at / grid.spacing_mm))
        known = np.isfinite(found)
        doses.append(found[known])
        coverage = layer.coverage[inside[:, 0], inside[:, 1]]
        volumes.append(coverage[known] * (float(size.prod()) / 1000))
        mostly_inside = found[known & (coverage >= 0.5)]
        lowest = float(mostly_inside.min(initial=lowest))
        highest = float(mostly_inside.max(initial=highest))
    every, weights = np.concatenate(doses), np.concatenate(volumes)
    if lowest <= highest:
        # Of a sub-voxel at the outline the position may lie outside.
        every = np.clip(every, lowest, highest)
    falling = np.argsort(-every, kind="stable")
    return Dvh(every[falling], np.cumsum(weights[falling]), total / 1000)


def dose_at(dose: DoseGrid, points_mm: Floats) -> Floats:
    """The dose at points, trilinearly; NaN outside of the grid.

    A voxel reaches half a spacing beyond its centre; between the outermost centres and there its dose stands.

    Args:
        dose: The grid.
        points_mm: Shape (n, 3): DICOM x, y, z.
    """
    indices = dose.to_indices(points_mm)
    found = map_coordinates(dose.values, indices.T, order=1, mode="nearest")
    outside = np.any((indices < -_AT_THE_EDGE) | (indices > np.array(dose.shape) - 1 + _AT_THE_EDGE), axis=1)
    return np.asarray(np.where(outside, np.nan, found))

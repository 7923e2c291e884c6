"""Dose-volume figures of a structure: how much of it gets how much dose (docs/physics.md, "Dose and volume").

The dose is interpolated trilinearly at one position in each sub-voxel of the structure, which counts with its
volume that lies inside. The position is drawn from a fixed sequence: at the centres all sub-voxels of a layer
across a gradient would get one dose, and the curve would be made of steps. For the highest and the
lowest dose the nodes of the dose grid inside count as well: between nodes a trilinear dose has no extremes.
Doses that differ by less than a millionth of the highest one of the grid are taken together, at their mean:
so millions of positions need neither memory nor sorting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

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
_INSIDE = 0.5
"""Of a sub-voxel: from this part on what lies in it counts as inside."""
_FACE_MM = 1e-6
"""A node that lies between two layers is in both of them."""
_EQUAL_GY = 1e-6
"""A dose this little below a level reaches it: a level and a dose are rounded in different places."""
_BINS = 1 << 20
"""From no dose to the highest one of the grid."""


@dataclass(frozen=True, slots=True)
class Dvh:
    """The doses in a structure, and the volumes that get them.

    Where none is known (`covered_cm3` is 0) every dose of it raises a DoseError.
    """

    doses: Floats
    """Shape (n,), falling, in the units of the dose."""
    volumes_cm3: Floats
    """Shape (n,): what gets at least that dose; a node of the dose grid adds no volume."""
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
        """Highest dose at a position or node inside."""
        self._require_a_dose()
        return float(self.doses[0])

    @property
    def minimum(self) -> float:
        """Lowest dose at a position or node inside."""
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
        volume_cm3 *= 1 - 1e-12
        if volume_cm3 >= self.covered_cm3 * (1 - 2e-12):
            return self.minimum
        return float(self.doses[np.searchsorted(self.volumes_cm3, volume_cm3)])

    def volume_at(self, dose: float) -> float:
        """V of a dose: the volume [cm³] that gets at least this dose."""
        count = int(self._reaching(dose))
        return float(self.volumes_cm3[count - 1]) if count else 0.0

    def curve(self, step: float) -> tuple[Floats, Floats]:
        """The cumulative curve.

        Args:
            step: Between its doses.

        Returns:
            Doses from 0 to the first above the highest, and the volume [cm³] that gets at least each.
        """
        levels = np.arange(0.0, int(self.maximum / step) + 2) * step
        return np.asarray(levels), np.concatenate([[0.0], self.volumes_cm3])[self._reaching(levels)]

    def _reaching(self, levels: float | Floats) -> NDArray[np.intp]:
        """How many of the doses reach each level."""
        # In a view that rises: of a hundred levels none needs a copy.
        return np.asarray(len(self.doses) - np.searchsorted(self.doses[::-1], np.subtract(levels, _EQUAL_GY)))


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
    bins, placed, total = _Bins(dose), _Placed(grid, dose), 0.0
    lowest, highest = math.inf, -math.inf
    for number, layer in enumerate(layers):
        total += layer.volume_mm3
        rows, columns = np.nonzero(layer.coverage)
        coverage = layer.coverage[rows, columns]
        found = placed.doses_in(layer, rows, columns, np.random.default_rng(number))
        if not np.isfinite(found.sum()):
            known = np.isfinite(found)
            found, coverage = found[known], coverage[known]
        bins.add(found, coverage * (math.prod(layer.subvoxel_mm) / 1000))
        for inside in (found[coverage >= _INSIDE], placed.nodes_in(layer)):
            lowest = min(lowest, float(inside.min(initial=math.inf)))
            highest = max(highest, float(inside.max(initial=-math.inf)))
    every, weights = bins.falling()
    if len(every) and lowest <= highest:
        # Of a sub-voxel at the outline the position may lie outside.
        every = np.concatenate([[highest], np.clip(every, lowest, highest), [lowest]])
        weights = np.concatenate([[0.0], weights, [0.0]])
    return Dvh(every, np.cumsum(weights), total / 1000)


class _Bins:
    """Volumes by their dose.

    Args:
        dose: In whose range they lie.
    """

    def __init__(self, dose: DoseGrid) -> None:
        self._lowest = min(0.0, float(dose.values.min()))
        self._width = (float(dose.values.max()) - self._lowest) / _BINS or 1.0
        self._volumes, self._integrals = np.zeros((2, _BINS + 1))

    def add(self, doses: Floats, volumes: Floats) -> None:
        """Add volumes, each at its dose."""
        which = ((doses - self._lowest) / self._width).astype(np.intp)
        np.add.at(self._volumes, which, volumes)
        np.add.at(self._integrals, which, volumes * doses)

    def falling(self) -> tuple[Floats, Floats]:
        """The mean dose and the volume of each bin that has one, from high to low doses."""
        used = np.flatnonzero(self._volumes)[::-1]
        volumes = self._volumes[used]
        return self._integrals[used] / volumes, volumes


class _Placed:
    """A dose grid in the frame of the images.

    Args:
        grid: Of the images.
        dose: In the same frame of reference.
    """

    def __init__(self, grid: ImageGrid, dose: DoseGrid) -> None:
        self._grid, self._dose = grid, dose
        ends = grid.to_indices(dose.to_patient(np.vstack([np.zeros(3), np.eye(3)]))) * grid.spacing_mm
        self._origin_mm: Floats = ends[0]
        self._steps_mm: Floats = ends[1:] - ends[0]
        """Shape (3, 3): to the next frame, row and column; each in mm across planes, rows and columns."""
        self._per_mm: Floats = np.linalg.inv(self._steps_mm)
        self._across = int(np.argmax(np.abs(self._steps_mm[:, 0])))
        """The axis of the dose grid that runs across the layers the most."""

    def doses_in(
        self, layer: Layer, rows: NDArray[np.intp], columns: NDArray[np.intp], random: np.random.Generator
    ) -> Floats:
        """The dose at one position in each of some sub-voxels of a layer; NaN outside of the grid."""
        size = np.array(layer.subvoxel_mm)
        at = random.random((len(rows), 3)).T
        at[1] += rows
        at[2] += columns
        first = np.array((layer.height_mm, *layer.first_mm)) - size / 2 - self._origin_mm
        per_subvoxel = size[:, None] * self._per_mm
        return _interpolated(self._dose, per_subvoxel.T @ at + (first @ self._per_mm)[:, None])

    def nodes_in(self, layer: Layer) -> Floats:
        """The doses of the nodes in a layer that lie in sub-voxels mostly inside."""
        size, counts = np.array(layer.subvoxel_mm), np.array((1, *layer.coverage.shape))
        low = np.array((layer.height_mm, *layer.first_mm)) - size / 2
        corners = np.array(list(product(*zip(low, low + size * counts, strict=True))))
        indices = self._dose.to_indices(self._grid.to_patient(corners / self._grid.spacing_mm))
        first = np.maximum(np.ceil(indices.min(axis=0) - _FACE_MM), 0).astype(int)
        last = np.minimum(np.floor(indices.max(axis=0) + _FACE_MM), np.array(self._dose.shape) - 1).astype(
            int
        )
        if np.any(last < first):
            return np.empty(0)
        # On each line of nodes across the layers at most a few lie in this one.
        spans = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
        spans[self._across] = np.zeros(1, int)
        lines = np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1).reshape(-1, 3)
        step = float(self._steps_mm[self._across, 0])
        starts = (low[0] - self._origin_mm[0] - lines @ self._steps_mm[:, 0]) / step
        lowest = np.ceil(np.minimum(starts, starts + size[0] / step) - _FACE_MM / abs(step)).astype(int)
        found = [np.empty(0)]
        for more in range(1 + int(size[0] / abs(step))):
            at = lines.copy()
            at[:, self._across] = lowest + more
            places = (self._origin_mm + at @ self._steps_mm - low) / size
            cells = np.floor(places[:, 1:]).astype(int)
            known = (at[:, self._across] >= 0) & (at[:, self._across] < self._dose.shape[self._across])
            known &= (places[:, 0] >= -_FACE_MM) & (places[:, 0] <= 1 + _FACE_MM)
            known &= np.all((cells >= 0) & (cells < counts[1:]), axis=1)
            known[known] = layer.coverage[tuple(cells[known].T)] >= _INSIDE
            found.append(self._dose.values[tuple(at[known].T)])
        return np.concatenate(found)


def dose_at(dose: DoseGrid, points_mm: Floats) -> Floats:
    """The dose at points, trilinearly; NaN outside of the grid.

    A voxel reaches half a spacing beyond its centre; between the outermost centres and there its dose stands.

    Args:
        dose: The grid.
        points_mm: Shape (n, 3): DICOM x, y, z.
    """
    return _interpolated(dose, dose.to_indices(points_mm).T)


def _interpolated(dose: DoseGrid, indices: Floats) -> Floats:
    """The dose at frames, rows and columns, shape (3, n); NaN outside of the grid."""
    found = map_coordinates(dose.values, indices, order=1, mode="nearest")
    for places, count in zip(indices, dose.shape, strict=True):
        # Mostly everything lies within it.
        if places.min(initial=0.0) < -_AT_THE_EDGE or places.max(initial=0.0) > count - 1 + _AT_THE_EDGE:
            found[(places < -_AT_THE_EDGE) | (places > count - 1 + _AT_THE_EDGE)] = np.nan
    return np.asarray(found)

"""Masks of bodies whose volume is known by a formula, on any grid, by where its voxels are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.imaging.image_grid import ImageGrid

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def from_middle(grid: ImageGrid) -> tuple[Floats, Floats, Floats]:
    """x, y and z of each voxel from the middle of the grid [mm]."""
    indices = np.indices(grid.shape).transpose(1, 2, 3, 0)
    middle = grid.to_patient((np.array(grid.shape) - 1) / 2)
    x, y, z = np.moveaxis(grid.to_patient(indices) - middle, -1, 0)
    return x, y, z


def ball(grid: ImageGrid, radius: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Mask:
    """A ball."""
    x, y, z = from_middle(grid)
    return np.asarray((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 <= radius**2)


def box(grid: ImageGrid, low: tuple[float, float, float], high: tuple[float, float, float]) -> Mask:
    """A box along the axes of the patient."""
    inside = [(a >= lo) & (a < hi) for a, lo, hi in zip(from_middle(grid), low, high, strict=True)]
    return np.asarray(inside[0] & inside[1] & inside[2])


def hollow(grid: ImageGrid) -> Mask:
    """A ball of 14 mm with a cavity of 8 mm: 9.349 cm³."""
    return ball(grid, 14.0) & ~ball(grid, 8.0)


def branched(grid: ImageGrid) -> Mask:
    """A cylinder of 6 mm that parts into two: 2.928 cm³."""
    x, y, z = from_middle(grid)
    stem = (np.hypot(x, y) <= 6) & (z >= -12) & (z < 0)
    arms = (np.hypot(np.abs(x) - 8, y) <= 5) & (z >= 0) & (z < 10)
    return np.asarray(stem | arms)


def keyhole(grid: ImageGrid) -> Mask:
    """A tube from 6 to 13 mm with a slit of 4 mm along it: 7.792 cm³."""
    x, y, z = from_middle(grid)
    r = np.hypot(x, y)
    return np.asarray((r <= 13) & (r > 6) & ~((np.abs(y) < 2.0) & (x > 0)) & (np.abs(z) < 10.0))


SHAPES: dict[str, tuple[Callable[[ImageGrid], Mask], float]] = {
    "hollow": (hollow, 9.349),
    "branched": (branched, 2.928),
    "keyhole": (keyhole, 7.792),
}
"""By name, with the volume [cm³]."""

"""Contours of shapes whose volume is known by a formula."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.imaging.image_grid import ImageGrid

Floats = NDArray[np.float64]
POINTS = 360


def axial_grid(
    plane_mm: float, pixel_mm: float = 1.0, planes: int = 60, pixels: int = 100, first_z: float | None = None
) -> ImageGrid:
    """Axial images around the origin."""
    low = -(pixels - 1) * pixel_mm / 2
    z = -(planes - 1) * plane_mm / 2 if first_z is None else first_z
    return ImageGrid(
        shape=(planes, pixels, pixels),
        origin_mm=(low, low, z),
        row_direction=(1.0, 0.0, 0.0),
        column_direction=(0.0, 1.0, 0.0),
        plane_direction=(0.0, 0.0, 1.0),
        spacing_mm=(plane_mm, pixel_mm, pixel_mm),
        frame_of_reference_uid="1.2.3",
    )


def heights(grid: ImageGrid) -> list[float]:
    """z of each plane."""
    return [grid.origin_mm[2] + index * grid.spacing_mm[0] for index in range(grid.shape[0])]


def circle(radius: float, z: float, centre: Sequence[float] = (0.0, 0.0)) -> Floats:
    """A regular polygon with the area of the circle."""
    angles = np.linspace(0, 2 * math.pi, POINTS, endpoint=False)
    of_polygon = radius * math.sqrt(2 * math.pi / POINTS / math.sin(2 * math.pi / POINTS))
    x, y = centre[0] + of_polygon * np.cos(angles), centre[1] + of_polygon * np.sin(angles)
    return np.column_stack([x, y, np.full(POINTS, z)])


def rectangle(low: Sequence[float], high: Sequence[float], z: float) -> Floats:
    """A rectangle by two corners."""
    (x0, y0), (x1, y1) = low, high
    return np.array([[x0, y0, z], [x1, y0, z], [x1, y1, z], [x0, y1, z]], float)


def sphere(grid: ImageGrid, radius: float, centre: Sequence[float] = (0.0, 0.0, 0.0)) -> list[Floats]:
    """A circle in each plane that cuts it."""
    return [
        circle(math.sqrt(radius**2 - (z - centre[2]) ** 2), z, centre)
        for z in heights(grid)
        if abs(z - centre[2]) < radius
    ]

"""How large a structure is, where it lies, and what the images do not show of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.imaging.contours import Contours, Layer
from mqi_dagster.imaging.image_grid import ImageGrid, Vector

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Extent:
    """Of one structure on one grid."""

    volume_cm3: float
    """Of contours by their geometry, also beyond the images; else of voxels."""
    voxels: int
    centre_mm: Vector | None
    """Of its volume, DICOM x, y, z; None where it has none."""
    touches_first_or_last_plane: bool
    touches_image_edge: bool
    """Whether it has a voxel in the first or last row or column."""
    outside_image_cm3: float


def extent_of_contours(contours: Contours, mask: Mask, grid: ImageGrid) -> Extent:
    """Measure contours layer by layer.

    Args:
        contours: In the frame of the grid.
        mask: Their voxels.
        grid: Of the images.
    """
    volume = outside = 0.0
    moment = np.zeros(3)
    for layer in contours.layers():
        volume += layer.volume_mm3
        outside += _outside(layer, grid)
        moment += _moment(layer)
    centre = grid.to_patient(moment / volume / grid.spacing_mm) if volume else None
    return _extent(mask, volume, outside, centre)


def extent_of_mask(mask: Mask, grid: ImageGrid) -> Extent:
    """Measure voxels, each as a whole.

    Args:
        mask: Shape of the grid.
        grid: Of the images.
    """
    # Counts along one axis each: the places of all voxels would take more memory than the images.
    counts = [np.count_nonzero(mask, axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
    voxels = int(counts[0].sum())
    centre = (
        grid.to_patient([float(one @ np.arange(len(one))) / voxels for one in counts]) if voxels else None
    )
    return _extent(mask, voxels * grid.voxel_mm3, 0.0, centre)


def _extent(mask: Mask, volume_mm3: float, outside_mm3: float, centre: Floats | None) -> Extent:
    edges = (mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1])
    return Extent(
        volume_cm3=volume_mm3 / 1000,
        voxels=int(np.count_nonzero(mask)),
        centre_mm=None if centre is None else (float(centre[0]), float(centre[1]), float(centre[2])),
        touches_first_or_last_plane=bool(mask[0].any() or mask[-1].any()),
        touches_image_edge=any(bool(edge.any()) for edge in edges),
        outside_image_cm3=outside_mm3 / 1000,
    )


def _moment(layer: Layer) -> Floats:
    """First moment of a layer by the axes of the grid [mm⁴]."""
    rows, columns = _places(layer)
    sums = (
        layer.height_mm * layer.coverage.sum(),
        layer.coverage.sum(axis=1) @ rows,
        layer.coverage.sum(axis=0) @ columns,
    )
    return np.array(sums) * math.prod(layer.subvoxel_mm)


def _outside(layer: Layer, grid: ImageGrid) -> float:
    """What of a layer lies beyond the images [mm³]."""
    places = (np.array(layer.height_mm), *_places(layer))
    in_plane, rows, columns = (
        _shown(at, size, count, step)
        for at, size, count, step in zip(places, layer.subvoxel_mm, grid.shape, grid.spacing_mm, strict=True)
    )
    if min(in_plane.min(), rows.min(), columns.min()) > 1 - 1e-9:
        return 0.0
    shown = float(in_plane * (rows @ layer.coverage @ columns))
    return layer.volume_mm3 - shown * math.prod(layer.subvoxel_mm)


def _places(layer: Layer) -> list[Floats]:
    """Of the sub-voxels down the columns and along the rows [mm]."""
    axes = zip(layer.first_mm, layer.subvoxel_mm[1:], layer.coverage.shape, strict=True)
    return [first + edge * np.arange(count) for first, edge, count in axes]


def _shown(at: Floats, size: float, count: int, step: float) -> Floats:
    """Which part of sub-voxels lies in a voxel along an axis; a voxel reaches half a step from its centre."""
    low, high = np.maximum(at - size / 2, -step / 2), np.minimum(at + size / 2, (count - 0.5) * step)
    return np.clip((high - low) / size, 0.0, 1.0)

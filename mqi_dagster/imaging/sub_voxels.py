"""Sub-voxels of a mask, and those of any structure that lie in a box of the patient's axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.imaging.contours import MOST_SUBVOXELS, Layer, subvoxel_edge_mm
from mqi_dagster.imaging.image_grid import ImageGrid

Mask = NDArray[np.bool_]


def mask_layers(mask: Mask, grid: ImageGrid, most: int = MOST_SUBVOXELS) -> Iterator[Layer]:
    """The volume of a mask, layer by layer: each voxel is inside as a whole, or outside.

    Voxels are cut into sub-voxels about as large as those of contours. In a structure of too many of them
    neighbours are taken together, and a sub-voxel is covered by the share of them that is inside.

    Args:
        mask: Shape of the grid.
        grid: Where it is.
        most: Sub-voxels in the box around the structure.
    """
    spans = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not len(spans[0]):
        return
    low = np.array([span[0] for span in spans])
    box = mask[tuple(slice(span[0], span[-1] + 1) for span in spans)]
    spacing = np.array(grid.spacing_mm)
    edge = subvoxel_edge_mm(float(np.prod(spacing * box.shape)), most)
    together = np.ceil(np.maximum(edge / spacing, 1.0)).astype(int)
    parts = np.maximum(np.rint(spacing / edge), 1.0).astype(int)
    if box.size * np.prod(parts) > most:
        parts = np.ones(3, int)
    size = spacing * together / parts
    first = (low - 0.5) * spacing + size / 2
    number = 0
    for plane in range(0, box.shape[0], int(together[0])):
        coverage = _shares(box[plane : plane + together[0]], together)
        coverage = coverage.repeat(parts[1], axis=0).repeat(parts[2], axis=1)
        for _ in range(parts[0]):
            yield Layer(
                float(first[0] + number * size[0]),
                (float(first[1]), float(first[2])),
                coverage,
                (float(size[0]), float(size[1]), float(size[2])),
            )
            number += 1


def _shares(planes: Mask, together: NDArray[np.int_]) -> NDArray[np.float64]:
    """Which share of each block of voxels is inside, of one layer of blocks."""
    short = [(0, int(-size % count)) for size, count in zip(planes.shape, together, strict=True)]
    padded = np.pad(planes, short)
    deep, down, along = (int(count) for count in together)
    blocks = padded.reshape(deep, padded.shape[1] // down, down, padded.shape[2] // along, along)
    return np.asarray(blocks.mean(axis=(0, 2, 4)))


def layers_within(
    layers: Iterable[Layer], grid: ImageGrid, low_mm: Sequence[float], high_mm: Sequence[float]
) -> Iterator[Layer]:
    """Of sub-voxels what lies in a box; one that its faces cut counts with the part inside.

    Args:
        layers: In the frame of the grid.
        grid: Of the images.
        low_mm: Least DICOM x, y and z of the box; minus infinity where it has no limit.
        high_mm: The greatest.
    """
    axes = np.array([grid.plane_direction, grid.column_direction, grid.row_direction])
    for layer in layers:
        size = np.array(layer.subvoxel_mm)
        down, along = (
            start + step * np.arange(count)
            for start, step, count in zip(layer.first_mm, size[1:], layer.coverage.shape, strict=True)
        )
        coverage = layer.coverage
        for axis, (low, high) in enumerate(zip(low_mm, high_mm, strict=True)):
            if math.isinf(low) and math.isinf(high):
                continue
            start = grid.origin_mm[axis] + layer.height_mm * axes[0, axis]
            at = start + np.add.outer(down * axes[1, axis], along * axes[2, axis])
            reach = float(np.abs(axes[:, axis]) @ size)
            below, above = (np.clip(room / reach + 0.5, 0.0, 1.0) for room in (high - at, at - low))
            coverage = coverage * np.maximum(below + above - 1.0, 0.0)
        yield replace(layer, coverage=coverage)

"""The label map of a model on the grid of the DICOM series that it was made of: proven, never resampled.

A NIfTI file keeps its axes in any order and direction. Its voxels are those of the series where the two
affines differ by an exchange and reversal of axes alone; ITK turns NIfTI's directions (right, anterior,
superior) into DICOM's (left, posterior, superior).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from numpy.typing import NDArray

from mqi_dagster.errors import ImageError, Where
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.models.label_map import TOLERANCE_MM, Labels, read_image

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_ROLE = "label map"
_WHERE = Where(kind=_ROLE)


def read_labels(path: Path, grid: ImageGrid) -> Labels:
    """The labels of a map, on the grid of a series.

    Args:
        path: A NIfTI file.
        grid: Whose voxels it has to have.

    Returns:
        Shape of the grid.

    Raises:
        ModelInputError: It is no NIfTI image, or damaged.
        ImageError: Its voxels are not those of the series, or a value is no label.
    """
    image = read_image(path, _ROLE)
    values = _on_grid(image, grid)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise ImageError(f"it has the value {low if low < 0 else high:g}, which is no label", where=_WHERE)
    labels = np.empty(grid.shape, np.uint16)
    for plane, found in enumerate(values):
        labels[plane] = found
        if not np.array_equal(labels[plane], found):
            raise ImageError("it has values that are no whole numbers", where=_WHERE)
    return labels


def region_mask(labels: Labels, wanted: Collection[int]) -> Mask:
    """Where a map has one of some labels, shape of the map."""
    mask = np.zeros(labels.shape, bool)
    for label in wanted:
        mask |= labels == label
    return mask


def _on_grid(image: sitk.Image, grid: ImageGrid) -> NDArray[np.float32]:
    """The values with the axes of a grid, shape of the grid.

    Raises:
        ImageError: They lie elsewhere.
    """
    ours, theirs = grid.affine, _affine(image)
    # From theirs to ours: one step along an axis has to be one step along one of ours, forwards or backwards.
    steps = np.linalg.solve(ours[:3, :3], theirs[:3, :3])
    turned = np.rint(steps)
    if not np.array_equal(np.abs(turned).sum(axis=0), [1, 1, 1]) or abs(np.linalg.det(turned)) != 1:
        raise ImageError("its axes are not those of the series", where=_WHERE)
    axes = np.abs(turned).argmax(axis=1)
    values = sitk.GetArrayViewFromImage(image).transpose([int(axis) for axis in axes])
    values = values[tuple(slice(None, None, int(turned[row, axis])) for row, axis in enumerate(axes))]
    if values.shape != grid.shape:
        raise ImageError(f"it has {values.shape} voxels, the series {grid.shape}", where=_WHERE)
    off = float(np.abs(_corners(theirs, image, axes, turned) - _corners_of(grid)).max())
    if not off <= TOLERANCE_MM:
        raise ImageError(f"it lies {off:.3g} mm beside the series", where=_WHERE)
    return np.asarray(values)


def _affine(image: sitk.Image) -> Floats:
    """Shape (4, 4): from the place in numpy's view of an image (k, j, i, 1) to DICOM (x, y, z, 1) [mm]."""
    affine = np.eye(4)
    directions = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = (directions * image.GetSpacing())[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return affine


def _corners_of(grid: ImageGrid) -> Floats:
    """Centres of the eight corner voxels of a grid, shape (8, 3) [mm]."""
    return grid.to_patient(_places() * (np.array(grid.shape) - 1))


def _corners(affine: Floats, image: sitk.Image, axes: NDArray[np.intp], turned: Floats) -> Floats:
    """The same voxels of an image, where its own affine puts them."""
    last = np.array(image.GetSize()[::-1]) - 1
    theirs = np.zeros((8, 3))
    for row, axis in enumerate(axes):
        ends = _places()[:, row]
        theirs[:, axis] = (ends if turned[row, axis] > 0 else 1 - ends) * last[axis]
    return np.asarray(theirs @ affine[:3, :3].T + affine[:3, 3])


def _places() -> Floats:
    """The corners of a box of one by one by one, shape (8, 3)."""
    return np.array([[a, b, c] for a in (0.0, 1.0) for b in (0.0, 1.0) for c in (0.0, 1.0)])

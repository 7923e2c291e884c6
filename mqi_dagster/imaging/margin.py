"""Margins around masks by the directions of the patient, exact to half a voxel.

The element is made of eight octants of ellipsoids, whose semi-axes are the margins and half a voxel: so far
outside of the centres of its outermost voxels is the surface of a mask. docs/physics.md, "Structures".
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from mqi_dagster.errors import ImageError, Where, shown
from mqi_dagster.imaging.image_grid import ImageGrid

Mask = NDArray[np.bool_]

LARGEST_MARGIN_MM = 200.0
_PLANES_AT_ONCE = 16
"""Bounds the memory: a convolution needs some hundred bytes a voxel."""

_WHERE = Where(kind="margin")


@dataclass(frozen=True, slots=True)
class Margins:
    """How far a surface is moved outwards in each direction of the patient [mm]; negative: inwards."""

    left_mm: float = 0.0
    right_mm: float = 0.0
    anterior_mm: float = 0.0
    posterior_mm: float = 0.0
    superior_mm: float = 0.0
    inferior_mm: float = 0.0

    @classmethod
    def uniform(cls, margin_mm: float) -> Margins:
        """The same in every direction."""
        return cls(*[margin_mm] * 6)

    def part(self, sign: int) -> Margins:
        """The positive or the negative margins alone, as amounts."""
        return Margins(*[max(0.0, sign * getattr(self, field.name)) for field in fields(self)])


def with_margins(mask: Mask, margins: Margins, grid: ImageGrid) -> Mask:
    """A mask with margins: grown by the positive ones first, then shrunk by the negative ones.

    Beyond the images is outside: a structure that they cut shrinks there, too.

    Args:
        mask: On the grid.
        margins: In the directions of the patient, whatever those of the grid are.
        grid: The grid.

    Raises:
        ImageError: A margin is larger than 200 mm.
    """
    for field in fields(margins):
        if not abs(getattr(margins, field.name)) <= LARGEST_MARGIN_MM:
            raise ImageError(f"{shown(field.name)} is above {LARGEST_MARGIN_MM:g} mm", where=_WHERE)
    grown = _dilated(mask, _element(margins.part(1), grid))
    return _eroded(grown, _element(margins.part(-1), grid))


def _element(margins: Margins, grid: ImageGrid) -> Mask:
    """Offsets of voxels within the margins, shape odd along each axis, the middle is no offset."""
    steps = (grid.affine[:3, :3]).T
    half_voxel = np.linalg.norm(steps, axis=0) / 2
    # Along DICOM x, y, z: towards left, back and head, and the other way.
    plus = np.array([margins.left_mm, margins.posterior_mm, margins.superior_mm])
    minus = np.array([margins.right_mm, margins.anterior_mm, margins.inferior_mm])
    reach = np.floor(max(plus.max(), minus.max()) / np.array(grid.spacing_mm) + 0.5 + 1e-9).astype(int)
    offsets = np.indices(tuple(2 * reach + 1)).transpose(1, 2, 3, 0) - reach
    away = offsets @ steps
    within = ((away / (np.where(away > 0, plus, minus) + half_voxel)) ** 2).sum(axis=-1) <= 1 + 1e-9
    used = np.abs(offsets[within]).max(axis=0)
    cut = tuple(slice(whole - part, whole + part + 1) for whole, part in zip(reach, used, strict=True))
    return np.asarray(within[cut])


def _dilated(mask: Mask, element: Mask) -> Mask:
    """Where the element, moved to a voxel of the mask, reaches."""
    found = find_objects(mask.view(np.uint8))
    if element.size == 1 or not found:
        return mask.copy()
    # Only where it is used: it brings all of scipy's statistics.
    from scipy.signal import fftconvolve

    reach = [size // 2 for size in element.shape]
    box = tuple(
        slice(max(0, part.start - more), min(size, part.stop + more))
        for part, more, size in zip(found[0], reach, mask.shape, strict=True)
    )
    source, result = mask[box], np.zeros_like(mask)
    target = result[box]
    for start in range(0, len(source), _PLANES_AT_ONCE):
        low, high = max(0, start - reach[0]), min(len(source), start + _PLANES_AT_ONCE + reach[0])
        counts = fftconvolve(source[low:high].astype(np.float64), element.astype(np.float64), mode="same")
        target[start : start + _PLANES_AT_ONCE] = counts[start - low : start - low + _PLANES_AT_ONCE] > 0.5
    return result


def _eroded(mask: Mask, element: Mask) -> Mask:
    """Where the element fits into the mask."""
    found = find_objects(mask.view(np.uint8))
    if element.size == 1 or not found:
        return mask.copy()
    reach = [(size // 2, size // 2) for size in element.shape]
    outside = ~np.pad(mask[found[0]], reach)
    kept = ~_dilated(outside, element[::-1, ::-1, ::-1])
    result = np.zeros_like(mask)
    result[found[0]] = kept[
        tuple(slice(low, size - low) for (low, _), size in zip(reach, kept.shape, strict=True))
    ]
    return result

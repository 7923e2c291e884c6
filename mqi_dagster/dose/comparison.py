"""Whether a dose that was read back is the dose that was meant."""

from __future__ import annotations

import numpy as np

from mqi_dagster.dose.grid import DoseGrid, Floats
from mqi_dagster.errors import DoseError, Where

SITE_TOLERANCE = 0.01
"""Greatest difference of a site's own conversion, as a part of the greatest dose."""

_SITE_SHIFT = 0.3
"""Greatest shift of the dose between different grids, as a part of a voxel."""

_GEOMETRY_TOLERANCE_MM = 1e-3

_WHERE = Where(kind="RT Dose")


def require_same_geometry(found: DoseGrid, expected: DoseGrid) -> None:
    """The two grids have their voxels at the same places.

    Raises:
        DoseError: Names the attribute that differs.
    """
    if found.shape != expected.shape:
        raise DoseError(
            f"NumberOfFrames, Rows, Columns: {found.shape} instead of {expected.shape}", where=_WHERE
        )
    pairs = {
        "ImagePositionPatient": (found.origin_mm, expected.origin_mm),
        "ImageOrientationPatient": (_orientation(found), _orientation(expected)),
        "PixelSpacing": (_in_plane(found), _in_plane(expected)),
    }
    if not expected.is_plane:
        steps = [np.multiply(grid.frame_direction, grid.frame_spacing_mm) for grid in (found, expected)]
        pairs["GridFrameOffsetVector"] = (tuple(steps[0]), tuple(steps[1]))
    for keyword, (is_now, should_be) in pairs.items():
        if not np.allclose(is_now, should_be, rtol=0, atol=_GEOMETRY_TOLERANCE_MM):
            raise DoseError(f"{keyword}: differs from the engine's grid", where=_WHERE)


def greatest_difference(found: DoseGrid, expected: DoseGrid) -> float:
    """Greatest difference of any voxel of two grids of one shape, in their unit; NaN where one is NaN."""
    # Frame by frame, which stays in the processor's cache; whole grids would be copied twice.
    frames = zip(found.values, expected.values, strict=True)
    return float(np.max([np.abs(one - other).max() for one, other in frames]))


def compare_site_dose(found: DoseGrid, expected: DoseGrid) -> None:
    """A site's own conversion against the engine's dose, on whatever grid the site chose.

    On the same grid every voxel is compared. On another, the greatest dose is, and the place of the dose
    above half of it, which a mirrored, swapped or shifted axis moves.

    Raises:
        DoseError: Names the attribute that is wrong.
    """
    greatest = float(expected.values.max())
    try:
        require_same_geometry(found, expected)
    except DoseError:
        ratio = float(found.values.max()) / greatest
        if abs(ratio - 1.0) > SITE_TOLERANCE:
            raise DoseError(
                f"DoseGridScaling: the greatest dose is {ratio:.4f} of the engine's", where=_WHERE
            ) from None
        shift = np.abs(_centre_of_high_dose(found) - _centre_of_high_dose(expected))
        if np.any(shift > _SITE_SHIFT * _voxel_size(expected)):
            raise DoseError(
                "ImagePositionPatient, ImageOrientationPatient, GridFrameOffsetVector: the dose lies "
                + "\\".join(f"{part:.2f}" for part in shift)
                + " mm away from the engine's",
                where=_WHERE,
            ) from None
        return
    difference = greatest_difference(found, expected)
    if difference > SITE_TOLERANCE * greatest:
        raise DoseError(
            f"PixelData: a voxel differs by {difference / greatest:.2%} of the greatest dose", where=_WHERE
        )


def _orientation(grid: DoseGrid) -> tuple[float, ...]:
    return (*grid.row_direction, *grid.column_direction)


def _in_plane(grid: DoseGrid) -> tuple[float, ...]:
    return (grid.row_spacing_mm, grid.column_spacing_mm)


def _voxel_size(grid: DoseGrid) -> Floats:
    """Extent of a voxel along DICOM x, y, z [mm]."""
    directions = np.abs(np.array([grid.row_direction, grid.column_direction, grid.frame_direction]))
    spacings = np.array([grid.column_spacing_mm, grid.row_spacing_mm, grid.frame_spacing_mm])
    return np.asarray(directions.T @ spacings, dtype=np.float64)


def _centre_of_high_dose(grid: DoseGrid) -> Floats:
    """Dose-weighted centre of the voxels above half of the greatest dose, DICOM x, y, z [mm]."""
    high = np.where(grid.values >= 0.5 * grid.values.max(), grid.values, 0.0)
    total = high.sum()
    frame, row, column = (
        float(high.sum(axis=others) @ np.arange(grid.shape[axis])) / total
        for axis, others in ((0, (1, 2)), (1, (0, 2)), (2, (0, 1)))
    )
    centre: Floats = (
        np.array(grid.origin_mm)
        + column * grid.column_spacing_mm * np.array(grid.row_direction)
        + row * grid.row_spacing_mm * np.array(grid.column_direction)
        + frame * grid.frame_spacing_mm * np.array(grid.frame_direction)
    )
    return centre

"""A dose on a regular grid, in DICOM's axes.

Engine frame of a phantom: the beam travels along -z, x and y are lateral, the isocentre is the origin.
DICOM at gantry 0, head first supine: engine x is DICOM +x, engine y is DICOM +z, engine -z is DICOM +y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mqi_dagster.errors import DoseError, Where

Floats = NDArray[np.float64]
Vector = tuple[float, float, float]

ALONG_X: Vector = (1.0, 0.0, 0.0)
ALONG_Y: Vector = (0.0, 1.0, 0.0)
ALONG_Z: Vector = (0.0, 0.0, 1.0)

_TOLERANCE = 1e-6
"""Of direction cosines, which DICOM carries as short decimal texts."""

_WHERE = Where(kind="dose grid")


class DoseFrame(StrEnum):
    """Whose coordinates a dose is in."""

    PHANTOM = "phantom"
    """Gantry, couch and isocentre zeroed; never overlaid on a patient."""
    PATIENT = "patient"
    """The frame of reference of the plan."""


class DoseUnits(StrEnum):
    """DICOM Dose Units."""

    GY = "GY"
    RELATIVE = "RELATIVE"

    @property
    def shown(self) -> str:
        """The unit as people read it."""
        return "Gy" if self is DoseUnits.GY else "relative"


@dataclass(frozen=True, slots=True, eq=False)
class DoseGrid:
    """Dose values and where they are."""

    values: Floats
    """Shape (frames, rows, columns), float64, read-only."""
    origin_mm: Vector
    """Centre of voxel [0, 0, 0], DICOM x, y, z [mm]."""
    row_direction: Vector
    """Direction of increasing column index (first half of Image Orientation)."""
    column_direction: Vector
    """Direction of increasing row index (second half of Image Orientation)."""
    frame_direction: Vector
    """Direction of increasing frame index."""
    column_spacing_mm: float
    """Distance between neighbouring columns."""
    row_spacing_mm: float
    """Distance between neighbouring rows."""
    frame_spacing_mm: float
    """Distance between neighbouring frames; the thickness of a single plane."""
    frame: DoseFrame
    units: DoseUnits

    def __post_init__(self) -> None:
        values = np.ascontiguousarray(self.values, dtype=np.float64).view()
        if values.ndim != 3 or 0 in values.shape:
            raise DoseError(f"a dose grid has three axes, none empty, not shape {values.shape}", where=_WHERE)
        values.flags.writeable = False
        object.__setattr__(self, "values", values)
        spacings = (self.column_spacing_mm, self.row_spacing_mm, self.frame_spacing_mm)
        if not all(np.isfinite(s) and s > 0 for s in spacings) or not np.all(np.isfinite(self.origin_mm)):
            raise DoseError("the spacing of a dose grid is positive and its origin finite", where=_WHERE)
        axes = self.directions
        if not np.allclose(axes @ axes.T, np.eye(3), rtol=0, atol=_TOLERANCE):
            raise DoseError("the directions of a dose grid are orthogonal unit vectors", where=_WHERE)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows, columns."""
        frames, rows, columns = self.values.shape
        return frames, rows, columns

    @property
    def is_plane(self) -> bool:
        """Whether the grid is a single frame."""
        return self.shape[0] == 1

    @property
    def directions(self) -> Floats:
        """Shape (3, 3): the unit vectors along frames, rows and columns, in the order of ``values``."""
        return np.array([self.frame_direction, self.column_direction, self.row_direction])

    @property
    def spacing_mm(self) -> Floats:
        """Shape (3,): between frames, rows and columns."""
        return np.array([self.frame_spacing_mm, self.row_spacing_mm, self.column_spacing_mm])

    def to_patient(self, indices: ArrayLike) -> Floats:
        """DICOM x, y, z [mm] of positions in the grid.

        Args:
            indices: Shape (…, 3): frame, row, column, not only whole ones.
        """
        steps = np.asarray(indices, float) * self.spacing_mm
        return np.asarray(steps @ self.directions + np.array(self.origin_mm))

    def to_indices(self, points_mm: ArrayLike) -> Floats:
        """Frame, row and column of points, not only whole ones.

        Args:
            points_mm: Shape (…, 3): DICOM x, y, z.
        """
        steps = (np.asarray(points_mm, float) - np.array(self.origin_mm)) @ self.directions.T
        return np.asarray(steps / self.spacing_mm)

    def axis(self, dimension: int) -> tuple[str, Floats]:
        """The DICOM axis along a dimension of ``values``, and the coordinates of the voxel centres on it.

        Args:
            dimension: 0 frames, 1 rows, 2 columns.

        Returns:
            ``x``, ``y`` or ``z``, and the coordinates [mm] in index order.

        Raises:
            DoseError: The grid is oblique, so that no DICOM axis runs along it.
        """
        direction = (self.frame_direction, self.column_direction, self.row_direction)[dimension]
        spacing = (self.frame_spacing_mm, self.row_spacing_mm, self.column_spacing_mm)[dimension]
        along = int(np.argmax(np.abs(direction)))
        if abs(abs(direction[along]) - 1.0) > _TOLERANCE:
            raise DoseError("the grid is oblique to the DICOM axes", where=_WHERE)
        steps = np.arange(self.shape[dimension], dtype=np.float64)
        return "xyz"[along], self.origin_mm[along] + np.sign(direction[along]) * spacing * steps

    def scaled(self, factor: float) -> DoseGrid:
        """The same grid with every value multiplied by ``factor``."""
        return replace(self, values=self.values * factor)

    def require_a_dose(self) -> None:
        """Refuse what cannot be a dose.

        Raises:
            DoseError: A value is NaN, infinite or negative, or all are zero.
        """
        if not np.all(np.isfinite(self.values)):
            raise DoseError("the dose holds values that are not finite", where=_WHERE)
        if float(self.values.min()) < 0.0:
            raise DoseError("the dose holds negative values", where=_WHERE)
        if float(self.values.max()) == 0.0:
            raise DoseError("the dose is zero everywhere", where=_WHERE)


def from_phantom(
    values_zyx: ArrayLike, origin_engine_mm: Sequence[float], spacing_mm: Sequence[float], units: DoseUnits
) -> DoseGrid:
    """An axial grid from a phantom dose in the engine's frame.

    Args:
        values_zyx: Shape (nz, ny, nx), as an engine's raw file is read: x fastest.
        origin_engine_mm: Engine x, y, z of the centre of voxel [0, 0, 0] [mm].
        spacing_mm: Engine x, y, z spacing [mm].
        units: What the values are.
    """
    values = _three_axes(values_zyx)
    x, y, z = origin_engine_mm
    dx, dy, dz = spacing_mm
    # Engine z counts against the beam and DICOM y along it, so the last engine plane is the first row.
    first_row = 0.0 - (z + (values.shape[0] - 1) * dz)
    return DoseGrid(
        values=values[::-1].transpose(1, 0, 2),
        origin_mm=(float(x), float(first_row), float(y)),
        row_direction=ALONG_X,
        column_direction=ALONG_Y,
        frame_direction=ALONG_Z,
        column_spacing_mm=float(dx),
        row_spacing_mm=float(dz),
        frame_spacing_mm=float(dy),
        frame=DoseFrame.PHANTOM,
        units=units,
    )


def plane_from_phantom(
    values_zyx: ArrayLike, origin_engine_mm: Sequence[float], spacing_mm: Sequence[float], units: DoseUnits
) -> DoseGrid:
    """The plane across the beam that 2 cm mode scores, oriented as RayStation exports its QA plane.

    Args:
        values_zyx: Shape (1, ny, nx).
        origin_engine_mm: Engine x, y, z of the centre of voxel [0, 0, 0] [mm].
        spacing_mm: Engine x, y spacing and the thickness of the plane [mm].
        units: What the values are.

    Raises:
        DoseError: The dose has more than one plane across the beam.
    """
    values = _three_axes(values_zyx)
    if values.shape[0] != 1:
        raise DoseError(f"a plane across the beam has 1 layer of voxels, not {values.shape[0]}", where=_WHERE)
    x, y, z = origin_engine_mm
    dx, dy, dz = spacing_mm
    return DoseGrid(
        values=values,
        origin_mm=(float(x), 0.0 - float(z), float(y)),
        row_direction=ALONG_X,
        column_direction=ALONG_Z,
        frame_direction=(0.0, -1.0, 0.0),
        column_spacing_mm=float(dx),
        row_spacing_mm=float(dy),
        frame_spacing_mm=float(dz),
        frame=DoseFrame.PHANTOM,
        units=units,
    )


def from_patient(
    values_zyx: ArrayLike, origin_mm: Sequence[float], spacing_mm: Sequence[float], units: DoseUnits
) -> DoseGrid:
    """An axial grid from a dose that is in the patient's DICOM axes already.

    Args:
        values_zyx: Shape (nz, ny, nx): frames along +z, rows along +y, columns along +x.
        origin_mm: DICOM x, y, z of the centre of voxel [0, 0, 0] [mm].
        spacing_mm: x, y, z spacing [mm].
        units: What the values are.
    """
    x, y, z = origin_mm
    dx, dy, dz = spacing_mm
    return DoseGrid(
        values=_three_axes(values_zyx),
        origin_mm=(float(x), float(y), float(z)),
        row_direction=ALONG_X,
        column_direction=ALONG_Y,
        frame_direction=ALONG_Z,
        column_spacing_mm=float(dx),
        row_spacing_mm=float(dy),
        frame_spacing_mm=float(dz),
        frame=DoseFrame.PATIENT,
        units=units,
    )


def _three_axes(values_zyx: ArrayLike) -> Floats:
    values = np.asarray(values_zyx, dtype=np.float64)
    if values.ndim != 3:
        raise DoseError(f"an engine's dose has three axes, not {values.ndim}", where=_WHERE)
    return values

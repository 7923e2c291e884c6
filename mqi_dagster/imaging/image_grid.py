"""Where the voxels of an image series are: one affine, its even spacing proven.

Axes are DICOM's: x to the patient's left, y to the back, z to the head (PS3.3 C.7.6.2.1.1). Planes are sorted
along the normal of the images, row direction × column direction, whatever the order of the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydicom.dataset import Dataset

from mqi_dagster.dicom.ct_images import LARGEST_EXTENT_MM, SPACING_TOLERANCE_MM
from mqi_dagster.dicom.elements import COSINE_TOLERANCE, axes_of, numbers_of, text_of
from mqi_dagster.dicom.reading import decoding
from mqi_dagster.errors import ImageError, Where

Floats = NDArray[np.float64]
Vector = tuple[float, float, float]

LARGEST_DRIFT_MM = 0.1
"""Of an image from its place on the grid: steps that differ a little may add up."""

_WHERE = Where(kind="image series")


@dataclass(frozen=True, slots=True)
class ImagePlane:
    """One image of a series: which it is, and where it lies."""

    instance_uid: str
    frame_of_reference_uid: str
    position_mm: Vector
    """Centre of the first pixel."""
    orientation: tuple[float, ...]
    """Direction cosines along a row and along a column, six."""
    spacing_mm: tuple[float, float]
    """Between rows, and between columns (Pixel Spacing)."""
    rows: int
    columns: int


def image_plane(dataset: Dataset) -> ImagePlane:
    """Where an image lies.

    Args:
        dataset: Its header.

    Raises:
        DicomError: It lacks an element, or one is not what it has to be.
    """
    with decoding():
        position = numbers_of(dataset, "ImagePositionPatient", 3)
        rows_mm, columns_mm = numbers_of(dataset, "PixelSpacing", 2)
        return ImagePlane(
            instance_uid=text_of(dataset, "SOPInstanceUID"),
            frame_of_reference_uid=text_of(dataset, "FrameOfReferenceUID"),
            position_mm=(position[0], position[1], position[2]),
            orientation=numbers_of(dataset, "ImageOrientationPatient", 6),
            spacing_mm=(rows_mm, columns_mm),
            rows=int(numbers_of(dataset, "Rows", 1)[0]),
            columns=int(numbers_of(dataset, "Columns", 1)[0]),
        )


@dataclass(frozen=True, slots=True)
class ImageGrid:
    """A regular grid of voxels in patient coordinates."""

    shape: tuple[int, int, int]
    """Planes, rows, columns."""
    origin_mm: Vector
    """Centre of voxel [0, 0, 0], DICOM x, y, z."""
    row_direction: Vector
    """Direction of increasing column index."""
    column_direction: Vector
    """Direction of increasing row index."""
    plane_direction: Vector
    """Direction of increasing plane index: row direction × column direction."""
    spacing_mm: Vector
    """Between planes, between rows, between columns."""
    frame_of_reference_uid: str

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        planes, rows, columns = self.spacing_mm
        return planes * rows * columns

    @property
    def affine(self) -> Floats:
        """Shape (4, 4): from (plane, row, column, 1) to DICOM (x, y, z, 1) [mm]."""
        matrix = np.eye(4)
        matrix[:3, :3] = self._directions.T * self.spacing_mm
        matrix[:3, 3] = self.origin_mm
        return matrix

    @property
    def _directions(self) -> Floats:
        """Shape (3, 3): the unit vectors along planes, rows and columns."""
        return np.array([self.plane_direction, self.column_direction, self.row_direction])

    def to_patient(self, indices: ArrayLike) -> Floats:
        """DICOM x, y, z [mm] of positions in the grid.

        Args:
            indices: Shape (…, 3): plane, row, column, not only whole ones.
        """
        steps = np.asarray(indices, float) * self.spacing_mm
        return np.asarray(steps @ self._directions + np.array(self.origin_mm))

    def to_indices(self, points_mm: ArrayLike) -> Floats:
        """Plane, row and column of points, not only whole ones.

        Args:
            points_mm: Shape (…, 3): DICOM x, y, z.
        """
        steps = (np.asarray(points_mm, float) - np.array(self.origin_mm)) @ self._directions.T
        return np.asarray(steps / self.spacing_mm)


@dataclass(frozen=True, slots=True)
class ImageSeries:
    """A grid, and the images that lie in it."""

    grid: ImageGrid
    instance_uids: tuple[str, ...]
    """Of the image in each plane."""


def image_series(planes: Sequence[ImagePlane]) -> ImageSeries:
    """The grid of a series of parallel, evenly spaced images.

    Args:
        planes: Every image of the series, in any order, localizers aside.

    Raises:
        ImageError: They do not lie in one regular grid; the message says which do not, and where.
    """
    _require(bool(planes), "there is no image")
    first = planes[0]
    frames = {plane.frame_of_reference_uid for plane in planes}
    _require(len(frames) == 1, f"the images are in {len(frames)} frames of reference")
    _require(bool(first.frame_of_reference_uid), "the images name no frame of reference")
    sizes = {(plane.rows, plane.columns, plane.spacing_mm) for plane in planes}
    _require(len(sizes) == 1, "the images differ in size or pixel spacing")
    _require(min(first.rows, first.columns) > 0 and min(first.spacing_mm) > 0, "the images have no size")
    axes = axes_of(first.orientation)
    if axes is None:
        raise ImageError("the image orientation is no pair of orthogonal unit vectors", where=_WHERE)
    along_row, along_column = axes
    turned = sum(
        not np.allclose(p.orientation, first.orientation, rtol=0, atol=COSINE_TOLERANCE) for p in planes
    )
    _require(not turned, f"{turned} of {len(planes)} images are turned against the first")
    normal = np.cross(along_row, along_column)
    ordered = sorted(planes, key=lambda plane: float(np.dot(plane.position_mm, normal)))
    spacing = _plane_spacing(np.array([plane.position_mm for plane in ordered]), normal)
    extents = (len(planes) * spacing, first.rows * first.spacing_mm[0], first.columns * first.spacing_mm[1])
    _require(max(extents) <= LARGEST_EXTENT_MM, f"the images reach over {max(extents) / 1000:.3g} m")
    grid = ImageGrid(
        shape=(len(planes), first.rows, first.columns),
        origin_mm=ordered[0].position_mm,
        row_direction=_vector(along_row),
        column_direction=_vector(along_column),
        plane_direction=_vector(normal),
        spacing_mm=(spacing, *first.spacing_mm),
        frame_of_reference_uid=first.frame_of_reference_uid,
    )
    return ImageSeries(grid, tuple(plane.instance_uid for plane in ordered))


def _plane_spacing(positions: Floats, normal: Floats) -> float:
    """Distance between neighbouring planes [mm], of positions sorted along the normal."""
    count = len(positions)
    _require(count > 1, "there is one image alone, which has no thickness")
    steps = np.diff(positions @ normal)
    doubled = int((steps <= SPACING_TOLERANCE_MM).sum())
    _require(not doubled, f"{doubled} of {count} images lie where another one lies")
    usual = float(np.median(steps))
    gaps = np.flatnonzero(np.abs(steps - usual) > SPACING_TOLERANCE_MM)
    if len(gaps):
        at = positions[gaps[0]] @ normal
        raise ImageError(
            f"the images are not evenly spaced: {usual:.4g} mm, but {steps[gaps[0]]:.4g} mm behind"
            f" {at:.4g} mm, and so in {len(gaps)} places; an image may be missing",
            where=_WHERE,
        )
    shifted = positions - np.outer(positions @ normal, normal)
    off = float(np.abs(shifted - shifted[0]).max())
    _require(off <= SPACING_TOLERANCE_MM, f"the images are shifted against each other by {off:.3g} mm")
    spacing = float((positions[-1] - positions[0]) @ normal) / (count - 1)
    drift = float(np.abs((positions - positions[0]) @ normal - spacing * np.arange(count)).max())
    _require(
        drift <= LARGEST_DRIFT_MM, f"the images are not evenly spaced: one is {drift:.3g} mm off its place"
    )
    return spacing


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ImageError(otherwise, where=_WHERE)


def _vector(parts: Floats) -> Vector:
    x, y, z = (float(part) for part in parts)
    return x, y, z

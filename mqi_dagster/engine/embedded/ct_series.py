"""A DICOM CT series as one block of HU, in the order that its positions give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mqi_dagster.dicom.reading import decoding, read_dicom
from mqi_dagster.errors import DicomError, EngineInputError, Where

_WHERE = Where(kind="CT")
_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_REQUIRED = (
    "PatientPosition",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "RescaleSlope",
    "RescaleIntercept",
)
_AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_SPACING_TOLERANCE_MM = 0.02
_COSINE_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class CtSeries:
    """The patient as scanned, in DICOM axes."""

    hounsfield: NDArray[np.float32]
    """Shape (nz, ny, nx)."""
    first_mm: tuple[float, float, float]
    """Centre of the first voxel, x, y, z [mm]."""
    spacing_mm: tuple[float, float, float]


def read_ct_series(folder: Path) -> CtSeries:
    """Read the one CT series of a folder, whatever its files are called.

    Raises:
        EngineInputError: No CT, slices of two series, another orientation than axial and head first
            supine, slices that are missing or not evenly spaced, or a slice that cannot be read.
    """
    try:
        slices = _slices(folder)
        with decoding():
            return _series(slices)
    except DicomError as error:
        raise EngineInputError(
            f"a file of the folder {error.message}", where=_WHERE, first_cause=error.first_cause
        ) from None


def _series(slices: list[Dataset]) -> CtSeries:
    first = slices[0]
    if len({str(one.get("SeriesInstanceUID", "")) for one in slices}) > 1:
        raise EngineInputError("slices of more than one series", where=_WHERE)
    for one in slices:
        _require_geometry(one, first)
    # With axial slices the projection on the normal is z itself.
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    positions = np.array([[float(v) for v in one.ImagePositionPatient] for one in slices])
    steps = np.diff(positions[:, 2])
    step = float(np.median(steps)) if len(steps) else 0.0
    if step <= 0 or np.abs(steps - step).max() > _SPACING_TOLERANCE_MM:
        raise EngineInputError("the slices are too few, doubled, missing, or not evenly spaced", where=_WHERE)
    if np.abs(positions[:, :2] - positions[0, :2]).max() > _SPACING_TOLERANCE_MM:
        raise EngineInputError("the slices are shifted against each other", where=_WHERE)
    rows_mm, columns_mm = (float(v) for v in first.PixelSpacing)
    x, y, z = (float(v) for v in positions[0])
    return CtSeries(
        hounsfield=np.stack([_hounsfield(one) for one in slices]),
        first_mm=(x, y, z),
        spacing_mm=(columns_mm, rows_mm, float((positions[-1, 2] - positions[0, 2]) / len(steps))),
    )


def _slices(folder: Path) -> list[Dataset]:
    found: list[Dataset] = []
    try:
        for path in sorted(folder.iterdir()):
            if not path.is_file():
                continue
            head = read_dicom(path, only=("SOPClassUID",))
            if str(head.get("SOPClassUID", "")) == _CT_IMAGE_STORAGE:
                found.append(read_dicom(path))
    except OSError as error:
        raise EngineInputError(f"the folder cannot be read: {error.strerror}", where=_WHERE) from error
    if not found:
        raise EngineInputError("no CT beside the plan, but no phantom is asked for", where=_WHERE)
    return found


def _require_geometry(one: Dataset, first: Dataset) -> None:
    missing = [keyword for keyword in _REQUIRED if one.get(keyword) is None]
    if missing:
        raise EngineInputError(f"a slice has no {missing[0]}", where=_WHERE)
    orientation = [float(value) for value in one.ImageOrientationPatient]
    if not np.allclose(orientation, _AXIAL, rtol=0, atol=_COSINE_TOLERANCE):
        raise EngineInputError("the slices are not axial in the order of the patient's axes", where=_WHERE)
    if str(one.PatientPosition) != "HFS":
        raise EngineInputError("only patients who lie head first supine (HFS) are supported", where=_WHERE)
    same = (one.Rows, one.Columns) == (first.Rows, first.Columns)
    if not same or list(one.PixelSpacing) != list(first.PixelSpacing):
        raise EngineInputError("the slices differ in size or pixel spacing", where=_WHERE)


def _hounsfield(one: Dataset) -> NDArray[np.float32]:
    try:
        stored = one.pixel_array
    except (AttributeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise EngineInputError("the pixels of a slice cannot be read", where=_WHERE) from error
    return (stored * float(one.RescaleSlope) + float(one.RescaleIntercept)).astype(np.float32)

"""A DICOM CT series as one block of HU, in the order that its positions give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.dicom.ct_images import (
    CtImage,
    ct_pixels,
    is_localizer,
    position_faults,
    read_ct_image,
    series_faults,
)
from mqi_dagster.dicom.kinds import DicomKind, dicom_kind
from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.errors import DicomError, EngineInputError, Where

_WHERE = Where(kind="CT")


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
    slices = _slices(folder)
    if not slices:
        raise EngineInputError("no CT beside the plan, but no phantom is asked for", where=_WHERE)
    images = [image for image, _ in slices]
    for fault in (*position_faults(images), *series_faults(images)):
        raise EngineInputError(fault, where=_WHERE)
    slices.sort(key=lambda one: one[0].position_mm[2])
    first, last = slices[0][0], slices[-1][0]
    rows_mm, columns_mm = first.spacing_mm
    return CtSeries(
        hounsfield=np.stack([hounsfield for _, hounsfield in slices]),
        first_mm=first.position_mm,
        spacing_mm=(columns_mm, rows_mm, (last.position_mm[2] - first.position_mm[2]) / (len(slices) - 1)),
    )


def _slices(folder: Path) -> list[tuple[CtImage, NDArray[np.float32]]]:
    found = []
    try:
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            status = path.stat()
            kind = dicom_kind(path, status.st_size, status.st_mtime_ns)
            if kind in (DicomKind.ION_PLAN, DicomKind.OTHER):
                continue
            dataset = read_dicom(path)
            if not is_localizer(dataset):
                hounsfield = ct_pixels(dataset)
                found.append((read_ct_image(dataset, hounsfield), hounsfield))
    except DicomError as error:
        raise EngineInputError(
            f"a slice {error.message}", where=_WHERE, first_cause=error.first_cause
        ) from None
    except OSError as error:
        raise EngineInputError(f"the folder cannot be read: {error.strerror}", where=_WHERE) from error
    return found

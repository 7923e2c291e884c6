"""The values of an image series on its grid: Hounsfield units of a CT, signal of an MR."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage, MRImageStorage

from mqi_dagster.dicom.ct_images import ct_pixels, is_localizer, rescaled_pixels
from mqi_dagster.dicom.elements import numbers_of, text_of
from mqi_dagster.dicom.reading import decoding, read_dicom
from mqi_dagster.errors import DicomError, ImageError, Where
from mqi_dagster.imaging.image_grid import ImageGrid, ImagePlane, image_plane, image_series

_WHERE = Where(kind="image series")


@dataclass(frozen=True, slots=True, eq=False)
class ImageVolume:
    """A series as one block of values."""

    grid: ImageGrid
    values: NDArray[np.float32]
    """Shape of the grid."""
    modality: str
    """CT or MR."""
    series_uid: str
    instance_uids: tuple[str, ...]
    """Of the image in each plane."""
    patient_position: str
    localizers: int
    """Scout views among the files, which are no part of the volume."""

    @property
    def unit(self) -> str:
        """Of the values: HU, or none."""
        return "HU" if self.modality == "CT" else ""


def read_volume(files: Iterable[Path | bytes]) -> ImageVolume:
    """Read the images of one series.

    Args:
        files: All of them, or their content, in any order.

    Raises:
        DicomError: One is damaged, or no image of a CT or MR.
        ImageError: They are of more than one series, modality or patient position, or lie in no regular grid.
        OSError: The disk does not give a file.
    """
    pixels: dict[str, NDArray[np.float32]] = {}
    planes: list[ImagePlane] = []
    told: set[tuple[str, str, str]] = set()
    localizers = 0
    for file in files:
        dataset = read_dicom(file)
        if is_localizer(dataset):
            localizers += 1
            continue
        image = _pixels_of(dataset)(dataset)
        plane = image_plane(dataset)
        if plane.instance_uid in pixels:
            raise ImageError("two files are the same image, by its SOP Instance UID", where=_WHERE)
        if image.shape != (plane.rows, plane.columns):
            raise DicomError("has another size than its pixels")
        pixels[plane.instance_uid] = image
        planes.append(plane)
        with decoding():
            keywords = ("Modality", "SeriesInstanceUID", "PatientPosition")
            told.add(tuple(text_of(dataset, keyword) for keyword in keywords))  # type: ignore[arg-type]
    series = image_series(planes)
    if len(told) > 1:
        raise ImageError(
            f"the images are of {len(told)} different modalities, series or positions", where=_WHERE
        )
    ((modality, series_uid, position),) = told
    values = np.empty(series.grid.shape, np.float32)
    for index, uid in enumerate(series.instance_uids):
        # One by one, so that the series is not held twice.
        values[index] = pixels.pop(uid)
    return ImageVolume(
        grid=series.grid,
        values=values,
        modality=modality,
        series_uid=series_uid,
        instance_uids=series.instance_uids,
        patient_position=position,
        localizers=localizers,
    )


_GEOMETRY = (
    "ImageType",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
)


def read_grid(files: Iterable[Path | bytes]) -> ImageGrid:
    """Where the voxels of a series are, from the headers of its images alone.

    Args:
        files: All of them, or their content, in any order.

    Raises:
        DicomError: One is damaged.
        ImageError: They lie in no regular grid.
        OSError: The disk does not give a file.
    """
    headers = (read_dicom(file, only=_GEOMETRY) for file in files)
    return image_series([image_plane(header) for header in headers if not is_localizer(header)]).grid


def _pixels_of(dataset: FileDataset) -> Callable[[FileDataset], NDArray[np.float32]]:
    with decoding():
        kind = text_of(dataset, "SOPClassUID")
    if kind == CTImageStorage:
        return ct_pixels
    if kind == MRImageStorage:
        return mr_pixels
    raise DicomError("is no image of a CT or MR (an Enhanced one has to be exported image by image)")


def mr_pixels(dataset: FileDataset) -> NDArray[np.float32]:
    """The signal, shape (rows, columns), rescaled where the image says how (PS3.3 C.11.1).

    Raises:
        DicomError: It is no single image of one value a pixel, or cannot be decoded.
    """
    with decoding():
        slope, intercept = 1.0, 0.0
        if "RescaleSlope" in dataset:
            (slope,), (intercept,) = (
                numbers_of(dataset, f"Rescale{one}", 1) for one in ("Slope", "Intercept")
            )
    return rescaled_pixels(dataset, slope, intercept)

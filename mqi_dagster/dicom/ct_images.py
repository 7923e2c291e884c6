"""What a CT has to be so that a dose can be simulated in it: asked at intake, and again by the engine.

Rows along x, columns along y (PS3.3 C.7.6.2), every slice readable, one series, evenly spaced. An image of
another kind among them is not ignored: a dose in the rest would be another dose.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage

from mqi_dagster.dicom.elements import COSINE_TOLERANCE, numbers_of, text_of
from mqi_dagster.dicom.reading import DAMAGE, cause_of, decoding
from mqi_dagster.errors import DicomError

HANDLED_POSITION = "HFS"
"""The one Patient Position (0018,5100) for which angles and axes are proven: head first supine."""
SPACING_TOLERANCE_MM = 0.02
LARGEST_EXTENT_MM = 4000.0
"""A scan of a whole body is 2 m long; in a damaged spacing it would fill the memory."""
BODY_HU = -500.0
"""Above this a voxel is body, bolus or couch rather than air or foam."""

_AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_HOUNSFIELD = ("", "HU")


@dataclass(frozen=True, slots=True)
class CtImage:
    """One CT image: whose it is, where it lies and what it holds."""

    instance_uid: str
    series_uid: str
    patient_id: str
    frame_of_reference_uid: str
    patient_position: str
    position_mm: tuple[float, float, float]
    """Centre of the first pixel, x, y, z."""
    orientation: tuple[float, ...]
    """Direction cosines of rows and columns, six."""
    spacing_mm: tuple[float, float]
    """Between rows (along y), and between columns (along x)."""
    rows: int
    columns: int
    highest_hu: float


def read_ct_image(dataset: FileDataset, hounsfield: NDArray[np.float32]) -> CtImage:
    """What an image says of itself.

    Args:
        dataset: The image.
        hounsfield: Its pixels (`ct_pixels`).

    Raises:
        DicomError: It lacks an element.
    """
    with decoding():
        patient_position = text_of(dataset, "PatientPosition")
        if not patient_position:
            raise DicomError("has no PatientPosition")
        position = numbers_of(dataset, "ImagePositionPatient", 3)
        rows_mm, columns_mm = numbers_of(dataset, "PixelSpacing", 2)
        return CtImage(
            instance_uid=text_of(dataset, "SOPInstanceUID"),
            series_uid=text_of(dataset, "SeriesInstanceUID"),
            patient_id=text_of(dataset, "PatientID"),
            frame_of_reference_uid=text_of(dataset, "FrameOfReferenceUID"),
            patient_position=patient_position,
            position_mm=(position[0], position[1], position[2]),
            orientation=numbers_of(dataset, "ImageOrientationPatient", 6),
            spacing_mm=(rows_mm, columns_mm),
            rows=hounsfield.shape[0],
            columns=hounsfield.shape[1],
            highest_hu=float(hounsfield.max()),
        )


def is_localizer(dataset: FileDataset) -> bool:
    """Whether an image is a scout view: Image Type (0008,0008) says LOCALIZER (PS3.3 C.8.2.1.1.1)."""
    with decoding():
        value = dataset.get("ImageType") or ()
        return "LOCALIZER" in ([value] if isinstance(value, str) else [str(part) for part in value])


def ct_pixels(dataset: FileDataset) -> NDArray[np.float32]:
    """The pixels in Hounsfield units, shape (rows, columns).

    Raises:
        DicomError: It is no image of a CT, has another size or unit than it says, or cannot be decoded.
    """
    with decoding():
        if not text_of(dataset, "SOPClassUID"):
            raise DicomError("has no SOP class: it is cut off or damaged")
        if text_of(dataset, "SOPClassUID") != CTImageStorage:
            raise DicomError("is no CT Image (an Enhanced CT has to be exported as CT Image Storage)")
        if text_of(dataset, "Modality") != "CT":
            raise DicomError("has another modality than CT")
        if text_of(dataset, "RescaleType") not in _HOUNSFIELD:
            raise DicomError("holds other values than Hounsfield units (Rescale Type)")
        (slope,), (intercept,) = (
            numbers_of(dataset, keyword, 1) for keyword in ("RescaleSlope", "RescaleIntercept")
        )
    return rescaled_pixels(dataset, slope, intercept)


def rescaled_pixels(dataset: FileDataset, slope: float, intercept: float) -> NDArray[np.float32]:
    """The pixels of a single image as values, shape (rows, columns).

    Args:
        dataset: The image.
        slope: Value of one step of its pixels (Rescale Slope), not zero.
        intercept: Value of 0 (Rescale Intercept).

    Raises:
        DicomError: It has no pixels, has several values a pixel or several frames, or cannot be decoded.
    """
    if "PixelData" not in dataset:
        raise DicomError("has no PixelData")
    try:
        stored = dataset.pixel_array
    except (RuntimeError, *DAMAGE) as error:
        raise DicomError("has pixels that cannot be decoded", first_cause=cause_of(error)) from None
    if stored.ndim != 2 or not stored.size or not slope:
        raise DicomError("is no single image of one value a pixel")
    return np.asarray(stored * slope + intercept, dtype=np.float32)


def position_name(position: str) -> str:
    """A patient position for people; what is no defined term may be any text, and is not quoted."""
    return position if re.fullmatch("[A-Z]{2,6}", position) else "of another kind"


def position_faults(images: Sequence[CtImage]) -> tuple[str, ...]:
    """The patient positions that are not handled; empty where all images are head first supine."""
    others = sorted({image.patient_position for image in images} - {HANDLED_POSITION})
    wrong = sum(image.patient_position != HANDLED_POSITION for image in images)
    if not others:
        return ()
    named = ", ".join(sorted({position_name(position) for position in others}))
    return (
        f"{wrong} of {len(images)} images were taken in position {named};"
        f" only head first supine ({HANDLED_POSITION}) is supported",
    )


def series_faults(images: Sequence[CtImage]) -> tuple[str, ...]:
    """Why no dose can be simulated in these images; empty where it can.

    Args:
        images: Every image of the CT, localizers aside.
    """
    if not images:
        return ("there is no image beside the localizers",)
    faults: list[str] = []
    count = len(images)

    def fault(wrong: int, what: str) -> None:
        if wrong:
            faults.append(f"{wrong} of {count} images {what}")

    series = len({image.series_uid for image in images})
    if series > 1:
        faults.append(f"the images are of {series} series; a case has one")
    fault(
        sum(not np.allclose(image.orientation, _AXIAL, rtol=0, atol=COSINE_TOLERANCE) for image in images),
        "are not axial in the order of the patient's axes (Image Orientation 1, 0, 0, 0, 1, 0)",
    )
    first = images[0]
    shapes = {(image.rows, image.columns, image.spacing_mm) for image in images}
    if len(shapes) > 1 or min(first.spacing_mm) <= 0:
        faults.append("the images differ in size or pixel spacing, or have none")
    if not faults:
        faults += _spacing_faults(images)
    if not faults:
        faults += _extent_faults(images)
    if max(image.highest_hu for image in images) <= BODY_HU:
        faults.append("the images hold nothing but air")
    return tuple(faults)


def _spacing_faults(images: Sequence[CtImage]) -> list[str]:
    """With axial slices the projection on the normal is z itself."""
    if len(images) < 2:
        return ["there is one slice alone, which has no thickness"]
    positions = np.array(sorted((image.position_mm for image in images), key=lambda position: position[2]))
    steps = np.diff(positions[:, 2])
    if steps.min() <= SPACING_TOLERANCE_MM:
        doubled = int((steps <= SPACING_TOLERANCE_MM).sum())
        return [f"{doubled} of {len(images)} images lie where another one lies"]
    if np.abs(steps - np.median(steps)).max() > SPACING_TOLERANCE_MM:
        return [
            f"the slices are not evenly spaced: {steps.min():.4g} to {steps.max():.4g} mm; one may be missing"
        ]
    if np.abs(positions[:, :2] - positions[0, :2]).max() > SPACING_TOLERANCE_MM:
        return ["the slices are shifted against each other"]
    return []


def _extent_faults(images: Sequence[CtImage]) -> list[str]:
    first = images[0]
    z = [image.position_mm[2] for image in images]
    extent = max(first.rows * first.spacing_mm[0], first.columns * first.spacing_mm[1], max(z) - min(z))
    if extent <= LARGEST_EXTENT_MM:
        return []
    return [f"the images reach over {extent / 1000:.3g} m, farther than a scanner does"]

"""RT Structure Sets from masks or contours (PS3.3 A.19): written, read back and proven equal, then published.

The same inputs give the same bytes: UIDs come from the digest, dates are those of the images. A hole is one
more contour in its plane, and the even-odd rule makes it one. docs/physics.md, "Structures".
"""

from __future__ import annotations

import colorsys
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage
from scipy.ndimage import find_objects
from skimage.measure import find_contours

from mqi_dagster.dicom.elements import text_of
from mqi_dagster.dicom.own_objects import derived_uid, sign_object
from mqi_dagster.dicom.patient_study import patient_and_study
from mqi_dagster.dicom.reading import decoding
from mqi_dagster.errors import ImageError, InfrastructureError, Where, shown
from mqi_dagster.files import write_whole
from mqi_dagster.imaging.contours import contours_on, filled
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.source_images import SourceImages
from mqi_dagster.imaging.structure_set import read_structure_set

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_DECIMALS = 3
"""Contours are written to the micrometre."""
_CONTOUR_DATA = Tag(0x3006, 0x0050)
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, retired: the class by which every structure set refers to a study."""
_PLANE_TOLERANCE = 0.1
"""Share of the distance of two planes up to which a contour lies in an image."""

_WHERE = Where(kind="structure set")


class GenerationAlgorithm(StrEnum):
    """How a region came about (ROI Generation Algorithm)."""

    AUTOMATIC = "AUTOMATIC"
    SEMIAUTOMATIC = "SEMIAUTOMATIC"
    MANUAL = "MANUAL"


@dataclass(frozen=True, slots=True, eq=False)
class RoiRequest:
    """A region to write."""

    number: int
    """ROI Number, by which everything refers to it."""
    name: str
    """At most 64 characters; TG-263 where there is such a name."""
    shape: Mask | tuple[Floats, ...]
    """A mask on the grid of the images, or closed contours, each of shape (n, 3): DICOM x, y, z [mm]."""
    generation: GenerationAlgorithm
    interpreted_type: str = "ORGAN"
    """RT ROI Interpreted Type."""
    made_by: str = ""
    """Name and version of the model or rule, at most 64 characters (ROI Generation Description)."""
    description: str = ""
    """At most 1024 characters (ROI Description)."""
    colour: tuple[int, int, int] | None = None
    """Red, green, blue, 0 to 255; None: one that differs from its neighbours'."""
    encloses: Callable[[], Mask] | None = None
    """Reads the mask that given contours have to enclose: so not every mask is in memory at once."""


@dataclass(frozen=True, slots=True, eq=False)
class StructureSetRequest:
    """Everything of a structure set but the images that it refers to."""

    label: str
    """At most 16 characters."""
    rois: tuple[RoiRequest, ...]
    digest: str
    """Digest of the asset, 64 hexadecimal digits: every UID is derived from it."""
    software_versions: tuple[str, ...]
    series_description: str = ""
    series_number: int = 1


def write_structure_set(path: Path, images: SourceImages, request: StructureSetRequest) -> tuple[str, ...]:
    """Write a structure set; the file appears whole, or not at all.

    Args:
        path: Where; the folder exists.
        images: What it refers to, image by image.
        request: The rest.

    Returns:
        What a reader will take otherwise than the masks have it; empty as a rule.

    Raises:
        DicomError: The images lack an element.
        ImageError: A text is too long or not allowed, two regions have one number or name, a mask is not on
            the grid, a contour does not lie in its planes, or what was read back differs.
        InfrastructureError: The disk refuses.
    """
    _check(request, images.grid)
    contours = {roi.number: _contours(roi, images.grid) for roi in request.rois}
    notes = tuple(
        note for roi in request.rois for note in _bridged(roi.name, contours[roi.number], images.grid)
    )
    # The warnings of pydicom quote values, and the values of the images are identity.
    with warnings.catch_warnings(action="ignore"), decoding():
        dataset = _dataset(images, request, contours)
        buffer = BytesIO()
        dcmwrite(buffer, dataset, enforce_file_format=True)
    content = buffer.getvalue()
    _prove(content, images, request, contours)
    try:
        write_whole(path, content)
    except OSError as error:
        raise InfrastructureError(f"it cannot be written: {error.strerror}", where=_WHERE) from None
    return notes


def outlines(mask: Mask, grid: ImageGrid) -> tuple[Floats, ...]:
    """The outlines of a mask, plane by plane: half-way between the centres of voxels inside and outside.

    Args:
        mask: On the grid.
        grid: The grid.

    Returns:
        Closed contours, each of shape (n, 3): DICOM x, y, z [mm], with no more points than corners.
    """
    found = find_objects(mask.view(np.uint8))
    if not found:
        return ()
    planes, rows, columns = found[0]
    contours = []
    for plane in range(planes.start, planes.stop):
        padded = np.pad(mask[plane, rows, columns].astype(np.float32), 1)
        for outline in find_contours(padded, 0.5):  # type: ignore[no-untyped-call]
            corners = _corners(outline[:-1]) + np.array([rows.start - 1, columns.start - 1])
            contours.append(grid.to_patient(np.insert(corners, 0, plane, axis=1)))
    return tuple(contours)


def _corners(outline: Floats) -> Floats:
    """An outline without the points on straight lines between others."""
    before, after = outline - np.roll(outline, 1, axis=0), np.roll(outline, -1, axis=0) - outline
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return np.asarray(outline[turns])


def _contours(roi: RoiRequest, grid: ImageGrid) -> tuple[Floats, ...]:
    """The contours of a region, rounded as they are written."""
    if isinstance(roi.shape, tuple):
        given = roi.shape
    else:
        _require(
            roi.shape.shape == grid.shape, f"the mask of {shown(roi.name)} is not on the grid of the images"
        )
        given = outlines(roi.shape.astype(bool), grid)
    # No minus before a zero.
    return tuple(np.round(contour, _DECIMALS) + 0.0 for contour in given)


def _dataset(
    images: SourceImages, request: StructureSetRequest, contours: dict[int, tuple[Floats, ...]]
) -> FileDataset:
    dataset = patient_and_study(images.headers[0])
    texts = [text for roi in request.rois for text in (roi.name, roi.made_by, roi.description)]
    if not all(text.isascii() for text in (*texts, request.series_description)):
        # Every text in one character set, so that the names of the patient and of the regions fit in it.
        for keyword in dataset.dir():
            setattr(dataset, keyword, text_of(dataset, keyword))
        dataset.SpecificCharacterSet = "ISO_IR 192"
    # In explicit transfer syntaxes a contour of more than 64 KiB of numbers has no place (PS3.5 7.1.2).
    instance_uid = derived_uid(request.digest, "structure set")
    sign_object(dataset, RTStructureSetStorage, instance_uid, ImplicitVRLittleEndian)
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = derived_uid(request.digest, "structure set series")
    dataset.SeriesNumber = request.series_number
    dataset.SeriesDescription = request.series_description
    dataset.OperatorsName = ""
    dataset.InstanceNumber = 1
    dataset.SoftwareVersions = list(request.software_versions)
    dataset.FrameOfReferenceUID = images.grid.frame_of_reference_uid
    dataset.PositionReferenceIndicator = str(images.headers[0].get("PositionReferenceIndicator") or "")
    dataset.StructureSetLabel = request.label
    dataset.StructureSetDate, dataset.StructureSetTime = images.date_and_time
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_references(images)]
    dataset.StructureSetROISequence = [_structure(roi, images) for roi in request.rois]
    dataset.ROIContourSequence = [_contour_item(roi, contours[roi.number], images) for roi in request.rois]
    dataset.RTROIObservationsSequence = [_observation(roi) for roi in request.rois]
    return dataset


def _image_reference(images: SourceImages, plane: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = images.headers[plane].SOPClassUID
    item.ReferencedSOPInstanceUID = images.series.instance_uids[plane]
    return item


def _references(images: SourceImages) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = images.uid("SeriesInstanceUID")
    series.ContourImageSequence = [_image_reference(images, plane) for plane in range(len(images.headers))]
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = images.uid("StudyInstanceUID")
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = images.grid.frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    return frame


def _structure(roi: RoiRequest, images: SourceImages) -> Dataset:
    item = Dataset()
    item.ROINumber = roi.number
    item.ReferencedFrameOfReferenceUID = images.grid.frame_of_reference_uid
    item.ROIName = roi.name
    if roi.description:
        item.ROIDescription = roi.description
    item.ROIGenerationAlgorithm = roi.generation.value
    if roi.made_by:
        item.ROIGenerationDescription = roi.made_by
    return item


def _contour_item(roi: RoiRequest, contours: tuple[Floats, ...], images: SourceImages) -> Dataset:
    item = Dataset()
    item.ROIDisplayColor = list(roi.colour or _colour(roi.number))
    if contours:
        item.ContourSequence = [
            _contour(number, points, images) for number, points in enumerate(contours, start=1)
        ]
    item.ReferencedROINumber = roi.number
    return item


def _contour(number: int, points: Floats, images: SourceImages) -> Dataset:
    item = Dataset()
    at = float(np.median(images.grid.to_indices(points)[:, 0]))
    plane = round(at)
    if abs(at - plane) <= _PLANE_TOLERANCE and 0 <= plane < len(images.headers):
        item.ContourImageSequence = [_image_reference(images, plane)]
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(points)
    item.ContourNumber = number
    text = "\\".join(repr(value).removesuffix(".0") for value in points.ravel().tolist())
    value = text.encode("ascii") + b" " * (len(text) % 2)
    # As bytes: of each number that it is given, pydicom makes an object.
    item[_CONTOUR_DATA] = RawDataElement(_CONTOUR_DATA, "DS", len(value), value, 0, True, True)
    return item


def _observation(roi: RoiRequest) -> Dataset:
    item = Dataset()
    item.ObservationNumber = roi.number
    item.ReferencedROINumber = roi.number
    item.RTROIInterpretedType = roi.interpreted_type
    item.ROIInterpreter = ""
    return item


def _colour(number: int) -> tuple[int, int, int]:
    """Hues a golden section apart: of no two regions with close numbers alike."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.6180339887 % 1.0, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _check(request: StructureSetRequest, grid: ImageGrid) -> None:
    """Refuse what the attributes cannot hold."""
    _require(bool(re.fullmatch(r"[0-9a-f]{64}", request.digest)), "the digest is not 64 hexadecimal digits")
    _require(bool(request.software_versions), "SoftwareVersions: no version is given")
    _text("StructureSetLabel", request.label, 16, required=True)
    _text("SeriesDescription", request.series_description, 64)
    for version in request.software_versions:
        _text("SoftwareVersions", version, 64, required=True)
    for what, values in (
        ("number", [str(roi.number) for roi in request.rois]),
        ("name", [roi.name for roi in request.rois]),
    ):
        doubled = sorted({value for value in values if values.count(value) > 1})
        _require(not doubled, f"two regions have the {what} {', '.join(map(shown, doubled))}")
    for roi in request.rois:
        require_fitting(roi)


def require_fitting(roi: RoiRequest) -> None:
    """Refuse a region whose texts or number the attributes cannot hold.

    Raises:
        ImageError: Which, and why.
    """
    _text("ROIName", roi.name, 64, required=True)
    _text("ROIGenerationDescription", roi.made_by, 64)
    _text("ROIDescription", roi.description, 1024)
    _require(roi.number >= 0, f"the number of {shown(roi.name)} is below 0")
    known = re.fullmatch(r"[A-Z0-9_]{0,16}", roi.interpreted_type)
    _require(bool(known), f"RTROIInterpretedType of {shown(roi.name)} is not of the allowed form")


def _text(keyword: str, text: str, longest: int, *, required: bool = False) -> None:
    fits = len(text) <= longest and text.isprintable() and "\\" not in text and text.strip() == text
    _require(
        fits and bool(text or not required),
        f"{keyword} has no text of at most {longest} characters: {shown(text)}",
    )


def _prove(
    content: bytes,
    images: SourceImages,
    request: StructureSetRequest,
    contours: dict[int, tuple[Floats, ...]],
) -> None:
    """Read what is to be published as anybody will.

    Raises:
        ImageError: It differs from what was asked for.
    """
    found = read_structure_set(content)
    _require(not found.faults and found.label == request.label, "what was read back has other elements")
    _require(
        found.series_uids == (images.uid("SeriesInstanceUID"),), "what was read back is of another series"
    )
    _require(len(found.rois) == len(request.rois), "what was read back has another number of regions")
    by_number = {roi.number: roi for roi in found.rois}
    for roi in request.rois:
        read = by_number[roi.number]
        same = (read.name, read.interpreted_type, read.frame_of_reference_uid) == (
            roi.name,
            roi.interpreted_type,
            images.grid.frame_of_reference_uid,
        )
        written = contours[roi.number]
        _require(
            same
            and not read.faults
            and len(read.contours_mm) == len(written)
            and all(np.array_equal(a, b) for a, b in zip(read.contours_mm, written, strict=True)),
            f"what was read back of {shown(roi.name)} differs",
        )
        if not isinstance(roi.shape, tuple):
            _prove_mask(roi.name, roi.shape, read.contours_mm, images.grid)
        elif roi.encloses is not None:
            _prove_mask(roi.name, roi.encloses(), read.contours_mm, images.grid)


def _prove_mask(name: str, mask: Mask, contours: tuple[Floats, ...], grid: ImageGrid) -> None:
    """Hold what the contours of a mask enclose against the mask.

    Raises:
        ImageError: They differ.
    """
    by_plane: dict[int, list[Floats]] = {}
    for contour in contours:
        points = grid.to_indices(contour)
        by_plane.setdefault(round(float(points[0, 0])), []).append(points[:, 1:])
    inside = {int(plane) for plane in np.flatnonzero(mask.any(axis=(1, 2)))}
    equal = inside == by_plane.keys() and all(
        np.array_equal(filled(polygons, grid.shape[1:]), mask[plane]) for plane, polygons in by_plane.items()
    )
    _require(equal, f"the contours of {shown(name)} do not enclose its mask")


def _bridged(name: str, contours: tuple[Floats, ...], grid: ImageGrid) -> Iterator[str]:
    """Empty planes between contours so close that a reader takes the region to go through them.

    Raises:
        ImageError: A contour does not lie in a plane parallel to the images, or is none.
    """
    if not contours:
        return
    try:
        found = contours_on(grid, contours)
    except ImageError as error:
        raise ImageError(f"{shown(name)}: {error.message}", where=_WHERE) from None
    for lower, upper in pairwise(found.planes):
        step = upper.height_mm - lower.height_mm
        if step > 1.5 * grid.spacing_mm[0] and (lower.height_mm, upper.height_mm) not in found.gaps:
            empty = step - grid.spacing_mm[0]
            yield f"{shown(name)}: empty for {empty:.3g} mm between two contours, which readers will fill"


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ImageError(otherwise, where=_WHERE)

"""RT Structure Sets: what is drawn, in which frame of reference, and on which images (PS3.3 A.19)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from mqi_dagster.dicom.elements import text_of
from mqi_dagster.dicom.reading import decoding, read_dicom
from mqi_dagster.errors import DicomError

Floats = NDArray[np.float64]

_OPEN = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Contours that enclose an area; of both several in a plane count by the even-odd rule."""


@dataclass(frozen=True, slots=True)
class Roi:
    """One region of a structure set."""

    number: int
    """ROI Number, by which everything refers to it."""
    name: str
    frame_of_reference_uid: str
    interpreted_type: str
    """RT ROI Interpreted Type, for example EXTERNAL, PTV or ORGAN; empty where none is given."""
    contours_mm: tuple[Floats, ...]
    """Closed contours, each of shape (n, 3): DICOM x, y, z."""
    image_uids: frozenset[str]
    """SOP Instance UIDs of the images that its contours name."""
    faults: tuple[str, ...]
    """What of it could not be taken, and why."""


@dataclass(frozen=True, slots=True)
class StructureSet:
    """A structure set."""

    instance_uid: str
    label: str
    frame_of_reference_uids: tuple[str, ...]
    """Those that it refers to."""
    series_uids: tuple[str, ...]
    """Of the images that it refers to."""
    rois: tuple[Roi, ...]
    """By number."""
    faults: tuple[str, ...]
    """What is wrong with the set as a whole."""


def read_structure_set(source: Path | bytes) -> StructureSet:
    """Read a structure set; what is wrong with one region is said there and touches no other.

    Args:
        source: The file, or its content.

    Raises:
        DicomError: It is no structure set, or damaged.
        OSError: The disk does not give the file.
    """
    dataset = read_dicom(source)
    with decoding():
        if text_of(dataset, "SOPClassUID") != RTStructureSetStorage:
            raise DicomError("is no RT Structure Set")
        frames = dataset.get("ReferencedFrameOfReferenceSequence") or ()
        faults: list[str] = []
        contours = _by_number(dataset, "ROIContourSequence", "ReferencedROINumber", faults)
        observations = _by_number(dataset, "RTROIObservationsSequence", "ReferencedROINumber", faults)
        regions = _by_number(dataset, "StructureSetROISequence", "ROINumber", faults)
        for number in sorted(contours.keys() - regions.keys()):
            faults.append(f"there are contours of region {number}, which is not in the list of regions")
        return StructureSet(
            instance_uid=text_of(dataset, "SOPInstanceUID"),
            label=text_of(dataset, "StructureSetLabel"),
            frame_of_reference_uids=tuple(text_of(item, "FrameOfReferenceUID") for item in frames),
            series_uids=tuple(
                text_of(series, "SeriesInstanceUID")
                for item in frames
                for study in item.get("RTReferencedStudySequence") or ()
                for series in study.get("RTReferencedSeriesSequence") or ()
            ),
            rois=tuple(
                _roi(number, region, contours.get(number), observations.get(number))
                for number, region in sorted(regions.items())
            ),
            faults=tuple(faults),
        )


def _by_number(dataset: Dataset, sequence: str, keyword: str, faults: list[str]) -> dict[int, Dataset]:
    """Items of a sequence by the number of their region; of two with one number neither is taken."""
    found: dict[int, Dataset] = {}
    doubled: set[int] = set()
    for item in dataset.get(sequence) or ():
        try:
            with decoding():
                value = item.get(keyword)
                number = None if value is None else int(value)
        except DicomError:
            number = None
        if number is None:
            faults.append(f"an item of {sequence} has no {keyword} that can be read")
        elif number in found:
            doubled.add(number)
        else:
            found[number] = item
    for number in sorted(doubled):
        faults.append(f"{sequence} has more than one item of region {number}: none is taken")
        del found[number]
    return found


def _roi(number: int, region: Dataset, contour_item: Dataset | None, observation: Dataset | None) -> Roi:
    contours: dict[bytes, Floats] = {}
    images: set[str] = set()
    faults: list[str] = []
    others: Counter[str] = Counter()
    items = (contour_item.get("ContourSequence") if contour_item is not None else None) or ()
    for place, item in enumerate(items, start=1):
        try:
            with decoding():
                kind = text_of(item, "ContourGeometricType")
                if kind not in _CLOSED:
                    others[kind if kind in _OPEN else "of another kind"] += 1
                    continue
                for image in item.get("ContourImageSequence") or ():
                    images.add(text_of(image, "ReferencedSOPInstanceUID"))
                points = _points(item)
        except DicomError as error:
            faults.append(f"contour {place} {error.message}")
            continue
        if contours.setdefault(_shape_of(points), points) is not points:
            # By the even-odd rule the two would be nothing.
            faults.append(f"contour {place} is there twice: taken once")
    faults += [
        f"{count} contours are {kind} and enclose nothing"
        if count > 1
        else f"1 contour is {kind} and encloses nothing"
        for kind, count in sorted(others.items())
    ]
    return Roi(
        number=number,
        name=text_of(region, "ROIName"),
        frame_of_reference_uid=text_of(region, "ReferencedFrameOfReferenceUID"),
        interpreted_type=text_of(observation, "RTROIInterpretedType") if observation is not None else "",
        contours_mm=tuple(contours.values()),
        image_uids=frozenset(images),
        faults=tuple(faults),
    )


def _shape_of(points: Floats) -> bytes:
    """The same for a contour wherever it begins and whichever way it goes round."""
    first = int(np.lexsort(points.T)[0])
    forwards, backwards = np.roll(points, -first, axis=0), np.roll(points[::-1], first + 1, axis=0)
    return min(forwards.tobytes(), backwards.tobytes())


def _points(item: Dataset) -> Floats:
    """The points of a contour, shape (n, 3), straight from its text: pydicom makes an object of each number.

    Raises:
        DicomError: They are no points.
    """
    element = item.get_item("ContourData")
    value = element.value if element is not None else None
    if isinstance(element, RawDataElement) and isinstance(value, bytes):
        parts = value.decode("ascii", "replace").strip(" \0").split("\\")
    else:
        parts = [str(part) for part in value or ()]
    try:
        numbers = np.array(parts, dtype=np.float64)
    except ValueError:
        raise DicomError("holds something else than numbers") from None
    if not len(numbers) or len(numbers) % 3 or not np.isfinite(numbers).all():
        raise DicomError(f"holds {len(numbers)} numbers, which are no points")
    points = numbers.reshape(-1, 3)
    stated = item.get("NumberOfContourPoints")
    if stated is not None and int(stated) != len(points):
        raise DicomError(f"holds {len(points)} points and says {int(stated)}")
    return points

"""DICOM Segmentations (SEG, BINARY) from masks, by highdicom: written, read back and proven, then published.

The same inputs give the same bytes: UIDs come from the digest, dates are those of the images.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
    segread,
)
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mqi_dagster.dicom.elements import text_of
from mqi_dagster.dicom.own_objects import MANUFACTURER, derived_uid
from mqi_dagster.dicom.patient_study import study_id
from mqi_dagster.dicom.reading import decoding
from mqi_dagster.dose.encoding import decimal_string
from mqi_dagster.errors import ImageError, InfrastructureError, Where, shown
from mqi_dagster.files import write_whole
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.source_images import SourceImages

# It names the images that it reads.
logging.getLogger("highdicom").setLevel(logging.WARNING)

Mask = NDArray[np.bool_]


_WHERE = Where(kind="segmentation object")


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 8.1)."""

    value: str
    scheme: str
    """Coding Scheme Designator: SCT for SNOMED CT."""
    meaning: str


ARTIFICIAL_INTELLIGENCE = Code("123109", "DCM", "Artificial Intelligence")
RULE_BASED = Code("123105", "DCM", "Rule-based")
"""Algorithm families, PS3.16 CID 7162."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What made a segment."""

    name: str
    version: str
    family: Code


@dataclass(frozen=True, slots=True, eq=False)
class SegmentRequest:
    """A segment to write: its number is its place."""

    label: str
    """At most 64 characters; TG-263 where there is such a name."""
    mask: Mask | Callable[[], Mask]
    """On the grid of the images; or what reads it, so that not every mask is in memory at once."""
    category: Code
    """Segmented Property Category, PS3.16 CID 7150."""
    property_type: Code
    """Segmented Property Type, PS3.16 CID 7151."""
    algorithm: Algorithm | None
    """None: drawn by a person."""
    semiautomatic: bool = False
    """Whether a person had a part in what the algorithm made."""

    def mask_on(self, grid: ImageGrid) -> Mask:
        """The mask.

        Raises:
            ImageError: It is not on the grid.
        """
        mask = self.mask() if callable(self.mask) else self.mask
        name = shown(self.label)
        _require(mask.shape == grid.shape, f"the mask of {name} is not on the grid of the images")
        return mask


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationRequest:
    """Everything of a segmentation but the images that it is of."""

    label: str
    """At most 16 characters, of A to Z, 0 to 9, blank and _ (Content Label)."""
    segments: tuple[SegmentRequest, ...]
    digest: str
    """Digest of the asset, 64 hexadecimal digits: every UID is derived from it."""
    software_versions: tuple[str, ...]
    series_description: str = ""
    series_number: int = 1


def write_segmentation(path: Path, images: SourceImages, request: SegmentationRequest) -> None:
    """Write a segmentation; frames without a voxel of a segment are left out.

    Disjoint segments need one byte a voxel of memory, others one a voxel and segment.

    Args:
        path: Where; the folder exists. The file appears whole, or not at all.
        images: What is segmented.
        request: The rest.

    Raises:
        DicomError: The images lack an element.
        ImageError: A text does not fit, a mask is not on the grid or every mask is empty, or what was read
            back differs.
        InfrastructureError: The disk refuses.
    """
    _check(request, images.grid)
    # The warnings of the libraries quote values, and the values of the images are identity.
    with warnings.catch_warnings(action="ignore"), decoding():
        written = _made(images, request)
        buffer = BytesIO()
        written.save_as(buffer)
        content = buffer.getvalue()
        _prove(content, images, request)
    try:
        write_whole(path, content)
    except OSError as error:
        raise InfrastructureError(f"it cannot be written: {error.strerror}", where=_WHERE) from None


def _made(images: SourceImages, request: SegmentationRequest) -> Segmentation:
    for header in images.headers:
        if not text_of(header, "SliceThickness"):
            # Of the segment, which has no gaps: each of its voxels reaches to the next plane.
            header.SliceThickness = decimal_string(images.grid.spacing_mm[0])
    made = Segmentation(
        source_images=list(images.headers),
        pixel_array=_pixels(request.segments, images.grid),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, segment, request.digest)
            for number, segment in enumerate(request.segments, start=1)
        ],
        series_instance_uid=derived_uid(request.digest, "segmentation series"),
        series_number=request.series_number,
        sop_instance_uid=derived_uid(request.digest, "segmentation"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=request.software_versions,  # type: ignore[arg-type]  # any number of them
        device_serial_number=request.digest,
        content_label=request.label,
        omit_empty_frames=True,
    )
    made.SeriesDescription = request.series_description
    made.StudyID = study_id(images.headers[0])
    date, time = images.date_and_time
    for kind in ("InstanceCreation", "Content", "Series"):
        setattr(made, f"{kind}Date", date)
        setattr(made, f"{kind}Time", time or "000000")
    # The last item is highdicom's own, with the moment of now.
    del made.ContributingEquipmentSequence[-1].ContributionDateTime
    for sequence in (made.DimensionOrganizationSequence, made.DimensionIndexSequence):
        for item in sequence:
            item.DimensionOrganizationUID = derived_uid(request.digest, "dimensions")
    return made


def _pixels(segments: Sequence[SegmentRequest], grid: ImageGrid) -> NDArray[np.uint8]:
    """Numbers of the segments, shape of the grid; where they overlap one mask each, along a fourth axis."""
    labels = np.zeros(grid.shape, np.uint8)
    if len(segments) <= np.iinfo(np.uint8).max:
        for number, segment in enumerate(segments, start=1):
            mask = segment.mask_on(grid)
            if labels[mask].any():
                break
            labels[mask] = number
        else:
            return labels
    del labels
    masks = np.empty((*grid.shape, len(segments)), np.uint8)
    for index, segment in enumerate(segments):
        masks[..., index] = segment.mask_on(grid)
    return masks


def _description(number: int, segment: SegmentRequest, digest: str) -> SegmentDescription:
    algorithm = segment.algorithm
    kind, identification = SegmentAlgorithmTypeValues.MANUAL, None
    if algorithm is not None:
        automatic, semiautomatic = (
            SegmentAlgorithmTypeValues.AUTOMATIC,
            SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        )
        kind = semiautomatic if segment.semiautomatic else automatic
        identification = AlgorithmIdentificationSequence(
            name=algorithm.name, version=algorithm.version, family=_concept(algorithm.family)
        )
    return SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=_concept(segment.category),
        segmented_property_type=_concept(segment.property_type),
        algorithm_type=kind,
        algorithm_identification=identification,
        tracking_uid=derived_uid(digest, f"segment {number}"),
        tracking_id=segment.label,
    )


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)


def _check(request: SegmentationRequest, grid: ImageGrid) -> None:
    _require(bool(re.fullmatch(r"[0-9a-f]{64}", request.digest)), "the digest is not 64 hexadecimal digits")
    fits = re.fullmatch(r"[A-Z0-9_ ]{1,16}", request.label)
    _require(bool(fits), f"ContentLabel is not of the allowed form: {shown(request.label)}")
    _require(bool(request.software_versions), "SoftwareVersions: no version is given")
    for segment in request.segments:
        require_fitting(segment)
    filled = [segment.mask_on(grid).any() for segment in request.segments]
    _require(any(filled), "every mask is empty: a segmentation has at least one frame")


def require_fitting(segment: SegmentRequest) -> None:
    """Refuse a segment whose label the attribute cannot hold.

    Raises:
        ImageError: Why.
    """
    fits, name = re.fullmatch(r"[ -\[\]-~]{1,64}", segment.label), shown(segment.label)
    _require(bool(fits), f"SegmentLabel is longer than 64 characters, or not plain ASCII: {name}")


def _prove(content: bytes, images: SourceImages, request: SegmentationRequest) -> None:
    """Read what is to be published as anybody will.

    Raises:
        ImageError: It differs from what was asked for.
    """
    read = segread(BytesIO(content))
    labels = [read.get_segment_description(number).segment_label for number in read.segment_numbers]
    _require(
        labels == [segment.label for segment in request.segments], "what was read back has other segments"
    )
    same = read.FrameOfReferenceUID == images.grid.frame_of_reference_uid
    _require(same, "what was read back is in another frame of reference")
    for segment, mask in zip(request.segments, _masks(read, images), strict=True):
        equal = np.array_equal(mask, segment.mask_on(images.grid))
        _require(equal, f"what was read back of {shown(segment.label)} differs")


def segmentation_masks(dataset: Dataset, images: SourceImages) -> dict[str, Mask]:
    """The masks of a segmentation by their labels, each on the grid of its images.

    Args:
        dataset: A SEG.
        images: What was segmented.

    Raises:
        DicomError: It is damaged, or no segmentation.
        ImageError: It is of other images, or two segments have one label.
    """
    with warnings.catch_warnings(action="ignore"), decoding():
        read = Segmentation.from_dataset(dataset)
        labels = [read.get_segment_description(number).segment_label for number in read.segment_numbers]
        _require(len(set(labels)) == len(labels), "two segments have the same label")
        return dict(zip(labels, _masks(read, images), strict=True))


def _masks(read: Segmentation, images: SourceImages) -> Iterator[Mask]:
    known = {str(uid) for _, _, uid in read.get_source_image_uids()}
    _require(known <= set(images.series.instance_uids), "the segmentation is of other images")
    for number in read.segment_numbers:
        pixels = read.get_pixels_by_source_instance(
            list(images.series.instance_uids),
            segment_numbers=[number],
            assert_missing_frames_are_empty=True,
            ignore_spatial_locations=True,
        )
        yield np.asarray(pixels[..., 0] > 0)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ImageError(otherwise, where=_WHERE)

"""What the objects of a course say that its quality depends on, read once while they are hashed.

``facts.json`` is published beside the inventory, so that the checks are evaluated on what was published, by
the step and again by the report. An object that cannot be read is a fact as well, with its reason. Facts hold
no identity, path or UID: they stand in the order of the inventory.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from enum import StrEnum
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)

from mqi_dagster.courses.inventory import CourseInventory
from mqi_dagster.courses.objects import Part
from mqi_dagster.dicom.ct_images import is_localizer
from mqi_dagster.dicom.elements import numbers_of, text_of
from mqi_dagster.dicom.reading import decoding, read_dicom
from mqi_dagster.dose.stored_image import read_dose
from mqi_dagster.errors import DicomError, DoseError, StoreError, Where
from mqi_dagster.files import write_whole
from mqi_dagster.imaging.image_grid import ImagePlane, image_plane
from mqi_dagster.imaging.structure_set import Roi, read_structure_set

FACTS_FILE = "facts.json"
TARGET_TYPES = ("GTV", "CTV", "PTV")
"""RT ROI Interpreted Types of what is to be treated."""
_TARGET_NAME = re.compile("(GTV|CTV|PTV|ITV)(?![a-z])", re.IGNORECASE)
"""With which the names of targets begin (TG-263), as far as they say nothing else: ``PTVn`` is one, too."""

_WHERE = Where(kind="course facts")
_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_ANALYSED = {"CT": CTImageStorage, "MR": MRImageStorage}
Vector = tuple[float, float, float]


class Geometry(Part):
    """Where an image lies; as in `ImagePlane`."""

    position_mm: Vector
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]
    rows: int
    columns: int


class ImageFacts(Part):
    """One image."""

    fault: str = ""
    """Why it cannot be used; empty where it can."""
    localizer: bool = False
    """A scout view, which is no part of a volume and is not looked at further."""
    geometry: Geometry | None = None
    instance_number: int | None = None
    patient_position: str = ""

    def plane(self, instance_uid: str, frame_of_reference_uid: str) -> ImagePlane | None:
        """Where it lies; None where it is no part of a volume."""
        if self.geometry is None:
            return None
        return ImagePlane(
            instance_uid=instance_uid,
            frame_of_reference_uid=frame_of_reference_uid,
            position_mm=self.geometry.position_mm,
            orientation=self.geometry.orientation,
            spacing_mm=self.geometry.spacing_mm,
            rows=self.geometry.rows,
            columns=self.geometry.columns,
        )


class TargetBy(StrEnum):
    """What says that a structure is a target; in this order the first counts that says it of any."""

    TYPE = "RT ROI Interpreted Type"
    PLAN = "number in the plan"
    """A Dose Reference of a plan that names its structure set."""
    NAME = "name"


class TargetBox(Part):
    """The box around the contours of a target."""

    low_mm: Vector
    high_mm: Vector
    by: TargetBy = TargetBy.TYPE
    roi_number: int | None = None


class StructureSetFacts(Part):
    """One structure set."""

    fault: str = ""
    targets: tuple[TargetBox, ...] = ()
    """Of one that is a target by several things the first stands."""


class PlanFacts(Part):
    """One plan."""

    fault: str = ""
    patient_positions: tuple[str, ...] = ()
    """Of its patient setups, each once."""
    gantry_degrees: tuple[float, ...] = ()
    """Of each treatment beam at its first control point, where it says so."""
    isocentres_mm: tuple[Vector, ...] = ()
    """Of its treatment beams, each once."""


class DoseFacts(Part):
    """One dose."""

    fault: str = ""
    grid_fault: str = ""
    """Why no dose can be read of it."""
    maximum: float | None = None
    """In its own Dose Units."""


class CourseFacts(Part):
    """Of all objects of a course, in the order of its inventory."""

    image_series: tuple[tuple[ImageFacts, ...], ...]
    structure_sets: tuple[StructureSetFacts, ...]
    plans: tuple[PlanFacts, ...]
    doses: tuple[DoseFacts, ...]


class FactsReader:
    """Gathers the facts of a course from the content of its objects, one at a time.

    Args:
        inventory: Of the course.
    """

    def __init__(self, inventory: CourseInventory) -> None:
        self._inventory = inventory
        self._modality = {
            image.sop_instance_uid: series.modality
            for series in inventory.image_series
            for image in series.images
        }
        self._sets = {one.found.sop_instance_uid for one in inventory.structure_sets}
        self._planned = defaultdict[str, set[int]](set)
        """Numbers of the targets of plans, by the structure set."""
        for plan in (one.found for one in inventory.plans):
            for set_uid in plan.structure_set_uids:
                self._planned[set_uid] |= plan.target_numbers
        self._plans = {one.found.sop_instance_uid: one.found for one in inventory.plans}
        self._doses = {one.found.sop_instance_uid for one in inventory.doses}
        self._image_facts: dict[str, ImageFacts] = {}
        self._set_facts: dict[str, StructureSetFacts] = {}
        self._plan_facts: dict[str, PlanFacts] = {}
        self._dose_facts: dict[str, DoseFacts] = {}

    def take(self, uid: str, content: bytes) -> None:
        """Take in one object; of kinds that have no facts nothing is read.

        Args:
            uid: Its SOP Instance UID.
            content: Of its file.
        """
        if uid in self._modality:
            self._image_facts[uid] = image_facts(content, self._modality[uid])
        elif uid in self._sets:
            self._set_facts[uid] = structure_set_facts(content, self._planned[uid])
        elif uid in self._plans:
            self._plan_facts[uid] = plan_facts(content, self._plans[uid].treatment_beams)
        elif uid in self._doses:
            self._dose_facts[uid] = dose_facts(content)

    def take_unreadable(self, uid: str, fault: str) -> None:
        """Take in one object whose file cannot be read at all.

        Args:
            uid: Its SOP Instance UID.
            fault: Why.
        """
        if uid in self._modality:
            self._image_facts[uid] = ImageFacts(fault=fault)
        elif uid in self._sets:
            self._set_facts[uid] = StructureSetFacts(fault=fault)
        elif uid in self._plans:
            self._plan_facts[uid] = PlanFacts(fault=fault)
        elif uid in self._doses:
            self._dose_facts[uid] = DoseFacts(fault=fault)

    def facts(self) -> CourseFacts:
        """The facts, once every object was taken in.

        Raises:
            KeyError: One was not.
        """
        inventory = self._inventory
        return CourseFacts(
            image_series=tuple(
                tuple(self._image_facts[image.sop_instance_uid] for image in series.images)
                for series in inventory.image_series
            ),
            structure_sets=tuple(
                self._set_facts[one.found.sop_instance_uid] for one in inventory.structure_sets
            ),
            plans=tuple(self._plan_facts[one.found.sop_instance_uid] for one in inventory.plans),
            doses=tuple(self._dose_facts[one.found.sop_instance_uid] for one in inventory.doses),
        )


def image_facts(content: bytes, modality: str | None) -> ImageFacts:
    """What an image says, and whether it is whole.

    Args:
        content: Of its file.
        modality: Of its series; of a CT or MR it has to be usable as a plane of a volume.
    """
    try:
        dataset = read_dicom(content)
        if is_localizer(dataset):
            return ImageFacts(localizer=True)
        plane = image_plane(dataset)
        with decoding():
            if modality in _ANALYSED:
                _require_usable(dataset, plane, modality)
            number = text_of(dataset, "InstanceNumber")
            return ImageFacts(
                geometry=Geometry(
                    position_mm=plane.position_mm,
                    orientation=plane.orientation,
                    spacing_mm=plane.spacing_mm,
                    rows=plane.rows,
                    columns=plane.columns,
                ),
                instance_number=int(number) if number else None,
                patient_position=text_of(dataset, "PatientPosition"),
            )
    except DicomError as error:
        return ImageFacts(fault=error.message)


def _require_usable(dataset: FileDataset, plane: ImagePlane, modality: str) -> None:
    if text_of(dataset, "SOPClassUID") != _ANALYSED[modality]:
        raise DicomError(f"is no {modality} Image (an Enhanced one has to be exported image by image)")
    if modality == "CT":
        for keyword in ("RescaleSlope", "RescaleIntercept"):
            numbers_of(dataset, keyword, 1)
    pixels = dataset.get("PixelData")
    if pixels is None:
        raise DicomError("has no PixelData")
    if dataset.file_meta.TransferSyntaxUID not in _NATIVE:
        return
    (bits,) = numbers_of(dataset, "BitsAllocated", 1)
    wanted = plane.rows * plane.columns * int(bits) // 8
    # PS3.5 8.1.1: padded to an even length.
    if len(pixels) != wanted + wanted % 2:
        raise DicomError(f"has {len(pixels):,} bytes of pixels instead of {wanted:,}")


def structure_set_facts(content: bytes, planned: Collection[int] = ()) -> StructureSetFacts:
    """Whether a structure set can be read, and where its targets are.

    Args:
        content: Of its file.
        planned: ROI Numbers of the targets of plans that name it.
    """
    try:
        found = read_structure_set(content)
    except DicomError as error:
        return StructureSetFacts(fault=error.message)
    boxes = []
    for roi in found.rois:
        by = _target_by(roi, planned)
        if by is not None and roi.contours_mm:
            points = np.concatenate(roi.contours_mm)
            low, high = (edge(points, axis=0).tolist() for edge in (np.min, np.max))
            box = TargetBox(low_mm=tuple(low), high_mm=tuple(high), by=by, roi_number=roi.number)
            boxes.append(box)
    return StructureSetFacts(targets=tuple(boxes))


def _target_by(roi: Roi, planned: Collection[int]) -> TargetBy | None:
    if roi.interpreted_type in TARGET_TYPES:
        return TargetBy.TYPE
    if roi.number in planned:
        return TargetBy.PLAN
    # What is typed as anything else, as a ring around a target may be, is none by its name.
    return TargetBy.NAME if not roi.interpreted_type and _TARGET_NAME.match(roi.name.strip()) else None


def plan_facts(content: bytes, treatment_beams: Collection[int]) -> PlanFacts:
    """How a plan has the patient and the gantry.

    Args:
        content: Of its file.
        treatment_beams: Numbers of its beams that treat.
    """
    try:
        dataset = read_dicom(content)
        with decoding():
            setups = dataset.get("PatientSetupSequence") or ()
            positions = {position for item in setups if (position := text_of(item, "PatientPosition"))}
            first = list(_first_control_points(dataset, treatment_beams))
            gantry = [
                numbers_of(one, "GantryAngle", 1)[0] for one in first if one.get("GantryAngle") is not None
            ]
            places = {
                numbers_of(one, "IsocenterPosition", 3) for one in first if one.get("IsocenterPosition")
            }
    except DicomError as error:
        return PlanFacts(fault=error.message)
    return PlanFacts(
        patient_positions=tuple(sorted(positions)),
        gantry_degrees=tuple(gantry),
        isocentres_mm=tuple((x, y, z) for x, y, z in sorted(places)),
    )


def _first_control_points(dataset: Dataset, treatment_beams: Collection[int]) -> Iterator[Dataset]:
    for prefix in ("", "Ion"):
        for beam in dataset.get(f"{prefix}BeamSequence") or ():
            points = beam.get(f"{prefix}ControlPointSequence")
            if points and text_of(beam, "BeamNumber") in map(str, treatment_beams):
                yield points[0]


def dose_facts(content: bytes) -> DoseFacts:
    """Whether a dose can be read, and its maximum.

    Args:
        content: Of its file.
    """
    try:
        read_dicom(content)
    except DicomError as error:
        return DoseFacts(fault=error.message)
    try:
        return DoseFacts(maximum=float(read_dose(content).values.max()))
    except DoseError as error:
        return DoseFacts(grid_fault=error.message)


def write_facts(facts: CourseFacts, folder: Path) -> None:
    """Write the facts whole, for their owner alone."""
    write_whole(folder / FACTS_FILE, facts.model_dump_json(exclude_defaults=True).encode("utf-8"))


def read_facts(folder: Path, inventory: CourseInventory) -> CourseFacts:
    """Read the facts back.

    Args:
        folder: Of the published inventory.
        inventory: Whose facts they are.

    Raises:
        StoreError: There are none, they are of another version, or of another inventory.
    """
    try:
        facts = CourseFacts.model_validate_json((folder / FACTS_FILE).read_bytes())
    except (OSError, ValidationError):
        raise StoreError("the facts of the course cannot be read", where=_WHERE) from None
    if _counts_of(facts) != _counts_in(inventory):
        raise StoreError("the facts are those of another inventory", where=_WHERE)
    return facts


def _counts_of(facts: CourseFacts) -> tuple[list[int], list[int]]:
    others = (facts.structure_sets, facts.plans, facts.doses)
    return [len(series) for series in facts.image_series], [len(some) for some in others]


def _counts_in(inventory: CourseInventory) -> tuple[list[int], list[int]]:
    others = (inventory.structure_sets, inventory.plans, inventory.doses)
    return [len(series.images) for series in inventory.image_series], [len(some) for some in others]

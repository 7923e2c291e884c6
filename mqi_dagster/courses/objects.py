"""What the header of a DICOM object says that grouping into courses needs, as plain values.

What a header does not say is None or empty, never a default. Terms are those of PS3.3: C.8.8.3 (RT Dose),
C.8.8.5 (Structure Set), C.8.8.9 to C.8.8.14 (plans), C.8.8.25 (ion beams), C.20.2 (Spatial Registration).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pydicom
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.fields import FieldInfo
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from mqi_dagster.dicom.frame_offsets import offsets_along_normal
from mqi_dagster.dicom.reading import decoding
from mqi_dagster.errors import DicomError

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Element:
    """Which element of a header a field is: keywords from the outermost sequence inwards, with ``/``."""

    path: str
    others: tuple[str, ...] = ()
    """Elements whose values count as well."""

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them."""
        return (self.path, *self.others)


class Part(BaseModel):
    """A part of an object: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Patient(Part):
    """Whose an object is. Stands in the index alone, never in an inventory."""

    patient_id: Annotated[str | None, Element("PatientID")]
    issuer: Annotated[str | None, Element("IssuerOfPatientID")]
    """The same ID of another issuer is another patient."""
    name: Annotated[str | None, Element("PatientName")]
    birth_date: Annotated[str | None, Element("PatientBirthDate")]

    @property
    def compared_name(self) -> str | None:
        """The name in capitals without trailing separators: spellings of one name are equal."""
        groups = [part.rstrip("^ ") for part in (self.name or "").upper().split("=")]
        return "=".join(groups).rstrip("=") or None


class Instance(Part):
    """What all objects say."""

    sop_class_uid: Annotated[str, Element("SOPClassUID")]
    sop_instance_uid: Annotated[str, Element("SOPInstanceUID")]
    modality: Annotated[str | None, Element("Modality")]
    study_uid: Annotated[str | None, Element("StudyInstanceUID")]
    series_uid: Annotated[str | None, Element("SeriesInstanceUID")]
    frame_of_reference_uid: Annotated[str | None, Element("FrameOfReferenceUID")]
    study_date: Annotated[date | None, Element("StudyDate")]


class Image(Instance):
    """One CT, MR or PET image, or one multi-frame object of them."""

    role: Literal["image"] = "image"
    series_description: Annotated[str | None, Element("SeriesDescription")]
    image_type: Annotated[tuple[str, ...], Element("ImageType")]


class RelatedPlan(Part):
    """Another plan that a plan names."""

    uid: Annotated[str | None, Element("ReferencedSOPInstanceUID")]
    relationship: Annotated[str | None, Element("RTPlanRelationship")]
    """PRIOR, ALTERNATIVE, PREDECESSOR, VERIFIED_PLAN or CONCURRENT."""


class ReferencedBeam(Part):
    """A beam as a fraction group uses it."""

    number: Annotated[int | None, Element("ReferencedBeamNumber")]
    meterset: Annotated[float | None, Element("BeamMeterset")]


class FractionGroup(Part):
    """A fraction group of a plan."""

    number: Annotated[int | None, Element("FractionGroupNumber")]
    fractions_planned: Annotated[int | None, Element("NumberOfFractionsPlanned")]
    beams: Annotated[tuple[ReferencedBeam, ...], Element("ReferencedBeamSequence")]


class DoseReference(Part):
    """What a plan prescribes to a target, or allows to an organ."""

    number: Annotated[int | None, Element("DoseReferenceNumber")]
    uid: Annotated[str | None, Element("DoseReferenceUID")]
    structure_type: Annotated[str | None, Element("DoseReferenceStructureType")]
    description: Annotated[str | None, Element("DoseReferenceDescription")]
    dose_reference_type: Annotated[str | None, Element("DoseReferenceType")]
    """TARGET or ORGAN_AT_RISK."""
    roi_number: Annotated[int | None, Element("ReferencedROINumber")]
    """Of the structure set that the plan refers to."""
    target_prescription_dose_gy: Annotated[float | None, Element("TargetPrescriptionDose")]


class Beam(Part):
    """A beam of a plan."""

    number: Annotated[int | None, Element("BeamNumber")]
    name: Annotated[str | None, Element("BeamName")]
    treatment_delivery_type: Annotated[str | None, Element("TreatmentDeliveryType")]
    radiation_type: Annotated[str | None, Element("RadiationType")]


_NO_TREATMENT = frozenset({"OPEN_PORTFILM", "TRMT_PORTFILM", "SETUP"})
_TREATING_INTENTS = frozenset({None, "CURATIVE", "PALLIATIVE", "PROPHYLACTIC"})
"""Plan Intents of what a patient gets; the others are of verification, machines, research and service."""


class Plan(Instance):
    """An RT Plan or RT Ion Plan."""

    role: Literal["plan"] = "plan"
    label: Annotated[str | None, Element("RTPlanLabel")]
    name: Annotated[str | None, Element("RTPlanName")]
    plan_date: Annotated[date | None, Element("RTPlanDate")]
    intent: Annotated[str | None, Element("PlanIntent")]
    approval: Annotated[str | None, Element("ApprovalStatus")]
    structure_set_uids: Annotated[
        tuple[str, ...], Element("ReferencedStructureSetSequence/ReferencedSOPInstanceUID")
    ]
    related_plans: Annotated[tuple[RelatedPlan, ...], Element("ReferencedRTPlanSequence")]
    fraction_groups: Annotated[tuple[FractionGroup, ...], Element("FractionGroupSequence")]
    dose_references: Annotated[tuple[DoseReference, ...], Element("DoseReferenceSequence")]
    beams: Annotated[tuple[Beam, ...], Element("BeamSequence", ("IonBeamSequence",))]

    @property
    def treats(self) -> bool:
        """Whether it is for treatment, as far as its Plan Intent (PS3.3 C.8.8.9) says."""
        return self.intent in _TREATING_INTENTS

    @property
    def fractions_planned(self) -> int | None:
        """Fractions of all fraction groups; None where one of them does not say how many."""
        counts = [group.fractions_planned for group in self.fraction_groups]
        known = [count for count in counts if count is not None]
        return sum(known) if known and len(known) == len(counts) else None

    @property
    def target_doses_gy(self) -> tuple[float, ...]:
        """Target Prescription Doses of its targets, in rising order."""
        targets = [one for one in self.dose_references if one.dose_reference_type == "TARGET"]
        doses = [one.target_prescription_dose_gy for one in targets]
        return tuple(sorted(dose for dose in doses if dose is not None))

    @property
    def target_numbers(self) -> frozenset[int]:
        """ROI Numbers of its targets, in the structure set that it names."""
        targets = [one for one in self.dose_references if one.dose_reference_type == "TARGET"]
        return frozenset(one.roi_number for one in targets if one.roi_number is not None)

    @property
    def treatment_beams(self) -> frozenset[int]:
        """Numbers of the beams that treat: all but set-up beams and port films."""
        treating = [beam for beam in self.beams if beam.treatment_delivery_type not in _NO_TREATMENT]
        return frozenset(beam.number for beam in treating if beam.number is not None)


_PLANS, _GROUPS = "ReferencedRTPlanSequence", "ReferencedRTPlanSequence/ReferencedFractionGroupSequence"


class Dose(Instance):
    """An RT Dose."""

    role: Literal["dose"] = "dose"
    units: Annotated[str | None, Element("DoseUnits")]
    dose_type: Annotated[str | None, Element("DoseType")]
    summation_type: Annotated[str | None, Element("DoseSummationType")]
    plan_uids: Annotated[tuple[str, ...], Element(f"{_PLANS}/ReferencedSOPInstanceUID")]
    fraction_groups: Annotated[tuple[int, ...], Element(f"{_GROUPS}/ReferencedFractionGroupNumber")]
    """Those that it is the dose of, where it names any; in the same way its beams."""
    beams: Annotated[tuple[int, ...], Element(f"{_GROUPS}/ReferencedBeamSequence/ReferencedBeamNumber")]
    structure_set_uids: Annotated[
        tuple[str, ...], Element("ReferencedStructureSetSequence/ReferencedSOPInstanceUID")
    ]
    position_mm: Annotated[tuple[float, ...], Element("ImagePositionPatient")]
    orientation: Annotated[tuple[float, ...], Element("ImageOrientationPatient")]
    spacing_mm: Annotated[tuple[float, ...], Element("PixelSpacing")]
    """Between rows, and between columns."""
    rows: Annotated[int | None, Element("Rows")]
    columns: Annotated[int | None, Element("Columns")]
    frame_offsets_mm: Annotated[tuple[float, ...], Element("GridFrameOffsetVector")]

    @property
    def box_mm(self) -> tuple[Vector, Vector] | None:
        """Lowest and highest x, y, z of the voxel centres [mm]; None where no finite grid is described.

        PS3.3 C.7.6.2.1.1, and `offsets_along_normal`. The first frame lies where Image Position says.
        """
        origin, cosines, offsets = self.position_mm, self.orientation, self.frame_offsets_mm
        described = len(origin) == 3 and len(cosines) == 6 and len(self.spacing_mm) == 2 and offsets
        if not described or not self.rows or not self.columns:
            return None
        along_row, along_column = np.array(cosines[:3]), np.array(cosines[3:])
        normal = np.cross(along_row, along_column)
        # Of a single frame nothing is to be told apart.
        heights = np.zeros(1) if len(offsets) == 1 else offsets_along_normal(offsets, origin[2], normal[2])
        if heights is None:
            return None
        steps = (
            (0.0, (self.columns - 1) * self.spacing_mm[1]),
            (0.0, (self.rows - 1) * self.spacing_mm[0]),
            (float(heights.min()), float(heights.max())),
        )
        corners = [origin + i * along_row + j * along_column + k * normal for i, j, k in product(*steps)]
        low, high = (edge(corners, axis=0).tolist() for edge in (np.min, np.max))
        if not all(map(math.isfinite, (*low, *high))):
            return None
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])


class ReferencedSeries(Part):
    """A series that contours were drawn on, and which of its images."""

    uid: Annotated[str | None, Element("SeriesInstanceUID")]
    image_uids: Annotated[tuple[str, ...], Element("ContourImageSequence/ReferencedSOPInstanceUID")]


class ReferencedFrame(Part):
    """A Frame of Reference of a structure set."""

    uid: Annotated[str | None, Element("FrameOfReferenceUID")]
    series: Annotated[
        tuple[ReferencedSeries, ...], Element("RTReferencedStudySequence/RTReferencedSeriesSequence")
    ]


class Roi(Part):
    """A region of interest."""

    number: Annotated[int | None, Element("ROINumber")]
    name: Annotated[str | None, Element("ROIName")]
    frame_of_reference_uid: Annotated[str | None, Element("ReferencedFrameOfReferenceUID")]


class StructureSet(Instance):
    """An RT Structure Set."""

    role: Literal["structure set"] = "structure set"
    label: Annotated[str | None, Element("StructureSetLabel")]
    structure_set_date: Annotated[date | None, Element("StructureSetDate")]
    approval: Annotated[str | None, Element("ApprovalStatus")]
    frames: Annotated[tuple[ReferencedFrame, ...], Element("ReferencedFrameOfReferenceSequence")]
    rois: Annotated[tuple[Roi, ...], Element("StructureSetROISequence")]

    @property
    def image_uids(self) -> tuple[str, ...]:
        """All images that it refers to."""
        return tuple(uid for frame in self.frames for series in frame.series for uid in series.image_uids)

    @property
    def series_uids(self) -> tuple[str, ...]:
        """All series that it refers to."""
        return tuple(one.uid for frame in self.frames for one in frame.series if one.uid is not None)


class Registration(Instance):
    """A Spatial Registration or Deformable Spatial Registration."""

    role: Literal["registration"] = "registration"
    frame_uids: Annotated[
        tuple[str, ...],
        Element(
            "FrameOfReferenceUID",
            (
                "RegistrationSequence/FrameOfReferenceUID",
                "DeformableRegistrationSequence/SourceFrameOfReferenceUID",
            ),
        ),
    ]
    """The Frames of Reference that it brings together; its own stands twice."""


class Other(Instance):
    """Any other object: a treatment record, a segmentation, an RT Image, a report."""

    role: Literal["other"] = "other"
    plan_uids: Annotated[tuple[str, ...], Element(f"{_PLANS}/ReferencedSOPInstanceUID")]
    series_uids: Annotated[tuple[str, ...], Element("ReferencedSeriesSequence/SeriesInstanceUID")]


DicomObject = Annotated[
    Image | Plan | Dose | StructureSet | Registration | Other, Field(discriminator="role")
]
OBJECT: TypeAdapter[DicomObject] = TypeAdapter(DicomObject)
"""Reads an object back from its JSON."""

_CLASSES: dict[str, type[Image | Plan | Dose | StructureSet | Registration]] = {
    uid.CTImageStorage: Image,
    uid.EnhancedCTImageStorage: Image,
    uid.LegacyConvertedEnhancedCTImageStorage: Image,
    uid.MRImageStorage: Image,
    uid.EnhancedMRImageStorage: Image,
    uid.LegacyConvertedEnhancedMRImageStorage: Image,
    uid.PositronEmissionTomographyImageStorage: Image,
    uid.EnhancedPETImageStorage: Image,
    uid.LegacyConvertedEnhancedPETImageStorage: Image,
    uid.RTPlanStorage: Plan,
    uid.RTIonPlanStorage: Plan,
    uid.RTDoseStorage: Dose,
    uid.RTStructureSetStorage: StructureSet,
    uid.SpatialRegistrationStorage: Registration,
    uid.DeformableSpatialRegistrationStorage: Registration,
}


def _elements(model: type[Part]) -> Iterator[tuple[str, FieldInfo, Element]]:
    for name, field in model.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, Element):
                yield name, field, mark


HEADER = tuple(
    sorted(
        {
            path.split("/")[0]
            for model in (Patient, Other, *_CLASSES.values())
            for _, _, element in _elements(model)
            for path in element.paths
        }
    )
)
"""Keywords of the elements that are read; contours and pixels are not among them."""


def read_patient(dataset: Dataset) -> Patient:
    """Whose a data set is.

    Raises:
        DicomError: An element is damaged.
    """
    with decoding():
        return Patient(**_values(Patient, dataset))


def read_object(dataset: Dataset) -> DicomObject:
    """What a data set is and says.

    Args:
        dataset: With the elements of `HEADER` at least.

    Raises:
        DicomError: It has no SOP Class or SOP Instance UID, or an element is damaged.
    """
    with decoding():
        sop_class = _text(dataset.get("SOPClassUID"))
        if sop_class is None or _text(dataset.get("SOPInstanceUID")) is None:
            raise DicomError("has no SOP Class UID or no SOP Instance UID")
        model: type[Image | Plan | Dose | StructureSet | Registration | Other]
        model = _CLASSES.get(sop_class, Other)
        return model(**_values(model, dataset))


def _values(model: type[Part], dataset: Dataset) -> dict[str, Any]:
    return {name: _value(dataset, field, element) for name, field, element in _elements(model)}


def _value(dataset: Dataset, field: FieldInfo, element: Element) -> object:
    kind = (get_args(field.annotation) or (field.annotation,))[0]
    if get_origin(field.annotation) is not tuple:
        return _KINDS[kind](dataset.get(element.path))
    reached = [value for path in element.paths for value in _reached(dataset, path.split("/"))]
    values = [value for value in reached if value is not None]
    if issubclass(kind, Part):
        return tuple(kind(**_values(kind, _item(value))) for value in values)
    return tuple(value for one in values if (value := _KINDS[kind](one)) is not None)


def _reached(dataset: Dataset, path: Sequence[str]) -> Iterator[object]:
    value = dataset.get(path[0])
    for one in value if isinstance(value, MultiValue | pydicom.Sequence) else [value]:
        if len(path) == 1:
            yield one
        elif one is not None:
            yield from _reached(_item(one), path[1:])


def _item(value: object) -> Dataset:
    if not isinstance(value, Dataset):
        raise TypeError("a sequence is none")
    return value


def _text(value: object) -> str | None:
    return None if value is None else str(value).strip(" \0") or None


def _number(value: object) -> float | None:
    text = _text(value)
    return None if text is None or not math.isfinite(number := float(text)) else number


def _whole(value: object) -> int | None:
    text = _text(value)
    return None if text is None else int(text)


def _date(value: object) -> date | None:
    text = _text(value)
    try:
        return date.fromisoformat(text) if text is not None and re.fullmatch("[0-9]{8}", text) else None
    except ValueError:
        return None


_KINDS: dict[object, Callable[[object], object]] = {str: _text, float: _number, int: _whole, date: _date}

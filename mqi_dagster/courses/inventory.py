"""The inventory of a course: what belongs together and why, and what was set aside and why.

It holds UIDs, real paths and what people typed into labels, and is written with mode 0600; of the patient's
identity it holds nothing. Its texts hold none of these and may be shown anywhere.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from mqi_dagster.courses.dose_rules import DoseDecision, Prescription
from mqi_dagster.courses.objects import Dose, Other, Part, Plan, Registration, StructureSet
from mqi_dagster.courses.places import Place
from mqi_dagster.errors import StoreError, Where
from mqi_dagster.files import write_whole

_Object = TypeVar("_Object", bound=Part)


class LinkedBy(StrEnum):
    """Why an object belongs to a course."""

    REFERENCE = "reference"
    """It names an object of the course by UID, or is named by one."""
    FRAME_OF_REFERENCE = "Frame of Reference"
    REGISTRATION = "registration"
    """A registration brings its Frame of Reference together with that of the course."""


class Reason(StrEnum):
    """Why something in the tree is used by no course."""

    STRAY = "stray file"
    DICOMDIR = "DICOMDIR"
    DAMAGED = "damaged"
    ARCHIVE = "archive"
    UNOPENED_ARCHIVE = "archive that is not opened"
    REFUSED = "refused member"
    LINK = "link"
    UNREAD = "not given by the disk"
    EQUAL_COPY = "equal copy"
    DIFFERENT_COPIES = "copies that differ"
    NO_PATIENT_ID = "no patient ID"
    NO_FRAME_OF_REFERENCE = "no Frame of Reference"
    NO_COURSE = "no course"
    LINKS_CONTRADICT = "links that contradict each other"
    DAY_UNKNOWN = "day unknown"

    def counted(self, number: int) -> str:
        """How many there are of it, as people write it."""
        return f"{number} {self.value if number == 1 else _SEVERAL.get(self, self.value)}"


_SEVERAL = {
    Reason.STRAY: "stray files",
    Reason.DICOMDIR: "DICOMDIRs",
    Reason.ARCHIVE: "archives",
    Reason.UNOPENED_ARCHIVE: "archives that are not opened",
    Reason.REFUSED: "refused members",
    Reason.LINK: "links",
    Reason.EQUAL_COPY: "equal copies",
}
"""Of reasons that are things."""

WORDS = {
    Reason.EQUAL_COPY: "holds the same as another object of its SOP Instance UID, which is used",
    Reason.DIFFERENT_COPIES: "has the SOP Instance UID of an object that holds something else: none is used",
    Reason.NO_PATIENT_ID: "names no patient",
    Reason.NO_FRAME_OF_REFERENCE: "has no Frame of Reference, and refers to nothing in the tree that has one",
    Reason.NO_COURSE: "no plan, dose or structure set names it or lies in its Frame of Reference",
    Reason.LINKS_CONTRADICT: "refers to objects of several Frames of Reference, and none is its own",
    Reason.DAY_UNKNOWN: "of the courses in its Frame of Reference, neither its links nor its day tell one",
}
"""What is said where the index itself has no words."""


class SetAside(Part):
    """Something in the tree that is used by no course, or in no course by itself."""

    place: Place
    reason: Reason
    text: str
    """The reason in words."""
    role: str | None = None
    """Of a DICOM object."""
    sop_instance_uid: str | None = None


class FindingCode(StrEnum):
    """What is worth saying of a course's links; whether it fails the course is for its checks."""

    REFERENCE_UNRESOLVED = "reference_unresolved"
    IMAGES_MISSING = "images_missing"
    PLAN_WITHOUT_DOSE = "plan_without_dose"
    COPIES_DIFFER = "copies_differ"
    FRAME_OF_REFERENCE_DIFFERS = "frame_of_reference_differs"
    PATIENT_NAME_DIFFERS = "patient_name_differs"
    BIRTH_DATE_DIFFERS = "birth_date_differs"
    ISSUER_ABSENT = "issuer_absent"


class Finding(Part):
    """Something that does not fit."""

    code: FindingCode
    text: str
    """Without UIDs, paths and identity."""
    uids: tuple[str, ...] = ()
    """The objects that it is about."""


class Linked(Part, Generic[_Object]):
    """An object of a course."""

    place: Place
    size: int
    stamp: int
    """What changes with the content: modification time [ns] of a file, CRC-32 of a member of an archive."""
    linked_by: LinkedBy
    found: _Object


class ImageFile(Part):
    """One image object."""

    sop_instance_uid: str
    place: Place
    size: int
    stamp: int


class ImageSeries(Part):
    """The images of one series that lie in one Frame of Reference."""

    series_uid: str | None
    study_uid: str | None
    modality: str | None
    description: str | None
    frame_of_reference_uid: str | None
    linked_by: LinkedBy
    images: tuple[ImageFile, ...]
    """In the order of UIDs."""


class CourseInventory(Part):
    """One course; everything stands in the order of UIDs."""

    identity: str
    """Keyed digest of the patient and the Frame of Reference, and of the first plan where days separate
    courses: the key of a course is told from all its plans (`courses.grouping.identities`)."""
    frame_of_reference_uid: str
    image_series: tuple[ImageSeries, ...]
    structure_sets: tuple[Linked[StructureSet], ...]
    plans: tuple[Linked[Plan], ...]
    doses: tuple[Linked[Dose], ...]
    registrations: tuple[Linked[Registration], ...]
    others: tuple[Linked[Other], ...]
    prescriptions: tuple[Prescription, ...]
    dose_decisions: tuple[DoseDecision, ...]
    findings: tuple[Finding, ...]
    set_aside: tuple[SetAside, ...]
    """Objects that belong here and are not used."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) that changes when anything in the inventory does."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8")).hexdigest()


def write_inventory(inventory: CourseInventory, path: Path) -> None:
    """Write an inventory whole, for its owner alone.

    Raises:
        OSError: It cannot be written.
    """
    write_whole(path, inventory.model_dump_json(indent=1).encode("utf-8"))


def read_inventory(path: Path) -> CourseInventory:
    """Read an inventory back.

    Raises:
        StoreError: It is none, or one of another version.
        OSError: The disk does not give it.
    """
    try:
        return CourseInventory.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise StoreError(
            "is no inventory of this version", where=Where(kind="course inventory"),
            first_cause=f"{error.error_count()} fields",
        ) from None  # fmt: skip

"""Every text of a plan that names a person, a visit or an examination."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pydicom.dataset import Dataset

from mqi_dagster.plan.elements import items, text

NAMES = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "ResponsiblePerson",
    "ReferringPhysicianName",
    "ConsultingPhysicianName",
    "PhysiciansOfRecord",
    "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "RequestingPhysician",
    "OperatorsName",
    "ReviewerName",
)
TEXTS = (
    "PatientID",
    "IssuerOfPatientID",
    "OtherPatientIDs",
    "MedicalRecordLocator",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "AccessionNumber",
    "StudyID",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "StationName",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
)


def _values(dataset: Dataset, keyword: str) -> list[str]:
    value = dataset.get(keyword)
    if value is None:
        return []
    several = value if isinstance(value, Iterable) and not hasattr(value, "components") else [value]
    if isinstance(value, str):
        several = [value]
    return [str(item).strip(" \0") for item in several]


def _long_enough(part: str) -> bool:
    """Whether a text identifies: three characters, or two of a script that writes a name in two."""
    return len(part) >= 3 or (len(part) == 2 and not part.isascii())


def patient_texts(dataset: Dataset) -> tuple[str, ...]:
    """The patient's IDs and every part of the patient's names, each long enough to identify."""
    found = _values(dataset, "PatientID") + _values(dataset, "OtherPatientIDs")
    for keyword in ("PatientName", "OtherPatientNames", "PatientBirthName"):
        for name in _values(dataset, keyword):
            found.extend(_name_parts(name))
    return tuple(sorted({part for part in found if _long_enough(part)}))


def _name_parts(name: str) -> Iterator[str]:
    """A person's name, its components and their words (a whole name often stands in one component)."""
    yield name
    for component in re.split(r"[\^=]", name):
        yield component.strip()
        yield from re.split(r"[\s,;.]+", component)


def _birth_dates(date: str) -> Iterator[str]:
    yield date
    if re.fullmatch(r"\d{8}", date):
        year, month, day = date[:4], date[4:6], date[6:]
        for mark in "-/.":
            yield mark.join((year, month, day))
            yield mark.join((day, month, year))


def identifiers_of(dataset: Dataset) -> tuple[str, ...]:
    """Every identifying text of at least three characters (two beyond ASCII), the longest first."""
    found: list[str] = []
    for keyword in NAMES:
        for name in _values(dataset, keyword):
            found.extend(_name_parts(name))
    for keyword in TEXTS:
        found.extend(_values(dataset, keyword))
    found.extend(_birth_dates(text(dataset, "PatientBirthDate")))
    for other in items(dataset, "OtherPatientIDsSequence"):
        found.append(text(other, "PatientID"))
    for keyword in ("ReferencedStructureSetSequence", "ReferencedDoseSequence", "ReferencedRTPlanSequence"):
        found.extend(text(item, "ReferencedSOPInstanceUID") for item in items(dataset, keyword))
    return tuple(sorted({part for part in found if _long_enough(part)}, key=lambda part: (-len(part), part)))

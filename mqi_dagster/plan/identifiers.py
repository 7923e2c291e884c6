"""Every text of a plan that names a person, a visit or an examination."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pydicom.dataset import Dataset

from mqi_dagster.plan.elements import items, text
from mqi_dagster.plan.identity import Identity, identifies

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

PATIENT = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientID",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "PatientBirthDate",
)
"""What `identity_of` reads."""

_SHORTEST_HALF = 5


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


def _patient_names(dataset: Dataset) -> list[str]:
    """The patient's names, their components and the words of these."""
    names: list[str] = []
    for keyword in ("PatientName", "OtherPatientNames", "PatientBirthName"):
        for name in _values(dataset, keyword):
            names.extend(_name_parts(name))
    return names


def identity_of(dataset: Dataset) -> Identity:
    """What the patient of a plan is known by."""
    others = (text(other, "PatientID") for other in items(dataset, "OtherPatientIDsSequence"))
    numbers = {*_values(dataset, "PatientID"), *_values(dataset, "OtherPatientIDs"), *others}
    names = set(_patient_names(dataset))
    # Of a double name each half; a short one would be found in other words.
    halves = (half for name in names for half in re.split(r"[-'’]", name) if "^" not in half)
    names |= {half for half in halves if len(half) >= _SHORTEST_HALF}
    return Identity(
        tuple(sorted(one for one in numbers if identifies(one))),
        tuple(sorted(one for one in names if identifies(one))),
        text(dataset, "PatientBirthDate").strip(),
    )


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

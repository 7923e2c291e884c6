"""What an object takes over from what it is made from: patient and study (PS3.3 C.7.1, C.7.2)."""

from __future__ import annotations

import hashlib
from copy import deepcopy

from pydicom.dataset import Dataset, FileDataset

from mqi_dagster.dicom.elements import text_of
from mqi_dagster.errors import DicomError

_TAKEN = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
"""Type 1 and 2 attributes of the Patient and General Study modules: there, if empty."""

_TAKEN_IF_PRESENT = ("SpecificCharacterSet", "IssuerOfPatientID", "StudyDescription")


def patient_and_study(source: Dataset) -> FileDataset:
    """A data set with the patient and study of another one, and nothing else.

    Args:
        source: What the new object is made from.

    Raises:
        DicomError: It is of no study.
    """
    if not text_of(source, "StudyInstanceUID"):
        raise DicomError("has no StudyInstanceUID")
    dataset = FileDataset("", {}, preamble=b"\0" * 128)
    for keyword in (*_TAKEN_IF_PRESENT, *_TAKEN):
        if keyword in source:
            dataset[keyword] = deepcopy(source[keyword])
        elif keyword in _TAKEN:
            setattr(dataset, keyword, "")
    dataset.StudyID = study_id(source)
    return dataset


def completed(dataset: Dataset) -> None:
    """Give a data set, empty, what of patient and study it may have empty and does not have at all."""
    for keyword in _TAKEN:
        if keyword not in dataset and keyword != "StudyInstanceUID":
            setattr(dataset, keyword, "")


def study_id(source: Dataset) -> str:
    """The Study ID, or where there is none 15 characters of the SHA-256 of the Study Instance UID.

    A study without a Study ID cannot be put on a DICOMDIR.
    """
    digest = hashlib.sha256(text_of(source, "StudyInstanceUID").encode()).hexdigest()
    return text_of(source, "StudyID") or "MQI" + digest[:12].upper()

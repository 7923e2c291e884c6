"""What a file is: told by its SOP class, never by its name."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, RTIonPlanStorage

from mqi_dagster.dicom.reading import MAGIC, PREAMBLE, begins_like_dicom, decoding, read_dicom
from mqi_dagster.errors import DicomError

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
"""Endings of names that promise a DICOM file."""


class DicomKind(StrEnum):
    """Kinds of files that matter to a case."""

    ION_PLAN = "ion plan"
    CT = "CT"
    OTHER = "other DICOM object"
    UNREADABLE = "unreadable"
    """Named or beginning like a DICOM file without a SOP class that can be read, or not given by the disk."""
    UNKNOWN = "unknown"
    """Empty or binary, and nothing that begins like a DICOM file."""
    TEXT = "text"


def dicom_kind(path: Path, size: int, mtime_ns: int) -> DicomKind:
    """The kind of a file; asked again only when its size or time changed.

    Args:
        path: The file.
        size: Its size [bytes].
        mtime_ns: Its modification time [ns].
    """
    try:
        return _kind(str(path), size, mtime_ns)
    except OSError:  # not remembered: the disk may give it at the next look
        return DicomKind.UNREADABLE


@lru_cache(maxsize=1 << 16)
def _kind(name: str, size: int, mtime_ns: int) -> DicomKind:
    path = Path(name)
    with path.open("rb") as stream:
        start = stream.read(PREAMBLE + len(MAGIC))
    if not begins_like_dicom(start):
        if path.suffix.lower() in DICOM_SUFFIXES:
            return DicomKind.UNREADABLE
        return DicomKind.TEXT if start and b"\0" not in start else DicomKind.UNKNOWN
    try:
        dataset = read_dicom(path, only=("SOPClassUID",))
        with decoding():
            sop_class = str(
                dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID", "")
            )
    except DicomError:
        return DicomKind.UNREADABLE
    if sop_class == RTIonPlanStorage:
        return DicomKind.ION_PLAN
    if sop_class in (CTImageStorage, EnhancedCTImageStorage):
        return DicomKind.CT
    return DicomKind.OTHER if sop_class else DicomKind.UNREADABLE

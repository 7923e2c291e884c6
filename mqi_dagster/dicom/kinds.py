"""What a file is: told by its SOP class, never by its name."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, RTIonPlanStorage

from mqi_dagster.dicom.reading import (
    MAGIC,
    PREAMBLE,
    SMALL_BYTES,
    begins_like_dicom,
    decoding,
    read_dicom,
    sop_class_of,
)
from mqi_dagster.errors import DicomError

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
"""Endings of names that promise a DICOM file."""


ZIP_START = b"PK\x03\x04"
_ARCHIVES = (
    ZIP_START,
    b"PK\x07\x08",
    b"\x1f\x8b",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"BZh",
    b"\xfd7zXZ\x00",
)
"""How archives and compressed files begin: zip, gzip, 7z, rar, bzip2, xz."""
_TAR, _TAR_AT = b"ustar", 257
_ZIPPED_DOCUMENTS = (".docx", ".xlsx", ".pptx", ".odt", ".ods", ".odp", ".jar", ".epub")


class DicomKind(StrEnum):
    """Kinds of files that matter to a case."""

    ION_PLAN = "ion plan"
    CT = "CT"
    OTHER = "other DICOM object"
    UNREADABLE = "unreadable"
    """Named or beginning like a DICOM file without a SOP class that can be read, or not given by the disk."""
    ARCHIVE = "archive"
    """One that may hold DICOM files, told by how it begins; a document that is a zip file is none."""
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
        return read_kind(str(path), size, mtime_ns)
    except OSError:  # not remembered: the disk may give it at the next scan
        return DicomKind.UNREADABLE


@lru_cache(maxsize=1 << 14)
def read_kind(name: str, size: int, mtime_ns: int) -> DicomKind:
    """The same, where whoever asks has to know that the disk did not give the file.

    Of a small file all of the header must be whole, of a large one what says its kind.

    Raises:
        OSError: The file is gone, or cannot be read.
    """
    path = Path(name)
    with path.open("rb") as stream:
        start = stream.read(max(PREAMBLE + len(MAGIC), _TAR_AT + len(_TAR)))
    if not begins_like_dicom(start):
        if path.suffix.lower() in DICOM_SUFFIXES:
            return DicomKind.UNREADABLE
        if _is_archive(path, start):
            return DicomKind.ARCHIVE
        return DicomKind.TEXT if start and b"\0" not in start else DicomKind.UNKNOWN
    try:
        sop_class = _sop_class(path) if size <= SMALL_BYTES else sop_class_of(path)
    except DicomError:
        return DicomKind.UNREADABLE
    if sop_class == RTIonPlanStorage:
        return DicomKind.ION_PLAN
    if sop_class in (CTImageStorage, EnhancedCTImageStorage):
        return DicomKind.CT
    return DicomKind.OTHER if sop_class else DicomKind.UNREADABLE


def _is_archive(path: Path, start: bytes) -> bool:
    if start.startswith(ZIP_START) and path.suffix.lower() in _ZIPPED_DOCUMENTS:
        return False
    return start.startswith(_ARCHIVES) or start[_TAR_AT:].startswith(_TAR)


def _sop_class(path: Path) -> str:
    dataset = read_dicom(path, only=("SOPClassUID",))
    with decoding():
        return str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID", ""))

"""What a file of the inbox is to us: told by its SOP class, never by its name."""

from __future__ import annotations

import struct
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

ION_PLAN = "1.2.840.10008.5.1.4.1.1.481.8"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2.1"


class DicomKind(StrEnum):
    """Kinds of DICOM files that matter to a case."""

    ION_PLAN = "ion plan"
    CT = "CT"
    UNREADABLE = "unreadable"
    """Named `*.dcm`, but without a SOP class that can be read."""
    OTHER = "other"


def dicom_kind(path: Path, size: int, mtime_ns: int) -> DicomKind:
    """The kind of a file; asked again only when its size or time changed.

    Args:
        path: The file.
        size: Its size [bytes].
        mtime_ns: Its modification time [ns].
    """
    return _kind(str(path), size, mtime_ns)


@lru_cache(maxsize=1 << 16)
def _kind(name: str, size: int, mtime_ns: int) -> DicomKind:
    path = Path(name)
    named_dicom = path.suffix.lower() == ".dcm"
    otherwise = DicomKind.UNREADABLE if named_dicom else DicomKind.OTHER
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
    except OSError:
        return otherwise
    # Without a preamble, a data set begins with an element of group 0008 (little endian).
    if start[128:132] != b"DICM" and start[:2] != b"\x08\x00":
        return otherwise
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"], force=True)
        sop_class = str(dataset.get("SOPClassUID", ""))
    except (
        InvalidDicomError,
        OSError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        NotImplementedError,
        struct.error,
    ):
        return otherwise
    if sop_class == ION_PLAN:
        return DicomKind.ION_PLAN
    if sop_class in (CT_IMAGE, ENHANCED_CT_IMAGE):
        return DicomKind.CT
    return DicomKind.OTHER if sop_class else otherwise

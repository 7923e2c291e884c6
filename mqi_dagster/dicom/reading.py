"""The one reader of DICOM files: with and without preamble and file meta information, damaged ones named.

Files without either (PS3.10 calls them no DICOM files) are what XiO and Monaco export and what a PACS hands
out as a bare data set; their transfer syntax is told from the first element (PS3.5 A.1, A.2).
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydicom import config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mqi_dagster.errors import DicomError

PREAMBLE = 128
MAGIC = b"DICM"
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""How a file without preamble begins: file meta information, or group 0008 in either byte order."""

_UNDEFINED_LENGTH = 0xFFFFFFFF

DAMAGE = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What pydicom raises on damaged bytes; its OSErrors carry no errno, those of a disk do."""


def begins_like_dicom(start: bytes) -> bool:
    """Whether a file is meant to be DICOM, by its first 132 bytes."""
    return start[PREAMBLE : PREAMBLE + len(MAGIC)] == MAGIC or start[:2] in _FIRST_GROUPS


def read_dicom(source: Path | bytes, *, only: Sequence[str] = ()) -> FileDataset:
    """Read a DICOM file, or no more than some elements of its header.

    Args:
        source: The file, or its content.
        only: Keywords of the elements to read, none of them behind the pixels; everything where empty.

    Returns:
        The data set. Its file meta information always names the transfer syntax. Values are decoded when they
        are asked for: inside `decoding`.

    Raises:
        DicomError: It is no DICOM file, is damaged, or ends within an element.
        OSError: The disk does not give the file.
    """
    if only and isinstance(source, Path):
        with source.open("rb") as stream:
            return _read(stream, only)
    content = source.read_bytes() if isinstance(source, Path) else source
    return _read(io.BytesIO(content), only)


@contextmanager
def decoding() -> Iterator[None]:
    """Reads values without printing them, and names what damaged ones raise.

    Raises:
        DicomError: An element is damaged; with the first cause.
    """
    with config.disable_value_validation():  # its warnings would print the values
        try:
            yield
        except DAMAGE as error:
            _refuse("holds damaged elements", error)


def _read(stream: BinaryIO, only: Sequence[str]) -> FileDataset:
    start = stream.read(PREAMBLE + len(MAGIC))
    if not start:
        raise DicomError("is not a DICOM file: it is empty")
    if not begins_like_dicom(start):
        raise DicomError("is not a DICOM file")
    stream.seek(0)
    with config.disable_value_validation():
        try:
            dataset = dcmread(
                stream, force=True, stop_before_pixels=bool(only), specific_tags=list(only) or None
            )
            _name_transfer_syntax(dataset)
        except DAMAGE as error:
            _refuse("is not a DICOM file, or a damaged one", error)
    for element in dataset.values():  # not decoded, other than what iteration over the data set gives
        if (
            isinstance(element, RawDataElement)
            and element.length != _UNDEFINED_LENGTH
            and len(element.value or b"") < element.length
        ):
            raise DicomError("is cut off: it ends within an element")
    return dataset


def _name_transfer_syntax(dataset: FileDataset) -> None:
    if "TransferSyntaxUID" in dataset.file_meta:
        return
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _refuse(what: str, error: BaseException) -> None:
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    raise DicomError(what, first_cause=cause_of(error)) from None


def cause_of(error: BaseException) -> str:
    """An error's kind and text without quoted values, which may be the patient's."""
    words = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", " ".join(str(error).split()))
    return f"{type(error).__name__}: {words[:200]}" if words else type(error).__name__

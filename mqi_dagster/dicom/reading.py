"""The one reader of DICOM files: with and without preamble and file meta information, damaged ones named.

Files without either (PS3.10 calls them no DICOM files) are what XiO and Monaco export and what a PACS hands
out as a bare data set; their transfer syntax is told from the first element (PS3.5 A.1, A.2).

What comes from outside is bounded before it is read: its size, what it inflates to, and, where it is large,
the memory and time that reading it takes (proof.py).
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from pydicom import config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_partial
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from mqi_dagster.dicom.proof import CPU_SECONDS, MEMORY_BYTES, can_be_read
from mqi_dagster.errors import DicomError, MqiError, Where

PREAMBLE = 128
MAGIC = b"DICM"
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""How a file without preamble begins: file meta information, or group 0008 in either byte order."""

_UNDEFINED_LENGTH = 0xFFFFFFFF

LARGEST_BYTES = 268_435_456
"""Most bytes of a file, and most that it may inflate to: 256 MiB, more than any plan or image in use."""
SMALL_BYTES = 2_200_000
"""A file up to this size is harmless whatever it holds; an image of 1024 by 1024 pixels is one."""
_SOP_CLASS = 0x00080016
_REMEMBERED = 64
_HEAD_BYTES = 1 << 16
"""Where a file says what it is: file meta information and the first elements."""
_LONG_FORMS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""Value representations whose length has four bytes (PS3.5 7.1.2)."""

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


def read_dicom(source: Path | bytes, *, only: Sequence[str] = (), of_ours: bool = False) -> FileDataset:
    """Read a DICOM file, or no more than some elements of its header.

    Args:
        source: The file, or its content.
        only: Keywords of the elements to read, none of them behind the pixels; everything where empty.
        of_ours: Whether this program has written these bytes: no child has to prove them harmless.

    Returns:
        The data set. Its file meta information always names the transfer syntax. Values are decoded when they
        are asked for: inside `decoding`.

    Raises:
        DicomError: It is no DICOM file, is damaged, or ends within an element.
        OSError: The disk does not give the file.
    """
    if isinstance(source, Path):
        _require_size(source.stat().st_size)
        if only:
            with source.open("rb") as stream:
                return _read(stream, only, of_ours)
        source = source.read_bytes()
    _require_size(len(source))
    return _read(io.BytesIO(source), only, of_ours)


def sop_class_of(path: Path) -> str:
    """The SOP Class UID of a DICOM file, from its first 64 KiB alone; empty where it names none.

    Raises:
        DicomError: It is damaged there.
        OSError: The disk does not give the file.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    with config.disable_value_validation():
        try:
            start = _deflated_from(head)
            if start is None:
                dataset = read_partial(io.BytesIO(head), lambda tag, *_: tag > _SOP_CLASS, force=True)
                _require_whole(dataset)
                known = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
            else:
                inflater = zlib.decompressobj(-zlib.MAX_WBITS)
                stream = io.BytesIO(inflater.decompress(head[start:], _HEAD_BYTES))
                if len(head) < _HEAD_BYTES and not (inflater.eof or inflater.unconsumed_tail):
                    raise DicomError("is cut off")
                body = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag > _SOP_CLASS)
                _require_whole(body)
                known = body.get("SOPClassUID")
            return str(known or "")
        except DAMAGE as error:
            _refuse("is not a DICOM file, or a damaged one", error)


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


@contextmanager
def decoding_as(
    kind: type[MqiError], where: Where, what: str = "", *, unread: str | None = "cannot be read"
) -> Iterator[None]:
    """Reads files and their values, and raises what is wrong with them as errors of the caller's kind.

    Args:
        kind: Of the errors.
        where: What is read, for errors.
        what: Stands before the words, with a space behind it.
        unread: The words where the disk does not give it; None where that is no fault of the input.

    Raises:
        MqiError: One of that kind; with the first cause.
        OSError: The system is in trouble, where `unread` has no words for it.
    """
    try:
        with decoding():
            yield
    except OSError as error:
        if unread is None:
            raise
        cause = error.strerror or type(error).__name__
        raise kind(f"{what}{unread}", where=where, first_cause=cause) from None
    except DicomError as error:
        raise kind(f"{what}{error.message}", where=where, first_cause=error.first_cause) from None


def _read(stream: BinaryIO, only: Sequence[str], of_ours: bool) -> FileDataset:
    start = stream.read(PREAMBLE + len(MAGIC))
    if not start:
        raise DicomError("is not a DICOM file: it is empty")
    if not begins_like_dicom(start):
        raise DicomError("is not a DICOM file")
    stream.seek(0)
    with config.disable_value_validation():
        try:
            if not of_ours:
                _require_harmless(stream)
            dataset = dcmread(
                stream, force=True, stop_before_pixels=bool(only), specific_tags=list(only) or None
            )
            _name_transfer_syntax(dataset)
        except DAMAGE as error:
            _refuse("is not a DICOM file, or a damaged one", error)
    _require_whole(dataset)
    return dataset


def _require_whole(dataset: Dataset) -> None:
    for element in dataset.values():  # not decoded, other than what iteration over the data set gives
        if (
            isinstance(element, RawDataElement)
            and element.length != _UNDEFINED_LENGTH
            and len(element.value or b"") < element.length
        ):
            raise DicomError("is cut off: it ends within an element")


def _require_size(size: int) -> None:
    if size > LARGEST_BYTES:
        raise DicomError(f"has {size:,} bytes, more than {LARGEST_BYTES:,} are not read")


def _require_harmless(stream: BinaryIO) -> None:
    """Refuse what would need more memory or time than there is for it; the stream stands where it stood."""
    head = stream.read(_HEAD_BYTES)
    start = _deflated_from(head)
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if start is not None:
        content = stream.read()
        stream.seek(0)
        size = _once("inflated", content[start:], _inflated_size)
        _require_size(size)
    if size > SMALL_BYTES:
        content = stream.read()
        stream.seek(0)
        if not _once("proven", content, can_be_read):
            raise DicomError(
                f"cannot be read within {CPU_SECONDS} s and {MEMORY_BYTES // 1_000_000:,} MB of memory"
            )


def _inflated_size(packed: bytes) -> int:
    """Bytes that a deflated data set inflates to, counted only until they are too many."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size, rest = 0, packed
    while size <= LARGEST_BYTES and not inflater.eof:
        inflated = inflater.decompress(rest, 1 << 20)
        if not inflated and not inflater.unconsumed_tail:
            break
        size += len(inflated)
        rest = inflater.unconsumed_tail
    return size


_known: OrderedDict[tuple[str, bytes], int] = OrderedDict()
"""What was found out of contents of late, by their digests: a process reads the same plan many times."""


def _once(what: str, content: bytes, ask: Callable[[bytes], int]) -> int:
    key = what, hashlib.sha256(content).digest()
    if key not in _known:
        _known[key] = ask(content)
        while len(_known) > _REMEMBERED:
            _known.popitem(last=False)
    return _known[key]


def _deflated_from(head: bytes) -> int | None:
    """Where the deflated data set of a file begins (PS3.5 A.5); None where it is not deflated.

    Raises:
        DicomError: The transfer syntax stands there, but not where it should.
    """
    at = PREAMBLE + len(MAGIC) if head[PREAMBLE : PREAMBLE + len(MAGIC)] == MAGIC else 0
    syntax = b""
    while head[at : at + 2] == b"\x02\x00" and at + 12 <= len(head):
        is_long = head[at + 4 : at + 6] in _LONG_FORMS
        start = at + (12 if is_long else 8)
        (length,) = struct.unpack("<I" if is_long else "<H", head[start - (4 if is_long else 2) : start])
        if head[at + 2 : at + 4] == b"\x10\x00":
            syntax = head[start : start + length].strip(b"\0 ")
        at = start + length
    deflated = DeflatedExplicitVRLittleEndian.encode("ascii")
    if syntax == deflated:
        return at
    if deflated in head[:at]:
        raise DicomError(
            "is not a DICOM file, or a damaged one: its file meta information contradicts itself"
        )
    return None


def _name_transfer_syntax(dataset: FileDataset) -> None:
    if "TransferSyntaxUID" in dataset.file_meta:
        return
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _refuse(what: str, error: BaseException) -> NoReturn:
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    raise DicomError(what, first_cause=cause_of(error)) from None


def cause_of(error: BaseException) -> str:
    """An error's kind and text without quoted values, which may be the patient's."""
    words = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", " ".join(str(error).split()))
    return f"{type(error).__name__}: {words[:200]}" if words else type(error).__name__

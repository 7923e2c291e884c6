"""Where a DICOM object lies in a tree: in a file of its own, or as a member of a zip archive.

Archives are opened with limits, because their directories and sizes are claims of whoever packed them.
"""

from __future__ import annotations

import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pydantic import BaseModel, ConfigDict
from pydicom.dataset import FileDataset

from mqi_dagster.dicom.reading import LARGEST_BYTES, read_dicom
from mqi_dagster.errors import DicomError

MOST_MEMBERS = 200_000
LARGEST_DIRECTORY_BYTES = 64 << 20
LARGEST_RATIO = 200
"""Most that a member, or an archive as a whole, may inflate by: slices of a CT inflate by two or three."""
RATIO_COUNTS_FROM_BYTES = 8 << 20
"""What inflates to less is harmless whatever its ratio."""

_QUOTED = "percent:"
_END, _END_64, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_LONGEST_COMMENT = 65_535

ARCHIVE_DAMAGE = (
    zipfile.BadZipFile,
    RuntimeError,
    NotImplementedError,
    EOFError,
    ValueError,
    LookupError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)
"""What `zipfile` raises on damaged archives, unknown methods and passwords; its OSErrors carry no errno."""


class Place(BaseModel):
    """Where an object lies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """Relative to the root of the tree, with ``/``; a name that is not UTF-8 stands as `path_text` says."""
    member: str = ""
    """The member's name where `path` is an archive; empty otherwise."""

    def __lt__(self, other: Place) -> bool:
        return (self.path, self.member) < (other.path, other.member)


def path_text(relative: bytes) -> str:
    """A path as text that any database and JSON take: itself, or percent-coded where it is not UTF-8."""
    try:
        text = relative.decode("utf-8")
    except UnicodeDecodeError:
        return _QUOTED + quote_from_bytes(relative)
    return _QUOTED + quote_from_bytes(relative) if text.startswith(_QUOTED) else text


def file_at(root: Path, path: str) -> Path:
    """The file below the root that a text of `path_text` names."""
    if path.startswith(_QUOTED):
        path = os.fsdecode(unquote_to_bytes(path.removeprefix(_QUOTED)))
    return root / path


class OpenArchive:
    """An open zip archive within the limits.

    Args:
        archive: As `zipfile` reads it.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        members = [info for info in archive.infolist() if not info.is_dir()]
        times = Counter(info.filename for info in members)
        self.members = [(info, _member_fault(info, times[info.filename])) for info in members]
        """The members without folders, and why one is not to be read (empty: it may be)."""

    def read(self, info: zipfile.ZipInfo, length: int = LARGEST_BYTES + 1) -> bytes:
        """The content of a member, its checksum checked where it is read to its end.

        Args:
            info: One of `members`.
            length: Bytes to read from its beginning.

        Raises:
            DicomError: It is damaged, encrypted, or packed in an unknown way.
            OSError: The disk does not give it.
        """
        try:
            with self._archive.open(info) as member:
                return member.read(length)
        except (*ARCHIVE_DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            cause = type(error).__name__
            raise DicomError("is a damaged or encrypted member of its archive", first_cause=cause) from None


@contextmanager
def opened_archive(file: Path) -> Iterator[OpenArchive]:
    """Open a zip archive.

    Raises:
        DicomError: The archive as a whole is damaged or beyond the limits.
        OSError: The disk does not give it.
    """
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        if _directory_bytes(stream, size) > LARGEST_DIRECTORY_BYTES:
            raise DicomError("is an archive whose directory is beyond all measure")
        try:
            archive = zipfile.ZipFile(stream)
        except ARCHIVE_DAMAGE as error:
            raise DicomError("is a damaged archive", first_cause=type(error).__name__) from None
        with archive:
            infos = archive.infolist()
            if len(infos) > MOST_MEMBERS:
                raise DicomError(f"is an archive of {len(infos):,} members, more than {MOST_MEMBERS:,}")
            total = sum(info.file_size for info in infos)
            if total > max(RATIO_COUNTS_FROM_BYTES, LARGEST_RATIO * size):
                raise DicomError(f"is an archive that inflates more than {LARGEST_RATIO} times")
            yield OpenArchive(archive)


def member_name(info: zipfile.ZipInfo) -> str:
    """The name of a member as text that any database and JSON take."""
    return path_text(info.filename.encode("utf-8", "surrogateescape"))


def read_placed(root: Path, place: Place, *, only: Sequence[str] = ()) -> FileDataset:
    """Read the DICOM object at a place, or no more than some elements of its header.

    Args:
        root: Of the tree.
        place: Where the object lies.
        only: As for `read_dicom`.

    Raises:
        DicomError: It is no DICOM file, is damaged, or its archive is.
        OSError: The disk does not give the file.
    """
    if not place.member:
        return read_dicom(file_at(root, place.path), only=only)
    return read_dicom(bytes_at(root, place), only=only)


def bytes_at(root: Path, place: Place) -> bytes:
    """The whole content of the file at a place.

    Raises:
        DicomError: It is larger than any DICOM file should be, or its archive is damaged.
        OSError: The disk does not give it.
    """
    file = file_at(root, place.path)
    if not place.member:
        with file.open("rb") as stream:
            content = stream.read(LARGEST_BYTES + 1)
    else:
        with opened_archive(file) as archive:
            sound = (info for info, fault in archive.members if not fault)
            info = next((one for one in sound if member_name(one) == place.member), None)
            if info is None:
                raise DicomError("is no longer in its archive")
            content = archive.read(info)
    if len(content) > LARGEST_BYTES:
        raise DicomError(f"is larger than {LARGEST_BYTES:,} bytes")
    return content


def _member_fault(info: zipfile.ZipInfo, times: int) -> str:
    windows, posix = PureWindowsPath(info.filename), PurePosixPath(info.filename)
    if ".." in windows.parts or windows.anchor or posix.is_absolute():
        return "has a name that leads out of its archive"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link"
    if times > 1:
        return f"has a name that {times} members of its archive have"
    if info.file_size > LARGEST_BYTES:
        return f"has {info.file_size:,} bytes, more than {LARGEST_BYTES:,} are not read"
    if info.file_size > RATIO_COUNTS_FROM_BYTES and info.file_size > LARGEST_RATIO * max(
        info.compress_size, 1
    ):
        return f"inflates more than {LARGEST_RATIO} times"
    return ""


def _directory_bytes(stream: BinaryIO, size: int) -> int:
    """Bytes of a zip archive's directory as its end says (APPNOTE.TXT 4.3.14 to 4.3.16); 0 without an end."""
    start = max(0, size - _LONGEST_COMMENT - 22)
    stream.seek(start)
    tail = stream.read(_LONGEST_COMMENT + 22)
    at = tail.rfind(_END)
    if at < 0 or at + 22 > len(tail):
        return 0
    (found,) = struct.unpack_from("<I", tail, at + 12)
    if tail[max(at - 20, 0) : at].startswith(_LOCATOR_64):
        (end_64,) = struct.unpack_from("<Q", tail, at - 12)
        stream.seek(min(end_64, size))
        record = stream.read(56)
        if record.startswith(_END_64) and len(record) == 56:
            (found,) = struct.unpack_from("<Q", record, 40)
    return int(found)

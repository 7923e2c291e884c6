"""Looking at a tree: what lies in it, and what each file is, read by processes that may die.

Links are not followed: what a link inside the tree leads to is met at its own place.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from pydicom.dataset import FileDataset
from pydicom.uid import MediaStorageDirectoryStorage

from mqi_dagster.courses.content import content_sha256
from mqi_dagster.courses.objects import HEADER, DicomObject, Patient, read_object, read_patient
from mqi_dagster.courses.places import Place, file_at, member_name, opened_archive, path_text, read_placed
from mqi_dagster.dicom.kinds import DICOM_SUFFIXES, ZIP_START, DicomKind, read_kind
from mqi_dagster.dicom.reading import MAGIC, PREAMBLE, begins_like_dicom, decoding, read_dicom
from mqi_dagster.errors import DicomError, InfrastructureError, InputsAwayError, Where
from mqi_dagster.tied import tie_to

_START_BYTES = PREAMBLE + len(MAGIC)
_ROOT = Where(kind="DICOM root")
_NO_DICOM, _NAMED_LIKE_ONE = "is not a DICOM file", "is not a DICOM file, but named like one"
_LARGEST_INTEGER = 1 << 63
"""Of SQLite; times beyond it, of the year 2262, are taken modulo."""
_BATCHES_WAITING = 3
"""Batches per process that are handed out ahead."""

_Task = TypeVar("_Task")
_Answer = TypeVar("_Answer")


class EntryKind(StrEnum):
    """What lies at a place of the tree."""

    OBJECT = "DICOM object"
    DICOMDIR = "DICOMDIR"
    STRAY = "stray file"
    DAMAGED = "damaged"
    """It begins like a DICOM file, or is named like one, and cannot be read as one."""
    ARCHIVE = "archive"
    """Its members stand beside it, one by one."""
    UNOPENED_ARCHIVE = "archive that is not opened"
    REFUSED = "refused member"
    LINK = "link"
    UNREAD = "not given by the disk"
    """Asked again at the next scan."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the walk met at a path."""

    path: str
    size: int
    mtime_ns: int
    kind: EntryKind | None = None
    """None for a file that is to be read."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file or a member of an archive is."""

    kind: EntryKind
    reason: str = ""
    """Without paths and values."""
    member: str = ""
    size: int = 0
    stamp: int = 0
    """What changes with the content: modification time [ns] of a file, CRC-32 of a member."""
    patient: Patient | None = None
    found: DicomObject | None = None


@dataclass(frozen=True, slots=True)
class FileReading:
    """What a file was found to hold: one entry, or for an archive itself and each of its members."""

    seen: Seen
    entries: tuple[Entry, ...]


def walk(root: Path, without: Collection[Path] = ()) -> Iterator[Seen]:
    """Everything below a folder that is no folder, and the folders that cannot be listed.

    Args:
        root: The folder.
        without: Files and folders that are not looked at, for example where results are written.

    Raises:
        InputsAwayError: The root itself cannot be listed.
    """
    base, omitted = os.fsencode(root), {os.fsencode(path) for path in without}
    waiting = [base]
    while waiting:
        folder = waiting.pop()
        relative = folder[len(base) :].lstrip(b"/")
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            if not relative:
                raise InputsAwayError("cannot be listed", where=_ROOT, first_cause=reason) from None
            yield Seen(path_text(relative), 0, 0, EntryKind.UNREAD, f"cannot be listed: {reason}")
            continue
        for entry in entries:
            if entry.path in omitted:
                continue
            path = path_text(entry.path[len(base) :].lstrip(b"/"))
            try:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    continue
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError as error:
                yield Seen(path, 0, 0, EntryKind.UNREAD, error.strerror or type(error).__name__)
                continue
            mtime_ns = status.st_mtime_ns % _LARGEST_INTEGER
            if entry.is_symlink():
                yield Seen(path, 0, mtime_ns, EntryKind.LINK, "is a link, and links are not followed")
            elif entry.is_file(follow_symlinks=False):
                yield Seen(path, status.st_size, mtime_ns)
            else:
                yield Seen(path, 0, mtime_ns, EntryKind.STRAY, "is no regular file")


def read_files(root: Path, files: Sequence[Seen]) -> list[FileReading]:
    """What files are, by their headers alone; a bad one is an entry with its reason."""
    return [_read_file(root, seen) for seen in files]


def content_digests(root: Path, places: Sequence[Place]) -> list[tuple[Place, str | None]]:
    """SHA-256 of the contents of objects; empty for a damaged one, None where the disk does not give it."""
    return [(place, _content_digest(root, place)) for place in places]


def not_opened(seen: Seen, kind: EntryKind) -> FileReading:
    """What the walk alone says of a link, or of what cannot be listed."""
    return _one(seen, kind, seen.reason)


def lost_file(seen: Seen) -> FileReading:
    """What is said of a file whose reader died, twice."""
    return _one(seen, EntryKind.UNREAD, "the process that read it was killed")


def lost_digest(place: Place) -> tuple[Place, str | None]:
    """The same of an object that was to be compared."""
    return place, None


def in_processes(
    work: Callable[[Path, Sequence[_Task]], list[_Answer]],
    root: Path,
    batches: Iterator[list[_Task]],
    workers: int,
    lost: Callable[[_Task], _Answer],
) -> Iterator[list[_Answer]]:
    """The answers to batches of tasks, from several processes that end with this one.

    A process that dies takes no task with it: those that were handed out are repeated one by one.

    Args:
        work: A function of a module, which answers the tasks of a batch.
        root: Its first argument.
        batches: Tasks.
        workers: Processes; with 1 all is done in this one.
        lost: The answer to a task at which a process of its own died.

    Raises:
        InfrastructureError: Processes die without any task.
    """
    if workers == 1:
        for batch in batches:
            yield work(root, batch)
        return
    pool = _pool(workers)
    running: deque[tuple[list[_Task], Future[list[_Answer]]]] = deque()
    try:
        while True:
            while len(running) < _BATCHES_WAITING * workers and (more := next(batches, None)) is not None:
                running.append((more, _submitted(pool, work, root, more)))
            if not running:
                return
            first, answer = running.popleft()
            if not isinstance(answer.exception(), BrokenProcessPool):
                yield answer.result()
                continue
            for batch, future in [(first, answer), *running]:
                if isinstance(future.exception(), BrokenProcessPool):
                    yield from _one_by_one(work, root, batch, lost)
                else:
                    yield future.result()
            running.clear()
            pool.shutdown(wait=True)
            pool = _pool(workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_by_one(
    work: Callable[[Path, Sequence[_Task]], list[_Answer]],
    root: Path,
    tasks: Sequence[_Task],
    lost: Callable[[_Task], _Answer],
) -> Iterator[list[_Answer]]:
    pool = _pool(1)
    try:
        for task in tasks:
            answer = _submitted(pool, work, root, [task])
            if isinstance(answer.exception(), BrokenProcessPool):
                pool.shutdown(wait=True)
                pool = _pool(1)
                if isinstance(_submitted(pool, work, root, []).exception(), BrokenProcessPool):
                    raise InfrastructureError("no process lives long enough to read a file")
                yield [lost(task)]
            else:
                yield answer.result()
    finally:
        pool.shutdown(wait=True)


def _submitted(
    pool: ProcessPoolExecutor,
    work: Callable[[Path, Sequence[_Task]], list[_Answer]],
    root: Path,
    batch: list[_Task],
) -> Future[list[_Answer]]:
    try:
        return pool.submit(work, root, batch)
    except BrokenProcessPool as error:
        broken: Future[list[_Answer]] = Future()
        broken.set_exception(error)
        return broken


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
    )


def _begin(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not tie_to(parent):
        os._exit(1)


def _read_file(root: Path, seen: Seen) -> FileReading:
    file = file_at(root, seen.path)
    try:
        with file.open("rb") as stream:
            start = stream.read(_START_BYTES)
        if begins_like_dicom(start):
            return FileReading(seen, (_object(read_dicom(file, only=HEADER), "", seen.size, seen.mtime_ns),))
        kind = read_kind(str(file), seen.size, seen.mtime_ns)
        if kind is DicomKind.ARCHIVE and start.startswith(ZIP_START):
            members = _members(file)
            archive = _one(seen, EntryKind.ARCHIVE, "is an archive; its members stand one by one")
            return FileReading(seen, (*archive.entries, *members))
    except DicomError as error:
        return _one(seen, EntryKind.DAMAGED, str(error))
    except OSError as error:
        return _one(seen, EntryKind.UNREAD, error.strerror or type(error).__name__)
    if kind is DicomKind.ARCHIVE:
        return _one(seen, EntryKind.UNOPENED_ARCHIVE, "is an archive other than zip: unpack it")
    if kind is DicomKind.UNREADABLE:
        return _one(seen, EntryKind.DAMAGED, _NAMED_LIKE_ONE)
    return _one(seen, EntryKind.STRAY, _NO_DICOM)


def _one(seen: Seen, kind: EntryKind, reason: str) -> FileReading:
    return FileReading(seen, (Entry(kind, reason, size=seen.size, stamp=seen.mtime_ns),))


def _object(dataset: FileDataset, member: str, size: int, stamp: int) -> Entry:
    with decoding():
        is_directory = dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage
    if is_directory:
        reason = "is a DICOMDIR; what it lists is met at its own place"
        return Entry(EntryKind.DICOMDIR, reason, member, size, stamp)
    patient, found = read_patient(dataset), read_object(dataset)
    return Entry(EntryKind.OBJECT, "", member, size, stamp, patient, found)


def _members(file: Path) -> tuple[Entry, ...]:
    entries: dict[str, Entry] = {}
    with opened_archive(file) as archive:
        for info, fault in archive.members:
            name = member_name(info)
            found = Entry(EntryKind.STRAY, _NO_DICOM, name, info.file_size, info.CRC)
            try:
                start = b"" if fault else archive.read(info, _START_BYTES)
                if fault:
                    found = replace(found, kind=EntryKind.REFUSED, reason=fault)
                elif begins_like_dicom(start):
                    dataset = read_dicom(archive.read(info), only=HEADER)
                    found = _object(dataset, name, info.file_size, info.CRC)
                elif start.startswith(ZIP_START):
                    reason = "is an archive within an archive: unpack it"
                    found = replace(found, kind=EntryKind.UNOPENED_ARCHIVE, reason=reason)
                elif name.lower().endswith(DICOM_SUFFIXES):
                    found = replace(found, kind=EntryKind.DAMAGED, reason=_NAMED_LIKE_ONE)
            except DicomError as error:
                found = replace(found, kind=EntryKind.DAMAGED, reason=str(error))
            entries[name] = found
    return tuple(entries.values())


def _content_digest(root: Path, place: Place) -> str | None:
    try:
        return content_sha256(read_placed(root, place))
    except DicomError:
        return ""
    except OSError:
        return None

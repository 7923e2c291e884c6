"""The index of a tree of DICOM files: what each file is and its header, in one SQLite file.

A file is opened again only when its size or modification time has changed; what was read is committed batch
by batch, so that a scan that was killed goes on where it stood. The index holds patients' identities and real
paths: it is a cache of the tree with mode 0600, and may be removed at any time.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mqi_dagster.courses.objects import OBJECT, DicomObject, Patient
from mqi_dagster.courses.places import Place
from mqi_dagster.courses.scanning import (
    Entry,
    EntryKind,
    FileReading,
    Seen,
    content_digests,
    in_processes,
    lost_digest,
    lost_file,
    not_opened,
    read_files,
    walk,
)
from mqi_dagster.errors import InfrastructureError, InputsAwayError, StoreError, Where

SCHEMA_VERSION = 1
"""Rises with every change of the tables, and of what is read from a header: an older index is made anew."""
_APPLICATION_ID = 0x4D514943
_BATCH, _BATCH_BYTES = 64, 256 << 20
"""Most files, and most bytes of more than one file, that are read between two commits."""
_FEW = 512
"""Files that are read before another process has started."""
_LOCKED_SECONDS = 60.0
_WHERE = Where(kind="DICOM index")
_EMPTY = (
    "is empty and was not: a share that is not mounted looks like this;"
    " where all was taken away on purpose, remove the index"
)

_SCHEMA = f"""
BEGIN EXCLUSIVE;
DROP TABLE IF EXISTS entry;
DROP TABLE IF EXISTS file;
PRAGMA application_id = {_APPLICATION_ID};
CREATE TABLE file (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    asked_again INTEGER NOT NULL
);
CREATE TABLE entry (
    file INTEGER NOT NULL REFERENCES file (id) ON DELETE CASCADE,
    member TEXT NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT NOT NULL,
    size INTEGER NOT NULL,
    stamp INTEGER NOT NULL,
    sop_instance_uid TEXT,
    patient_id TEXT,
    issuer TEXT,
    name TEXT,
    birth_date TEXT,
    object TEXT,
    content_sha256 TEXT,
    PRIMARY KEY (file, member)
);
CREATE INDEX entry_by_uid ON entry (sop_instance_uid);
CREATE INDEX entry_by_patient ON entry (patient_id, issuer);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
_TEMPORARY = """
DROP TABLE IF EXISTS temp.seen;
DROP TABLE IF EXISTS temp.unlisted;
DROP TABLE IF EXISTS temp.pending;
CREATE TEMP TABLE seen (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE unlisted (path TEXT);
CREATE TEMP TABLE pending (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER) WITHOUT ROWID;
"""
_KNOWN = "SELECT 1 FROM file WHERE path = ? AND size = ? AND mtime_ns = ? AND NOT asked_again"
_ISSUERS = "SELECT count(DISTINCT issuer) FROM entry WHERE patient_id = {}"
_SHARED = (
    "SELECT sop_instance_uid FROM entry WHERE sop_instance_uid IS NOT NULL"
    " GROUP BY sop_instance_uid HAVING count(*) > 1"
)


class ScanStage(StrEnum):
    """What a scan does, in this order."""

    HEADERS = "headers"
    """Reading the headers of files that are new or have changed."""
    COPIES = "copies"
    """Reading whole what shares its SOP Instance UID with others."""


@dataclass(frozen=True, slots=True)
class ScanProgress:
    """How far a scan is in one of its stages."""

    stage: ScanStage
    done: int
    """Of `total`, what has been read and committed."""
    total: int
    elapsed_s: float
    eta_s: float | None
    """Seconds that the rest of the stage will take at the pace so far; None before anything is done."""


@dataclass(frozen=True, slots=True)
class ScanCounts:
    """What a scan did."""

    files: int
    """Files in the tree."""
    opened: int
    """Files that were opened to read their header: those that were new or had changed."""
    compared: int
    """Objects that were read whole, because another one has their SOP Instance UID."""
    removed: int
    """Files that left the index because they left the tree."""


class Copies(StrEnum):
    """What an object is beside others of its SOP Instance UID."""

    NONE = "none"
    KEPT = "kept"
    """All hold the same, and this is the one that is used: the first by its place."""
    EQUAL = "equal"
    """All hold the same, and another one is used."""
    DIFFERENT = "different"
    """They do not hold the same, or cannot be compared: none is used."""


@dataclass(frozen=True, slots=True)
class IndexedObject:
    """A DICOM object of the tree."""

    place: Place
    size: int
    stamp: int
    """What changes with the content: modification time [ns] of a file, CRC-32 of a member of an archive."""
    patient: Patient
    found: DicomObject
    copies: Copies


@dataclass(frozen=True, slots=True)
class OtherEntry:
    """Something in the tree that is no DICOM object, or cannot be read as one."""

    place: Place
    kind: EntryKind
    reason: str


@dataclass(frozen=True, slots=True)
class PatientKey:
    """What tells patients apart; a name does not."""

    patient_id: str
    issuer: str | None
    """None where no object of this ID names one, and for those that name none beside several issuers."""


class DicomIndex:
    """The index of one tree.

    Args:
        path: The SQLite file; its folder exists.
        root: The tree, resolved.

    Raises:
        StoreError: Something else stands at the path, or it is damaged.
        InfrastructureError: SQLite cannot read or write it now.
    """

    def __init__(self, path: Path, root: Path) -> None:
        self._path, self.root = path, root
        with _naming_trouble():
            self._database = _opened(path)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def scan(
        self,
        *,
        workers: int = 1,
        without: Collection[Path] = (),
        progress: Callable[[ScanProgress], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> ScanCounts:
        """Bring the index up to date.

        Args:
            workers: Processes that read, where there is much to read; 1 reads in this one.
            without: Files and folders that are not looked at. The index itself never is.
            progress: Is told after every batch, once that is committed.
            clock: Seconds that never go back.

        Raises:
            InputsAwayError: The root cannot be listed, or is empty and was not; the index stays as it was.
            StoreError: The index is damaged.
            InfrastructureError: SQLite cannot read or write it now, for example on a full disk.
        """
        own = [Path(f"{self._path}{suffix}") for suffix in ("", "-wal", "-shm", "-journal")]
        with _naming_trouble():
            files = self._look(walk(self.root, [*own, *without]))
            if not files and self._database.execute("SELECT 1 FROM file LIMIT 1").fetchone():
                raise InputsAwayError(_EMPTY, where=Where(kind="DICOM root"))
            removed = self._forget_removed()
            (total,) = self._database.execute("SELECT count(*) FROM pending").fetchone()
            pace = _Pace(ScanStage.HEADERS, total, progress, clock)
            readers = workers if total > _FEW else 1
            for readings in in_processes(read_files, self.root, self._pending(), readers, lost_file):
                self._commit(readings)
                pace.add(len(readings))
            places = self._uncompared()
            pace = _Pace(ScanStage.COPIES, len(places), progress, clock)
            readers = workers if len(places) > _FEW else 1
            batches = (places[at : at + _BATCH] for at in range(0, len(places), _BATCH))
            for digests in in_processes(content_digests, self.root, batches, readers, lost_digest):
                self._commit_digests(digests)
                pace.add(len(digests))
            return ScanCounts(files, total, len(places), removed)

    def patients(self) -> list[PatientKey]:
        """Every patient of the tree, in order."""
        rows = self._database.execute(
            "SELECT DISTINCT patient_id, issuer FROM entry AS one WHERE patient_id IS NOT NULL"
            f" AND (issuer IS NOT NULL OR ({_ISSUERS.format('one.patient_id')}) != 1) ORDER BY 1, 2"
        )
        return [PatientKey(patient_id, issuer) for patient_id, issuer in rows]

    def names_of(self, patient: PatientKey) -> list[str]:
        """Every way in which the objects of a patient write the name, in order."""
        condition, values = _whose(patient)
        rows = self._database.execute(
            f"SELECT DISTINCT name FROM entry WHERE {condition} AND name IS NOT NULL ORDER BY 1", values
        )
        return [name for (name,) in rows]

    def objects(self, patient: PatientKey | None) -> list[IndexedObject]:
        """All objects of a patient in the order of their places; None: those that name no patient.

        Copies are told apart in the whole tree, whatever patient they name.
        """
        copies = self._copies(patient)
        found = []
        for path, member, size, stamp, patient_id, issuer, name, birth_date, text in self._rows(patient):
            place = Place(path=path, member=member)
            person = Patient(patient_id=patient_id, issuer=issuer, name=name, birth_date=birth_date)
            one = OBJECT.validate_json(text)
            found.append(IndexedObject(place, size, stamp, person, one, copies.get(place, Copies.NONE)))
        return found

    def state(self, patient: PatientKey) -> str:
        """What changes with anything that `objects` gives of a patient, cheaper than grouping them."""
        digest = hashlib.sha256()
        for row in self._rows(patient):
            digest.update(repr(row).encode("utf-8", "surrogateescape"))
        for place, copies in sorted(self._copies(patient).items()):
            digest.update(repr((place.path, place.member, copies.value)).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _rows(self, patient: PatientKey | None) -> sqlite3.Cursor:
        whose, values = _whose(patient)
        return self._database.execute(
            "SELECT path, member, entry.size, stamp, patient_id, issuer, name, birth_date, object"
            f" FROM entry JOIN file ON file.id = entry.file WHERE object IS NOT NULL AND {whose}"
            " ORDER BY path, member",
            values,
        )

    def other_entries(self) -> Iterator[OtherEntry]:
        """Everything else in the tree, archives included, in the order of places."""
        rows = self._database.execute(
            "SELECT path, member, kind, reason FROM entry JOIN file ON file.id = entry.file"
            " WHERE object IS NULL ORDER BY path, member"
        )
        for path, member, kind, reason in rows:
            yield OtherEntry(Place(path=path, member=member), EntryKind(kind), reason)

    def _look(self, met: Iterator[Seen]) -> int:
        """Fill `seen` and `pending`: what is in the tree, and what of it has to be read."""
        database, files = self._database, 0
        database.executescript(_TEMPORARY)
        told: list[FileReading] = []
        with database:
            for one in met:
                files += 1
                database.execute("INSERT OR REPLACE INTO seen VALUES (?)", (one.path,))
                if one.kind is EntryKind.UNREAD:
                    database.execute("INSERT INTO unlisted VALUES (?)", (f"{one.path}/",))
                if one.kind is not None:
                    told.append(not_opened(one, one.kind))
                    continue
                row = one.path, one.size, one.mtime_ns
                if database.execute(_KNOWN, row).fetchone() is None:
                    database.execute("INSERT OR REPLACE INTO pending VALUES (?, ?, ?)", row)
        self._commit(told)
        return files

    def _forget_removed(self) -> int:
        """What lies below a folder that cannot be listed now may still be there."""
        with self._database as database:
            return database.execute(
                "DELETE FROM file WHERE path NOT IN (SELECT path FROM seen) AND NOT EXISTS"
                " (SELECT 1 FROM unlisted WHERE substr(file.path, 1, length(unlisted.path)) = unlisted.path)"
            ).rowcount

    def _pending(self) -> Iterator[list[Seen]]:
        last = ""
        while rows := self._database.execute(
            "SELECT path, size, mtime_ns FROM pending WHERE path > ? ORDER BY path LIMIT ?", (last, _BATCH)
        ).fetchall():
            batch: list[Seen] = []
            for row in rows:
                if batch and sum(seen.size for seen in batch) + row[1] > _BATCH_BYTES:
                    break
                batch.append(Seen(*row))
            last = batch[-1].path
            yield batch

    def _commit(self, readings: Sequence[FileReading]) -> None:
        with self._database as database:
            for reading in readings:
                seen = reading.seen
                again = any(entry.kind is EntryKind.UNREAD for entry in reading.entries)
                database.execute("DELETE FROM file WHERE path = ?", (seen.path,))
                file = database.execute(
                    "INSERT INTO file (path, size, mtime_ns, asked_again) VALUES (?, ?, ?, ?)",
                    (seen.path, seen.size, seen.mtime_ns, again),
                ).lastrowid
                database.executemany(
                    f"INSERT INTO entry VALUES ({', '.join('?' * 12)}, NULL)",
                    [_row(file, entry) for entry in reading.entries],
                )

    def _uncompared(self) -> list[Place]:
        rows = self._database.execute(
            "SELECT path, member FROM entry JOIN file ON file.id = entry.file"
            f" WHERE content_sha256 IS NULL AND sop_instance_uid IN ({_SHARED}) ORDER BY path, member"
        )
        return [Place(path=path, member=member) for path, member in rows]

    def _commit_digests(self, digests: Sequence[tuple[Place, str | None]]) -> None:
        with self._database as database:
            database.executemany(
                "UPDATE entry SET content_sha256 = ? WHERE member = ?"
                " AND file = (SELECT id FROM file WHERE path = ?)",
                [(digest, place.member, place.path) for place, digest in digests],
            )

    def _copies(self, patient: PatientKey | None) -> dict[Place, Copies]:
        """What each object of a patient that shares its SOP Instance UID is beside the others."""
        whose, values = _whose(patient)
        of_uid: dict[str, dict[Place, str | None]] = {}
        for uid, path, member, digest in self._database.execute(
            "SELECT sop_instance_uid, path, member, content_sha256 FROM entry"
            " JOIN file ON file.id = entry.file WHERE sop_instance_uid IN"
            f" (SELECT sop_instance_uid FROM entry WHERE {whose})",
            values,
        ):
            of_uid.setdefault(uid, {})[Place(path=path, member=member)] = digest or None
        copies = {}
        for digests in of_uid.values():
            if len(digests) == 1:
                continue
            kept, alike = min(digests), len(set(digests.values())) == 1 and None not in digests.values()
            for place in digests:
                known = Copies.KEPT if place == kept else Copies.EQUAL
                copies[place] = known if alike else Copies.DIFFERENT
        return copies


class _Pace:
    """Tells the progress of a stage."""

    def __init__(
        self,
        stage: ScanStage,
        total: int,
        progress: Callable[[ScanProgress], None],
        clock: Callable[[], float],
    ) -> None:
        self._stage, self._total, self._progress, self._clock = stage, total, progress, clock
        self._done, self._began = 0, clock()
        if total:
            progress(ScanProgress(stage, 0, total, 0.0, None))

    def add(self, count: int) -> None:
        """Count what has been committed."""
        self._done += count
        elapsed = self._clock() - self._began
        rest = elapsed / self._done * (self._total - self._done)
        self._progress(ScanProgress(self._stage, self._done, self._total, elapsed, rest))


def _whose(patient: PatientKey | None) -> tuple[str, tuple[str | None, ...]]:
    """The objects of a patient; where an ID has one issuer, those that name none are its own."""
    if patient is None:
        return "patient_id IS NULL", ()
    condition = f"patient_id = ? AND (issuer IS ? OR issuer IS NULL AND ({_ISSUERS.format('?')}) = 1)"
    return condition, (patient.patient_id, patient.issuer, patient.patient_id)


def _row(file: int | None, entry: Entry) -> tuple[str | int | None, ...]:
    patient, found = entry.patient, entry.found
    return (
        file,
        entry.member,
        entry.kind,
        entry.reason,
        entry.size,
        entry.stamp,
        None if found is None else found.sop_instance_uid,
        None if patient is None else patient.patient_id,
        None if patient is None else patient.issuer,
        None if patient is None else patient.name,
        None if patient is None else patient.birth_date,
        None if found is None else found.model_dump_json(),
    )


@contextmanager
def _naming_trouble() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise InfrastructureError(
            "the index cannot be read or written now", where=_WHERE, first_cause=str(error)
        ) from error
    except sqlite3.DatabaseError as error:
        raise StoreError(
            "the index is damaged: remove it and scan again", where=_WHERE, first_cause=str(error)
        ) from error


def _opened(path: Path) -> sqlite3.Connection:
    # The files that SQLite writes beside it get its mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(path, timeout=_LOCKED_SECONDS)
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    if tables and application != _APPLICATION_ID:
        database.close()
        raise StoreError("another database stands where the index should", where=_WHERE)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("PRAGMA foreign_keys = ON")
    if database.execute("PRAGMA user_version").fetchone() != (SCHEMA_VERSION,):
        database.executescript(_SCHEMA)
    return database

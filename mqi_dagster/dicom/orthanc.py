"""An Orthanc as a source: its changes are followed, and every object that it takes is copied into a folder.

A copy is named by a hash of Orthanc's own identifier, which tells the objects of two patients apart that bear
one SOP Instance UID, and names nobody. What Orthanc deletes stays here.
"""

from __future__ import annotations

import hashlib
import http
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mqi_dagster.dicom.pacs_http import PacsHttp, RefusedError, UnusableError
from mqi_dagster.dicom.reading import LARGEST_BYTES
from mqi_dagster.errors import InfrastructureError, InputsAwayError, Where
from mqi_dagster.files import write_whole
from mqi_dagster.settings.radiotherapy import OrthancSource

FOLDER = "orthanc"
"""Below the tree of DICOM files."""
_PAGE = 200
_FAILED_AT_MOST = 1000
"""Of more objects that cannot be copied each is not at fault alone: the look ends there."""
_LARGEST_ANSWER = 16 << 20
_WHERE = Where(kind="Orthanc")


class _Answer(BaseModel):
    """What Orthanc answers; its further keys say nothing to us."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Change(_Answer):
    ChangeType: str
    ID: str
    Seq: int


class _Changes(_Answer):
    Changes: tuple[_Change, ...]
    Done: bool
    Last: int


class _Statistics(_Answer):
    CountInstances: int


class Followed(BaseModel):
    """How far the changes of one Orthanc were followed: kept whole in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    last: int | None = None
    """Number of the newest change that was followed; None before all of its objects were listed once."""
    comparing_from: int | None = None
    """While all of its objects are compared: the newest change when that began."""
    compared: str = ""
    """The last identifier, in their order, up to which that was done."""
    failed: tuple[str, ...] = ()
    """Objects that could not be copied: tried again at every look, and keep no other waiting."""


@dataclass(frozen=True, slots=True)
class OrthancCounts:
    """What one look at an Orthanc has brought."""

    copied: int
    only_here: int
    """Copies of objects that it has deleted since; 0 while there is more to copy."""
    failed: int = 0
    """Objects that could not be copied, and are tried again at the next look."""
    why: str = ""
    """Of the first of them."""


class Orthanc:
    """The REST API of an Orthanc.

    Args:
        source: Where it is, and who asks.
        section: Of the settings, where it stands.

    Raises:
        ConfigurationError: Its password cannot be read.
    """

    def __init__(self, source: OrthancSource, section: str = "radiotherapy.orthanc") -> None:
        self.url = source.url.rstrip("/")
        self.http = PacsHttp(source, "Orthanc", section)

    def version(self) -> str:
        """Its version.

        Raises:
            UnreachableError: It does not answer.
            ConfigurationError: It lets this user not in.
            InfrastructureError: What answers is no Orthanc.
        """
        try:
            return str(json.loads(self._get("/system"))["Version"])
        except (ValueError, KeyError, TypeError):
            raise InfrastructureError("what answers is no Orthanc", where=_WHERE) from None

    def newest_change(self) -> int:
        """Number of its newest change; raises what `version` does."""
        return self._changes("/changes?last").Last

    def changes(self, since: int) -> _Changes:
        """A page of its changes after a number; raises what `version` does."""
        return self._changes(f"/changes?since={since}&limit={_PAGE}")

    def instances(self) -> Iterator[str]:
        """Identifiers of all its objects; raises what `version` does."""
        since = 0
        while page := self._identifiers(f"/instances?since={since}&limit={_PAGE}"):
            yield from page
            since += len(page)

    def count(self) -> int:
        """How many objects it holds; raises what `version` does."""
        try:
            return _Statistics.model_validate_json(self._get("/statistics")).CountInstances
        except ValidationError:
            raise InfrastructureError("its statistics cannot be understood", where=_WHERE) from None

    def md5(self, identifier: str) -> str | None:
        """MD5 (hex) of the file of an object; None where it does not hold it, or was told to keep no MD5.

        Raises what `version` does.
        """
        found = self._find(f"/instances/{_checked(identifier)}/attachments/dicom/md5")
        return None if found is None else found.decode("ascii", "replace").strip().lower() or None

    def size(self, identifier: str) -> int | None:
        """Bytes of the file of an object, None where it does not hold it; raises what `version` does."""
        found = self._find(f"/instances/{_checked(identifier)}/attachments/dicom/size")
        text = "" if found is None else found.decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else None

    def file(self, identifier: str) -> bytes | None:
        """The file of an object, None where it does not hold it (any more).

        Raises what `version` does, and InfrastructureError where the file is larger than any DICOM file.
        """
        return self._find(f"/instances/{_checked(identifier)}/file", LARGEST_BYTES)

    def _changes(self, path: str) -> _Changes:
        try:
            return _Changes.model_validate_json(self._get(path))
        except ValidationError:
            raise InfrastructureError("its changes cannot be understood", where=_WHERE) from None

    def _identifiers(self, path: str) -> list[str]:
        try:
            return [_checked(str(one)) for one in json.loads(self._get(path))]
        except (ValueError, TypeError):
            raise InfrastructureError("its list of objects cannot be understood", where=_WHERE) from None

    def _find(self, path: str, largest: int = _LARGEST_ANSWER) -> bytes | None:
        try:
            return self._get(path, largest)
        except _AbsentError:
            return None

    def _get(self, path: str, largest: int = _LARGEST_ANSWER) -> bytes:
        answer = self.http.send("GET", path, largest=largest)
        if answer.status_code == http.HTTPStatus.NOT_FOUND:
            raise _AbsentError("it does not hold that (any more)", where=_WHERE)
        if not answer.is_success:
            raise RefusedError(f"it answers HTTP {answer.status_code}", where=_WHERE)
        return answer.content


class _AbsentError(InfrastructureError):
    """Orthanc does not hold what was asked for."""


def _checked(identifier: str) -> str:
    """An identifier of Orthanc's, five groups of hexadecimal digits: nothing else comes into an address."""
    if len(identifier) > 100 or not identifier.replace("-", "").isalnum() or not identifier.isascii():
        raise InfrastructureError("it names an object in a way that is none of Orthanc's", where=_WHERE)
    return identifier


class _Tree:
    """Where copies are written: only into the folder that was there at first, never below a mount point."""

    def __init__(self, root: Path) -> None:
        self._root, self.folder = root, root / FOLDER
        self._known = self._identity()

    def _identity(self) -> tuple[int, int]:
        try:
            found = self._root.stat()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputsAwayError("the tree is away", where=_WHERE, first_cause=reason) from None
        return found.st_dev, found.st_ino

    def place(self, identifier: str) -> Path:
        """Where the copy of an object stands."""
        return self.folder / f"{hashlib.sha256(_checked(identifier).encode('ascii')).hexdigest()}.dcm"

    def copies(self) -> int:
        """How many there are."""
        return sum(1 for _ in self.folder.glob("*.dcm")) if self.folder.is_dir() else 0

    def write(self, place: Path, content: bytes) -> None:
        """Write a copy whole."""
        if self._identity() != self._known:
            raise InputsAwayError("the tree is away: another folder is in its place", where=_WHERE)
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            write_whole(place, content)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InfrastructureError(
                f"its objects cannot be written into the tree: {reason}", where=_WHERE
            ) from None


def read_followed(path: Path, url: str) -> Followed:
    """How far the changes of an Orthanc were followed; from the beginning for another one."""
    try:
        found = Followed.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        # Nothing is lost: what is there already is only compared.
        return Followed(url=url)
    return found if found.url == url else Followed(url=url)


def follow(
    orthanc: Orthanc,
    root: Path,
    record: Path,
    *,
    goes_on: Callable[[], bool] = lambda: True,
) -> OrthancCounts:
    """Copy what an Orthanc has taken since the last time; each page of changes is written down when done.

    Args:
        orthanc: The source.
        root: The tree, below which its copies lie in the folder `FOLDER`.
        record: Where it is kept how far its changes were followed.
        goes_on: Asked between two objects; False ends this look, and the next one goes on there.

    Raises:
        UnreachableError: It does not answer.
        ConfigurationError: It lets this user not in.
        InputsAwayError: The tree is not there, or another folder is in its place.
        InfrastructureError: It answers in a way that is none of Orthanc's, the disk takes no copy, or more
            objects than `_FAILED_AT_MOST` cannot be copied.
    """
    followed, tree = read_followed(record, orthanc.url), _Tree(root)
    if not tree.folder.is_dir():
        # Its copies are gone, or none was ever made.
        followed = Followed(url=orthanc.url)
    newest = orthanc.newest_change()
    if followed.last is not None and newest < followed.last:
        # Its changes may have been removed, or its database made anew.
        followed = Followed(url=orthanc.url)
    copying = _Copying(orthanc, tree, record, followed.failed)
    copying.again()
    if followed.last is None:
        followed = _compared_whole(copying, followed, newest, goes_on)
    while followed.last is not None:
        page = orthanc.changes(followed.last)
        for change in page.Changes:
            if not goes_on():
                return copying.counts(0)
            if change.ChangeType == "NewInstance":
                copying.copy(change.ID)
        last = max([followed.last, *(change.Seq for change in page.Changes)])
        if last != followed.last or set(followed.failed) != set(copying.failed):
            followed = copying.write(followed.model_copy(update={"last": last}))
        if page.Done or not page.Changes:
            # Of what it deletes no change tells.
            return copying.counts(max(0, tree.copies() - orthanc.count()))
    return copying.counts(0)


class _Copying:
    """Copying one object after another; one that cannot be copied keeps no other waiting."""

    def __init__(self, orthanc: Orthanc, tree: _Tree, record: Path, failed: Iterable[str]) -> None:
        self.orthanc, self._tree, self._record = orthanc, tree, record
        self.failed = dict[str, str]()
        """Why, by identifier."""
        self._left = tuple(failed)
        self._copied = 0

    def again(self) -> None:
        """Try those again that could not be copied at the last look."""
        for identifier in self._left:
            self.copy(identifier)

    def copy(self, identifier: str) -> None:
        """Copy one object where it is not there as Orthanc has it."""
        try:
            self._copied += _copied(self.orthanc, identifier, self._tree)
            self.failed.pop(identifier, None)
        except (RefusedError, UnusableError) as error:
            self.failed[identifier] = error.message
            if len(self.failed) > _FAILED_AT_MOST:
                raise

    def write(self, followed: Followed) -> Followed:
        """Write down how far that came."""
        written = followed.model_copy(update={"failed": tuple(sorted(self.failed))})
        write_whole(self._record, written.model_dump_json(indent=1).encode())
        return written

    def counts(self, only_here: int) -> OrthancCounts:
        """What the look has brought."""
        why = next(iter(self.failed.values()), "")
        return OrthancCounts(self._copied, only_here, len(self.failed), why)


def _compared_whole(
    copying: _Copying, followed: Followed, newest: int, goes_on: Callable[[], bool]
) -> Followed:
    """Compare everything that an Orthanc holds; how far that came.

    In the order of identifiers: what comes or goes meanwhile moves no other, and what comes is a change.
    """
    orthanc = copying.orthanc
    if followed.comparing_from is None or newest < followed.comparing_from:
        followed = Followed(url=orthanc.url, comparing_from=newest)
    left = sorted(identifier for identifier in orthanc.instances() if identifier > followed.compared)
    for at, identifier in enumerate(left):
        if not goes_on():
            before = left[at - 1] if at else followed.compared
            return copying.write(followed.model_copy(update={"compared": before}))
        copying.copy(identifier)
        if at % _PAGE == _PAGE - 1:
            followed = copying.write(followed.model_copy(update={"compared": identifier}))
    return copying.write(Followed(url=orthanc.url, last=followed.comparing_from))


def _copied(orthanc: Orthanc, identifier: str, tree: _Tree) -> bool:
    """Copy one object where it is not there as Orthanc has it; whether it was copied.

    That the bytes are Orthanc's is proven by its MD5, else by its size; whether they are a sound DICOM file
    is for the index of the tree to say, like of any other file there.
    """
    place, md5 = tree.place(identifier), orthanc.md5(identifier)
    if place.exists() and md5 is not None and _md5(place.read_bytes()) == md5:
        return False
    content = orthanc.file(identifier)
    if content is None:
        # Deleted since; where a copy of it is here, it stays.
        return False
    if (_md5(content) != md5) if md5 is not None else orthanc.size(identifier) not in (None, len(content)):
        raise UnusableError("a file has come otherwise than Orthanc says that it is", where=_WHERE)
    if place.exists() and place.read_bytes() == content:
        return False
    tree.write(place, content)
    return True


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()

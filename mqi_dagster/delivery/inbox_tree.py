"""What stands below a folder: names, sizes and times, without following links out of it.

Foreign folders are looked at with limits: of depth, and for a kept tree of the time that one scan may take.
What cannot be looked at is said at its own place and stops nothing beside it.

A tree that is kept (`KeptTree`) is brought up to date by listing again only what can have changed:

- a folder in work, or one that has changed of late, is listed at every scan, and all its files are asked for
  size and time;
- a folder at rest is asked for its own time alone: an entry that was added, removed or renamed changes it.
  A time that was new when the folder was listed proves nothing (some are as coarse as 2 s), so such a folder
  is listed once more;
- every folder is listed again after the period of the full scan: a file that was written in place changes no
  folder's time, and a share may keep times wrongly.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

UNFINISHED = ("*.extracting", "*.zip.tmp", "*.backup.*", "extract_*.tmp")
"""Names of unfinished or replaced things, of files and of folders, anywhere below the inbox."""
LEFT_BY_SYSTEMS = (
    "._*",
    ".ds_store",
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "$recycle.bin",
    "system volume information",
    ".nfs[0-9a-f]*",
    ".smbdelete*",
    ".fuse_hidden*",
    "@eadir",
)
"""Names, in small letters, of what macOS, Windows, file servers and their clients leave in any folder."""
IGNORED = (*UNFINISHED, *LEFT_BY_SYSTEMS)
_IGNORED = re.compile("|".join(fnmatch.translate(pattern) for pattern in IGNORED))

DEEPEST = 32
"""Levels of folders that are looked at where nothing else is said; patient, study and delivery are three."""

COARSEST_SECONDS = 2.5
"""A little more than the coarsest times of folders that file systems keep (FAT: 2 s)."""

_END = b"\0"
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A file as the scan met it."""

    path: Path
    size: int
    mtime_ns: int


class Memo:
    """What was derived from something that is kept, asked for once."""

    __slots__ = ("_answers",)

    def __init__(self) -> None:
        self._answers: dict[str, Any] | None = None

    def once(self, name: str, derive: Callable[[], _Answer]) -> _Answer:
        """What `derive` gives; called at the first time."""
        if self._answers is None:
            self._answers = {}
        if name not in self._answers:
            self._answers[name] = derive()
        answer: _Answer = self._answers[name]
        return answer

    def forget(self) -> None:
        """Ask anew."""
        self._answers = None


@dataclass(slots=True, eq=False)
class SeenFolder:
    """A folder as the scan met it, with everything below."""

    location: str
    """Its path."""
    depth: int = 0
    """Levels below the folder where the scan began."""
    parent: SeenFolder | None = field(default=None, repr=False)
    mtime_ns: int = 0
    folders: list[SeenFolder] = field(default_factory=list)
    """In the order of names."""
    refused_links: list[Path] = field(default_factory=list)
    """Links that lead out of the tree or nowhere."""
    unreadable: str = ""
    """Why it cannot be looked at, without the path: the system's words, or the limit that was hit."""
    troubled: bool = False
    """A file of it was not given by the disk: the next scan asks again."""
    listing: bytes = field(default=b"", repr=False)
    """Its files, packed: with hundred thousands of files one object each would cost more than the scan."""
    derived: Memo = field(default_factory=lambda: Memo(), repr=False)
    """What others have derived from its own listing, until that changes."""
    derived_below: Memo = field(default_factory=lambda: Memo(), repr=False)
    """What others have derived from it and everything below, until something there changes."""
    listed_at: float | None = None
    """When it was last listed, on the clock of the scan; None before the first time."""
    same_since: float = 0.0
    """Since when its own time has been the present one, on the clock of the scan."""
    restless_until: float = 0.0
    """Until when it counts as one that has changed of late, on the clock of the scan."""

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(self.location)

    @property
    def name(self) -> str:
        """Its name in the folder above."""
        return self.location.rpartition(os.sep)[2]

    @property
    def files(self) -> list[SeenFile]:
        """Its files, in the order of names."""
        parts = self.listing.split(_END)
        base = self.path
        return [
            SeenFile(base / os.fsdecode(parts[at]), int(parts[at + 1]), int(parts[at + 2]))
            for at in range(0, len(parts) - 1, 3)
        ]

    @property
    def largest(self) -> int:
        """Size of its largest file [bytes], 0 without one."""
        return max(map(int, self.listing.split(_END)[1::3]), default=0)

    @property
    def file_names(self) -> list[str]:
        """Names of its files, in order."""
        return [os.fsdecode(name) for name in self.listing.split(_END)[:-1:3]]

    def listing_without(self, name: str) -> bytes:
        """Its files, packed, without one of them."""
        parts = self.listing.split(_END)[:-1]
        left = [parts[at : at + 3] for at in range(0, len(parts), 3) if parts[at] != os.fsencode(name)]
        return b"".join(part + _END for triple in left for part in triple)

    def walk(self) -> Iterator[SeenFolder]:
        """This folder and every one below, each before those below it."""
        waiting = [self]
        while waiting:
            folder = waiting.pop()
            yield folder
            waiting.extend(reversed(folder.folders))

    def newest_ns(self) -> int:
        """The latest modification time of any file or folder of the tree."""
        return max(
            max([folder.mtime_ns, *map(int, folder.listing.split(_END)[2::3])]) for folder in self.walk()
        )

    def forget_derived(self) -> None:
        """Its listing has changed: whatever was derived from it, here or above, has to be derived anew."""
        self.derived.forget()
        folder: SeenFolder | None = self
        while folder is not None:
            folder.derived_below.forget()
            folder = folder.parent


@lru_cache(maxsize=1 << 12)
def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name never counts."""
    return _IGNORED.match(name.lower()) is not None


def see_folder(path: Path, root: Path, deepest: int = DEEPEST) -> SeenFolder:
    """Read a whole tree.

    Args:
        path: The folder to read.
        root: The resolved folder that no link may lead out of.
        deepest: Levels of folders below `path` that are looked at.
    """
    top = SeenFolder(str(path))
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        _list(folder, root, deepest)
        folder.listed_at = 0.0
        waiting.extend(folder.folders)
    return top


class KeptTree:
    """A tree that is looked at again and again, each time at the cost of what may have changed.

    Args:
        root: The folder, resolved; no link may lead out of it.
        deepest: Levels of folders below it that are looked at.
        full_scan_seconds: After this time every folder is listed again, whatever its time says.
        longest_seconds: What has never been listed is left for the next scan after this time.
        clock: Seconds that never go back.
        now_ns: The present time as files carry it.
    """

    def __init__(
        self,
        root: Path,
        deepest: int = DEEPEST,
        full_scan_seconds: float = 900.0,
        longest_seconds: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.root = root
        self._deepest = deepest
        self._full_scan_seconds = full_scan_seconds
        self._longest_seconds = longest_seconds
        self._clock = clock
        self._now_ns = now_ns
        self._top = SeenFolder(str(root))
        self._count = 0
        self._last_scan = 0.0
        self.listed = 0
        """How many folders the last scan has listed."""

    @property
    def whole(self) -> bool:
        """Whether every folder has been listed: then what is not in the tree is not there."""
        return all(node.listed_at is not None and not node.unreadable for node in self._top.walk())

    def scan(self, in_work: Collection[str] = frozenset()) -> SeenFolder:
        """The tree as it is now.

        Args:
            in_work: Places of folders below which every file is to be asked for its size and time.
        """
        began = self._clock()
        # Spread over the scans of the period, so that none of them pays for all.
        share = (began - self._last_scan) / self._full_scan_seconds
        due_at_most = 50 + int(2.0 * self._count * min(share, 1.0))
        self._count, self._last_scan, self.listed = 0, began, 0
        waiting = [(self._top, True)]
        while waiting:
            folder, busy = waiting.pop()
            self._count += 1
            busy = folder.location in in_work or (busy and folder is not self._top)
            if folder.listed_at is None:
                if folder is not self._top and self._clock() - began > self._longest_seconds:
                    continue
                self._list_again(folder, began)
            elif due_at_most > 0 and folder.listed_at + self._full_scan_seconds <= began:
                due_at_most -= 1
                self._list_again(folder, began)
            elif self._may_have_changed(folder, busy, began):
                self._list_again(folder, began)
            waiting.extend((below, busy) for below in folder.folders)
        return self._top

    def _may_have_changed(self, folder: SeenFolder, busy: bool, now: float) -> bool:
        # Where there is no file, the folder's time tells everything.
        if folder is self._top or folder.unreadable or folder.troubled:
            return True
        if folder.listing and (busy or now < folder.restless_until):
            return True
        if folder.listed_at is None or folder.listed_at < folder.same_since + COARSEST_SECONDS:
            return True
        try:
            status = os.stat(folder.location)  # noqa: PTH116 - asked of every folder at every scan
        except OSError:
            return True
        return status.st_mtime_ns != folder.mtime_ns

    def _list_again(self, folder: SeenFolder, now: float) -> None:
        self.listed += 1
        before, mtime_ns, first = _stamp(folder), folder.mtime_ns, folder.listed_at is None
        _list(folder, self.root, self._deepest)
        if first or folder.mtime_ns != mtime_ns:
            folder.same_since = now
        folder.listed_at = now
        if not first and _stamp(folder) == before and not folder.troubled:
            return
        # What was there before the first scan is at rest if its times are old.
        newest_ns = max([folder.mtime_ns, *map(int, folder.listing.split(_END)[2::3])])
        age = max(0.0, (self._now_ns() - newest_ns) * 1e-9) if first else 0.0
        folder.restless_until = now + self._full_scan_seconds - age
        folder.troubled = False
        folder.forget_derived()


def _stamp(folder: SeenFolder) -> tuple[object, ...]:
    names = [below.location for below in folder.folders]
    return folder.mtime_ns, folder.listing, folder.unreadable, list(folder.refused_links), names


def _list(folder: SeenFolder, root: Path, deepest: int) -> None:
    """List one folder anew; folders below that were known stay what they are."""
    known = {below.location: below for below in folder.folders}
    folder.folders, folder.refused_links, folder.listing, folder.unreadable = [], [], b"", ""
    if folder.depth > deepest:
        folder.unreadable = f"folders are nested more than {deepest} deep (intake.max_folder_depth)"
        return
    try:
        folder.mtime_ns = folder.path.stat().st_mtime_ns
        with os.scandir(folder.location) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        folder.mtime_ns, folder.unreadable = 0, error.strerror or "unknown reason"
        return
    packed: list[bytes] = []
    for entry in entries:
        if is_ignored(entry.name):
            continue
        try:
            if entry.is_symlink():
                packed += _link(folder, Path(entry.path), root)
            elif entry.is_dir():
                below = known.get(entry.path)
                folder.folders.append(below or SeenFolder(entry.path, folder.depth + 1, folder))
            elif entry.is_file():
                status = entry.stat()
                packed += _packed(entry.name, status)
        except FileNotFoundError:
            # Renamed or removed since the listing; the folder's own time tells that it changed.
            continue
        except OSError as error:
            folder.unreadable = error.strerror or "unknown reason"
    folder.listing = _END.join([*packed, b""]) if packed else b""


def _packed(name: str, status: os.stat_result) -> tuple[bytes, bytes, bytes]:
    return os.fsencode(name), b"%d" % status.st_size, b"%d" % status.st_mtime_ns


def _link(folder: SeenFolder, link: Path, root: Path) -> tuple[bytes, ...]:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        folder.refused_links.append(link)
        return ()
    if not target.is_relative_to(root):
        folder.refused_links.append(link)
    elif target.is_file():
        return _packed(link.name, target.stat())
    # A link to a folder inside the tree shows nothing that the scan does not meet at its own place.
    return ()


def folders_in(path: Path) -> list[Path]:
    """The folders directly in a folder, in the order of names; none where it cannot be listed."""
    try:
        with os.scandir(path) as listing:
            found = [entry.name for entry in listing if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [path / name for name in sorted(found) if not is_ignored(name)]


def fingerprint(
    base: Path,
    folders: Iterable[SeenFolder],
    files: Iterable[SeenFile] = (),
    without: Collection[Path] = frozenset(),
) -> str:
    """A cheap hash that changes with names, sizes and times of files; the order of listing has no part.

    Args:
        base: Names count relative to this folder.
        folders: Trees whose files all count.
        files: Single files that count.
        without: Files that do not count.
    """
    single = {file.path: file for tree in folders for folder in tree.walk() for file in folder.files}
    single.update({file.path: file for file in files})
    digest = hashlib.sha256()
    for path in sorted(single.keys() - without, key=lambda path: path.relative_to(base).parts):
        name = path.relative_to(base).as_posix()
        line = f"{name}\0{single[path].size}\0{single[path].mtime_ns}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()

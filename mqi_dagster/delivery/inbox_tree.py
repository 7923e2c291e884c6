"""One look at a folder tree: names, sizes and times, without following links out of it."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A file as the scan met it."""

    path: Path
    size: int
    mtime_ns: int


@dataclass(slots=True)
class SeenFolder:
    """A folder as the scan met it, with everything below."""

    path: Path
    mtime_ns: int
    files: list[SeenFile] = field(default_factory=list)
    folders: list[SeenFolder] = field(default_factory=list)
    refused_links: list[Path] = field(default_factory=list)
    """Links that lead out of the tree or nowhere."""
    unreadable: str = ""
    """Why the folder cannot be listed, in the operating system's words without the path."""

    def walk(self) -> Iterator[SeenFolder]:
        """This folder and every one below, in the order of names."""
        yield self
        for folder in self.folders:
            yield from folder.walk()

    def newest_ns(self) -> int:
        """The latest modification time of any file or folder of the tree."""
        return max(
            max([folder.mtime_ns, *(file.mtime_ns for file in folder.files)]) for folder in self.walk()
        )


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name never counts."""
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in IGNORED)


def see_folder(path: Path, root: Path) -> SeenFolder:
    """Read a tree.

    Args:
        path: The folder to read.
        root: The resolved folder that no link may lead out of.
    """
    try:
        seen = SeenFolder(path, path.stat().st_mtime_ns)
        with os.scandir(path) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        return SeenFolder(path, 0, unreadable=error.strerror or "unknown reason")
    for entry in entries:
        if is_ignored(entry.name):
            continue
        below = path / entry.name
        try:
            if entry.is_symlink():
                _see_link(seen, below, root)
            elif entry.is_dir():
                seen.folders.append(see_folder(below, root))
            elif entry.is_file():
                status = entry.stat()
                seen.files.append(SeenFile(below, status.st_size, status.st_mtime_ns))
        except FileNotFoundError:
            # Renamed or removed since the listing; the folder's own time tells that it changed.
            continue
    return seen


def _see_link(seen: SeenFolder, link: Path, root: Path) -> None:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        seen.refused_links.append(link)
        return
    if not target.is_relative_to(root):
        seen.refused_links.append(link)
    elif target.is_file():
        status = target.stat()
        seen.files.append(SeenFile(link, status.st_size, status.st_mtime_ns))
    # A link to a folder inside the tree shows nothing that the scan does not meet at its own place.


def fingerprint(base: Path, folders: Iterable[SeenFolder], files: Iterable[SeenFile] = ()) -> str:
    """A cheap hash that changes with names, sizes and times of files; the order of listing has no part.

    Args:
        base: Names count relative to this folder.
        folders: Trees whose files all count.
        files: Single files that count.
    """
    single = {file.path: file for tree in folders for folder in tree.walk() for file in folder.files}
    single.update({file.path: file for file in files})
    digest = hashlib.sha256()
    for path in sorted(single, key=lambda path: path.relative_to(base).parts):
        name = path.relative_to(base).as_posix()
        line = f"{name}\0{single[path].size}\0{single[path].mtime_ns}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()

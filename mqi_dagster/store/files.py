"""Files that are whole or absent."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path


def sha256_file(path: Path) -> str:
    """SHA-256 (hex) of a file's content, read in blocks.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what goes away meanwhile counts nothing."""
    files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    total = 0
    for one in files if path.is_dir() else [path]:
        with suppress(FileNotFoundError):
            total += one.lstat().st_size
    return total


def sync_file(path: Path) -> None:
    """Make a file's content survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make a folder's list of names survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(path: Path) -> bool:
    """Make a folder, and what is missing above it, that its owner alone can enter, whatever the umask is.

    Returns:
        Whether it was missing; one that is there stays as it is.

    Raises:
        OSError: It cannot be made.
    """
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        # The mode that mkdir is given may lose bits to the umask.
        one.chmod(0o700)
    return bool(missing)


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file beside its place, and move it there when it is whole.

    Args:
        path: Where the file shall stand; its folder exists.
        data: Its content.
        mode: Its permissions, from the first moment on.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_unchanged(folder: Path, older_than: timedelta) -> int:
    """Remove what crashes have left in a folder of work; how many entries were removed.

    Args:
        folder: Where work is done; it may be absent.
        older_than: Age since the last change of an entry or anything in it.

    Raises:
        OSError: The folder cannot be read.
    """
    if not folder.is_dir():
        return 0
    limit = time.time() - older_than.total_seconds()
    old = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and _last_change(entry) < limit]
    for entry in old:
        shutil.rmtree(entry, ignore_errors=True)
    return len(old)


def _last_change(folder: Path) -> float:
    newest = 0.0
    for path in (folder, *folder.rglob("*")):
        try:
            newest = max(newest, path.lstat().st_mtime)
        except FileNotFoundError:
            continue
    return newest

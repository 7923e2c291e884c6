"""Files on this machine: written whole or not at all, hashed, and made to survive a power cut."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from io import BufferedIOBase, BufferedRandom
from pathlib import Path

_BLOCK = 1 << 20


def sha256_file(path: Path, length: int | None = None) -> str:
    """SHA-256 (hex) of a file's content, or of its first bytes, read in blocks.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        if length is None:
            return sha256_stream(stream)[0]
        digest = hashlib.sha256()
        while length > 0 and (block := stream.read(min(_BLOCK, length))):
            digest.update(block)
            length -= len(block)
        return digest.hexdigest()


def sha256_stream(stream: BufferedIOBase) -> tuple[str, int]:
    """SHA-256 (hex) of what is left of an open file, and where it ends.

    Raises:
        OSError: It cannot be read.
    """
    return hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()


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


@contextmanager
def whole_file(
    path: Path,
    mode: int = 0o600,
    *,
    replace: bool = True,
    temporary: Path | None = None,
    prepare: Callable[[Path], None] | None = None,
) -> Iterator[BufferedRandom]:
    """A file to write and to read back, which stands under its name once the block has ended well.

    It is written beside its place, flushed to the disk and renamed; of a block that fails nothing is left.

    Args:
        path: Where the file shall stand; its folder exists.
        mode: Its permissions, from the first moment on.
        replace: False leaves a file that stands there already as it is.
        temporary: Where it is written, in the same folder; what a killed process has left there is replaced.
            None: under a name of its own, so that two may write at once.
        prepare: Is given the temporary file before the first byte is written, to let others read it.

    Raises:
        OSError: It cannot be written.
    """
    if temporary is None:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    else:
        temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            # The mode that open is given may lose bits to the umask.
            os.fchmod(stream.fileno(), mode)
            if prepare is not None:
                prepare(temporary)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            temporary.replace(path)
        else:
            with suppress(FileExistsError):
                os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes, mode: int = 0o600, *, replace: bool = True) -> None:
    """Write a file of this content, whole or not at all: see :func:`whole_file`.

    Raises:
        OSError: It cannot be written.
    """
    with whole_file(path, mode, replace=replace) as stream:
        stream.write(content)


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

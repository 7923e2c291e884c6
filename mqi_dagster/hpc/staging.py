"""Making a job's folder on a cluster: all files or none, verified there, in few round trips."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from mqi_dagster.files import sha256_file
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import CommandTimeoutError, IntegrityError, PathRejectedError
from mqi_dagster.hpc.files import put_resume, remote_size
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.hpc.shell import Answer, require, run_script

MANIFEST = "MANIFEST.sha256"
BIG_BYTES = 16 << 20
"""From this size on a file is sent by itself, so that a broken transfer can be resumed."""
_DAMAGED = 6
_BLOCK = 256 << 10
_BUSY = 75
_THERE = "present"
_BYTES_PER_SECOND = 1e6

Source = Path | bytes


def stage(
    connection: Connection, folder: JobFolder, files: Mapping[str, Source], *, big_bytes: int = BIG_BYTES
) -> bool:
    """Make a job's folder on the cluster, unless it is there.

    Small files travel as one tar stream, big ones one by one with resume. The folder appears under its name
    only when every file in it has the right SHA-256.

    Args:
        connection: To the cluster.
        folder: The folder to make.
        files: Content by path relative to the folder.
        big_bytes: Size from which on a file is sent by itself.

    Returns:
        Whether this call has made it: somebody else may be faster.

    Raises:
        PathRejectedError: A file would lie outside of the folder.
        UnreachableError: The cluster cannot be reached, or its disk is full.
        IntegrityError: What arrived is not what was sent; it was removed.
        RemoteCommandError: The cluster refuses, for example because the root may not be written.
    """
    for name in files:
        if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
            raise PathRejectedError("a file of the job would lie outside of its folder")
    manifest = "".join(_line(_hash(files[name]), name) for name in sorted(files)).encode()
    wanted = hashlib.sha256(manifest).hexdigest()
    if _stage(connection, folder, wanted, "look") == _THERE:
        return False
    big = {name: source for name, source in files.items() if _is_big(source, big_bytes)}
    small = {name: source for name, source in files.items() if name not in big}
    content: dict[str, Source] = {**small, MANIFEST: manifest}
    size = sum(_size(source) for source in content.values())
    limit = connection.host.call_seconds + size / _BYTES_PER_SECOND

    def send(stream: BinaryIO) -> None:
        _write_tar(stream, content, [name.rpartition("/")[0] for name in big])

    if not big:
        return _stage(connection, folder, wanted, "all", send, limit) != _THERE
    if _stage(connection, folder, wanted, "unpack", send, limit) == _THERE:
        return False
    for name, source in sorted(big.items()):
        assert isinstance(source, Path)
        target = str(folder.part / name)
        # It gets its name when it is verified: an earlier try may have brought it before it broke off.
        if remote_size(connection, target) != _size(source):
            put_resume(connection, source, target)
    return _stage(connection, folder, wanted, "publish", timeout=limit) != _THERE


def _stage(
    connection: Connection,
    folder: JobFolder,
    wanted: str,
    mode: str,
    feed: object = None,
    timeout: float | None = None,
) -> str:
    answer: Answer = run_script(
        connection,
        "stage",
        folder.root,
        folder.below,
        folder.key,
        wanted,
        mode,
        feed=feed if callable(feed) else None,
        timeout=timeout,
    )
    if answer.exit_code == _BUSY:
        raise CommandTimeoutError("an earlier transfer into the job's folder is still under way")
    if answer.exit_code == _DAMAGED:
        raise IntegrityError("the files that arrived are not those that were sent")
    return require(answer, "the job's folder cannot be made").text.strip()


def _write_tar(stream: BinaryIO, files: Mapping[str, Source], folders: list[str]) -> None:
    with tarfile.open(fileobj=stream, mode="w|", bufsize=_BLOCK, format=tarfile.PAX_FORMAT) as archive:
        for name in sorted({name for name in folders if name}):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(entry)
        for name in sorted(files):
            source = files[name]
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o600, _size(source)
            if isinstance(source, bytes):
                archive.addfile(entry, io.BytesIO(source))
            else:
                with source.open("rb") as reader:
                    archive.addfile(entry, reader)


def _is_big(source: Source, big_bytes: int) -> bool:
    return isinstance(source, Path) and _size(source) >= big_bytes


def _size(source: Source) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _hash(source: Source) -> str:
    return hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else sha256_file(source)


def _line(sha256: str, name: str) -> str:
    """One line as sha256sum writes it: it marks names in which it has escaped something."""
    if "\\" in name or "\n" in name:
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n")
        return f"\\{sha256}  {escaped}\n"
    return f"{sha256}  {name}\n"

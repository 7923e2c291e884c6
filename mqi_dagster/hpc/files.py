"""Big files over SFTP, with resume and verification, and the end of a file that grows."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import paramiko
from paramiko.sftp import CMD_EXTENDED

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.files import sha256_file
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import (
    CommandTimeoutError,
    ConnectionLostError,
    DiskFullError,
    IntegrityError,
    RemoteCommandError,
)
from mqi_dagster.hpc.session import reading, sftp
from mqi_dagster.hpc.shell import run

_BLOCK = 32 << 10
_WINDOW = 1 << 20
_TAIL = 64 << 10
_HASH_BYTES_PER_SECOND = 20e6
_LITTLE_KB = 1024
_TAKES_COMMANDS: WeakKeyDictionary[Connection, bool] = WeakKeyDictionary()
"""Whether the host hashes files itself; many SFTP servers take no commands, and are asked only once."""


def remote_size(connection: Connection, path: str) -> int | None:
    """Size of a file on the host, None where there is none.

    Raises:
        UnreachableError: The host, or its file system, does not answer.
        RemoteCommandError: The account may not look at it.
    """
    with reading(connection, "the size of a file") as client:
        try:
            return client.stat(path).st_size
        except FileNotFoundError:
            return None


def remote_hash(connection: Connection, path: str, length: int) -> str:
    """SHA-256 of the first bytes of a file on the host, computed there, or here where it has no shell.

    Raises:
        IntegrityError: The file is shorter, or not there.
        UnreachableError: The host, or its file system, does not answer.
        RemoteCommandError: The account may not read it.
    """
    limit = connection.host.call_seconds + length / _HASH_BYTES_PER_SECOND
    known = _TAKES_COMMANDS.get(connection)
    if known is not False and (found := _hash_there(connection, path, length, limit)) is not None:
        _TAKES_COMMANDS[connection] = True
        return found
    digest, left = hashlib.sha256(), length
    with reading(connection, "a file", limit) as client:
        try:
            with client.open(path, "rb") as stream:
                for block in _blocks(stream, 0, length):
                    digest.update(block)
                    left -= len(block)
        except FileNotFoundError:
            raise IntegrityError("a file on the host is gone") from None
    if left:
        raise IntegrityError("a file on the host is shorter than it should be")
    if known is None:
        _TAKES_COMMANDS[connection] = False
    return digest.hexdigest()


def _hash_there(connection: Connection, path: str, length: int, limit: float) -> str | None:
    counted = (
        'sync -d -- "$1" 2>/dev/null; '
        '[ "$(wc -c <"$1")" -ge "$2" ] && head -c "$2" -- "$1" | sha256sum && echo hashed'
    )
    try:
        answer = run(connection, ["sh", "-c", counted, "mqi-hash", path, str(length)], timeout=limit)
    except CommandTimeoutError:
        raise
    except ConnectionLostError:
        # Some servers without commands end the channel, which looks the same.
        if _TAKES_COMMANDS.get(connection):
            raise
        return None
    words = answer.text.split()
    return words[0] if answer.exit_code == 0 and len(words) == 3 and words[2] == "hashed" else None


def _blocks(stream: paramiko.SFTPFile, start: int, end: int) -> Iterator[bytes]:
    """A remote file from one offset to another, or to its end; many requests are under way at once.

    Not with paramiko's limit of requests: its thread never ends where the connection does.
    """
    while start < end:
        wanted = min(_WINDOW, end - start)
        block = b"".join(stream.readv([(start, wanted)]))
        yield block
        if len(block) < wanted:
            return
        start += wanted


def put_resume(
    connection: Connection, source: Path, target: str, part: str | None = None, mode: int | None = None
) -> tuple[str, int, int]:
    """Upload a file: beside its place, resumed where an earlier try broke off, verified, then renamed.

    Args:
        connection: To the host.
        source: Local file.
        target: Absolute path on the host; its folder exists.
        part: Where it is written before it is renamed; ``.NAME.part`` where None.
        mode: Its permissions, from before its first byte; those that the server gives where None.

    Returns:
        SHA-256, size, and how many bytes were there already.

    Raises:
        UnreachableError: The connection died or the disk is full; the next try goes on from there.
        IntegrityError: What arrived is not what was sent; it was removed.
    """
    part = part or posixpath.join(posixpath.dirname(target), f".{posixpath.basename(target)}.part")
    size, wanted = source.stat().st_size, sha256_file(source)
    there = remote_size(connection, part) or 0
    if there > size or (there and remote_hash(connection, part, there) != sha256_file(source, there)):
        there = 0
    with _space_for(connection, posixpath.dirname(target)):
        with sftp(connection) as client:
            with source.open("rb") as reader, client.open(part, "r+b" if there else "wb") as writer:
                if mode is not None:
                    _set_mode(writer, mode)
                writer.set_pipelined(True)
                reader.seek(there)
                writer.seek(there)
                while block := reader.read(_BLOCK):
                    writer.write(block)
                _to_disk(client, writer)
            if client.stat(part).st_size != size:
                raise OSError("Failure")
        if remote_hash(connection, part, size) != wanted:
            with sftp(connection) as client:
                client.remove(part)
            raise IntegrityError("an uploaded file differs from its source")
        with sftp(connection) as client:
            client.posix_rename(part, target)
    return wanted, size, there


def _set_mode(writer: paramiko.SFTPFile, mode: int) -> None:
    try:
        writer.chmod(mode)
    except TimeoutError:
        raise
    except OSError:
        # Not every server keeps modes: one on Windows has other rules of who may read.
        return


def _to_disk(client: paramiko.SFTPClient, writer: paramiko.SFTPFile) -> None:
    try:
        cast(Any, client)._request(CMD_EXTENDED, "fsync@openssh.com", writer.handle)
    except TimeoutError:
        raise
    except OSError:
        # Only OpenSSH's server can be asked for it.
        return


@contextmanager
def _space_for(connection: Connection, folder: str) -> Iterator[None]:
    """Tell a full disk from other failures: SFTP has one word for all of them."""
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise RemoteCommandError(f"the target on the host: {error.strerror}", 1) from None
    except (OSError, IntegrityError) as error:
        fields: list[str] = []
        if _TAKES_COMMANDS.get(connection) is not False:
            answer = run(connection, ["df", "-P", "-k", "--", folder])
            lines = answer.text.splitlines()
            fields = lines[-1].split() if answer.exit_code == 0 and len(lines) > 1 else []
        if len(fields) >= 4 and fields[3].isdigit() and int(fields[3]) < _LITTLE_KB:
            raise DiskFullError("the host's disk or quota is full") from None
        if isinstance(error, IntegrityError):
            raise
        raise IntegrityError("the host could not write a file") from None


def get_resume(connection: Connection, source: str, target: Path, sha256: str, size: int) -> int:
    """Download a file: beside its place, resumed where an earlier try broke off, verified, then renamed.

    Args:
        connection: To the host.
        source: Absolute path on the host.
        target: Local path.
        sha256: What it has to be.
        size: Its size [bytes].

    Returns:
        How many bytes were there already.

    Raises:
        UnreachableError: The connection died, or the host's file system; the next try goes on from there.
        IntegrityError: The file is not what it has to be; what was downloaded is removed.
        RemoteCommandError: The account may not read it.
        InfrastructureError: The local disk failed.
    """
    part = target.with_name(f".{target.name}.part")
    if target.is_file() and target.stat().st_size == size and sha256_file(target) == sha256:
        # Of several outputs a try that broke off had fetched some.
        return size
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        there = part.stat().st_size if part.is_file() else 0
    except OSError as error:
        raise _local(error) from None
    if there > size:
        there = 0
    with reading(connection, "an output") as client:
        try:
            reader = client.open(source, "rb")
        except FileNotFoundError:
            raise IntegrityError("an output is gone from the cluster") from None
        with reader:
            if reader.stat().st_size != size:
                raise IntegrityError("an output on the cluster has another size than its job has noted")
            _receive(reader, part, there, size)
    if sha256_file(part) != sha256:
        part.unlink()
        raise IntegrityError("a downloaded output differs from what its job has noted")
    try:
        part.replace(target)
    except OSError as error:
        raise _local(error) from None
    return there


def _receive(reader: paramiko.SFTPFile, part: Path, there: int, size: int) -> None:
    left = size - there
    with _opened(part, there) as descriptor:
        for block in _blocks(reader, there, size):
            left -= len(block)
            try:
                while block:
                    block = block[os.write(descriptor, block) :]
            except OSError as error:
                raise _local(error) from None
    if left:
        raise IntegrityError("an output on the cluster ended early")


@contextmanager
def _opened(part: Path, there: int) -> Iterator[int]:
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(descriptor, there)
        os.lseek(descriptor, there, os.SEEK_SET)
    except OSError as error:
        raise _local(error) from None
    try:
        yield descriptor
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise _local(error) from None
    finally:
        os.close(descriptor)


def tail(connection: Connection, path: str, offset: int) -> bytes:
    """What a growing file holds from a byte offset on, at most 64 KiB a call; empty where it is not there.

    Raises:
        UnreachableError: The host, or its file system, does not answer.
        RemoteCommandError: The account may not read it.
    """
    with reading(connection, "the engine's log") as client:
        try:
            with client.open(path, "rb") as stream:
                size = stream.stat().st_size or 0
                if size <= offset:
                    return b""
                stream.seek(offset)
                return bytes(stream.read(min(_TAIL, size - offset)))
        except FileNotFoundError:
            return b""


def _local(error: OSError) -> InfrastructureError:
    return InfrastructureError(f"the work folder of this machine failed: {error.strerror}")

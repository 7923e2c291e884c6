"""Hand-over to a folder of another machine, by SFTP alone: the account there needs no shell."""

from __future__ import annotations

import os
import random
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import paramiko

from mqi_dagster.errors import MqiError
from mqi_dagster.files import sha256_file
from mqi_dagster.handover.access import PRIVATE, Access
from mqi_dagster.handover.receipts import RECEIPT, content_of, differs, failure, outlived, relative
from mqi_dagster.handover.target import Receipt, ReceiptEntry
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import IntegrityError, RemoteCommandError
from mqi_dagster.hpc.files import put_resume, remote_hash, remote_size
from mqi_dagster.hpc.session import sftp

_MOST_RECEIPT = 16 << 20
_TRIES = 3
_QUIET_SECONDS = 1.0
_READ_BYTES_PER_SECOND = 20e6
_OF_HASH, _OF_TRY = 12, 8
_PART = re.compile(rf"\..+\.[0-9a-f]{{{_OF_HASH}}}\.[0-9a-f]{{{_OF_TRY}}}\.part")
"""A file that is being sent: its name, the start of its SHA-256, and a word of the try that sends it."""


class SftpTarget:
    """A folder of a host as hand-over target.

    Args:
        connection: To the host.
        root: Absolute path of the folder there; made if it is absent.
        access: Who may read what is handed over, where the server keeps modes.
    """

    name = "sftp"

    def __init__(self, connection: Connection, root: str, access: Access = PRIVATE) -> None:
        self._connection = connection
        self._access = access
        self._root = PurePosixPath("/") / relative(root.lstrip("/"))

    def deliver(self, folder: str, files: Mapping[str, Path]) -> Receipt:
        """Copy files below ``folder``; see `Target.deliver`.

        Raises:
            HandoverError: A file could not be written, or what was read back differs.
            UnreachableError: The host cannot serve now; the next try goes on from there.
            HostKeyError: It shows another key than the pinned one; nothing was sent.
            AuthenticationError: It does not let this user in.
        """
        base = relative(folder)
        names = {name: base / relative(name) for name in sorted(files)}
        with _typed_errors():
            entries = tuple(self._carry(files[name], remote) for name, remote in names.items())
            receipt = Receipt(target=self.name, entries=entries)
            self._remove_former(base, receipt)
            self._remove_parts({remote.parent for remote in names.values()} | {base})
            self._write(base / RECEIPT, content_of(receipt))
        return receipt

    def state(self, folder: str, name: str, content: bytes) -> ReceiptEntry:
        """Write one small file; see `Target.state`, and `deliver` for what it raises."""
        remote = relative(folder) / relative(name)
        with _typed_errors():
            entry = self._write(remote, content)
            self._remove_parts({remote.parent}, f".{remote.name}.")
        return entry

    def withdraw(self, folder: str, name: str) -> None:
        """Remove one small file; see `Target.withdraw`, and `deliver` for what it raises."""
        remote = relative(folder) / relative(name)
        with _typed_errors():
            self._remove(self._path(remote))

    def _path(self, remote: PurePosixPath) -> str:
        return str(self._root / remote)

    def _write(self, remote: PurePosixPath, content: bytes) -> ReceiptEntry:
        with tempfile.NamedTemporaryFile() as held:
            held.write(content)
            held.flush()
            return self._carry(Path(held.name), remote)

    def _carry(self, source: Path, remote: PurePosixPath) -> ReceiptEntry:
        """Bring a file to its place, unless it stands there.

        Its part has a name of this try alone: what was verified is what is then renamed. What an earlier try
        has sent of the same content is taken over, once it has ceased to grow.
        """
        wanted, size, path = sha256_file(source), source.stat().st_size, self._path(remote)
        entry = ReceiptEntry(name=remote.as_posix(), size=size, sha256=wanted)
        folder, stem = (self._root / remote).parent, f".{remote.name}.{wanted[:_OF_HASH]}."
        own = str(folder / f"{stem}{secrets.token_hex(_OF_TRY // 2)}.part")
        seen: dict[str, int] = {}
        trouble: MqiError = differs(wanted)
        tries = 0
        while not self._is_there(path, size, wanted):
            if tries == _TRIES:
                raise trouble
            with sftp(self._connection) as client:
                _make(client, folder, self._access.folder_mode)
                parts = _parts(client, folder, stem)
                parts.pop(own, None)
                if parts == seen:
                    _take_over(client, parts, own)
            if parts != seen:
                # Somebody else may be sending it, or reading it back: then nothing has to be sent twice.
                if parts:
                    read_back = max(parts.values()) / _READ_BYTES_PER_SECOND
                    time.sleep(random.uniform(1, 2) * _QUIET_SECONDS + read_back)
                seen = parts
                continue
            try:
                put_resume(self._connection, source, path, own, self._access.file_mode)
            except (IntegrityError, RemoteCommandError) as error:
                # Whose part was taken over finds it gone, and looks again.
                trouble = error
            tries += 1
            seen = {}
        return entry

    def _is_there(self, path: str, size: int, sha256: str) -> bool:
        """Whether a file with this content is at the target, as read back there."""
        if remote_size(self._connection, path) != size:
            return False
        try:
            return remote_hash(self._connection, path, size) == sha256
        except IntegrityError:
            return False

    def _remove_former(self, base: PurePosixPath, receipt: Receipt) -> None:
        """Remove the files of the former receipt that are not in this one, where nobody has changed them."""
        with sftp(self._connection) as client:
            try:
                with client.open(self._path(base / RECEIPT), "rb") as stream:
                    former = bytes(stream.read(_MOST_RECEIPT))
            except FileNotFoundError:
                return
        for entry in outlived(former, receipt, base):
            path = self._path(relative(entry.name))
            if self._is_there(path, entry.size, entry.sha256):
                self._remove(path)

    def _remove_parts(self, folders: Iterable[PurePosixPath], stem: str = ".") -> None:
        """Remove what tries of other contents have left beside: no later try goes on with it."""
        for remote in sorted(folders):
            with sftp(self._connection) as client:
                for part in _parts(client, self._root / remote, stem):
                    with suppress(FileNotFoundError):
                        client.remove(part)

    def _remove(self, path: str) -> None:
        with sftp(self._connection) as client, suppress(FileNotFoundError):
            client.remove(path)


def _parts(client: paramiko.SFTPClient, folder: PurePosixPath, stem: str = ".") -> dict[str, int]:
    """Size of each file of a folder that is being sent, or was given up, the smallest first."""
    try:
        listed = client.listdir_attr(str(folder))
    except (UnicodeDecodeError, FileNotFoundError):
        # One name in another encoding hides all others: nothing is resumed, and parts are left.
        return {}
    found = {str(folder / one.filename): one.st_size or 0 for one in listed if _is_part(one.filename, stem)}
    return dict(sorted(found.items(), key=lambda one: one[1]))


def _is_part(name: str, stem: str) -> bool:
    return name.startswith(stem) and _PART.fullmatch(name) is not None


def _take_over(client: paramiko.SFTPClient, parts: Iterable[str], own: str) -> None:
    for part in parts:
        with suppress(FileNotFoundError):
            client.posix_rename(part, own)


def _make(client: paramiko.SFTPClient, folder: PurePosixPath, mode: int) -> None:
    """Make a folder and what is missing above it; another process may be doing the same."""
    if _is_folder(client, folder):
        return
    if folder.parent != folder:
        _make(client, folder.parent, mode)
    try:
        client.mkdir(str(folder), mode)
    except OSError:
        if not _is_folder(client, folder):
            raise


def _is_folder(client: paramiko.SFTPClient, folder: PurePosixPath) -> bool:
    try:
        mode = client.stat(str(folder)).st_mode
    except FileNotFoundError:
        return False
    if mode is not None and not stat.S_ISDIR(mode):
        raise failure("something that is no folder is in the way at the target")
    return True


@contextmanager
def _typed_errors() -> Iterator[None]:
    """Say what a person must know in words of our own: those of the server may name paths."""
    try:
        yield
    except (IntegrityError, RemoteCommandError) as error:
        raise failure(f"hand-over by SFTP: {error.message}") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "the server gives no reason"
        raise failure(f"the target folder cannot be written: {reason}") from None

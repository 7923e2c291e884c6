"""Hand-over to a folder of another machine, by SFTP alone: the account there needs no shell."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import paramiko

from mqi_dagster.handover.receipts import RECEIPT, content_of, differs, failure, outlived, relative
from mqi_dagster.handover.target import Receipt, ReceiptEntry
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import IntegrityError, RemoteCommandError
from mqi_dagster.hpc.files import local_hash, put_resume, remote_hash, remote_size
from mqi_dagster.hpc.session import sftp

_MOST_RECEIPT = 16 << 20
_OF_HASH = 12
_PART = re.compile(rf"\..+\.[0-9a-f]{{{_OF_HASH}}}\.part")


class SftpTarget:
    """A folder of a host as hand-over target.

    Args:
        connection: To the host.
        root: Absolute path of the folder there; made if it is absent.
    """

    name = "sftp"

    def __init__(self, connection: Connection, root: str) -> None:
        self._connection = connection
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
        with _told():
            entries = tuple(self._carry(files[name], place) for name, place in names.items())
            receipt = Receipt(target=self.name, entries=entries)
            self._remove_former(base, receipt)
            self._remove_parts({place.parent for place in names.values()} | {base})
            self._write(base / RECEIPT, content_of(receipt))
        return receipt

    def state(self, folder: str, name: str, content: bytes) -> ReceiptEntry:
        """Write one small file; see `Target.state`, and `deliver` for what it raises."""
        place = relative(folder) / relative(name)
        with _told():
            entry = self._write(place, content)
            self._remove_parts({place.parent}, place.name)
        return entry

    def withdraw(self, folder: str, name: str) -> None:
        """Remove one small file; see `Target.withdraw`, and `deliver` for what it raises."""
        place = relative(folder) / relative(name)
        with _told():
            self._remove(self._path(place))

    def _path(self, place: PurePosixPath) -> str:
        return str(self._root / place)

    def _write(self, place: PurePosixPath, content: bytes) -> ReceiptEntry:
        with tempfile.NamedTemporaryFile() as held:
            held.write(content)
            held.flush()
            return self._carry(Path(held.name), place)

    def _carry(self, source: Path, place: PurePosixPath) -> ReceiptEntry:
        """Bring a file to its place, unless it stands there."""
        wanted, size, path = local_hash(source), source.stat().st_size, self._path(place)
        # The name tells the content: of two tries at once both write the same there, and harm neither.
        part = str(self._root / place.with_name(f".{place.name}.{wanted[:_OF_HASH]}.part"))
        for is_last in (False, True):
            if self._stands(path, size, wanted):
                return ReceiptEntry(name=place.as_posix(), size=size, sha256=wanted)
            with sftp(self._connection) as client:
                _make(client, (self._root / place).parent)
            try:
                put_resume(self._connection, source, path, part)
            except (IntegrityError, RemoteCommandError):
                # Another try at once may have brought the file, and taken the part away.
                if is_last:
                    raise
        if not self._stands(path, size, wanted):
            raise differs(wanted)
        return ReceiptEntry(name=place.as_posix(), size=size, sha256=wanted)

    def _stands(self, path: str, size: int, sha256: str) -> bool:
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
            if self._stands(path, entry.size, entry.sha256):
                self._remove(path)

    def _remove_parts(self, places: Iterable[PurePosixPath], name: str | None = None) -> None:
        """Remove what tries of other contents have left beside: no later try goes on with it."""
        for place in sorted(places):
            with sftp(self._connection) as client:
                try:
                    listed = client.listdir(self._path(place))
                except (UnicodeDecodeError, FileNotFoundError):
                    # Somebody's name in another encoding hides all others; parts are left, and do no harm.
                    continue
                for found in listed:
                    if _PART.fullmatch(found) and (name is None or found.startswith(f".{name}.")):
                        with suppress(FileNotFoundError):
                            client.remove(self._path(place / found))

    def _remove(self, path: str) -> None:
        with sftp(self._connection) as client, suppress(FileNotFoundError):
            client.remove(path)


def _make(client: paramiko.SFTPClient, folder: PurePosixPath) -> None:
    """Make a folder and what is missing above it; another process may be doing the same."""
    if _is_folder(client, folder):
        return
    if folder.parent != folder:
        _make(client, folder.parent)
    try:
        client.mkdir(str(folder))
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
def _told() -> Iterator[None]:
    """Say what a person must know in words of our own: those of the server may name paths."""
    try:
        yield
    except (IntegrityError, RemoteCommandError) as error:
        raise failure(f"hand-over by SFTP: {error.message}") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "the server gives no reason"
        raise failure(f"the target folder cannot be written: {reason}") from None

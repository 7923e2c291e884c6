"""Hand-over to a folder of this machine or of a mounted share."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from io import BufferedRandom
from pathlib import Path, PurePosixPath

from mqi_dagster.errors import HandoverError
from mqi_dagster.files import sha256_file, sha256_stream, sync_folder, whole_file
from mqi_dagster.handover.access import PRIVATE, Access
from mqi_dagster.handover.receipts import RECEIPT, content_of, differs, failure, outlived, relative
from mqi_dagster.handover.target import Receipt, ReceiptEntry


class FolderTarget:
    """A folder as hand-over target.

    Args:
        root: The folder; made if it is absent.
        access: Who may read what is handed over.
    """

    name = "folder"

    def __init__(self, root: Path, access: Access = PRIVATE) -> None:
        self._root = root
        self._access = access

    def deliver(self, folder: str, files: Mapping[str, Path]) -> Receipt:
        """Copy files below ``folder``; see `Target.deliver`."""
        below = relative(folder)
        base = self._root / below
        entries = []
        try:
            for name in sorted(files):
                entries.append(self._copy(files[name], base / relative(name)))
            receipt = Receipt(target=self.name, entries=tuple(entries))
            self._remove_former(below, receipt)
            self._write(base / RECEIPT, content_of(receipt))
        except OSError as error:
            raise self._failure(error) from error
        return receipt

    def state(self, folder: str, name: str, content: bytes) -> ReceiptEntry:
        """Write one small file; see `Target.state`."""
        path = self._root / relative(folder) / relative(name)
        try:
            self._write(path, content)
            return self._read_back(path, hashlib.sha256(content).hexdigest())
        except OSError as error:
            raise self._failure(error) from error

    def withdraw(self, folder: str, name: str) -> None:
        """Remove one small file; see `Target.withdraw`."""
        path = self._root / relative(folder) / relative(name)
        try:
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync_folder(path.parent)
        except OSError as error:
            raise self._failure(error) from error

    def _remove_former(self, folder: PurePosixPath, receipt: Receipt) -> None:
        """Remove the files of the former receipt that are not in this one, where nobody has changed them."""
        try:
            former = (self._root / folder / RECEIPT).read_bytes()
        except FileNotFoundError:
            return
        for entry in outlived(former, receipt, folder):
            path = self._root / relative(entry.name)
            if not path.is_file():
                continue
            if sha256_file(path) == entry.sha256:
                path.unlink()
                sync_folder(path.parent)

    def _failure(self, error: OSError) -> HandoverError:
        return failure(f"the target folder cannot be written: {error.strerror}")

    def _copy(self, source: Path, target: Path) -> ReceiptEntry:
        wanted = sha256_file(source)
        if target.is_file() and sha256_file(target) == wanted:
            self._give_again(target)
            return self._read_back(target, wanted)
        self._access.make_folder(target.parent, self._root)
        with source.open("rb") as reader, self._whole(target) as writer:
            shutil.copyfileobj(reader, writer)
            writer.flush()
            writer.seek(0)
            if sha256_stream(writer)[0] != wanted:
                raise differs(wanted)
        return self._read_back(target, wanted)

    def _write(self, path: Path, content: bytes) -> None:
        self._access.make_folder(path.parent, self._root)
        with self._whole(path) as stream:
            stream.write(content)

    def _whole(self, path: Path) -> AbstractContextManager[BufferedRandom]:
        """A new file, in which nobody reads before it has the mode that it is to have."""
        return whole_file(path, temporary=path.with_name(f".{path.name}.part"), prepare=self._access.give)

    def _give_again(self, path: Path) -> None:
        """What stands there already may have been written when somebody else was to read it."""
        if path.stat().st_uid == os.geteuid():
            self._access.make_folder(path.parent, self._root)
            self._access.give(path)

    def _read_back(self, path: Path, wanted: str) -> ReceiptEntry:
        with path.open("rb") as stream:
            found, size = sha256_stream(stream)
        if found != wanted:
            raise differs(wanted)
        return ReceiptEntry(name=path.relative_to(self._root).as_posix(), size=size, sha256=found)

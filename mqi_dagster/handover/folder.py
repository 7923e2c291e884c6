"""Hand-over to a folder of this machine or of a mounted share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pydantic import ValidationError

from mqi_dagster.errors import HandoverError, Where
from mqi_dagster.handover.target import Receipt, ReceiptEntry

RECEIPT = "receipt.json"
_CHUNK = 1 << 20


def _hash(stream: BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _relative(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise HandoverError("a name at the target must stay below it", where=Where(kind="hand-over"))
    return path


class FolderTarget:
    """A folder as hand-over target.

    Args:
        root: The folder; made if it is absent.
    """

    name = "folder"

    def __init__(self, root: Path) -> None:
        self._root = root

    def deliver(self, folder: str, files: Mapping[str, Path]) -> Receipt:
        """Copy files below ``folder``; see `Target.deliver`."""
        base = self._root / _relative(folder)
        entries = []
        try:
            for name in sorted(files):
                entries.append(self._copy(files[name], base / _relative(name)))
            receipt = Receipt(target=self.name, entries=tuple(entries))
            self._remove_former(base / RECEIPT, receipt)
            self._write(base / RECEIPT, receipt.model_dump_json(indent=1).encode() + b"\n")
        except OSError as error:
            raise self._failure(error) from error
        return receipt

    def state(self, folder: str, name: str, content: bytes) -> ReceiptEntry:
        """Write one small file; see `Target.state`."""
        path = self._root / _relative(folder) / _relative(name)
        try:
            self._write(path, content)
            return self._read_back(path, hashlib.sha256(content).hexdigest())
        except OSError as error:
            raise self._failure(error) from error

    def withdraw(self, folder: str, name: str) -> None:
        """Remove one small file; see `Target.withdraw`."""
        path = self._root / _relative(folder) / _relative(name)
        try:
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                _sync_folder(path.parent)
        except OSError as error:
            raise self._failure(error) from error

    def _remove_former(self, former: Path, receipt: Receipt) -> None:
        """Remove what the folder's former receipt lists and this one does not, where nobody has changed it.

        A plane of an older calibration beside a new dose would pass for a part of it.
        """
        try:
            listed = Receipt.model_validate_json(former.read_bytes()).entries
        except (FileNotFoundError, ValidationError):
            return
        present = {entry.name for entry in receipt.entries}
        for entry in listed:
            path = self._root / _relative(entry.name)
            if entry.name in present or not path.is_file() or not path.is_relative_to(former.parent):
                continue
            with path.open("rb") as stream:
                unchanged = _hash(stream)[0] == entry.sha256
            if unchanged:
                path.unlink()
                _sync_folder(path.parent)

    def _failure(self, error: OSError) -> HandoverError:
        return HandoverError(
            f"the target folder cannot be written: {error.strerror}", where=Where(kind="hand-over")
        )

    def _copy(self, source: Path, target: Path) -> ReceiptEntry:
        with source.open("rb") as stream:
            wanted, _ = _hash(stream)
        if target.is_file():
            with target.open("rb") as stream:
                if _hash(stream)[0] == wanted:
                    return self._read_back(target, wanted)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.part")
        try:
            with source.open("rb") as reader, beside.open("wb") as writer:
                while chunk := reader.read(_CHUNK):
                    writer.write(chunk)
                writer.flush()
                os.fsync(writer.fileno())
            self._read_back(beside, wanted)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
        _sync_folder(target.parent)
        return self._read_back(target, wanted)

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.part")
        try:
            with beside.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        _sync_folder(path.parent)

    def _read_back(self, path: Path, wanted: str) -> ReceiptEntry:
        with path.open("rb") as stream:
            found, size = _hash(stream)
        if found != wanted:
            raise HandoverError(
                "a file at the target differs from its source", where=Where(kind="hand-over", sha256=wanted)
            )
        final = path.with_name(path.name.removeprefix(".").removesuffix(".part"))
        return ReceiptEntry(name=final.relative_to(self._root).as_posix(), size=size, sha256=found)

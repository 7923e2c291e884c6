"""What every hand-over target can do, and the receipt it gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict


class ReceiptEntry(BaseModel):
    """One file at the target, as it was read back there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Path relative to the target, with forward slashes."""
    size: int
    sha256: str


class Receipt(BaseModel):
    """Proof of a hand-over: every file with the checksum read back at the target."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str
    entries: tuple[ReceiptEntry, ...]


class Target(Protocol):
    """A place for results; every operation may be repeated."""

    name: str

    def deliver(self, folder: str, files: Mapping[str, Path]) -> Receipt:
        """Copy files into a folder of the target; the folder's receipt is written last.

        Args:
            folder: Relative to the target, with forward slashes.
            files: Local source by name relative to ``folder``.

        Raises:
            HandoverError: A file could not be written, or what was read back differs.
        """
        ...

    def state(self, folder: str, name: str, content: bytes) -> ReceiptEntry:
        """Write one small file of our own making, replacing an older one."""
        ...

    def withdraw(self, folder: str, name: str) -> None:
        """Remove one small file of our own making, if it stands there."""
        ...

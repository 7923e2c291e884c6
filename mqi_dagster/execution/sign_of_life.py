"""Signs of life: how anybody on this machine knows whether the worker of a run still lives.

A worker holds a lock on a file of its own until its process ends, however that happens; the kernel lets go of
it. So the answer depends on no clock, no database and no process number, and is right after a reboot as well.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.execution.locks import is_held

_SAFE = re.compile(r"[A-Za-z0-9_-]{1,100}")
_held: list[int] = []
"""Descriptors that stay open until this process ends, after the last word about its run was written."""


class Life(StrEnum):
    """What is known of a run's worker."""

    ALIVE = "alive"
    """It lives, even where it does nothing: stopped, or waiting for a database that is away."""
    DEAD = "dead"
    NEVER_SEEN = "never seen"
    """It has given no sign, yet or ever."""


class SignsOfLife:
    """The signs that run workers of this machine give.

    Args:
        folder: Where they stand; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def give(self, run_id: str) -> int:
        """Show from now on, until this process ends, that the worker of a run lives.

        Returns:
            The descriptor that holds the sign.

        Raises:
            InfrastructureError: The disk does not take it.
        """
        path = self._path(run_id)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _held.append(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Under its own name only once it is locked: without a lock it would look dead.
            beside.rename(path)
            return descriptor
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InfrastructureError(f"the worker cannot give a sign of life: {reason}") from None

    @contextmanager
    def giving(self, run_id: str) -> Iterator[None]:
        """Show that the worker of a run lives, while the block lasts: for one who works on many in turn.

        The sign goes with the block where that ends well; otherwise it stays, and tells of a dead worker.

        Raises:
            InfrastructureError: The disk does not take it.
        """
        descriptor = self.give(run_id)
        try:
            yield
            self.forget(run_id)
        finally:
            _held.remove(descriptor)
            os.close(descriptor)

    def of(self, run_id: str) -> Life:
        """What is known of a run's worker.

        Raises:
            InfrastructureError: The disk cannot be read.
        """
        try:
            held = is_held(self._path(run_id))
        except OSError as error:
            raise InfrastructureError(f"a sign of life cannot be read: {error.strerror}") from None
        return {None: Life.NEVER_SEEN, True: Life.ALIVE, False: Life.DEAD}[held]

    def known(self) -> list[str]:
        """The runs whose workers have given a sign that was not forgotten since."""
        if not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir() if _SAFE.fullmatch(path.name))

    def forget(self, run_id: str) -> None:
        """Remove the sign of a run that has ended."""
        self._path(run_id).unlink(missing_ok=True)

    def _path(self, run_id: str) -> Path:
        if not _SAFE.fullmatch(run_id):
            raise ValueError("a run id must be a safe file name")
        return self._folder / run_id

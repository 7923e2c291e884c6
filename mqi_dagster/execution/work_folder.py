"""A folder that server and workers have mounted: where the files of a lease stand, and that they are safe.

A job waits as ``waiting/<job>.<token>`` and is claimed by being renamed into ``claimed/``. What else
belongs to that lease has the same name in the other folders; the server removes what belongs to none.
"""

from __future__ import annotations

import os
import re
import stat
from enum import StrEnum
from pathlib import Path

from pydantic import Field

from mqi_dagster.errors import ConfigurationError, InputError
from mqi_dagster.execution.work import WORK_ID, End, Ended, MadeOutput, Part
from mqi_dagster.files import write_whole

LEASE_NAME = re.compile(rf"({WORK_ID})\.([0-9]{{1,9}})")
LARGEST_JSON = 4 << 20


class Shelf(StrEnum):
    """The folders below the shared one."""

    WAITING = "waiting"
    CLAIMED = "claimed"
    INPUTS = "inputs"
    BEATS = "beats"
    """A `Heartbeat` each; that the file's time changes is the heartbeat, whatever it is."""
    LOGS = "logs"
    OUTPUTS = "outputs"
    ENDED = "ended"
    CANCELLED = "cancelled"
    WORKERS = "workers"
    """The `Capabilities` of each worker, by its name."""


class GivenBack(Part):
    """What a worker leaves in `Shelf.ENDED`."""

    end: End
    ended: Ended = Ended()
    outputs: dict[int, MadeOutput] = Field(default_factory=dict)
    """By number, from 1: ``outputs/<job>.<token>.<number>``."""


class SharedFolder:
    """The shared folder.

    Args:
        root: The folder, which an administrator has made.

    Raises:
        ConfigurationError: It is not there, a link, or everybody may write there, or put another one there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        mode = require_safe(root)
        self.file_mode = 0o660 if mode & stat.S_IWGRP else 0o600
        """Of what is written there."""
        for shelf in Shelf:
            path = root / shelf.value
            if not os.path.lexists(path):
                path.mkdir(exist_ok=True)
                path.chmod(mode)
            _require_own(path)

    def path(self, shelf: Shelf, name: str) -> Path:
        """A file of it."""
        return self._root / shelf.value / name

    def names(self, shelf: Shelf) -> list[str]:
        """What stands in one of its folders and is whole, by name."""
        return sorted(one for one in os.listdir(self._root / shelf.value) if not one.startswith("."))  # noqa: PTH208

    def open(self, shelf: Shelf, name: str) -> int:
        """A descriptor of a file of it, for reading.

        Raises:
            OSError: It is not there.
            InputError: It is a link, or no file.
        """
        path = self.path(shelf, name)
        if stat.S_ISLNK(path.lstat().st_mode):
            raise InputError(f"a link stands among the files of the shared folder ({shelf.value})")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InputError(f"something else than a file stands in the shared folder ({shelf.value})")
        return descriptor

    def read(self, shelf: Shelf, name: str, offset: int = 0, longest: int = LARGEST_JSON) -> bytes:
        """A part of a file of it; see `open`."""
        with os.fdopen(self.open(shelf, name), "rb") as stream:
            stream.seek(offset)
            return stream.read(longest)

    def write(self, shelf: Shelf, name: str, content: bytes) -> None:
        """Write a file of it, whole or not at all; OSError where that fails."""
        write_whole(self.path(shelf, name), content, self.file_mode)

    def remove(self, shelf: Shelf, name: str) -> None:
        """Remove a file of it; nothing where there is none."""
        self.path(shelf, name).unlink(missing_ok=True)


def require_safe(root: Path) -> int:
    """The mode of the shared folder; see `SharedFolder` for the errors."""
    mode = _require_own(root)
    here, above = root.lstat(), root.parent.stat()
    ours = here.st_uid in (0, os.geteuid()) or here.st_dev != above.st_dev
    if above.st_mode & stat.S_IWOTH and not ours:
        raise ConfigurationError(
            "the shared folder belongs to another account, in a folder where everybody may make one: make it"
            " elsewhere (/srv), or mount it"
        )
    return mode


def _require_own(path: Path) -> int:
    """The mode of a folder that not everybody may write to."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        raise ConfigurationError("the shared folder is not there: is it mounted?") from None
    if not stat.S_ISDIR(mode):
        raise ConfigurationError("the shared folder, or one in it, is a link or no folder")
    if mode & stat.S_IWOTH:
        raise ConfigurationError("everybody may write to the shared folder: chmod o-w, and give it a group")
    return stat.S_IMODE(mode)

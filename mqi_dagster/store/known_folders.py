"""Folders of a site that may lie on a share: is it the one that was seen before, or an empty mount point?

An unmounted share leaves an empty folder in its place. A folder is known by its inode: that of a share's root
stays over unmounts, reboots and servers that change their device numbers, and a mount point has its own. Only
an *empty* folder of another inode is taken for a mount point: whatever stands in one that holds folders is
what there is, so that a share that was moved, or replaced by a folder, keeps nobody waiting.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mqi_dagster.files import write_whole

_ANSWER_SECONDS = 5.0
_asked: dict[str, threading.Thread] = {}
"""Questions that were not answered in time: a share whose server is gone may hold one up for ever."""


@dataclass(frozen=True, slots=True)
class FolderTrouble:
    """Why a folder is not what it should be."""

    text: str
    """For people, without a path."""
    replaced: bool = False
    """Whether nothing, or an empty folder, is in the place of the one that was seen before: a share that is
    not mounted, or one that was made anew on purpose."""


@dataclass(frozen=True, slots=True)
class KnownFolder:
    """One folder, and what was written down of it.

    Args:
        record: Where that stands; shared by all folders of a site.
        role: Its name there.
        folder: The folder.
    """

    record: Path
    role: str
    folder: Path

    def trouble(self) -> FolderTrouble | None:
        """Why it is not what it was; None where it is.

        Raises:
            OSError: It cannot be listed.
        """
        holds_folders, inode = self._inspect()
        known = self._known()
        if holds_folders or known is None or known == inode:
            return None
        text = "it is empty and another folder than before, as the mount point of an unmounted share is"
        return FolderTrouble(text, replaced=True)

    def was_seen(self) -> bool:
        """Whether it was ever written down."""
        return self._known() is not None

    def note(self) -> None:
        """Write down which folder it is, once it holds something.

        Raises:
            OSError: It cannot be listed, or the record cannot be written.
        """
        holds_folders, inode = self._inspect()
        if not holds_folders or self._known() == inode:
            return
        everything = self._read()
        everything[self.role] = {"folder": str(self.folder), "inode": inode}
        # The first to look at a new site's inbox may be the first to write anything at all.
        self.record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self.record, json.dumps(everything, indent=1).encode())

    def _inspect(self) -> tuple[bool, int]:
        with os.scandir(self.folder) as entries:
            return any(entry.is_dir() for entry in entries), self.folder.stat().st_ino

    def _known(self) -> int | None:
        entry = self._read().get(self.role)
        # One that the settings have put elsewhere is a new one.
        if not isinstance(entry, dict) or entry.get("folder") != str(self.folder):
            return None
        inode = entry.get("inode")
        return inode if isinstance(inode, int) else None

    def _read(self) -> dict[str, object]:
        try:
            found = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # Nothing depends on it but this: what cannot be read is written anew.
            return {}
        return dict(found) if isinstance(found, dict) else {}


def in_time(name: str, ask: Callable[[], FolderTrouble | None]) -> FolderTrouble | None:
    """The answer to a question to a file system that may hang; at most one stays open for each name.

    Args:
        name: Of the question.
        ask: Asks it; an operating-system error is an answer, too.
    """
    if (open_one := _asked.get(name)) is not None and open_one.is_alive():
        return FolderTrouble("it does not answer")
    said: list[FolderTrouble | None] = []

    def run() -> None:
        try:
            said.append(ask())
        except OSError as error:
            said.append(FolderTrouble(f"it cannot be read: {error.strerror or type(error).__name__}"))

    thread = threading.Thread(target=run, name=f"asks {name}", daemon=True)
    thread.start()
    thread.join(_ANSWER_SECONDS)
    if not said:
        _asked[name] = thread
        return FolderTrouble(f"it has not answered within {_ANSWER_SECONDS:g} s")
    _asked.pop(name, None)
    return said[0]

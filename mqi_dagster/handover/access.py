"""Who may read what is handed over: its owner alone, or a group as well; never everybody."""

from __future__ import annotations

import grp
import os
from dataclasses import dataclass
from pathlib import Path

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.settings import Handover, HandoverAccess


@dataclass(frozen=True, slots=True)
class Access:
    """Modes of what is handed over."""

    file_mode: int = 0o600
    folder_mode: int = 0o700
    group: int | None = None
    """Its number on this machine; None for that of the account, or of the folder."""

    def give(self, path: Path) -> None:
        """Give a file or folder of ours its mode and group.

        Raises:
            ConfigurationError: The account is not in the group.
            OSError: The disk failed.
        """
        mode = self.folder_mode if path.is_dir() else self.file_mode
        found = path.stat()
        if self.group is not None and found.st_gid != self.group:
            try:
                os.chown(path, -1, self.group)
            except PermissionError:
                raise ConfigurationError(
                    "this account is not in the group that handover.group names: add it, and start anew"
                ) from None
        if found.st_mode & 0o777 != mode:
            path.chmod(mode)

    def make_folder(self, folder: Path, root: Path) -> None:
        """Make a folder below the target, and the target itself, as they are to be.

        A target that is there keeps what it allows, and gets what the group needs to come in.
        """
        if self.group is not None and root.is_dir() and root.stat().st_uid == os.geteuid():
            allowed = root.stat().st_mode & 0o777
            if root.stat().st_gid != self.group or allowed & 0o050 != 0o050:
                self.give(root)
        if not root.is_dir():
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.give(root)
        one = root
        for part in folder.relative_to(root).parts:
            one = one / part
            one.mkdir(mode=self.folder_mode, exist_ok=True)
            if one.stat().st_uid == os.geteuid():
                self.give(one)


PRIVATE = Access()


def access_of(settings: Handover) -> Access:
    """What the settings want.

    Raises:
        ConfigurationError: The group is not known on this machine.
    """
    if settings.access is HandoverAccess.OWNER:
        return PRIVATE
    number = None
    if settings.group is not None:
        try:
            number = grp.getgrnam(settings.group).gr_gid
        except KeyError:
            raise ConfigurationError(
                f"handover.group: there is no group {settings.group!r} on this machine"
            ) from None
    return Access(0o640, 0o750, number)

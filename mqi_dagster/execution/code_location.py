"""Where the code location of a site answers: a socket that only this user can reach, unlike a port."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from pathlib import Path

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.settings import Settings

LOCATION = "mqi"
"""Its name in Dagster."""
_SOCKET_LENGTH = 100
"""A Unix socket's path may have 107 characters."""
_ANSWER_SECONDS = 5.0


def socket_path(settings: Settings) -> Path:
    """The code location's socket: only this user can reach it, unlike a port."""
    inside = settings.paths.state.resolve() / "code-location.sock"
    if len(os.fsencode(inside)) <= _SOCKET_LENGTH:
        return inside
    digest = hashlib.sha256(os.fsencode(inside)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"mqi-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ConfigurationError("the folder of the code location's socket belongs to another user")
    return folder / "code-location.sock"


def remove_sockets(settings: Settings) -> None:
    """Remove what a code location that has ended leaves: its socket, and that of its warm process.

    Where run workers live on that were forked from one, nobody wants another worker of it.
    """
    path = socket_path(settings)
    for left in (path, *path.parent.glob("listener-*")):
        left.unlink(missing_ok=True)


def answers(path: Path) -> bool:
    """Whether somebody listens on a socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_ANSWER_SECONDS)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True

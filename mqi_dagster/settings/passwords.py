"""Passwords and shared secrets, each in a file of its own: never in the settings themselves."""

from __future__ import annotations

import stat
from pathlib import Path

from mqi_dagster.errors import ConfigurationError


def read_password(path: Path, what: str) -> str:
    """The secret in a file of this user that nobody else can read.

    Args:
        path: The file.
        what: It in words, for the error.

    Raises:
        ConfigurationError: The file is missing, open to others, or empty.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(f"{what} cannot be read: {reason}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(f"{what} has mode {mode:04o}, open to others; chmod 600")
    if not text:
        raise ConfigurationError(f"{what} is empty")
    return text

"""Locks that live exactly as long as a process: taking one, and whether somebody holds one now."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from mqi_dagster.settings import Settings

_TRIES = 25
_WAIT_SECONDS = 0.2


def service_lock(settings: Settings, service: str) -> Path:
    """The lock that a service of a site holds for as long as it lives."""
    return settings.paths.state / f"service-{service}.lock"


def hold(path: Path, *, tries: int = _TRIES) -> int | None:
    """Hold the lock on a file until this process ends; its descriptor, None where another process has it.

    Whoever only looks has it for a moment, too: it is tried for some seconds. The file's time tells since
    when it is held.

    Args:
        path: The file, which is made where there is none.
        tries: How often it is tried, five times a second.

    Raises:
        OSError: The file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for left in reversed(range(tries)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_WAIT_SECONDS if left else 0)
            continue
        os.utime(descriptor)
        return descriptor
    os.close(descriptor)
    return None


def is_held(path: Path) -> bool | None:
    """Whether a living process holds the lock on a file; None where the file is not there.

    Raises:
        OSError: The file cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # Shared: two that look at the same moment must not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

"""The services of a site, and who runs them: a lock that lives exactly as long as the process."""

from __future__ import annotations

import fcntl
import os
from enum import StrEnum
from pathlib import Path

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.execution.locks import is_held
from mqi_dagster.settings import Settings


class Service(StrEnum):
    """A process of a site."""

    CODE = "code"
    """The code location: holds the definitions, evaluates sensors, starts the runs."""
    DAEMON = "daemon"
    PAGES = "pages"
    VIEWER = "viewer"
    """The same pages, on which nothing can be started or changed."""
    WATCH = "watch"
    """Raises and tells the alarms of the others, for which these would be too dead."""


def _path(settings: Settings, service: Service) -> Path:
    return settings.paths.state / f"service-{service}.lock"


def take(settings: Settings, service: Service) -> int:
    """Hold a service's lock until this process ends, also as another program; the descriptor.

    Raises:
        ConfigurationError: Another process is this service already.
    """
    settings.paths.state.mkdir(parents=True, exist_ok=True)
    lock = os.open(_path(settings, service), os.O_RDWR | os.O_CREAT, 0o600)
    # It must outlive the exec; the programs close it in what they start.
    os.set_inheritable(lock, True)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConfigurationError(f"the service {service} of this site runs already") from None
    return lock


def held(settings: Settings) -> list[Service]:
    """The services that a service manager runs now."""
    return [service for service in Service if is_held(_path(settings, service))]


def ever_held(settings: Settings) -> bool:
    """Whether a service manager has ever run services of this site."""
    return any(_path(settings, service).exists() for service in Service)

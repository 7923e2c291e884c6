"""The services of a site, and who runs them: a lock that lives exactly as long as the process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.execution.locks import hold, is_held, service_lock
from mqi_dagster.settings import Settings


class Service(StrEnum):
    """A process of a site."""

    CODE = "code"
    """The code location: holds the definitions, evaluates sensors, starts the runs."""
    DAEMON = "daemon"
    PAGES = "pages"
    VIEWER = "viewer"
    """The same pages, on which nothing can be started or changed."""
    WEB = "web"
    """Our own pages: worklist, live board, cases and courses."""
    WATCH = "watch"
    """Raises and tells the alarms of the others, for which these would be too dead."""


DEV = "mqi dev"
_TRIES = 5
"""Whoever only looks holds a lock for a moment."""


def take(settings: Settings, service: Service, *, by: str = "") -> int:
    """Hold a service's lock until this process ends, also as another program; the descriptor.

    Args:
        settings: Of the site.
        service: Which.
        by: `DEV` where a person has started it, and not a service manager.

    Raises:
        ConfigurationError: Another process is this service already.
    """
    settings.paths.state.mkdir(parents=True, exist_ok=True)
    lock = hold(service_lock(settings, service), tries=_TRIES)
    if lock is None:
        stop = "systemctl stop mqi.target" if service in managed(settings) else "mqi stop"
        raise ConfigurationError(f"the service {service} of this site runs already: {stop} ends it")
    # For a moment it has the text of who held it before; nobody who only looks minds.
    os.truncate(lock, 0)
    os.write(lock, by.encode())
    # It must outlive the exec; the programs close it in what they start.
    os.set_inheritable(lock, True)
    return lock


def held(settings: Settings) -> list[Service]:
    """The services that run now, whoever has started them."""
    return [service for service in Service if is_held(service_lock(settings, service))]


@dataclass(frozen=True, slots=True)
class ServiceSeen:
    """A service that has run here once."""

    service: Service
    runs: bool
    started_at: datetime
    """When it was started last."""


def seen(settings: Settings) -> tuple[ServiceSeen, ...]:
    """Every service of a site that has ever run, whether it runs now, and since when."""
    found = []
    for service in Service:
        path = service_lock(settings, service)
        runs = is_held(path)
        if runs is not None:
            found.append(ServiceSeen(service, runs, datetime.fromtimestamp(path.stat().st_mtime, UTC)))
    return tuple(found)


def managed(settings: Settings) -> list[Service]:
    """The services that a service manager runs now."""
    return [service for service in held(settings) if service_lock(settings, service).read_text() != DEV]


def ever_held(settings: Settings) -> bool:
    """Whether services of this site have ever run."""
    return any(service_lock(settings, service).exists() for service in Service)

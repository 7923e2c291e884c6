"""Since when the sensors of a site can be evaluated: its watch, its code location and its daemon live.

Dagster writes down the last sign of life of its daemon, and not since when it lives. Whoever looks again and
again notes that beside the ledger, whenever it changes.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from mqi_dagster.execution.code_location import socket_path
from mqi_dagster.execution.locks import is_held, service_lock
from mqi_dagster.files import write_whole
from mqi_dagster.settings import Settings

WATCH_LOCK = "watch.lock"
"""Held by the service `watch` for as long as it lives; below the state folder."""
SILENT_SECONDS = 75
"""Without a sign of life of Dagster's daemon, which gives one every 30 s: two were missed."""
_DAEMON = "daemon"
"""The service that is Dagster's daemon."""
_DAEMONS = ("SENSOR", "QUEUED_RUN_COORDINATOR")
_RECORD = "daemon.json"
_AWAY = ""
"""In place of the daemon's identifier while it gives no sign of life."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Whether Dagster's daemon lives: by its process, and by heartbeats, which one that hangs gives not."""

    seen: datetime | None
    alive: bool
    daemon: str = _AWAY
    """What it calls itself: another name after each start."""
    of_service: bool = False
    """Whether the site's service, which holds a lock for as long as it lives, is there."""

    @classmethod
    def of(cls, instance: dg.DagsterInstance, settings: Settings, now: datetime) -> Heartbeat:
        """The heartbeat of a site's daemon.

        Args:
            instance: Dagster's records.
            settings: Of the site.
            now: The time.
        """
        beats = instance.run_storage.get_daemon_heartbeats()
        known = [beats[name] for name in _DAEMONS if name in beats]
        if not known:
            return cls(None, False)
        newest = max(known, key=lambda beat: beat.timestamp)
        seen = datetime.fromtimestamp(newest.timestamp, UTC)
        held = is_held(service_lock(settings, _DAEMON))
        noted = _known(settings)
        # The last sign of a process that has ended would be believed for as long. One that somebody has
        # started without the service calls itself otherwise, and is judged by its own signs.
        ended = held is False and noted is not None and newest.daemon_id == noted.service
        alive = abs(now - seen) <= timedelta(seconds=SILENT_SECONDS) and not ended
        return cls(seen, alive, (newest.daemon_id or _AWAY) if alive else _AWAY, held is True)


def note_daemon(settings: Settings, heartbeat: Heartbeat) -> None:
    """Write down that the daemon has come back or gone, where that is news.

    Args:
        settings: Of the site.
        heartbeat: Of the daemon, as it is now.
    """
    known = _known(settings)
    service = "" if known is None else known.service
    if heartbeat.of_service and heartbeat.daemon != _AWAY:
        service = heartbeat.daemon
    if known is not None and (known.daemon, known.service) == (heartbeat.daemon, service):
        return
    since = daemon_since(settings, heartbeat)
    entry = {
        "daemon": heartbeat.daemon,
        "since": since.isoformat() if since is not None else None,
        "service": service,
    }
    # On a full disk, which is an alarm of its own, the daemon counts as one that has just come back.
    with suppress(OSError):
        write_whole(_record(settings), json.dumps(entry, indent=1).encode())


def daemon_since(settings: Settings, heartbeat: Heartbeat) -> datetime | None:
    """Since when the daemon lives without a break; None where nobody knows, or it does not live."""
    known = _known(settings)
    if known is None or not heartbeat.alive:
        return None
    return known.since if known.daemon == heartbeat.daemon else heartbeat.seen


def evaluated_since(settings: Settings, heartbeat: Heartbeat) -> datetime | None:
    """From when on sensors are evaluated: which tick is the last one before that says nothing of them.

    Args:
        settings: Of the site.
        heartbeat: Of the daemon, as it is now.
    """
    moments = [
        _time_of(settings.paths.state / WATCH_LOCK),
        _time_of(socket_path(settings)),
        _time_of(service_lock(settings, _DAEMON)),
        daemon_since(settings, heartbeat),
    ]
    return max((moment for moment in moments if moment is not None), default=None)


def _time_of(path: Path) -> datetime | None:
    """When a service made or took a file at its start."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return None


def _record(settings: Settings) -> Path:
    return settings.paths.state / _RECORD


@dataclass(frozen=True, slots=True)
class _Known:
    """What was noted of the daemon."""

    daemon: str
    since: datetime | None
    service: str
    """The daemon that the site's service was last."""


def _known(settings: Settings) -> _Known | None:
    try:
        content = json.loads(_record(settings).read_text(encoding="utf-8"))
        since = content["since"]
        at = datetime.fromisoformat(since) if since is not None else None
        return _Known(str(content["daemon"]), at, str(content.get("service", "")))
    except (OSError, ValueError, KeyError, TypeError):
        # Nothing depends on it but this: what cannot be read is written anew.
        return None

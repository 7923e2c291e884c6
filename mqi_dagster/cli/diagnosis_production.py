"""What `mqi doctor` looks at where a clinic runs the site: records, service manager, proxy, backup."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dagster._core.instance import DagsterInstance
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from mqi_dagster.cli import service_locks
from mqi_dagster.cli.backup_making import LAST_BACKUP
from mqi_dagster.cli.findings import Finding, Verdict
from mqi_dagster.cli.service_locks import Service
from mqi_dagster.errors import MqiError
from mqi_dagster.ledger.database import revision_of, try_out
from mqi_dagster.ledger.place import ledger_url, server_url
from mqi_dagster.ledger.tables import REVISION
from mqi_dagster.settings import Settings

_SYSTEMD = Path("/run/systemd/system")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_OLDEST_BACKUP = timedelta(days=2)
_PER_PROCESS = 6
"""Connections that a process of Dagster holds at most at once, with the ledger's own."""
_BOARDS, _PER_BOARD = 10, 3
"""Boards that are left open, and what each keeps: one to the runs, one to the events, one to the ledger."""
_CONNECT_SECONDS = 10
_FACTS = """
SELECT current_setting('server_version'), current_user, pg_database_size(current_database()),
       current_setting('max_connections')::int, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
       (SELECT count(*) FROM pg_stat_activity)
"""


def examine_records(settings: Settings) -> Iterator[Finding]:
    """The database server, where there is one, and the ledger on it or in its file."""
    reachable = True
    if settings.database.host is not None:
        findings = list(_server(settings))
        reachable = findings[0].verdict is not Verdict.FAULT
        yield from findings
    if reachable:
        yield _ledger(settings)


def _server(settings: Settings) -> Iterator[Finding]:
    try:
        url = server_url(settings)
        assert url is not None
    except MqiError as error:
        yield Finding("database", Verdict.FAULT, error.message, "see database.password_file")
        return
    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": _CONNECT_SECONDS})
    try:
        with engine.connect() as connection:
            version, role, size, most, superuser, now = connection.execute(text(_FACTS)).one()
    except SQLAlchemyError as error:
        words = str(getattr(error, "orig", error)).strip().splitlines() or [type(error).__name__]
        yield Finding("database", Verdict.FAULT, words[0], "start the server; see the section database")
        return
    finally:
        engine.dispose()
    found = f"PostgreSQL {version}, role {role}, {size / 1e6:.0f} MB"
    if superuser:
        yield Finding(
            "database", Verdict.WARNING, f"{found}, a superuser", "a role that owns this database only"
        )
    else:
        yield Finding("database", Verdict.OK, found)
    needed = _PER_PROCESS * (settings.execution.max_runs + len(Service)) + _BOARDS * _PER_BOARD
    room = f"{most} allowed, {now} in use, ours need up to {needed}, {_BOARDS} open boards among them"
    verdict = Verdict.OK if needed <= most else Verdict.WARNING
    yield Finding(
        "connections", verdict, room, "" if needed <= most else "raise max_connections of the server"
    )


def _ledger(settings: Settings) -> Finding:
    # Opening it as the services do would migrate it; a diagnosis changes nothing.
    try:
        found = revision_of(ledger_url(settings))
    except MqiError as error:
        return Finding("ledger", Verdict.FAULT, f"cannot be read: {error.message}", "restore the backup")
    if found is None:
        return Finding("ledger", Verdict.OK, "none yet; the first start makes it")
    try:
        try_out(ledger_url(settings))
    except MqiError as error:
        advice = "where it is damaged, restore the backup; else see its owner, mode and attributes"
        return Finding("ledger", Verdict.FAULT, error.message, advice)
    if found == REVISION:
        return Finding("ledger", Verdict.OK, f"revision {found}, whole, and takes what is written")
    words = f"revision {found}, this version writes {REVISION}"
    if found < REVISION:
        return Finding("ledger", Verdict.WARNING, words, "back it up; the next start migrates it")
    return Finding("ledger", Verdict.FAULT, words, "update this installation, or restore the backup")


def examine_schema(instance: DagsterInstance) -> Finding:
    """Whether Dagster's tables are those of this version of Dagster."""
    behind = []
    storages = {
        "runs": instance.run_storage,
        "events": instance.event_log_storage,
        "schedules": instance.schedule_storage,
    }
    for name, storage in storages.items():
        version = storage.alembic_version() if storage is not None else None
        if version is not None and version[0] is not None and version[0] != version[1]:
            behind.append(name)
    if behind:
        found = f"{', '.join(behind)}: of another version of Dagster"
        return Finding("Dagster's tables", Verdict.WARNING, found, "stop, back up, dagster instance migrate")
    return Finding("Dagster's tables", Verdict.OK, "at the revision of this version")


def examine_units(settings: Settings) -> Iterator[Finding]:
    """What the service manager of this machine knows of us; nothing where there is none."""
    running = service_locks.held(settings)
    if running:
        missing = [service for service in Service if service not in running]
        found = f"run by a service manager: {', '.join(running)}"
        if missing:
            advice = f"systemctl start {' '.join(f'mqi-{name}' for name in missing)}"
            yield Finding("units", Verdict.WARNING, f"{found}; not running: {', '.join(missing)}", advice)
        else:
            yield Finding("units", Verdict.OK, found)
        return
    if not _SYSTEMD.is_dir():
        return
    names = [f"mqi-{service}.service" for service in Service]
    done = subprocess.run(
        ["systemctl", "is-active", *names], capture_output=True, text=True, check=False, timeout=30
    )
    states = dict(zip(Service, done.stdout.split(), strict=False))
    failed = [name for name, state in states.items() if state in ("failed", "activating")]
    if failed:
        advice = f"journalctl -u mqi-{failed[0]}"
        yield Finding("units", Verdict.FAULT, f"do not start: {', '.join(failed)}", advice)


def examine_way_in(settings: Settings) -> Finding:
    """Whether the pages, which have no login, are open to other machines."""
    host = settings.ui.host
    if host in _LOOPBACK:
        return Finding("way in", Verdict.OK, f"the pages listen on {host} alone")
    advice = "listen on 127.0.0.1, behind a proxy with a login (docs/production.md)"
    return Finding("way in", Verdict.WARNING, f"the pages listen on {host} and have no login", advice)


def examine_retention(settings: Settings) -> Finding:
    """What goes by itself, and whether anybody has to ask for it."""
    retention = settings.retention
    kept = [name for name in type(retention).model_fields if name != "daily" and getattr(retention, name)]
    how = "daily" if retention.daily else "by hand, mqi retention"
    return Finding("retention", Verdict.OK, f"{', '.join(kept) or 'nothing goes'}; {how}")


def examine_backup(settings: Settings, runs: int) -> Finding:
    """How old the last backup is."""
    try:
        content = json.loads((settings.paths.state / LAST_BACKUP).read_text(encoding="utf-8"))
        made = datetime.fromisoformat(content["made_at"])
    except FileNotFoundError:
        if runs == 0:
            return Finding("backup", Verdict.OK, "none yet, and nothing to lose")
        return Finding("backup", Verdict.WARNING, "none was ever made", "mqi backup, every night")
    except (OSError, ValueError, KeyError, TypeError):
        return Finding("backup", Verdict.WARNING, f"{LAST_BACKUP} is damaged", "mqi backup")
    age = datetime.now(UTC) - made
    found = f"the last one is of {made:%Y-%m-%d %H:%M} UTC" + (
        "" if content.get("data") else ", without the store"
    )
    if age > _OLDEST_BACKUP:
        return Finding("backup", Verdict.WARNING, found, "mqi backup, every night")
    return Finding("backup", Verdict.OK, found)

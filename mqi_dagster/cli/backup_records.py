"""Copies of a site's records: SQLite files by its online backup, a PostgreSQL database by ``pg_dump``."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.engine import make_url

from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.ledger.tables import VERSION_TABLE
from mqi_dagster.store.files import private_folder

_DEBIAN_PROGRAMS = Path("/usr/lib/postgresql")
_BUSY_SECONDS = 30.0
_CONNECT_SECONDS = 10


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database that may be in use, as it is at one moment.

    Raises:
        InfrastructureError: It cannot be read or written, or the copy is damaged.
    """
    private_folder(target.parent)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        reading = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
        writing = sqlite3.connect(target)
        try:
            reading.backup(writing)
            # A copy in WAL mode would grow two files beside itself as soon as somebody looks into it.
            writing.execute("PRAGMA journal_mode = DELETE").close()
        finally:
            writing.close()
            reading.close()
        _require_sound(target)
    except sqlite3.Error as error:
        raise InfrastructureError(f"{source.name} cannot be copied: {error}; it is damaged") from None


def _require_sound(copy: Path) -> None:
    """Read all of a copy: its pages are copied as they are, whatever stands in them.

    Raises:
        InfrastructureError: It is damaged, or empty.
    """
    opened = sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)
    try:
        found = [str(row[0]) for row in opened.execute("PRAGMA integrity_check(3)")]
        tables = opened.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
    finally:
        opened.close()
    if found != ["ok"]:
        raise InfrastructureError(
            f"{copy.name} is damaged: {found[0].splitlines()[0]}; restore the last good backup"
        )
    if not tables:
        raise InfrastructureError(f"{copy.name} is empty: its records are lost; restore the last good backup")


def dagster_databases(home: Path) -> list[Path]:
    """Dagster's SQLite files, in the order in which they are to be copied.

    What claims comes before what proves it: sensors' positions, then runs, then events. An older claim is
    made again and finds its result; a claim without proof would never be looked at again.
    """
    found = sorted(home.rglob("*.db"))

    def rank(path: Path) -> int:
        if path.parent.name == "schedules":
            return 0
        return 1 if path.name == "runs.db" else 3 if path.name == "index.db" else 2

    return sorted(found, key=rank)


def dump_server(url: str, target: Path) -> None:
    """Dump a PostgreSQL database as it is at one moment, in its own compressed format.

    Raises:
        ConfigurationError: There is no ``pg_dump`` here.
        InfrastructureError: It fails.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    _run(url, ["pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={target}"])
    if VERSION_TABLE not in _run(url, ["pg_restore", "--list", str(target)]):
        raise InfrastructureError("the dump holds no ledger: the backup would make no site")


def restore_server(url: str, dump: Path, *, overwrite: bool) -> None:
    """Read a dump into a database, all of it or nothing.

    Raises:
        ConfigurationError: There is no ``pg_restore`` here, or the database is not empty.
        InfrastructureError: It fails.
    """
    if not overwrite and (tables := _run(url, ["psql", "-XAtq", "-c", _COUNT_TABLES]).strip()) != "0":
        raise ConfigurationError(
            f"the database holds {tables} tables: name an empty one (--database), or give --overwrite"
        )
    clean = ["--clean", "--if-exists"] if overwrite else []
    options = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction", *clean]
    database = str(make_url(url).database)
    _run(url, ["pg_restore", *options, f"--dbname={database}", str(dump)])


_COUNT_TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"


def _run(url: str, argv: Sequence[str]) -> str:
    parsed = make_url(url)
    host, port = parsed.host or parsed.query.get("host"), parsed.port or parsed.query.get("port")
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        "PGHOST": str(host),
        "PGPORT": str(port),
        "PGUSER": str(parsed.username),
        "PGDATABASE": str(parsed.database),
        "PGCONNECT_TIMEOUT": str(_CONNECT_SECONDS),
        # In the environment only this user can read it; in a command everybody could.
        **({"PGPASSWORD": parsed.password} if parsed.password else {}),
    }
    done = subprocess.run(
        [str(_program(argv[0])), *argv[1:]],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InfrastructureError(f"{argv[0]} failed: {words[0]}")
    return done.stdout


def _program(name: str) -> Path:
    """The newest one: an older `pg_dump` refuses a newer server."""
    versions = [path for path in _DEBIAN_PROGRAMS.glob(f"*/bin/{name}") if path.parent.parent.name.isdigit()]
    if versions:
        return max(versions, key=lambda path: int(path.parent.parent.name))
    found = shutil.which(name)
    if found is None:
        raise ConfigurationError(f"{name} is not on this machine: install Debian's package postgresql-client")
    return Path(found)

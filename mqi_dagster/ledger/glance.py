"""A few words of a ledger for a shell that completes one: without SQLAlchemy, which loads for too long."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mqi_dagster.settings import Settings
from mqi_dagster.settings.passwords import read_password

LEDGER_FILE = "ledger.sqlite"
PASSWORD = "the database's password file"
_SECONDS = 1
_MOST = 200


def ledger_file(settings: Settings) -> Path:
    """The ledger's file where there is no server."""
    return settings.paths.state / LEDGER_FILE


def case_keys(settings: Settings, begin: str, kind: str = "case") -> list[str]:
    """Keys of cases, or of what else arrives, that begin so, the latest first.

    Raises:
        sqlite3.Error: Like those of psycopg2, where the ledger cannot be read.
        ConfigurationError: The file with the server's password cannot be used.
    """
    statement = 'SELECT "case" FROM mqi_arrival WHERE kind = ? AND substr("case", 1, ?) = ?'
    return _read(settings, f"{statement} ORDER BY first_seen DESC LIMIT {_MOST}", kind, len(begin), begin)


def beam_keys(settings: Settings, begin: str) -> list[str]:
    """Keys of beams that have been in work and begin so, the latest first; raises as `case_keys` does."""
    statement = "SELECT partition FROM mqi_progress WHERE substr(partition, 1, ?) = ?"
    part = "AND partition LIKE '%!_!_b%' ESCAPE '!'"
    order = f"ORDER BY updated_at DESC LIMIT {_MOST}"
    return _read(settings, f"{statement} {part} {order}", len(begin), begin)


def slot_names(settings: Settings) -> list[str]:
    """Host and index of every slot; raises as `case_keys` does."""
    return _read(settings, "SELECT DISTINCT host || '/' || kind || slot_index FROM mqi_slot")


def _read(settings: Settings, statement: str, *values: object) -> list[str]:
    connection: Any
    if settings.database.host is None:
        import sqlite3

        file = f"file:{quote(str(ledger_file(settings)))}?mode=ro"
        connection = sqlite3.connect(file, uri=True, timeout=_SECONDS)
    else:
        import psycopg2

        server = settings.database
        connection = psycopg2.connect(
            host=server.host,
            port=server.port,
            user=server.user,
            password=None if server.password_file is None else read_password(server.password_file, PASSWORD),
            dbname=server.name,
            connect_timeout=_SECONDS,
            options=f"-c default_transaction_read_only=on -c statement_timeout={_SECONDS * 1000}",
        )
        statement = statement.replace("%", "%%").replace("?", "%s")
    with closing(connection), closing(connection.cursor()) as cursor:
        cursor.execute(statement, values)
        return [str(row[0]) for row in cursor.fetchall()]

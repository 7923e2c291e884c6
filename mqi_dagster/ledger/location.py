"""Where a site's ledger is: a file below its state, or the server that Dagster's records are on."""

from __future__ import annotations

import os

from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from mqi_dagster.ledger.database import CONNECTION, sqlite_url
from mqi_dagster.ledger.glance import PASSWORD, ledger_file
from mqi_dagster.settings import Settings
from mqi_dagster.settings.passwords import read_password

DATABASE_VARIABLE = "MQI_DATABASE_URL"
"""Tells Dagster's processes the server's URL, so that no password stands in its own file."""
DRIVER = "postgresql+psycopg2"
"""Named in full: SQLAlchemy 2.1 reads the bare name as psycopg 3."""


def ledger_url(settings: Settings) -> str:
    """The URL of a site's ledger.

    Raises:
        ConfigurationError: The file with the password cannot be used.
    """
    return server_url(settings) or sqlite_url(ledger_file(settings))


def server_url(settings: Settings) -> str | None:
    """The URL of a site's PostgreSQL database, None where everything lies in files.

    Raises:
        ConfigurationError: The file with the password cannot be used.
    """
    database = settings.database
    if database.host is None:
        return None
    password = None if database.password_file is None else read_password(database.password_file, PASSWORD)
    socket = database.host.startswith("/")
    address = {"host": database.host, "port": str(database.port)} if socket else {}
    url = URL.create(
        DRIVER,
        username=database.user,
        password=password,
        host=None if socket else database.host,
        port=None if socket else database.port,
        database=database.name,
        # Here, because Dagster's own engines take no other options.
        query={**address, **{name: str(value) for name, value in CONNECTION.items()}},
    )
    return url.render_as_string(hide_password=False)


def announce_server(settings: Settings) -> None:
    """Tell Dagster in this process, and in those that it starts, where the server is.

    Raises:
        ConfigurationError: The file with the password cannot be used.
    """
    url = server_url(settings)
    if url is not None:
        os.environ[DATABASE_VARIABLE] = url
        # Dagster writes moments in UTC into columns without a zone: a session in another would shift them.
        os.environ["PGTZ"] = "UTC"


def database_lost(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, is a database that failed or is away.

    Dagster's own records raise the driver's errors as they are.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DBAPIError):
            if not isinstance(seen, IntegrityError | ProgrammingError | DataError):
                return True
        elif isinstance(seen, PoolTimeoutError) or type(seen).__module__.startswith("dagster_postgres"):
            return True
        seen = seen.__cause__ or seen.__context__
    return False

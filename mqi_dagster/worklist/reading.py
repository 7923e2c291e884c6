"""Opening a site's records for one who only looks, and saying plainly when they are away."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from mqi_dagster.errors import InfrastructureError

_READ_ONLY = "-c default_transaction_read_only=on"


def read_only_process() -> None:
    """Make every connection to a database that this process opens from now on a reading one.

    Dagster opens its storages as if it were to write, so that nothing less would be certain.
    """
    # libpq gives these to every session, whoever opens it.
    os.environ["PGOPTIONS"] = " ".join(filter(None, (os.environ.get("PGOPTIONS"), _READ_ONLY)))
    event.listen(Engine, "connect", _query_only)


def _query_only(connection: Any, _record: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA query_only = ON").close()


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what Dagster's storages raise into one error that names no address and no statement.

    Raises:
        InfrastructureError: A database is away.
    """
    try:
        yield
    except _away() as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        words = str(cause.strerror if isinstance(cause, OSError) else cause).strip().splitlines()
        reason = words[0] if words else type(cause).__name__
        raise InfrastructureError(f"Dagster's database cannot be read: {reason}") from None


def _away() -> tuple[type[Exception], ...]:
    # What Dagster's PostgreSQL storages raise after their own tries, where they are in use.
    module = sys.modules.get("dagster_postgres.utils")
    further = () if module is None else (module.DagsterPostgresException,)
    return (SQLAlchemyError, sqlite3.Error, OSError, *further)

"""A fresh ledger on every database that it may lie on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mqi_dagster.ledger.database import sqlite_url
from mqi_dagster.ledger.ledger import Ledger
from tests.ledger.ledger_doubles import Clock, Forked
from tests.postgres.postgres_server import Server, on_postgres, running_postgres


@pytest.fixture
def fork() -> Callable[[Callable[[], None]], Forked]:
    """Starts a function in a process of its own."""
    return Forked


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server of this session's own; skips where the package is missing."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", on_postgres])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "ledger.db")
    server: Server = request.getfixturevalue("postgres")
    return server.new_database("ledger")


@pytest.fixture
def clock() -> Clock:
    """A clock that stands until it is turned."""
    return Clock()


@pytest.fixture
def ledger(url: str, clock: Clock) -> Iterator[Ledger]:
    """An empty ledger."""
    opened = Ledger.open(url, clock)
    yield opened
    opened.close()

"""Fixtures of the chain's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mqi_dagster.ledger.location import DATABASE_VARIABLE
from tests.chain.chain import Chain
from tests.chain.chain_places import Made, chain_on
from tests.postgres.postgres_server import Server, on_postgres, running_postgres

# The engine and Dagster's own records say nothing here that the tests need.
os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")


@pytest.fixture(autouse=True)
def plain_and_quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures in the metadata and a short poll, except where a test asks for ``as_in_production``."""
    if "as_in_production" in request.fixturenames:
        return
    from mqi_dagster.execution.local import LocalExecutor
    from mqi_dagster.lifecycle import metadata

    monkeypatch.setattr(metadata, "of_interpretation", lambda *arguments: {})
    monkeypatch.setattr(metadata, "of_rt_dose", lambda *arguments: {})
    monkeypatch.setattr(LocalExecutor, "poll_seconds", 0.05)


@pytest.fixture
def as_in_production() -> None:
    """Leaves pictures and poll times as they are."""


@pytest.fixture
def looks_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tree of courses is looked at in this process."""
    from mqi_dagster.sensors import courses
    from tests.chain.course_site import LookHere

    monkeypatch.setattr(courses, "ScanProcess", LookHere)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server of this session's own; skips where the package is missing."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["files", on_postgres])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Makes a chain whose records lie in files, or all on a PostgreSQL server."""
    if request.param == "files":
        yield Chain
        return
    server: Server = request.getfixturevalue("postgres")
    monkeypatch.setenv(DATABASE_VARIABLE, server.new_database("chain"))
    with ExitStack() as opened:
        yield lambda folder, settings=None: chain_on(server, "chain", opened, folder, settings)

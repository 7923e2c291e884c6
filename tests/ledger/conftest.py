"""A fresh ledger on every database that this machine has."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy
from ledger_doubles import Clock, Forked

from mqi_dagster.ledger import Ledger, sqlite_url


@pytest.fixture
def fork() -> Callable[[Callable[[], None]], Forked]:
    """Starts a function in a process of its own."""
    return Forked


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server of this session's own, on a socket; skips where there is none."""
    if shutil.which("initdb") is None or shutil.which("postgres") is None:
        pytest.skip("PostgreSQL is not installed here")
    folder = Path(f"/tmp/mqi-pg-{os.getpid()}")
    folder.mkdir(mode=0o700)
    user = None
    if os.getuid() == 0:
        user = "postgres"
        shutil.chown(folder, user)
    data = folder / "data"
    subprocess.run(
        ["initdb", "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync"],
        check=True,
        user=user,
        stdout=subprocess.DEVNULL,
        cwd=folder,
    )
    server = subprocess.Popen(
        ["postgres", "-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"],
        user=user,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )
    try:
        limit = time.monotonic() + 20
        while not (folder / ".s.PGSQL.5432").exists():
            assert time.monotonic() < limit, "PostgreSQL does not start"
            time.sleep(0.05)
        time.sleep(0.3)
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        # Fast: a ledger that is still open keeps its connection.
        server.send_signal(signal.SIGINT)
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "ledger.db")
    server = str(request.getfixturevalue("postgres"))
    engine = sqlalchemy.create_engine(server.replace("postgresql:", "postgresql+psycopg2:"))
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    engine.dispose()
    return server


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

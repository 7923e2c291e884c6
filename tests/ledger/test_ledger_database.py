"""Opening and migrating the ledger."""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.ledger.database import sqlite_url
from mqi_dagster.ledger.leases import Lease, Need
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.ledger.tables import METADATA
from tests.ledger.ledger_rows import deliveries_by_fraction

if TYPE_CHECKING:
    from tests.ledger.ledger_doubles import Forked

    Fork = Callable[[Callable[[], None]], Forked]


def _raw(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(url)


def test_the_migrations_make_exactly_the_declared_tables(url: str) -> None:
    Ledger.open(url).close()
    with _raw(url).connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": "mqi_ledger_version", "compare_type": True}
        )
        assert compare_metadata(context, METADATA) == []
        assert connection.exec_driver_sql("SELECT version_num FROM mqi_ledger_version").all() == [("0010",)]


def test_a_ledger_of_a_newer_program_is_refused_and_left_alone(url: str) -> None:
    Ledger.open(url).close()
    engine = _raw(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE mqi_ledger_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match=r"revision 9999.*newer"):
        Ledger.open(url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM mqi_ledger_version").all() == [("9999",)]


def test_what_was_written_is_there_after_opening_again(url: str) -> None:
    first = Ledger.open(url)
    assert first.fractions.number("P1", ["d1"]) == 1
    first.close()
    assert deliveries_by_fraction(Ledger.open(url), "P1") == {1: {"d1"}}


def test_many_processes_may_open_a_new_ledger_at_once(url: str, fork: Fork) -> None:
    start = multiprocessing.get_context("fork").Barrier(6)

    def work(name: str) -> None:
        start.wait(120)
        Ledger.open(url).fractions.number("P1", [name])

    children = [fork(functools.partial(work, f"d{number}")) for number in range(6)]
    assert [child.wait() for child in children] == [0] * 6
    assert sorted(deliveries_by_fraction(Ledger.open(url), "P1")) == [1, 2, 3, 4, 5, 6]


def test_many_threads_may_open_and_use_one_ledger(url: str) -> None:
    numbers: list[int] = []

    def work(name: str) -> None:
        numbers.append(Ledger.open(url).fractions.number("P1", [name]))

    threads = [threading.Thread(target=work, args=(f"d{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]


def test_a_forked_child_uses_the_ledger_of_its_parent(ledger: Ledger, fork: Fork) -> None:
    ledger.fractions.number("P1", ["d1"])

    def work() -> None:
        assert ledger.fractions.number("P1", ["d2"]) == 2

    assert fork(work).wait() == 0
    assert ledger.fractions.number("P1", ["d3"]) == 3


@pytest.mark.parametrize("zone", ["Asia/Seoul", "UTC", "America/Los_Angeles"])
def test_times_do_not_depend_on_the_zone_of_a_process(url: str, fork: Fork, zone: str) -> None:
    ledger = Ledger.open(url)
    ledger.slots.declare("here", [Slot(SlotKind.CPU, 0)])

    def work() -> None:
        os.environ["TZ"] = zone
        time.tzset()
        Ledger.open(url).leases.acquire("b1", "run1", Need(SlotKind.CPU), stale_after=timedelta(seconds=60))

    assert fork(work).wait() == 0
    lease = ledger.leases.get("b1")
    assert lease is not None
    assert lease.heartbeat_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - lease.heartbeat_at) < timedelta(seconds=30)
    refused = ledger.leases.acquire("b1", "run2", Need(SlotKind.CPU), stale_after=timedelta(seconds=60))
    assert not isinstance(refused, Lease)


def test_a_moment_without_a_zone_is_refused(ledger: Ledger) -> None:
    with pytest.raises(sqlalchemy.exc.StatementError, match="time zone"):
        ledger.arrivals.record("a", "c", "f", False, "copying", datetime(2026, 3, 1))


def test_the_file_of_the_ledger_is_the_owners_alone(tmp_path: Path) -> None:
    Ledger.open(sqlite_url(tmp_path / "state" / "ledger.db")).close()
    assert (tmp_path / "state" / "ledger.db").stat().st_mode & 0o777 == 0o600
    with _raw(sqlite_url(tmp_path / "state" / "ledger.db")).connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


@pytest.mark.parametrize("bad", ["sqlite://", "sqlite:///:memory:", "mysql://host/db", "no url"])
def test_only_shared_databases_are_accepted(bad: str) -> None:
    with pytest.raises(ConfigurationError):
        Ledger.open(bad)


def test_an_unusable_place_is_an_infrastructure_error_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "DOE_JOHN").write_text("a file")
    with pytest.raises(InfrastructureError) as caught:
        Ledger.open(sqlite_url(tmp_path / "DOE_JOHN" / "ledger.db"))
    assert "DOE_JOHN" not in str(caught.value)


def test_a_file_that_is_no_database_is_an_infrastructure_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"something else" * 100)
    with pytest.raises(InfrastructureError, match="not a database"):
        Ledger.open(sqlite_url(tmp_path / "ledger.db"))


def test_a_writer_waits_for_another_one(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "ledger.db")
    ledger = Ledger.open(url)
    ledger.slots.declare("here", [Slot(SlotKind.CPU, 0)])
    engine = _raw(url)
    connection = engine.raw_connection()
    connection.driver_connection.isolation_level = None  # type: ignore[union-attr]
    connection.driver_connection.execute("BEGIN IMMEDIATE")  # type: ignore[union-attr]
    done = threading.Event()

    def write() -> None:
        ledger.fractions.number("P1", ["d1"])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert not done.wait(0.5)
    assert len(ledger.slots.all()) == 1, "readers do not wait"
    connection.driver_connection.execute("COMMIT")  # type: ignore[union-attr]
    assert done.wait(10)
    thread.join()
    connection.close()

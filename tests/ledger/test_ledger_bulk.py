"""The ledger read for many at once, and by one who must not change anything, on both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.ledger.attempts import Outcome
from mqi_dagster.ledger.ledger import Ledger

if TYPE_CHECKING:
    from tests.ledger.ledger_doubles import Clock

MANY = [f"b{number:04d}" for number in range(1200)]


def test_the_newest_rows_of_many_beams_come_together(ledger: Ledger) -> None:
    for run in ("first", "second"):
        ledger.progress.record("b0007", run, "simulating", percent=5.0)
        ledger.attempts.end(ledger.attempts.begin("b0007", "d", run), Outcome.FAILED)
    ledger.jobs.reserve("cluster", "k1", "b1199", "place")
    ledger.jobs.reserve("cluster", "k2", "b1199", "place")
    ledger.clusters.take_turn("cluster", shortest=timedelta(seconds=1), hold=timedelta(seconds=9))
    assert {beam: row.run_id for beam, row in ledger.progress.get_many(MANY).items()} == {"b0007": "second"}
    assert {beam: row.number for beam, row in ledger.attempts.newest(MANY).items()} == {"b0007": 2}
    assert {beam: job.key for beam, job in ledger.jobs.newest(MANY).items()} == {"b1199": "k2"}
    assert [look.cluster for look in ledger.clusters.all()] == ["cluster"]


def test_arrivals_that_changed_or_were_asked_for_since_a_moment(ledger: Ledger, clock: Clock) -> None:
    for case in ("P1.fx0001", "P2.fx0001", "P3.fx0001"):
        ledger.arrivals.record(case, case, "f", True, "", None)
    clock.forward(60)
    moment = clock()
    ledger.arrivals.record("P1.fx0001", "P1.fx0001", "g", True, "", None)
    ledger.arrivals.mark_requested("P2.fx0001", "f")
    count, rows = ledger.arrivals.changed_since(moment)
    assert count == 3
    assert sorted(row.case for row in rows) == ["P1.fx0001", "P2.fx0001"]


def test_a_reader_sees_everything_and_changes_nothing(ledger: Ledger, url: str) -> None:
    ledger.progress.record("b1", "run", "simulating", percent=5.0)
    reader = Ledger.open_reading(url)
    assert reader.progress.get_many(["b1"])["b1"].percent == 5.0
    with pytest.raises(InfrastructureError, match=r"read-?only"):
        reader.progress.record("b1", "run", "simulating", percent=6.0)
    with ledger.database.write() as connection:
        connection.execute(text("UPDATE mqi_ledger_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="a newer one"):
        Ledger.open_reading(url)
    reader.close()


def test_a_reader_makes_no_ledger(url: str) -> None:
    for _ in range(2):
        with pytest.raises(InfrastructureError, match="there is no ledger yet"):
            Ledger.open_reading(url)

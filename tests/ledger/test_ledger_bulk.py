"""The ledger read for many at once, and by one who must not change anything, on both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.ledger import Ledger, Outcome

if TYPE_CHECKING:
    from tests.ledger.ledger_doubles import Clock

MANY = [f"b{number:04d}" for number in range(1200)]


def test_the_newest_rows_of_many_beams_come_together(ledger: Ledger) -> None:
    for run in ("first", "second"):
        ledger.report("b0007", run, "simulating", percent=5.0)
        ledger.end_attempt(ledger.begin_attempt("b0007", "d", run), Outcome.FAILED)
    ledger.reserve_job("cluster", "k1", "b1199", "place")
    ledger.reserve_job("cluster", "k2", "b1199", "place")
    ledger.take_turn("cluster", shortest=timedelta(seconds=1), hold=timedelta(seconds=9))
    assert {beam: row.run_id for beam, row in ledger.progress_of(MANY).items()} == {"b0007": "second"}
    assert {beam: row.number for beam, row in ledger.last_attempts(MANY).items()} == {"b0007": 2}
    assert {beam: job.key for beam, job in ledger.last_jobs(MANY).items()} == {"b1199": "k2"}
    assert [look.cluster for look in ledger.cluster_polls()] == ["cluster"]


def test_arrivals_that_changed_or_were_asked_for_since_a_moment(ledger: Ledger, clock: Clock) -> None:
    for case in ("P1.fx0001", "P2.fx0001", "P3.fx0001"):
        ledger.see_arrival(case, case, "f", True, "", None)
    clock.forward(60)
    moment = clock()
    ledger.see_arrival("P1.fx0001", "P1.fx0001", "g", True, "", None)
    ledger.mark_requested("P2.fx0001", "f")
    count, rows = ledger.arrivals_since(moment)
    assert count == 3
    assert sorted(row.case for row in rows) == ["P1.fx0001", "P2.fx0001"]


def test_a_reader_sees_everything_and_changes_nothing(ledger: Ledger, url: str) -> None:
    ledger.report("b1", "run", "simulating", percent=5.0)
    reader = Ledger.open_reading(url)
    assert reader.progress_of(["b1"])["b1"].percent == 5.0
    with pytest.raises(InfrastructureError, match=r"read-?only"):
        reader.report("b1", "run", "simulating", percent=6.0)
    with ledger._write() as connection:
        connection.execute(text("UPDATE mqi_ledger_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="a newer one"):
        Ledger.open_reading(url)
    reader.close()


def test_a_reader_makes_no_ledger(url: str) -> None:
    for _ in range(2):
        with pytest.raises(InfrastructureError, match="there is no ledger yet"):
            Ledger.open_reading(url)

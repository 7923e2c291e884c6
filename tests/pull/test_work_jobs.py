"""Rows of jobs for workers: whoever changes one has to name the state that it was in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.ledger.database import sqlite_url
from mqi_dagster.ledger.ledger import Ledger
from tests.ledger.revisions import moved

ROW = ("a" * 32, "lab", "d1-1", "P1.fx0001__b01", "{}")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of an empty ledger."""
    return sqlite_url(tmp_path / "ledger.db")


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    """An empty ledger."""
    opened = Ledger.open(url)
    yield opened
    opened.close()


def test_a_change_is_made_by_whoever_has_seen_the_row_as_it_is(ledger: Ledger) -> None:
    seen = ledger.work.ask(*ROW)
    assert (seen.state, seen.token, seen.ended) == ("waiting", 0, False)
    taken = ledger.work.change(seen, state="running", token=1)
    assert taken is not None and taken.changed_at >= seen.changed_at
    assert ledger.work.change(seen, state="running", token=1) is None
    ended = ledger.work.change(taken, state="succeeded")
    assert ended is not None and ended.ended_at is not None
    assert ledger.work.change(taken, state="failed") is None
    assert ledger.work.ask(*ROW) == ended


@pytest.mark.parametrize("state", ["lost", "cancelled"])
def test_a_job_that_was_lost_or_cancelled_is_asked_for_anew_and_its_token_stays(
    ledger: Ledger, state: str
) -> None:
    taken = ledger.work.change(ledger.work.ask(*ROW), state="running", token=5, claims=2, worker="one")
    assert taken is not None
    assert ledger.work.change(taken, state=state, reason="why") is not None
    again = ledger.work.ask(*ROW)
    assert (again.state, again.token, again.claims, again.worker) == ("waiting", 5, 0, None)
    assert (again.reason, again.ended_at, again.cancel_requested_at) == ("", None, None)


def test_a_job_that_nobody_has_asked_for_is_not_there(ledger: Ledger) -> None:
    assert ledger.work.get("a" * 32) is None
    with pytest.raises(InfrastructureError, match="has lost the job"):
        ledger.work.require("a" * 32)


def test_a_case_that_is_forgotten_takes_its_jobs_along(ledger: Ledger) -> None:
    ledger.work.ask(*ROW)
    ledger.work.ask("b" * 32, "lab", "d2-1", "P2.fx0001__b01", "{}")
    ledger.forget_case("P1.fx0001", "removed")
    assert [row.partition for row in ledger.work.all()] == ["P2.fx0001__b01"]


def test_a_ledger_goes_back_to_the_revision_before_and_forth(url: str, ledger: Ledger) -> None:
    ledger.work.ask(*ROW)
    ledger.close()
    engine = moved(url, command.downgrade, "0010")
    assert "mqi_work_job" not in sqlalchemy.inspect(engine).get_table_names()
    engine.dispose()
    again = Ledger.open(url)
    assert again.work.all() == [] and again.workers.all() == []
    again.close()

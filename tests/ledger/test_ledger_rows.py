"""Fractions, arrivals, attempts and progress."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from mqi_dagster.errors import InfrastructureError, InputError, LeaseLostError
from mqi_dagster.ledger.attempts import Outcome
from mqi_dagster.ledger.ledger import Ledger
from tests.ledger.ledger_rows import deliveries_by_fraction, progress_reports

if TYPE_CHECKING:
    from tests.ledger.ledger_doubles import Clock


def test_fractions_are_numbered_in_the_order_of_first_sight_and_never_move(ledger: Ledger) -> None:
    assert ledger.fractions.number("P1", ["tuesday1", "tuesday2"]) == 1
    assert ledger.fractions.number("P1", ["monday1"]) == 2, "an earlier fraction that arrives late"
    assert ledger.fractions.number("P2", ["tuesday1"]) == 1, "plans do not share numbers"
    assert ledger.fractions.number("P1", ["tuesday2", "tuesday3"]) == 1, "a late beam of the first one"
    assert ledger.fractions.number("P1", ["tuesday3"]) == 1, "the late beam is remembered"
    assert deliveries_by_fraction(ledger, "P1") == {
        1: {"tuesday1", "tuesday2", "tuesday3"},
        2: {"monday1"},
    }


def test_deliveries_of_two_known_fractions_are_an_error_that_changes_nothing(ledger: Ledger) -> None:
    ledger.fractions.number("P1", ["a"])
    ledger.fractions.number("P1", ["b"])
    with pytest.raises(InputError, match="1 and 2"):
        ledger.fractions.number("P1", ["a", "b", "c"])
    assert deliveries_by_fraction(ledger, "P1") == {1: {"a"}, 2: {"b"}}
    with pytest.raises(InputError):
        ledger.fractions.number("P1", [])


def test_an_arrival_is_open_until_its_present_files_were_requested(ledger: Ledger, clock: Clock) -> None:
    later = datetime(2026, 3, 1, 12, 1, tzinfo=UTC)
    ledger.arrivals.record("a1", "P1.fx0001", "f1", False, "still copying", later)
    assert ledger.arrivals.open(10) == []
    assert [(row.case, row.reason, row.next_check) for row in ledger.arrivals.waiting()] == [
        ("P1.fx0001", "still copying", later)
    ]
    clock.forward(60)
    ledger.arrivals.record("a1", "P1.fx0001", "f2", True, "", None)
    assert ledger.arrivals.waiting() == []
    (row,) = ledger.arrivals.open(10)
    assert row.first_seen == datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    assert row.changed_at == datetime(2026, 3, 1, 12, 1, tzinfo=UTC)
    ledger.arrivals.mark_requested("P1.fx0001", "f2")
    assert ledger.arrivals.open(10) == []
    ledger.arrivals.record("a1", "P1.fx0001", "f2", True, "", None)
    assert ledger.arrivals.open(10) == [], "the same files are not requested twice"
    ledger.arrivals.record("a1", "P1.fx0001", "f3", True, "", None)
    assert [row.fingerprint for row in ledger.arrivals.open(10)] == ["f3"], "a late beam"


def test_a_request_for_older_files_leaves_the_newer_ones_open(ledger: Ledger) -> None:
    ledger.arrivals.record("a1", "c1", "f2", True, "", None)
    ledger.arrivals.mark_requested("c1", "f1")
    assert [row.case for row in ledger.arrivals.open(10)] == ["c1"]
    with pytest.raises(InfrastructureError):
        ledger.arrivals.mark_requested("never-seen", "f1")


def test_urgent_arrivals_come_first_then_the_oldest(ledger: Ledger, clock: Clock) -> None:
    for case, priority in (("c1", 0), ("c2", 5), ("c3", 0), ("c4", 5)):
        ledger.arrivals.record(case, case, "f", True, "", None, priority)
        clock.forward(1)
    assert [row.case for row in ledger.arrivals.open(3)] == ["c2", "c4", "c1"]
    assert ledger.arrivals.get("c3") is not None
    assert ledger.arrivals.get("c9") is None


def test_an_unreadable_arrival_gives_way_to_what_it_turned_out_to_be(ledger: Ledger, clock: Clock) -> None:
    ledger.arrivals.record("a1", "X1.fx0001", "f1", False, "no plan yet", None)
    ledger.arrivals.record("a2", "X2.fx0001", "f1", True, "", None)
    ledger.arrivals.mark_requested("X2.fx0001", "f1")
    clock.forward(1)
    ledger.arrivals.record("a1", "P1.fx0001", "f2", True, "", None)
    assert ledger.arrivals.forget_unrequested("a1", keep=["P1.fx0001"]) == 1
    assert ledger.arrivals.forget_unrequested("a2", keep=[]) == 0, "what was requested stays in sight"
    assert [row.case for row in ledger.arrivals.all()] == ["X2.fx0001", "P1.fx0001"]


def test_what_takes_cases_in_is_given_no_courses(ledger: Ledger) -> None:
    ledger.arrivals.record("a1", "P1.fx0001", "f1", True, "", None)
    ledger.arrivals.record("a2", "RAAAAAAAAA.c01", "f2", True, "", None, kind="course")
    ledger.arrivals.record("a3", "RAAAAAAAAA.c02", "f3", False, "still copying", None, kind="course")
    ledger.arrivals.record("a2", "RAAAAAAAAA.c01", "f4", True, "", None, kind="course")
    assert [row.case for row in ledger.arrivals.open(10, "case")] == ["P1.fx0001"]
    assert [(row.case, row.kind) for row in ledger.arrivals.open(10, "course")] == [
        ("RAAAAAAAAA.c01", "course")
    ]
    assert len(ledger.arrivals.open(10)) == 2
    assert [row.case for row in ledger.arrivals.waiting("course")] == ["RAAAAAAAAA.c02"]
    assert ledger.arrivals.waiting("case") == []
    assert [row.case for row in ledger.arrivals.all("case")] == ["P1.fx0001"]


def test_the_attempt_number_rises_only_after_an_engine_failure(ledger: Ledger) -> None:
    first = ledger.attempts.begin("b1", "d1", "run1")
    assert (first.number, first.job_key) == (1, "d1-1")
    continued = ledger.attempts.begin("b1", "d1", "run2")
    assert (continued.number, continued.id, continued.run_id) == (1, first.id, "run2")
    ledger.attempts.end(continued, "lost", "worker died")
    again = ledger.attempts.begin("b1", "d1", "run3")
    assert again.number == 1, "a lost worker costs nothing"
    ledger.attempts.end(again, Outcome.CANCELLED)
    once_more = ledger.attempts.begin("b1", "d1", "run4")
    assert once_more.number == 1
    ledger.attempts.end(once_more, "failed", "exit code 3")
    second = ledger.attempts.begin("b1", "d1", "run5")
    assert second.number == 2
    assert ledger.attempts.begin("b1", "other", "run6").number == 1
    assert [(row.number, row.outcome, row.cause) for row in ledger.attempts.history("b1")] == [
        (1, "lost", "worker died"),
        (1, "cancelled", None),
        (1, "failed", "exit code 3"),
        (2, None, None),
        (1, None, None),
    ]


def test_a_result_whose_run_died_before_its_attempt_had_ended_is_noted_once(ledger: Ledger) -> None:
    ledger.attempts.record_success("b1", "d1", "run1")
    assert ledger.attempts.history("b1") == [], "nothing was ever tried"
    ledger.attempts.begin("b1", "d1", "run1")
    lost = ledger.attempts.begin("b1", "d2", "run1")
    ledger.attempts.end(lost, Outcome.LOST, "its worker died")
    for digest in ("d1", "d2", "d1", "d2"):
        ledger.attempts.record_success("b1", digest, "run2")
    told = [(one.digest, one.number, one.run_id, one.outcome) for one in ledger.attempts.history("b1")]
    assert told == [
        ("d1", 1, "run1", Outcome.SUCCEEDED),
        ("d2", 1, "run1", Outcome.LOST),
        ("d2", 1, "run2", Outcome.SUCCEEDED),
    ]
    assert ledger.attempts.succeeded({"b1"}) == {("b1", "d1-1"), ("b1", "d2-1")}


def test_a_run_that_lost_its_attempt_cannot_end_it(ledger: Ledger) -> None:
    old = ledger.attempts.begin("b1", "d1", "run1")
    new = ledger.attempts.begin("b1", "d1", "run2")
    with pytest.raises(LeaseLostError):
        ledger.attempts.end(old, "failed", "killed")
    assert [row.outcome for row in ledger.attempts.history("b1")] == [None]
    ledger.attempts.end(new, "succeeded")
    assert ledger.attempts.end(new, "succeeded").outcome is Outcome.SUCCEEDED
    with pytest.raises(LeaseLostError, match="already ended"):
        ledger.attempts.end(new, "failed")
    with pytest.raises(ValueError, match="nonsense"):
        ledger.attempts.end(new, "nonsense")


def test_progress_never_goes_back_within_an_attempt_of_a_run(ledger: Ledger, clock: Clock) -> None:
    ledger.progress.record("b1", "run1", "simulating", 2, 4, 50.0, 1e5, "batch 2 of 4")
    assert ledger.progress.record("b1", "run1", "simulating", 1, 4, 25.0, 1e4, "late line").percent == 50.0
    assert ledger.progress.record("b1", "run1", "simulating", 4, 4, 140.0, 2e5, "").percent == 100.0
    assert ledger.progress.record("b1", "run1", "simulating", percent=5.0, attempt=2).percent == 5.0
    assert ledger.progress.record("b1", "run2", "staging", percent=1.0, attempt=2).percent == 1.0
    clock.forward(1)
    ledger.progress.record("b2", "run3", "waiting", message="no free slot")
    reports = progress_reports(ledger).items()
    assert {beam: (row.phase, row.percent) for beam, row in reports} == {
        "b1": ("staging", 1.0),
        "b2": ("waiting", 0.0),
    }
    assert ledger.progress.get("b3") is None
    with pytest.raises(ValueError, match="not a number"):
        ledger.progress.record("b1", "run2", "x", percent=math.nan)

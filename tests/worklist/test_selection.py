"""Which rows of the worklist are shown, in which order, and how many there are of each kind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mqi_dagster.worklist import AlarmStatus, CaseState, CaseStatus, QueueStatus, Stage, Work
from mqi_dagster.worklist.selection import PAGE, Column, Selected, Selection, Turn, select

NOW = datetime(2026, 3, 4, 8, 0, tzinfo=UTC)
NOT_HANDED_OVER = "its latest dose has not been handed over: materialise handed_over"
QUEUE = QueueStatus(
    queued=0, in_work=0, max_runs=None, pool_in_use=0, pool_limit=None, waiting_beams=0, waiting_cases=0,
    inbox=0, reasons={},
)  # fmt: skip


def row(case: str, state: CaseState, days: float = 0.0, **more: Any) -> CaseStatus:
    stage = Stage.FAILED if state is CaseState.FAILED else Stage.WAITING
    known = {"kind": "case", "fraction": 1, "arrived": NOW - timedelta(days=days), "stage": stage}
    return CaseStatus(case=case, state=state, **{**known, **more})


ROWS = [
    row("P4.fx0001", CaseState.IN_WORK, 0.5, machine="G1", plan="LIVER", beam_names=("LAO", "AP")),
    row("P5.fx0001", CaseState.IN_WORK, 2, machine="G2", percent=70.0, priority=3),
    row("P1.fx0002", CaseState.FAILED, 9, machine="G1", fraction=2),
    row("P3.fx0001", CaseState.WAITING, 40),
    row("R2222222AB.c01", CaseState.WAITING, 1, kind="course", fraction=None),
    row("P6.fx0001", CaseState.WAITING, 3, reason=NOT_HANDED_OVER),
    row("P2.fx0001", CaseState.COMPLETE, 5, machine="G2", percent=100.0),
    row("P7.fx0001", CaseState.PARTIAL, 6, machine="G1", percent=100.0),
]  # fmt: skip
"""In the order of the board."""
STUCK = AlarmStatus(kind="beam_stuck", subject="P5.fx0001__b02", text="it stands still", since=NOW)


def shown(wanted: Selection, *, alarms: tuple[AlarmStatus, ...] = (STUCK,)) -> list[str]:
    return [one.case.partition(".")[0] for _, one in selected(wanted, alarms=alarms).rows]


def selected(
    wanted: Selection, rows: list[CaseStatus] = ROWS, alarms: tuple[AlarmStatus, ...] = (STUCK,)
) -> Selected:
    work = Work(
        at=NOW, daemon_alive=True, daemon_seen=NOW, concluded_cases=2, cases=rows, beams=[], gpus=[],
        queue=QUEUE, alarms=list(alarms),
    )  # fmt: skip
    return select(work, wanted)


def test_what_needs_a_person_is_first_then_work_then_what_waits_then_what_is_over() -> None:
    found = selected(Selection())
    assert [(turn.value, one.case) for turn, one in found.rows] == [
        ("person", "P5.fx0001"),  # an alarm is about a beam of it
        ("person", "P1.fx0002"),
        ("person", "P6.fx0001"),  # only a person hands it over
        ("work", "P4.fx0001"),
        ("waiting", "P3.fx0001"),
        ("waiting", "R2222222AB.c01"),
        ("concluded", "P2.fx0001"),
        ("concluded", "P7.fx0001"),
    ]
    assert (found.first, found.page, found.pages, found.total, found.every) == (1, 1, 1, 8, 8)


def test_without_its_alarm_a_case_in_work_needs_nobody() -> None:
    assert shown(Selection(turn=Turn.WORK), alarms=()) == ["P4", "P5"]


@pytest.mark.parametrize(
    ("wanted", "keys"),
    [
        (Selection(turn=Turn.CONCLUDED), ["P2", "P7"]),
        (Selection(kind="course"), ["R2222222AB"]),
        (Selection(machine="G1"), ["P1", "P4", "P7"]),
        (Selection(machine="G1", turn=Turn.CONCLUDED), ["P7"]),
        (Selection(days=1), ["P4", "R2222222AB"]),
        (Selection(days=7, machine="G2"), ["P5", "P2"]),
        (Selection(text="liver"), ["P4"]),
        (Selection(text=" lao "), ["P4"]),
        (Selection(text="g2"), ["P5", "P2"]),
        (Selection(text="p1.FX"), ["P1"]),
        (Selection(text="nothing like it"), []),
        (Selection(keys=frozenset({"P2.fx0001", "unknown"})), ["P2"]),
        (Selection(keys=frozenset()), []),
    ],
)  # fmt: skip
def test_filters_leave_what_fits_all_of_them(wanted: Selection, keys: list[str]) -> None:
    assert shown(wanted) == keys


@pytest.mark.parametrize(
    ("column", "first", "last"),
    [
        (Column.CASE, "P1", "R2222222AB"),
        (Column.ARRIVED, "P3", "P4"),
        (Column.PROGRESS, "P4", "P7"),
        (Column.MACHINE, "P3", "P2"),
        (Column.FRACTION, "R2222222AB", "P1"),
        (Column.PRIORITY, "P4", "P5"),
        (Column.STAGE, "P4", "P1"),
    ],
)
def test_a_column_orders_the_rows(column: Column, first: str, last: str) -> None:
    keys = shown(Selection(column=column))
    assert (keys[0], keys[-1]) == (first, last)
    # Of equals the order of the board stays, whichever way the column goes.
    assert shown(Selection(column=column, descending=True))[0] in (last, "P5", "P2")


def test_each_filter_is_counted_as_the_others_leave_it() -> None:
    found = selected(Selection(machine="G1"))
    assert dict(found.turns) == {Turn.PERSON: 1, Turn.WORK: 1, Turn.CONCLUDED: 1, Turn.WAITING: 0}
    assert dict(found.machines) == {"G1": 3, "G2": 2, "": 3}
    both = selected(Selection(machine="G1", turn=Turn.CONCLUDED))
    assert both.turns[Turn.PERSON] == 1
    assert both.machines["G2"] == 1
    assert dict(selected(Selection(kind="case")).kinds) == {"case": 7, "course": 1}


@pytest.mark.parametrize(
    ("page", "first", "count", "given"),
    [(1, 1, 50, 1), (2, 51, 50, 2), (3, 101, 20, 3), (99, 101, 20, 3), (0, 1, 50, 1)],
)
def test_pages_have_fifty_rows_and_a_page_too_far_is_the_last(
    page: int, first: int, count: int, given: int
) -> None:
    rows = [row(f"P{number:03d}.fx0001", CaseState.WAITING) for number in range(120)]
    found = selected(Selection(page=page), rows)
    assert (found.first, len(found.rows), found.page, found.pages, found.total) == (
        first,
        count,
        given,
        3,
        120,
    )
    assert found.rows[0][1].case == f"P{first - 1:03d}.fx0001"
    assert PAGE == 50


def test_nothing_is_a_page_too() -> None:
    found = selected(Selection(), [])
    assert (found.rows, found.first, found.page, found.pages, found.total) == ((), 0, 1, 1, 0)

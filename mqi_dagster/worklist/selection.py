"""Which rows of the worklist somebody wants to see, in which order, and how many there are of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from mqi_dagster.lifecycle.case_status import NOT_HANDED_OVER
from mqi_dagster.lifecycle.stages import CaseState, Stage
from mqi_dagster.lifecycle.unit_status import NOT_ALL_MADE
from mqi_dagster.partitions import root_of
from mqi_dagster.worklist.board_rows import CaseStatus, Work

PAGE = 50
"""Rows of one page."""


class Turn(StrEnum):
    """Whose turn it is with a row, in the order in which the worklist shows them."""

    PERSON = "person"
    """It has failed, an alarm is about it, or only a person makes it go on."""
    WORK = "work"
    WAITING = "waiting"
    CONCLUDED = "concluded"


class Column(StrEnum):
    """By what the rows are ordered."""

    TURN = "turn"
    """What needs a person first, then what is in work, what waits, and what is concluded."""
    CASE = "case"
    STAGE = "stage"
    PROGRESS = "progress"
    MACHINE = "machine"
    FRACTION = "fraction"
    ARRIVED = "arrived"
    PRIORITY = "priority"


@dataclass(frozen=True, slots=True)
class Selection:
    """What somebody wants to see."""

    text: str = ""
    """Stands in its key, the label of its plan, the name of a beam, or its machine."""
    turn: Turn | None = None
    kind: str = ""
    machine: str = ""
    days: int | None = None
    """Arrived within so many."""
    keys: frozenset[str] | None = None
    """Only these."""
    column: Column = Column.TURN
    descending: bool = False
    page: int = 1


@dataclass(frozen=True, slots=True)
class Selected:
    """A page of what was wanted."""

    rows: tuple[tuple[Turn, CaseStatus], ...]
    page: int
    """The last one where a later one was asked for."""
    pages: int
    total: int
    """Of all pages."""
    every: int
    """Of all rows, wanted or not."""
    turns: Mapping[Turn, int]
    """How many there are with each value of a filter, where the other filters stay."""
    kinds: Mapping[str, int]
    machines: Mapping[str, int]

    @property
    def first(self) -> int:
        """Number of its first row; 0 where there is none."""
        return (self.page - 1) * PAGE + 1 if self.rows else 0


def turn_of(row: CaseStatus, alarmed: frozenset[str]) -> Turn:
    """Whose turn it is with a row.

    Args:
        row: The row.
        alarmed: Keys of the cases and the like that an open alarm is about, or a part of them.
    """
    if row.state is CaseState.FAILED or row.case in alarmed or row.reason in (NOT_HANDED_OVER, NOT_ALL_MADE):
        return Turn.PERSON
    if row.state is CaseState.IN_WORK:
        return Turn.WORK
    return Turn.WAITING if row.state is CaseState.WAITING else Turn.CONCLUDED


def select(work: Work, wanted: Selection) -> Selected:
    """A page of the rows that somebody wants to see."""
    alarmed = frozenset(root_of(alarm.subject) for alarm in work.alarms)
    text = wanted.text.casefold().strip()
    since = None if wanted.days is None else work.at - timedelta(days=wanted.days)
    chosen: list[tuple[Turn, CaseStatus]] = []
    counts = _Counts()
    for row in work.cases:
        if wanted.keys is not None and row.case not in wanted.keys:
            continue
        if since is not None and (row.arrived is None or row.arrived < since):
            continue
        if text and text not in _words(row):
            continue
        turn = turn_of(row, alarmed)
        if counts.add(wanted, turn, row):
            chosen.append((turn, row))
    # Of equals the order of the board stays, which is that of urgency.
    chosen.sort(key=_ORDERS[wanted.column], reverse=wanted.descending)
    pages = max(1, -(-len(chosen) // PAGE))
    page = min(max(1, wanted.page), pages)
    rows = tuple(chosen[(page - 1) * PAGE : page * PAGE])
    return Selected(
        rows, page, pages, len(chosen), len(work.cases), counts.turns, counts.kinds, counts.machines
    )


@dataclass(slots=True)
class _Counts:
    turns: Counter[Turn] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    machines: Counter[str] = field(default_factory=Counter)

    def add(self, wanted: Selection, turn: Turn, row: CaseStatus) -> bool:
        """Count a row for each filter whose value is all that may keep it out; whether none does."""
        of_turn = wanted.turn in (None, turn)
        of_kind = wanted.kind in ("", row.kind)
        of_machine = wanted.machine in ("", row.machine)
        self.turns[turn] += of_kind and of_machine
        self.kinds[row.kind] += of_turn and of_machine
        self.machines[row.machine] += of_turn and of_kind
        return of_turn and of_kind and of_machine


def _words(row: CaseStatus) -> str:
    return "\n".join((row.case, row.plan, row.machine, *row.beam_names)).casefold()


_TURNS = {turn: place for place, turn in enumerate(Turn)}
_STAGES = {stage: place for place, stage in enumerate(Stage)}
_Order = Callable[[tuple[Turn, CaseStatus]], Any]


def _moment(value: datetime | None) -> float:
    return 0.0 if value is None else value.timestamp()


_ORDERS: Mapping[Column, _Order] = {
    Column.TURN: lambda one: _TURNS[one[0]],
    Column.CASE: lambda one: one[1].case,
    Column.STAGE: lambda one: _STAGES[one[1].stage],
    Column.PROGRESS: lambda one: one[1].percent,
    Column.MACHINE: lambda one: one[1].machine,
    Column.FRACTION: lambda one: one[1].fraction or 0,
    Column.ARRIVED: lambda one: _moment(one[1].arrived),
    Column.PRIORITY: lambda one: one[1].priority,
}


def machines_of(rows: Iterable[CaseStatus]) -> list[str]:
    """The machines of some rows."""
    return sorted({row.machine for row in rows} - {""})

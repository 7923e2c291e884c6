"""The rows of a pipeline's partitions, each derived anew only where something about it has changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg
from sqlalchemy.exc import OperationalError

from mqi_dagster.lifecycle.case_status import RunFacts, failure_of
from mqi_dagster.lifecycle.failures import Cause, first_cause
from mqi_dagster.lifecycle.pipeline import Pipeline
from mqi_dagster.lifecycle.runs import RunState
from mqi_dagster.lifecycle.stages import OVER, Stage, order
from mqi_dagster.partitions import root_of
from mqi_dagster.worklist.board_rows import BeamStatus, CaseStatus
from mqi_dagster.worklist.events import EventIndex
from mqi_dagster.worklist.ledger_snapshot import LedgerSnapshot
from mqi_dagster.worklist.pace import Pace
from mqi_dagster.worklist.queued_runs import Queue
from mqi_dagster.worklist.runs import RunIndex

_LATER = Cause("its first cause is being looked up", None, False)


@dataclass(frozen=True, slots=True)
class Known:
    """What rows are derived from."""

    runs: RunIndex
    events: EventIndex
    ledger: LedgerSnapshot
    pace: Pace


class PartitionIndex(ABC):
    """The rows of a pipeline; how one is derived, its own index says.

    Args:
        instance: Dagster's records.
        pipeline: Whose rows they are.
        known: What rows are derived from.
        history: How long a concluded unit is still listed; None for all of them.
        causes_at_once: First causes of failures that one update reads at most; None for all.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        pipeline: Pipeline,
        known: Known,
        *,
        history: timedelta | None,
        causes_at_once: int | None,
    ) -> None:
        self._instance = instance
        self._pipeline = pipeline
        self._kind = pipeline.units.kind
        self._from = known
        self._history = history
        self._causes_at_once = causes_at_once
        self._causes: dict[str, Cause] = {}
        self._causes_left = 0
        self._owed: set[str] = set()
        """Units of which a first cause is still to be read."""
        self._units: dict[str, CaseStatus] = {}
        self._parts: dict[str, dict[int, BeamStatus]] = {}
        self._settled: set[str] = set()
        """Concluded units that are not listed any more."""
        self._sorted = False
        self._listed: tuple[list[CaseStatus], list[BeamStatus]] = [], []
        """The rows in their order; other lists wherever one of them changes."""
        self._places: tuple[dict[str, int], dict[tuple[str, int], int]] = {}, {}
        """Where they stand in these."""
        self._changed: set[str] = set()
        """Units of which a row has changed, and not its place."""
        self._counted: tuple[Counter[Stage], Counter[Stage]] | None = None
        self._queue = Queue({}, 0, 0)
        self._now = datetime.min

    @abstractmethod
    def _read(self, units: Collection[str]) -> Collection[str]:
        """Read together what their rows are derived from; further units, of which more is known now."""

    @abstractmethod
    def _is_old(self, unit: str) -> bool:
        """Whether it was concluded so long ago that it is not listed; reads nothing."""

    @abstractmethod
    def _rows(self, unit: str) -> tuple[CaseStatus, dict[int, BeamStatus]]:
        """The row of a unit, and those of its parts by number."""

    def clear(self) -> None:
        """Forget every row."""
        self._units.clear()
        self._parts.clear()
        self._settled.clear()
        self._sorted = False

    @property
    def known(self) -> Iterable[str]:
        """Every unit."""
        return (*self._units, *self._settled)

    @property
    def concluded(self) -> int:
        """How many units are concluded."""
        return len(self._settled) + self.units_in(Stage.CONCLUDED)

    def update(self, changed: Iterable[str], queue: Queue, now: datetime) -> None:
        """Derive the rows of some units anew.

        Args:
            changed: Their keys.
            queue: The queue at this moment.
            now: UTC.
        """
        self._queue, self._now = queue, now
        self._causes_left = -1 if self._causes_at_once is None else self._causes_at_once
        wanted, self._owed = {*changed, *self._owed}, set()
        # Details of failed runs are asked for together.
        failed = list(self._failed_runs(wanted))
        self._from.runs.need(failed)
        self._from.ledger.read_ends(failed)
        for unit in {*wanted, *self._read(wanted)}:
            self._derive(unit)
        if not self._sorted:
            self._sort()
        elif self._changed:
            units, parts = self._listed[0].copy(), self._listed[1].copy()
            for unit in self._changed:
                units[self._places[0][unit]] = self._units[unit]
                for number, row in self._parts[unit].items():
                    parts[self._places[1][unit, number]] = row
            self._listed = units, parts
        self._changed.clear()

    def _failed_runs(self, units: Iterable[str]) -> Iterable[str]:
        for unit in units:
            for key in (unit, *self._from.events.parts_of(unit).values()):
                run = self._from.runs.latest.get(key)
                if run is not None and run.state is RunState.FAILED:
                    yield run.run_id

    def _derive(self, unit: str) -> None:
        before, parts_before = self._units.get(unit), self._parts.get(unit, {})
        row, parts = None, dict[int, BeamStatus]()
        known = self._is_known(unit)
        if known and self._is_old(unit):
            self._settled.add(unit)
        else:
            self._settled.discard(unit)
            if known:
                row, parts = self._rows(unit)
        if row == before and parts == parts_before:
            # The same objects stay listed: whoever compares two lists is told by that.
            return
        self._changed.add(unit)
        if row is None:
            self._units.pop(unit, None)
            self._parts.pop(unit, None)
        else:
            self._units[unit], self._parts[unit] = row, parts
        if _order_of(before) != _order_of(row) or _orders(parts_before) != _orders(parts):
            self._sorted = False

    def _is_known(self, unit: str) -> bool:
        """Whether there is such a unit: in the pages anybody can add a partition of any part."""
        arrivals, partitions = self._from.ledger.arrivals, self._from.events.keys(self._pipeline.units.kind)
        return unit in arrivals or unit in partitions

    def _facts(self, partition: str, priority: int) -> RunFacts:
        run = self._from.runs.latest.get(partition)
        if run is None:
            return RunFacts(priority=priority)
        if run.state is RunState.DONE:
            return RunFacts(run, priority=priority)
        detail = self._from.runs.detail(run.run_id)
        _, why = self._queue.reasons.get(run.run_id, ("", ""))
        if run.state is not RunState.FAILED:
            progress = self._from.ledger.progress.get(partition)
            return RunFacts(
                run, why, detail.priority, served=detail.served, steps=detail.steps, progress=progress
            )
        outcome = self._from.ledger.outcomes.get(run.run_id)
        failure = failure_of(outcome, lambda: self._cause(partition, run.run_id), detail.served)
        return RunFacts(run, why, detail.priority, failure=failure, served=detail.served, steps=detail.steps)

    def _cause(self, partition: str, run_id: str) -> Cause:
        found = self._causes.get(run_id)
        if found is not None:
            return found
        if self._causes_left == 0:
            self._owed.add(root_of(partition))
            return _LATER
        self._causes_left -= 1
        try:
            found = first_cause(self._instance, run_id)
        except OperationalError as error:
            # SQLite keeps a file a run; whoever only reads makes none for a run that has left none.
            if "readonly" not in str(error):
                raise
            found = Cause("its log is not there any more", None, False)
        self._causes[run_id] = found
        return found

    # All of them

    def _sort(self) -> None:
        units = sorted(self._units, key=lambda unit: (board_order(self._units[unit]), unit))
        every = [(row, (unit, number)) for unit, rows in self._parts.items() for number, row in rows.items()]
        every.sort(key=lambda one: (board_order(one[0]), one[1]))
        self._sorted = True
        self._listed = [self._units[unit] for unit in units], [row for row, _ in every]
        self._places = (
            {unit: place for place, unit in enumerate(units)},
            {of: place for place, (_, of) in enumerate(every)},
        )
        self._counted = (
            Counter(row.stage for row in self._units.values()),
            Counter(row.stage for row, _ in every),
        )

    def units(self) -> list[CaseStatus]:
        """The listed units, those in work first."""
        return self._listed[0]

    def parts(self) -> list[BeamStatus]:
        """The parts of the listed units, those in work first."""
        return self._listed[1]

    def units_in(self, stage: Stage) -> int:
        """How many listed units are at a stage."""
        return self._counted[0][stage] if self._counted is not None else 0

    def parts_in(self, stage: Stage) -> int:
        """How many parts of listed units are at a stage."""
        return self._counted[1][stage] if self._counted is not None else 0

    def unit(self, unit: str) -> CaseStatus | None:
        """One unit; None where nobody knows it."""
        if unit in self._settled:
            return self._rows(unit)[0]
        return self._units.get(unit)

    def parts_of(self, unit: str) -> list[BeamStatus]:
        """The parts of a unit by number."""
        rows = self._rows(unit)[1] if unit in self._settled else self._parts.get(unit, {})
        return [rows[number] for number in sorted(rows)]


def board_order(row: CaseStatus | BeamStatus) -> tuple[int, int, float]:
    """What sorts the rows of a board: those in work first; of those that are over the latest first."""
    since = row.since.timestamp() if row.since is not None else 0.0
    first = order(row.state, row.stage)
    return first, -row.priority, -since if first == OVER else since


def _order_of(row: CaseStatus | BeamStatus | None) -> tuple[object, ...]:
    """What decides in which place of the board a row is."""
    return () if row is None else (row.stage, row.state, row.priority, row.since, row.reason)


def _orders(parts: Mapping[int, BeamStatus]) -> dict[int, tuple[object, ...]]:
    return {number: _order_of(part) for number, part in parts.items()}

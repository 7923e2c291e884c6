"""The latest run of every partition, read in bulk and then only where it has changed.

Dagster's own reading of runs unpacks each one whole, a quarter of a millisecond a run. Only a few columns are
needed here, so they are asked for by themselves, through the storage's own connection and tables.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from sqlalchemy import ColumnElement, Connection, func, select

from mqi_dagster.dagster_internals import RunsTable, SqlRunStorage
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.lifecycle.jobs import CASE_TAG, GPU_TAG, UPLOAD_TAG, conclusion_job, priority_of
from mqi_dagster.lifecycle.runs import UNFINISHED, RunRow, RunState, run_state

_COLUMNS = (
    RunsTable.c.id,
    RunsTable.c.run_id,
    RunsTable.c.pipeline_name,
    RunsTable.c.status,
    RunsTable.c.partition,
    RunsTable.c.create_timestamp,
    RunsTable.c.start_time,
    RunsTable.c.end_time,
    RunsTable.c.update_timestamp,
)
_UNFINISHED = [status.value for status in UNFINISHED]
_WAITING = {status.value for status in dg.DagsterRunStatus if run_state(status) is RunState.WAITING}
_FAILED = dg.DagsterRunStatus.FAILURE.value
_BEHIND = timedelta(seconds=60)
"""A change that was written later than it says is still found within this time."""
_WHOLE_EVERY_SECONDS = 300.0
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class RunDetail:
    """What of a run stands only in its body and tags."""

    priority: int
    case: str | None
    """Whose limit it counts for."""
    target: str | None
    """Where it hands over to, whose limit it counts for; None where it does not, or a page has started it."""
    simulates: bool
    """Whether it counts for the pool's limit."""
    served: bool
    """Whether the services have started it, so that they also start it again."""
    steps: frozenset[str]
    """Steps that it executes; empty where it is all of them."""


@dataclass(slots=True)
class RunIndex:
    """The runs of an instance.

    Args:
        instance: Dagster's records, in a database.
    """

    instance: dg.DagsterInstance
    latest: dict[str, RunRow] = field(default_factory=dict)
    """By partition."""
    intakes: Counter[str] = field(default_factory=Counter)
    """How often each partition was taken in with success."""
    unfinished: dict[str, RunRow] = field(default_factory=dict)
    """By run id."""
    _rows: dict[str, RunRow] = field(default_factory=dict)
    _details: dict[str, RunDetail] = field(default_factory=dict)
    _newest: int = 0
    _whole_at: float | None = None

    def refresh(self) -> set[str] | None:
        """Read what has changed; the partitions whose runs did, None where all were read anew."""
        storage = self.instance.run_storage
        if not isinstance(storage, SqlRunStorage):
            raise ConfigurationError("Dagster's runs are not kept in a database that can be read")
        now = time.monotonic()
        with storage.connect() as connection:
            if self._whole_at is None or now - self._whole_at > _WHOLE_EVERY_SECONDS:
                self._read_all(connection)
                return None
            open_rows = _ask(connection, RunsTable.c.status.in_(_UNFINISHED))
            seen = {row.run_id for row in open_rows}
            rows = [*open_rows, *_ask(connection, RunsTable.c.id > self._newest)]
            rows += _by_id(connection, [one for one in self.unfinished if one not in seen])
            lately = (datetime.now(UTC) - _BEHIND).replace(tzinfo=None)
            failed = _ask(connection, RunsTable.c.status == _FAILED, RunsTable.c.update_timestamp > lately)
            changed = {partition for row in rows if (partition := self._put(row)) is not None}
            for row in failed:
                self._put(row)
            # What comes of a failure is written down a little after it.
            changed |= {row.partition for row in failed if row.partition is not None}
            count = connection.execute(select(func.count()).select_from(RunsTable)).scalar_one()
            # Runs were deleted: which ones, only the whole can tell.
            if count == len(self._rows):
                return changed
            self._read_all(connection)
            return None

    def _read_all(self, connection: Connection) -> None:
        self._rows.clear()
        self.latest.clear()
        self.intakes.clear()
        self.unfinished.clear()
        self._newest = 0
        for row in _ask(connection):
            self._put(row)
        self._details = {run: detail for run, detail in self._details.items() if run in self._rows}
        self._whole_at = time.monotonic()

    def _put(self, row: RunRow) -> str | None:
        """Keep a row; its partition where that changed something."""
        before = self._rows.get(row.run_id)
        if before == row:
            return None
        self._rows[row.run_id] = row
        self._newest = max(self._newest, row.id)
        if row.unfinished:
            self.unfinished[row.run_id] = row
        else:
            self.unfinished.pop(row.run_id, None)
        if before is not None:
            self._details.pop(row.run_id, None)
        if row.partition is None:
            return None
        if row.state is RunState.DONE and row.job != conclusion_job.name:
            self.intakes[row.partition] += 1
        newest = self.latest.get(row.partition)
        if newest is None or newest.id <= row.id:
            self.latest[row.partition] = row
        return row.partition

    def need(self, run_ids: Iterable[str]) -> None:
        """Read the details of some runs in one question for every few hundred."""
        wanted = [run_id for run_id in run_ids if run_id not in self._details]
        for begin in range(0, len(wanted), _AT_ONCE):
            some = wanted[begin : begin + _AT_ONCE]
            for run in self.instance.get_runs(dg.RunsFilter(run_ids=some)):
                self._details[run.run_id] = _detail(run)

    def detail(self, run_id: str) -> RunDetail:
        """The details of a run."""
        self.need([run_id])
        return self._details.get(run_id, _NOTHING)


_NOTHING = RunDetail(priority=0, case=None, target=None, simulates=False, served=False, steps=frozenset())


def _detail(run: dg.DagsterRun) -> RunDetail:
    pools = run.run_op_concurrency.all_pools if run.run_op_concurrency is not None else None
    return RunDetail(
        priority=priority_of(run.tags),
        case=run.tags.get(CASE_TAG),
        target=run.tags.get(UPLOAD_TAG),
        simulates=bool(pools) or GPU_TAG in run.tags,
        served=run.remote_job_origin is not None,
        steps=frozenset(run.step_keys_to_execute or ()),
    )


def _ask(connection: Connection, *which: ColumnElement[bool]) -> list[RunRow]:
    return [_row(row) for row in connection.execute(select(*_COLUMNS).where(*which))]


def _by_id(connection: Connection, run_ids: list[str]) -> list[RunRow]:
    found: list[RunRow] = []
    for begin in range(0, len(run_ids), _AT_ONCE):
        found += _ask(connection, RunsTable.c.run_id.in_(run_ids[begin : begin + _AT_ONCE]))
    return found


def _row(row: Any) -> RunRow:
    number, run_id, job, status, partition, created, started, ended, updated = row
    return RunRow(
        number,
        run_id,
        job,
        status,
        partition,
        created.replace(tzinfo=UTC),
        _moment(started),
        _moment(ended),
        updated if status in _WAITING else None,
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

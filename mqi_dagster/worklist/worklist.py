"""The whole work of a site at one moment, read in bulk, and read again at little cost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import chain

import dagster as dg

from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.lifecycle.health import HealthProblem, SensorSeen, health, sensors_seen
from mqi_dagster.lifecycle.materialisations import HANDED_OVER
from mqi_dagster.lifecycle.pipeline import Pipeline, levels_of
from mqi_dagster.lifecycle.runs import RunState
from mqi_dagster.lifecycle.stages import Stage, WorkPhase
from mqi_dagster.lifecycle.uptime import Heartbeat
from mqi_dagster.partitions import CASE, PartitionKind, find_key
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist.alarms import alarms
from mqi_dagster.worklist.board_rows import (
    BeamStatus,
    CaseStatus,
    ClusterStatus,
    QueueStatus,
    SensorStatus,
    TargetStatus,
    Work,
)
from mqi_dagster.worklist.case_index import CaseIndex
from mqi_dagster.worklist.events import EventIndex
from mqi_dagster.worklist.ledger_snapshot import LedgerSnapshot
from mqi_dagster.worklist.pace import Pace
from mqi_dagster.worklist.partition_index import Known, PartitionIndex, board_order
from mqi_dagster.worklist.pool import gpu_status, pool_rows
from mqi_dagster.worklist.queued_runs import Limits, Queue
from mqi_dagster.worklist.reading import plain_errors
from mqi_dagster.worklist.runs import RunIndex
from mqi_dagster.worklist.unit_index import UnitIndex

_EVENTS_EVERY = timedelta(seconds=2)
_LIMITS_EVERY = timedelta(seconds=60)
_HEALTH_EVERY = timedelta(seconds=5)


class Worklist:
    """Where every case and beam of a site stands.

    Args:
        instance: Dagster's records.
        site: The site.
        pipelines: What it works on.
        ledger: Its ledger, opened for reading.
        history: How long a concluded case is still listed; None for all of them.
        causes_at_once: First causes of failures that one snapshot reads at most; None for all.
        labels_at_once: Cases whose beams' names, and how they were delivered, one snapshot reads at most;
            None for all.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        site: Site,
        pipelines: Collection[Pipeline],
        ledger: Ledger,
        *,
        history: timedelta | None = timedelta(hours=24),
        causes_at_once: int | None = None,
        labels_at_once: int | None = None,
    ) -> None:
        self._instance = instance
        self._site = site
        self._pipelines = pipelines
        self._runs = RunIndex(instance)
        self._events = EventIndex(instance, pipelines)
        self._opened = ledger
        self._ledger = LedgerSnapshot(ledger)
        self._pace = Pace(instance)
        self._queue = Queue({}, 0, 0)
        known = Known(self._runs, self._events, self._ledger, self._pace)
        self._indexes: dict[PartitionKind, PartitionIndex] = {}
        for pipeline in pipelines:
            index: PartitionIndex
            if pipeline.units.kind is CASE:
                index = CaseIndex(
                    instance,
                    site,
                    pipeline,
                    known,
                    history=history,
                    causes_at_once=causes_at_once,
                    labels_at_once=labels_at_once,
                )
            else:
                index = UnitIndex(instance, pipeline, known, history=history, causes_at_once=causes_at_once)
            self._indexes[pipeline.units.kind] = index
        self._kinds = [level.kind for level in levels_of(pipelines)]
        self._together: (
            tuple[list[tuple[list[CaseStatus], list[BeamStatus]]], list[CaseStatus], list[BeamStatus]] | None
        ) = None
        self._events_at: datetime | None = None
        self._limits: tuple[datetime, Limits] | None = None
        self._health: tuple[datetime, Heartbeat, list[HealthProblem], list[SensorSeen]] | None = None

    def snapshot(self, now: datetime | None = None) -> Work:
        """Everything at this moment.

        Args:
            now: UTC; the machine's own time where None.

        Raises:
            InfrastructureError: Dagster's records or the ledger are away.
        """
        at = now or datetime.now(UTC)
        with plain_errors():
            return self._read(at)

    def _read(self, now: datetime) -> Work:
        arrivals = self._ledger.refresh(now)
        runs = self._runs.refresh()
        events = self._read_events(now, bool(runs))
        (heartbeat, found, sensors), limits = self._read_health(now), self._read_limits(now)
        before, self._queue = self._queue, Queue.of(self._runs, limits, heartbeat.alive)
        if runs is None or events is None:
            changed = self._everything()
        else:
            changed = self._units(runs | events | arrivals | self._requeued(before))
        working = self._working()
        self._ledger.read_progress(self._to_read(working, changed))
        self._pace.refresh(
            {
                key: row
                for key in working
                if (row := self._ledger.progress.get(key)) is not None and row.phase == WorkPhase.SIMULATING
            }
        )
        changed |= self._units(working)
        for kind, index in self._indexes.items():
            index.update((unit for unit, of in changed.items() if of is kind), self._queue, now)
        return self._work(now, heartbeat, limits, found, sensors)

    def _read_events(self, now: datetime, runs_changed: bool) -> set[str] | None:
        """Nothing is made without a run, but for what a person reports; partitions may come by themselves."""
        if self._events_at is not None and not runs_changed and now - self._events_at < _EVENTS_EVERY:
            return set()
        self._events_at = now
        return self._events.refresh()

    def _everything(self) -> dict[str, PartitionKind]:
        for index in self._indexes.values():
            index.clear()
        return self._units((*self._ledger.arrivals, *self._events.every_key))

    def _units(self, texts: Iterable[str]) -> dict[str, PartitionKind]:
        """Kind by key of the units that some partitions are or are parts of; an invented one is of none."""
        keys = (find_key(text, self._kinds) for text in texts)
        units = (key.parent or key for key in keys if key is not None)
        return {unit.text: unit.kind for unit in units}

    def _requeued(self, before: Queue) -> set[str]:
        """Partitions of queued runs that wait for another reason now."""
        return {
            run.partition
            for run_id, run in self._runs.unfinished.items()
            if before.reasons.get(run_id) != self._queue.reasons.get(run_id) and run.partition
        }

    def _working(self) -> set[str]:
        """Cases and beams that a worker is busy with, and beams whose lease is not given back."""
        working = {
            run.partition
            for run in self._runs.unfinished.values()
            if run.partition is not None and run.state is RunState.WORKING
        }
        return working | self._ledger.leases.keys()

    def _to_read(self, working: set[str], changed: Iterable[str]) -> set[str]:
        wanted = set(working)
        for unit in changed:
            for beam in self._events.parts_of(unit).values():
                run = self._runs.latest.get(beam)
                # One that was handed over or never started has nothing to tell.
                if run is not None and run.state is not RunState.DONE:
                    wanted.add(beam)
        return wanted

    def _read_health(self, now: datetime) -> tuple[Heartbeat, list[HealthProblem], list[SensorSeen]]:
        if self._health is None or now - self._health[0] >= _HEALTH_EVERY:
            heartbeat = Heartbeat.of(self._instance, now)
            found = health(self._instance, self._site, self._pipelines, self._opened, now, heartbeat)
            self._health = (now, heartbeat, found, sensors_seen(self._instance, self._pipelines))
        return self._health[1:]

    def _read_limits(self, now: datetime) -> Limits:
        if self._limits is None or now - self._limits[0] >= _LIMITS_EVERY:
            self._limits = (now, Limits.of(self._instance))
        return self._limits[1]

    def _work(
        self,
        now: datetime,
        heartbeat: Heartbeat,
        limits: Limits,
        found: list[HealthProblem],
        sensors: list[SensorSeen],
    ) -> Work:
        indexes = self._indexes.values()
        cases, beams = self._listed()
        reasons: dict[str, int] = {}
        for reason, _ in self._queue.reasons.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        leases = [*self._ledger.leases.values(), *self._ledger.work]
        handed_over = self._events.newest(HANDED_OVER)
        # These rows are made of what was read: nothing has to be validated for every one of them again.
        return Work.model_construct(
            at=now,
            daemon_seen=heartbeat.seen,
            daemon_alive=heartbeat.alive,
            cases=cases,
            beams=beams,
            concluded_cases=sum(index.concluded for index in indexes),
            gpus=[gpu_status(row) for row in pool_rows(self._ledger.slots, leases, self._ledger.gpus)],
            queue=QueueStatus(
                queued=len(self._queue.reasons),
                in_work=self._queue.in_work,
                max_runs=limits.runs,
                pool_in_use=self._queue.pool_in_use,
                pool_limit=limits.simulations,
                waiting_beams=sum(index.parts_in(Stage.WAITING) for index in indexes),
                waiting_cases=sum(index.units_in(Stage.READY) for index in indexes),
                inbox=sum(index.units_in(stage) for index in indexes for stage in (Stage.INBOX, Stage.TREE)),
                reasons=reasons,
            ),
            alarms=alarms(found, self._ledger.alarms),
            clusters=[
                ClusterStatus(**{name: getattr(one, name) for name in ClusterStatus.model_fields})
                for one in self._ledger.clusters
            ],
            sensors=[SensorStatus(sensor=one.name, on=one.on, ticked_at=one.ticked_at) for one in sensors],
            targets=[
                TargetStatus(
                    target=self._site.settings.handover.target,
                    handed_over_at=handed_over.at if handed_over is not None else None,
                )
            ],
        )

    def _listed(self) -> tuple[list[CaseStatus], list[BeamStatus]]:
        """The rows of all pipelines, put together anew only where one of them has changed."""
        rows = [(index.units(), index.parts()) for index in self._indexes.values()]
        if self._together is None or any(
            now is not before
            for one, other in zip(rows, self._together[0], strict=True)
            for now, before in zip(one, other, strict=True)
        ):
            units, parts = ([some for some in of if some] for of in zip(*rows, strict=True))
            cases = units[0] if len(units) == 1 else list(merge(*units, key=board_order))
            beams = parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))
            self._together = rows, cases, beams
        return self._together[1:]

    def every_case(self, kind: PartitionKind | None = None) -> Iterator[CaseStatus]:
        """The cases as the last snapshot saw them, the latest arrival first, those without one at the end.

        Args:
            kind: Only units of this kind, ``CASE`` or ``COURSE``; None: all.
        """
        indexes = self._indexes.values() if kind is None else (self._indexes[kind],)
        known = {key for index in indexes for key in index.known}
        arrived = [key for key in reversed(self._ledger.arrivals) if key in known]
        for key in (*arrived, *sorted(known.difference(arrived))):
            row = self.case(key)
            if row is not None:
                yield row

    def case(self, case: str) -> CaseStatus | None:
        """One case as the last snapshot saw it; None where nobody knows it."""
        rows = (index.unit(case) for index in self._indexes.values())
        return next((row for row in rows if row is not None), None)

    def beams_of(self, case: str) -> list[BeamStatus]:
        """The beams of a case as the last snapshot saw them, by number."""
        return [row for index in self._indexes.values() for row in index.parts_of(case)]

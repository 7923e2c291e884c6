"""The cases and beams of a site, each row derived anew only where something about it has changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg
from sqlalchemy.exc import OperationalError

from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.lifecycle.causes import Cause, first_cause
from mqi_dagster.lifecycle.materialisations import MANIFEST
from mqi_dagster.lifecycle.runs import RunState
from mqi_dagster.lifecycle.stages import OVER, CaseState, Stage, order
from mqi_dagster.lifecycle.status import (
    BeamFacts,
    BeamStatus,
    CaseStatus,
    RunFacts,
    beam_status,
    case_status,
    failure_of,
    results_removed,
    settled,
)
from mqi_dagster.partitions import root_of
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist.events import EventIndex
from mqi_dagster.worklist.ledger_snapshot import LedgerSnapshot
from mqi_dagster.worklist.manifests import Manifests, beams_of
from mqi_dagster.worklist.pace import Pace
from mqi_dagster.worklist.queue import Queue
from mqi_dagster.worklist.runs import RunIndex

_LATER = Cause("its first cause is being looked up", None, False)


@dataclass(frozen=True, slots=True)
class Known:
    """What rows are derived from."""

    runs: RunIndex
    events: EventIndex
    ledger: LedgerSnapshot
    pace: Pace


class CaseIndex:
    """The rows.

    Args:
        instance: Dagster's records.
        site: The site.
        known: What rows are derived from.
        history: How long a concluded case is still listed; None for all of them.
        causes_at_once: First causes of failures that one update reads at most; None for all.
        labels_at_once: Cases whose beams' names, and how they were delivered, one update reads at most;
            None for all.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        site: Site,
        known: Known,
        *,
        history: timedelta | None,
        causes_at_once: int | None,
        labels_at_once: int | None,
    ) -> None:
        self._instance = instance
        self._from = known
        self._manifests = Manifests(instance, site, known.events, known.ledger)
        self._history = history
        self._causes_at_once = causes_at_once
        self._causes: dict[str, Cause] = {}
        self._causes_left = 0
        self._labels_at_once = labels_at_once
        self._owed: set[str] = set()
        """Cases of which a first cause, the names of its beams, or their delivery are still to be read."""
        self._cases: dict[str, CaseStatus] = {}
        self._beams: dict[str, dict[int, BeamStatus]] = {}
        self._settled: set[str] = set()
        """Concluded cases that are not listed any more."""
        self._sorted: tuple[list[str], list[tuple[str, int]]] | None = None
        self._counted: tuple[Counter[Stage], Counter[Stage]] | None = None
        self._queue = Queue({}, 0, 0)
        self._now = datetime.min

    def clear(self) -> None:
        """Forget every row."""
        self._cases.clear()
        self._beams.clear()
        self._settled.clear()
        self._sorted = None

    @property
    def known(self) -> Iterable[str]:
        """Every case."""
        return (*self._cases, *self._settled)

    @property
    def concluded(self) -> int:
        """How many cases are concluded."""
        return len(self._settled) + self.cases_in(Stage.CONCLUDED)

    def update(self, changed: Iterable[str], queue: Queue, now: datetime) -> None:
        """Derive the rows of some cases anew.

        Args:
            changed: Case keys.
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
        self._read_words(wanted)
        self._manifests.read_made(list(self._finished_beams(wanted)))
        for case in wanted:
            self._derive(case)
        if self._sorted is None:
            self._sort()

    def _read_words(self, cases: Iterable[str]) -> None:
        """Names of beams and what was not delivered as planned, read together: never case by case."""
        listed = [case for case in cases if self._is_known(case) and not self._is_old(case)]
        manifests, most = self._manifests, self._labels_at_once
        for is_read, read in (
            (manifests.is_read, manifests.read),
            (manifests.delivery_is_read, manifests.read_deliveries),
        ):
            unread = [case for case in listed if not is_read(case)]
            some = unread if most is None else unread[:most]
            read(some)
            self._owed.update(unread[len(some) :])

    def _finished_beams(self, cases: Iterable[str]) -> Iterable[str]:
        """Beams whose latest run has succeeded, of cases of which more was made since their conclusion."""
        for case in cases:
            beams = self._from.events.beams_of(case).values()
            if not beams or self._manifests.is_unchanged(case, beams):
                continue
            for beam in beams:
                run = self._from.runs.latest.get(beam)
                if run is not None and run.state is RunState.DONE:
                    yield beam

    def _failed_runs(self, cases: Iterable[str]) -> Iterable[str]:
        for case in cases:
            for key in (case, *self._from.events.beams_of(case).values()):
                run = self._from.runs.latest.get(key)
                if run is not None and run.state is RunState.FAILED:
                    yield run.run_id

    def _derive(self, case: str) -> None:
        before = self._cases.get(case), self._beams.get(case, {})
        if self._is_known(case):
            if self._is_old(case):
                self._settled.add(case)
                self._put(case, None, {}, before)
                return
            self._settled.discard(case)
            stand, beams = self._rows(case)
            self._put(case, stand, beams, before)
        else:
            self._settled.discard(case)
            self._put(case, None, {}, before)

    def _put(
        self,
        case: str,
        stand: CaseStatus | None,
        beams: dict[int, BeamStatus],
        before: tuple[CaseStatus | None, dict[int, BeamStatus]],
    ) -> None:
        if stand is None:
            self._cases.pop(case, None)
            self._beams.pop(case, None)
        else:
            self._cases[case], self._beams[case] = stand, beams
        if _place(before[0]) != _place(stand) or {n: _place(b) for n, b in before[1].items()} != {
            n: _place(b) for n, b in beams.items()
        }:
            self._sorted = None

    def _is_known(self, case: str) -> bool:
        """Whether it is a case: in the pages anybody can add a partition of any beam."""
        return case in self._from.ledger.arrivals or case in self._from.events.cases

    def _is_old(self, case: str) -> bool:
        """Whether it was concluded so long ago that it is not listed; reads nothing."""
        if self._history is None:
            return False
        runs, arrival = self._from.runs.latest, self._from.ledger.arrivals.get(case)
        run = runs.get(case)
        if run is not None and (run.ended is None or self._now - run.ended < self._history):
            return False
        keys = self._from.events.beams_of(case)
        beams = [runs.get(beam) for beam in keys.values()]
        removed = self._is_removed(case)
        return settled(run, arrival, removed, beams, lambda: self._manifests.concluded(case, keys))

    def _is_removed(self, case: str) -> bool:
        is_partition = case in self._from.events.cases
        return results_removed(
            self._from.ledger.arrivals.get(case), is_partition, self._from.runs.latest.get(case)
        )

    # One case

    def _rows(self, case: str) -> tuple[CaseStatus, dict[int, BeamStatus]]:
        events, arrival = self._from.events, self._from.ledger.arrivals.get(case)
        latest = self._facts(case, arrival.priority if arrival is not None else 0)
        if events.latest(MANIFEST, case) is None:
            return case_status(case, arrival, latest, None, None, self._is_removed(case)), {}
        keys, manifest = events.beams_of(case), None
        if not keys or self._from.runs.intakes[case] > 1:
            manifest, keys = self._by_manifest(case, keys)
        if not keys:
            return case_status(case, arrival, latest, None, None, self._is_removed(case)), {}
        beams = self._beam_rows(case, keys)
        if manifest is None and self._to_be_told_apart(latest, beams):
            manifest, named = self._by_manifest(case, keys)
            if named != keys:
                keys, beams = named, self._beam_rows(case, named)
        over = bool(beams) and all(row.stage is Stage.HANDED_OVER for row in beams.values())
        concluded = over and self._manifests.concluded(case, keys)
        rows = [beams[number] for number in sorted(beams)]
        stand = case_status(case, arrival, latest, manifest, rows, concluded)
        return self._with_delivery(stand), beams

    def _with_delivery(self, stand: CaseStatus) -> CaseStatus:
        """A concluded case with what was not delivered as planned, once that was read."""
        if stand.stage is not Stage.CONCLUDED or not self._manifests.delivery_is_read(stand.case):
            return stand
        wrong = self._manifests.delivery(stand.case)
        reason = "; ".join(part for part in (stand.reason, wrong) if part)
        return stand.model_copy(update={"reason": reason})

    def _by_manifest(self, case: str, keys: dict[int, str]) -> tuple[CaseManifest | None, dict[int, str]]:
        manifest = self._manifests.of(case)
        return manifest, beams_of(manifest) if manifest is not None else keys

    @staticmethod
    def _to_be_told_apart(latest: RunFacts, beams: dict[int, BeamStatus]) -> bool:
        """Whether only the manifest tells if the case is whole, or a beam an invention or out of date."""
        if latest.state not in (RunState.NONE, RunState.DONE):
            return False
        rows = beams.values()
        if any(row.state is CaseState.IN_WORK for row in rows):
            return False
        return any(row.run is not None or row.stage is Stage.HANDED_OVER for row in rows)

    def _beam_rows(self, case: str, keys: dict[int, str]) -> dict[int, BeamStatus]:
        arrival = self._from.ledger.arrivals.get(case)
        priority = arrival.priority if arrival is not None else 0
        labels = self._labels(case)
        rows = {
            number: beam_status(
                key, latest := self._facts(key, priority), self._beam_facts(key, latest), self._now
            )
            for number, key in keys.items()
        }
        return {
            number: row.model_copy(update={"label": labels[number]}) if number in labels else row
            for number, row in rows.items()
        }

    def _labels(self, case: str) -> dict[int, str]:
        """What stands beside the keys of a case's beams, once it was read."""
        manifest = self._manifests.of(case) if self._manifests.is_read(case) else None
        return {} if manifest is None else {beam.number: beam.label for beam in manifest.beams}

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
            return RunFacts(run, why, detail.priority, steps=detail.steps, progress=progress)
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

    def _beam_facts(self, beam: str, latest: RunFacts) -> BeamFacts:
        if latest.state in (RunState.NONE, RunState.DONE):
            return BeamFacts(handed_over=self._manifests.handed_over(beam))
        ledger = self._from.ledger
        attempt, lease = ledger.attempts.get(beam), ledger.leases.get(beam)
        remaining = None
        if latest.report is not None:
            remaining = self._from.pace.remaining(latest.report.run_id, self._now.timestamp())
        return BeamFacts(
            attempt=attempt.number if attempt is not None else None,
            place=lease.name if lease is not None else None,
            job=ledger.jobs.get(beam),
            remaining=remaining,
        )

    # All of them

    def _sort(self) -> None:
        def key(row: CaseStatus | BeamStatus) -> tuple[int, int, float]:
            since = row.since.timestamp() if row.since is not None else 0.0
            place = order(row.state, row.stage)
            # What is over: the latest first.
            return place, -row.priority, -since if place == OVER else since

        cases = sorted(self._cases, key=lambda case: (key(self._cases[case]), case))
        every = [(row, (case, number)) for case, rows in self._beams.items() for number, row in rows.items()]
        every.sort(key=lambda one: (key(one[0]), one[1]))
        self._sorted = cases, [place for _, place in every]
        self._counted = (
            Counter(row.stage for row in self._cases.values()),
            Counter(row.stage for row, _ in every),
        )

    def cases(self) -> list[CaseStatus]:
        """The listed cases, those in work first."""
        return [self._cases[case] for case in (self._sorted or ([], []))[0]]

    def beams(self) -> list[BeamStatus]:
        """The beams of the listed cases, those in work first."""
        return [self._beams[case][number] for case, number in (self._sorted or ([], []))[1]]

    def cases_in(self, stage: Stage) -> int:
        """How many listed cases are at a stage."""
        return self._counted[0][stage] if self._counted is not None else 0

    def beams_in(self, stage: Stage) -> int:
        """How many beams of listed cases are at a stage."""
        return self._counted[1][stage] if self._counted is not None else 0

    def case(self, case: str) -> CaseStatus | None:
        """One case; None where nobody knows it."""
        if case in self._settled:
            return self._rows(case)[0]
        return self._cases.get(case)

    def beams_of(self, case: str) -> list[BeamStatus]:
        """The beams of a case by number."""
        rows = self._rows(case)[1] if case in self._settled else self._beams.get(case, {})
        return [rows[number] for number in sorted(rows)]


def _place(row: CaseStatus | BeamStatus | None) -> tuple[object, ...]:
    """What decides where a row stands on the board."""
    return () if row is None else (row.stage, row.state, row.priority, row.since, row.reason)

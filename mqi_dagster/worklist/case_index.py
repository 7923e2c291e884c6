"""The rows of the proton pipeline: cases and their beams, as the manifests of the cases have them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import timedelta

import dagster as dg

from mqi_dagster.lifecycle.case_facts import CaseFacts
from mqi_dagster.lifecycle.case_status import (
    BeamFacts,
    RunFacts,
    beam_status,
    case_status,
    results_removed,
    settled,
)
from mqi_dagster.lifecycle.materialisations import DOSE, HANDED_OVER, MANIFEST
from mqi_dagster.lifecycle.pipeline import Pipeline
from mqi_dagster.lifecycle.runs import RunState
from mqi_dagster.lifecycle.stages import CaseState, Stage
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist.board_rows import BeamKnown, BeamStatus, CaseStatus, beam_row, unit_row
from mqi_dagster.worklist.manifests import Manifests
from mqi_dagster.worklist.partition_index import Known, PartitionIndex


class CaseIndex(PartitionIndex):
    """The rows of cases and their beams.

    Args:
        instance: Dagster's records.
        site: The site.
        pipeline: Whose rows they are.
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
        pipeline: Pipeline,
        known: Known,
        *,
        history: timedelta | None,
        causes_at_once: int | None,
        labels_at_once: int | None,
    ) -> None:
        super().__init__(instance, pipeline, known, history=history, causes_at_once=causes_at_once)
        self._manifests = Manifests(instance, site, pipeline, known.events, known.ledger)
        self._labels_at_once = labels_at_once
        self._without_labels: dict[str, None] = {}
        """Cases whose beams' names are still to be read, those that have changed last at the end."""
        self._without_delivery: dict[str, None] = {}
        """Cases of which it is still to be read how they were delivered."""

    def _read(self, units: Collection[str]) -> Collection[str]:
        """Read together what their rows are derived from; further cases, whose words were read now."""
        self._manifests.read([case for case in units if self._may_be_told_apart(case)])
        read = self._read_words(units)
        finished = list(self._finished_beams(units))
        for asset in (DOSE, HANDED_OVER):
            self._from.events.read_latest(asset, finished)
        return read

    def _may_be_told_apart(self, case: str) -> bool:
        """Whether its row may ask for the inventory, as that of every concluded case does."""
        run = self._from.runs.latest.get(case)
        done = run is None or run.state is RunState.DONE
        taken_in = done and self._from.events.number(MANIFEST, case) is not None
        return taken_in and not self._manifests.is_read(case) and not self._is_old(case)

    def _read_words(self, cases: Iterable[str]) -> list[str]:
        """Read names of beams and what was not delivered as planned together, never case by case.

        Returns the cases whose were read. One whose are not keeps its row until then.
        """
        manifests, found = self._manifests, list[str]()
        for unread, is_read, read in (
            (self._without_labels, manifests.is_read, manifests.read),
            (self._without_delivery, manifests.delivery_is_read, manifests.read_deliveries),
        ):
            unread.update(dict.fromkeys(cases))
            some: list[str] = []
            while unread and (self._labels_at_once is None or len(some) < self._labels_at_once):
                case, _ = unread.popitem()
                if self._is_known(case) and not self._is_old(case) and not is_read(case):
                    some.append(case)
            read(some)
            found += some
        return found

    def _finished_beams(self, cases: Iterable[str]) -> Iterable[str]:
        """Beams whose latest run has succeeded, of cases of which more was made since their conclusion."""
        for case in cases:
            beams = self._from.events.parts_of(case).values()
            if not beams or self._manifests.is_unchanged(case, beams):
                continue
            for beam in beams:
                run = self._from.runs.latest.get(beam)
                if run is not None and run.state is RunState.DONE:
                    yield beam

    def _is_old(self, case: str) -> bool:
        """Whether it was concluded so long ago that it is not listed; reads nothing."""
        if self._history is None:
            return False
        runs, arrival = self._from.runs.latest, self._from.ledger.arrivals.get(case)
        run = runs.get(case)
        if run is not None and (run.ended is None or self._now - run.ended < self._history):
            return False
        keys = self._from.events.parts_of(case)
        beams = [runs.get(beam) for beam in keys.values()]
        removed = self._is_removed(case)
        return settled(run, arrival, removed, beams, lambda: self._manifests.concluded(case, keys))

    def _is_removed(self, case: str) -> bool:
        is_partition = case in self._from.events.keys(self._pipeline.units.kind)
        return results_removed(
            self._from.ledger.arrivals.get(case), is_partition, self._from.runs.latest.get(case)
        )

    # One case

    def _rows(self, case: str) -> tuple[CaseStatus, dict[int, BeamStatus]]:
        events, arrival = self._from.events, self._from.ledger.arrivals.get(case)
        latest = self._facts(case, arrival.priority if arrival is not None else 0)
        keys, facts = events.parts_of(case), None
        removed = self._is_removed(case)
        # What a removed case was taken in with may still be told by events: its beams are gone all the same.
        taken_in = not removed and events.number(MANIFEST, case) is not None
        if taken_in and (not keys or self._from.runs.intakes[case] > 1):
            facts, keys = self._by_manifest(case, keys)
        if not taken_in or not keys:
            status = case_status(arrival, latest, None, None, removed)
            return unit_row(self._kind, case, arrival, latest, status), {}
        beams = self._beams(case, keys)
        if facts is None and self._to_be_told_apart(latest, beams):
            facts, named = self._by_manifest(case, keys)
            if named != keys:
                keys, beams = named, self._beams(case, named)
        parts = {number: beam.status for number, beam in beams.items()}
        over = bool(parts) and all(part.stage is Stage.HANDED_OVER for part in parts.values())
        concluded = over and self._manifests.concluded(case, keys)
        status = case_status(arrival, latest, facts, parts, concluded)
        row = unit_row(self._kind, case, arrival, latest, status, parts, self._known_facts(case))
        row = self._with_delivery(row)
        return row, {number: beam_row(case, number, beam, self._now) for number, beam in beams.items()}

    def _with_delivery(self, row: CaseStatus) -> CaseStatus:
        """A concluded case with what was not delivered as planned, once that was read."""
        if row.stage is not Stage.CONCLUDED or not self._manifests.delivery_is_read(row.case):
            return row
        wrong = self._manifests.delivery(row.case)
        reason = "; ".join(part for part in (row.reason, wrong) if part)
        return row.model_copy(update={"reason": reason})

    def _by_manifest(self, case: str, keys: dict[int, str]) -> tuple[CaseFacts | None, dict[int, str]]:
        facts = self._manifests.of(case)
        return facts, facts.beams(case) if facts is not None else keys

    @staticmethod
    def _to_be_told_apart(latest: RunFacts, beams: dict[int, BeamKnown]) -> bool:
        """Whether only the manifest tells if the case is whole, or a beam an invention or out of date."""
        if latest.state not in (RunState.NONE, RunState.DONE):
            return False
        status = [beam.status for beam in beams.values()]
        if any(one.state is CaseState.IN_WORK for one in status):
            return False
        return any(one.started or one.stage is Stage.HANDED_OVER for one in status)

    def _beams(self, case: str, keys: dict[int, str]) -> dict[int, BeamKnown]:
        arrival = self._from.ledger.arrivals.get(case)
        priority = arrival.priority if arrival is not None else 0
        known, found = self._known_facts(case), {}
        labels = known.labels if known is not None else {}
        for number, key in keys.items():
            latest = self._facts(key, priority)
            facts = self._beam_facts(key, latest)
            found[number] = BeamKnown(key, labels.get(number, ""), latest, facts, beam_status(latest, facts))
        return found

    def _known_facts(self, case: str) -> CaseFacts | None:
        """What its inventory says, once it was read."""
        return self._manifests.of(case) if self._manifests.is_read(case) else None

    def _beam_facts(self, beam: str, latest: RunFacts) -> BeamFacts:
        if latest.state in (RunState.NONE, RunState.DONE):
            return BeamFacts(why_not_handed_over=self._manifests.why_not_handed_over(beam))
        ledger = self._from.ledger
        attempt, lease = ledger.attempts.get(beam), ledger.leases.get(beam)
        remaining = None
        if latest.report is not None:
            remaining = self._from.pace.remaining(latest.report.run_id, self._now.timestamp())
        return BeamFacts(
            attempt=attempt.number if attempt is not None else None,
            slot=lease.name if lease is not None else None,
            job=ledger.jobs.get(beam),
            remaining=remaining,
        )

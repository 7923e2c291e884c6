"""Where a case in the hands of the services stands, beam by beam."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

from mqi_dagster.assets.beam import read_manifest
from mqi_dagster.assets.lineage import latest_digest
from mqi_dagster.cli.run_history import LatestRun, RunState, latest_run
from mqi_dagster.partitions import beam_key
from mqi_dagster.resources.site import Site

_PHASES = {"simulated": "making the RT Dose", "waiting": "waiting for a slot"}


@dataclass(frozen=True, slots=True)
class Station:
    """How far a case or one of its beams is."""

    words: str
    percent: float = 0.0
    """Of the simulation."""
    done: bool = False
    failed: str | None = None
    """The first cause, where nobody will try again by itself."""


@dataclass(frozen=True, slots=True)
class Board:
    """A case and its beams."""

    case: Station
    beams: dict[int, Station]

    @property
    def failures(self) -> list[str]:
        """First causes, of the case first."""
        stations = [self.case, *(self.beams[number] for number in sorted(self.beams))]
        return [station.failed for station in stations if station.failed is not None]


class CaseBoard:
    """Looks at a case again and again.

    Args:
        instance: Dagster's records.
        site: The installation.
        case: Case key.
    """

    def __init__(self, instance: dg.DagsterInstance, site: Site, case: str) -> None:
        self._instance = instance
        self._site = site
        self._case = case
        self._beams: tuple[str | None, list[int]] = (None, [])

    def look(self) -> Board:
        """Where the case stands now."""
        run = latest_run(self._instance, self._case)
        numbers = self._numbers()
        if not numbers:
            return Board(_before_beams(self._site, self._case, run), {})
        beams = {n: _beam(self._instance, self._site, beam_key(self._case, n)) for n in numbers}
        done = all(beam.done for beam in beams.values())
        return Board(_case(self._instance, self._case, run, done), beams)

    def _numbers(self) -> list[int]:
        """Beams of the manifest, read again only where another one was made."""
        digest = latest_digest(self._instance, "case_manifest", self._case)
        if digest is not None and digest != self._beams[0]:
            manifest = read_manifest(self._instance, self._site, self._case)
            self._beams = (digest, sorted(entry.number for entry in manifest.beams))
        return self._beams[1]


def _ended_badly(run: LatestRun) -> Station | None:
    if run.state is RunState.CANCELLED:
        return Station("cancelled", failed="the run was cancelled")
    if run.state is RunState.AGAIN:
        return Station(f"tried again by itself: {run.cause}")
    if run.state is not RunState.FAILED:
        return None
    return Station("failed", failed=run.cause or "failed without a cause")


def _before_beams(site: Site, case: str, run: LatestRun) -> Station:
    if run.state is RunState.NONE:
        row = site.ledger.arrival(case)
        if row is None:
            return Station("in the inbox, not seen yet")
        return Station(row.reason if not row.ready else "taken in soon")
    return _ended_badly(run) or Station(f"being taken in ({run.state.value})")


def _case(instance: dg.DagsterInstance, case: str, run: LatestRun, beams_done: bool) -> Station:
    bad = _ended_badly(run)
    if bad is not None:
        return bad
    if run.job == "intake":
        taken = run.state is RunState.DONE
        return Station("beams at work" if taken else f"being taken in ({run.state.value})")
    if not beams_done:
        return Station("beams at work")
    if run.state is RunState.DONE and latest_digest(instance, "case_handed_over", case) is not None:
        return Station("handed over", 100.0, done=True)
    return Station(f"being concluded ({run.state.value})")


def _beam(instance: dg.DagsterInstance, site: Site, key: str) -> Station:
    run = latest_run(instance, key)
    bad = _ended_badly(run)
    if bad is not None:
        return bad
    if run.state is RunState.DONE:
        return Station("handed over", 100.0, done=True)
    if run.state is not RunState.WORKING:
        return Station("waiting for its run" if run.state is RunState.NONE else "queued")
    report = site.ledger.progress(key)
    if report is None or report.run_id != run.run_id:
        return Station("interpreting the records")
    return Station(_PHASES.get(report.phase, report.phase), report.percent)

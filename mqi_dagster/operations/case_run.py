"""The whole chain of a folder, headless: assets and jobs that the sensors start, one after another."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import dagster as dg

from mqi_dagster.compute.run_workers import IN_WORK, end_dead_runs
from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.errors import InputError
from mqi_dagster.ledger.progress import ProgressReport
from mqi_dagster.lifecycle.arrived import ArrivedCase, given_folder
from mqi_dagster.lifecycle.beam import read_manifest
from mqi_dagster.lifecycle.case_reading import read_case
from mqi_dagster.lifecycle.jobs import RUN_KEY_TAG
from mqi_dagster.lifecycle.stages import CaseState
from mqi_dagster.operations.in_process import execute_here, require_apart
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.results import CaseResult, beam_rows
from mqi_dagster.operations.services import clear_leftovers
from mqi_dagster.operations.site_folder import RunOptions, make_run_site
from mqi_dagster.operations.sites import SETTINGS_NAME
from mqi_dagster.partitions import BEAM, CASE, beam_key
from mqi_dagster.resources.site import Site


@dataclass(frozen=True, slots=True)
class CaseRun:
    """What `mqi case run` was asked to do."""

    folder: Path
    out: Path
    options: RunOptions
    beams_first: tuple[int, ...] = ()
    """BeamNumbers to begin with; the others follow by number."""
    priority: int | None = None
    """Of the case; of several runs into one site that wait for a slot the most urgent is next.

    None: as it is.
    """


Reports = Callable[[str], ProgressReport | None]
"""What the ledger says of a beam's progress, by its key."""


class Display(Protocol):
    """Shows somebody how far the beams of a running case are."""

    def note(self, text: str) -> None:
        """Say something beside what is shown."""

    def expect(self, keys: Sequence[str]) -> None:
        """Show beams that will be in work, in their order."""

    def watching(self, key: str, reports: Reports) -> AbstractContextManager[None]:
        """Follow a beam while the block runs."""

    def ended(self, key: str, error: str | None) -> None:
        """Say how a beam's run has ended."""


class CaseRunner:
    """Runs every case of a folder into a site.

    Args:
        request: What to run.
        progress: Shows how far the beams are.
    """

    def __init__(self, request: CaseRun, progress: Display) -> None:
        require_apart(request.folder, request.out)
        make_run_site(request.out, request.options)
        self._folder = request.folder
        self._first = request.beams_first
        self._priority = request.priority
        self.site = Site(request.out / SETTINGS_NAME, given=request.folder)
        from mqi_dagster.definitions import build_definitions

        self._definitions = build_definitions(self.site)
        self._progress = progress

    def run(self) -> list[CaseResult]:
        """Run every case, each to its end, whatever becomes of the others.

        Raises:
            InputError: The folder holds no case, or not one.
        """
        clear_leftovers(self.site.settings)
        with open_instance(self.site.settings) as instance:
            # Runs of an earlier command that was killed would hold their slots, and look as if in work.
            end_dead_runs(instance, self.site, IN_WORK, self._progress.note)
            return [self._case(instance, found) for found in given_folder(self.site, self._folder)]

    def _case(self, instance: dg.DagsterInstance, found: ArrivedCase) -> CaseResult:
        from mqi_dagster.sensors.beams import beam_requests

        case = found.case
        ledger = self.site.ledger
        row = ledger.arrivals.record(
            found.arrival_hash, case, found.fingerprint, True, "", None, self._priority
        )
        instance.add_dynamic_partitions(CASE.name, [case])
        # As if the sensor had asked for it, so that services started later do not run it again.
        ledger.arrivals.mark_requested(case, found.fingerprint)
        error = self._execute(instance, "intake", case, {})
        if error is not None:
            return CaseResult(case=case, status=CaseState.FAILED, error=error)
        manifest = read_manifest(instance, self.site.store, case)
        target = self.site.settings.handover.target
        requests = {
            request.partition_key: request for request in beam_requests(manifest, target, row.priority)
        }
        instance.add_dynamic_partitions(BEAM.name, [key for key in requests if key is not None])
        order = self._order(manifest)
        self._progress.expect([beam_key(case, number) for number in order])
        failed = False
        for number in order:
            key = beam_key(case, number)
            request = requests[key]
            with self._progress.watching(key, ledger.progress.get):
                error = self._execute(
                    instance, "beam", key, {**request.tags, RUN_KEY_TAG: str(request.run_key)}
                )
            self._progress.ended(key, error)
            failed |= error is not None
        error = None if failed else self._conclude(instance, manifest)
        rows = tuple(beam_rows(instance, self.site, case))
        reading = read_case(instance, self.site, case)
        if error is None and not failed and not reading.concluded:
            error = reading.case.reason
        return CaseResult(
            case=case,
            status=reading.case.state if reading.concluded else CaseState.FAILED,
            error=error,
            missing_beams=manifest.missing_beams,
            beams=rows,
        )

    def _conclude(self, instance: dg.DagsterInstance, manifest: CaseManifest) -> str | None:
        from mqi_dagster.lifecycle.conclusion_request import conclusion_request, conclusion_tags

        case = manifest.case
        arrival = self.site.ledger.arrivals.get(case)
        tags = conclusion_tags(self.site, case)
        request = conclusion_request(instance, manifest, arrival, tags, again=True)
        if request is None:
            return read_case(instance, self.site, case).case.reason or "it cannot be concluded yet"
        tags = {**request.tags, RUN_KEY_TAG: str(request.run_key)}
        return self._execute(instance, "conclusion", manifest.case, tags)

    def _order(self, manifest: CaseManifest) -> list[int]:
        present = sorted(beam.number for beam in manifest.beams)
        unknown = [number for number in self._first if number not in present]
        if unknown:
            raise InputError(f"the case holds no delivery of beam {', '.join(map(str, unknown))}")
        return [*self._first, *(number for number in present if number not in self._first)]

    def _execute(
        self, instance: dg.DagsterInstance, job: str, partition: str, tags: dict[str, str]
    ) -> str | None:
        """Run a job here; the first cause of its failure, None where it succeeded."""
        definition = self._definitions.resolve_job_def(job)
        _, cause = execute_here(instance, self.site, definition, partition, tags)
        return None if cause is None else cause.text

"""Where one case stands at this moment, read for it alone; the boards read all together (worklist/)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.lifecycle.beam import find_manifest, inventory_of
from mqi_dagster.lifecycle.causes import first_cause
from mqi_dagster.lifecycle.materialisations import MANIFEST, EventLog
from mqi_dagster.lifecycle.runs import RunState, latest_run_record, run_row
from mqi_dagster.lifecycle.stages import Stage
from mqi_dagster.lifecycle.status import (
    BeamFacts,
    BeamStatus,
    CaseStatus,
    RunFacts,
    beam_status,
    case_status,
    concluded,
    counts_since,
    failure_of,
    results_removed,
    why_not_handed_over,
)
from mqi_dagster.partitions import BEAM, CASE, beam_key, parts_of
from mqi_dagster.resources.site import Site


@dataclass(frozen=True, slots=True)
class CaseReading:
    """One case and its beams, without what only boards show: slots, jobs, attempts, why a run is queued."""

    case: CaseStatus
    beams: tuple[BeamStatus, ...]
    """By number; empty where it has not been taken in."""
    manifest: CaseManifest | None
    """None where it has none, or it is damaged."""
    arrival: Arrival | None
    """None where it has not come through the inbox."""
    events: EventLog
    """What was made, as far as it was asked for."""

    @property
    def concluded(self) -> bool:
        """Whether it was concluded with the results that its beams have now, and nothing has failed since."""
        return self.case.stage is Stage.CONCLUDED


def run_facts(instance: dg.DagsterInstance, ledger: Ledger, partition: str) -> RunFacts:
    """The latest run of a case or a beam, however it was started, and what its end means."""
    record = latest_run_record(instance, partition)
    if record is None:
        return RunFacts()
    run, served = run_row(record), record.dagster_run.remote_job_origin is not None
    steps = frozenset(record.dagster_run.step_keys_to_execute or ())
    if run.state is RunState.FAILED:
        outcome = ledger.outcomes.get_many([run.run_id]).get(run.run_id)
        failure = failure_of(outcome, lambda: first_cause(instance, run.run_id), served)
        return RunFacts(run, failure=failure, served=served, steps=steps)
    progress = ledger.progress.get(partition) if run.state is RunState.WORKING else None
    return RunFacts(run, served=served, steps=steps, progress=progress)


def read_case(instance: dg.DagsterInstance, site: Site, case: str) -> CaseReading:
    """Where a case and its beams stand.

    Args:
        instance: Dagster's records.
        site: The site.
        case: Case key.
    """
    events, arrival, now = EventLog(instance), site.ledger.arrivals.get(case), datetime.now(UTC)
    latest, manifest = run_facts(instance, site.ledger, case), None
    beams: tuple[BeamStatus, ...] | None = None
    over = False
    if events.latest(MANIFEST, case) is not None:
        manifest = find_manifest(instance, site.store, case)
        since, inventory = counts_since(events, case, arrival), inventory_of(manifest)
        beams = tuple(
            beam_status(
                key,
                run_facts(instance, site.ledger, key),
                BeamFacts(why_not_handed_over=why_not_handed_over(events, key, lambda: inventory, since)),
                now,
            )
            for key in _beams(instance, case, manifest)
        )
        over = all(beam.stage is Stage.HANDED_OVER for beam in beams) and concluded(
            events,
            case,
            [beam.beam for beam in beams],
            arrival,
            lambda: inventory,
        )
    if not beams:
        beams = None
        is_partition = instance.has_dynamic_partition(CASE.name, case)
        over = results_removed(arrival, is_partition, latest.run)
    status = case_status(case, arrival, latest, manifest, beams, over)
    return CaseReading(status, beams or (), manifest, arrival, events)


def _beams(instance: dg.DagsterInstance, case: str, manifest: CaseManifest | None) -> list[str]:
    """Every beam key of a case; where its manifest cannot be read, those that are partitions."""
    if manifest is not None:
        return [beam_key(case, number) for number in sorted(beam.number for beam in manifest.beams)]
    keys = parts_of(case, instance.get_dynamic_partitions(BEAM.name))
    return sorted(key for key in keys if BEAM.has(key))

"""Where one case stands at this moment, read for it alone; the boards read all together (worklist/)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.lifecycle.beam import beams_of, find_manifest, inventory_of
from mqi_dagster.lifecycle.case_facts import facts_of
from mqi_dagster.lifecycle.case_status import (
    BeamFacts,
    PartitionStatus,
    RunFacts,
    beam_status,
    case_status,
    concluded,
    counts_since,
    failure_of,
    results_removed,
    why_not_handed_over,
)
from mqi_dagster.lifecycle.failures import first_cause
from mqi_dagster.lifecycle.materialisations import MANIFEST, EventLog
from mqi_dagster.lifecycle.runs import RunState, latest_run_record, run_row
from mqi_dagster.lifecycle.stages import Stage
from mqi_dagster.partitions import BEAM, CASE, parts_of
from mqi_dagster.resources.site import Site


@dataclass(frozen=True, slots=True)
class CaseReading:
    """One case and its beams, without what only boards show: slots, jobs, attempts, why a run is queued."""

    case: PartitionStatus
    beams: Mapping[int, PartitionStatus]
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
    events, arrival = EventLog(instance), site.ledger.arrivals.get(case)
    latest, manifest = run_facts(instance, site.ledger, case), None
    beams: dict[int, PartitionStatus] = {}
    over = False
    if events.latest(MANIFEST, case) is not None:
        manifest = find_manifest(instance, site.store, case)
        since, inventory = counts_since(events, case, arrival), inventory_of(manifest)
        keys = _beams(instance, case, manifest)
        for key in keys:
            # The run first: one that has ended by then has left in the event log what it has made.
            run = run_facts(instance, site.ledger, key)
            facts = BeamFacts(why_not_handed_over=why_not_handed_over(events, key, lambda: inventory, since))
            beams[BEAM.key(key).number] = beam_status(run, facts)
        over = all(beam.stage is Stage.HANDED_OVER for beam in beams.values()) and concluded(
            events, case, keys, arrival, lambda: inventory
        )
    if not beams:
        is_partition = instance.has_dynamic_partition(CASE.name, case)
        over = results_removed(arrival, is_partition, latest.run)
    status = case_status(arrival, latest, facts_of(manifest) if manifest else None, beams or None, over)
    return CaseReading(status, beams, manifest, arrival, events)


def _beams(instance: dg.DagsterInstance, case: str, manifest: CaseManifest | None) -> list[str]:
    """Every beam key of a case; where its manifest cannot be read, those that are partitions."""
    if manifest is not None:
        return list(beams_of(manifest).values())
    keys = parts_of(case, instance.get_dynamic_partitions(BEAM.name))
    return sorted(key for key in keys if BEAM.has(key))

"""Where every case stands: derived from the ledger's arrivals and Dagster's event log, stored nowhere."""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum

import dagster as dg
from pydantic import BaseModel, ConfigDict

from mqi_dagster.assets.beam import read_manifest
from mqi_dagster.cli.run_history import RUN_KEY_TAG, LatestRun, RunState, latest_record, latest_run
from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.errors import StoreError
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.partitions import CASES, beam_key, is_case_key, split_case_key
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.conclusion import conclusion_request


class CaseState(StrEnum):
    """Where a case stands."""

    WAITING = "waiting"
    IN_WORK = "in work"
    FAILED = "failed"
    COMPLETE = "complete"
    PARTIAL = "partial"


class CaseRow(BaseModel):
    """One case of the list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    case: str
    fraction: int
    arrived: datetime | None
    """First sight, UTC; None where the ledger does not know the case."""
    state: CaseState
    reason: str = ""
    """Why it waits, or the first cause of its failure."""
    beams_done: int = 0
    beams_total: int | None = None
    """None where it has no manifest yet."""


_GOING_ON = (RunState.WAITING, RunState.WORKING, RunState.AGAIN)
_BROKEN = (RunState.FAILED, RunState.CANCELLED)


def known_cases(instance: dg.DagsterInstance, site: Site) -> list[str]:
    """Every case that the ledger or Dagster knows, the latest arrival first."""
    arrived = [arrival.case for arrival in site.ledger.all_arrivals()]
    # In the pages anybody can add a partition of any name: that is no case.
    others = {key for key in instance.get_dynamic_partitions(CASES.name or "case") if is_case_key(key)}
    return [*reversed(arrived), *sorted(others - set(arrived))]


def case_rows(
    instance: dg.DagsterInstance, site: Site, states: Collection[CaseState], limit: int
) -> list[CaseRow]:
    """The newest cases, the latest arrival first.

    Args:
        instance: Dagster's records.
        site: The site.
        states: Only cases in these; all where empty.
        limit: How many at most; 0 for all.
    """
    rows: list[CaseRow] = []
    for case in known_cases(instance, site):
        if limit and len(rows) >= limit:
            break
        row = case_row(instance, site, case)
        if not states or row.state in states:
            rows.append(row)
    return rows


def manifest_of(instance: dg.DagsterInstance, site: Site, case: str) -> CaseManifest | None:
    """The manifest of a case; None where it has none, or it is damaged."""
    try:
        return read_manifest(instance, site, case)
    except StoreError:
        return None


def case_row(instance: dg.DagsterInstance, site: Site, case: str) -> CaseRow:
    """Where one case stands."""
    arrival = site.ledger.arrival(case)
    own = latest_run(instance, case)
    manifest = manifest_of(instance, site, case)
    runs = (
        {beam.number: latest_run(instance, beam_key(case, beam.number)) for beam in manifest.beams}
        if (manifest)
        else {}
    )
    state, reason = _state(instance, site, case, arrival, own, manifest, runs)
    return CaseRow(
        case=case,
        fraction=split_case_key(case)[1],
        arrived=arrival.first_seen if arrival is not None else None,
        state=state,
        reason=reason,
        beams_done=sum(run.state is RunState.DONE for run in runs.values()),
        beams_total=len(runs) if manifest is not None else None,
    )


def _put_off(site: Site, runs: Collection[LatestRun]) -> str:
    """When runs go on that infrastructure has ended, and why they ended; empty where there are none."""
    put_off = [run for run in runs if run.state is RunState.AGAIN and run.run_id is not None]
    known = site.ledger.outcomes_of([run.run_id for run in put_off if run.run_id is not None])
    words = []
    for run in put_off:
        outcome = known.get(run.run_id or "")
        when = outcome.next_try_at if outcome is not None else None
        at = f" at {when:%Y-%m-%d %H:%M:%S} UTC" if when is not None else ""
        words.append(f"goes on by itself{at}: {run.cause}")
    return "; ".join(dict.fromkeys(words))


def _state(
    instance: dg.DagsterInstance,
    site: Site,
    case: str,
    arrival: Arrival | None,
    own: LatestRun,
    manifest: CaseManifest | None,
    runs: dict[int, LatestRun],
) -> tuple[CaseState, str]:
    every = [own, *runs.values()]
    if any(run.state in _GOING_ON for run in every):
        return CaseState.IN_WORK, _put_off(site, every)
    if arrival is not None and not arrival.ready and own.state is RunState.NONE:
        return CaseState.WAITING, arrival.reason
    for run in every:
        if run.state in _BROKEN:
            return CaseState.FAILED, run.cause or "cancelled by an operator"
    if arrival is not None and arrival.is_open:
        return CaseState.WAITING, "its intake has not been started yet"
    if manifest is None:
        return CaseState.WAITING, "it has not been taken in yet"
    if any(run.state is RunState.NONE for run in runs.values()):
        return CaseState.WAITING, "not every beam has been started yet"
    if not _concluded(instance, manifest):
        return CaseState.WAITING, "its conclusion has not been started yet"
    return (CaseState.PARTIAL, _missing(manifest)) if manifest.partial else (CaseState.COMPLETE, "")


def _concluded(instance: dg.DagsterInstance, manifest: CaseManifest) -> bool:
    """Whether the case was concluded with the results that its beams have now."""
    concluded = latest_record(instance, "case_handed_over", manifest.case)
    if concluded is None:
        return False
    request = conclusion_request(instance, manifest)
    if request is None:
        return False
    asked = instance.get_run_records(dg.RunsFilter(tags={RUN_KEY_TAG: str(request.run_key)}), limit=1)
    if asked and asked[0].dagster_run.status is dg.DagsterRunStatus.SUCCESS:
        return True
    # A person may have materialised it from the pages, where no sensor has named the results.
    beams = [
        latest_record(instance, "handed_over", beam_key(manifest.case, beam.number))
        for beam in manifest.beams
    ]
    return all(beam is not None and beam.storage_id < concluded.storage_id for beam in beams)


def _missing(manifest: CaseManifest) -> str:
    if manifest.missing_beams:
        return "no delivery of beam " + ", ".join(str(number) for number in manifest.missing_beams)
    beams = ", ".join(str(beam.number) for beam in manifest.beams if not beam.complete)
    return f"layers of beam {beams} were not delivered"

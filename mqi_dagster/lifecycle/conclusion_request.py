"""Whether a case is to be concluded now: one run for each set of results that its beams have handed over."""

from collections.abc import Mapping
from datetime import datetime

import dagster as dg

from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.lifecycle.beam import beam_run_key, beams_of, inventory_of
from mqi_dagster.lifecycle.case_status import conclusion_counts_since, counts_since, results_digest
from mqi_dagster.lifecycle.jobs import PARTITION_TAG, beam_job, conclusion_job, intake_job, upload_tags
from mqi_dagster.lifecycle.lineage import content_has_passed
from mqi_dagster.lifecycle.materialisations import HANDED_OVER, INTEGRITY, MANIFEST, EventLog
from mqi_dagster.lifecycle.run_requests import asked_key, asked_keys
from mqi_dagster.lifecycle.runs import latest_run_succeeded
from mqi_dagster.resources.site import Site

DELIVERY = "delivery"
"""Metadata of a concluded case: whether it was delivered as planned, in words."""


NOT_COMPARED = "not compared: interpreted by earlier code"


def conclusion_request(
    instance: dg.DagsterInstance,
    manifest: CaseManifest,
    arrival: Arrival | None,
    tags: Mapping[str, str] | None = None,
    *,
    again: bool = False,
) -> dg.RunRequest | None:
    """The conclusion run of a case; None where it exists, or must not be yet.

    It must not be while the latest intake has failed or has not passed its check, or a beam has failed or has
    not handed over the dose of its present files.

    Args:
        instance: Dagster's.
        manifest: Of the case.
        arrival: Of the case, None where it has not come through the inbox. What was made before its results
            were removed does not count, nor a conclusion that was asked for before its marker was withdrawn.
        tags: Of the run.
        again: Whether a run that exists is repeated.
    """
    case, events = manifest.case, EventLog(instance)
    removed_at = counts_since(events, case, arrival)
    beams = beams_of(manifest).values()
    results = results_digest(events, beams, inventory_of(manifest), removed_at)
    if results is None or not all(latest_run_succeeded(instance, beam) for beam in beams):
        return None
    if _intake_has_failed(instance, case) or not content_has_passed(instance, MANIFEST, INTEGRITY, case):
        return None
    if not _were_asked_for(instance, events, manifest, removed_at):
        return None
    since = conclusion_counts_since(removed_at, arrival)
    key, is_there = asked_key(instance, conclusion_job.name, case, f"{case}:{results[:16]}", since)
    if is_there and not again:
        return None
    return dg.RunRequest(run_key=key, partition_key=case, tags=dict(tags or {}))


def _intake_has_failed(instance: dg.DagsterInstance, case: str) -> bool:
    """Whether the latest run that was to take a case in has not succeeded, as far as it is recorded."""
    for run in instance.get_runs(dg.RunsFilter(tags={PARTITION_TAG: case})):
        selected = run.asset_selection or ()
        if run.job_name == intake_job.name or dg.AssetKey(MANIFEST) in selected:
            return run.status is not dg.DagsterRunStatus.SUCCESS
    return False


def _were_asked_for(
    instance: dg.DagsterInstance, events: EventLog, manifest: CaseManifest, since: datetime | None
) -> bool:
    """Whether the present files of every beam were simulated whose hand-over does not say of which it is."""
    keys = {
        key: beam_run_key(manifest, number)
        for number, key in beams_of(manifest).items()
        if (told := events.latest(HANDED_OVER, key)) is not None and told.inputs is None
    }
    return all(is_there for _, is_there in asked_keys(instance, beam_job.name, keys, since).values())


def conclusion_tags(site: Site, case: str) -> dict[str, str]:
    """Tags of the conclusion run of a case."""
    priority = site.ledger.arrivals.priorities([case]).get(case, 0)
    return upload_tags(case, site.settings.handover.target, priority)

"""What concludes a case: one run for each set of results that all its beams have handed over."""

from collections.abc import Mapping
from datetime import datetime

import dagster as dg

from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.lifecycle.jobs import conclusion_job, upload_tags
from mqi_dagster.lifecycle.lineage import latest_digest, latest_record, latest_text
from mqi_dagster.lifecycle.run_requests import (
    asked_key,
    latest_run_succeeded,
)
from mqi_dagster.partitions import beam_key
from mqi_dagster.resources.site import Site
from mqi_dagster.store.digests import digest_of

DELIVERY = "delivery"
"""Metadata of a concluded case: whether it was delivered as planned, in words."""


NOT_COMPARED = "not compared: interpreted by earlier code"


def conclusion_request(
    instance: dg.DagsterInstance,
    manifest: CaseManifest,
    arrival: Arrival | None,
    tags: Mapping[str, str] | None = None,
) -> dg.RunRequest | None:
    """The conclusion run of a case, None while a beam is in work, has failed, or was never handed over.

    Args:
        instance: Dagster's.
        manifest: Of the case.
        arrival: Of the case, None where it has not come through the inbox. What was made before its results
            were removed does not count, nor a conclusion that was asked for before its marker was withdrawn.
        tags: Of the run.
    """
    removed_at = _removed_at(instance, arrival)
    beams = [beam_key(manifest.case, entry.number) for entry in manifest.beams]
    versions: dict[str, str] = {}
    for beam in beams:
        digest = latest_digest(instance, "handed_over", beam, removed_at)
        dose = latest_digest(instance, "rt_dose", beam, removed_at)
        # A dose that was made again and not handed over is nobody's result yet.
        handed = latest_text(instance, "handed_over", beam, "rt_dose", removed_at)
        if digest is None or dose is None or handed != dose or not latest_run_succeeded(instance, beam):
            return None
        versions[beam] = f"{dose}:{digest}"
    signature = digest_of(versions=versions, partial=manifest.partial)[:16]
    case = manifest.case
    withdrawn_at = arrival.marker_withdrawn_at if arrival is not None else None
    since = max((moment for moment in (removed_at, withdrawn_at) if moment is not None), default=None)
    key, _ = asked_key(instance, conclusion_job.name, case, f"{case}:{signature}", since)
    return dg.RunRequest(run_key=key, partition_key=case, tags=dict(tags or {}))


def _removed_at(instance: dg.DagsterInstance, arrival: Arrival | None) -> datetime | None:
    """When the results of a case were last removed, None where they never were.

    None as well where it was not taken in since: a removal that was cut short has left them.
    """
    if arrival is None or arrival.results_removed_at is None:
        return None
    taken_in = latest_record(instance, "case_manifest", arrival.case)
    if taken_in is None or taken_in.timestamp < arrival.results_removed_at.timestamp():
        return None
    return arrival.results_removed_at


def conclusion_tags(site: Site, case: str) -> dict[str, str]:
    """Tags of the conclusion run of a case."""
    priority = site.ledger.priorities([case]).get(case, 0)
    return upload_tags(case, site.settings.handover.target, priority)

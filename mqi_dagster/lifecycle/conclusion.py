"""What concludes a case: one run for each set of results that all its beams have handed over."""

from collections.abc import Mapping

import dagster as dg

from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.lifecycle.beam import inventory_of
from mqi_dagster.lifecycle.jobs import conclusion_job, upload_tags
from mqi_dagster.lifecycle.lineage import content_has_passed
from mqi_dagster.lifecycle.materialisations import INTEGRITY, MANIFEST, EventLog
from mqi_dagster.lifecycle.run_requests import asked_key
from mqi_dagster.lifecycle.runs import latest_run_succeeded
from mqi_dagster.lifecycle.status import conclusion_counts_since, counts_since, results_digest
from mqi_dagster.partitions import beam_key
from mqi_dagster.resources.site import Site

DELIVERY = "delivery"
"""Metadata of a concluded case: whether it was delivered as planned, in words."""


NOT_COMPARED = "not compared: interpreted by earlier code"


def conclusion_request(
    instance: dg.DagsterInstance,
    manifest: CaseManifest,
    arrival: Arrival | None,
    tags: Mapping[str, str] | None = None,
) -> dg.RunRequest | None:
    """The conclusion run of a case; None where it must not be yet.

    It must not be while the inventory has not passed its check, or a beam has failed, or has not handed over
    the dose of its present delivery.

    Args:
        instance: Dagster's.
        manifest: Of the case.
        arrival: Of the case, None where it has not come through the inbox. What was made before its results
            were removed does not count, nor a conclusion that was asked for before its marker was withdrawn.
        tags: Of the run.
    """
    events = EventLog(instance)
    removed_at = counts_since(events, manifest.case, arrival)
    beams = [beam_key(manifest.case, entry.number) for entry in manifest.beams]
    results = results_digest(events, beams, inventory_of(manifest), removed_at)
    if results is None or not all(latest_run_succeeded(instance, beam) for beam in beams):
        return None
    case = manifest.case
    if not content_has_passed(instance, MANIFEST, INTEGRITY, case):
        return None
    since = conclusion_counts_since(removed_at, arrival)
    key, _ = asked_key(instance, conclusion_job.name, case, f"{case}:{results[:16]}", since)
    return dg.RunRequest(run_key=key, partition_key=case, tags=dict(tags or {}))


def conclusion_tags(site: Site, case: str) -> dict[str, str]:
    """Tags of the conclusion run of a case."""
    priority = site.ledger.arrivals.priorities([case]).get(case, 0)
    return upload_tags(case, site.settings.handover.target, priority)

"""Cases whose beams are all handed over are concluded, once for each set of results."""

from collections.abc import Mapping
from datetime import datetime

import dagster as dg

from mqi_dagster.assets.beam import read_manifest
from mqi_dagster.assets.boundary import safe_text
from mqi_dagster.assets.jobs import conclusion_job, upload_tags
from mqi_dagster.assets.lineage import latest_digest, latest_record, latest_text
from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.partitions import CASES, beam_key, split_beam_key
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.queue import (
    REQUESTS_PER_TICK,
    any_unfinished,
    asked_key,
    latest_run_succeeded,
    read_cursor,
    within_a_tick,
    write_cursor,
)
from mqi_dagster.store.digests import digest_of

HANDED_OVER = dg.AssetKey("handed_over")
_PAGE = 500


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


def _case_of(record: dg.EventLogRecord) -> str | None:
    """The case of a beam's materialisation; None where a person has invented the partition."""
    try:
        return split_beam_key(record.partition_key or "")[0]
    except ValueError:
        return None


def cases_to_conclude(interval: int) -> dg.SensorDefinition:
    """The sensor that concludes cases."""

    @dg.sensor(
        name="cases_to_conclude",
        job=conclusion_job,
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Requests a conclusion run when no beam of a case is unfinished and all are handed over.",
    )
    def sensor(context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site]) -> dg.SensorResult:
        position, put_off = read_cursor(context.cursor)
        page = context.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=HANDED_OVER, after_storage_id=position.floor or None),
            limit=_PAGE + len(position.seen),
            ascending=True,
        ).records
        records = [record for record in page if position.is_new(record.storage_id)]
        touched = list(dict.fromkeys([*put_off, *(case for record in records if (case := _case_of(record)))]))
        requests: list[dg.RunRequest] = []
        pending: list[str] = []
        looked_at: set[str] = set()
        for case in within_a_tick(touched):
            if len(requests) == REQUESTS_PER_TICK:
                break
            looked_at.add(case)
            try:
                manifest = read_manifest(context.instance, site, case)
                beams = [beam_key(case, entry.number) for entry in manifest.beams]
                if any_unfinished(context.instance, [case, *beams]):
                    pending.append(case)
                    continue
                arrival = site.ledger.arrival(case)
                request = conclusion_request(context.instance, manifest, arrival, conclusion_tags(site, case))
            except Exception as error:  # noqa: BLE001 - one case must not keep all others waiting
                # Kept, so that a case is not lost to a store that is away for a moment.
                context.log.error("case %s: %s", case, safe_text(error))
                pending.append(case)
                continue
            if request is not None:
                requests.append(request)
        # One that a person has removed: a request for it would be refused, and with it those of all others.
        cases = [str(request.partition_key) for request in requests]
        missing = [
            case for case in cases if not context.instance.has_dynamic_partition(str(CASES.name), case)
        ]
        pending = [*(case for case in touched if case not in looked_at), *pending]
        position = position.past(record.storage_id for record in records)
        return dg.SensorResult(
            run_requests=requests,
            dynamic_partitions_requests=[CASES.build_add_request(missing)] if missing else [],
            cursor=write_cursor(position, pending),
            skip_reason=None if requests else dg.SkipReason("no case has become complete"),
        )

    return sensor

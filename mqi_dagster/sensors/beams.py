"""Manifests that passed their check become beam partitions and beam runs."""

from collections.abc import Collection
from datetime import datetime

import dagster as dg

from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.lifecycle.beam import beam_run_key, beams_of, read_manifest
from mqi_dagster.lifecycle.boundary import safe_text
from mqi_dagster.lifecycle.jobs import beam_job, beam_tags
from mqi_dagster.lifecycle.lineage import latest_has_passed
from mqi_dagster.lifecycle.materialisations import INTEGRITY, MANIFEST
from mqi_dagster.lifecycle.pipeline import Pipeline
from mqi_dagster.lifecycle.run_requests import (
    Position,
    Room,
    asked_keys,
    read_cursor,
    within_a_tick,
    write_cursor,
)
from mqi_dagster.lifecycle.runs import any_unfinished, latest_run_succeeded
from mqi_dagster.partitions import BEAM, beam_key
from mqi_dagster.resources.composed import StoreResource
from mqi_dagster.resources.site import Site
from mqi_dagster.store.store import Store

_CHECK = dg.AssetCheckKey(dg.AssetKey(MANIFEST), INTEGRITY)
_PAGE = 100


def beam_requests(manifest: CaseManifest, target: str, priority: int) -> list[dg.RunRequest]:
    """One run request per delivered beam of a case.

    Args:
        manifest: Of the case.
        target: ``handover.target``.
        priority: Of the case.
    """
    return [
        dg.RunRequest(
            run_key=beam_run_key(manifest, entry.number),
            partition_key=beam_key(manifest.case, entry.number),
            tags=beam_tags(manifest.case, target, priority),
        )
        for entry in manifest.beams
    ]


def _touched(context: dg.SensorEvaluationContext) -> tuple[list[str], Position]:
    """Cases whose check has passed since the last tick, and those that were put off; and the new position.

    The check is what is watched, not the manifest: it may be repeated alone, once its limits are mended.
    """
    position, put_off = read_cursor(context.cursor)
    found: list[str] = []
    read: list[int] = []
    page_end = None
    while True:
        page = context.instance.event_log_storage.get_asset_check_execution_history(
            _CHECK, limit=_PAGE, cursor=page_end
        )
        new = [record for record in page if position.is_new(record.id)]
        found += [record.partition for record in new if record.partition]
        read += [record.id for record in new]
        if len(page) < _PAGE or page[-1].id <= position.floor:
            # The history begins with the newest; who was put off has waited longest.
            return list(dict.fromkeys([*put_off, *reversed(found)])), position.past(read)
        page_end = page[-1].id


def beams_to_simulate(interval: int, pipelines: Collection[Pipeline]) -> dg.SensorDefinition:
    """The sensor that turns checked manifests into beam runs.

    Args:
        interval: Seconds.
        pipelines: Those of the site, which share the queue.
    """

    @dg.sensor(
        name="beams_to_simulate",
        job=beam_job.definition,
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Adds all delivered beams of a checked case at once and requests one run a beam.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site], store: StoreResource
    ) -> dg.SensorResult:
        cases, position = _touched(context)
        coming, priorities = _most_urgent_first(site, cases)
        # Nobody is looked at for whom there is no room: a tick must not last longer because more are waiting.
        room = Room(context.instance, pipelines)
        requests: list[dg.RunRequest] = []
        keys: list[str] = []
        half_asked: list[str] = []
        put_off: list[str] = []
        looked_at: set[str] = set()
        for case in within_a_tick(coming):
            priority = priorities.get(case, 0)
            if not room.left(priority):
                break
            looked_at.add(case)
            try:
                found = requests_of(context.instance, site, store.open(), case, priority)
            except Exception as error:  # noqa: BLE001 - one case must not keep all others waiting
                # Kept, so that a case is not lost to a store that is away for a moment.
                context.log.error("case %s: %s", case, safe_text(error))
                put_off.append(case)
                continue
            if found is None:
                put_off.append(case)
                continue
            beams, wanted = found
            keys += beams
            taken = wanted[: room.take(len(wanted), priority)]
            requests += taken
            # A case stays pending until every run it asked for exists, so a crash of this tick loses none.
            if len(taken) < len(wanted):
                half_asked.append(case)
            elif wanted:
                put_off.append(case)
        # Last, so that those who cannot go on keep nobody behind them from being looked at.
        pending = [*half_asked, *(case for case in coming if case not in looked_at), *put_off]
        return dg.SensorResult(
            run_requests=requests,
            dynamic_partitions_requests=[BEAM.definition.build_add_request(keys)] if keys else [],
            cursor=write_cursor(position, pending),
            skip_reason=None
            if requests
            else dg.SkipReason(f"nothing new to ask for; {len(pending)} cases wait"),
        )

    return sensor


def _most_urgent_first(site: Site, cases: list[str]) -> tuple[list[str], dict[str, int]]:
    """Cases in the order in which to look, as they came among equals, and how urgent they are."""
    priorities = site.ledger.arrivals.priorities(cases)
    return sorted(cases, key=lambda case: -priorities.get(case, 0)), priorities


def requests_of(
    instance: dg.DagsterInstance, site: Site, store: Store, case: str, priority: int
) -> tuple[list[str], list[dg.RunRequest]] | None:
    """Beams of a case and the runs that are to be asked for; None where it has to be looked at again."""
    if any_unfinished(instance, [case]):
        return None
    if not latest_run_succeeded(instance, case) or not latest_has_passed(instance, MANIFEST, INTEGRITY, case):
        return [], []
    manifest = read_manifest(instance, store, case)
    asked_for = beam_requests(manifest, site.settings.handover.target, priority)
    wanted = _not_asked(instance, asked_for, site.ledger.arrivals.results_removed_at(case))
    return list(beams_of(manifest).values()), wanted


def _not_asked(
    instance: dg.DagsterInstance, requests: list[dg.RunRequest], since: datetime | None
) -> list[dg.RunRequest]:
    """The requests whose runs do not exist yet, each under the run key that is free for it."""
    asked = asked_keys(
        instance,
        beam_job.name,
        {str(request.partition_key): str(request.run_key) for request in requests},
        since,
    )
    return [
        dg.RunRequest(run_key=asked[beam][0], partition_key=beam, tags=request.tags)
        for request in requests
        if not asked[beam := str(request.partition_key)][1]
    ]

"""Cases whose beams are all handed over are concluded, once for each set of results."""

import dagster as dg

from mqi_dagster.lifecycle.beam import beams_of, read_manifest
from mqi_dagster.lifecycle.boundary import safe_text
from mqi_dagster.lifecycle.conclusion_request import conclusion_request, conclusion_tags
from mqi_dagster.lifecycle.jobs import PARTITION_TAG, conclusion_job
from mqi_dagster.lifecycle.run_requests import (
    REQUESTS_PER_TICK,
    Position,
    read_cursor,
    within_a_tick,
    write_cursor,
)
from mqi_dagster.lifecycle.runs import any_unfinished
from mqi_dagster.partitions import BEAM, CASE, find_key
from mqi_dagster.resources.composed import StoreResource
from mqi_dagster.resources.site import Site

_PAGE = 500


def _touched(context: dg.SensorEvaluationContext) -> tuple[list[str], set[str], Position]:
    """Cases of which a run has succeeded since the last tick, or that were put off.

    Whatever keeps a case from its conclusion ends with a run that succeeds: a beam is handed over, a beam
    that had failed is made again without any other result, or the case is taken in without the beam that
    had failed.

    Returns:
        The cases, those of them whose run has succeeded and is not marked so yet, and the new position.
    """
    position, put_off = read_cursor(context.cursor)
    ends = context.instance.fetch_run_status_changes(
        dg.RunStatusChangeRecordsFilter(dg.DagsterEventType.RUN_SUCCESS, after_storage_id=position.floor),
        limit=_PAGE + len(position.seen),
        ascending=True,
    ).records
    new = [end for end in ends if position.is_new(end.storage_id)]
    ids = [end.run_id for end in new]
    runs = context.instance.get_runs(dg.RunsFilter(run_ids=ids)) if ids else []
    cases = {run.run_id: case for run in runs if (case := _case_of(run)) is not None}
    touched = dict.fromkeys([*put_off, *(cases[run] for run in ids if run in cases)])
    unended = {cases[run.run_id] for run in runs if run.run_id in cases and not run.is_finished}
    return list(touched), unended, position.past(end.storage_id for end in new)


def _case_of(run: dg.DagsterRun) -> str | None:
    """The case of a run; None of one that makes none ready: a conclusion, or of an invented partition."""
    if run.job_name == conclusion_job.name:
        return None
    key = find_key(run.tags.get(PARTITION_TAG, ""), [CASE, BEAM])
    return None if key is None else key.root


def cases_to_conclude(interval: int) -> dg.SensorDefinition:
    """The sensor that concludes cases."""

    @dg.sensor(
        name="cases_to_conclude",
        job=conclusion_job.definition,
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Requests a conclusion run when no beam of a case is unfinished and all are handed over.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site], store: StoreResource
    ) -> dg.SensorResult:
        touched, unended, position = _touched(context)
        requests: list[dg.RunRequest] = []
        pending: list[str] = []
        looked_at: set[str] = set()
        for case in within_a_tick(touched):
            if len(requests) == REQUESTS_PER_TICK:
                break
            looked_at.add(case)
            try:
                if case in unended or any_unfinished(context.instance, [case]):
                    pending.append(case)
                    continue
                manifest = read_manifest(context.instance, store.open(), case)
                if any_unfinished(context.instance, list(beams_of(manifest).values())):
                    # The last of them to succeed brings the case here again.
                    continue
                arrival = site.ledger.arrivals.get(case)
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
        missing = [case for case in cases if not context.instance.has_dynamic_partition(CASE.name, case)]
        pending = [*(case for case in touched if case not in looked_at), *pending]
        return dg.SensorResult(
            run_requests=requests,
            dynamic_partitions_requests=[CASE.definition.build_add_request(missing)] if missing else [],
            cursor=write_cursor(position, pending),
            skip_reason=None if requests else dg.SkipReason("no case has become complete"),
        )

    return sensor

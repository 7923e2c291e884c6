"""Runs that go on by themselves after infrastructure was lost, each when its time has come."""

import dagster as dg
from dagster._core.storage.tags import PARENT_RUN_ID_TAG, ROOT_RUN_ID_TAG

from mqi_dagster.assets.boundary import is_passing, safe_text
from mqi_dagster.assets.jobs import (
    BEAM_ASSETS,
    CASE_ASSETS,
    FAILURES_TAG,
    PARTITION_TAG,
    RETRY_OF_TAG,
    beam_job,
    beam_tags,
    conclusion_job,
    intake_job,
    priority_of,
    upload_tags,
)
from mqi_dagster.assets.slots import engine_failures
from mqi_dagster.ledger.alarms import failed_kind
from mqi_dagster.ledger.outcomes import RunOutcome
from mqi_dagster.partitions import BEAMS, CASES, split_beam_key
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.queue import REQUESTS_PER_TICK, latest_run_of

_STEPS = {"simulation": "tps_file"}
"""First asset of a step that makes several."""


def retry_requests(instance: dg.DagsterInstance, site: Site) -> list[dg.RunRequest]:
    """The runs that are due; those that nobody waits for any more are settled.

    A request is settled only once its run exists, so that a crash of the tick loses none. One that cannot be
    made at all is an alarm, and keeps no other waiting.
    """
    # What has begun goes on, also where new runs have to wait for a shorter queue.
    due = site.ledger.due_retries(REQUESTS_PER_TICK)
    if not due:
        return []
    settled, requests = [], []
    for outcome in due:
        run = latest_run_of(instance, outcome.partition)
        if (
            run is None
            or run.run_id != outcome.run_id
            # Of a partition that a person has removed Dagster makes no run, nor any other of the same tick.
            or not _is_there(instance, outcome.partition)
        ):
            settled.append(outcome.run_id)
            continue
        try:
            request = _request(instance, site, run, outcome)
        except Exception as error:
            if is_passing(error):
                raise
            request = None
            _give_up(site, outcome, safe_text(error))
        if request is None:
            settled.append(outcome.run_id)
        else:
            requests.append(request)
    site.ledger.settle_retries(settled)
    return requests


def _give_up(site: Site, outcome: RunOutcome, why: str) -> None:
    text = (
        f"{outcome.cause}. It cannot go on by itself: {why}. What to do: `mqi case retry`, or `mqi alarms"
        " --dismiss` where nobody wants it"
    )
    site.ledger.raise_alarm(failed_kind(outcome.partition), outcome.partition, text, outcome.ended_at)


def _is_there(instance: dg.DagsterInstance, partition: str) -> bool:
    kind = BEAMS if "__" in partition else CASES
    return instance.has_dynamic_partition(str(kind.name), partition)


def _request(
    instance: dg.DagsterInstance, site: Site, run: dg.DagsterRun, outcome: RunOutcome
) -> dg.RunRequest | None:
    """The run that goes on where another one ended, under a key that Dagster uses once."""
    tags = {
        RETRY_OF_TAG: run.run_id,
        PARENT_RUN_ID_TAG: run.run_id,
        ROOT_RUN_ID_TAG: run.tags.get(ROOT_RUN_ID_TAG, run.run_id),
    }
    key, wanted = outcome.partition, assets_left(instance, run)
    if not wanted:
        return None
    case = split_beam_key(key)[0] if "__" in key else key
    priority = site.ledger.priorities([case]).get(case, priority_of(run.tags))
    urgency = (case, site.settings.handover.target, priority)
    if "__" in key:
        failures = int(run.tags.get(FAILURES_TAG, "0")) + engine_failures(site, key, run.run_id)
        tags |= {**beam_tags(*urgency), FAILURES_TAG: str(failures)}
        job = beam_job.name
    else:
        tags |= upload_tags(*urgency)
        job = conclusion_job.name if wanted == ["case_handed_over"] else intake_job.name
    return dg.RunRequest(
        run_key=f"retry:{run.run_id}",
        job_name=job,
        partition_key=key,
        asset_selection=[dg.AssetKey(asset) for asset in wanted],
        tags=tags,
    )


def has_come_further(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run that went on where another one had ended has finished the step it began with."""
    asked = {asset.to_user_string() for asset in run.asset_selection or ()}
    return len(assets_left(instance, run)) < sum(asset in asked for asset in BEAM_ASSETS)


def assets_left(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """The assets that a run was to make, from the step on in which it ended."""
    asked = {asset.to_user_string() for asset in run.asset_selection or ()}
    if "__" not in run.tags[PARTITION_TAG]:
        wanted = CASE_ASSETS.get(run.job_name)
        return [wanted] if wanted is not None else [one for one in CASE_ASSETS.values() if one in asked][:1]
    chain = [asset for asset in BEAM_ASSETS if not asked or asset in asked]
    started = {
        _STEPS.get(str(entry.step_key), str(entry.step_key))
        for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)
    }
    last = max((number for number, asset in enumerate(chain) if asset in started), default=0)
    return chain[last:]

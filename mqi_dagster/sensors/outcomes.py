"""How runs end: the first cause is written down once a run, and what infrastructure has ended goes on later.

One cursor over Dagster's event log sees the runs of every job, of the pages and of backfills. What is found
is judged by the type of the error; each judgement is a row of the ledger, so that a try that is still to come
costs no process and can be seen.
"""

import json
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import dagster as dg

from mqi_dagster.backoff import Backoff
from mqi_dagster.compute.slots import engine_failures
from mqi_dagster.dagster_internals import PARENT_RUN_ID_TAG, ROOT_RUN_ID_TAG, RunStatusChangeEventType
from mqi_dagster.errors import LONGEST_NAME, ConfigurationError, shown
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.outcomes import RunOutcome, RunVerdict
from mqi_dagster.lifecycle.boundary import is_passing, safe_text
from mqi_dagster.lifecycle.failures import CANCELLED, first_cause, goes_on_by_itself, next_step
from mqi_dagster.lifecycle.jobs import FAILURES_TAG, GPU_TAG, PARTITION_TAG, RETRY_OF_TAG, priority_of
from mqi_dagster.lifecycle.pipeline import AssetJob, Pipeline, command_of, find_job, level_of, levels_of
from mqi_dagster.lifecycle.run_requests import REQUESTS_PER_TICK, SECONDS_PER_TICK, Position
from mqi_dagster.lifecycle.runs import latest_run_of
from mqi_dagster.resources.composed import GpuPoolResource
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.alarms import limit_words


def retry_requests(
    instance: dg.DagsterInstance, site: Site, pipelines: Collection[Pipeline]
) -> list[dg.RunRequest]:
    """The runs that are due; those that nobody waits for any more are settled.

    A request is settled only once its run exists, so that a crash of the tick loses none. One that cannot be
    made at all is an alarm, and keeps no other waiting.
    """
    # What has begun goes on, also where new runs have to wait for a shorter queue.
    due = site.ledger.outcomes.due_retries(REQUESTS_PER_TICK)
    if not due:
        return []
    settled, requests = [], []
    for outcome in due:
        run = latest_run_of(instance, outcome.partition)
        if (
            run is None
            or run.run_id != outcome.run_id
            # Of a partition that a person has removed Dagster makes no run, nor any other of the same tick.
            or not _is_there(instance, pipelines, outcome)
        ):
            settled.append(outcome.run_id)
            continue
        try:
            requests.append(_request(instance, site, pipelines, run, outcome))
        except Exception as error:
            if is_passing(error):
                raise
            _give_up(site, pipelines, outcome, safe_text(error))
            settled.append(outcome.run_id)
    site.ledger.outcomes.settle(settled)
    return requests


def _give_up(site: Site, pipelines: Collection[Pipeline], outcome: RunOutcome, why: str) -> None:
    command = command_of(pipelines, outcome.job, outcome.partition)
    text = (
        f"{outcome.cause}. It cannot go on by itself: {why}. What to do: `mqi {command} retry`, or"
        " `mqi alarms --dismiss` where nobody wants it"
    )
    kind = level_of(pipelines, outcome.job, outcome.partition).failed
    site.ledger.alarms.raise_(kind, outcome.partition, text, outcome.ended_at)


def _is_there(instance: dg.DagsterInstance, pipelines: Collection[Pipeline], outcome: RunOutcome) -> bool:
    kind = level_of(pipelines, outcome.job, outcome.partition).kind
    return instance.has_dynamic_partition(kind.name, outcome.partition)


def _request(
    instance: dg.DagsterInstance,
    site: Site,
    pipelines: Collection[Pipeline],
    run: dg.DagsterRun,
    outcome: RunOutcome,
) -> dg.RunRequest:
    """The run that goes on where another one ended, under a key that Dagster uses once.

    Raises:
        ConfigurationError: No job makes what it was to make.
    """
    found = find_job(pipelines, run.job_name, outcome.partition, _asked(run))
    if found is None:
        wanted = ", ".join(sorted(_asked(run))) or f"what job {shown(run.job_name)} makes"
        raise ConfigurationError(f"no job of this site makes {wanted}")
    level, job = found
    key = level.kind.key(outcome.partition)
    priority = site.ledger.arrivals.priorities([key.root]).get(key.root, priority_of(run.tags))
    tags = {
        RETRY_OF_TAG: run.run_id,
        PARENT_RUN_ID_TAG: run.run_id,
        ROOT_RUN_ID_TAG: run.tags.get(ROOT_RUN_ID_TAG, run.run_id),
        **job.tags(key.root, site.settings.handover.target, priority),
    }
    if GPU_TAG in tags:
        failures = int(run.tags.get(FAILURES_TAG, "0")) + engine_failures(site, key.text, run.run_id)
        tags[FAILURES_TAG] = str(failures)
    return dg.RunRequest(
        run_key=f"retry:{run.run_id}",
        job_name=job.name,
        partition_key=key.text,
        asset_selection=[dg.AssetKey(asset) for asset in _assets_left(instance, run, job)],
        tags=tags,
    )


def _asked(run: dg.DagsterRun) -> set[str]:
    """The assets that a run was to make; empty where it is all of its job."""
    return {asset.to_user_string() for asset in run.asset_selection or ()}


def _has_come_further(
    instance: dg.DagsterInstance, pipelines: Collection[Pipeline], run: dg.DagsterRun
) -> bool:
    """Whether a run that went on where another one had ended has finished the step it began with."""
    asked = _asked(run)
    found = find_job(pipelines, run.job_name, run.tags[PARTITION_TAG], asked)
    if found is None:
        return False
    _, job = found
    return len(_assets_left(instance, run, job)) < sum(asset in asked for asset in job.assets)


def _assets_left(instance: dg.DagsterInstance, run: dg.DagsterRun, job: AssetJob) -> list[str]:
    """The assets that a run was to make, from the step on in which it ended."""
    asked = _asked(run)
    chain = [asset for asset in job.assets if not asked or asset in asked]
    steps = {
        entry.step_key for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)
    }
    started = {step.assets[0] for step in job.steps if step.name in steps}
    last = max((number for number, asset in enumerate(chain) if asset in started), default=0)
    return chain[last:]


PROMPT_SECONDS = 10
"""How often, at the most, it is looked whether something has ended: nobody should wait for it for long."""
_LOSSES_OF_LONG_RUNS = 3
"""In a row, from which on they are an alarm: two may be two restarts of the machine on one day."""
_PAGE = 100
_ENDS: tuple[RunStatusChangeEventType, ...] = (
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_CANCELED,
    dg.DagsterEventType.RUN_SUCCESS,
)
_BAD = {
    dg.DagsterRunStatus.FAILURE: dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterRunStatus.CANCELED: dg.DagsterEventType.RUN_CANCELED,
}
_OF_A_RUN = (
    *(AlarmKind.BEAM_FAILED, AlarmKind.CASE_FAILED, AlarmKind.PARTITION_FAILED),
    *(AlarmKind.RETRIED_LONG, AlarmKind.BEAM_STUCK),
)


def run_outcomes(interval: int, pipelines: Collection[Pipeline]) -> dg.SensorDefinition:
    """The sensor that judges every run that has ended, at most every ``interval`` seconds."""
    jobs = [job.definition for level in levels_of(pipelines) for job in level.jobs]

    @dg.sensor(
        name="run_outcomes",
        jobs=jobs,
        minimum_interval_seconds=min(interval, PROMPT_SECONDS),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Writes down why runs have ended; has those executed again that lost infrastructure.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site], gpu_pool: GpuPoolResource
    ) -> dg.SensorResult:
        cursor, held = _judge_ended(context, site, pipelines)
        if held:
            try:
                gpu_pool.open().free_ended(context.instance)
            except Exception as error:  # noqa: BLE001 - the reaper does it again
                context.log.warning("what ended runs hold stays for now: %s", safe_text(error))
        requests = retry_requests(context.instance, site, pipelines)
        return dg.SensorResult(
            run_requests=requests,
            cursor=cursor,
            skip_reason=None if requests else dg.SkipReason("nothing is to be executed again now"),
        )

    return sensor


def _judge_ended(
    context: dg.SensorEvaluationContext, site: Site, pipelines: Collection[Pipeline]
) -> tuple[str, bool]:
    """Judge what has ended since the last tick.

    Returns:
        The new cursor, and whether a run has ended whose beam still holds a slot.
    """
    instance, until = context.instance, time.monotonic() + SECONDS_PER_TICK
    position = Position.of(json.loads(context.cursor)) if context.cursor else Position()
    alarmed = {alarm.subject for alarm in site.ledger.alarms.open() if alarm.kind in _OF_A_RUN}
    leased = {lease.owner for lease in site.ledger.leases.all()}
    held = False
    while time.monotonic() < until and (events := _new_events(instance, position)):
        run_ids = sorted({event.run_id for event in events})
        records = instance.get_run_records(dg.RunsFilter(run_ids=run_ids))
        runs = {record.dagster_run.run_id: record for record in records}
        known = site.ledger.outcomes.get_many(run_ids)
        judged: list[int] = []
        for event in events:
            if time.monotonic() > until:
                break
            record = runs.get(event.run_id)
            if record is not None and event.run_id not in known:
                subject = _judge_safely(context, site, pipelines, record, event, alarmed)
                alarmed |= {subject} if subject else set()
                held |= event.run_id in leased
            judged.append(event.storage_id)
        position = position.past(judged)
    return json.dumps(position.content()), held


def _new_events(instance: dg.DagsterInstance, position: Position) -> list[dg.EventLogRecord]:
    """The ends of runs that were not looked at yet, in their order, as far as every kind of them is known."""
    found: list[dg.EventLogRecord] = []
    horizon: int | None = None
    for kind in _ENDS:
        page = instance.fetch_run_status_changes(
            dg.RunStatusChangeRecordsFilter(kind, after_storage_id=position.floor),
            limit=_PAGE + len(position.seen),
            ascending=True,
        )
        found += page.records
        if page.has_more and page.records:
            last = page.records[-1].storage_id
            horizon = last if horizon is None else min(horizon, last)
    new = [event for event in found if position.is_new(event.storage_id)]
    return sorted(
        (event for event in new if horizon is None or event.storage_id <= horizon),
        key=lambda event: event.storage_id,
    )


def _judge_safely(
    context: dg.SensorEvaluationContext,
    site: Site,
    pipelines: Collection[Pipeline],
    record: dg.RunRecord,
    event: dg.EventLogRecord,
    alarmed: set[str],
) -> str | None:
    """`_judge`; an end that nobody understands is an alarm, and keeps no other from being judged."""
    try:
        return _judge(context, site, pipelines, record, event, alarmed)
    except Exception as error:
        if is_passing(error):
            raise
        run = record.dagster_run
        subject, why = shown(run.tags.get(PARTITION_TAG, run.job_name)), safe_text(error)
        context.log.error("how run %s has ended cannot be judged: %s", run.run_id, why)
        command = command_of(pipelines, run.job_name, run.tags.get(PARTITION_TAG, ""))
        text = f"how a run has ended cannot be judged: {why}. What to do: {next_step(None, command)}"
        ended_at = datetime.fromtimestamp(event.timestamp, UTC)
        failed = level_of(pipelines, run.job_name, run.tags.get(PARTITION_TAG, "")).failed
        site.ledger.alarms.raise_(failed, subject, text, ended_at)
        return subject


def _judge(
    context: dg.SensorEvaluationContext,
    site: Site,
    pipelines: Collection[Pipeline],
    record: dg.RunRecord,
    event: dg.EventLogRecord,
    alarmed: set[str],
) -> str | None:
    """Judge one end of a run; the subject of an alarm that it has raised."""
    run, ledger = record.dagster_run, site.ledger
    partition = run.tags.get(PARTITION_TAG)
    if partition is None:
        return None
    ended_at = datetime.fromtimestamp(event.timestamp, UTC)
    if run.status is dg.DagsterRunStatus.SUCCESS:
        if shown(partition) in alarmed:
            ledger.alarms.clear_all(_OF_A_RUN, [shown(partition)])
        for level in levels_of(pipelines):
            if any(job.concludes and job.name == run.job_name for job in level.jobs):
                text = f"{level.kind.name.replace('_', ' ')} {partition} has concluded"
                ledger.notices.record_conclusion(run.run_id, partition, text, ended_at)
        return None
    if _BAD.get(run.status) is not event.event_log_entry.get_dagster_event().event_type:
        return None
    if run.status is dg.DagsterRunStatus.CANCELED:
        if shown(partition) in alarmed:
            ledger.alarms.clear_all(_OF_A_RUN, [shown(partition)])
        verdict, cause, code, again = RunVerdict.CANCELLED, CANCELLED, "", False
    else:
        found = first_cause(context.instance, run.run_id)
        again = goes_on_by_itself(found, served=run.remote_job_origin is not None)
        verdict = RunVerdict.RETRY if again else RunVerdict.FAILED
        cause, code = found.text, found.code or ""
    first_at, tries = _streak(context.instance, site, pipelines, run, ended_at) if again else (ended_at, 1)
    outcome = RunOutcome(
        run_id=run.run_id,
        job=run.job_name,
        partition=partition[:LONGEST_NAME],
        verdict=verdict,
        code=code,
        cause=cause,
        ended_at=ended_at,
        first_at=first_at,
        tries=tries,
        next_try_at=datetime.now(UTC) + _wait(site, code, tries) if again else None,
    )
    if outcome.next_try_at is not None:
        when = f"{outcome.next_try_at:%Y-%m-%d %H:%M:%S} UTC"
        context.instance.report_engine_event(f"Goes on by itself at {when}: {cause}", run)
    raised = _alarm(context, site, pipelines, outcome, _worked_long(site, record, ended_at))
    ledger.outcomes.record(outcome)
    return raised


def _streak(
    instance: dg.DagsterInstance,
    site: Site,
    pipelines: Collection[Pipeline],
    run: dg.DagsterRun,
    ended_at: datetime,
) -> tuple[datetime, int]:
    """When the tries of one step in a row began that only infrastructure has ended, and how many there were.

    However long one of them has worked: a worker that dies in each of them after an hour gets nowhere.
    """
    parent = run.tags.get(RETRY_OF_TAG)
    before = site.ledger.outcomes.get_many([parent]).get(parent) if parent is not None else None
    if before is None or _has_come_further(instance, pipelines, run):
        return ended_at, 1
    return before.first_at, before.tries + 1


def _worked_long(site: Site, record: dg.RunRecord, ended_at: datetime) -> bool:
    """Whether a run has worked for longer than the longest wait: infrastructure was not away meanwhile."""
    began = record.start_time or record.create_timestamp.timestamp()
    return ended_at.timestamp() - began > site.settings.execution.retry_maximum_seconds


def _wait(site: Site, code: str, tries: int) -> timedelta:
    """How long the next try is put off; a worker that has died once is replaced at once."""
    limits = site.settings.execution
    failures = tries if code else tries - 1
    if failures < 1:
        return timedelta(0)
    backoff = Backoff(limits.retry_seconds, limits.retry_maximum_seconds)
    return timedelta(seconds=backoff.seconds(failures))


def _alarm(
    context: dg.SensorEvaluationContext,
    site: Site,
    pipelines: Collection[Pipeline],
    outcome: RunOutcome,
    worked_long: bool,
) -> str | None:
    """Raise the alarm that an end calls for; its subject."""
    subject, ledger = shown(outcome.partition), site.ledger
    if outcome.verdict is RunVerdict.RETRY:
        limit = timedelta(minutes=site.settings.alarms.retried_minutes)
        few = worked_long and outcome.tries < _LOSSES_OF_LONG_RUNS
        if few or outcome.ended_at - outcome.first_at < limit:
            return None
        text = (
            f"tried {outcome.tries} times since {outcome.first_at:%Y-%m-%d %H:%M} UTC, the next time at"
            f" {outcome.next_try_at:%Y-%m-%d %H:%M:%S} UTC: {outcome.cause}."
            f" It goes on by itself once that is mended. {limit_words(limit, 'alarms.retried_minutes')}"
        )
        ledger.alarms.raise_(AlarmKind.RETRIED_LONG, subject, text, outcome.ended_at)
        return subject
    if outcome.verdict is RunVerdict.FAILED and _is_latest(context.instance, outcome):
        ledger.alarms.clear(AlarmKind.RETRIED_LONG, subject)
        command = command_of(pipelines, outcome.job, outcome.partition)
        text = f"{outcome.cause}. What to do: {next_step(outcome.code or None, command)}"
        failed = level_of(pipelines, outcome.job, outcome.partition).failed
        ledger.alarms.raise_(failed, subject, text, outcome.ended_at)
        return subject
    return None


def _is_latest(instance: dg.DagsterInstance, outcome: RunOutcome) -> bool:
    """Whether nothing was started of the case or beam since that run."""
    latest = latest_run_of(instance, outcome.partition)
    return latest is None or latest.run_id == outcome.run_id

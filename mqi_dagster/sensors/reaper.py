"""Runs whose worker is gone without a word, and what ended runs still hold.

A run is dead when its worker is: not when it is silent. A worker that waits for a cluster or a database, or
is stopped by the machine, keeps its run, whatever the clocks say.
"""

import time
from collections.abc import Callable, Iterable

import dagster as dg

from mqi_dagster.compute.run_workers import worker_lives
from mqi_dagster.dagster_internals import JobFailureData, RunFailureReason
from mqi_dagster.execution.sign_of_life import Life
from mqi_dagster.ledger.database import utc_now
from mqi_dagster.lifecycle.boundary import safe_text
from mqi_dagster.resources.composed import GpuPoolResource
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.outcomes import PROMPT_SECONDS

NO_SIGN_SECONDS = 30.0
"""How long a started run may be without a sign of life: its worker gives one before the first step."""
_REMOVED_AT_ONCE = 200
_WITH_A_WORKER = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_DEAD = "The worker of this run is gone (the machine or its services have crashed)."


def reaper(interval: int) -> dg.SensorDefinition:
    """The sensor that ends dead runs and frees what ended runs hold, at most every ``interval`` seconds."""
    # Measured here, not by the clock of the day, which may be set.
    without_sign: dict[str, float] = {}

    @dg.sensor(
        name="reaper",
        minimum_interval_seconds=min(interval, PROMPT_SECONDS),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ends runs whose worker is gone; cancels the jobs of cancelled runs; frees their slots.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site], gpu_pool: GpuPoolResource
    ) -> dg.SkipReason:
        ended = end_dead_runs(context.instance, site, without_sign, context.log.warning)
        _forget_ended(context.instance, site)
        freed = gpu_pool.open().free_ended(context.instance)
        if not ended and not freed:
            return dg.SkipReason("every run in work has a living worker, and nothing is to be freed")
        return dg.SkipReason(f"{ended} dead runs ended, {freed} slots freed")

    return sensor


def end_dead_runs(
    instance: dg.DagsterInstance,
    site: Site,
    without_sign: dict[str, float],
    say: Callable[[str], None],
    monotonic: Callable[[], float] = time.monotonic,
) -> int:
    """Report every run as failed, or as cancelled where that was asked for, whose worker is gone.

    Args:
        instance: Dagster's records.
        site: The installation.
        without_sign: When a run was first seen that has no sign of life; kept from tick to tick.
        say: Told of what cannot be looked at now.
        monotonic: Tells passing time in seconds; replaced in tests.

    Returns:
        How many there were.
    """
    signed = set(site.signs_of_life.known())
    runs = [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=_WITH_A_WORKER))
        # One that a person has started in a terminal has no worker of the services: its sign alone tells.
        if run.remote_job_origin is not None or run.run_id in signed
    ]
    for gone in set(without_sign) - {run.run_id for run in runs}:
        del without_sign[gone]
    ended = 0
    for run in runs:
        try:
            if _is_dead(instance, site, run, without_sign, monotonic):
                ended += _end(instance, run.run_id)
        except Exception as error:  # noqa: BLE001 - one run must not keep all others waiting
            say(f"run {run.run_id} cannot be looked at now: {safe_text(error)}")
    return ended


def _is_dead(
    instance: dg.DagsterInstance,
    site: Site,
    run: dg.DagsterRun,
    without_sign: dict[str, float],
    monotonic: Callable[[], float],
) -> bool:
    run_id = run.run_id
    life = site.signs_of_life.of(run_id)
    if run.status is dg.DagsterRunStatus.STARTING:
        # It gives its sign a little later; until then it is known by the pid that it has told.
        return life is Life.DEAD or (life is Life.NEVER_SEEN and not worker_lives(instance, run))
    if life is not Life.NEVER_SEEN:
        without_sign.pop(run_id, None)
        return life is Life.DEAD
    since = without_sign.setdefault(run_id, monotonic())
    if monotonic() - since < NO_SIGN_SECONDS:
        return False
    # A worker of an older version gives no sign; its heartbeat speaks for it.
    return all(
        lease.owner != run_id or lease.is_stale(utc_now(), site.stale_after) for lease in site.ledger.leases()
    )


def _end(instance: dg.DagsterInstance, run_id: str) -> bool:
    """End a run whose worker is known to be gone, unless its last word was that it has ended."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return False
    if run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, _DEAD)
    else:
        data = JobFailureData(error=None, failure_reason=RunFailureReason.UNEXPECTED_TERMINATION)
        instance.report_run_failed(run, _DEAD, data)
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    return True


def _forget_ended(instance: dg.DagsterInstance, site: Site) -> None:
    """Remove the signs of runs that have ended."""
    known = site.signs_of_life.known()[:_REMOVED_AT_ONCE]
    if not known:
        return
    in_work = _unfinished(instance.get_runs(dg.RunsFilter(run_ids=known)))
    for run_id in known:
        if run_id not in in_work and site.signs_of_life.of(run_id) is Life.DEAD:
            site.signs_of_life.forget(run_id)


def _unfinished(runs: Iterable[dg.DagsterRun]) -> set[str]:
    return {run.run_id for run in runs if not run.is_finished}

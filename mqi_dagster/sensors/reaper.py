"""Frees what ended runs still hold, and ends the dead runs that run monitoring leaves to its time-outs."""

import dagster as dg

from mqi_dagster.compute.run_workers import IN_WORK, end_dead_runs
from mqi_dagster.execution.sign_of_life import Life
from mqi_dagster.resources.composed import GpuPoolResource
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.outcomes import PROMPT_SECONDS

_REMOVED_AT_ONCE = 200
_LEFT_TO_TIMEOUTS = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING)
"""It asks the launcher (`compute.run_launcher`) about the others, and gives these up after minutes."""


def reaper(interval: int) -> dg.SensorDefinition:
    """The sensor that frees what ended runs hold, at most every ``interval`` seconds."""

    @dg.sensor(
        name="reaper",
        minimum_interval_seconds=min(interval, PROMPT_SECONDS),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Cancels the jobs of cancelled runs, frees slots, ends what has died while it started.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site], gpu_pool: GpuPoolResource
    ) -> dg.SkipReason:
        # A launcher of the site's own that cannot tell leaves all of them to nobody else.
        asked = context.instance.run_launcher.supports_check_run_worker_health
        statuses = _LEFT_TO_TIMEOUTS if asked else IN_WORK
        ended = end_dead_runs(context.instance, site, statuses, context.log.warning)
        _forget_ended(context.instance, site)
        freed = gpu_pool.open().free_ended(context.instance)
        if not ended and not freed:
            return dg.SkipReason("every run that starts or ends has a living worker; nothing is to be freed")
        return dg.SkipReason(f"{ended} dead runs ended, {freed} slots freed")

    return sensor


def _forget_ended(instance: dg.DagsterInstance, site: Site) -> None:
    """Remove the signs of runs that have ended."""
    known = site.signs_of_life.known()[:_REMOVED_AT_ONCE]
    if not known:
        return
    in_work = {run.run_id for run in instance.get_runs(dg.RunsFilter(run_ids=known)) if not run.is_finished}
    for run_id in known:
        if run_id not in in_work and site.signs_of_life.of(run_id) is Life.DEAD:
            site.signs_of_life.forget(run_id)

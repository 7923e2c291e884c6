"""What runs that have ended still hold: a cancelled one's job is cancelled, an ended job's slot is freed."""

import dagster as dg

from mqi_dagster.assets.slots import free_ended_leases
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.run_workers import fail_orphaned_runs, worker_lives


def reaper(interval: int) -> dg.SensorDefinition:
    """The sensor that does by itself what otherwise the next beam that wants a slot would do."""

    @dg.sensor(
        name="reaper",
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Fails runs whose worker is dead, cancels the jobs of cancelled runs, frees their slots.",
    )
    def sensor(context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site]) -> dg.SkipReason:
        # A code location notices the death of the workers it has started itself, and only of those.
        dead = fail_orphaned_runs(context.instance, worker_lives)
        before = {lease.beam for lease in site.ledger.leases()}
        if before:
            free_ended_leases(context.instance, site)
        freed = before - {lease.beam for lease in site.ledger.leases()}
        return dg.SkipReason(
            f"{dead} dead runs, {len(freed)} slots freed" if dead or freed else "nothing to free"
        )

    return sensor

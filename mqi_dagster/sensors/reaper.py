"""What runs that have ended still hold: a cancelled one's job is cancelled, an ended job's slot is freed."""

import dagster as dg

from mqi_dagster.assets.slots import free_ended_leases
from mqi_dagster.resources.site import Site


def reaper(interval: int) -> dg.SensorDefinition:
    """The sensor that does by itself what otherwise the next beam that wants a slot would do."""

    @dg.sensor(
        name="reaper",
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Cancels the jobs of cancelled runs whose cluster was away then, and frees their slots.",
    )
    def sensor(context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site]) -> dg.SkipReason:
        before = {lease.beam for lease in site.ledger.leases()}
        if before:
            free_ended_leases(context.instance, site)
        freed = before - {lease.beam for lease in site.ledger.leases()}
        return dg.SkipReason(f"{len(freed)} slots freed" if freed else "nothing to free")

    return sensor

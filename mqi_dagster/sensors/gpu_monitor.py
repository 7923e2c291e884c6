"""What the GPUs are doing: looked at, written into the ledger, and never assigned."""

import dagster as dg

from mqi_dagster.assets.gpu_looks import look_at
from mqi_dagster.errors import UnreachableError
from mqi_dagster.resources.site import Site


def gpu_monitor(interval: int) -> dg.SensorDefinition:
    """The sensor that looks at the GPUs of the place that ``execution.gpu_monitoring`` names."""

    @dg.sensor(
        name="gpu_monitor",
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Writes memory, use, temperature, clocks and foreign processes of the GPUs down.",
    )
    def sensor(context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site]) -> dg.SkipReason:
        place = site.settings.execution.gpu_monitoring
        try:
            seen = look_at(site, place)
        except UnreachableError as error:
            return dg.SkipReason(f"{place} is away: {error.message}")
        foreign = sum(gpu.foreign_processes > 0 for gpu in seen)
        return dg.SkipReason(f"{len(seen)} GPUs of {place} seen, {foreign} with a foreign process")

    return sensor

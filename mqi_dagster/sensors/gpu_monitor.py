"""What the GPUs do, which of the pool are there, and whether idle clusters answer; nothing is assigned."""

from contextlib import suppress

import dagster as dg

from mqi_dagster.errors import ConfigurationError, UnreachableError
from mqi_dagster.resources.composed import GpuPoolResource
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import LOCAL


def gpu_monitor(interval: int) -> dg.SensorDefinition:
    """The sensor that looks at the GPUs of the host that ``execution.gpu_monitoring`` names."""

    @dg.sensor(
        name="gpu_monitor",
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Writes memory, use, temperature, clocks and foreign processes of the GPUs down, and"
        " whether clusters answer that nobody waits for.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site], gpu_pool: GpuPoolResource
    ) -> dg.SkipReason:
        settings, pool = site.settings, gpu_pool.open()
        if settings.execution.simulation == LOCAL and settings.engine.in_use().needs_gpu:
            # One that is lost while no beam asks for it should be known; wrong settings, each beam tells.
            with suppress(ConfigurationError):
                pool.declare()
        for name in {settings.execution.simulation, settings.radiotherapy.segmentation.host}:
            if (cluster := site.executor_on(name)) is not None:
                cluster.look()
        host_name = settings.execution.gpu_monitoring
        try:
            seen = pool.sample(host_name)
        except UnreachableError as error:
            return dg.SkipReason(f"{host_name} is away: {error.message}")
        foreign = sum(gpu.foreign_processes > 0 for gpu in seen)
        return dg.SkipReason(f"{len(seen)} GPUs of {host_name} seen, {foreign} with a foreign process")

    return sensor

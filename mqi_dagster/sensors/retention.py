"""Once a day, what the settings do not want kept is removed."""

from datetime import UTC, datetime

import dagster as dg

from mqi_dagster.lifecycle.cluster_retention import tidy_clusters
from mqi_dagster.lifecycle.health import RETENTION_SECONDS
from mqi_dagster.lifecycle.retention import tidy
from mqi_dagster.resources.site import Site

_SECONDS_PER_TICK = 20.0


def retention(daily: bool) -> dg.SensorDefinition:
    """The sensor that does what `mqi retention` does, where the settings say so.

    Args:
        daily: Whether they do.
    """

    @dg.sensor(
        name="retention",
        minimum_interval_seconds=RETENTION_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING if daily else dg.DefaultSensorStatus.STOPPED,
        description="Removes once a day what the settings' section retention does not want kept.",
    )
    def sensor(context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site]) -> dg.SensorResult:
        now = datetime.now(UTC)
        today = now.date().isoformat()
        if context.cursor == today:
            return dg.SensorResult(skip_reason=dg.SkipReason("done today"), cursor=today)
        count, whole, problems = tidy(context.instance, site, now, _SECONDS_PER_TICK)
        if whole:
            # Last: a cluster that is away must not keep this machine's disk full.
            folders, whole, more = tidy_clusters(site)
            count += folders
            problems += more
        for problem in problems:
            context.log.warning("%s; tried again tomorrow", problem)
        words = f"{count} things removed" if whole else f"{count} things removed, more with the next tick"
        return dg.SensorResult(skip_reason=dg.SkipReason(words), cursor=today if whole else context.cursor)

    return sensor

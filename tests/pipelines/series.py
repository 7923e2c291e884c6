"""A pipeline of two assets, whose partitions are image series: it has no cases, no beams and no engine."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import dagster as dg

from mqi_dagster.errors import InfrastructureError, InputError, Where
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.lifecycle.boundary import Boundary
from mqi_dagster.lifecycle.jobs import CASE_TAG, PRIORITY_TAG
from mqi_dagster.lifecycle.materialisations import Materialisations
from mqi_dagster.lifecycle.pipeline import Level, Pipeline, Step, asset_job
from mqi_dagster.lifecycle.run_requests import Room
from mqi_dagster.partitions import PartitionKind
from mqi_dagster.resources.site import Site

SERIES = PartitionKind("series", r"(?P<stem>S[0-9A-Z]{9})")


def series_tags(series: str, target: str, priority: int) -> dict[str, str]:
    """Tags of a run; nothing is handed over."""
    return {CASE_TAG: series, PRIORITY_TAG: str(priority)}


series_job = asset_job(
    "series",
    Step("series_sorted", ("series_sorted",)),
    Step("series_stored", ("series_stored",)),
    description="Sorts and stores one series.",
    tags=series_tags,
    concludes=True,
)


def concluded(
    events: Materialisations,
    series: str,
    parts: Collection[str],
    arrival: Arrival | None,
    partial: Callable[[], bool],
) -> bool:
    """Whether a series was stored."""
    return events.latest("series_stored", series) is not None


IMAGES = Pipeline(
    "images",
    sensors=("series_arrivals",),
    units=Level(SERIES, (series_job,)),
    status_assets=("series_stored",),
    concluded=concluded,
)


def folder(site: Site) -> Path:
    """Where series arrive, a file each, with what is to become of it as its text."""
    return site.settings.paths.state / "series"


def images(site: Site, pipelines: Sequence[Pipeline]) -> dg.Definitions:
    """What Dagster loads of the pipeline."""

    @dg.asset(partitions_def=SERIES.definition)
    def series_sorted(context: dg.AssetExecutionContext) -> None:
        with Boundary(Where(kind="series")):
            if (folder(site) / context.partition_key).read_text() == "mixed":
                raise InputError("its images are of two patients")

    @dg.asset(partitions_def=SERIES.definition, deps=[series_sorted])
    def series_stored(context: dg.AssetExecutionContext) -> None:
        with Boundary(Where(kind="series")):
            if (folder(site) / context.partition_key).read_text() == "archive away":
                raise InfrastructureError("the archive does not answer")

    @dg.sensor(name="series_arrivals", job=series_job.definition, minimum_interval_seconds=30)
    def series_arrivals(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        room = Room(context.instance, pipelines)
        keys = sorted(path.name for path in folder(site).iterdir())
        requests = [
            dg.RunRequest(run_key=key, partition_key=key, tags=series_tags(key, "", 0))
            for key in keys
            if room.take(1, 0)
        ]
        return dg.SensorResult(
            run_requests=requests, dynamic_partitions_requests=[SERIES.definition.build_add_request(keys)]
        )

    return dg.Definitions(assets=[series_sorted, series_stored], sensors=[series_arrivals])

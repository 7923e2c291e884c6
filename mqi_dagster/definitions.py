"""Everything meets here, and only here: assets, checks, sensors, jobs, resources, executor."""

from collections.abc import Callable, Mapping, Sequence

import dagster as dg

from mqi_dagster.assets.proton import handover, intake, interpretation, rt_dose, simulation
from mqi_dagster.assets.proton.pipeline import PROTON
from mqi_dagster.assets.radiotherapy import cohort, dvh, organise, radiomics, report, segmentation, structures
from mqi_dagster.assets.radiotherapy.pipeline import RADIOTHERAPY
from mqi_dagster.compute.run_launcher import watched_executor
from mqi_dagster.lifecycle.health import prompt_seconds
from mqi_dagster.lifecycle.jobs import cohort_job
from mqi_dagster.lifecycle.pipeline import Pipeline, levels_of
from mqi_dagster.resources.composed import resources_of
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.alarms import alarms
from mqi_dagster.sensors.arrivals import case_arrivals
from mqi_dagster.sensors.beams import beams_to_simulate
from mqi_dagster.sensors.cohort import cohort as cohort_sensor
from mqi_dagster.sensors.conclusion import cases_to_conclude
from mqi_dagster.sensors.courses import dicom_arrivals
from mqi_dagster.sensors.gpu_monitor import gpu_monitor
from mqi_dagster.sensors.notifications import notifications
from mqi_dagster.sensors.outcomes import run_outcomes
from mqi_dagster.sensors.reaper import reaper
from mqi_dagster.sensors.retention import retention

_UNCONFIGURED_INTERVAL = 30


def _interval(site: Site) -> int:
    configured = site.settings_file.is_file()
    return site.settings.intake.scan_interval_seconds if configured else _UNCONFIGURED_INTERVAL


def proton(site: Site, pipelines: Sequence[Pipeline]) -> dg.Definitions:
    """Assets, checks and sensors of the proton pipeline.

    Args:
        site: The installation.
        pipelines: Those of the site, which share the queue.
    """
    interval = _interval(site)
    return dg.Definitions(
        assets=[
            intake.case_manifest,
            interpretation.interpreted_csvs,
            simulation.simulation,
            rt_dose.rt_dose,
            handover.handed_over,
            handover.case_handed_over,
        ],
        asset_checks=[intake.integrity],
        sensors=[
            case_arrivals(interval, pipelines),
            beams_to_simulate(interval, pipelines),
            cases_to_conclude(interval),
        ],
    )


def radiotherapy(site: Site, pipelines: Sequence[Pipeline]) -> dg.Definitions:
    """Assets, checks and sensors of the radiotherapy pipeline.

    Args:
        site: The installation.
        pipelines: Those of the site, which share the queue.
    """
    interval = _interval(site)
    return dg.Definitions(
        assets=[
            organise.course_inventory,
            segmentation.auto_segmentation,
            segmentation.custom_segmentation,
            structures.structures,
            dvh.dvh,
            radiomics.radiomics,
            report.course_report,
            cohort.cohort_tables,
        ],
        jobs=[cohort_job],
        sensors=[dicom_arrivals(interval, pipelines), cohort_sensor(interval)],
    )


Loaded = tuple[Pipeline, Callable[[Site, Sequence[Pipeline]], dg.Definitions]]
"""A pipeline, and what Dagster loads of it beside its jobs."""
LOADED: tuple[Loaded, ...] = ((PROTON, proton), (RADIOTHERAPY, radiotherapy))


def build_definitions(
    site: Site,
    resources: Mapping[str, object] | None = None,
    pipelines: Sequence[Loaded] = LOADED,
) -> dg.Definitions:
    """The code location of one site.

    Args:
        site: The installation.
        resources: What stands in for the resources of these names, see `resources_of`: each an object whose
            ``open`` gives what theirs gives.
        pipelines: What it works on.
    """
    interval = _interval(site)
    prompt = prompt_seconds(interval)
    described = [pipeline for pipeline, _ in pipelines]
    common = dg.Definitions(
        jobs=[job.definition for level in levels_of(described) for job in level.jobs],
        sensors=[
            run_outcomes(interval, described),
            reaper(interval),
            gpu_monitor(prompt),
            alarms(prompt, described),
            notifications(prompt),
            retention(site.settings_file.is_file() and site.settings.retention.daily),
        ],
        resources={**resources_of(site), **(resources or {})},
        # Also governs runs that the pages start, which know nothing of our jobs.
        executor=watched_executor(site),
    )
    return dg.Definitions.merge(common, *(load(site, described) for _, load in pipelines))


@dg.definitions
def defs() -> dg.Definitions:
    """The code location of the environment's site: built when Dagster loads it, and by no import."""
    return build_definitions(Site.from_environment())

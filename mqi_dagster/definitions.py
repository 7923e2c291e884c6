"""Everything meets here, and only here: assets, checks, sensors, jobs, resources, executor."""

from collections.abc import Mapping

import dagster as dg

from mqi_dagster.assets.proton import dose, handover, intake, interpretation, simulation
from mqi_dagster.lifecycle.health import PROMPT_SECONDS, UNHURRIED_SECONDS
from mqi_dagster.lifecycle.jobs import beam_job, conclusion_job, intake_job
from mqi_dagster.resources.composed import resources_of
from mqi_dagster.resources.run_worker import watched_executor
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.alarms import alarms
from mqi_dagster.sensors.arrivals import case_arrivals
from mqi_dagster.sensors.beams import beams_to_simulate
from mqi_dagster.sensors.conclusion import cases_to_conclude
from mqi_dagster.sensors.gpu_monitor import gpu_monitor
from mqi_dagster.sensors.notifications import notifications
from mqi_dagster.sensors.outcomes import run_outcomes
from mqi_dagster.sensors.reaper import reaper
from mqi_dagster.sensors.retention import retention

_UNCONFIGURED_INTERVAL = 30


def build_definitions(site: Site, resources: Mapping[str, object] | None = None) -> dg.Definitions:
    """The code location of one site.

    Args:
        site: The installation.
        resources: What stands in for the resources of these names, see `resources_of`: each an object whose
            ``open`` gives what theirs gives.
    """
    configured = site.settings_file.is_file()
    interval = site.settings.intake.scan_interval_seconds if configured else _UNCONFIGURED_INTERVAL
    unhurried = max(interval, UNHURRIED_SECONDS)
    attempts = site.settings.execution.attempts if configured else 1
    return dg.Definitions(
        assets=[
            intake.case_manifest,
            interpretation.interpreted_csvs,
            simulation.simulation(attempts),
            dose.rt_dose,
            handover.handed_over,
            handover.case_handed_over,
        ],
        asset_checks=[
            intake.integrity,
            interpretation.counts,
            interpretation.delivery,
            simulation.engine_output,
            simulation.uncertainty,
            dose.readback,
        ],
        jobs=[intake_job, beam_job, conclusion_job],
        sensors=[
            case_arrivals(interval),
            beams_to_simulate(interval),
            cases_to_conclude(interval),
            run_outcomes(interval),
            reaper(interval),
            gpu_monitor(unhurried),
            *(sensor(min(PROMPT_SECONDS, unhurried)) for sensor in (alarms, notifications)),
            retention(configured and site.settings.retention.daily),
        ],
        resources={**resources_of(site), **(resources or {})},
        # Also governs runs that the pages start, which know nothing of our jobs.
        executor=watched_executor(site),
    )


defs = build_definitions(Site.from_environment())

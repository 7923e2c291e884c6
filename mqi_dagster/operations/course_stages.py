"""The stages of a course as users of rtpipeline name them: what each makes, and its log."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import dagster as dg

from mqi_dagster.errors import InputError
from mqi_dagster.lifecycle.jobs import course_job
from mqi_dagster.lifecycle.lineage import latest_record
from mqi_dagster.processes.worker_counts import STAGES
from mqi_dagster.settings import Settings

ASSETS = {
    "organize": "course_inventory",
    "segmentation": "auto_segmentation",
    "segmentation_custom": "custom_segmentation",
    "crop_ct": "structures",
    "dvh": "dvh",
    "visualize": "course_report",
    "radiomics": "radiomics",
    "qc": "course_report",
}
"""What a stage makes. The page and the quality report are made in one step, from the same inputs."""
STAGE_OF = {asset: stage for stage, asset in reversed(ASSETS.items())}
"""Under which stage's name an asset is logged."""


def assets_of(stages: Iterable[str]) -> tuple[str, ...]:
    """What some stages make, in the order in which it is made; of no stage, everything.

    Raises:
        InputError: There is no such stage.
    """
    wanted = set(stages)
    unknown = sorted(wanted.difference(STAGES))
    if unknown:
        raise InputError(f"no stage is called {', '.join(unknown)}: {', '.join(STAGES)}")
    made = {ASSETS[stage] for stage in wanted or STAGES}
    return tuple(asset for asset in course_job.assets if asset in made)


def missing_stage(
    instance: dg.DagsterInstance, definitions: dg.Definitions, assets: Collection[str], course: str
) -> str | None:
    """The stage that has to be run first for a course; None where nothing is missing.

    Args:
        instance: Dagster's records.
        definitions: Of the site: they tell what is made from what.
        assets: What is to be made now.
        course: Key of the course.
    """
    graph = definitions.resolve_asset_graph()
    for asset in assets:
        for parent in sorted(graph.get(dg.AssetKey(asset)).parent_keys):
            name = parent.to_user_string()
            if name not in assets and name in STAGE_OF and latest_record(instance, name, course) is None:
                return STAGE_OF[name]
    return None


def stage_log(settings: Settings, stage: str) -> Path:
    """The log of a stage; its folder is made."""
    folder = settings.paths.state / "logs" / "stages"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / f"{stage}.log"

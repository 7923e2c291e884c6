"""The runs of the pipelines: one per arrival, per beam, per concluded case, per course and per image set, one
of all courses; and tags."""

from collections.abc import Mapping

import dagster as dg

from mqi_dagster.lifecycle.pipeline import Step, asset_job
from mqi_dagster.lifecycle.stages import Stage

CASE_TAG = "mqi/case"
COURSE_TAG = "mqi/course"
IMAGE_SET_TAG = "mqi/image_set"
GPU_TAG = "mqi/gpu"
UPLOAD_TAG = "mqi/upload"
PRIORITY_TAG = "dagster/priority"
PARTITION_TAG = "dagster/partition"
RUN_KEY_TAG = "dagster/run_key"
POOL = "gpu"
RETRY_OF_TAG = "mqi/retry_of"
"""On a run that goes on by itself after infrastructure was lost: the run before it."""
FAILURES_TAG = "mqi/engine_failures"
"""On such a run: how often the engine had failed before it."""


def beam_tags(case: str, target: str, priority: int) -> dict[str, str]:
    """Tags of a beam's run: what the run queue limits, and how urgent it is.

    Args:
        case: Case key.
        target: ``handover.target``.
        priority: Of the case.
    """
    return {**upload_tags(case, target, priority), GPU_TAG: "simulation"}


def priority_of(tags: Mapping[str, str]) -> int:
    """How urgent a run is by its tags; 0 where a person has written something else than a number."""
    try:
        return int(tags.get(PRIORITY_TAG, "0"))
    except ValueError:
        return 0


def intake_tags(case: str, target: str, priority: int) -> dict[str, str]:
    """Tags of an intake, which hands nothing over; takes what those of every job take."""
    return {CASE_TAG: case, PRIORITY_TAG: str(priority)}


def upload_tags(case: str, target: str, priority: int) -> dict[str, str]:
    """Tags of a run that hands something over."""
    return {**intake_tags(case, target, priority), UPLOAD_TAG: target}


def course_tags(course: str, target: str, priority: int) -> dict[str, str]:
    """Tags of a run of a course: no more of them run at once than ``radiotherapy.workers``."""
    return {**intake_tags(course, target, priority), COURSE_TAG: "course"}


def image_set_tags(image_set: str, target: str, priority: int) -> dict[str, str]:
    """Tags of a run of an image set: few more of them run at once than ``on_request.workers``."""
    return {**intake_tags(image_set, target, priority), IMAGE_SET_TAG: "image set"}


intake_job = asset_job(
    "intake",
    Step("case_manifest", ("case_manifest",), Stage.INTAKE),
    description="Take an arrived case in: inventory and integrity.",
    tags=intake_tags,
)
beam_job = asset_job(
    "beam",
    Step("interpreted_csvs", ("interpreted_csvs",), Stage.INTERPRETING),
    Step("simulation", ("tps_file", "raw_dose"), Stage.INTERPRETING),
    Step("rt_dose", ("rt_dose",), Stage.MAKING_RT_DOSE),
    Step("handed_over", ("handed_over",), Stage.MAKING_RT_DOSE),
    description="The whole way of one beam, from records to hand-over.",
    tags=beam_tags,
)
conclusion_job = asset_job(
    "conclusion",
    Step("case_handed_over", ("case_handed_over",), Stage.CONCLUDING),
    description="Summary and completion marker of a case whose beams are all handed over.",
    tags=upload_tags,
    concludes=True,
)
course_job = asset_job(
    "course",
    Step("course_inventory", ("course_inventory",), Stage.INTAKE),
    Step("auto_segmentation", ("auto_segmentation",), Stage.SEGMENTING),
    Step("custom_segmentation", ("custom_segmentation",), Stage.SEGMENTING),
    Step("structures", ("structures",), Stage.MAKING_STRUCTURES),
    Step("dvh", ("dvh",), Stage.MAKING_TABLES),
    Step("radiomics", ("radiomics",), Stage.MAKING_TABLES),
    Step("course_report", ("course_report",), Stage.CONCLUDING),
    description="The whole way of one course, from its objects to its page and its quality report.",
    tags=course_tags,
    concludes=True,
)
segmentation_job = asset_job(
    "segmentation_on_request",
    Step("image_set", ("image_set",), Stage.FETCHING),
    Step("segmentation", ("segmentation",), Stage.SEGMENTING),
    Step("segmentation_stored", ("segmentation_stored",), Stage.STORING),
    description="The whole way of one image set, from the PACS and back to it.",
    tags=image_set_tags,
    concludes=True,
)
cohort_job = dg.define_asset_job(
    "cohort",
    selection=dg.AssetSelection.assets("cohort_tables"),
    description="The tables of all courses together.",
)
"""Of no partition: what it makes is of all courses."""

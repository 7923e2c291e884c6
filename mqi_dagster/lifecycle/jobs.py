"""The three runs of the platform: one per arrival, one per beam, one per concluded case."""

from collections.abc import Mapping

import dagster as dg

CASE_TAG = "mqi/case"
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

BEAM_ASSETS = ("interpreted_csvs", "tps_file", "raw_dose", "rt_dose", "handed_over")

intake_job = dg.define_asset_job(
    "intake",
    selection=dg.AssetSelection.assets("case_manifest"),
    description="Take an arrived case in: inventory and integrity.",
)
beam_job = dg.define_asset_job(
    "beam",
    selection=dg.AssetSelection.assets(*BEAM_ASSETS),
    description="The whole way of one beam, from records to hand-over.",
)
conclusion_job = dg.define_asset_job(
    "conclusion",
    selection=dg.AssetSelection.assets("case_handed_over"),
    description="Summary and completion marker of a case whose beams are all handed over.",
)

FAILS_WITHOUT_BLOCKING = frozenset({"delivery"})
"""Checks that tell of something wrong with what was delivered, and never end a run."""

CASE_ASSETS = {intake_job.name: "case_manifest", conclusion_job.name: "case_handed_over"}
"""The asset of a case that each of its jobs makes."""


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


def upload_tags(case: str, target: str, priority: int) -> dict[str, str]:
    """Tags of a run that hands something over."""
    return {CASE_TAG: case, UPLOAD_TAG: target, PRIORITY_TAG: str(priority)}

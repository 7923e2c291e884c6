"""The way of an image set from the PACS to the segmentation there, one file a station."""

import dagster as dg

from mqi_dagster.partitions import IMAGE_SET

OWNERS = ["team:medical-physics"]
GROUP = "image_set"
"""Group of its assets."""


def check(asset: str, name: str, description: str, *, blocking: bool) -> dg.AssetCheckSpec:
    """A check of an asset of image sets, which the step that makes it evaluates on what it has published."""
    return dg.AssetCheckSpec(
        name, asset=asset, partitions_def=IMAGE_SET.definition, blocking=blocking, description=description
    )


def checked(
    asset: str, name: str, faults: list[str], passed: str, *, advice: str, warns: bool = False
) -> dg.AssetCheckResult:
    """A check that was evaluated.

    Args:
        asset: Of what.
        name: Which.
        faults: What is wrong, in words; nothing where it passes.
        passed: What is told where it does.
        advice: What to do where it does not.
        warns: Whether people have to look, and the run goes on.
    """
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=asset,
        passed=not faults,
        severity=dg.AssetCheckSeverity.WARN if warns else dg.AssetCheckSeverity.ERROR,
        description=f"{'; '.join(faults)}. What to do: {advice}" if faults else passed,
    )

"""The way of a beam from its records to the hand-over, one file a station."""

import dagster as dg

from mqi_dagster.partitions import BEAM as BEAM_KIND

OWNERS = ["team:medical-physics"]
CASE = "case"
"""Group of the assets of a case."""
BEAM = "beam"
"""Group of the assets of a beam."""


def beam_check(asset: str, name: str, description: str, *, blocking: bool = True) -> dg.AssetCheckSpec:
    """A check of an asset of beams that the step which makes the asset evaluates, on what it has published.

    Args:
        asset: Name of the asset.
        name: Of the check.
        description: When it passes.
        blocking: Whether the run ends where it fails.
    """
    return dg.AssetCheckSpec(
        name, asset=asset, blocking=blocking, partitions_def=BEAM_KIND.definition, description=description
    )

"""Stub: replaced by its station."""

import dagster as dg

from mqi_dagster.assets import radiotherapy
from mqi_dagster.lifecycle.lineage import DIGEST
from mqi_dagster.partitions import COURSE


@dg.asset(
    partitions_def=COURSE.definition,
    deps=["course_inventory", "structures"],
    group_name=radiotherapy.COURSE,
    owners=radiotherapy.OWNERS,
)
def dvh(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    """Stub."""
    return dg.MaterializeResult(metadata={DIGEST: "stub"})

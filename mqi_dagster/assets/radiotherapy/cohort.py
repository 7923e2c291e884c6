"""Stub: replaced by its station."""

import dagster as dg

from mqi_dagster.assets import radiotherapy
from mqi_dagster.lifecycle.lineage import DIGEST


@dg.asset(
    deps=[dg.AssetDep("course_report", partition_mapping=dg.AllPartitionMapping())],
    group_name=radiotherapy.COHORT,
    owners=radiotherapy.OWNERS,
)
def cohort_tables(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    """Stub."""
    return dg.MaterializeResult(metadata={DIGEST: "stub"})

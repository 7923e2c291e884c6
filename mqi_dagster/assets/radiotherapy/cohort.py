"""Station 7: the tables of all courses together."""

from pathlib import Path
from typing import Any

import dagster as dg

from mqi_dagster import __version__
from mqi_dagster.assets import radiotherapy
from mqi_dagster.assets.radiotherapy.pipeline import RADIOTHERAPY
from mqi_dagster.assets.radiotherapy.report import PLANNING, RESULTS
from mqi_dagster.courses.inventory import read_inventory
from mqi_dagster.errors import Where
from mqi_dagster.imaging.course_results import STAGES, CourseResults
from mqi_dagster.imaging.quality_control import QC_REPORT, read_qc_report
from mqi_dagster.lifecycle.boundary import tried_again
from mqi_dagster.lifecycle.cohort import CODE, COHORT_TABLES, Cohort, CourseStanding, read_cohort
from mqi_dagster.lifecycle.course import INVENTORY_FILE
from mqi_dagster.lifecycle.course_results import NOT_MADE
from mqi_dagster.lifecycle.lineage import DIGEST, reusable
from mqi_dagster.lifecycle.materialisations import COURSE_REPORT, INVENTORY
from mqi_dagster.resources.composed import StoreResource
from mqi_dagster.resources.site import Site
from mqi_dagster.store.digests import digest_of
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import COHORT, Store

COURSE_ROWS = "course_rows"
"""What one course brings into the tables: kept, so that a course that has not changed is read once."""


@dg.asset(
    deps=[dg.AssetDep(COURSE_REPORT, partition_mapping=dg.AllPartitionMapping())],
    code_version=CODE,
    group_name=radiotherapy.COHORT,
    kinds={"parquet", "excel"},
    owners=radiotherapy.OWNERS,
)
def cohort_tables(
    context: dg.AssetExecutionContext, site: dg.ResourceParam[Site], store: StoreResource
) -> dg.MaterializeResult[None]:
    """Dose-volume figures, radiomics, structures and checks of all courses: Parquet, and one workbook."""
    with tried_again(context, Where(kind=COHORT_TABLES)):
        cohort = read_cohort(context.instance, site, RADIOTHERAPY)
        digest = cohort.digest
        published, read = reusable(store.open(), COHORT_TABLES, COHORT, digest), 0
        if published is None:
            published, read = _made(store.open(), cohort, digest)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(digest),
            metadata={DIGEST: digest, "courses read": read, **_metadata(cohort, published)},
        )


def _made(store: Store, cohort: Cohort, digest: str) -> tuple[Published, int]:
    """Make the tables; how many courses had to be read for it."""
    from mqi_dagster.imaging.cohort import CohortCourse, write_cohort

    courses, read = [], 0
    for one in cohort.courses:
        part, was_read = _rows(store, one)
        read += was_read
        courses.append(CohortCourse(one.key, one.state.value, one.reason, part))
    with store.stage(COHORT, None, COHORT_TABLES) as staging:
        told = write_cohort(courses, staging)
        meta = {
            "rows": {one.table: one.rows for one in told},
            "left out": {one.table: one.remark for one in told if one.remark},
        }
        return store.publish(staging, COHORT, None, COHORT_TABLES, digest, meta=meta), read


def _rows(store: Store, course: CourseStanding) -> tuple[Path | None, bool]:
    """Where the rows of a course are, None where it has none; and whether its results had to be read."""
    from mqi_dagster.imaging.course_tables import write_course_tables

    if course.report is None:
        return None, False
    digest = digest_of(asset=COURSE_ROWS, code=CODE, version=__version__, report=course.report)
    kept = reusable(store, COURSE_ROWS, course.key, digest)
    if kept is not None:
        return kept.folder, False
    report = store.resolve(course.key, None, COURSE_REPORT, course.report)
    organised = store.resolve(course.key, None, INVENTORY, report.meta[INVENTORY])
    # What the report was made of, whatever is newer: rows and verdict are of the same results.
    digests: dict[str, str] = report.meta[RESULTS]
    results = CourseResults(
        {asset: store.resolve(course.key, None, asset, one).folder for asset, one in digests.items()},
        {asset: NOT_MADE for asset in STAGES if asset not in digests},
    )
    inventory = read_inventory(organised.path(INVENTORY_FILE))
    with store.stage(course.key, None, COURSE_ROWS) as staging:
        quality = read_qc_report(report.path(QC_REPORT))
        write_course_tables(course.key, inventory, report.meta[PLANNING], results, quality, staging)
        return store.publish(staging, course.key, None, COURSE_ROWS, digest, meta={}).folder, True


def _metadata(cohort: Cohort, published: Published) -> dict[str, Any]:
    states: dict[str, int] = {}
    for one in cohort.courses:
        states[one.state.value] = states.get(one.state.value, 0) + 1
    left_out = "; ".join(f"{table}: {what}" for table, what in published.meta["left out"].items())
    return {
        "courses": len(cohort.courses),
        "courses in the tables": sum(one.report is not None for one in cohort.courses),
        "states": ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none",
        "partitions that are no courses": cohort.invented,
        "left out of the workbook": left_out or "nothing",
        **{f"rows of {table}": rows for table, rows in published.meta["rows"].items()},
    }

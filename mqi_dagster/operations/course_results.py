"""What was made of courses, as rows for JSON and for whoever shows them."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from pydantic import Field

from mqi_dagster.errors import MqiError, StoreError
from mqi_dagster.imaging.quality_control import QC_REPORT, QcReport, Verdict, read_qc_report
from mqi_dagster.lifecycle.jobs import course_job
from mqi_dagster.lifecycle.lineage import digest_in, latest_digest
from mqi_dagster.lifecycle.materialisations import COURSE_REPORT
from mqi_dagster.lifecycle.stages import CaseState
from mqi_dagster.resources.site import Site
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import COHORT, CURRENT
from mqi_dagster.worklist.board_rows import StatusRow

COHORT_TABLES = "cohort_tables"


class CourseResult(StatusRow):
    """What came of one course."""

    course: str
    status: CaseState
    """``complete`` where what was asked for is made."""
    error: str | None = None
    verdict: Verdict | None = None
    """Of its quality report; None where it has none."""
    failing: str | None = None
    """What the first check that fails has found, where the verdict is FAIL."""
    page: Path | None = None
    digests: dict[str, str] = Field(default_factory=dict)
    """Of the assets that were made."""


class RunResult(StatusRow):
    """What came of a run of many courses."""

    status: CaseState
    courses: tuple[CourseResult, ...]
    tables: Path | None = None
    """Folder of the tables of all courses."""
    error: str | None = None
    """Why these tables were not made."""


def course_result(
    instance: dg.DagsterInstance, site: Site, course: str, error: MqiError | str | None
) -> CourseResult:
    """What came of a course of a run.

    Args:
        instance: Dagster's records.
        site: The installation.
        course: Its key.
        error: Why what was asked for is not made.
    """
    digests = {
        asset: digest for asset in course_job.assets if (digest := latest_digest(instance, asset, course))
    }
    report = made(site, course, COURSE_REPORT, digests.get(COURSE_REPORT))
    return CourseResult(
        course=course,
        status=CaseState.COMPLETE if error is None else CaseState.FAILED,
        error=None if error is None else str(error),
        verdict=verdict_in(report),
        failing=failing_in(report),
        page=page_in(report),
        digests=digests,
    )


def made(site: Site, course: str, asset: str, digest: str | None) -> Published | None:
    """A result as it stands in the store; None where there is none of this digest, or it cannot be read."""
    try:
        return None if digest is None else site.store.find(course, None, asset, digest)
    except StoreError:
        return None


def verdict_in(report: Published | None) -> Verdict | None:
    """The verdict of a course by its quality report; None where it has none."""
    found = quality_in(report)
    return None if found is None else found.overall_status


def failing_in(report: Published | None) -> str | None:
    """What the first check that fails has found; None where none does."""
    found = quality_in(report)
    checks = () if found is None else found.checks
    return next((f"{one.name}: {one.text}" for one in checks if one.verdict is Verdict.FAIL), None)


def quality_in(report: Published | None) -> QcReport | None:
    """The quality report of a course; None where it has none, or it is damaged."""
    if report is None or QC_REPORT not in report.manifest.files:
        return None
    try:
        return read_qc_report(report.path(QC_REPORT))
    except StoreError:
        return None


def page_in(report: Published | None) -> Path | None:
    """The page of a course; None where it has none."""
    pages = [] if report is None else [name for name in report.manifest.files if name.endswith(".html")]
    return None if report is None or not pages else _current(report) / min(pages)


def cohort_folder(instance: dg.DagsterInstance, site: Site) -> Path | None:
    """Where the tables of all courses stand; None where there are none."""
    records = instance.fetch_materializations(dg.AssetKey(COHORT_TABLES), limit=1).records
    tables = made(site, COHORT, COHORT_TABLES, digest_in(records[0])) if records else None
    return None if tables is None else _current(tables)


def _current(published: Published) -> Path:
    """A result's folder under the name that people can type, where it is the current one."""
    link = published.folder.parent / CURRENT
    return link if link.resolve() == published.folder.resolve() else published.folder

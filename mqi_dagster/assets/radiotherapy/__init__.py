"""The way of a course from its DICOM objects to its page and its quality report, one file a station."""

from collections.abc import Iterable, Iterator

import dagster as dg

from mqi_dagster.imaging.quality_control import QcResult, Verdict, checks_of
from mqi_dagster.partitions import COURSE as COURSE_KIND

OWNERS = ["team:medical-physics"]
COURSE = "course"
"""Group of the assets of a course."""
COHORT = "cohort"
"""Group of what is made of all courses."""


def quality_specs(asset: str) -> list[dg.AssetCheckSpec]:
    """The checks of an asset of courses, which the step that makes it evaluates on what it has published."""
    return [
        dg.AssetCheckSpec(
            check.name,
            asset=asset,
            partitions_def=COURSE_KIND.definition,
            blocking=check.blocking,
            description=check.description,
        )
        for check in checks_of(asset)
    ]


def quality_checks(results: Iterable[QcResult]) -> Iterator[dg.AssetCheckResult]:
    """Checks that were evaluated, for Dagster. A warning does not pass there either: people have to look."""
    for one in results:
        severity = dg.AssetCheckSeverity.ERROR if one.verdict is Verdict.FAIL else dg.AssetCheckSeverity.WARN
        yield dg.AssetCheckResult(
            check_name=one.check.name,
            asset_key=one.check.asset,
            passed=one.verdict is Verdict.PASS,
            severity=severity,
            description=f"{one.text}. What to do: {one.advice}" if one.advice else one.text,
        )

"""Whether a course is fit to be used: every check with its verdict, why, and what to do.

The checks are evaluated on what each asset has published, in Dagster as asset checks of that asset, and all of
them together in the report of the course.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mqi_dagster.imaging.dvh_files import CourseDvh
from mqi_dagster.imaging.segmentation_files import CourseSegmentations
from mqi_dagster.imaging.structure_files import CourseStructures


class Verdict(StrEnum):
    """Of a check, and of a course by its worst check."""

    PASS = "PASS"
    WARNING = "WARNING"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """A check of an asset."""

    asset: str
    name: str
    description: str
    """When it passes."""


@dataclass(frozen=True, slots=True)
class QcResult:
    """A check that was evaluated."""

    check: Check
    verdict: Verdict
    text: str
    """What was found; names no patient, path or UID."""
    advice: str
    """What to do; empty where it passes."""


CHECKS: tuple[Check, ...] = (
    Check("auto_segmentation", "models_ran", "Every model that is for the course has made its segmentation."),
    Check("custom_segmentation", "custom_models_ran", "The same of the models of the site."),
    Check("structures", "structures_sound", "No structure is empty, doubled, or outside of the images."),
    Check("dvh", "dvh_coverage", "The dose of every structure is known as a whole."),
)
"""Every check, in the order of the report."""


def checks_of(asset: str) -> list[Check]:
    """The checks of an asset."""
    return [check for check in CHECKS if check.asset == asset]


def worst(results: Iterable[QcResult]) -> Verdict:
    """The verdict of a course."""
    order = list(Verdict)
    return max((one.verdict for one in results), key=order.index, default=Verdict.PASS)


def _passed(asset: str) -> list[QcResult]:
    return [QcResult(check, Verdict.PASS, "stub", "") for check in checks_of(asset)]


def segmentation_quality(asset: str, content: CourseSegmentations) -> Sequence[QcResult]:
    """Checks of automatic and custom segmentations."""
    return _passed(asset)


def structures_quality(content: CourseStructures) -> Sequence[QcResult]:
    """Checks of structures."""
    return _passed("structures")


def dvh_quality(content: CourseDvh) -> Sequence[QcResult]:
    """Checks of dose-volume figures."""
    return _passed("dvh")

"""The dose-volume figures of a course as they stand in the store.

``dvh.json`` says which doses were used and what became of each structure; ``dvh_metrics.parquet`` holds the
figures, a row for each dose and structure, and ``dvh_curves.parquet`` the cumulative curves.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mqi_dagster.courses.dose_rules import DoseRule
from mqi_dagster.errors import StoreError, Where
from mqi_dagster.files import write_whole

RECORD, METRICS, CURVES = "dvh.json", "dvh_metrics.parquet", "dvh_curves.parquet"
CURVE_COLUMNS = ("dose_id", "structure_id", "dose_gy", "volume_cm3", "volume_percent")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DoseUsed(_Part):
    """A total dose of the course: one object, or a sum."""

    dose_id: str
    """Follows from the SOP Instance UIDs (`Pseudonyms.dose`)."""
    label: str
    """For people."""
    dose_uids: tuple[str, ...]
    """Of the RT Doses that it is, or that were summed."""
    plan_uids: tuple[str, ...]
    rule: DoseRule
    """By which it was chosen."""
    summed: bool
    dose_type: str | None
    """DoseType (3004,0004): PHYSICAL or EFFECTIVE; None where the objects do not say it."""
    prescription_gy: float | None
    """Target Prescription Dose of its plan, of several the highest; of several plans their sum."""
    prescription_source: str
    """Where it comes from, or why there is none."""
    frame_of_reference_fits: bool
    """Whether it lies in the Frame of Reference of the planning series: else it gives no figures."""
    spacing_mm: tuple[float, float, float]
    """Between columns, rows and frames."""
    maximum_gy: float


class NotUsedCause(StrEnum):
    """Why a dose gives no figures."""

    RULE = "rule"
    """A rule leaves it out, or none chooses it."""
    UNITS = "units"
    """It is not in gray."""
    DOSE_TYPE = "dose_type"
    """It is no dose of a patient, or of another type than what it would be summed with."""
    UNREADABLE = "unreadable"
    NOT_SUMMED = "not_summed"
    """The doses of a sum do not add up: the sum is not made, and no part stands for it."""
    NO_IMAGES = "no_images"
    """The course has no series on whose grid structures are."""


class DoseNotUsed(_Part):
    """A dose of the course that no figure was taken of."""

    dose_uid: str
    reason: str
    """In words."""
    cause: NotUsedCause = NotUsedCause.RULE


class StructureFigures(_Part):
    """What became of one structure and one dose."""

    dose_id: str
    structure_id: str
    """Of `StructureRecord`."""
    name: str
    status: str
    """`DoseMetricStatus`."""
    coverage_percent: float | None
    cropped: bool
    """Whether the figures are of a part: the analysis region, or the end of the images, cuts it."""
    reason: str = ""
    """Why there are no doses."""


class GoalResult(_Part):
    """A clinical goal of the protocol, judged."""

    dose_id: str
    structure: str
    goal: str
    """As people write it."""
    value: float | None
    unit: str
    verdict: str
    text: str


class CourseDvh(_Part):
    """All of a course."""

    doses: tuple[DoseUsed, ...]
    not_used: tuple[DoseNotUsed, ...]
    figures: tuple[StructureFigures, ...]
    goals: tuple[GoalResult, ...] = ()
    faults: tuple[str, ...] = ()
    """What could not be made, and why."""
    empty_because: str = ""
    """Why nothing was measured; empty where something was."""


def write_dvh(content: CourseDvh, folder: Path) -> None:
    """Write the record; the tables are there already."""
    write_whole(folder / RECORD, content.model_dump_json(indent=1).encode())


def read_dvh(folder: Path) -> CourseDvh:
    """Read the record.

    Raises:
        StoreError: There is none, or it is of another version.
    """
    try:
        return CourseDvh.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError):
        raise StoreError("the dose-volume figures cannot be read", where=Where(kind="dvh")) from None

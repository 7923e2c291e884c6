"""The radiomics of a course as they stand in the store.

``radiomics.parquet`` holds a row for each structure: what it is, what became of it, and its features, each
in the column of its IBSI tag (`columns`), null where there is none. ``radiomics.json`` says how they were
computed, and of each structure why a feature is missing.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mqi_dagster.errors import StoreError, Where
from mqi_dagster.files import write_whole
from mqi_dagster.imaging.radiomics_profile import RadiomicsProfile

RECORD, TABLE = "radiomics.json", "radiomics.parquet"
TEXT_COLUMNS = (
    "course",
    "modality",
    "series",
    "structure_id",
    "segmentation_source",
    "roi_name",
    "roi_original_name",
    "structure_cropped",
    "status",
    "reason",
)
"""Before the features; ``structure_cropped`` is true or false, the others are text."""


class RegionStatus(StrEnum):
    """What became of a structure."""

    COMPUTED = "computed"
    """It has features; single ones may be missing, with a reason in the record."""
    NO_FEATURES = "no features"
    """The profile refuses it: empty, too small after resampling, too thin."""
    LEFT_OUT = "left out"
    """By the settings: its name, or its number of voxels."""
    FAILED = "failed"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StructureRadiomics(_Part):
    """What became of one structure."""

    series: str
    """Pseudonym of its series."""
    structure_id: str
    """Of `StructureRecord`."""
    status: RegionStatus
    reason: str = ""
    """Why it has no features; empty where it has."""
    may_pass: bool = False
    """Whether another run may do better: its process was killed, starved, or took too long."""
    cropped: bool = False
    """Whether a part of it lies beyond the analysis region, and features are of the rest."""
    voxels: int | None = None
    """Of the image, in the mask that features are of; None where it was not read."""
    touches_edge: bool | None = None
    """Whether it reaches the end of the image."""
    resampled_voxels: int | None = None
    resegmented_voxels: int | None = None
    grey_levels: int | None = None
    planes: int | None = None
    """After resampling."""
    planes_left_out: int = 0
    """Of these, planes that are too small for 2D and 2.5D textures."""
    not_computed: dict[str, tuple[str, ...]] = {}
    """Of a region with features, tags that have no value, by reason."""


class SeriesRadiomics(_Part):
    """How the structures on one series were computed."""

    series: str
    modality: str
    profile: RadiomicsProfile
    cropped: bool
    """Whether features are of what lies in the analysis region alone."""
    remarks: tuple[str, ...] = ()
    """In what features are of something else than was asked for."""
    workers: int
    """Processes at once at the beginning."""
    memory_bytes: int | None = None
    """For all of them together; None where nothing was computed."""
    steps: tuple[str, ...] = ()
    """Tries that did not end well, and what was done instead."""
    seconds: float


class CourseRadiomics(_Part):
    """All of a course."""

    enabled: bool
    versions: dict[str, str]
    """Of what has computed them."""
    series: tuple[SeriesRadiomics, ...] = ()
    regions: tuple[StructureRadiomics, ...] = ()

    @property
    def unfinished(self) -> tuple[StructureRadiomics, ...]:
        """Structures of which another run may do better."""
        return tuple(one for one in self.regions if one.may_pass)


def write_radiomics(content: CourseRadiomics, folder: Path) -> None:
    """Write the record; the table is there already."""
    write_whole(folder / RECORD, content.model_dump_json(indent=1).encode())


def read_radiomics(folder: Path) -> CourseRadiomics:
    """Read the record.

    Raises:
        StoreError: There is none, or it is of another version.
    """
    try:
        return CourseRadiomics.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError):
        raise StoreError("the radiomics cannot be read", where=Where(kind="radiomics")) from None

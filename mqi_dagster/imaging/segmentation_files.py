"""The segmentations of a course as they stand in the store: what each model has made of each series.

``segmentations.json`` holds the records; ``<series>/<model>/`` the label map of each and how it was made.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mqi_dagster.errors import StoreError, Where
from mqi_dagster.files import write_whole

SEGMENTATIONS = "segmentations.json"


class SegmentationState(StrEnum):
    """What became of a model and a series."""

    MADE = "made"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    """It is for another modality, or for inputs that the course does not have."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SegmentedRegion(_Part):
    """A region of a label map; codes are PS3.16's."""

    label: int
    includes: tuple[int, ...] = ()
    """Labels of other regions whose voxels are its voxels, too; its figures count them."""
    name: str
    tg263: str | None = None
    """Its name in TG-263, where the model's card gives one."""
    voxels: int
    volume_cm3: float
    plausible_cm3: tuple[float, float] | None = None
    """The range in the model's card; None where it has none."""
    laterality: str | None = None
    code: tuple[str, str, str]
    """Value, Coding Scheme Designator and meaning of the property type."""
    category: tuple[str, str, str]


class Segmentation(_Part):
    """What one model has made of one series."""

    series: str
    """Pseudonym of the series on whose grid the label map is."""
    model: str
    version: str
    state: SegmentationState
    reason: str = ""
    """Why there is none."""
    regions: tuple[SegmentedRegion, ...] = ()
    steps: tuple[str, ...] = ()
    """Tries that did not end well, and what was done instead: in pieces, on the processor."""
    device: str = ""
    program: str = ""
    """What is known of the version of the model's program; empty where it has none."""
    isolated: bool = True
    """Whether nothing that it started could have reached the network."""
    limits: tuple[str, ...] = ()
    """What the model is not valid for."""
    family: str = "Artificial Intelligence"
    """Or ``Rule-based``."""

    @property
    def folder(self) -> str:
        """Of its files, relative to the result."""
        return f"{self.series}/{self.model}"


class CourseSegmentations(_Part):
    """All segmentations of one kind of a course."""

    segmentations: tuple[Segmentation, ...]


def write_segmentations(content: CourseSegmentations, folder: Path) -> None:
    """Write the records; the label maps are there already."""
    write_whole(folder / SEGMENTATIONS, content.model_dump_json(indent=1).encode())


def read_segmentations(folder: Path) -> CourseSegmentations:
    """Read the records.

    Raises:
        StoreError: There are none, or they are of another version.
    """
    try:
        return CourseSegmentations.model_validate_json((folder / SEGMENTATIONS).read_bytes())
    except (OSError, ValidationError):
        raise StoreError("the segmentations cannot be read", where=Where(kind="segmentations")) from None

"""Of which structures radiomics are computed, of which of their voxels, and how.

It is all that a table of features depends on beside the images and the structures themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.imaging.radiomics_profile import (
    PACKAGED_RADIOMICS,
    Aggregation,
    Column,
    Modality,
    RadiomicsProfile,
    columns,
    read_profile,
)
from mqi_dagster.imaging.structure_files import CourseStructures, RegionRecord, StructureRecord
from mqi_dagster.imaging.structure_names import StructureNames
from mqi_dagster.settings.radiotherapy import Radiomics


@dataclass(frozen=True, slots=True)
class RadiomicsChoices:
    """What is computed of a course."""

    profiles: Mapping[Modality, RadiomicsProfile]
    """Of each modality that the course has; of all where it has none."""
    skipped: Mapping[str, str]
    """Structures that are left out by their names: the reason by id."""
    min_voxels: int
    """Structures with fewer voxels of the image are left out."""
    max_voxels: int
    """Structures with more are left out."""
    region: RegionRecord | None
    """The analysis region, where features are of what lies in it alone."""
    no_region: bool = False
    """Whether they are asked to be, and no region was found: they are of whole structures."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of the features of the table: those of any profile."""
        used = {one for profile in self.profiles.values() for one in profile.aggregations}
        return columns(one for one in Aggregation if one in used)

    def for_digest(self, structures: CourseStructures) -> dict[str, object]:
        """What a digest depends on.

        Args:
            structures: Those of the course. Ids name a series by its pseudonym, and names do not.
        """
        region = self.region
        there = [one for one in structures.structures if one.id in self.skipped]
        return {
            "profiles": dict(self.profiles),
            "skipped": sorted([one.name, one.original_name, self.skipped[one.id]] for one in there),
            "voxels": [self.min_voxels, self.max_voxels],
            # By `repr`: a side without a limit is infinite, which canonical JSON does not have.
            "region": None if region is None else repr((region.low_mm, region.high_mm)),
            "no_region": self.no_region,
            "versions": versions(),
        }


def choices(
    settings: Radiomics,
    series: Mapping[str, Modality],
    structures: CourseStructures | None,
    names: StructureNames,
    *,
    cropped: bool,
) -> RadiomicsChoices:
    """What is computed of a course.

    Args:
        settings: Of radiomics.
        series: Modality of each series that is analysed, by its pseudonym.
        structures: Those of the course; None where nothing is computed.
        names: Which names mean the same.
        cropped: Whether features are of what lies in the analysis region alone, if there is one.

    Raises:
        ConfigurationError: A profile cannot be read, or is for another modality.
    """
    files = {Modality.CT: settings.params_file, Modality.MR: settings.mr_params_file}
    wanted = set(series.values()) or set(Modality)
    profiles = {one: _profile(one, files[one]) for one in Modality if one in wanted}
    skipped = {}
    for one in () if structures is None else structures.structures:
        if one.series in series:
            skipped[one.id] = _skipped(one, settings.skip_rois, profiles[series[one.series]], names)
    return RadiomicsChoices(
        profiles=profiles,
        skipped={id_: reason for id_, reason in skipped.items() if reason},
        min_voxels=settings.min_voxels,
        max_voxels=settings.max_voxels,
        region=structures.region if structures is not None and cropped else None,
        no_region=structures is not None and cropped and structures.region is None,
    )


def versions() -> dict[str, str]:
    """Of what computes the features.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return {"z-rad": version("z-rad")}
    except PackageNotFoundError:
        raise ConfigurationError(
            "z-rad, which computes radiomics, is not installed: run `make install-imaging`,"
            " or set radiomics.enabled to false"
        ) from None


def _profile(modality: Modality, file: Path | None) -> RadiomicsProfile:
    found = read_profile(file or PACKAGED_RADIOMICS / f"{modality.lower()}.yaml")
    if found.modality is not modality:
        key = "params_file" if modality is Modality.CT else "mr_params_file"
        raise ConfigurationError(f"radiomics.{key} is a profile for {found.modality}, not for {modality}")
    return found


def _skipped(
    structure: StructureRecord,
    skip_rois: Collection[str],
    profile: RadiomicsProfile,
    names: StructureNames,
) -> str:
    """Why a structure is left out by its name; empty where it is not."""
    own = (structure.name, structure.original_name)
    if any(names.meant_by(one, own) for one in skip_rois):
        return "radiomics.skip_rois names it"
    if any(map(profile.skips, own)):
        return "skip_rois of the profile names it"
    return ""

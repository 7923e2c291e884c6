"""How the features of a region are computed, and which: profiles of radiomics and the table of their columns.

Terms and defaults are those of the Image Biomarker Standardisation Initiative (IBSI), reference manual v11
(arXiv:1612.07003v11).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from mqi_dagster.errors import ConfigurationError, shown
from mqi_dagster.settings.section import Count, Section
from mqi_dagster.yaml_file import read_yaml, validated

PACKAGED_RADIOMICS = Path(__file__).parents[1] / "config" / "radiomics"
"""The profiles of the product (``ct.yaml``, ``mr.yaml``) and the table of columns (``features.yaml``)."""

LEAST_VOXELS = 27
"""What z-rad computes: at least 3 voxels along each axis, and as many as a cube of these has."""
MOST_GREY_LEVELS = 512
"""The work of a co-occurrence matrix grows with the third power of it."""

MOST_IVH_STEPS = 10_000
"""Each is compared with every voxel."""

Millimetres = Annotated[FiniteFloat, Field(gt=0)]
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class Modality(StrEnum):
    """DICOM Modality (0008,0060) of the images that a profile is for."""

    CT = "CT"
    MR = "MR"


class Interpolator(StrEnum):
    """How a value between voxels is found."""

    NEAREST = "nearest"
    LINEAR = "linear"
    CUBIC_SPLINE = "cubic_spline"


class Aggregation(StrEnum):
    """How texture matrices of directions and planes become one number; named as IBSI's tags end."""

    PLANES_AVERAGED = "2D_avg"
    """2D, averaged: a matrix for each plane and direction, features averaged over all."""
    PLANES_MERGED = "2D_comb"
    """2D, slice-merged: the directions of a plane merged, features averaged over planes."""
    VOLUME_OF_PLANES_AVERAGED = "2_5D_avg"
    """2.5D, direction-merged: the planes of a direction merged, features averaged over directions."""
    VOLUME_OF_PLANES_MERGED = "2_5D_comb"
    """2.5D, merged: one matrix."""
    VOLUME_AVERAGED = "3D_avg"
    """3D, averaged: a matrix for each of 13 directions, features averaged."""
    VOLUME_MERGED = "3D_comb"
    """3D, merged: one matrix."""

    @property
    def dimension(self) -> str:
        """2D, 2_5D or 3D: how tags of matrices without directions end."""
        return self.value.rpartition("_")[0]


class Resampling(Section):
    """The voxels that features are computed on (IBSI: interpolation)."""

    voxel_size_mm: tuple[Millimetres | None, Millimetres | None, Millimetres | None]
    """Between planes, rows and columns; null leaves the axis as it is in the image."""
    image_interpolator: Interpolator
    mask_interpolator: Literal[Interpolator.NEAREST, Interpolator.LINEAR]
    mask_threshold: Annotated[FiniteFloat, Field(gt=0, le=1)] = 0.5
    """A voxel is in the region from this part of it on."""
    round_intensities: bool
    """To whole numbers after resampling, as HU are."""


class Resegmentation(Section):
    """Which voxels of the region count for intensities (IBSI: re-segmentation); its shape keeps all."""

    range: tuple[FiniteFloat, FiniteFloat] | None = None
    """Lowest and highest intensity, both included."""
    outlier_sigma: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """Standard deviations from the mean beyond which a voxel is left out, after the range."""

    @model_validator(mode="after")
    def _in_order(self) -> Resegmentation:
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError("range must be a lower and a higher intensity")
        return self


class Bins(Section):
    """Discretisation of intensities: one of the two, never both."""

    bin_size: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """Fixed bin size (FBS), counted from the lower end of the re-segmentation range."""
    number_of_bins: Annotated[int, Field(ge=2)] | None = None
    """Fixed bin number (FBN), from the lowest to the highest intensity of the region."""

    @model_validator(mode="after")
    def _one(self) -> Bins:
        if (self.bin_size is None) == (self.number_of_bins is None):
            raise ValueError("give either bin_size or number_of_bins")
        return self

    def count(self, within: tuple[float, float] | None) -> float:
        """How many there are at most.

        Args:
            within: The re-segmentation range.
        """
        if self.bin_size is None or within is None:
            return float(self.number_of_bins or 0)
        return (within[1] - within[0]) / self.bin_size + 1


class RadiomicsProfile(Section):
    """How the features of regions are computed."""

    modality: Modality
    resampling: Resampling
    resegmentation: Resegmentation = Resegmentation()
    discretisation: Bins
    """For the intensity histogram and all textures."""
    ivh_discretisation: Bins | None = None
    """For the intensity-volume histogram, which IBSI bins apart and finer; null: in steps of 1."""
    aggregations: Annotated[tuple[Aggregation, ...], Field(min_length=1)]
    min_voxels: Count
    """Regions with fewer, after resampling and re-segmentation, have no features."""
    max_voxels: Count
    """Regions with more, in the image or after resampling, or 4 times as many in their box, have none."""
    skip_rois: tuple[str, ...] = ()
    """Names of structures of which nothing is computed; capitals and blanks at the ends do not matter."""

    @model_validator(mode="after")
    def _consistent(self) -> RadiomicsProfile:
        within = self.resegmentation.range
        for name, bins, most in (
            ("discretisation", self.discretisation, MOST_GREY_LEVELS),
            ("ivh_discretisation", self.ivh_discretisation or Bins(bin_size=1), MOST_IVH_STEPS),
        ):
            if bins.bin_size is not None and within is None:
                raise ValueError(f"{name} counts from the lower end of resegmentation.range: give it")
            if bins.count(within) > most:
                raise ValueError(f"{name} makes more than {most:,} grey levels")
        if self.ivh_discretisation is None and not self.resampling.round_intensities:
            raise ValueError("ivh_discretisation is needed where intensities are not rounded")
        if len(set(self.aggregations)) < len(self.aggregations):
            raise ValueError("aggregations names one twice")
        return self

    def skips(self, structure: str) -> bool:
        """Whether nothing shall be computed of a structure of this name."""
        return structure.strip().casefold() in {name.strip().casefold() for name in self.skip_rois}


def read_profile(path: Path) -> RadiomicsProfile:
    """Read one profile.

    Raises:
        ConfigurationError: It is not YAML, lacks a key, has an unknown one, or a value out of range.
    """
    role = f"radiomics profile {shown(path.name)}"
    content = read_yaml(path, role)
    if isinstance(content, dict) and not content.keys().isdisjoint({"imageType", "featureClass", "setting"}):
        raise ConfigurationError(f"{role} is a parameter file of pyradiomics, whose keys mean other things")
    return validated(RadiomicsProfile, content, role)


def profile_named(name: str, folder: Path | None = None) -> RadiomicsProfile:
    """The profile of a name: the site's, or else the product's.

    Args:
        name: Its file's name without ``.yaml``.
        folder: Where the site keeps its own.

    Raises:
        ConfigurationError: There is none, or it is wrong.
    """
    folders = [PACKAGED_RADIOMICS] if folder is None else [folder, PACKAGED_RADIOMICS]
    if _NAME.fullmatch(name) and name != _TABLE.stem:
        for one in folders:
            if (path := one / f"{name}.yaml").is_file():
                return read_profile(path)
    raise ConfigurationError(f"there is no radiomics profile {shown(name)}")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a radiomics table."""

    tag: str
    """IBSI's, with the aggregation: ``morph_volume``, ``cm_joint_max_3D_avg``."""
    identifier: str
    """IBSI's permanent code, for example ``RNU0``."""
    name: str
    family: str
    aggregation: str | None
    unit: str
    pyradiomics: str | None
    """Its column that is equal, or where there is a difference, nearest."""
    difference: str | None
    """Why pyradiomics has no equal column; None where it has."""


class _Feature(Section):
    tag: Annotated[str, Field(pattern=r"[a-z]+_[a-z0-9_]+")]
    identifier: Annotated[str, Field(pattern=r"[0-9A-Z]{4}")]
    name: str
    unit: str
    pyradiomics: Annotated[str, Field(pattern=r"original_[a-z]+_\w+")] | None = None
    differs: str | None = None


class _Family(Section):
    family: str
    name: str
    aggregation: Literal["none", "directions", "planes"]
    """Whether its matrices are of directions and planes, of planes, or it has none."""
    features: tuple[_Feature, ...]


class _Table(Section):
    differences: dict[str, str]
    families: tuple[_Family, ...]

    @model_validator(mode="after")
    def _complete(self) -> _Table:
        for feature in (feature for family in self.families for feature in family.features):
            if feature.differs is None and feature.pyradiomics is None:
                raise ValueError(f"{feature.tag} says neither what it is in pyradiomics nor why it is not")
            if feature.differs is not None and feature.differs not in self.differences:
                raise ValueError(f"{feature.tag} differs by {feature.differs}, which is not explained")
        return self


_TABLE = PACKAGED_RADIOMICS / "features.yaml"
_OTHER_AGGREGATION = "pyradiomics has no such aggregation."


@cache
def _table() -> _Table:
    return _Table.model_validate(read_yaml(_TABLE, "table of radiomics features"))


def columns(aggregations: Iterable[Aggregation] = tuple(Aggregation)) -> tuple[Column, ...]:
    """The columns that a table has, in IBSI's order: family, then aggregation, then feature.

    Args:
        aggregations: Those of a profile; all of them, 482 columns, where none are named.
    """
    wanted = tuple(aggregations)
    return tuple(column for family in _table().families for column in _of_family(family, wanted))


def _of_family(family: _Family, aggregations: tuple[Aggregation, ...]) -> Iterator[Column]:
    endings: dict[str, tuple[str | None, ...]] = {
        "none": (None,),
        "directions": aggregations,
        "planes": tuple(dict.fromkeys(one.dimension for one in aggregations)),
    }
    for ending in endings[family.aggregation]:
        known = ending in (None, Aggregation.VOLUME_AVERAGED, "3D")
        for feature in family.features:
            difference = None if feature.differs is None else _table().differences[feature.differs]
            yield Column(
                tag=feature.tag if ending is None else f"{feature.tag}_{ending}",
                identifier=feature.identifier,
                name=feature.name,
                family=family.family,
                aggregation=None if ending is None else str(ending),
                unit=feature.unit,
                pyradiomics=feature.pyradiomics if known else None,
                difference=difference if known or feature.pyradiomics is None else _OTHER_AGGREGATION,
            )

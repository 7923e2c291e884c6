"""The features of a region, as the Image Biomarker Standardisation Initiative (IBSI) defines them.

They are computed by z-rad (University Hospital Zurich). Its voxels are made here, of the region and its
surroundings alone, but on the grid that IBSI lays over the whole image.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat
from scipy import ndimage
from zrad.exceptions import DataStructureError
from zrad.image import Image
from zrad.preprocessing import (
    IntensityMaskBuilder,
    IVHIntensityDiscretizer,
    Resegmenter,
    RoiData,
    RoiMaskValidator,
    TextureDiscretizer,
)
from zrad.radiomics import Radiomics
from zrad.radiomics.morphology import MorphologicalFeatures

from mqi_dagster.errors import InputError, Where
from mqi_dagster.imaging.radiomics_profile import (
    LEAST_VOXELS,
    Bins,
    Interpolator,
    RadiomicsProfile,
    columns,
)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Voxels = tuple[int, int, int]
Vector = tuple[float, float, float]

_WHERE = Where(kind="radiomics region")

_PEAK_RADIUS_MM = 6.2
"""Of the 1 cm3 sphere of IBSI's local intensity features, the farthest that a feature looks."""
_ROUNDING = 1e-6
"""Parts of a voxel: a region that fills half of one is not to miss the half by rounding."""
_SPLINE_REACH = 12
"""Voxels beyond which a cubic spline forgets: its weights fall by 0.27 a voxel, below 1e-6."""
_BOX_TO_REGION = 4
"""Memory is needed for the box around a region: at most so many times ``max_voxels``; a ball has twice."""
_ORDERS: dict[Interpolator, Literal[0, 1, 3]] = {
    Interpolator.NEAREST: 0,
    Interpolator.LINEAR: 1,
    Interpolator.CUBIC_SPLINE: 3,
}

_ZRAD_AGGREGATIONS = {
    None: ("3D", "AVER"),
    "2D": ("2D", "AVER"),
    "2D_avg": ("2D", "AVER"),
    "2D_comb": ("2D", "SLICE_MERG"),
    "2_5D": ("2.5D", "MERG"),
    "2_5D_avg": ("2.5D", "DIR_MERG"),
    "2_5D_comb": ("2.5D", "MERG"),
    "3D": ("3D", "AVER"),
    "3D_avg": ("3D", "AVER"),
    "3D_comb": ("3D", "MERG"),
}
_ZRAD_UNDEFINED = 1_000_000.0
"""What z-rad gives for a quotient by zero."""
_UNDEFINED = {
    "morph_com": "the intensities of the region add up to 0",
    "morph_area_dens_aee": "two axes of the region are equal, for which IBSI's series is not defined",
    "morph_moran_i": "all voxels have one intensity",
    "morph_geary_c": "all voxels have one intensity",
    "stat_cov": "the mean intensity is 0",
    "stat_qcod": "the quartiles of the intensity add up to 0",
    "ngt_coarseness": "the region, or a plane of it, has no grey level beside another",
}


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A region with as much of its image as its features depend on."""

    image: NDArray[np.float32]
    """Shape (planes, rows, columns): HU, or what an MR has."""
    mask: Mask
    """Which voxels are in the region, same shape."""
    spacing_mm: Vector
    """Between planes, rows and columns."""
    offset: Voxels
    """Where the first voxel lies in the whole image, whose centre is the centre of IBSI's grid."""
    image_shape: Voxels
    """Of the whole image."""

    def __post_init__(self) -> None:
        _shape(self.image)
        if self.mask.shape != self.image.shape or self.mask.dtype != np.bool_:
            raise InputError("the mask must be true or false for each voxel of the image", where=_WHERE)
        if self.image.dtype != np.float32:
            raise InputError(f"intensities must be float32, not {self.image.dtype}", where=_WHERE)
        if not all(math.isfinite(size) and size > 0 for size in self.spacing_mm):
            raise InputError("the spacing of voxels must be above 0 mm along each axis", where=_WHERE)
        ends = zip(self.offset, self.image.shape, self.image_shape, strict=True)
        if any(not 0 <= first <= whole - count for first, count, whole in ends):
            raise InputError("the region lies outside its image", where=_WHERE)


@dataclass(frozen=True, slots=True)
class RegionFacts:
    """What became of a region before features were computed (IBSI: diagnostics); None: not reached."""

    voxels: int
    """In the image."""
    touches_edge: bool
    """Of the image: the region may go on beyond it."""
    resampled_voxels: int | None = None
    resegmented_voxels: int | None = None
    """Voxels whose intensity counts."""
    grey_levels: int | None = None
    """Different ones that are there."""
    planes: int | None = None
    """After resampling."""
    planes_left_out: int = 0
    """Of these, planes that 2D and 2.5D textures do without: less than 3 rows, 3 columns or 9 voxels."""


@dataclass(frozen=True, slots=True)
class RadiomicsResult:
    """The features of a region: each column of the profile is in exactly one of the two mappings."""

    features: Mapping[str, FiniteFloat]
    """Values by tag, in the order of the columns."""
    not_computed: Mapping[str, str]
    """Reasons by tag."""
    facts: RegionFacts
    computed_by: str
    """Library and version."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """The voxels of one axis of IBSI's grid, in units of the image's voxels."""

    size_mm: float
    step: float
    first: float
    """Where the centre of the first one lies."""
    count: int

    def window(self, lowest: int, highest: int) -> tuple[int, int]:
        """The first voxel, and the one after the last, for a region between two indices of the image."""
        margin = math.ceil(_PEAK_RADIUS_MM / self.size_mm)
        start = math.ceil((lowest - 1 - self.first) / self.step) - margin
        stop = math.floor((highest + 1 - self.first) / self.step) + margin + 1
        return max(start, 0), min(stop, self.count)


def _axis(count: int, spacing_mm: float, size_mm: float | None) -> _Axis:
    # IBSI aligns the centres of both grids, and covers all of the image.
    size = spacing_mm if size_mm is None else size_mm
    step = size / spacing_mm
    new = max(math.ceil(count / step - _ROUNDING), 1)
    return _Axis(size, step, ((count - 1) - (new - 1) * step) / 2, new)


def _axes(shape: Voxels, spacing_mm: Vector, profile: RadiomicsProfile) -> tuple[_Axis, ...]:
    sizes = profile.resampling.voxel_size_mm
    return tuple(_axis(*one) for one in zip(shape, spacing_mm, sizes, strict=True))


def _extent(mask: Mask) -> list[tuple[int, int]]:
    """First and last index of a region along each axis."""
    others = ((1, 2), (0, 2), (0, 1))
    found = [np.flatnonzero(mask.any(axis=other)) for other in others]
    return [(int(one[0]), int(one[-1])) for one in found]


def cut_region(
    image: NDArray[np.float32], mask: Mask, spacing_mm: Vector, profile: RadiomicsProfile
) -> Region:
    """What the features of a region depend on, cut out of its image: the same features, in less memory.

    Args:
        image: Intensities, shape (planes, rows, columns).
        mask: The region, same shape.
        spacing_mm: Between planes, rows and columns.
        profile: How features will be computed.

    Raises:
        InputError: Shapes, types or the spacing are not of an image and its region.
    """
    whole = Region(image, mask, spacing_mm, (0, 0, 0), _shape(image))
    box = (slice(0, 1),) * 3
    if mask.any():
        reach = _SPLINE_REACH if profile.resampling.image_interpolator is Interpolator.CUBIC_SPLINE else 1
        axes = _axes(whole.image_shape, spacing_mm, profile)
        box = _box(axes, _extent(mask), reach, whole.image_shape)
    return replace(
        whole,
        image=np.ascontiguousarray(image[box]),
        mask=np.ascontiguousarray(mask[box]),
        offset=(box[0].start, box[1].start, box[2].start),
    )


def _box(
    axes: tuple[_Axis, ...], extent: list[tuple[int, int]], reach: int, shape: Voxels
) -> tuple[slice, slice, slice]:
    ends = []
    for axis, (lowest, highest), count in zip(axes, extent, shape, strict=True):
        start, stop = axis.window(lowest, highest)
        first = math.floor(axis.first + start * axis.step) - reach
        last = math.ceil(axis.first + (stop - 1) * axis.step) + reach
        ends.append(slice(max(min(first, lowest), 0), min(max(last, highest) + 1, count)))
    return ends[0], ends[1], ends[2]


def _shape(image: NDArray[np.float32]) -> Voxels:
    if image.ndim != 3 or 0 in image.shape:
        raise InputError(f"an image has three axes, none empty, not shape {image.shape}", where=_WHERE)
    planes, rows, cols = image.shape
    return planes, rows, cols


def extract_features(
    image: NDArray[np.float32], mask: Mask, spacing_mm: Vector, profile: RadiomicsProfile
) -> RadiomicsResult:
    """The features of a region.

    Args:
        image: Intensities, shape (planes, rows, columns), float32.
        mask: The region, same shape.
        spacing_mm: Between planes, rows and columns.
        profile: How they are computed.

    Returns:
        A value or a reason for each column; a region that is empty, too small, too large or constant is a
        result. The same bits in whatever process.

    Raises:
        InputError: Shapes, types or the spacing are not of an image and its region.
    """
    return region_features(cut_region(image, mask, spacing_mm, profile), profile)


def region_features(region: Region, profile: RadiomicsProfile) -> RadiomicsResult:
    """As :func:`extract_features`, of a region that :func:`cut_region` has cut out."""
    wanted = columns(profile.aggregations)
    prepared = _prepared(region, profile)
    computed_by = f"z-rad {version('z-rad')}"
    if isinstance(prepared, _Refused):
        reasons = {column.tag: prepared.reason for column in wanted}
        return RadiomicsResult({}, reasons, prepared.facts, computed_by)
    roi, facts = prepared
    groups: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for column in wanted:
        groups[column.family, column.aggregation].append(column.tag)
    features: dict[str, float] = {}
    not_computed: dict[str, str] = {}
    for (family, aggregation), tags in groups.items():
        outcome = _family(family, aggregation, roi, facts)
        for tag in tags:
            reason = outcome if isinstance(outcome, str) else _fault(tag, outcome[tag], facts)
            if isinstance(outcome, str) or reason is not None:
                not_computed[tag] = str(reason)
            else:
                features[tag] = float(outcome[tag])
    return RadiomicsResult(features, not_computed, facts, computed_by)


@dataclass(frozen=True, slots=True)
class _Refused:
    """A region of which nothing is computed."""

    facts: RegionFacts
    reason: str


def _prepared(region: Region, profile: RadiomicsProfile) -> tuple[RoiData, RegionFacts] | _Refused:
    """The voxels of a region as z-rad takes them."""
    facts = RegionFacts(int(np.count_nonzero(region.mask)), False)
    if facts.voxels == 0:
        return _Refused(facts, "the region is empty")
    extent = [
        (low + first, high + first)
        for (low, high), first in zip(_extent(region.mask), region.offset, strict=True)
    ]
    ends = zip(extent, region.image_shape, strict=True)
    facts = replace(facts, touches_edge=any(low == 0 or high == count - 1 for (low, high), count in ends))
    if not np.isfinite(region.image).all():
        return _Refused(facts, "the image has values that are no numbers in or around the region")
    axes = _axes(region.image_shape, region.spacing_mm, profile)
    expected = facts.voxels / math.prod(axis.step for axis in axes)
    if (most := max(facts.voxels, round(expected))) > profile.max_voxels:
        return _Refused(facts, f"too many voxels: {most:,}, of at most {profile.max_voxels:,}")
    windows = [axis.window(*ends) for axis, ends in zip(axes, extent, strict=True)]
    around = math.prod(stop - start for start, stop in windows)
    if around > (most := _BOX_TO_REGION * profile.max_voxels):
        return _Refused(facts, f"too wide: {around:,} voxels in and between its parts, of at most {most:,}")
    settings = profile.resampling
    image = _resampled(region, region.image, axes, windows, _ORDERS[settings.image_interpolator])
    if settings.round_intensities:
        image = np.rint(image)
    part = _resampled(region, region.mask, axes, windows, _ORDERS[settings.mask_interpolator])
    mask = part >= settings.mask_threshold - _ROUNDING
    size_mm = np.array([axis.size_mm for axis in axes])
    facts = replace(facts, resampled_voxels=int(np.count_nonzero(mask)))
    if facts.resampled_voxels == 0:
        return _Refused(facts, f"no voxel of {_sizes(size_mm)} mm is in the region")
    return _discretised(image, mask, size_mm, profile, facts)


def _resampled(
    region: Region,
    values: NDArray[np.float32] | Mask,
    axes: tuple[_Axis, ...],
    windows: list[tuple[int, int]],
    order: Literal[0, 1, 3],
) -> Floats:
    starts = [
        axis.first + start * axis.step - offset
        for axis, (start, _), offset in zip(axes, windows, region.offset, strict=True)
    ]
    found: Floats = ndimage.affine_transform(
        values.astype(np.float64),
        np.array([axis.step for axis in axes]),
        offset=starts,
        output_shape=tuple(stop - start for start, stop in windows),
        order=order,
        mode="nearest",
    )
    return found


def _discretised(
    image: Floats, mask: Mask, size_mm: Floats, profile: RadiomicsProfile, facts: RegionFacts
) -> tuple[RoiData, RegionFacts] | _Refused:
    settings = profile.resegmentation
    roi = RoiData(image=_image(image, size_mm), morphological_mask=_image(mask.astype(np.int8), size_mm))
    roi = IntensityMaskBuilder().apply(roi)
    kept = Resegmenter(settings.range, None).apply(roi)
    used = int(np.count_nonzero(~np.isnan(kept.intensity_mask.array)))
    if used and settings.outlier_sigma is not None:
        kept = Resegmenter(settings.range, settings.outlier_sigma).apply(roi)
        used = int(np.count_nonzero(~np.isnan(kept.intensity_mask.array)))
    facts = replace(facts, resegmented_voxels=used)
    least = max(profile.min_voxels, LEAST_VOXELS)
    if used < least:
        return _Refused(
            facts, f"too few voxels after resampling and re-segmentation: {used}, of at least {least}"
        )
    extent = [high - low + 1 for low, high in _extent(mask)]
    if min(extent) < 3:
        planes, rows, cols = extent
        return _Refused(
            facts,
            f"too thin: {planes} x {rows} x {cols} voxels of {_sizes(size_mm)} mm, of at least 3 each",
        )
    roi = TextureDiscretizer(**_bins(profile.discretisation)).apply(kept)
    if (ivh := profile.ivh_discretisation) is None:
        roi = IVHIntensityDiscretizer("direct").apply(roi)
    else:
        method = "fixed_bin_size" if ivh.bin_size is not None else "fixed_bin_number"
        roi = IVHIntensityDiscretizer(method, **_bins(ivh)).apply(roi)
    levels = roi.texture_discretized_image.array
    thick = [plane for plane in mask if plane.any()]
    try:
        left = RoiMaskValidator("2D").apply(roi.morphological_mask).array.any(axis=(1, 2)).sum()
    except DataStructureError:
        left = 0
    return roi, replace(
        facts,
        grey_levels=len(np.unique(levels[~np.isnan(levels)])),
        planes=len(thick),
        planes_left_out=len(thick) - int(left),
    )


def _bins(bins: Bins) -> dict[str, float | int | None]:
    return {"bin_size": bins.bin_size, "number_of_bins": bins.number_of_bins}


def _image(array: NDArray[np.generic], size_mm: Floats) -> Image:
    # z-rad's geometry is SimpleITK's: x, y, z.
    return Image(array, (0.0, 0.0, 0.0), size_mm[::-1].copy(), np.eye(3).ravel(), array.shape[::-1])


def _sizes(size_mm: Floats) -> str:
    return " x ".join(f"{one:g}" for one in size_mm)


class _Morphology(MorphologicalFeatures):  # type: ignore[misc]
    """z-rad's, of which a feature that is undefined takes no other with it."""

    def _calc_centre_of_shift(self, mask_array: Mask, image_array: Floats) -> float:
        try:
            return float(super()._calc_centre_of_shift(mask_array, image_array))
        except ZeroDivisionError:
            return math.nan

    @staticmethod
    def _calc_area_density_aee(*areas_and_axes: float) -> float:
        try:
            return float(MorphologicalFeatures._calc_area_density_aee(*areas_and_axes))
        except DataStructureError:
            return math.nan


def _family(
    family: str, aggregation: str | None, roi: RoiData, facts: RegionFacts
) -> Mapping[str, float] | str:
    """Values by tag, or why there are none."""
    dimension, method = _ZRAD_AGGREGATIONS[aggregation]
    try:
        with np.errstate(all="ignore"):
            if family == "morphology":
                spacing = roi.morphological_mask.spacing[::-1]
                mask, intensities = roi.morphological_mask.array, roi.intensity_mask.array
                return dict(_Morphology(spacing).calculate_features(mask, intensities))
            return dict(Radiomics(dimension, method).extract_features(roi, families=family))
    except DataStructureError as error:
        found = "the region has one grey level only: " if facts.grey_levels == 1 else ""
        return f"{found}z-rad: {str(error).strip()}"
    except ValueError:
        # NumPy's, for the least of no intensity: z-rad looks for one that at most 10 % of the voxels reach.
        if family != "ivh":
            raise
        return "more than 10 % of the voxels have the highest intensity"


def _fault(tag: str, value: float, facts: RegionFacts) -> str | None:
    """Why a value is none."""
    quotient = tag.startswith("ngt_coarseness") or tag.endswith(("_cov", "_qcod"))
    # The mean over planes of which one is undefined holds its share of the number that stands for that.
    planes = (facts.planes or 1) if tag.endswith("_2D") else 1
    if math.isfinite(value) and not (quotient and value >= _ZRAD_UNDEFINED / planes):
        return None
    known = (reason for start, reason in _UNDEFINED.items() if tag.startswith(start))
    return next(known, "its value is not a finite number")

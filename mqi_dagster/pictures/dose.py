"""Depth dose, lateral profiles and slices of a dose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray

from mqi_dagster.pictures.style import (
    BAR_IN,
    BEAM_X_OR_Y,
    DELIVERED,
    DEPTH,
    DOSE_MAP,
    INK,
    PLANNED,
    SECOND,
    as_png,
    colour_bar,
    dicom_axis,
    dress,
    legend,
    new_figure,
)

Floats = NDArray[np.float64]

_PIXELS_AT_MOST = 130
"""More voxels than this along a side are averaged."""
_SHOWN_ABOVE = 0.02
"""Slices are cut to where the dose is above this part of its maximum."""
_AROUND_MM = 15.0


class SlicedDose(Protocol):
    """What `dose_slices` needs of a dose grid."""

    @property
    def values(self) -> Floats:
        """Shape (frames, rows, columns)."""

    @property
    def units(self) -> str:
        """``GY`` or ``RELATIVE``."""

    def axis(self, dimension: int) -> tuple[str, Floats]:
        """Name and coordinates [mm] of a dimension of ``values``."""


def depth_dose(depth_mm: ArrayLike, dose: ArrayLike, units: str, r80_mm: float | None) -> bytes:
    """The depth dose with its range.

    Args:
        depth_mm: Depth in water [mm].
        dose: Dose integrated across the beam; shown relative to its maximum.
        units: Units of the dose, ``GY`` or ``RELATIVE``, named with the maximum.
        r80_mm: Distal 80 % depth, if there is one [mm].

    Returns:
        PNG.
    """
    depth, curve = np.asarray(depth_mm, dtype=float), np.asarray(dose, dtype=float)
    greatest = float(curve.max())
    figure = new_figure(6.6, 3.8)
    axes = figure.add_subplot()
    axes.fill_between(depth, 100.0 * curve / greatest, color=DELIVERED, alpha=0.12, linewidth=0)
    axes.plot(depth, 100.0 * curve / greatest, color=DELIVERED, linewidth=1.6)
    reach = float(depth[-1])
    if r80_mm is not None:
        axes.plot([r80_mm, r80_mm], [0.0, 80.0], color=PLANNED, linewidth=1.0, linestyle="--")
        axes.plot([r80_mm], [80.0], "o", color=PLANNED, markersize=5)
        axes.annotate(
            f"R80 = {r80_mm:.1f} mm", (r80_mm, 80.0), xytext=(8, 0), textcoords="offset points",
            va="center", fontsize=9, color=INK,
        )  # fmt: skip
        reach = min(reach, 1.35 * r80_mm + 10.0)
    axes.set_xlim(0.0, reach)
    axes.set_ylim(0.0, 108.0)
    dress(axes, "Depth dose", DEPTH, "integral dose [% of maximum]")
    axes.set_title(f"maximum {greatest:.4g} {_integral_unit(units)}", fontsize=8, color=INK, loc="right")
    return as_png(figure)


def lateral_profiles(
    x_mm: ArrayLike,
    along_x: ArrayLike,
    y_mm: ArrayLike,
    along_y: ArrayLike,
    *,
    units: str,
    depth_mm: float | None,
) -> bytes:
    """The dose along two lines across the beam.

    Args:
        x_mm: Plan x of the first line [mm].
        along_x: Dose on it.
        y_mm: Plan y of the second line [mm].
        along_y: Dose on it.
        units: ``GY`` or ``RELATIVE``.
        depth_mm: Depth in water of the lines, if it is known [mm].

    Returns:
        PNG.
    """
    figure = new_figure(6.6, 3.8)
    axes = figure.add_subplot()
    greatest = 0.0
    ends = [0.0]
    for place, dose, colour, style, label in (
        (x_mm, along_x, DELIVERED, "-", "along beam x"),
        (y_mm, along_y, SECOND, "--", "along beam y"),
    ):
        where, curve = np.asarray(place, dtype=float), np.asarray(dose, dtype=float)
        axes.plot(where, curve, style, color=colour, linewidth=1.6, label=label)
        greatest = max(greatest, float(curve.max()))
        ends += list(np.abs(where[curve > _SHOWN_ABOVE * curve.max()]))
    reach = max(ends) + _AROUND_MM
    axes.set_xlim(-reach, reach)
    axes.set_ylim(0.0, 1.08 * greatest if greatest > 0.0 else 1.0)
    title = "Lateral profiles" if depth_mm is None else f"Lateral profiles, {depth_mm:g} mm deep"
    dress(axes, title, BEAM_X_OR_Y, f"dose [{unit_name(units)}]")
    legend(axes, "lower right", (1.0, 1.0))
    return as_png(figure)


def dose_slices(grid: SlicedDose) -> bytes:
    """The three slices through the voxel of greatest dose; a single plane is shown alone.

    Args:
        grid: The dose.

    Returns:
        PNG.
    """
    values = np.asarray(grid.values, dtype=float)
    centre = np.unravel_index(int(np.argmax(values)), values.shape)
    greatest = float(values[centre])
    # Two passes over the voxels give the greatest dose along each axis.
    seen_along_frames, seen_along_columns = values.max(axis=0), values.max(axis=2)
    greatest_of = (
        seen_along_columns.max(axis=1),
        seen_along_frames.max(axis=1),
        seen_along_frames.max(axis=0),
    )
    axes_of = [
        _cut_axis(grid, dimension, line > _SHOWN_ABOVE * greatest)
        for dimension, line in enumerate(greatest_of)
    ]
    cuts = [0] if values.shape[0] == 1 else [0, 2, 1]
    figure = new_figure(3.3 * len(cuts) + 1.0, 3.6, right_in=BAR_IN)
    panels = np.atleast_1d(figure.subplots(1, len(cuts), gridspec_kw={"wspace": 0.3}))
    images = []
    for axes, cut in zip(panels, cuts, strict=True):
        vertical, horizontal = (axes_of[dimension] for dimension in range(3) if dimension != cut)
        part = values.take(int(centre[cut]), axis=cut)[vertical.kept, horizontal.kept]
        images.append(_draw_slice(axes, part, vertical, horizontal, greatest))
        name, steps = grid.axis(cut)
        axes.set_title(f"DICOM {name} = {steps[centre[cut]]:.1f} mm", fontsize=9, color=INK, loc="left")
    colour_bar(figure, images[0], f"dose [{unit_name(grid.units)}]")
    return as_png(figure)


def unit_name(units: str) -> str:
    """DICOM Dose Units as an axis names them."""
    return {"GY": "Gy", "RELATIVE": "relative"}[units]


def _integral_unit(units: str) -> str:
    return {"GY": "Gy mm²", "RELATIVE": "(relative)"}[units]


@dataclass(frozen=True, slots=True)
class _CutAxis:
    """A dimension of a dose, cut to where there is dose."""

    name: str
    kept: slice
    first_mm: float
    """Outer edge of the first kept voxel."""
    last_mm: float
    """Outer edge of the last kept voxel."""


def _cut_axis(grid: SlicedDose, dimension: int, dosed: NDArray[np.bool_]) -> _CutAxis:
    name, steps = grid.axis(dimension)
    step = float(steps[1] - steps[0]) if len(steps) > 1 else 1.0
    where = np.flatnonzero(dosed)
    around = int(np.ceil(_AROUND_MM / abs(step)))
    first, last = max(int(where[0]) - around, 0), min(int(where[-1]) + around, len(steps) - 1)
    return _CutAxis(
        name, slice(first, last + 1), float(steps[first]) - step / 2, float(steps[last]) + step / 2
    )


def _draw_slice(
    axes: Axes, values: Floats, vertical: _CutAxis, horizontal: _CutAxis, greatest: float
) -> AxesImage:
    """One slice to scale; DICOM y points down, as in every viewer."""
    image = axes.imshow(
        _averaged(_averaged(values, 0), 1),
        cmap=DOSE_MAP,
        vmin=0.0,
        vmax=greatest,
        origin="lower",
        extent=(horizontal.first_mm, horizontal.last_mm, vertical.first_mm, vertical.last_mm),
        interpolation="nearest",
    )
    if vertical.name == "y":
        axes.invert_yaxis()
    dress(axes, "", dicom_axis(horizontal.name), dicom_axis(vertical.name))
    axes.grid(visible=False)
    return image


def _averaged(values: Floats, axis: int) -> Floats:
    """Means of as many neighbours along an axis as bring it to the size of a picture."""
    length = values.shape[axis]
    together = -(-length // _PIXELS_AT_MOST)
    starts = np.arange(0, length, together)
    counts = np.diff(np.append(starts, length))
    sums = np.add.reduceat(values, starts, axis=axis)
    means: Floats = sums / (counts if axis == 1 else counts[:, np.newaxis])
    return means

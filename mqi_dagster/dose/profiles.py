"""What a physicist reads from a phantom dose: depth dose, range, lateral profiles, spot positions.

In a phantom the beam travels along DICOM +y; plan x is DICOM x and plan y is DICOM z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mqi_dagster.dose.grid import DoseFrame, DoseGrid, Floats
from mqi_dagster.errors import DoseError, Where

_WHERE = Where(kind="dose profile")


@dataclass(frozen=True, slots=True, eq=False)
class DepthDose:
    """Dose over depth in water, integrated across the beam."""

    depth_mm: Floats
    """Depth of the voxel centres below the water surface, ascending [mm]."""
    dose: Floats
    """Integral over the plane across the beam [dose unit x mm2]."""


@dataclass(frozen=True, slots=True, eq=False)
class LateralPlane:
    """Dose across the beam at one depth."""

    x_mm: Floats
    """Plan x = DICOM x, ascending [mm]."""
    y_mm: Floats
    """Plan y = DICOM z, ascending [mm]."""
    dose: Floats
    """Shape (len(y_mm), len(x_mm))."""


@dataclass(frozen=True, slots=True, eq=False)
class LateralProfiles:
    """Two lines across the beam through one point."""

    x_mm: Floats
    along_x: Floats
    y_mm: Floats
    along_y: Floats


def integral_depth_dose(grid: DoseGrid, water_surface_y_mm: float) -> DepthDose:
    """Dose over depth, summed across the beam.

    Args:
        grid: A phantom dose with more than one plane along the beam.
        water_surface_y_mm: DICOM y of the water surface [mm]; voxels before it are left out.

    Raises:
        DoseError: The grid is no phantom's, or has no depth.
    """
    values, x, y, z = _lateral_by_depth(grid)
    if len(y) < 2:
        raise DoseError("a single plane has no depth dose", where=_WHERE)
    inside = y > water_surface_y_mm
    if not np.any(inside):
        raise DoseError("the grid ends before the water surface", where=_WHERE)
    area_mm2 = _step(x, grid.column_spacing_mm) * _step(z, grid.frame_spacing_mm)
    return DepthDose(y[inside] - water_surface_y_mm, values.sum(axis=(1, 2))[inside] * area_mm2)


def distal_depth_mm(curve: DepthDose, fraction: float = 0.8) -> float:
    """Depth behind the maximum where the dose has fallen to a fraction of it, linearly interpolated.

    With ``fraction`` 0.8 this is R80, which for a narrow energy spread is the mean range of the protons.

    Raises:
        DoseError: The dose is zero, or does not fall that far within the grid.
    """
    level = fraction * float(curve.dose.max())
    if level <= 0.0:
        raise DoseError("the depth dose is zero everywhere", where=_WHERE)
    last = int(np.flatnonzero(curve.dose >= level)[-1])
    if last == len(curve.dose) - 1:
        raise DoseError(f"the depth dose does not fall to {fraction:.0%} within the grid", where=_WHERE)
    before, behind = curve.dose[last], curve.dose[last + 1]
    part = (before - level) / (before - behind)
    return float(curve.depth_mm[last] + part * (curve.depth_mm[last + 1] - curve.depth_mm[last]))


def r80_mm(grid: DoseGrid, water_surface_y_mm: float) -> float:
    """Distal 80 % depth in water of a phantom dose [mm]; see `distal_depth_mm`."""
    return distal_depth_mm(integral_depth_dose(grid, water_surface_y_mm), 0.8)


def lateral_plane(grid: DoseGrid, depth_mm: float, water_surface_y_mm: float) -> LateralPlane:
    """The dose across the beam at a depth, linearly interpolated between voxel planes.

    A grid that is a single plane is taken as it is, if the depth lies within its thickness.

    Raises:
        DoseError: The grid is no phantom's, or does not reach the depth.
    """
    values, x, y, z = _lateral_by_depth(grid)
    wanted = water_surface_y_mm + depth_mm
    thickness = grid.frame_spacing_mm if grid.is_plane else grid.row_spacing_mm
    if wanted < y[0] - thickness / 2 or wanted > y[-1] + thickness / 2:
        raise DoseError(f"the grid does not reach a depth of {depth_mm:g} mm", where=_WHERE)
    index = float(np.interp(wanted, y, np.arange(len(y), dtype=np.float64)))
    lower = int(index)
    upper = min(lower + 1, len(y) - 1)
    part = index - lower
    return LateralPlane(x, z, (1.0 - part) * values[lower] + part * values[upper])


def lateral_profiles(plane: LateralPlane) -> LateralProfiles:
    """The lines along x and y through the voxel of greatest dose.

    Args:
        plane: Dose across the beam.
    """
    row, column = np.unravel_index(int(np.argmax(plane.dose)), plane.dose.shape)
    return LateralProfiles(plane.x_mm, plane.dose[row], plane.y_mm, plane.dose[:, column])


def _lateral_by_depth(grid: DoseGrid) -> tuple[Floats, Floats, Floats, Floats]:
    """Values with axes (y, z, x), and the coordinates x, y, z, all ascending."""
    if grid.frame is not DoseFrame.PHANTOM:
        raise DoseError("depth profiles are taken of phantom doses only", where=_WHERE)
    named = {name: (dimension, steps) for dimension in range(3) for name, steps in [grid.axis(dimension)]}
    values = grid.values.transpose(*(named[name][0] for name in "yzx"))
    ordered = []
    for position, name in enumerate("yzx"):
        steps = named[name][1]
        if len(steps) > 1 and steps[1] < steps[0]:
            values, steps = np.flip(values, position), steps[::-1]
        ordered.append(steps)
    y, z, x = ordered
    return values, x, y, z


def _step(steps: Floats, single: float) -> float:
    """Distance of neighbouring coordinates; ``single`` where there is but one."""
    return float(steps[1] - steps[0]) if len(steps) > 1 else single

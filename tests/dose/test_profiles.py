"""Ranges and spot positions of doses whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from mqi_dagster.dose.grid import DoseUnits, from_patient, from_phantom, plane_from_phantom
from mqi_dagster.dose.profiles import (
    DepthDose,
    distal_depth_mm,
    integral_depth_dose,
    lateral_plane,
    lateral_profiles,
    r80_mm,
)
from mqi_dagster.errors import DoseError


def spots_at_depth(centres: list[tuple[float, float]], depth_scale: np.ndarray) -> np.ndarray:
    """Gaussian spots of 4 mm in an engine array of 81 x 81 columns of 2 mm, -80 .. 80 mm."""
    x = np.arange(-80.0, 81.0, 2.0)
    lateral = sum(
        np.exp(-((x - cx) ** 2)[None, :] / 32.0 - ((x - cy) ** 2)[:, None] / 32.0) for cx, cy in centres
    )
    return depth_scale[:, None, None] * lateral


def test_r80_is_interpolated_linearly_behind_the_maximum() -> None:
    curve = DepthDose(np.array([1.0, 3.0, 5.0, 7.0, 9.0]), np.array([0.5, 0.82, 1.0, 0.9, 0.4]))
    # 0.8 lies a fifth of the way from 0.9 at 7 mm to 0.4 at 9 mm.
    assert distal_depth_mm(curve) == pytest.approx(7.4, abs=1e-12)
    assert distal_depth_mm(curve, 0.5) == pytest.approx(8.6, abs=1e-12)


def test_a_dip_within_the_peak_does_not_end_the_range() -> None:
    curve = DepthDose(np.arange(6.0), np.array([0.5, 1.0, 0.7, 0.95, 0.6, 0.0]))
    assert distal_depth_mm(curve) == pytest.approx(3.0 + 0.15 / 0.35, abs=1e-12)


def test_a_dose_that_reaches_the_end_of_the_grid_has_no_range() -> None:
    with pytest.raises(DoseError, match="does not fall to 80%"):
        distal_depth_mm(DepthDose(np.arange(3.0), np.array([0.5, 0.9, 1.0])))


def test_depth_counts_from_the_water_surface_along_the_beam() -> None:
    # Planes at engine z = 29, 27, ... : the surface at z = +20 is DICOM y = -20; dose stops behind z = -31.
    z = np.arange(-59.0, 30.0, 2.0)
    along = np.where(z > 20, 0.01, np.where(z >= -31.0, 1.0, 0.0))
    grid = from_phantom(spots_at_depth([(0, 0)], along), (-80.0, -80.0, -59.0), (2.0, 2.0, 2.0), DoseUnits.GY)
    curve = integral_depth_dose(grid, -20.0)
    assert curve.depth_mm[0] == 1.0
    assert curve.depth_mm[-1] == 79.0
    # Integral of a Gaussian of sigma 4 mm: 2 pi 16.
    assert curve.dose[0] == pytest.approx(2 * np.pi * 16.0, rel=1e-6)
    # From 1 at z = -31 (51 mm deep) to 0 at 53 mm: 80 % after 0.4 mm.
    assert r80_mm(grid, -20.0) == pytest.approx(51.4, abs=1e-9)


def test_spots_are_found_at_plan_x_and_y() -> None:
    centres = [(-31.3, 12.7), (0.4, -0.2), (40.0, -25.5)]
    grid = from_phantom(
        spots_at_depth(centres, np.array([0.2, 1.0, 0.6])),
        (-80.0, -80.0, -4.0),
        (2.0, 2.0, 4.0),
        DoseUnits.GY,
    )
    plane = lateral_plane(grid, 20.0, -20.0)
    assert plane.dose.max() == pytest.approx(1.0, abs=0.05)
    for x, y in centres:
        # The others are 30 mm away, and a spot is 4 mm wide.
        near = plane.dose * (np.abs(plane.x_mm - x) < 15) * (np.abs(plane.y_mm - y) < 15)[:, np.newaxis]
        found = near.sum(axis=0) @ plane.x_mm / near.sum(), near.sum(axis=1) @ plane.y_mm / near.sum()
        assert found == pytest.approx((x, y), abs=0.05)


def test_a_plane_between_two_voxels_is_their_mean() -> None:
    grid = from_phantom(
        spots_at_depth([(0, 0)], np.array([0.2, 1.0, 0.6])), (-80, -80, -4), (2, 2, 4), DoseUnits.GY
    )
    # Engine z = 2 (between 0 and 4) is DICOM y = -2, 18 mm below a surface at y = -20.
    assert lateral_plane(grid, 18.0, -20.0).dose.max() == pytest.approx(0.8, abs=1e-12)


def test_the_scored_plane_gives_the_same_profiles() -> None:
    plane = lateral_plane(
        plane_from_phantom(spots_at_depth([(10, -20)], np.ones(1)), (-80, -80, 0), (2, 2, 2), DoseUnits.GY),
        20.0,
        -20.0,
    )
    profiles = lateral_profiles(plane)
    assert profiles.x_mm[np.argmax(profiles.along_x)] == 10.0
    assert profiles.y_mm[np.argmax(profiles.along_y)] == -20.0
    # Two voxels of 2 mm further is one sigma.
    assert profiles.along_y[np.argmax(profiles.along_y) + 2] == pytest.approx(np.exp(-0.5), rel=1e-9)


def test_a_depth_beyond_the_grid_is_refused() -> None:
    grid = plane_from_phantom(np.ones((1, 4, 4)), (0, 0, 0), (2, 2, 2), DoseUnits.GY)
    with pytest.raises(DoseError, match="does not reach"):
        lateral_plane(grid, 30.0, -20.0)


def test_a_patient_dose_has_no_depth_profile() -> None:
    grid = from_patient(np.ones((4, 4, 4)), (0, 0, 0), (2, 2, 2), DoseUnits.GY)
    with pytest.raises(DoseError, match="phantom"):
        integral_depth_dose(grid, -20.0)

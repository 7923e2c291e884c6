"""Dose-volume figures of bodies and doses that a formula describes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from mqi_dagster.dose.grid import ALONG_X, ALONG_Y, ALONG_Z, DoseFrame, DoseGrid, DoseUnits
from mqi_dagster.imaging.contours import contours_on
from mqi_dagster.imaging.dvh import Dvh, dose_volume
from tests.imaging.shapes import axial_grid, rectangle, sphere

RADIUS = 20.0
FIVE_PERCENT_HEIGHT, TWO_PERCENT_HEIGHT = -0.729299, 0.831925
"""Height over the centre, in radii, below which 5 % and 98 % of a sphere are: (2 + 3h − h³) / 4."""


def dose_of(function: object, spacing_mm: float, half_mm: float = 40.0, shift: float = 0.37) -> DoseGrid:
    """A dose by a formula of x, y, z, on a grid that does not lie on that of the images."""
    first = -half_mm + shift * spacing_mm
    axis = first + spacing_mm * np.arange(round(2 * half_mm / spacing_mm))
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return DoseGrid(
        function(x, y, z),  # type: ignore[operator]
        (first, first, first), ALONG_X, ALONG_Y, ALONG_Z, spacing_mm, spacing_mm, spacing_mm,
        DoseFrame.PATIENT, DoseUnits.GY,
    )  # fmt: skip


def of_sphere(plane_mm: float, offset: float, dose: DoseGrid) -> Dvh:
    grid = axial_grid(plane_mm, first_z=-30 * plane_mm + offset * plane_mm)
    return dose_volume(contours_on(grid, sphere(grid, RADIUS)).layers(), grid, dose)


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 0, 1), (1, 1, 1)])
@pytest.mark.parametrize("offset", [0.0, 0.3, 0.5, 0.77])
@pytest.mark.parametrize("spacing_mm", [1.0, 2.0, 3.0])
def test_a_sphere_in_a_gradient(spacing_mm: float, offset: float, direction: Sequence[int]) -> None:
    a, b, c = np.array(direction) / np.linalg.norm(direction)
    dose = dose_of(lambda x, y, z: 30 + 0.5 * (a * x + b * y + c * z), spacing_mm)
    dvh = of_sphere(spacing_mm, offset, dose)
    assert dvh.volume_cm3 == pytest.approx(33.5103, rel=0.002)
    assert dvh.covered_cm3 == pytest.approx(dvh.volume_cm3, rel=1e-9)
    assert dvh.mean == pytest.approx(30.0, rel=0.0005)
    assert dvh.dose_at_percent(95) == pytest.approx(30 + 10 * FIVE_PERCENT_HEIGHT, rel=0.002)
    assert dvh.dose_at_percent(2) == pytest.approx(30 + 10 * TWO_PERCENT_HEIGHT, rel=0.002)
    assert dvh.dose_at_percent(50) == pytest.approx(30.0, rel=0.002)
    assert dvh.volume_at(30.0) == pytest.approx(33.5103 / 2, rel=0.002)
    assert dvh.maximum == pytest.approx(40.0, abs=0.3)
    assert dvh.minimum == pytest.approx(20.0, abs=0.3)


def test_a_gaussian_in_a_sphere() -> None:
    # The mean of exp(-r²/2s²) in a sphere, by the integral over shells.
    dose = dose_of(lambda x, y, z: 60 * np.exp(-(x * x + y * y + z * z) / 800.0), 0.5, half_mm=24.0)
    t = RADIUS / math.sqrt(800.0)
    shells = math.sqrt(math.pi) / 4 * math.erf(t) - t * math.exp(-t * t) / 2
    dvh = of_sphere(2.0, 0.3, dose)
    assert dvh.mean == pytest.approx(60 * 3 * shells / t**3, rel=0.0005)
    assert dvh.integral == pytest.approx(dvh.mean * 33.5103, rel=0.002)


def boxes() -> Dvh:
    """A box of 12 cm³, half of it at 50 Gy and half at 60 Gy."""
    grid = axial_grid(2.0)
    polygons = [rectangle((-10, -10), (10, 10), z) for z in (-15.0, -13.0, -11.0, -9.0, -7.0)]
    polygons += [rectangle((-10, -10), (10, 10), z) for z in (-5.0, -3.0, -1.0, 1.0, 3.0)]
    polygons += [rectangle((-10, -10), (10, 10), z) for z in (5.0, 7.0, 9.0, 11.0, 13.0)]
    dose = dose_of(lambda x, y, z: np.where(x < 0, 50.0, 60.0), 0.5, half_mm=20.0, shift=0.5)
    return dose_volume(contours_on(grid, polygons).layers(), grid, dose)


def test_plateaus_stay_plateaus() -> None:
    dvh = boxes()
    assert dvh.volume_cm3 == pytest.approx(12.0, rel=1e-3)
    doses = [dvh.dose_at_percent(percent) for percent in (1, 40, 60, 95, 100)]
    assert doses == pytest.approx([60.0, 60.0, 50.0, 50.0, 50.0], rel=1e-9)
    assert dvh.volume_at(50.0) == pytest.approx(12.0, rel=1e-3)
    assert dvh.volume_at(60.0) == pytest.approx(6.0, rel=0.03)
    assert dvh.volume_at(60.1) == 0.0
    assert dvh.dose_at_cm3(1.0) == pytest.approx(60.0)
    assert dvh.dose_at_cm3(99.0) == pytest.approx(50.0)


def test_the_curve_falls_from_the_whole_volume_to_nothing() -> None:
    levels, volumes = boxes().curve(step=10.0)
    assert levels[:7].tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert volumes[:6].tolist() == pytest.approx([12.0] * 6, rel=1e-3)
    assert volumes[6] == pytest.approx(6.0, rel=0.03)


def test_what_lies_outside_of_the_dose_is_no_part_of_any_figure_but_the_volume() -> None:
    # The dose ends at x = 0: the half behind it has no known dose.
    grid = axial_grid(2.0)
    dose = dose_of(lambda x, y, z: np.full_like(x, 7.0), 2.0)
    dose = DoseGrid(
        dose.values[:, :, :20], (-40.0, *dose.origin_mm[1:]), ALONG_X, ALONG_Y, ALONG_Z, 2.0, 2.0, 2.0,
        DoseFrame.PATIENT, DoseUnits.GY,
    )  # fmt: skip
    dvh = dose_volume(contours_on(grid, sphere(grid, 15.0)).layers(), grid, dose)
    assert dvh.volume_cm3 == pytest.approx(14.137, rel=0.002)
    # The last voxel is centred at -2 mm and reaches to -1 mm: (2 − 3h + h³) / 4 with h = 1/15.
    assert dvh.covered_cm3 == pytest.approx(14.137 * 0.450074, rel=0.005)
    assert (dvh.mean, dvh.minimum, dvh.maximum) == pytest.approx((7.0, 7.0, 7.0))


def test_a_structure_beside_the_dose_has_a_volume_and_no_dose() -> None:
    grid = axial_grid(2.0)
    dose = dose_of(lambda x, y, z: np.ones_like(x), 2.0, half_mm=5.0)
    far = [rectangle((20, 20), (30, 30), z) for z in (-1.0, 1.0)]
    dvh = dose_volume(contours_on(grid, far).layers(), grid, dose)
    assert dvh.volume_cm3 == pytest.approx(0.4, rel=1e-3)
    assert dvh.covered_cm3 == 0.0


def test_the_same_figures_twice() -> None:
    dose = dose_of(lambda x, y, z: 30 + 0.5 * x, 2.0)
    first, second = of_sphere(2.0, 0.3, dose), of_sphere(2.0, 0.3, dose)
    assert np.array_equal(first.doses, second.doses)
    assert np.array_equal(first.volumes_cm3, second.volumes_cm3)

"""Dose-volume figures of bodies and doses that a formula describes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from mqi_dagster.dose.grid import ALONG_X, ALONG_Y, ALONG_Z, DoseFrame, DoseGrid, DoseUnits
from mqi_dagster.errors import DoseError
from mqi_dagster.imaging.contours import Layer, contours_on
from mqi_dagster.imaging.dvh import Dvh, dose_volume
from mqi_dagster.imaging.image_grid import ImageGrid
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


def test_no_axis_is_taken_for_another() -> None:
    # An ellipsoid beside the middle of tilted images with three spacings, in a dose with three others whose
    # gradient has three different components, and whose frames run from head to foot.
    tilt = np.radians(15.0)
    along_row, along_column = np.array([1.0, 0, 0]), np.array([0.0, np.cos(tilt), np.sin(tilt)])
    normal = np.cross(along_row, along_column)
    corner = np.array([-40.0, -35.0, -30.0])
    grid = ImageGrid(
        (40, 80, 90), (-40.0, -35.0, -30.0), tuple(along_row), tuple(along_column), tuple(normal),  # type: ignore[arg-type]
        (2.5, 0.9, 1.1), "1.2",
    )  # fmt: skip
    middle = corner + 50 * along_row + 30 * along_column + 48 * normal
    polygons = []
    for plane in range(40):
        away = (plane * 2.5 - 48.0) / 20.0
        if abs(away) < 1:
            angles = np.linspace(0, 2 * math.pi, 360, endpoint=False)
            size = math.sqrt(1 - away * away)
            u, v = 25 * size * np.cos(angles), 12 * size * np.sin(angles)
            centre = middle + away * 20.0 * normal
            polygons.append(centre + u[:, None] * along_row + v[:, None] * along_column)
    gradient = np.array([0.3, -0.7, 0.5])
    axes = [
        low + step * np.arange(count) for low, step, count in ((-60, 2.0, 80), (-60, 3.0, 50), (-60, 2.5, 70))
    ]
    x, y, z = (axis for axis in axes)
    values = 50 + sum(
        slope * (axis.reshape(shape) - at)
        for slope, axis, shape, at in zip(
            gradient, (x, y, z[::-1]), ((1, 1, -1), (1, -1, 1), (-1, 1, 1)), middle, strict=True
        )
    )
    dose = DoseGrid(
        values, (x[0], y[0], z[-1]), ALONG_X, ALONG_Y, (0.0, 0.0, -1.0), 2.0, 3.0, 2.5,
        DoseFrame.PATIENT, DoseUnits.GY,
    )  # fmt: skip
    dvh = dose_volume(contours_on(grid, polygons).layers(), grid, dose)
    assert dvh.volume_cm3 == pytest.approx(4 / 3 * math.pi * 25 * 12 * 20 / 1000, rel=0.002)
    assert dvh.covered_cm3 == pytest.approx(dvh.volume_cm3)
    assert dvh.mean == pytest.approx(50.0, rel=0.0005)
    # Along the gradient an ellipsoid is a sphere whose radius is that of its support.
    reach = math.sqrt(sum((radius * (gradient @ axis)) ** 2 for radius, axis in (
        (25, along_row), (12, along_column), (20, normal))))  # fmt: skip
    assert dvh.dose_at_percent(95) == pytest.approx(50 + reach * FIVE_PERCENT_HEIGHT, rel=0.002)
    assert dvh.dose_at_percent(2) == pytest.approx(50 + reach * TWO_PERCENT_HEIGHT, rel=0.002)


def noisy_with(index: tuple[int, int, int], value: float) -> DoseGrid:
    """A dose of 10 Gy on nodes 2 mm apart from -79 mm on, and another value at one of them."""
    dose = dose_of(lambda x, y, z: np.full_like(x, 10.0), 2.0, half_mm=80.0, shift=0.5)
    values = dose.values.copy()
    values[index] = value
    return replace(dose, values=values)


WIDE = axial_grid(3.0, pixels=200)


@lru_cache(maxsize=2)
def layers_of(radius_mm: float) -> list[Layer]:
    return list(contours_on(WIDE, sphere(WIDE, radius_mm)).layers())


def in_sphere(dose: DoseGrid, radius_mm: float) -> Dvh:
    return dose_volume(layers_of(radius_mm), WIDE, dose)


def test_the_extremes_of_a_large_structure_are_not_those_beside_it() -> None:
    dvh = in_sphere(dose_of(lambda x, y, z: 100 + x, 2.0, half_mm=80.0), 60.0)
    assert 159.0 < dvh.maximum <= 160.1
    assert 39.9 <= dvh.minimum < 41.0
    # Of 4.2 million positions, those of doses that are alike were taken together.
    assert len(dvh.doses) < 1_000_000


def test_a_hot_or_cold_voxel_is_the_extreme_of_every_structure_around_it() -> None:
    # At z, y, x = 5, -7, 11 mm.
    for radius_mm in (18.0, 60.0):
        hot, cold = (
            in_sphere(noisy_with((42, 36, 45), 70.0), radius_mm),
            in_sphere(noisy_with((42, 36, 45), 1.0), radius_mm),
        )
        assert (hot.maximum, hot.minimum) == (70.0, pytest.approx(10.0))
        assert (cold.maximum, cold.minimum) == (pytest.approx(10.0), 1.0)
        assert cold.dose_at_percent(100) == 1.0
    # It adds no volume: a hat of 8 mm³ times 60 Gy over the whole sphere.
    assert hot.covered_cm3 == pytest.approx(904.779, rel=1e-3)
    assert hot.mean == pytest.approx(10 + 60 * 0.008 / 904.779, abs=3e-4)
    assert hot.dose_at_percent(2) == pytest.approx(10.0)


@pytest.mark.parametrize("index", [(39, 39, 55), (39, 55, 39), (55, 39, 39), (24, 39, 39)])
def test_a_hot_node_outside_of_a_structure_does_not_count(index: tuple[int, int, int]) -> None:
    # 31 mm from the middle along x, y, z and -z, of a sphere of 30 mm: at its edge half of the excess.
    dvh = in_sphere(noisy_with(index, 70.0), 30.0)
    assert dvh.maximum < 10 + 0.62 * 60
    assert in_sphere(noisy_with(index, 70.0), 32.0).maximum == 70.0


def test_nodes_of_a_dose_that_is_turned_against_the_images_are_where_they_are() -> None:
    turn = np.radians(25.0)
    along, down = (math.cos(turn), 0.0, math.sin(turn)), (0.0, -1.0, 0.0)
    normal = tuple(np.cross(along, down).tolist())
    values = np.full((50, 60, 40), 10.0)
    values[30, 20, 25] = 70.0
    dose = DoseGrid(
        values, (0.0, 0.0, 0.0), along, down, normal, 2.5, 1.5, 3.0, DoseFrame.PATIENT, DoseUnits.GY
    )  # fmt: skip
    x, y, z = dose.to_patient([30, 20, 25]) * -1.0
    dose = replace(dose, origin_mm=(float(x + 1.3), float(y - 2.1), float(z + 0.4)))
    # The hot node lies at 1.3, -2.1, 0.4 mm.
    assert in_sphere(dose, 15.0).maximum == 70.0
    assert in_sphere(replace(dose, origin_mm=(float(x + 17.3), float(y), float(z))), 15.0).maximum < 70.0


def test_a_relative_dose_and_that_of_a_phantom_are_refused() -> None:
    dose = dose_of(lambda x, y, z: 30 + x, 2.0)
    for other in (replace(dose, units=DoseUnits.RELATIVE), replace(dose, frame=DoseFrame.PHANTOM)):
        with pytest.raises(DoseError, match="a dose in Gy in the patient is needed"):
            of_sphere(2.0, 0.3, other)


def test_where_no_dose_is_known_none_is_given() -> None:
    none = Dvh(np.empty(0), np.empty(0), 7.0)
    asked: tuple[Callable[[], object], ...] = (
        lambda: none.mean, lambda: none.maximum, lambda: none.minimum,
        lambda: none.dose_at_percent(95), lambda: none.curve(1.0),
    )  # fmt: skip
    for ask in asked:
        with pytest.raises(DoseError, match="no dose of the structure is known"):
            ask()

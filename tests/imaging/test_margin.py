"""Margins against formulas: exact to half a voxel, in the directions of the patient on any grid."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mqi_dagster.errors import ImageError
from mqi_dagster.imaging.margin import Margins, with_margins
from tests.imaging.ct_series import oblique_grid
from tests.imaging.mask_shapes import Mask, ball, box, from_middle
from tests.imaging.shapes import axial_grid

GRID = axial_grid(2.0, pixel_mm=1.0, planes=40, pixels=80)
LOW, HIGH = (-10.0, -12.0, -8.0), (10.0, 12.0, 8.0)


def extent(mask: Mask) -> list[float]:
    """Least and greatest x, y and z of the voxels' surfaces."""
    parts = from_middle(GRID)
    return [
        float(end)
        for part, half in zip(parts, (0.5, 0.5, 1.0), strict=True)
        for end in (part[mask].min() - half, part[mask].max() + half)
    ]


def test_each_direction_of_the_patient() -> None:
    # x grows to the left, y to the back, z to the head.
    margins = Margins(left_mm=5, right_mm=3, anterior_mm=7, posterior_mm=2, superior_mm=6, inferior_mm=4)
    grown = with_margins(box(GRID, LOW, HIGH), margins, GRID)
    assert extent(grown) == [-13.0, 15.0, -19.0, 14.0, -12.0, 14.0]


def test_less_in_each_direction() -> None:
    margins = Margins(
        left_mm=-5, right_mm=-3, anterior_mm=-7, posterior_mm=-2, superior_mm=-6, inferior_mm=-4
    )
    shrunk = with_margins(box(GRID, LOW, HIGH), margins, GRID)
    assert extent(shrunk) == [-7.0, 5.0, -5.0, 10.0, -4.0, 2.0]
    # A box stays a box.
    assert int(shrunk.sum()) == 12 * 15 * 3


def test_more_here_and_less_there() -> None:
    both = with_margins(box(GRID, LOW, HIGH), Margins(left_mm=5, right_mm=-3), GRID)
    assert extent(both) == [-7.0, 15.0, -12.0, 12.0, -8.0, 8.0]


@pytest.mark.parametrize("margin", [0.4, 0.6, 1.4, 2.9, 4.5])
def test_half_a_voxel_is_the_error_of_a_flat_surface(margin: float) -> None:
    found = extent(with_margins(box(GRID, LOW, HIGH), Margins.uniform(margin), GRID))
    for surface, at, half in zip(found, [-10, 10, -12, 12, -8, 8], [0.5] * 4 + [1.0] * 2, strict=True):
        assert abs(abs(surface - at) - margin) <= half + 1e-9


@pytest.mark.parametrize(
    ("radius", "margin"), [(10.0, 5.0), (10.0, 3.3), (15.0, -5.0), (15.0, -7.4), (6.0, 10.0)]
)
def test_a_ball_grows_and_shrinks_to_a_ball(radius: float, margin: float) -> None:
    grid = axial_grid(1.0, planes=44, pixels=44)
    found = with_margins(ball(grid, radius), Margins.uniform(margin), grid)
    effective = (3 * int(found.sum()) / (4 * math.pi)) ** (1 / 3)
    assert abs(effective - (radius + margin)) <= 0.5
    assert not (ball(grid, radius + margin - 1.0) & ~found).any()
    assert not (found & ~ball(grid, radius + margin + 1.0)).any()


def test_the_corners_of_a_box_are_rounded_like_ellipsoids() -> None:
    # A box grows by a Minkowski sum: its own volume, slabs, quarters of elliptic cylinders, an ellipsoid.
    a, b, c = 8.0, 6.0, 6.0
    grown = with_margins(box(GRID, LOW, HIGH), Margins(a, a, b, b, c, c), GRID)
    x, y, z = 20.0, 24.0, 16.0
    volume = x * y * z + 2 * (x * y * c + y * z * a + z * x * b)
    volume += math.pi * (a * b * z + b * c * x + c * a * y) + 4 / 3 * math.pi * a * b * c
    assert int(grown.sum()) * GRID.voxel_mm3 == pytest.approx(volume, rel=0.015)


@pytest.mark.parametrize(("tilt", "turn"), [(20.0, 0.0), (20.0, 30.0), (0.0, 90.0)])
def test_directions_are_those_of_the_patient_on_tilted_and_turned_images(tilt: float, turn: float) -> None:
    grid = replace(oblique_grid(tilt, turn), shape=(50, 60, 60), spacing_mm=(1.0, 1.0, 1.0))
    x, y, z = from_middle(grid)
    margins = Margins(left_mm=9, right_mm=3, anterior_mm=6, posterior_mm=0, superior_mm=8, inferior_mm=4)
    grown = with_margins(ball(grid, 8.0), margins, grid)
    ends = [x[grown].max(), -x[grown].min(), -y[grown].min(), y[grown].max(), z[grown].max(), -z[grown].min()]
    assert ends == pytest.approx([17.0, 11.0, 14.0, 8.0, 16.0, 12.0], abs=0.8)


def test_a_structure_that_the_images_cut_shrinks_there_too_and_does_not_grow_beyond() -> None:
    everything = np.ones((6, 8, 10), bool)
    grid = replace(GRID, shape=(6, 8, 10))
    assert int(with_margins(everything, Margins.uniform(2.0), grid).sum()) == 480
    assert int(with_margins(everything, Margins.uniform(-2.0), grid).sum()) == 4 * 4 * 6


def test_nothing_stays_nothing_and_no_margin_changes_nothing() -> None:
    nothing = np.zeros(GRID.shape, bool)
    assert not with_margins(nothing, Margins.uniform(5), GRID).any()
    mask = ball(GRID, 9.0)
    assert np.array_equal(with_margins(mask, Margins(), GRID), mask)
    assert not with_margins(mask, Margins.uniform(-12.0), GRID).any()


@pytest.mark.parametrize("margins", [Margins(superior_mm=3), Margins(inferior_mm=3)])
def test_plates_grow_across_the_planes_that_are_convolved_at_once(margins: Margins) -> None:
    grid = axial_grid(1.0, planes=60, pixels=20)
    mask = np.zeros(grid.shape, bool)
    mask[4:56:5, 5:15, 5:15] = True
    assert int(with_margins(mask, margins, grid).sum()) == 11 * 4 * 100


def test_a_margin_beyond_measure_is_refused() -> None:
    with pytest.raises(ImageError, match="left_mm is above 200 mm"):
        with_margins(ball(GRID, 5.0), Margins.uniform(201.0), GRID)
    with pytest.raises(ImageError, match="posterior_mm is above"):
        with_margins(ball(GRID, 5.0), Margins(posterior_mm=math.nan), GRID)

"""The volume inside contours is that of the body that they were cut from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mqi_dagster.errors import ImageError
from mqi_dagster.imaging.contours import contours_on
from tests.imaging.shapes import Floats, axial_grid, circle, heights, rectangle, sphere

OFFSETS = (0.0, 0.3, 0.5, 0.77)


def volume(grid_mm: float, polygons: list[Floats], **of_layers: int) -> float:
    layers = contours_on(axial_grid(grid_mm), polygons).layers(**of_layers)
    return sum(layer.volume_mm3 for layer in layers)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("plane_mm", [1.0, 2.0, 3.0])
def test_a_sphere_wherever_the_planes_cut_it(plane_mm: float, offset: float) -> None:
    grid = axial_grid(plane_mm, first_z=-30 * plane_mm + offset * plane_mm)
    found = sum(layer.volume_mm3 for layer in contours_on(grid, sphere(grid, 20.0)).layers())
    assert found == pytest.approx(33510.3, rel=0.001)


def test_a_box_ends_half_a_plane_beyond_its_last_contour() -> None:
    polygons = [rectangle((-10.2, -7.1), (9.3, 6.4), z) for z in (-6.0, -3.0, 0.0, 3.0)]
    assert volume(3.0, polygons) == pytest.approx(19.5 * 13.5 * 12.0, rel=1e-3)


def test_one_contour_alone_is_as_thick_as_an_image() -> None:
    assert volume(3.0, [rectangle((0, 0), (10, 10), 0.0)]) == pytest.approx(300.0, rel=1e-3)


def test_a_hole_is_outside() -> None:
    planes = (-2.0, 0.0, 2.0)
    hollow = [circle(r, z) for z in planes for r in (15.0, 9.0)]
    assert volume(2.0, hollow) == pytest.approx(math.pi * (225 - 81) * 6.0, rel=1e-3)
    island = [circle(r, z) for z in planes for r in (15.0, 9.0, 4.0)]
    assert volume(2.0, island) == pytest.approx(math.pi * (225 - 81 + 16) * 6.0, rel=1e-3)


def test_a_hole_that_a_channel_joins_to_the_outline_is_outside_and_the_channel_is_not() -> None:
    def keyhole(z: float) -> Floats:
        outer, inner = circle(15.0, z), circle(9.0, z)[::-1]
        outer, inner = np.vstack([outer, outer[:1]]), np.vstack([inner[-1:], inner[:-1], inner[-1:]])
        return np.vstack([outer, inner])

    polygons = [keyhole(z) for z in (-2.0, 0.0, 2.0)]
    assert volume(2.0, polygons) == pytest.approx(math.pi * (225 - 81) * 6.0, rel=1e-3)


def test_the_direction_and_the_first_point_of_a_contour_do_not_matter() -> None:
    turned = [np.roll(circle(10.0, z), 77, axis=0)[::-1] for z in (0.0, 1.0, 2.0)]
    plain = [circle(10.0, z) for z in (2.0, 0.0, 1.0)]
    assert volume(1.0, turned) == pytest.approx(volume(1.0, plain), rel=1e-9)


def test_branches_grow_together() -> None:
    # Two cylinders of radius 5, a hand apart, and above them one of radius 18 that covers both.
    apart = [circle(5.0, z, (x, 0.0)) for z in (-9.0, -6.0, -3.0, 0.0) for x in (-12.0, 12.0)]
    joined = [circle(18.0, z) for z in (3.0, 6.0, 9.0)]
    expected = 2 * math.pi * 25 * 12.0 + math.pi * 324 * 9.0
    assert volume(3.0, apart + joined) == pytest.approx(expected, rel=0.02)


def test_a_branch_that_ends_alone_ends_half_way() -> None:
    long = [circle(6.0, z, (-20.0, 0.0)) for z in (-6.0, -3.0, 0.0, 3.0, 6.0)]
    short = [circle(6.0, z, (20.0, 0.0)) for z in (-6.0, -3.0, 0.0)]
    assert volume(3.0, long + short) == pytest.approx(math.pi * 36 * (15.0 + 9.0), rel=2e-3)


def test_a_gap_between_contours_is_not_filled_and_is_told() -> None:
    grid = axial_grid(2.0)
    contours = contours_on(grid, [rectangle((0, 0), (10, 10), z) for z in (-9.0, -7.0, -5.0, 5.0, 7.0)])
    assert sum(layer.volume_mm3 for layer in contours.layers()) == pytest.approx(5 * 200.0, rel=1e-3)
    ((below, above),) = contours.gaps
    assert (below + grid.origin_mm[2], above + grid.origin_mm[2]) == (-5.0, 5.0)


def test_of_three_contours_the_nearer_two_tell_the_distance() -> None:
    contours = contours_on(axial_grid(1.0), [rectangle((0, 0), (10, 10), z) for z in (3.0, 4.0, 6.0)])
    assert len(contours.gaps) == 1
    assert sum(layer.volume_mm3 for layer in contours.layers()) == pytest.approx(300.0, rel=1e-3)


def test_contours_drawn_on_every_second_image_are_one_body() -> None:
    contours = contours_on(axial_grid(1.0), [rectangle((0, 0), (10, 10), z) for z in (-4.0, -2.0, 0.0, 2.0)])
    assert sum(layer.volume_mm3 for layer in contours.layers()) == pytest.approx(800.0, rel=1e-3)
    assert contours.gaps == ()


def test_a_contour_close_to_another_plane_spoils_nothing_around_it() -> None:
    grid = axial_grid(3.0)
    cylinder = [circle(20.0, z) for z in np.arange(-15.0, 16.0, 3.0)]
    whole = math.pi * 400 * 33.0
    found = sum(one.volume_mm3 for one in contours_on(grid, [*cylinder, circle(15.0, 0.15)]).layers())
    # At most the two layers beside it are as narrow as it is.
    assert whole - math.pi * (400 - 225) * 6.0 < found < whole


def test_contours_that_lie_on_each_other_are_a_hole_in_their_plane_alone() -> None:
    grid = axial_grid(2.0, first_z=-60.0)
    cylinder = [circle(10.0, z) for z in np.arange(-8.0, 9.0, 2.0)]
    mask = contours_on(grid, [*cylinder, circle(10.0, 0.0)]).mask_on(grid)
    filled = mask.sum(axis=(1, 2))[25:36].tolist()
    assert filled == [0, *[316] * 4, 0, *[316] * 4, 0]


@pytest.mark.parametrize(
    ("planes", "crossed"),
    [
        ([[circle(10.0, 0.0), circle(10.0, 0.0, (12.0, 0.0))]], 1),
        (
            [
                [circle(10.0, 0.0), circle(10.0, 0.0, (12.0, 0.0))],
                [circle(3.0, 2.0), circle(9.0, 2.0, (6.3, 0.0))],
            ],
            2,
        ),
        # A small one that lies across the edge of a large one.
        ([[circle(1.5, 0.0, (0.0, 40.0)), circle(40.0, 0.0)]], 1),
        # Drawn twice.
        ([[circle(10.0, 0.0), circle(10.0, 0.0)[::-1]]], 1),
        ([[rectangle((0, 0), (20, 4), 0.0), rectangle((8, -8), (12, 12), 0.0)]], 1),
    ],
    ids=["two discs", "in two planes", "a small and a large one", "one twice", "a plus"],
)
def test_outlines_that_cross_are_counted(planes: list[list[Floats]], crossed: int) -> None:
    drawn = [polygon for plane in planes for polygon in plane]
    assert contours_on(axial_grid(2.0), drawn).crossed_planes() == crossed


@pytest.mark.parametrize(
    "plane",
    [
        [circle(15.0, 0.0), circle(9.0, 0.0), circle(4.0, 0.0)],
        [circle(100.0, 0.0), circle(99.5, 0.0)],
        [circle(10.0, 0.0), circle(10.0, 0.0, (20.1, 0.0))],
        # Boxes that overlap, and outlines that do not.
        [circle(10.0, 0.0), circle(10.0, 0.0, (15.0, 15.0))],
        [rectangle((0, 0), (10, 10), 0.0), rectangle((10, 0), (20, 10), 0.0)],
        # A hole that touches its outline, and one whose outline is drawn a little beyond it.
        [rectangle((0, 0), (10, 10), 0.0), rectangle((0, 0), (4, 4), 0.0)],
        [rectangle((0, 0), (10, 10), 0.0), rectangle((-0.02, 0), (4, 4), 0.0)],
    ],
    ids=["nested", "a thin shell", "apart", "round the corner", "side by side", "at the edge", "just beyond"],
)
def test_holes_and_neighbours_do_not_cross(plane: list[Floats]) -> None:
    assert contours_on(axial_grid(2.0), plane).crossed_planes() == 0


def test_an_outline_of_no_body_is_refused() -> None:
    zigzag = np.array([[190.0 * (-1) ** i, 0.1 * i, 0.0] for i in range(400)])
    with pytest.raises(ImageError, match="the outline in one plane is 152 m long"):
        contours_on(axial_grid(1.0), [zigzag])


def test_a_structure_that_the_images_cut_has_a_mask_of_what_they_show() -> None:
    grid = axial_grid(2.0, planes=5, pixels=40)
    mask = contours_on(grid, [rectangle((-1500, -3), (3, 3), z) for z in heights(grid)]).mask_on(grid)
    assert mask.sum() == 5 * 6 * 23
    assert mask[:, 17:23, :23].all()
    far = contours_on(grid, [rectangle((500, 500), (510, 510), z) for z in heights(grid)]).mask_on(grid)
    assert not far.any()


def test_a_large_structure_has_larger_subvoxels_and_the_same_volume() -> None:
    polygons = [circle(40.0, z) for z in heights(axial_grid(3.0, planes=20))]
    coarse = volume(3.0, polygons, most=20_000)
    assert coarse == pytest.approx(math.pi * 1600 * 60.0, rel=3e-3)
    assert coarse == pytest.approx(volume(3.0, polygons), rel=3e-3)


@pytest.mark.parametrize(
    ("polygon", "reason"),
    [
        (np.zeros((2, 3)), "contour 1 has fewer than three points"),
        (
            np.array([[0, 0, 0], [9, 0, 0], [9, 9, 4.0]]),
            "contour 1 does not lie in a plane parallel to the images",
        ),
        (
            np.array([[0, 0, 0], [9, 0, 0], [9, np.nan, 0]]),
            "contour 1 lies farther out than a scanner reaches",
        ),
        (np.array([[0, 0, 0], [9, 0, 0], [1e9, 9, 0]]), "contour 1 lies farther out than a scanner reaches"),
    ],
)
def test_what_is_no_contour_of_these_images_is_refused(polygon: Floats, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        contours_on(axial_grid(1.0), [polygon])


def test_a_structure_without_contours_is_refused() -> None:
    with pytest.raises(ImageError, match="a structure has no contour"):
        contours_on(axial_grid(1.0), [])


def test_a_contour_without_area_has_no_volume() -> None:
    line = np.array([[0, 0, 0], [10, 0, 0], [0, 0, 0.0]])
    assert volume(1.0, [line]) == pytest.approx(0.0, abs=1e-9)

"""A mask has the volume of its voxels, however they are cut or taken together, and a box cuts exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mqi_dagster.imaging.contours import contours_on
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.sub_voxels import layers_within, mask_layers
from tests.imaging.ct_series import oblique_grid
from tests.imaging.shapes import axial_grid, rectangle


def centre_mm(mask: np.ndarray, grid: ImageGrid, most: int) -> tuple[float, np.ndarray]:
    """Volume [mm³] and centre of the sub-voxels, DICOM x, y, z."""
    total, moment = 0.0, np.zeros(3)
    for layer in mask_layers(mask, grid, most):
        rows, columns = np.indices(layer.coverage.shape)
        down = layer.first_mm[0] + rows * layer.subvoxel_mm[1]
        along = layer.first_mm[1] + columns * layer.subvoxel_mm[2]
        at = np.stack([np.full(down.shape, layer.height_mm), down, along], axis=-1)
        points = grid.to_patient(at / grid.spacing_mm)
        total += layer.volume_mm3
        moment += np.tensordot(layer.coverage, points, 2) * math.prod(layer.subvoxel_mm)
    return total, moment / total


@pytest.mark.parametrize("most", [8_000_000, 4000, 300, 20])
def test_a_mask_keeps_its_volume_and_its_place(most: int) -> None:
    grid = oblique_grid()
    mask = np.zeros(grid.shape, bool)
    mask[3:10, 5:22, 7:20] = True
    mask[9, 30, 30] = True
    volume, centre = centre_mm(mask, grid, most)
    assert volume == pytest.approx((7 * 17 * 13 + 1) * 2.5 * 0.9 * 1.1, rel=1e-9)
    middle = (np.array([6, 13, 13]) * 1547 + np.array([9, 30, 30])) / 1548
    np.testing.assert_allclose(centre, grid.to_patient(middle), atol=0.05 if most > 4000 else 1.0)


def test_voxels_are_cut_into_sub_voxels_of_about_half_a_millimetre_and_no_more_than_allowed() -> None:
    grid = axial_grid(3.0, pixel_mm=0.98)
    mask = np.ones((20, 70, 70), bool)
    mask = np.pad(mask, ((5, 35), (5, 25), (5, 25)))
    fine = list(mask_layers(mask, grid))
    assert fine[0].subvoxel_mm == pytest.approx((0.5, 0.49, 0.49))
    assert (len(fine), fine[0].coverage.shape) == (120, (140, 140))
    coarse = list(mask_layers(mask, grid, most=50_000))
    assert sum(layer.coverage.size for layer in coarse) <= 50_000
    assert list(mask_layers(np.zeros(grid.shape, bool), grid)) == []


def test_a_box_cuts_within_sub_voxels() -> None:
    grid = axial_grid(2.0)
    box = contours_on(grid, [rectangle((-10, -10), (10, 10), z) for z in np.arange(-9.0, 10, 2.0)])
    whole = sum(layer.volume_mm3 for layer in box.layers())
    low, high = (-3.33, -math.inf, -math.inf), (math.inf, 4.21, 5.77)
    inside = sum(layer.volume_mm3 for layer in layers_within(box.layers(), grid, low, high))
    assert whole == pytest.approx(8000.0, rel=1e-3)
    assert inside == pytest.approx(13.33 * 14.21 * 15.77, rel=2e-3)


def test_a_box_lies_in_the_axes_of_the_patient_also_where_images_are_tilted() -> None:
    grid = oblique_grid(tilt_degrees=20.0, turn_degrees=30.0)
    mask = np.zeros(grid.shape, bool)
    mask[4:20, 5:40, 5:35] = True
    points = grid.to_patient(np.argwhere(mask))
    middle = points.mean(axis=0)
    low, high = (middle[0], middle[1] - 5.0, -math.inf), (math.inf, middle[1] + 5.0, middle[2] + 3.0)
    fine = np.random.default_rng(1).uniform((3.5, 4.5, 4.5), (19.5, 39.5, 34.5), (400_000, 3))
    lies = grid.to_patient(fine)
    expected = ((lies >= low) & (lies <= high)).all(axis=1).mean() * mask.sum() * grid.voxel_mm3
    inside = sum(layer.volume_mm3 for layer in layers_within(mask_layers(mask, grid), grid, low, high))
    assert inside == pytest.approx(expected, rel=0.01)

"""A voxel of the engine's array ends where the geometry of the house says."""

from __future__ import annotations

import numpy as np
import pytest

from mqi_dagster.dose.grid import DoseUnits, from_patient, from_phantom, plane_from_phantom
from mqi_dagster.errors import DoseError
from tests.dose.dose_cases import position_mm


def hot(shape: tuple[int, int, int], i: int, j: int, k: int) -> np.ndarray:
    values = np.zeros(shape)
    values[k, j, i] = 7.0
    return values


@pytest.mark.parametrize(("i", "j", "k"), [(0, 0, 0), (5, 0, 0), (0, 4, 0), (0, 0, 3), (4, 1, 2)])
def test_a_hot_voxel_of_a_phantom_ends_at_its_dicom_position(i: int, j: int, k: int) -> None:
    grid = from_phantom(hot((4, 5, 6), i, j, k), (-5.0, -6.0, -11.0), (2.0, 3.0, 4.0), DoseUnits.GY)
    frame, row, column = (int(n[0]) for n in np.nonzero(grid.values))
    engine = (-5.0 + 2.0 * i, -6.0 + 3.0 * j, -11.0 + 4.0 * k)
    assert position_mm(grid, frame, row, column) == (engine[0], -engine[2], engine[1])


def test_a_phantom_grid_is_axial_with_rows_along_the_beam() -> None:
    grid = from_phantom(np.ones((4, 5, 6)), (-5.0, -6.0, -11.0), (2.0, 3.0, 4.0), DoseUnits.GY)
    assert grid.shape == (5, 4, 6)
    # Engine planes at z = -11, -7, -3, 1: the last meets the beam first and is the first row, at y = -1.
    assert grid.origin_mm == (-5.0, -1.0, -6.0)
    assert (grid.row_direction, grid.column_direction) == ((1, 0, 0), (0, 1, 0))
    assert grid.frame_direction == (0, 0, 1)
    assert (grid.column_spacing_mm, grid.row_spacing_mm, grid.frame_spacing_mm) == (2.0, 4.0, 3.0)


@pytest.mark.parametrize(("i", "j"), [(0, 0), (5, 0), (0, 4), (3, 1)])
def test_a_hot_voxel_of_the_plane_ends_at_its_dicom_position(i: int, j: int) -> None:
    grid = plane_from_phantom(hot((1, 5, 6), i, j, 0), (-5.0, -6.0, -2.5), (2.0, 3.0, 1.0), DoseUnits.GY)
    frame, row, column = (int(n[0]) for n in np.nonzero(grid.values))
    assert position_mm(grid, frame, row, column) == (-5.0 + 2.0 * i, 2.5, -6.0 + 3.0 * j)
    assert (row, column) == (j, i)


def test_the_plane_is_oriented_as_raystation_exports_it() -> None:
    grid = plane_from_phantom(np.ones((1, 402, 401)), (-199.5, -200.5, -20.5), (1, 1, 2), DoseUnits.GY)
    assert grid.origin_mm == (-199.5, 20.5, -200.5)
    assert grid.row_direction + grid.column_direction == (1, 0, 0, 0, 0, 1)
    assert grid.shape == (1, 402, 401)


@pytest.mark.parametrize(("i", "j", "k"), [(0, 0, 0), (5, 0, 0), (0, 4, 0), (0, 0, 3), (4, 1, 2)])
def test_a_hot_voxel_of_a_patient_stays_in_dicom_axes(i: int, j: int, k: int) -> None:
    grid = from_patient(hot((4, 5, 6), i, j, k), (10.0, 20.0, -30.0), (2.0, 3.0, 4.0), DoseUnits.RELATIVE)
    frame, row, column = (int(n[0]) for n in np.nonzero(grid.values))
    assert position_mm(grid, frame, row, column) == (10.0 + 2.0 * i, 20.0 + 3.0 * j, -30.0 + 4.0 * k)


def test_several_layers_are_no_plane() -> None:
    with pytest.raises(DoseError, match="1 layer of voxels, not 3"):
        plane_from_phantom(np.ones((3, 4, 4)), (0, 0, 0), (1, 1, 1), DoseUnits.GY)


def test_a_flat_array_is_no_dose() -> None:
    with pytest.raises(DoseError, match="three axes, not 2"):
        from_patient(np.ones((3, 4)), (0, 0, 0), (1, 1, 1), DoseUnits.GY)


def test_a_spacing_of_zero_is_refused() -> None:
    with pytest.raises(DoseError, match="spacing"):
        from_patient(np.ones((3, 4, 5)), (0, 0, 0), (1, 0, 1), DoseUnits.GY)


def test_the_values_cannot_be_changed_behind_the_grid() -> None:
    grid = from_patient(np.ones((3, 4, 5)), (0, 0, 0), (1, 1, 1), DoseUnits.GY)
    with pytest.raises(ValueError, match="read-only"):
        grid.values[0, 0, 0] = 2.0

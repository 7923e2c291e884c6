"""Doses add up where all of them are known, whatever their grids."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mqi_dagster.dose.grid import ALONG_X, ALONG_Y, ALONG_Z, DoseFrame, DoseGrid, DoseUnits
from mqi_dagster.errors import DoseError
from mqi_dagster.imaging.dose_sum import summed


def linear(spacing: float, first: float, count: int, slope: float = 1.0) -> DoseGrid:
    """A dose that rises by a slope [Gy/mm] along x, from 100 Gy at the origin."""
    x = first + spacing * np.arange(count)
    values = np.broadcast_to(100.0 + slope * x, (count, count, count))
    return DoseGrid(
        values, (first, first, first), ALONG_X, ALONG_Y, ALONG_Z, spacing, spacing, spacing,
        DoseFrame.PATIENT, DoseUnits.GY,
    )  # fmt: skip


def test_the_sum_stands_on_the_finest_grid_within_all_of_them() -> None:
    # Voxels from -10 to 10 mm, and coarse ones that reach from -4.5 to 13.5 mm.
    total = summed([linear(3.0, -3.0, 6, slope=2.0), linear(1.0, -10.0, 21)])
    assert total.origin_mm == (-4.0, -4.0, -4.0)
    assert total.shape == (15, 15, 15)
    assert total.column_spacing_mm == 1.0
    x = np.arange(-4.0, 11.0)
    # Between its outermost centre and its edge a voxel has the dose of its centre.
    expected = 200.0 + x + 2.0 * np.maximum(x, -3.0)
    assert total.values[7, 3] == pytest.approx(expected)


def test_the_order_does_not_matter() -> None:
    one, other = linear(3.0, -3.0, 6), linear(1.0, -10.0, 21)
    assert np.array_equal(summed([one, other]).values, summed([other, one]).values)


def test_equal_grids_lose_nothing() -> None:
    dose = linear(2.0, -10.0, 8)
    total = summed([dose, dose, dose])
    assert total.shape == dose.shape
    assert total.values == pytest.approx(3 * dose.values)
    assert summed([dose]) is dose


def test_what_does_not_add_up_is_refused() -> None:
    dose = linear(2.0, 0.0, 4)
    with pytest.raises(DoseError, match="no dose to add up"):
        summed([])
    with pytest.raises(DoseError, match="only doses in Gy"):
        summed([dose, replace(dose, units=DoseUnits.RELATIVE)])
    relative = replace(dose, units=DoseUnits.RELATIVE)
    for others in ([relative, relative], [dose, replace(dose, frame=DoseFrame.PHANTOM)]):
        with pytest.raises(DoseError, match="only doses in Gy"):
            summed(others)
    with pytest.raises(DoseError, match="share no voxel"):
        summed([dose, linear(2.0, 500.0, 4)])
    with pytest.raises(DoseError, match="turned against each other"):
        summed([dose, replace(dose, row_direction=ALONG_Y, column_direction=ALONG_X)])

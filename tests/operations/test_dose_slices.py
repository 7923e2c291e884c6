"""Slices of a dose: where they are, which way they look, and over what they are laid."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mqi_dagster.dose.grid import DoseGrid, DoseUnits, from_patient, from_phantom
from mqi_dagster.errors import DoseError
from mqi_dagster.operations.dose_slices import (
    CtImages,
    Overlay,
    Plane,
    ShownDose,
    draw,
    shown_dose,
    trilinear,
)
from tests.imaging.shapes import axial_grid

HERE = "1.2.3"
"""Frame of Reference of `axial_grid`."""


def in_patient() -> DoseGrid:
    """A dose whose maximum is in plane 3, row 1, column 4, of 2, 3 and 4 mm along x, y and z."""
    values = np.full((5, 6, 8), 0.1)
    values[3, 1, 4] = 2.0
    return from_patient(values, (-8.0, -9.0, -10.0), (2.0, 3.0, 4.0), DoseUnits.GY)


def picture(
    dose: ShownDose, plane: Plane, ct: CtImages | None = None, overlay: Overlay = Overlay.NONE, at: int = 2
) -> NDArray[np.uint8]:
    """The dots of a slice, shape (down, across, 3)."""
    png = draw(dose, dose.facts(), ct, plane, at, "bone", overlay)
    return np.asarray(Image.open(BytesIO(png)))


def split_along(axis: int) -> CtImages:
    """A CT that is bone where a coordinate (0: x, 1: y, 2: z) is above 0, and air elsewhere."""
    grid = axial_grid(1.0, planes=61, pixels=61)
    places = grid.to_patient(np.moveaxis(np.indices(grid.shape), 0, -1))
    return CtImages(grid, np.where(places[..., axis] > 0, 2000, -2000).astype(np.int16))


def test_each_plane_is_named_and_starts_at_the_maximum() -> None:
    facts = shown_dose("d", in_patient(), frame_of_reference_uid=HERE).facts()
    assert (facts.in_patient, facts.unit, facts.maximum) == (True, "Gy", 2.0)
    told = [(one.plane, one.count, one.start, one.first_mm, one.step_mm) for one in facts.planes]
    assert told == [
        (Plane.AXIAL, 5, 3, -10.0, 4.0),
        (Plane.CORONAL, 6, 1, -9.0, 3.0),
        (Plane.SAGITTAL, 8, 4, -8.0, 2.0),
    ]
    assert facts.planes[1].across == "DICOM y [mm]"
    assert (facts.planes[2].along, facts.planes[2].down) == ("DICOM y [mm]", "DICOM z [mm]")
    assert [(one.label, one.value) for one in facts.isodoses][-1] == ("95 %", 1.9)


@pytest.mark.parametrize(
    ("plane", "axis", "side"),
    [
        (Plane.AXIAL, 0, "right"),
        (Plane.AXIAL, 1, "lower"),
        (Plane.CORONAL, 0, "right"),
        (Plane.CORONAL, 2, "upper"),
        (Plane.SAGITTAL, 1, "right"),
        (Plane.SAGITTAL, 2, "upper"),
    ],
)
def test_left_is_at_the_right_back_below_or_right_and_the_head_above(
    plane: Plane, axis: int, side: str
) -> None:
    dose = shown_dose("d", in_patient(), frame_of_reference_uid=HERE)
    grey = picture(dose, plane, split_along(axis)).mean(axis=2)
    rows, columns = (size // 4 for size in grey.shape)
    middle = {
        "right": (grey[2 * rows, 3 * columns], grey[2 * rows, columns]),
        "lower": (grey[3 * rows, 2 * columns], grey[rows, 2 * columns]),
        "upper": (grey[rows, 2 * columns], grey[3 * rows, 2 * columns]),
    }
    assert middle[side] == (255, 0)


def test_a_dot_is_as_large_down_as_across() -> None:
    dose = shown_dose("d", in_patient(), frame_of_reference_uid=HERE)
    # 18 by 16, 20 by 16 and 20 by 18 mm.
    for plane, ratio in ((Plane.AXIAL, 18 / 16), (Plane.CORONAL, 20 / 16), (Plane.SAGITTAL, 20 / 18)):
        height, width, _ = picture(dose, plane).shape
        assert height / width == pytest.approx(ratio, rel=0.01)


def test_a_dose_is_never_laid_over_a_ct_of_another_frame() -> None:
    dose = shown_dose("d", in_patient(), frame_of_reference_uid="9.9.9")
    dots = picture(dose, Plane.AXIAL, split_along(0))
    # Black, but for what is written at the edges.
    assert dots[180:330, 100:350].max() == 0


def test_the_dose_is_drawn_as_it_is_asked_for() -> None:
    dose = shown_dose("d", in_patient(), frame_of_reference_uid=HERE)
    plain, wash, lines = (
        picture(dose, Plane.AXIAL, split_along(2), overlay, at=3)
        for overlay in (Overlay.NONE, Overlay.WASH, Overlay.LINES)
    )
    assert (plain.max(axis=2) == plain.min(axis=2)).all()
    # The middle of the hottest voxel: yellow, more red than blue.
    down, across = round(512 * 4.5 / 18), round(455 * 9 / 16)
    assert wash[down, across, 0] > wash[down, across, 2] + 40
    assert (lines[down, across] == plain[down, across]).all()
    assert (lines != plain).any()


def phantom(hot: float = 1.0) -> DoseGrid:
    """A dose of a phantom of 60 by 60 by 100 voxels of 2 mm with a beam in the middle."""
    values = np.zeros((100, 60, 60))
    values[40:, 28:32, 28:32] = hot
    return from_phantom(values, (-59.0, -59.0, -199.0), (2.0, 2.0, 2.0), DoseUnits.RELATIVE)


def test_of_a_phantom_the_part_with_dose_is_shown_in_water_below_its_surface() -> None:
    dose = shown_dose("d", phantom(), surface_mm=20.0)
    facts = dose.facts()
    assert not facts.in_patient
    # 4 voxels of dose and 8 around; along the beam 60, and 8 behind: before it the grid ends.
    assert [one.count for one in facts.planes] == [20, 68, 20]
    axial = picture(dose, Plane.AXIAL, at=10).max(axis=2)
    water = round(255 * 350 / 1600)
    # The grid begins at y = 0: the surface is 20 of 136 mm below the upper edge.
    surface = round(512 * 20 / 136)
    assert axial[surface - 3, 30] == 0 and axial[surface + 3, 30] == pytest.approx(water, abs=2)


def test_a_dose_of_nothing_is_none() -> None:
    with pytest.raises(DoseError, match="zero everywhere"):
        shown_dose("d", phantom(0.0))


def test_between_voxels_values_are_interpolated_and_beyond_the_last_none_is_known() -> None:
    z, y, x = np.indices((3, 4, 5))
    values = (100 * z + 10 * y + x).astype(np.int16)
    at = [[0.5, 1.25, 2.0], [2.0, 3.0, 4.0], [0.0, 0.0, 0.0], [2.1, 0.0, 0.0], [0.0, -0.1, 0.0]]
    assert trilinear(values, at).tolist()[:3] == pytest.approx([64.5, 234.0, 0.0])
    assert np.isnan(trilinear(values, at)[3:]).all()

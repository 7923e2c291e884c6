"""Analysis regions: where they end, and what they leave out of each structure."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.errors import ConfigurationError, ImageError
from mqi_dagster.imaging.region import (
    AnalysisRegion,
    Direction,
    analysis_region,
    cut_off,
    read_regions,
    region_around,
)
from mqi_dagster.imaging.structure_names import read_structure_names
from tests.imaging.ct_series import oblique_grid
from tests.imaging.mask_shapes import Mask, ball, box
from tests.imaging.shapes import axial_grid

NAMES = read_structure_names()
REGIONS = read_regions()
# Voxels of 5 x 2 x 2 mm; z from -150 to 150 mm.
GRID = axial_grid(5.0, pixel_mm=2.0, planes=60, pixels=30)


def patient() -> dict[str, Mask]:
    return {
        "External": box(GRID, (-28, -28, -150), (28, 28, 150)),
        "vertebrae_L1": box(GRID, (-4, 4, 60), (4, 12, 80)),
        "vertebrae_L5": box(GRID, (-4, 4, -20), (4, 12, 0)),
        "vertebrae_T12": box(GRID, (-4, 4, 80), (4, 12, 100)),
        "femur_left": box(GRID, (10, -4, -110), (20, 4, -50)),
        "femur_right": box(GRID, (-20, -4, -100), (-10, 4, -50)),
        "Bladder": box(GRID, (-8, -8, -60), (8, 8, -40)),
        "Liver": box(GRID, (-20, -10, 60), (0, 10, 120)),
    }


def found(name: str, masks: dict[str, Mask] | None = None, **more: object) -> AnalysisRegion:
    masks = patient() if masks is None else masks
    return analysis_region(name, REGIONS[name], masks, GRID, NAMES, **more)  # type: ignore[arg-type]


def test_the_pelvis_reaches_from_the_first_lumbar_vertebra_to_below_the_femurs() -> None:
    masks = patient()
    masks["femur_left"] = box(GRID, (10, -4, -40), (20, 4, 0))
    masks["femur_right"] = box(GRID, (-20, -4, -45), (-10, 4, 0))
    region = found("pelvis", masks)
    assert region.low_mm == (-math.inf, -math.inf, pytest.approx(-145.0))
    assert region.high_mm == (math.inf, math.inf, pytest.approx(80.0))
    assert region.notes == ()


def test_a_region_beyond_the_images_is_said() -> None:
    # The left femur ends at -110 mm, and the pelvis 100 mm below it: the images at -150 mm.
    region = found("pelvis")
    assert region.low_mm[2] == pytest.approx(-210.0)
    assert region.notes == ("it would reach 60 mm beyond the images, inferior",)
    masks = patient() | {"Femur_L": box(GRID, (10, -4, -150), (20, 4, -50))}
    del masks["femur_left"]
    assert (
        "Femur_L reaches the end of the images: its inferior edge may be farther out"
        in found("pelvis", masks).notes
    )


def test_the_abdomen_and_what_it_cuts_off() -> None:
    region = found("abdomen")
    assert (region.low_mm[2], region.high_mm[2]) == (pytest.approx(-40.0), pytest.approx(120.0))
    report = {one.structure: one for one in cut_off(region, patient(), GRID)}
    assert report["Liver"].volume_cm3 == pytest.approx(24.0)
    assert (report["Liver"].cut_cm3, report["Liver"].percent) == (0.0, 0.0)
    assert report["Bladder"].percent == 100.0
    # 10 x 8 mm, 60 mm long, all of it below -50 mm.
    assert report["femur_left"].cut_cm3 == pytest.approx(4.8)
    assert report["External"].volume_cm3 == pytest.approx(56 * 56 * 300 / 1000)
    assert report["External"].cut_cm3 == pytest.approx(56 * 56 * 140 / 1000)
    assert report["External"].percent == pytest.approx(46.667, abs=0.001)


def test_other_margins_may_be_given() -> None:
    region = found("abdomen", margins_mm={Direction.INFERIOR: 50.0})
    assert (region.low_mm[2], region.high_mm[2]) == (pytest.approx(-70.0), pytest.approx(120.0))
    assert region.limits[Direction.INFERIOR].margin_mm == 50.0


def test_of_several_ways_the_first_whose_structures_are_there_is_taken() -> None:
    masks = patient()
    del masks["vertebrae_T12"]
    region = found("abdomen", masks)
    assert region.high_mm[2] == pytest.approx(100.0)
    assert region.limits[Direction.SUPERIOR].structures == ("VB_L1",)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("brain", r"brain needs structures .* \(superior: Brain; inferior: Brain\)"),
        ("head_neck", r"superior: Brain or Skull; inferior: VB_C7 or Clavicle_L and Clavicle_R"),
        ("thorax", r"superior: VB_C7 or Lung_LUL and Lung_RUL or Lungs\)"),
    ],
)
def test_structures_that_are_not_there_are_named(name: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        found(name)


def test_an_empty_structure_is_not_there() -> None:
    masks = patient()
    masks["femur_right"] = np.zeros(GRID.shape, bool)
    with pytest.raises(ImageError, match=r"\(inferior: Femur_R\)"):
        found("pelvis", masks)


def test_a_region_around_given_structures_in_every_direction() -> None:
    margins = dict(zip(Direction, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), strict=True))
    definition = region_around(["Bladder", "Liver"], margins)
    region = analysis_region("mine", definition, patient(), GRID, NAMES)
    # x from -20 to 8, y from -10 to 10, z from -60 to 120 mm; margins to the left first.
    assert region.low_mm == pytest.approx((-22.0, -13.0, -66.0))
    assert region.high_mm == pytest.approx((9.0, 14.0, 125.0))
    assert region.contains([[0, 0, 0], [9.1, 0, 0], [-22, 14, 125], [0, -13.1, 0]]).tolist() == [
        True, False, True, False
    ]  # fmt: skip
    # Centres of voxels: x from -21 to 9, y from -13 to 13, z from -62.5 to 122.5 mm.
    assert int(region.mask_on(GRID).sum()) == 16 * 14 * 38


def test_on_tilted_images_the_box_stays_along_the_patient() -> None:
    grid = replace(oblique_grid(20.0, 13.0), shape=(40, 60, 60), spacing_mm=(1.0, 1.0, 1.0))
    masks = {"Brain": ball(grid, 12.0)}
    region = analysis_region("brain", REGIONS["brain"], masks, grid, NAMES)
    middle = grid.to_patient((np.array(grid.shape) - 1) / 2)
    assert region.low_mm[2] == pytest.approx(middle[2] - 22.0, abs=1.0)
    assert region.high_mm[2] == pytest.approx(middle[2] + 22.0, abs=1.0)
    z = grid.to_patient(np.indices(grid.shape).transpose(1, 2, 3, 0))[..., 2]
    expected = (z >= region.low_mm[2]) & (z <= region.high_mm[2])
    assert np.array_equal(region.mask_on(grid), expected)


def test_a_region_turned_inside_out_is_refused() -> None:
    definition = region_around(["Bladder"], {Direction.LEFT: -20.0, Direction.RIGHT: -20.0})
    with pytest.raises(ImageError, match="mine is empty"):
        analysis_region("mine", definition, patient(), GRID, NAMES)


def test_a_site_has_regions_of_its_own(tmp_path: Path) -> None:
    site = tmp_path / "regions.yaml"
    site.write_text("breast: {left: [{structures: [Breast_L], edge: left, margin_mm: 5}]}")
    regions = read_regions(site)
    assert set(regions) == {"pelvis", "thorax", "abdomen", "head_neck", "brain", "breast"}
    for text in ("breast: {up: []}", "breast: {left: [{structure: [a], edge: left}]}", "breast: 3"):
        site.write_text(text)
        with pytest.raises(ConfigurationError, match="site's analysis regions: breast"):
            read_regions(site)

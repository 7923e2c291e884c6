"""The rules for a CT, on a body made of solids whose volumes are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from numpy.typing import NDArray

from mqi_dagster.imaging.models.card import PACKAGED_MODELS, Model, read_model
from mqi_dagster.imaging.models.model_errors import ModelError
from mqi_dagster.imaging.models.running import RunOptions
from mqi_dagster.imaging.models.segment import SegmentationRecord, segment
from tests.imaging.models.model_folders import image, labels_in, write_inputs

SPACING = (2.0, 2.0, 3.0)
SIZE = (50, 136, 170)
LENGTH_MM = 150.0
EXTERNAL_CM3 = math.pi * 130 * 90 * LENGTH_MM / 1000
LUNG_CM3 = 2 * 4 / 3 * math.pi * 40 * 55 * 60 / 1000
BONE_CM3 = math.pi * 15**2 * LENGTH_MM / 1000
AIR_CM3 = math.pi * 9**2 * LENGTH_MM / 1000
COUCH_CM3 = 300 * 40 * LENGTH_MM / 1000
"""Of a shell of 4 mm around foam, which the body lies on."""


def body(lung_mm: float = 65, foam_hu: int = -950) -> NDArray[np.int16]:
    """HU, axes z, y, x; back at high y: a body with lungs, windpipe and spine on a couch, in air.

    Args:
        lung_mm: From the midplane to the middle of each lung; below 49 they touch the windpipe.
        foam_hu: Of what is in the table.
    """
    z, y, x = (
        (np.arange(count) - (count - 1) / 2) * step for count, step in zip(SIZE, SPACING[::-1], strict=True)
    )
    z, y, x = z[:, None, None], y[None, :, None] + 20, x[None, None, :]
    hu = np.full(SIZE, -1000, np.int16)
    hu[np.broadcast_to((abs(x) < 150) & (y > 90) & (y < 130), SIZE)] = -100
    hu[np.broadcast_to((abs(x) < 146) & (y > 94) & (y < 126), SIZE)] = foam_hu
    hu[np.broadcast_to((x / 130) ** 2 + (y / 90) ** 2 < 1, SIZE)] = 30
    for side in (-1, 1):
        hu[((x - side * lung_mm) / 40) ** 2 + (y / 55) ** 2 + (z / 60) ** 2 < 1] = -750
    hu[np.broadcast_to(x**2 + (y + 20) ** 2 < 9**2, SIZE)] = -1000
    hu[np.broadcast_to(x**2 + (y - 60) ** 2 < 15**2, SIZE)] = 600
    return hu


@pytest.fixture(scope="module")
def rules_ct() -> Model:
    """The model of the product."""
    return read_model(PACKAGED_MODELS / "rules_ct")


def run(model: Model, tmp_path: Path, ct: sitk.Image, **options: str) -> SegmentationRecord:
    """Segment a CT."""
    (tmp_path / "out").mkdir(exist_ok=True)
    return segment(model, write_inputs(tmp_path / "in", CT=ct), tmp_path / "out", RunOptions(**options))


def test_regions_have_the_volumes_of_the_solids(rules_ct: Model, tmp_path: Path) -> None:
    noise = np.random.default_rng(3).normal(0, 20, SIZE)
    record = run(rules_ct, tmp_path, image((body() + noise).astype(np.int16), SPACING), device="gpu")

    volumes = {one.name: one.volume_cm3 for one in record.regions}
    assert volumes["External"] == pytest.approx(EXTERNAL_CM3, rel=0.01)
    assert volumes["Lung"] == pytest.approx(LUNG_CM3, rel=0.03)
    assert volumes["Bone"] == pytest.approx(BONE_CM3, rel=0.03)
    assert volumes["Air"] == pytest.approx(AIR_CM3, rel=0.06)
    assert volumes["Couch"] == pytest.approx(COUCH_CM3, rel=0.08)
    assert all(one.plausible for one in record.regions)
    assert (record.device_used, record.provider) == ("cpu", "SimpleITK")
    assert record.remarks == ("gpu was asked for, and rules run on the processor",)


def test_blurred_edge_of_a_windpipe_that_touches_a_lung_is_not_lung(rules_ct: Model, tmp_path: Path) -> None:
    blurred = sitk.SmoothingRecursiveGaussian(image(body(45).astype(np.float32), SPACING), 1.5)
    record = run(rules_ct, tmp_path, blurred)
    volumes = {one.name: one.volume_cm3 for one in record.regions}
    assert volumes["Air"] == pytest.approx(AIR_CM3, rel=0.2)
    assert volumes["Lung"] == pytest.approx(LUNG_CM3, rel=0.03)


def test_lung_that_the_edge_of_the_image_cuts_is_in_the_body(rules_ct: Model, tmp_path: Path) -> None:
    # From 80 mm left of the midplane on: a quarter of one lung is cut off.
    whole, cut = image(body(), SPACING), image(body()[:, :, 45:], SPACING)
    run(rules_ct, tmp_path, whole)
    expected = labels_in(tmp_path / "out")[:, :, 45:]

    run(rules_ct, tmp_path, cut)

    found = labels_in(tmp_path / "out")
    for label in (1, 2, 3, 4):
        assert (found == label).sum() == pytest.approx((expected == label).sum(), rel=0.03)


def test_gap_between_limbs_that_the_edge_of_the_image_opens_is_outside(
    rules_ct: Model, tmp_path: Path
) -> None:
    limbs = np.zeros((20, 60, 80), np.int16)
    limbs[:, 20:, 35:45] = -1000
    run(rules_ct, tmp_path, image(limbs, SPACING))
    assert (labels_in(tmp_path / "out") == (limbs == 0)).all()


def test_foam_below_the_body_is_no_lung_where_the_image_ends_in_it(rules_ct: Model, tmp_path: Path) -> None:
    run(rules_ct, tmp_path, image(body(foam_hu=-870)[:, :112, 55:115], SPACING))
    # The foam is from row 105 on.
    assert not np.isin(labels_in(tmp_path / "out")[:, 105:], (1, 2, 3, 4)).any()


def test_blurred_skin_is_not_couch(rules_ct: Model, tmp_path: Path) -> None:
    run(rules_ct, tmp_path, sitk.SmoothingRecursiveGaussian(image(body().astype(np.float32), SPACING), 2.5))
    # The table is from row 103 on, and blurred, too.
    couch = labels_in(tmp_path / "out") == 5
    assert couch[:, 103:].any() and not couch[:, :101].any()


def test_result_does_not_depend_on_how_the_image_is_stored(rules_ct: Model, tmp_path: Path) -> None:
    stored = image(body(), SPACING)
    run(rules_ct, tmp_path, stored)
    expected = labels_in(tmp_path / "out")
    turned = sitk.DICOMOrient(stored, "SAR")

    run(rules_ct, tmp_path, turned)

    found = sitk.ReadImage(tmp_path / "out" / "segmentation.nii.gz")
    assert found.GetSize() == turned.GetSize() == (50, 136, 170)
    assert (sitk.GetArrayFromImage(sitk.DICOMOrient(found, "LPS")) == expected).all()


def test_regions_that_are_not_there_are_empty_and_said_to_be_implausible(
    rules_ct: Model, tmp_path: Path
) -> None:
    water = np.where(body() > -300, 0, -1000).astype(np.int16)
    water[:, 103:] = -1000
    record = run(rules_ct, tmp_path, image(water, SPACING))
    found = {one.name: (one.voxels > 0, one.plausible) for one in record.regions}
    assert found["Bone"] == found["Couch"] == (False, False)
    assert found["External"] == (True, True)


def test_image_of_air_alone_is_refused(rules_ct: Model, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model rules_ct: its label map cannot be used: it is empty"):
        run(rules_ct, tmp_path, image(np.full((10, 20, 20), -1000, np.int16), SPACING))

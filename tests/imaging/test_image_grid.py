"""A series of images lies in one regular grid, or it is said why not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from mqi_dagster.errors import DicomError, ImageError
from mqi_dagster.imaging.image_grid import ImagePlane, image_plane, image_series

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def axial(count: int = 5, step: float = 2.5) -> list[ImagePlane]:
    return [
        ImagePlane(f"1.2.{index}", "1.9", (-10.0, -20.0, 30.0 + step * index), AXIAL, (0.5, 0.8), 40, 50)
        for index in range(count)
    ]


def test_the_order_of_the_files_does_not_matter() -> None:
    planes = axial()
    random.Random(1).shuffle(planes)
    series = image_series(planes)
    assert series.instance_uids == ("1.2.0", "1.2.1", "1.2.2", "1.2.3", "1.2.4")
    grid = series.grid
    assert (grid.shape, grid.origin_mm, grid.spacing_mm) == (
        (5, 40, 50),
        (-10.0, -20.0, 30.0),
        (2.5, 0.5, 0.8),
    )
    assert grid.frame_of_reference_uid == "1.9"
    assert grid.voxel_mm3 == pytest.approx(1.0)


def test_a_voxel_is_where_dicom_says() -> None:
    # PS3.3 C.7.6.2.1.1: columns step along the row, by the second pixel spacing.
    grid = image_series(axial()).grid
    assert grid.to_patient([2, 3, 4]).tolist() == pytest.approx([-10 + 4 * 0.8, -20 + 3 * 0.5, 35.0])
    assert (grid.affine @ [2, 3, 4, 1]).tolist() == pytest.approx([-6.8, -18.5, 35.0, 1.0])
    assert grid.to_indices([[-6.8, -18.5, 35.0]]).tolist() == [pytest.approx([2, 3, 4])]


def test_sagittal_and_turned_images_are_grids_too() -> None:
    sagittal = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    planes = [
        ImagePlane(f"1.{i}", "1.9", (3.0 * i, -50.0, 60.0), sagittal, (1.0, 1.0), 10, 10) for i in range(4)
    ]
    grid = image_series(planes).grid
    # The normal of such images points to the patient's right.
    assert grid.plane_direction == (-1.0, 0.0, 0.0)
    assert grid.origin_mm == (9.0, -50.0, 60.0)
    assert grid.to_patient([3, 2, 1]).tolist() == pytest.approx([0.0, -49.0, 58.0])
    tilt = np.radians(20.0)
    gantry = (1.0, 0.0, 0.0, 0.0, float(np.cos(tilt)), float(np.sin(tilt)))
    normal = np.array([0.0, -np.sin(tilt), np.cos(tilt)])
    tilted = [
        ImagePlane(f"1.{i}", "1.9", tuple(float(v) for v in 2 * i * normal), gantry, (1.0, 1.0), 8, 8)  # type: ignore[arg-type]
        for i in range(3)
    ]
    assert image_series(tilted).grid.spacing_mm == pytest.approx((2.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda p: p[:0], "there is no image"),
        (lambda p: p[:1], "there is one image alone"),
        (
            lambda p: p[:2] + p[3:],
            r"not evenly spaced: 2\.5 mm, but 5 mm behind 32\.5 mm, and so in 1 places",
        ),
        (lambda p: [*p, replace(p[1], instance_uid="1.3")], "1 of 6 images lie where another one lies"),
        (lambda p: [replace(one, frame_of_reference_uid="") for one in p], "name no frame of reference"),
        (lambda p: [*p[:4], replace(p[4], rows=41)], "differ in size or pixel spacing"),
        (lambda p: [*p[:4], replace(p[4], frame_of_reference_uid="1.8")], "in 2 frames of reference"),
        (
            lambda p: [*p[:4], replace(p[4], orientation=(1.0, 0.0, 0.0, 0.0, 0.0, 1.0))],
            "1 of 5 images are turned",
        ),
        (
            lambda p: [*p[:4], replace(p[4], position_mm=(-9.0, -20.0, 40.0))],
            "shifted against each other by 1 mm",
        ),
        (
            lambda p: [replace(one, orientation=(1.0, 0.0, 0.0, 0.5, 1.0, 0.0)) for one in p],
            "no pair of orthogonal",
        ),
        (lambda p: [replace(one, spacing_mm=(500.0, 500.0)) for one in p], "reach over 25 m"),
        (lambda p: [replace(one, spacing_mm=(0.0, 0.0)) for one in p], "have no size"),
    ],
)
def test_what_is_no_grid_says_why(spoil: Callable[[list[ImagePlane]], list[ImagePlane]], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        image_series(spoil(axial()))


def test_small_differences_of_steps_do_not_add_up_unseen() -> None:
    z = np.cumsum([0.0] + [1.0] * 100 + [1.019] * 101)
    planes = [
        replace(axial()[0], instance_uid=f"1.{i}", position_mm=(0.0, 0.0, float(at)))
        for i, at in enumerate(z)
    ]
    with pytest.raises(ImageError, match=r"one is 0\.95\d* mm off its place"):
        image_series(planes)


def test_positions_written_with_few_digits_are_still_evenly_spaced() -> None:
    planes = [replace(p, position_mm=(-10.0, -20.0, round(p.position_mm[2], 2))) for p in axial(200, 1.111)]
    assert image_series(planes).grid.spacing_mm[0] == pytest.approx(1.111, abs=1e-4)


def test_a_header_that_lacks_an_element_names_it() -> None:
    header = Dataset()
    header.SOPInstanceUID, header.FrameOfReferenceUID = "1.2", "1.9"
    header.ImagePositionPatient, header.ImageOrientationPatient = [0, 0, 0], list(AXIAL)
    header.Rows, header.Columns = 4, 6
    with pytest.raises(DicomError, match="has no PixelSpacing"):
        image_plane(header)
    header.PixelSpacing = [0.5, 0.8]
    assert image_plane(header) == ImagePlane("1.2", "1.9", (0.0, 0.0, 0.0), AXIAL, (0.5, 0.8), 4, 6)
    header.ImagePositionPatient = [0, 0]
    with pytest.raises(DicomError, match="ImagePositionPatient that is not 3 finite numbers"):
        image_plane(header)

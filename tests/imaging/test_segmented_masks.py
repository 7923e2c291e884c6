"""The label map of a model on the grid of its series: found whatever its axes are, never moved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses

from mqi_dagster.errors import ImageError, InputError
from mqi_dagster.imaging.segmented_masks import read_labels, region_mask
from tests.imaging.ct_series import oblique_grid
from tests.imaging.drawn_structures import as_itk

GRID = replace(oblique_grid(20.0, 13.0), shape=(5, 7, 9))
LABELS = np.arange(315, dtype=np.uint16).reshape(GRID.shape)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 1, 0), (0, 2, 1)])
@pytest.mark.parametrize("flipped", [(False,) * 3, (True, False, False), (True, True, True)])
def test_axes_may_stand_in_any_order_and_direction(
    tmp_path: Path, order: tuple[int, ...], flipped: tuple[bool, ...]
) -> None:
    turned = sitk.Flip(sitk.PermuteAxes(as_itk(LABELS, GRID), order), flipped)
    sitk.WriteImage(turned, tmp_path / "map.nii.gz")
    assert np.array_equal(read_labels(tmp_path / "map.nii.gz", GRID), LABELS)


def test_a_file_written_by_its_definition_lies_where_nifti_says(tmp_path: Path) -> None:
    """NIfTI counts to the right, front and head: x and y of DICOM with the other sign. Written by hand."""
    header = np.zeros(352, np.uint8)
    header[0:4].view("<i4")[0] = 348
    header[40:56].view("<i2")[:4] = [3, 9, 7, 5]
    header[70:74].view("<i2")[:] = [512, 16]  # unsigned, 16 bits
    header[76:92].view("<f4")[:] = [1, GRID.spacing_mm[2], GRID.spacing_mm[1], GRID.spacing_mm[0]]
    header[108:112].view("<f4")[0] = 352
    header[112:116].view("<f4")[0] = 1
    header[254:256].view("<i2")[0] = 1  # sform
    to_lps = np.column_stack(
        [
            np.array(GRID.row_direction) * GRID.spacing_mm[2],
            np.array(GRID.column_direction) * GRID.spacing_mm[1],
            np.array(GRID.plane_direction) * GRID.spacing_mm[0],
            GRID.origin_mm,
        ]
    )
    header[280:328].view("<f4")[:] = (np.diag([-1, -1, 1]) @ to_lps).ravel()
    header[344:348] = list(b"n+1\0")
    (tmp_path / "map.nii").write_bytes(header.tobytes() + LABELS.tobytes())
    assert np.array_equal(read_labels(tmp_path / "map.nii", GRID), LABELS)


def test_what_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.nii.gz"
    image = as_itk(LABELS, GRID)
    image.SetOrigin((-40.0, 12.5, -6.9))
    sitk.WriteImage(image, path)
    with pytest.raises(ImageError, match=r"it lies 0\.1 mm beside the series"):
        read_labels(path, GRID)
    sitk.WriteImage(as_itk(LABELS[1:], GRID), path)
    with pytest.raises(ImageError, match=r"it has \(4, 7, 9\) voxels, the series \(5, 7, 9\)"):
        read_labels(path, GRID)
    sitk.WriteImage(as_itk(LABELS, replace(GRID, spacing_mm=(2.5, 0.9, 1.2))), path)
    with pytest.raises(ImageError, match=r"beside the series"):
        read_labels(path, GRID)
    image = as_itk(LABELS, GRID)
    image.SetDirection(np.eye(3).ravel().tolist())
    sitk.WriteImage(image, path)
    with pytest.raises(ImageError, match="its axes are not those of the series"):
        read_labels(path, GRID)
    sitk.WriteImage(as_itk(LABELS, replace(GRID, spacing_mm=(2.5, 2.9, 1.1))), path)
    with pytest.raises(ImageError, match="its axes are not those of the series"):
        read_labels(path, GRID)
    with pytest.raises(InputError, match="no NIfTI image, or damaged"):
        path.write_bytes(b"no image")
        read_labels(path, GRID)


def test_a_value_that_is_no_label_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.nii.gz"
    for value, words in ((0.5, "no whole numbers"), (-1.0, "-1"), (70000.0, "70000")):
        values = np.zeros(GRID.shape, np.float32)
        values[2, 3, 4] = value
        sitk.WriteImage(as_itk(values, GRID), path)
        with pytest.raises(ImageError, match=words):
            read_labels(path, GRID)


def test_a_region_has_all_of_its_labels() -> None:
    assert np.argwhere(region_mask(LABELS, (9, 70, 999))).tolist() == [[0, 1, 0], [1, 0, 7]]

"""The values of a series stand where its images lie, or it says what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import SecondaryCaptureImageStorage

from mqi_dagster.errors import DicomError, ImageError
from mqi_dagster.imaging.image_volume import read_volume
from tests.imaging.images import image, written


def series(modality: str = "CT", count: int = 5) -> list[FileDataset]:
    """Images 2.5 mm apart, of which each holds its own number at row 1, column 2."""
    made = []
    for number in range(count):
        values = np.zeros((4, 6), int)
        values[1, 2] = 100 + number
        made.append(image(values, 30 + 2.5 * number, modality=modality, number=number))
    return made


@pytest.mark.parametrize(("modality", "unit"), [("CT", "HU"), ("MR", "")])
def test_each_value_is_in_its_place(tmp_path: Path, modality: str, unit: str) -> None:
    volume = read_volume(written(tmp_path, series(modality)))
    assert volume.values.shape == (5, 4, 6) == volume.grid.shape
    assert volume.values[:, 1, 2].tolist() == [100, 101, 102, 103, 104]
    assert volume.values.sum() == 510
    assert volume.grid.to_patient([3, 1, 2]).tolist() == pytest.approx([-8.4, -19.5, 37.5])
    assert (volume.modality, volume.unit, volume.series_uid) == (modality, unit, "1.2.6")
    assert volume.instance_uids == tuple(f"1.2.6.{number}" for number in range(5))
    assert (volume.patient_position, volume.localizers) == ("HFS", 0)


def test_a_scout_view_is_no_part_of_it(tmp_path: Path) -> None:
    scout = image(np.zeros((9, 9), int), 500, number=77)
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    volume = read_volume(written(tmp_path, [scout, *series()]))
    assert (volume.grid.shape, volume.localizers) == ((5, 4, 6), 1)


def test_the_signal_of_an_mr_is_rescaled_where_it_says_how(tmp_path: Path) -> None:
    images = series("MR")
    for one in images:
        one.RescaleSlope, one.RescaleIntercept = 2, -5
    assert read_volume(written(tmp_path, images)).values[0, 1, 2] == 195


def other_kind(images: list[FileDataset]) -> None:
    images[0].SOPClassUID = SecondaryCaptureImageStorage


def other_series(images: list[FileDataset]) -> None:
    images[0].SeriesInstanceUID = "1.2.7"


def other_position(images: list[FileDataset]) -> None:
    images[0].PatientPosition = "FFS"


def same_image(images: list[FileDataset]) -> None:
    images[0].SOPInstanceUID = images[1].SOPInstanceUID


def missing_image(images: list[FileDataset]) -> None:
    del images[2]


def short_pixels(images: list[FileDataset]) -> None:
    images[0].PixelData = images[0].PixelData[:-10]


def several_values(images: list[FileDataset]) -> None:
    images[0].SamplesPerPixel, images[0].PlanarConfiguration = 3, 0
    images[0].PhotometricInterpretation = "RGB"
    images[0].PixelData = images[0].PixelData * 3


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (other_kind, "is no image of a CT or MR"),
        (other_series, "of 2 different modalities, series or positions"),
        (other_position, "of 2 different modalities, series or positions"),
        (same_image, "two files are the same image"),
        (missing_image, r"not evenly spaced: 2\.5 mm, but 5 mm behind 32\.5 mm"),
        (short_pixels, "has pixels that cannot be decoded"),
        (several_values, "is no single image of one value a pixel"),
    ],
)
def test_what_is_no_series_says_why(
    tmp_path: Path, modality: str, spoil: Callable[[list[FileDataset]], None], reason: str
) -> None:
    images = series(modality)
    spoil(images)
    with pytest.raises((DicomError, ImageError), match=reason):
        read_volume(written(tmp_path, images))

"""RT Doses as other planning systems write them: where their frames lie, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import config

from mqi_dagster.dose.stored_image import read_dose
from mqi_dagster.errors import DoseError
from tests.courses.made_objects import Made, encoded

MADE = Made(1)


def written(**changes: object) -> bytes:
    """Three frames of 4 by 5 voxels, of which each has its own value: frame, row, column."""
    values = np.add.outer(np.add.outer([100, 200, 300], [10, 20, 30, 40]), [1, 2, 3, 4, 5])
    elements = {
        "Rows": 4, "Columns": 5, "NumberOfFrames": 3, "PixelSpacing": [2, 3],
        "ImagePositionPatient": [-10, -20, 30], "GridFrameOffsetVector": [0, 4, 8],
        "FrameIncrementPointer": 0x3004000C, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0,
        "DoseGridScaling": "0.1", "PixelData": values.astype("<u2").tobytes(),
    }  # fmt: skip
    return MADE.dose(**{**elements, **changes})


FEET_FIRST = [1, 0, 0, 0, -1, 0]


@pytest.mark.parametrize(
    ("orientation", "offsets", "last_z"),
    [
        ([1, 0, 0, 0, 1, 0], [0, 4, 8], 38.0),
        ([1, 0, 0, 0, 1, 0], [0, -4, -8], 22.0),
        ([1, 0, 0, 0, 1, 0], [30, 34, 38], 38.0),
        # Their normal points to the feet: distances count along it, positions do not.
        (FEET_FIRST, [0, 4, 8], 22.0),
        (FEET_FIRST, [30, 34, 38], 38.0),
        (FEET_FIRST, [30, 26, 22], 22.0),
    ],
)
def test_frames_lie_where_the_offsets_say(
    orientation: list[int], offsets: list[float], last_z: float
) -> None:
    grid = read_dose(written(ImageOrientationPatient=orientation, GridFrameOffsetVector=offsets))
    assert grid.to_patient([2, 0, 0]).tolist() == pytest.approx([-10, -20, last_z])
    assert grid.to_patient([0, 1, 2]).tolist() == pytest.approx([-4, -20 + 2 * orientation[4], 30])
    assert grid.values[2, 1, 3] == pytest.approx(32.4)


@pytest.mark.parametrize(
    ("z", "offsets", "spacing"),
    [
        (30, ["0", "1.67", "3.33", "5.0"], 5 / 3),
        (30, ["0", "-1.67", "-3.33", "-5.0"], 5 / 3),
        (30, ["30", "31.67", "33.33", "35.0"], 5 / 3),
        # Rounded ends as well: steps of 1.666 mm from 30.004 mm on.
        ("30.004", ["30.0", "31.67", "33.34", "35.0"], 5 / 3),
        (30, ["0", "2.51", "5.0", "7.5"], 2.5),
    ],
)
def test_offsets_of_two_decimals_are_those_of_an_even_grid(
    z: object, offsets: list[str], spacing: float
) -> None:
    four = {"NumberOfFrames": 4, "PixelData": np.full(80, 7, dtype="<u2").tobytes()}
    grid = read_dose(written(ImagePositionPatient=[-10, -20, z], GridFrameOffsetVector=offsets, **four))
    assert grid.frame_spacing_mm == pytest.approx(spacing, rel=1e-9)


@pytest.mark.parametrize(
    "offsets",
    [
        ["0", "2.52", "5.0", "7.5"],
        ["0", "1.65", "3.33", "5.0"],
        ["0", "2", "2", "6"],
        ["0", "4", "2", "6"],
        ["0", "0.01", "0.02", "0.03"],
        ["0", "3", "6", "12"],
    ],
)
def test_frames_that_lie_unevenly_are_refused(offsets: list[str]) -> None:
    four = {"NumberOfFrames": 4, "PixelData": np.full(80, 7, dtype="<u2").tobytes()}
    with pytest.raises(DoseError, match="GridFrameOffsetVector: does not rise in equal steps"):
        read_dose(written(GridFrameOffsetVector=offsets, **four))


def test_positions_of_frames_that_are_not_axial_are_refused() -> None:
    sagittal = written(ImageOrientationPatient=[0, 1, 0, 0, 0, -1], GridFrameOffsetVector=[30, 34, 38])
    with pytest.raises(DoseError, match="GridFrameOffsetVector: starts neither at 0 nor"):
        read_dose(sagittal)


def test_a_scaling_of_many_digits_is_read() -> None:
    with config.disable_value_validation():
        content = written(DoseGridScaling="0.10000000000000000555")
    grid = read_dose(content)
    assert grid.values[0, 0, 0] == pytest.approx(11.1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"DoseUnits": "PERCENT"}, "DoseUnits: is neither GY nor RELATIVE"),
        ({"DoseGridScaling": "0"}, "DoseGridScaling: is not positive"),
        ({"DoseGridScaling": None}, "DoseGridScaling: is missing"),
        ({"GridFrameOffsetVector": [0, 4, 9]}, "GridFrameOffsetVector: does not rise in equal steps"),
        ({"PixelData": bytes(120)}, "the dose is zero everywhere"),
        ({"BitsAllocated": 8}, "BitsAllocated: is neither 16 nor 32"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "SOPClassUID: is not that of an RT Dose"),
    ],
)
def test_what_is_no_dose_is_refused_by_the_name_of_its_attribute(
    changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(DoseError, match=reason):
        read_dose(written(**changes))


def test_what_is_no_dicom_file_is_refused() -> None:
    with pytest.raises(DoseError, match="is not a DICOM file"):
        read_dose(b"no dose" * 40)
    with pytest.raises(DoseError, match="SOPClassUID"):
        read_dose(encoded({"SOPClassUID": "1.2", "SOPInstanceUID": "1.3"}))

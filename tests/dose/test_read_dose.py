"""RT Doses as other planning systems write them: where their frames lie, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from pydicom import config
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

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


def test_31_bits_of_32_are_read() -> None:
    values = np.arange(60, dtype="<u4") + 2**31 - 60
    of_32 = {"BitsAllocated": 32, "BitsStored": 31, "HighBit": 30, "DoseGridScaling": "1e-8"}
    grid = read_dose(written(PixelData=values.tobytes(), **of_32))
    assert grid.values[2, 3, 4] == pytest.approx(21.47483647, rel=1e-12)

    values[7] = 2**31
    with pytest.raises(DoseError, match="PixelData: has values of more than 31 bits"):
        read_dose(written(PixelData=values.tobytes(), **of_32))


def as_syntax(content: bytes, syntax: UID) -> bytes:
    """A dose in another transfer syntax."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        dataset.compress(syntax)
    dataset.file_meta.TransferSyntaxUID = syntax
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


@pytest.mark.parametrize(
    ("syntax", "bits"),
    [(RLELossless, 16), (DeflatedExplicitVRLittleEndian, 16), (DeflatedExplicitVRLittleEndian, 32)],
)
def test_what_is_compressed_without_loss_is_read(syntax: UID, bits: int) -> None:
    values = np.arange(60) * (1000 if bits == 16 else 70_000_000)
    plain = written(
        PixelData=values.astype(f"<u{bits // 8}").tobytes(), BitsAllocated=bits, BitsStored=bits,
        HighBit=bits - 1, DoseGridScaling="1e-3",
    )  # fmt: skip
    grid = read_dose(as_syntax(plain, syntax))
    # Frame 2, row 1, column 3 is the value 2 * 20 + 1 * 5 + 3.
    assert grid.values[2, 1, 3] == pytest.approx(48.0 if bits == 16 else 3_360_000.0)
    assert grid.values.shape == (3, 4, 5)


def with_rle(*frames: bytes, bits: int = 16) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(as_syntax(written(), RLELossless)))
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelData = encapsulate(list(frames))
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


def rle(*segments: bytes) -> bytes:
    """A frame of PS3.5 G: 16 numbers, of segments and where they begin, and the segments."""
    starts = np.cumsum([64, *map(len, segments)])[:-1].tolist()
    return np.array([len(segments), *starts, *[0] * (15 - len(segments))], dtype="<u4").tobytes() + b"".join(
        segments
    )


def test_the_bytes_of_a_run_are_those_of_the_standard() -> None:
    # 20 bytes of 0x01 above 20 of 0x02: 258 * 0.1 Gy everywhere.
    whole = rle(bytes([237, 1]), bytes([237, 2]))
    assert read_dose(with_rle(whole, whole, whole)).values.tolist() == [[[pytest.approx(25.8)] * 5] * 4] * 3

    # The highest byte comes first: 0x01000203.
    whole = rle(*(bytes([237, byte]) for byte in (1, 0, 2, 3)))
    found = read_dose(with_rle(whole, whole, whole, bits=32)).values
    assert found.tolist() == [[[pytest.approx(1_677_773.1)] * 5] * 4] * 3


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([rle(bytes([237, 1]), bytes([237, 2]))] * 2, "PixelData: (holds 2 frames|cannot be decoded)"),
        ([rle(bytes([240, 1]), bytes([237, 2]))] * 3, "PixelData: cannot be decoded"),
        ([rle(bytes([237, 1]))] * 3, "PixelData: cannot be decoded"),
        ([b"no header"] * 3, "PixelData: cannot be decoded"),
        # 6 kB that become 384 kB where 40 bytes belong.
        ([rle(bytes([129, 1]) * 3000, bytes([237, 2]))] * 3, "PixelData: is longer than it would be"),
    ],
)
def test_compressed_values_that_are_damaged_are_refused(frames: list[bytes], reason: str) -> None:
    with pytest.raises(DoseError, match=reason):
        read_dose(with_rle(*frames))


def test_what_would_fill_the_memory_is_not_decoded() -> None:
    dataset = pydicom.dcmread(io.BytesIO(as_syntax(written(), RLELossless)))
    dataset.Rows = dataset.Columns = 65535
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    with pytest.raises(DoseError, match="PixelData: would be 25,769,017,350 bytes, which are not decoded"):
        read_dose(target.getvalue())


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000, JPEGLSLossless])
def test_a_transfer_syntax_that_is_not_decoded_is_refused(syntax: UID) -> None:
    dataset = pydicom.dcmread(io.BytesIO(with_rle(*[b"anything"] * 3)))
    dataset.file_meta.TransferSyntaxUID = syntax
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    with pytest.raises(DoseError, match="TransferSyntaxUID: is one that cannot be decoded here without loss"):
        read_dose(target.getvalue())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"BitsStored": 17}, "BitsStored: is more than 16"),
        ({"BitsStored": 12}, "HighBit: is not 11"),
        ({"PixelData": bytes(119) + b"\1" + bytes(2)}, "PixelData: holds 122 bytes instead of 120"),
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

"""The dose grid that stands in an RT Dose file, checked attribute by attribute."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from mqi_dagster.dicom.elements import axes_of, text_of
from mqi_dagster.dicom.frame_offsets import offsets_along_normal
from mqi_dagster.dicom.proof import MEMORY_BYTES
from mqi_dagster.dicom.reading import DAMAGE, LARGEST_BYTES, cause_of, decoding_as, read_dicom
from mqi_dagster.dose.encoding import DECIMAL_STRING_LENGTH, decode_dose, pixel_type
from mqi_dagster.dose.grid import DoseFrame, DoseGrid, DoseUnits, Vector
from mqi_dagster.dose.plan_reference import elements_of
from mqi_dagster.dose.rt_dose import GRID_FRAME_OFFSET_VECTOR, RT_DOSE_CLASS
from mqi_dagster.errors import DoseError, Where

_OFFSET_TOLERANCE_MM = 0.01
"""Of an offset from the even grid: two decimals, to which the ends of the grid are rounded too."""
NATIVE_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_RLE_HEADER = 1024
"""More than the header and the padding of the segments of a frame (PS3.5 G)."""
_MOST_OF_RLE = 65
"""Bytes that one byte of RLE becomes at most, with itself."""

_WHERE = Where(kind="RT Dose")


def require(condition: bool, keyword: str, what: str) -> None:
    """Raise a DoseError that names the attribute, unless the condition holds."""
    if not condition:
        raise _fault(keyword, what)


def _fault(keyword: str, what: str) -> DoseError:
    """A DoseError that names the attribute."""
    return DoseError(f"{keyword}: {what}", where=_WHERE)


def read_dose(content: bytes) -> DoseGrid:
    """The dose of an RT Dose of any planning system, in the patient.

    Args:
        content: Of the file.

    Raises:
        DoseError: It is no RT Dose, is damaged, has no regular grid, or is zero everywhere.
    """
    with decoding_as(DoseError, _WHERE):
        dataset = read_dicom(content)
        require(text_of(dataset, "SOPClassUID") == RT_DOSE_CLASS, "SOPClassUID", "is not that of an RT Dose")
    with elements_of(_WHERE):
        grid = stored_grid(dataset, DoseFrame.PATIENT)
    grid.require_a_dose()
    return grid


def stored_grid(dataset: FileDataset, frame: DoseFrame) -> DoseGrid:
    """Decode the grid.

    Raises:
        DoseError: An attribute is missing or wrong; the message begins with its keyword.
    """
    values = _values(dataset)
    row_direction, column_direction = _directions(dataset)
    spacing = _numbers(dataset, "PixelSpacing", 2)
    require(min(spacing) > 0.0, "PixelSpacing", "is not positive")
    x, y, z = _numbers(dataset, "ImagePositionPatient", 3)
    normal = np.cross(row_direction, column_direction)
    step = _frame_step(dataset, values.shape[0], z, float(normal[2]))
    normal *= math.copysign(1.0, step)
    units = str(dataset.get("DoseUnits") or "")
    require(units in list(DoseUnits), "DoseUnits", "is neither GY nor RELATIVE")
    return DoseGrid(
        values=values,
        origin_mm=(x, y, z),
        row_direction=row_direction,
        column_direction=column_direction,
        frame_direction=_vector(normal),
        column_spacing_mm=spacing[1],
        row_spacing_mm=spacing[0],
        frame_spacing_mm=abs(step),
        frame=frame,
        units=DoseUnits(units),
    )


def scaling_of(dataset: FileDataset) -> float:
    """Dose Grid Scaling.

    Raises:
        DoseError: It is missing, zero or negative.
    """
    (scaling,) = _numbers(dataset, "DoseGridScaling", 1)
    require(scaling > 0.0, "DoseGridScaling", "is not positive")
    return scaling


def require_short_scaling(dataset: FileDataset) -> None:
    """Refuse a Dose Grid Scaling that some receivers would cut off, though its value is clear.

    Raises:
        DoseError: It is longer than DICOM allows.
    """
    length = len(str(dataset.DoseGridScaling))
    require(length <= DECIMAL_STRING_LENGTH, "DoseGridScaling", f"has {length} characters, more than 16")


def _values(dataset: FileDataset) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    bits = _count(dataset, "BitsAllocated")
    require(bits in (16, 32), "BitsAllocated", "is neither 16 nor 32")
    stored = _count(dataset, "BitsStored")
    require(stored <= bits, "BitsStored", f"is more than {bits}")
    fixed = {"SamplesPerPixel": 1, "HighBit": stored - 1, "PixelRepresentation": 0}
    for keyword, value in fixed.items():
        require(dataset.get(keyword) == value, keyword, f"is not {value}")
    photometric = dataset.get("PhotometricInterpretation")
    require(photometric == "MONOCHROME2", "PhotometricInterpretation", "is not MONOCHROME2")
    frames = _count(dataset, "NumberOfFrames") if "NumberOfFrames" in dataset else 1
    shape = (frames, _count(dataset, "Rows"), _count(dataset, "Columns"))
    pixels = _pixels(dataset, shape, bits)
    require(int(pixels.max()) < 1 << stored, "PixelData", f"has values of more than {stored} bits")
    return decode_dose(pixels, scaling_of(dataset))


def _pixels(dataset: FileDataset, shape: tuple[int, int, int], bits: int) -> NDArray[np.unsignedinteger]:
    """The stored values, of the shape and of so many bits."""
    data = dataset.get("PixelData") or b""
    length = math.prod(shape) * bits // 8
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in NATIVE_SYNTAXES or syntax == DeflatedExplicitVRLittleEndian:
        require(len(data) == length, "PixelData", f"holds {len(data)} bytes instead of {length}")
        return np.frombuffer(data, pixel_type(bits)).reshape(shape)
    require(syntax == RLELossless, "TransferSyntaxUID", "is one that cannot be decoded here without loss")
    frame = length // shape[0]
    require(
        length <= LARGEST_BYTES and frame * _MOST_OF_RLE <= MEMORY_BYTES,
        "PixelData", f"would be {length:,} bytes, which are not decoded",
    )  # fmt: skip
    try:
        # A run of two bytes becomes 128: what is no longer than its frame cannot fill the memory.
        packed = list(generate_frames(data, number_of_frames=shape[0]))
        require(len(packed) == shape[0], "PixelData", f"holds {len(packed)} frames instead of {shape[0]}")
        most = frame + frame // 64 + _RLE_HEADER
        require(max(map(len, packed)) <= most, "PixelData", "is longer than it would be uncompressed")
        pixels = np.asarray(dataset.pixel_array)
    except (RuntimeError, *DAMAGE) as error:
        cause = cause_of(error)
        raise DoseError("PixelData: cannot be decoded", where=_WHERE, first_cause=cause) from None
    require(pixels.size == math.prod(shape), "PixelData", "holds another number of values than it says")
    return pixels.reshape(shape).astype(pixel_type(bits))


def _directions(dataset: FileDataset) -> tuple[Vector, Vector]:
    """Unit vectors along rows and columns, free of the rounding of their decimal strings."""
    axes = axes_of(_numbers(dataset, "ImageOrientationPatient", 6))
    if axes is None:
        raise _fault("ImageOrientationPatient", "is no pair of orthogonal unit vectors")
    return _vector(axes[0]), _vector(axes[1])


def _frame_step(dataset: FileDataset, frames: int, first_z: float, normal_z: float) -> float:
    """Distance between frames along the normal [mm]; the thickness of a single one."""
    if frames == 1:
        thickness = dataset.get("SliceThickness")
        return float(thickness) if thickness is not None and float(thickness) > 0.0 else 1.0
    pointer = dataset.get("FrameIncrementPointer")
    require(pointer == GRID_FRAME_OFFSET_VECTOR, "FrameIncrementPointer", "is not (3004,000C)")
    stated = _numbers(dataset, "GridFrameOffsetVector", frames)
    offsets = offsets_along_normal(stated, first_z, normal_z)
    if offsets is None:
        fault = "starts neither at 0 nor, of axial frames, at the first one's z"
        raise _fault("GridFrameOffsetVector", fault)
    step = float(offsets[-1]) / (frames - 1)
    even = _within(offsets, np.linspace(0.0, offsets[-1], frames)) and abs(step) > _OFFSET_TOLERANCE_MM
    require(even, "GridFrameOffsetVector", "does not rise in equal steps")
    return step


def _within(offsets: ArrayLike, expected: ArrayLike) -> bool:
    """Whether offsets are those that are expected, but for their rounding."""
    # What lies at the limit in decimals may lie beyond it in binary.
    return bool(np.allclose(offsets, expected, rtol=0, atol=_OFFSET_TOLERANCE_MM * (1 + 1e-6)))


def _numbers(dataset: FileDataset, keyword: str, count: int) -> list[float]:
    value = dataset.get(keyword)
    require(value is not None and value != "", keyword, "is missing")
    parts = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    require(len(parts) == count, keyword, f"has {len(parts)} values instead of {count}")
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        raise DoseError(f"{keyword}: is not a number", where=_WHERE) from None
    require(all(math.isfinite(number) for number in numbers), keyword, "is not finite")
    return numbers


def _count(dataset: FileDataset, keyword: str) -> int:
    (number,) = _numbers(dataset, keyword, 1)
    require(number >= 1 and number == int(number), keyword, "is not a positive whole number")
    return int(number)


def _vector(parts: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Vector:
    x, y, z = (float(part) for part in parts)
    return x, y, z

"""Dose values as DICOM pixels, and numbers as DICOM decimal strings."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.dose.grid import DoseGrid, Floats
from mqi_dagster.errors import DoseError, Where

DECIMAL_STRING_LENGTH = 16
"""Greatest length of a DS value, DICOM PS3.5 6.2."""

_SIGNIFICANT_DIGITS = 17
"""Enough for any float64."""

_PIXEL_TYPES: dict[int, np.dtype[np.unsignedinteger]] = {16: np.dtype("<u2"), 32: np.dtype("<u4")}


@dataclass(frozen=True, slots=True, eq=False)
class EncodedDose:
    """Pixels and the factor that turns them back into dose."""

    pixels: NDArray[np.unsignedinteger]
    """Shape of the grid, unsigned little-endian."""
    scaling: str
    """Dose Grid Scaling as it stands in the file."""

    @property
    def bits(self) -> int:
        """Bits per pixel."""
        return int(self.pixels.dtype.itemsize) * 8


def pixel_type(bits: int) -> np.dtype[np.unsignedinteger]:
    """The pixel type of a number of bits.

    Raises:
        DoseError: RT Doses have 16 or 32 bits.
    """
    try:
        return _PIXEL_TYPES[bits]
    except KeyError:
        raise DoseError(f"BitsAllocated is 16 or 32, not {bits}", where=Where(kind="RT Dose")) from None


def decimal_string(value: float, *, round_up: bool = False) -> str:
    """The most precise decimal string of a number that DICOM allows.

    Args:
        value: A finite number.
        round_up: Never below the number, instead of nearest to it.
    """
    exact = Decimal(value)
    rounding = ROUND_CEILING if round_up else ROUND_HALF_EVEN
    if not round_up and len(repr(value)) <= DECIMAL_STRING_LENGTH:
        return repr(value).removesuffix(".0")
    for digits in range(_SIGNIFICANT_DIGITS, 0, -1):
        rounded = Context(prec=digits, rounding=rounding).plus(exact).normalize()
        for text in (f"{rounded:f}", f"{rounded:E}"):
            if len(text) <= DECIMAL_STRING_LENGTH:
                return text
    raise DoseError("the number does not fit a decimal string", where=Where(kind="RT Dose"))


def encode_dose(grid: DoseGrid, bits: int) -> EncodedDose:
    """Dose values as pixels: half to even, the greatest dose at the top of the range.

    The scaling is rounded up to its decimal string first and divides afterwards, so no pixel leaves the
    range and no dose is off by more than half a scaling.

    Raises:
        DoseError: The grid holds no dose, or one too small for its scaling to be a number.
    """
    grid.require_a_dose()
    kind = pixel_type(bits)
    top = int(np.iinfo(kind).max)
    greatest = float(grid.values.max())
    if greatest / top < np.finfo(np.float64).tiny:
        raise DoseError("the dose is too small for DoseGridScaling", where=Where(kind="RT Dose"))
    scaling = decimal_string(greatest / top, round_up=True)
    counts = np.rint(grid.values / float(scaling))
    return EncodedDose(counts.astype(kind), scaling)


def decode_dose(pixels: NDArray[np.unsignedinteger], scaling: float) -> Floats:
    """Dose values of pixels."""
    values = pixels.astype(np.float64)
    values *= scaling
    return values

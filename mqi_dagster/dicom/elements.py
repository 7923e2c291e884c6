"""Values of DICOM elements as plain texts and finite numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from mqi_dagster.errors import DicomError

COSINE_TOLERANCE = 1e-4
"""Of direction cosines, which DICOM carries as short decimal texts."""


def text_of(dataset: Dataset, keyword: str) -> str:
    """The text of an element without padding; empty where it is missing."""
    value = dataset.get(keyword)
    if value is None:
        return ""
    # A backslash in a name parts it for pydicom.
    text = "\\".join(str(part) for part in value) if isinstance(value, MultiValue) else str(value)
    return text.strip(" \0")


def numbers_of(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """The numbers of an element.

    Args:
        dataset: The data set.
        keyword: Of the element.
        count: How many it has to hold.

    Raises:
        DicomError: It is missing, or holds another number of values or one that is not finite.
    """
    value = dataset.get(keyword)
    if value is None or value == "":
        raise DicomError(f"has no {keyword}")
    if isinstance(value, bytes):
        raise DicomError(f"has a {keyword} that is not {count} finite numbers")
    several = [value] if isinstance(value, str | int | float) else list(value)
    numbers = tuple(float(one) for one in several)
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise DicomError(f"has a {keyword} that is not {count} finite numbers")
    return numbers


def axes_of(cosines: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Unit vectors along a row and along a column, free of the rounding of their decimal texts.

    Args:
        cosines: Image Orientation, six direction cosines.

    Returns:
        None where they are no pair of orthogonal unit vectors.
    """
    pair = np.array(cosines).reshape(2, 3)
    if not np.allclose(pair @ pair.T, np.eye(2), rtol=0, atol=COSINE_TOLERANCE):
        return None
    along_row = pair[0] / np.linalg.norm(pair[0])
    along_column = pair[1] - (pair[1] @ along_row) * along_row
    return along_row, along_column / np.linalg.norm(along_column)

"""Values of DICOM elements as plain texts and finite numbers."""

from __future__ import annotations

import math

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from mqi_dagster.errors import DicomError


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

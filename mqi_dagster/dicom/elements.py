"""Values of DICOM elements as plain texts and finite numbers."""

from __future__ import annotations

import math

from pydicom.dataset import Dataset

from mqi_dagster.errors import DicomError


def text_of(dataset: Dataset, keyword: str) -> str:
    """The text of an element without padding; empty where it is missing."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \0")


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
    several = [value] if isinstance(value, str | int | float) else list(value)
    numbers = tuple(float(one) for one in several)
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise DicomError(f"has a {keyword} that is not {count} finite numbers")
    return numbers

"""Typed access to DICOM elements: a missing value, or no finite number, is an error with its place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NoReturn

import numpy as np
from pydicom.datadict import dictionary_description
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from mqi_dagster.errors import PlanError, Where
from mqi_dagster.plan.model import Floats

KIND = "RT plan"


def refuse(message: str, beam: int | None = None, layer: int | None = None) -> NoReturn:
    """Raise a PlanError that names the beam and layer.

    Raises:
        PlanError: Always.
    """
    raise PlanError(
        message, where=Where(kind=KIND, beam=None if beam is None else str(beam), layer=layer)
    ) from None


def text(dataset: Dataset, keyword: str) -> str:
    """The element's text without padding; empty where the element is absent or empty."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def required_text(dataset: Dataset, keyword: str, beam: int | None = None) -> str:
    """The element's text.

    Raises:
        PlanError: The element is absent or empty.
    """
    value = text(dataset, keyword)
    if not value:
        refuse(f"{dictionary_description(keyword)} is missing", beam)
    return value


def optional_number(dataset: Dataset, keyword: str, beam: int | None = None) -> float | None:
    """The element's finite number, or None where the element is absent or empty.

    Raises:
        PlanError: The value is no finite number.
    """
    value = dataset.get(keyword)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        refuse(f"{dictionary_description(keyword)} is not a number", beam)
    if not math.isfinite(number):
        refuse(f"{dictionary_description(keyword)} is not finite", beam)
    return number


def number(dataset: Dataset, keyword: str, beam: int | None = None) -> float:
    """The element's finite number.

    Raises:
        PlanError: The element is absent, empty or no finite number.
    """
    value = optional_number(dataset, keyword, beam)
    if value is None:
        refuse(f"{dictionary_description(keyword)} is missing", beam)
    return value


def optional_integer(dataset: Dataset, keyword: str, beam: int | None = None) -> int | None:
    """The element's integer, or None where the element is absent or empty.

    Raises:
        PlanError: The value is no integer.
    """
    value = optional_number(dataset, keyword, beam)
    if value is None:
        return None
    if value != int(value):
        refuse(f"{dictionary_description(keyword)} is not an integer", beam)
    return int(value)


def integer(dataset: Dataset, keyword: str, beam: int | None = None) -> int:
    """The element's integer.

    Raises:
        PlanError: The element is absent, empty or no integer.
    """
    value = optional_integer(dataset, keyword, beam)
    if value is None:
        refuse(f"{dictionary_description(keyword)} is missing", beam)
    return value


def numbers(dataset: Dataset, keyword: str, beam: int | None = None, layer: int | None = None) -> Floats:
    """The element's finite numbers, shape (n,); n = 0 where the element is absent or empty.

    Raises:
        PlanError: A value is no finite number.
    """
    value = dataset.get(keyword)
    if value is None or value == "":
        return np.empty(0)
    several = value if isinstance(value, Iterable) and not isinstance(value, str | bytes) else [value]
    try:
        array = np.array([float(item) for item in several], dtype=np.float64)
    except (TypeError, ValueError):
        refuse(f"{dictionary_description(keyword)} holds something that is no number", beam, layer)
    if not np.isfinite(array).all():
        refuse(f"{dictionary_description(keyword)} holds a number that is not finite", beam, layer)
    return array


def items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence; none where it is absent or empty.

    Raises:
        PlanError: The element is no sequence.
    """
    if keyword not in dataset:
        return ()
    element: DataElement = dataset[keyword]
    if element.VR != "SQ":
        refuse(f"{dictionary_description(keyword)} is no sequence")
    return tuple(element.value or ())

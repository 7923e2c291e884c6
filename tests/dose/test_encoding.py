"""Scaling and pixels keep every dose within half a step, for any dose."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mqi_dagster.dose.encoding import decimal_string, encode_dose
from mqi_dagster.dose.grid import DoseGrid, DoseUnits, from_patient
from mqi_dagster.errors import DoseError

DS = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def grid_of(values: np.ndarray) -> DoseGrid:
    return from_patient(values.reshape(1, 1, -1), (0, 0, 0), (1, 1, 1), DoseUnits.GY)


@settings(max_examples=500)
@example(shape=np.array([0.5]), greatest=4.1594584758192744e16, bits=32)
@given(
    shape=arrays(np.float64, st.integers(1, 30), elements=st.floats(0.0, 1.0)),
    greatest=st.floats(1e-250, 1e250),
    bits=st.sampled_from([16, 32]),
)
def test_any_dose_comes_back_within_half_a_scaling(shape: np.ndarray, greatest: float, bits: int) -> None:
    values = np.append(shape, 1.0) * greatest
    encoded = encode_dose(grid_of(values), bits)
    scaling = float(encoded.scaling)
    assert len(encoded.scaling) <= 16
    assert DS.fullmatch(encoded.scaling)
    assert scaling >= greatest / (2**bits - 1)
    error = np.abs(encoded.pixels.ravel().astype(np.float64) * scaling - values).max()
    # Half a scaling, and what float64 loses at 2**32 steps in a quotient and a product.
    assert error <= scaling * (0.5 + 2e-6)
    assert error <= greatest / 65535
    # The greatest dose stands at the top of the range, within what 16 characters can say.
    assert encoded.pixels.max() >= (2**bits - 1) * (1 - 1e-8)


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6))
def test_a_decimal_string_is_short_and_close(value: float) -> None:
    text = decimal_string(value)
    assert len(text) <= 16
    assert DS.fullmatch(text)
    assert float(text) == pytest.approx(value, rel=1e-8)


@pytest.mark.parametrize(
    ("value", "text"),
    [(-199.5, "-199.5"), (2.0, "2"), (0.0, "0"), (0.1 + 0.2, "0.3"), (1 / 3, "0.33333333333333")],
)
def test_decimal_strings_are_plain(value: float, text: str) -> None:
    assert decimal_string(value) == text


def test_ties_go_to_the_even_pixel() -> None:
    # A greatest dose of 65535 makes the 16-bit scaling exactly 1.
    encoded = encode_dose(grid_of(np.array([0.5, 1.5, 2.5, 3.5, 65535.0])), 16)
    assert encoded.scaling == "1"
    assert encoded.pixels.ravel().tolist() == [0, 2, 2, 4, 65535]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0, 0.0], "zero everywhere"),
        ([1.0, np.nan], "not finite"),
        ([1.0, np.inf], "not finite"),
        ([1.0, -1e-9], "negative"),
        ([1e-320, 0.0], "too small"),
    ],
)
def test_what_is_no_dose_is_refused(values: list[float], message: str) -> None:
    with pytest.raises(DoseError, match=message):
        encode_dose(grid_of(np.array(values)), 32)


def test_other_pixel_sizes_are_refused() -> None:
    with pytest.raises(DoseError, match="16 or 32, not 8"):
        encode_dose(grid_of(np.ones(3)), 8)

"""The picture of dose-volume curves."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from mqi_dagster.pictures.dvh import DvhCurve, dvh_curves
from mqi_dagster.pictures.style import BYTES_AT_MOST


def curves(*names: str) -> list[DvhCurve]:
    doses = np.linspace(0, 60, 601)
    return [
        DvhCurve(name, doses, 100 / (1 + np.exp((doses - 5 - 3 * number) / 3)))
        for number, name in enumerate(names)
    ]


def test_names_of_any_kind_are_shown_and_the_same_curves_give_the_same_bytes() -> None:
    odd = curves("_PTV$high^3", "a$b", "", "Lung\n_L", "x" * 300)
    png = dvh_curves(odd, "$A", 60.0)
    assert png == dvh_curves(odd, "$A", 60.0)
    assert Image.open(io.BytesIO(png)).size == (760, 380)
    assert png != dvh_curves(odd, "$A", None) != dvh_curves(odd, "B", None)
    assert len(dvh_curves(curves(*map(str, range(150))), "all", None)) <= BYTES_AT_MOST


def test_a_name_that_begins_like_a_private_one_is_in_the_legend() -> None:
    named, other = (dvh_curves(curves(name), "plan", None) for name in ("_PTV", "_GTV"))
    assert named != other

"""The page of a course is one file that shows what is in the data, and nothing that a name makes it do."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from skimage.color import rgb2lab

from mqi_dagster.dose.grid import ALONG_X, ALONG_Y, ALONG_Z, DoseFrame, DoseGrid, DoseUnits
from mqi_dagster.imaging.course_page import (
    STRUCTURE_COLOURS,
    CoursePage,
    PageCheck,
    PageCurve,
    PageStructure,
    PageTable,
    page_html,
    window_of,
)
from mqi_dagster.pictures.style import CT_WINDOWS, ISODOSE_COLOURS
from tests.imaging.shapes import axial_grid

EVIL = "</script><script>alert(1)</script>"


def page(pixels: int = 20, planes: int = 6) -> CoursePage:
    grid = axial_grid(3.0, planes=planes, pixels=pixels)
    image = np.full(grid.shape, -1000.0, np.float32)
    image[2:4, 5:10, 6:12] = 40.0
    mask = np.zeros(grid.shape, bool)
    mask[2:4, 5:10, 6:12] = True
    # A dose of 2 Gy in the half with x > 0.
    values = np.zeros((4, 10, 10))
    values[:, :, 5:] = 2.0
    dose = DoseGrid(
        values, (-4.5, -4.5, -4.5), ALONG_X, ALONG_Y, ALONG_Z, 1.0, 1.0, 3.0, DoseFrame.PATIENT, DoseUnits.GY
    )
    return CoursePage(
        title="Course RABCDEFGHJ.c01",
        verdict="FAIL",
        about=("6 images",),
        grid=grid,
        image=image,
        value_unit="HU",
        windows=CT_WINDOWS,
        structures=[
            PageStructure("PTV", "clinical", "#ff0000", lambda: mask),
            PageStructure(EVIL, "", "#00ff00", lambda: mask),
        ],
        dose=dose,
        levels={"50 % (1 Gy)": 1.0},
        curves=[PageCurve("#ff0000", [0.0, 1.0, 2.0], [100.0, 50.0, 0.0], structure=0)],
        tables=[PageTable("Dose and volume", ["structure", "Volume (cm³)"], [["PTV", "0.18"]])],
        checks=[PageCheck("plan", "FAIL", "there is <no> plan", "Send the plan")],
        provenance=[("code", "0.2.0")],
    )


def data_of(html: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)  # type: ignore[no-any-return]


def unpacked(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def test_the_pixels_masks_and_dose_are_those_of_the_course() -> None:
    data = data_of(page_html(page()))
    assert data["shape"] == [6, 20, 20]
    assert data["spacing_mm"] == [3.0, 1.0, 1.0]
    assert data["first_mm"] == [-7.5, -9.5, -9.5]
    image = np.frombuffer(unpacked(data["image"]), np.uint8).reshape(6, 20, 20)
    shown = np.array(data["grey_values"])[image]
    assert shown[2, 5, 6] == pytest.approx(40, abs=2)
    assert shown[2, 4, 6] == pytest.approx(-1000, abs=6)
    mask = np.unpackbits(np.frombuffer(unpacked(data["structures"][0]["mask"]), np.uint8)).reshape(6, 20, 20)
    assert mask.sum() == 2 * 5 * 6
    assert np.argwhere(mask)[0].tolist() == [2, 5, 6]
    steps = np.frombuffer(unpacked(data["dose"]), np.uint8).reshape(6, 20, 20)
    assert (steps[2, 10, 12] - 1) * data["dose_step"] == pytest.approx(2.0)
    assert steps[2, 10, 7] == 1  # no dose
    assert steps[0, 10, 12] == 0  # above the dose grid: nobody knows it
    assert data["levels"] == [{"value": 128.0, "colour": "#3b6cf6"}]
    assert data["start"] == [2, 7, 8]


def test_a_large_image_is_drawn_smaller_and_stays_in_its_place() -> None:
    large = page(pixels=513)
    data = data_of(page_html(large))
    assert data["shape"] == [6, 171, 171]
    assert data["spacing_mm"] == [3.0, 3.0, 3.0]
    # The first pixel stands for three: its centre is that of the middle one.
    assert data["first_mm"][1:] == [-255.0, -255.0]
    mask = np.unpackbits(np.frombuffer(unpacked(data["structures"][0]["mask"]), np.uint8))[: 6 * 171 * 171]
    assert np.argwhere(mask.reshape(6, 171, 171))[0].tolist() == [2, 2, 2]
    image = np.frombuffer(unpacked(data["image"]), np.uint8).reshape(6, 171, 171)
    assert np.array(data["grey_values"])[image[2, 2, 2]] == pytest.approx(40, abs=2)


def test_the_page_asks_for_nothing_and_a_name_is_a_text() -> None:
    html = page_html(page())
    assert not re.search(r"https?://|src=|href=|url\(|@import", html)
    assert "default-src 'none'" in html
    assert EVIL not in html
    assert "there is &lt;no&gt; plan" in html
    assert data_of(html)["structures"][1]["name"] == EVIL


def test_the_same_course_gives_the_same_page() -> None:
    assert page_html(page()) == page_html(page())


def test_a_course_without_dose_or_structures_has_a_page() -> None:
    html = page_html(replace(page(), dose=None, levels={}, curves=(), structures=(), tables=()))
    data = data_of(html)
    assert (data["dose"], data["structures"], data["start"]) == (None, [], [3, 10, 10])
    assert 'id="dvh"' not in html and 'id="dose"' not in html
    assert "Send the plan" in html


def test_a_course_without_images_has_a_page_that_says_so() -> None:
    html = page_html(
        replace(page(), grid=None, image=None, dose=None, structures=(), notes=("there is no <CT>",))
    )
    data = data_of(html)
    assert (data["image"], data["structures"], len(data["curves"])) == (None, [], 1)
    assert "canvas data-view" not in html and "there is no &lt;CT&gt;" in html
    assert 'id="dvh"' in html and "Send the plan" in html


def test_words_in_tables_stand_at_the_left_and_a_table_has_a_note() -> None:
    table = PageTable("Doses", ["dose", "rule", "Gy"], [["1", "single", "2"]], texts={1}, note="one & all")
    html = page_html(replace(page(), tables=[table], curves_note="of dose 1"))
    assert '<td>1</td><td class="text">single</td><td>2</td>' in html
    assert "one &amp; all" in html and "of dose 1" in html


def test_a_dose_without_levels_can_be_looked_at() -> None:
    html = page_html(replace(page(), levels={}))
    assert 'id="wash"' in html and data_of(html)["levels"] == []


def test_what_no_browser_can_read_is_no_page() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        page_html(replace(page(), curves=[PageCurve("#ff0000", [0.0], [float("nan")])]))


def test_no_structure_has_the_colour_of_an_isodose() -> None:
    every = [*ISODOSE_COLOURS, *STRUCTURE_COLOURS]
    parts = [[int(one[place : place + 2], 16) / 255 for place in (1, 3, 5)] for one in every]
    lab = rgb2lab(np.array([parts]))[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    isodoses = len(ISODOSE_COLOURS)
    assert (isodoses, len(every)) == (6, 22)
    assert apart[:isodoses, isodoses:].min() > 30
    of_structures = apart[isodoses:, isodoses:]
    assert of_structures[~np.eye(16, dtype=bool)].min() > 30


def test_a_colour_is_a_colour() -> None:
    with pytest.raises(ValueError, match="#rrggbb"):
        PageCurve("#f00;position:fixed", [], [])
    with pytest.raises(ValueError, match="#rrggbb"):
        PageStructure("PTV", "", 'red" onclick="', lambda: np.zeros((1, 1, 1), bool))


def test_values_without_a_unit_have_windows_of_their_own() -> None:
    image = np.linspace(0, 1000, 6 * 20 * 20, dtype=np.float32).reshape(6, 20, 20)
    windows = window_of(image)
    assert [(one.name, round(one.low), round(one.high)) for one in windows] == [
        ("all", 10, 995),
        ("dark", 10, 500),
    ]
    data = data_of(page_html(replace(page(), image=image, value_unit="", windows=windows)))
    assert len(data["grey_values"]) == 256
    flat = np.zeros((6, 20, 20), np.float32)
    assert page_html(replace(page(), image=flat, value_unit="", windows=window_of(flat)))

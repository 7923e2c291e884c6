"""Pictures are small, repeatable PNGs that show what they were given."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from mqi_dagster.pictures import dose, spots
from mqi_dagster.pictures.dose import depth_dose, dose_slices, lateral_profiles
from mqi_dagster.pictures.spots import layer_mu_bars, spot_map
from mqi_dagster.pictures.style import as_markdown

PLANNED = (0xD5, 0x5E, 0x00)
DELIVERED = (0x00, 0x72, 0xB2)
NINE = [(x, y) for x in (-60.0, 0.0, 60.0) for y in (-60.0, 0.0, 60.0)]


@dataclass(frozen=True)
class Grid:
    """A dose of frames along z, rows along y and columns along x."""

    values: np.ndarray
    units: str = "GY"

    def axis(self, dimension: int) -> tuple[str, np.ndarray]:
        return "zyx"[dimension], np.arange(self.values.shape[dimension]) * 2.0 - 50.0


def planned() -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.array([spot]), np.array([1.0])) for spot in NINE]


def delivered(per_spot: int, shift: float = 0.0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    noise = np.random.default_rng(4)
    for spot in NINE:
        yield np.array(spot) + shift + noise.normal(0, 0.3, (per_spot, 2)), noise.integers(20, 80, per_spot)


def noisy_dose() -> np.ndarray:
    return np.random.default_rng(5).uniform(0.5, 1.0, (50, 150, 150))


def pixels_of(png: bytes, colour: tuple[int, int, int]) -> int:
    """Pixels of a colour."""
    image = np.round(imread(io.BytesIO(png))[..., :3] * 255).astype(int)
    return int(np.all(np.abs(image - colour) <= 2, axis=-1).sum())


PICTURES: dict[str, Callable[[], bytes]] = {
    "density": lambda: spot_map(planned(), delivered(20_000)),
    "points": lambda: spot_map(planned(), delivered(100)),
    "nothing delivered": lambda: spot_map(planned(), []),
    "nothing at all": lambda: spot_map([], []),
    "crowded plan": lambda: spot_map(
        [(np.random.default_rng(1).uniform(-90, 90, (6000, 2)), np.ones(6000))], delivered(3000)
    ),
    "few layers": lambda: layer_mu_bars([1, 2, 3], [9.0, 9.0, 0.0], [8.9, 8.8, 0.0]),
    "one layer": lambda: layer_mu_bars([4], [9.0], [8.9]),
    "many layers": lambda: layer_mu_bars(list(range(1, 121)), np.ones(120), np.full(120, 0.99)),
    "depth dose": lambda: depth_dose(np.arange(1.0, 99.0, 2.0), np.arange(1.0, 50.0), "GY", 90.0),
    "depth dose without range": lambda: depth_dose([1.0, 3.0, 5.0], [1.0, 2.0, 3.0], "RELATIVE", None),
    "profiles": lambda: lateral_profiles(
        [-2.0, 0.0, 2.0], [0.1, 1.0, 0.1], [-2.0, 0.0, 2.0], [0.2, 1.0, 0.0], units="GY", depth_mm=20.0
    ),
    "slices of noise": lambda: dose_slices(Grid(noisy_dose())),
    "plane of noise": lambda: dose_slices(Grid(np.random.default_rng(6).random((1, 402, 401)), "RELATIVE")),
}


@pytest.mark.parametrize("name", list(PICTURES))
def test_a_picture_is_a_small_png_that_says_nothing_of_who_made_it_or_when(name: str) -> None:
    png = PICTURES[name]()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert 2_000 < len(png) < 60_000
    assert b"tEXt" not in png
    assert b"tIME" not in png
    height, width, _ = imread(io.BytesIO(png)).shape
    assert height >= 150
    assert width >= 300


@pytest.mark.parametrize("name", ["density", "points", "few layers", "depth dose", "profiles"])
def test_the_same_numbers_give_the_same_bytes(name: str) -> None:
    assert PICTURES[name]() == PICTURES[name]()


def test_axes_are_named_alike_in_all_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()

    def look(figure: Figure) -> bytes:
        for axes in figure.axes:
            seen.update(label for label in (axes.get_xlabel(), axes.get_ylabel()) if label)
        return b""

    monkeypatch.setattr(spots, "as_png", look)
    monkeypatch.setattr(dose, "as_png", look)
    for draw in PICTURES.values():
        draw()
    lengths = {label for label in seen if label.endswith("[mm]")}
    assert lengths == {
        "beam x [mm]", "beam y [mm]", "beam x or y [mm]", "depth in water [mm]",
        "DICOM x [mm]", "DICOM y [mm]", "DICOM z [mm]",
    }  # fmt: skip
    assert seen - lengths == {
        "dose [Gy]", "dose [relative]", "integral dose [% of maximum]", "monitor units [MU]", "layer number",
        "MU ratio", "delivered counts per area [% of maximum]",
    }  # fmt: skip


def test_delivered_samples_are_drawn_where_they_were() -> None:
    on_plan, shifted = spot_map(planned(), delivered(100)), spot_map(planned(), delivered(100, shift=8.0))
    assert pixels_of(on_plan, DELIVERED) > 100
    assert on_plan != shifted


def test_what_lies_outside_the_plan_is_said_and_does_not_stretch_the_picture() -> None:
    rest = spot_map(planned(), [(np.array([[295.0, -232.0]]), np.array([50.0]))])
    nothing = spot_map(planned(), [])
    assert rest != nothing
    # The circles are as large and as many as without it; of the sample itself only the legend's mark is blue.
    assert pixels_of(rest, PLANNED) == pytest.approx(pixels_of(nothing, PLANNED), rel=0.05)
    assert pixels_of(rest, DELIVERED) < 10


def test_planned_and_delivered_bars_are_not_confused() -> None:
    full = layer_mu_bars([1, 2, 3], [9.0, 9.0, 9.0], [9.0, 9.0, 9.0])
    half = layer_mu_bars([1, 2, 3], [9.0, 9.0, 9.0], [4.5, 4.5, 4.5])
    assert pixels_of(half, DELIVERED) == pytest.approx(pixels_of(full, DELIVERED) / 2, rel=0.05)


def test_markdown_carries_the_picture() -> None:
    text = as_markdown(b"\x89PNG", "Depth dose [beam 2]\nof the phantom")
    assert text == "![Depth dose (beam 2) of the phantom](data:image/png;base64,iVBORw==)"
    assert base64.b64decode("iVBORw==") == b"\x89PNG"


def test_pictures_leave_the_global_state_of_matplotlib_alone() -> None:
    code = (
        "import sys, mqi_dagster.pictures.dose, mqi_dagster.pictures.spots;"
        "print(sorted(m for m in sys.modules if m in"
        " ('matplotlib.pyplot', 'dagster', 'mqi_dagster.dose.grid', 'pydicom')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

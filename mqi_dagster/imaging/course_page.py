"""One page of a course for people: slices, structures, isodoses, dose and volume, checks, provenance.

It is one file that asks for nothing from anywhere: pixels, masks and dose are inside, packed, and a script of
its own draws them. What is drawn has at most 256 pixels across; figures come from the full data alone.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

import numpy as np
from jinja2 import Environment
from markupsafe import Markup
from numpy.typing import NDArray

from mqi_dagster.dose.grid import DoseGrid
from mqi_dagster.imaging.dvh import dose_at
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.pictures.style import ISODOSE_COLOURS, Window

MOST_PIXELS = 256
"""Across and down an image: with more a page of 200 images has 50 MB."""

_CT_VALUES = np.concatenate([np.arange(-1024, -200, 12), np.arange(-200, 300, 4), np.arange(300, 3090, 45)])
"""The 256 Hounsfield units that a page tells apart: fine where soft tissue is."""
_AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
_DOSE_STEPS = 254
STRUCTURE_COLOURS = (
    *("#ff5cc8", "#b4f069", "#3cffff", "#a5870f", "#e1f0b4", "#0f96ff", "#5a9669", "#00ffc3"),
    *("#ffb4b4", "#d200ff", "#a578b4", "#ff2d69", "#c3694b", "#c378ff", "#3cff78", "#00ff00"),
)
"""Far from each other, and from those of isodoses, as the eye sees them: CIELAB 30 or more apart."""


@dataclass(frozen=True, slots=True)
class PageStructure:
    """A structure to draw."""

    name: str
    source: str
    colour: str
    """``#rrggbb``."""
    mask: Callable[[], NDArray[np.bool_]]
    """Gives its mask, shape of the grid: of a hundred structures one mask is held at a time."""

    def __post_init__(self) -> None:
        _require_colour(self.colour)


@dataclass(frozen=True, slots=True)
class PageCurve:
    """A dose-volume curve."""

    colour: str
    doses: Sequence[float]
    """[Gy]"""
    percent: Sequence[float]
    structure: int | None = None
    """Place of its structure among those of the page, with which it is shown and hidden."""
    name: str = ""

    def __post_init__(self) -> None:
        _require_colour(self.colour)


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table of texts."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: Collection[int] = ()
    """Places of the columns, beside the first, that hold words and no numbers."""
    note: str = ""
    """What has to be said of it."""


@dataclass(frozen=True, slots=True)
class PageCheck:
    """What a check has found."""

    name: str
    verdict: str
    """PASS, WARNING or FAIL."""
    text: str
    advice: str


@dataclass(frozen=True, slots=True)
class CoursePage:
    """What a page shows."""

    title: str
    verdict: str
    about: Sequence[str]
    notes: Sequence[str] = ()
    """What is missing, and why."""
    grid: ImageGrid | None = None
    """None where there is no image to draw, and so no structure and no dose either."""
    image: NDArray[np.float32] | None = None
    """Shape of the grid."""
    value_unit: str = ""
    """HU of a CT; empty where values have none."""
    windows: Sequence[Window] = ()
    structures: Sequence[PageStructure] = ()
    dose: DoseGrid | None = None
    levels: Mapping[str, float] = field(default_factory=dict)
    """Isodoses to draw, at most six, by what they are called; rising."""
    curves: Sequence[PageCurve] = ()
    curves_note: str = ""
    """Of which dose the curves are."""
    tables: Sequence[PageTable] = ()
    checks: Sequence[PageCheck] = ()
    provenance: Sequence[tuple[str, str]] = ()


def _require_colour(colour: str) -> None:
    if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
        raise ValueError("a colour is written #rrggbb")


def page_html(page: CoursePage) -> str:
    """The page, for any browser of the last years."""
    template = resources.files(__package__).joinpath("course_page.html").read_text(encoding="utf-8")
    levels = [
        {"label": label, "colour": colour}
        for label, colour in zip(page.levels, ISODOSE_COLOURS, strict=False)
        if page.dose is not None
    ]
    # In a script nothing is decoded but its end: it must not be in a name.
    data = Markup(json.dumps(_data(page), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))
    return (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            title=page.title,
            verdict=page.verdict,
            about=page.about,
            notes=page.notes,
            drawn=page.image is not None,
            windows=page.windows,
            dose=page.dose is not None,
            levels=levels,
            structures=page.structures,
            curves=page.curves,
            curves_note=page.curves_note,
            tables=page.tables,
            checks=page.checks,
            provenance=page.provenance,
            data=data,
        )
    )


def is_axial(grid: ImageGrid) -> bool:
    """Whether images lie across the patient, so that their axes have names."""
    return np.allclose((grid.row_direction, grid.column_direction), _AXIAL, rtol=0, atol=1e-3)


def window_of(image: NDArray[np.float32]) -> tuple[Window, ...]:
    """Windows of an image whose values have no unit, as those of MR."""
    low, middle, high = (float(one) for one in np.percentile(image, (1, 50, 99.5)))
    return (Window("all", low, max(high, low + 1)), Window("dark", low, max(middle, low + 1)))


def _data(page: CoursePage) -> dict[str, object]:
    curves = [
        {
            "structure": one.structure,
            "name": one.name,
            "colour": one.colour,
            "doses": list(one.doses),
            "percent": list(one.percent),
        }
        for one in page.curves
    ]
    found: dict[str, object] = {"curves": curves, "structures": [], "dose": None, "image": None}
    if page.grid is not None and page.image is not None:
        found |= _pictures(page, page.grid, page.image)
    return found


def _pictures(page: CoursePage, grid: ImageGrid, image: NDArray[np.float32]) -> dict[str, object]:
    factor = max(1, math.ceil(max(grid.shape[1:]) / MOST_PIXELS))
    step = np.array([1, factor, factor])
    shape = tuple(int(count) for count in np.ceil(np.array(grid.shape) / step))
    # The middle of the pixels that one on the page stands for.
    first = grid.to_patient((step - 1) / 2)
    axial = is_axial(grid)
    values = _values(page, image)
    masks: list[str] = []
    start = [count // 2 for count in shape]
    for one in page.structures:
        mask = one.mask()
        if not masks and mask.any():
            start = _middle(mask, step, shape)
        masks.append(_packed(np.packbits(_reduced_mask(mask, factor, shape))))
    found: dict[str, object] = {
        "shape": shape,
        "spacing_mm": [float(one) for one in np.array(grid.spacing_mm) * step],
        "first_mm": [float(first[axis]) for axis in (2, 1, 0)] if axial else [0.0, 0.0, 0.0],
        "axes": ["z", "y", "x"] if axial else ["plane", "row", "column"],
        "views": ["axial", "coronal", "sagittal"] if axial else ["images", "across rows", "across columns"],
        "marks": [["R", "L"], ["R", "L"], ["A", "P"]] if axial else [["", ""]] * 3,
        "start": start,
        "image": _packed(_grey(_reduced(image, factor), values)),
        "grey_values": [round(float(one), 1) for one in values],
        "value_unit": page.value_unit,
        "structures": [
            {"name": one.name, "colour": one.colour, "mask": mask}
            for one, mask in zip(page.structures, masks, strict=True)
        ],
        "levels": [],
        "dose_unit": "",
        "dose_step": 0.0,
        "dose_top": _DOSE_STEPS,
        "dose": None,
    }
    if page.dose is not None:
        found |= _dose(page.levels, page.dose, grid, step, shape)
    return found


def _dose(
    levels: Mapping[str, float],
    dose: DoseGrid,
    grid: ImageGrid,
    step: NDArray[np.int_],
    shape: tuple[int, ...],
) -> dict[str, object]:
    """The dose at the pixels of the page, in 254 steps of its maximum from 1; 0 where it is not known."""
    highest = float(dose.values.max()) or 1.0
    found = np.zeros(shape, np.uint8)
    in_plane = np.indices(shape[1:]).reshape(2, -1).T
    first = grid.to_patient(np.insert(in_plane, 0, 0, axis=1) * step + (step - 1) / 2)
    between_planes = np.array(grid.plane_direction) * grid.spacing_mm[0]
    for plane in range(shape[0]):
        steps = 1 + np.rint(dose_at(dose, first + plane * between_planes) / highest * _DOSE_STEPS)
        found[plane] = np.nan_to_num(steps, nan=0.0).reshape(shape[1:])
    return {
        "dose": _packed(found),
        "dose_unit": dose.units.shown,
        "dose_step": highest / _DOSE_STEPS,
        "levels": [
            {"value": 1 + value / highest * _DOSE_STEPS, "colour": colour}
            for value, colour in zip(levels.values(), ISODOSE_COLOURS, strict=False)
        ],
    }


def _values(page: CoursePage, image: NDArray[np.float32]) -> NDArray[np.float64]:
    """The 256 values that a page tells apart."""
    if page.value_unit == "HU":
        return np.asarray(_CT_VALUES, float)
    low, high = (float(one) for one in np.percentile(image, (0.1, 99.9)))
    return np.linspace(low, max(high, low + 1), 256)


def _grey(image: NDArray[np.float32], values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.searchsorted((values[1:] + values[:-1]) / 2, image).astype(np.uint8)


def _reduced(image: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Means of blocks of pixels in each plane; what is over at the ends goes with its neighbours."""
    if factor == 1:
        return image
    rows, columns = (np.arange(0, count, factor) for count in image.shape[1:])
    sums = np.add.reduceat(np.add.reduceat(image, rows, axis=1), columns, axis=2)
    counts = np.outer(np.diff(rows, append=image.shape[1]), np.diff(columns, append=image.shape[2]))
    return np.asarray(sums / counts, dtype=np.float32)


def _reduced_mask(mask: NDArray[np.bool_], factor: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels of the page of which half or more is inside; only the box of the structure is looked at."""
    found = np.zeros(shape, bool)
    inside = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not len(inside[0]):
        return found
    low = [int(one[0]) // step for one, step in zip(inside, (1, factor, factor), strict=True)]
    high = [int(one[-1]) // step + 1 for one, step in zip(inside, (1, factor, factor), strict=True)]
    rows, columns = (slice(low[axis] * factor, high[axis] * factor) for axis in (1, 2))
    box = mask[low[0] : high[0], rows, columns].astype(np.float32)
    found[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = _reduced(box, factor) >= 0.5
    return found


def _middle(mask: NDArray[np.bool_], step: NDArray[np.int_], shape: tuple[int, ...]) -> list[int]:
    """The pixel of the page in the middle of a structure: where the cross is at first."""
    found = []
    for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
        middle = np.median(np.flatnonzero(mask.any(axis=others)))
        found.append(int(min(middle // step[axis], shape[axis] - 1)))
    return found


def _packed(values: NDArray[np.uint8]) -> str:
    # Without a time in its head: the same course gives the same page.
    return base64.b64encode(gzip.compress(values.tobytes(), compresslevel=6, mtime=0)).decode("ascii")

"""One slice of a dose over what it was computed in, or of an image with regions in it, for the slice viewers:
dots of one size in mm each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from mqi_dagster.pictures.style import DOSE_MAP, Window

Floats = NDArray[np.float64]

_WASH = 0.6
"""Opacity of the colours."""
_TINT = 0.4
"""Likewise of regions."""
_SHOWN_ABOVE = 0.05
"""Of the maximum: below, a slice is not coloured."""
_BAR_MM = (200, 100, 50, 20, 10, 5)
_INK, _SHADE = (255, 255, 255), (0, 0, 0)
_BESIDE = 16
"""Dots from a line to its label, so that the label hides nothing inside."""
_FREE = 6
"""Dots between what is written and the edge."""


@dataclass(frozen=True, slots=True)
class Isodose:
    """A line of equal dose."""

    label: str
    """A few characters, written beside the line."""
    value: float
    colour: str


def dose_slice(
    hounsfield: Floats,
    dose: Floats,
    *,
    window: Window,
    maximum: float,
    wash: bool,
    isodoses: Sequence[Isodose],
    mm_per_dot: float,
    edges: tuple[str, str, str, str],
    note: str = "",
) -> bytes:
    """A slice as PNG.

    Args:
        hounsfield: Shape (down, across); NaN, drawn black, where it is not known.
        dose: Of the same shape; NaN where it is not known.
        window: Hounsfield units that are drawn black and white.
        maximum: Of the whole dose: the top of the colours.
        wash: Whether the dose is drawn as colours.
        isodoses: Lines to draw.
        mm_per_dot: Size of a dot, down and across.
        edges: What lies at the left, right, upper and lower edge.
        note: What has to be said of the slice.
    """
    pixels = _grey(hounsfield, window)
    share = np.nan_to_num(dose) / maximum
    if wash:
        coloured = share >= _SHOWN_ABOVE
        colours = matplotlib.colormaps[DOSE_MAP](np.clip(share[coloured], 0.0, 1.0))[:, :3]
        pixels[coloured] = (1.0 - _WASH) * pixels[coloured] + _WASH * colours
    lines = [(one, _outline(np.nan_to_num(dose) >= one.value)) for one in isodoses]
    picture = _picture_of(pixels, [(one.colour, line) for one, line in lines])
    for number, (one, line) in enumerate(lines):
        places = np.argwhere(line)
        if len(places):
            # In another direction each, so that labels of neighbouring lines do not meet.
            turn = 2.0 * np.pi * number / len(isodoses)
            way = np.array((np.sin(turn), np.cos(turn)))
            down, across = places[np.argmax(places @ way)] + _BESIDE * way
            _write(ImageDraw.Draw(picture), (float(across), float(down)), one.label, "mm")
    return _finished(picture, mm_per_dot, edges, note)


def region_slice(
    values: Floats,
    regions: Sequence[tuple[str, NDArray[np.bool_]]],
    *,
    window: Window,
    colours: bool,
    outlines: bool,
    mm_per_dot: float,
    edges: tuple[str, str, str, str],
) -> bytes:
    """A slice of an image with regions in it, as PNG.

    Args:
        values: Shape (down, across).
        regions: Colour and mask of each, of the same shape.
        window: Values that are drawn black and white.
        colours: Whether the regions are coloured.
        outlines: Whether their outlines are drawn.
        mm_per_dot: Size of a dot, down and across.
        edges: What lies at the left, right, upper and lower edge.
    """
    pixels = _grey(values, window)
    for colour, mask in regions if colours else ():
        tint = np.array(ImageColor.getrgb(colour)[:3]) / 255.0
        pixels[mask] = (1.0 - _TINT) * pixels[mask] + _TINT * tint
    lines = [(colour, _outline(mask)) for colour, mask in regions] if outlines else []
    return _finished(_picture_of(pixels, lines), mm_per_dot, edges, "")


def _grey(values: Floats, window: Window) -> Floats:
    grey = np.clip((values - window.low) / (window.high - window.low), 0.0, 1.0)
    return np.repeat(np.nan_to_num(grey)[..., np.newaxis], 3, axis=2)


def _picture_of(pixels: Floats, lines: Sequence[tuple[str, NDArray[np.bool_]]]) -> Image.Image:
    picture = Image.fromarray(np.rint(255.0 * pixels).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for colour, line in lines:
        draw.bitmap((0, 0), Image.fromarray(np.where(line, 255, 0).astype(np.uint8)), colour)
    return picture


def _write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, anchor: str) -> None:
    font = ImageFont.load_default(12)
    draw.text(at, text, _INK, font, anchor, stroke_width=2, stroke_fill=_SHADE)


def _finished(picture: Image.Image, mm_per_dot: float, edges: tuple[str, str, str, str], note: str) -> bytes:
    """A picture with its edges named and a bar of a length, as PNG."""
    draw, (width, height) = ImageDraw.Draw(picture), picture.size
    ends = ((_FREE, height / 2), (width - _FREE, height / 2), (width / 2, _FREE), (width / 2, height - _FREE))
    for at, text, anchor in zip(ends, edges, ("lm", "rm", "ma", "md"), strict=True):
        _write(draw, at, text, anchor)
    length = next((mm for mm in _BAR_MM if mm / mm_per_dot < width / 3), _BAR_MM[-1])
    bar = (_FREE, height - _FREE, _FREE + length / mm_per_dot, height - _FREE)
    draw.line(bar, _SHADE, 4)
    draw.line(bar, _INK, 2)
    _write(draw, (_FREE, height - _FREE - 4), f"{length} mm", "ld")
    if note:
        _write(draw, (_FREE, _FREE), note, "la")
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The dots inside that have a neighbour outside, and these neighbours."""
    line = np.zeros_like(inside)
    for axis in (0, 1):
        differs = np.diff(inside, axis=axis)
        for shift in ((0, 1), (1, 0)):
            line |= np.pad(differs, [shift if one == axis else (0, 0) for one in (0, 1)])
    return line

"""Slices of a course with the outlines of its structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.pictures.style import INK, as_png, new_figure

_PIXELS_AT_MOST = 256
_GREYS = 31


@dataclass(frozen=True, slots=True)
class Slice:
    """A plane through an image."""

    title: str
    pixels: NDArray[np.float32]
    """Shape (down, across)."""
    spacing_mm: tuple[float, float]
    """Down, and across."""
    outlines: Sequence[tuple[str, NDArray[np.bool_]]]
    """Colour and mask of each structure in the plane."""
    rises: bool
    """Whether the first row is the lowest one."""


def course_slices(slices: Sequence[Slice], low: float, high: float) -> bytes:
    """Slices beside each other.

    Args:
        slices: Of one image.
        low: Value that is drawn black.
        high: Value that is drawn white.

    Returns:
        PNG.
    """
    figure = new_figure(3.1 * len(slices), 3.3)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.9, wspace=0.04)
    for place, one in enumerate(slices, start=1):
        axes = figure.add_subplot(1, len(slices), place)
        step = max(1, -(-max(one.pixels.shape) // _PIXELS_AT_MOST))
        down, across = one.spacing_mm
        share = np.clip((one.pixels[::step, ::step] - low) / (high - low), 0.0, 1.0)
        axes.imshow(
            # A picture keeps few colours, and the outlines need theirs.
            np.rint(share * _GREYS) / _GREYS,
            cmap="gray",
            vmin=0.0,
            vmax=1.0,
            origin="lower" if one.rises else "upper",
            aspect=down / across,
        )
        for colour, mask in one.outlines:
            seen = mask[::step, ::step]
            if seen.any() and not seen.all():
                axes.contour(seen, levels=[0.5], colors=[colour], linewidths=1.0)
        axes.set_title(one.title, fontsize=9, color=INK, loc="left")
        axes.set_axis_off()
    return as_png(figure)

"""One look for every picture, and the way from a figure to bytes.

Colours are from Okabe and Ito, which colour-blind people can tell apart; maps grow darker with the value.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image

PLANNED = "#d55e00"
"""Vermilion: what was planned."""
DELIVERED = "#0072b2"
"""Blue: what was delivered, and its dose."""
SECOND = "#009e73"
"""Green: the second of two equal lines."""
INK = "#333333"
QUIET = "#8a8a8a"
GRID = "#e4e4e4"
DENSITY_MAP = "Blues"
DOSE_MAP = "cividis"
ISODOSE_COLOURS = ("#3b6cf6", "#28b4c8", "#3fbf5f", "#e6d23a", "#f2902b", "#e8402f")
"""On grey images, from low to high."""

_COARSER = (100, 80, 64, 50)
"""Dots per inch to try, until a picture of noise is small enough."""

_PLAIN_POWERS = (-3, 5)
"""Numbers beyond these powers of ten are written with one, so that they fit beside the axis."""
EDGE_IN = 0.12
"""Free beside axes at which nothing else stands [inch]."""
_LEFT_IN, _TOP_IN = 0.72, 0.34
"""Margins for a label and numbers of six digits, and for a title."""

BYTES_AT_MOST = 30_000
"""Metadata are read whole by every page that lists them, and stand twice in Dagster's records."""

_COLOURS = 64
"""Of a picture, chosen so that none of it is far from what was drawn, however few dots have it: the hottest
voxels above all."""


BEAM_X, BEAM_Y, BEAM_X_OR_Y = "beam x [mm]", "beam y [mm]", "beam x or y [mm]"
"""IEC gantry axes of the plan's spots, for every picture across the beam."""
DEPTH = "depth in water [mm]"


@dataclass(frozen=True, slots=True)
class Window:
    """Values that are drawn black and white."""

    name: str
    low: float
    high: float


CT_WINDOWS = (
    Window("soft tissue", -160, 240),
    Window("lung", -1350, 150),
    Window("bone", -350, 1250),
    Window("brain", 0, 80),
)


def dicom_axis(name: str) -> str:
    """A DICOM patient axis of a dose, ``x``, ``y`` or ``z``, as pictures name it."""
    return f"DICOM {name} [mm]"


def new_figure(
    width_in: float, height_in: float, *, right_in: float = EDGE_IN, bottom_in: float = 0.5
) -> Figure:
    """A white figure that no other part of the process knows of.

    Its margins are fixed: a layout that makes room for each label measures every text twice, half of the
    time that a picture takes.

    Args:
        width_in: Width of the picture [inch].
        height_in: Its height [inch].
        right_in: Kept free at the right of the axes [inch].
        bottom_in: Kept free below them, for labels and what else stands there [inch].
    """
    figure = Figure(figsize=(width_in, height_in), dpi=_COARSER[0])
    figure.patch.set_facecolor("white")
    figure.subplots_adjust(
        left=_LEFT_IN / width_in,
        right=1.0 - right_in / width_in,
        bottom=bottom_in / height_in,
        top=1.0 - _TOP_IN / height_in,
    )
    return figure


def dress(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title, labels, and thin lines that stay behind the data."""
    axes.set_title(title, fontsize=11, color=INK, loc="left", y=1.0)
    # A power of ten stands above the numbers that it is of, in the margin, and not in the title's room.
    figure = axes.get_figure(root=True)
    assert figure is not None
    axes_in = axes.get_position().width * figure.get_figwidth()
    axes.ticklabel_format(axis="y", style="sci", scilimits=_PLAIN_POWERS)
    axes.yaxis.get_offset_text().set(x=-0.55 / axes_in, fontsize=8, color=INK)
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.set_ylabel(y_label, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=3)
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(QUIET)


def legend(axes: Axes, corner: Literal["upper left", "lower right"], anchor: tuple[float, float]) -> None:
    """A legend without a box, in one row.

    Args:
        axes: Whose.
        corner: The corner of the legend that stands at the anchor.
        anchor: In fractions of the axes.
    """
    axes.legend(
        loc=corner,
        bbox_to_anchor=anchor,
        ncols=2,
        fontsize=8,
        frameon=False,
        labelcolor=INK,
        borderaxespad=0.2,
    )


BAR_IN = 0.95
"""What a colour bar with its label takes at the right of a figure [inch]."""


def colour_bar(
    figure: Figure, image: ScalarMappable, label: str, ticks: Sequence[float] | None = None
) -> None:
    """A colour bar in the right margin of a figure that keeps `BAR_IN` free."""
    width = figure.get_figwidth()
    low, high = figure.subplotpars.bottom, figure.subplotpars.top
    inset = 0.1 * (high - low)
    axes = figure.add_axes((1.0 - (BAR_IN - 0.15) / width, low + inset, 0.14 / width, high - low - 2 * inset))
    bar = figure.colorbar(image, cax=axes, ticks=ticks)
    bar.set_label(label, fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK, length=3)
    bar.ax.minorticks_off()
    bar.outline.set_linewidth(0.0)


def as_png(figure: Figure) -> bytes:
    """The figure as PNG of at most `BYTES_AT_MOST`; the same figure gives the same bytes."""
    for dots in _COARSER:
        buffer = io.BytesIO()
        figure.set_dpi(dots)
        # Not savefig, which draws everything twice: once only to lay it out.
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        picture = Image.fromarray(pixels).convert("RGB")
        picture.quantize(_COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            buffer, format="png", optimize=True
        )
        if buffer.tell() <= BYTES_AT_MOST:
            break
    return buffer.getvalue()


def as_markdown(png: bytes, alt: str) -> str:
    """A picture that carries its data with it, for markdown metadata.

    Args:
        png: The picture.
        alt: What it shows, in words.
    """
    words = " ".join(alt.replace("[", "(").replace("]", ")").split())
    return f"![{words}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})"

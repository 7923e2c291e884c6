"""Dose-volume curves of the structures of a course."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.errors import shown
from mqi_dagster.pictures.style import INK, PLANNED, as_png, dress, new_figure

CURVES_AT_MOST = 12
"""More cannot be told apart."""
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_STYLES = ("-", "--")
_NAMES_IN = 1.95
_LONGEST_NAME = 24


@dataclass(frozen=True, slots=True)
class DvhCurve:
    """The cumulative curve of one structure."""

    name: str
    dose_gy: NDArray[np.float64]
    """Rising."""
    volume_percent: NDArray[np.float64]
    """What gets at least each dose."""


def dvh_curves(curves: Sequence[DvhCurve], title: str, prescription_gy: float | None) -> bytes:
    """The curves in one plot.

    Args:
        curves: At most `CURVES_AT_MOST` are drawn, and the title says how many there are.
        title: Of what dose.
        prescription_gy: Prescribed dose, if there is one [Gy].

    Returns:
        PNG.
    """
    figure = new_figure(7.6, 3.8, right_in=_NAMES_IN)
    axes = figure.add_subplot()
    drawn = curves[:CURVES_AT_MOST]
    for number, curve in enumerate(drawn):
        axes.plot(
            curve.dose_gy,
            curve.volume_percent,
            _STYLES[number // len(_COLOURS)],
            color=_COLOURS[number % len(_COLOURS)],
            linewidth=1.5,
            label=_text(curve.name),
        )
    if prescription_gy is not None:
        axes.axvline(prescription_gy, color=PLANNED, linewidth=0.8, linestyle=":", label=" prescribed dose")
    axes.set_xlim(left=0.0)
    axes.set_ylim(0.0, 103.0)
    more = f" ({len(drawn)} of {len(curves)} structures)" if len(drawn) < len(curves) else ""
    dress(axes, _text(title, 60) + more, "dose [Gy]", "volume [%]")
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.02), fontsize=8, frameon=False, labelcolor=INK,
        borderaxespad=0.2,
    )  # fmt: skip
    return as_png(figure)


def _text(name: str, longest: int = _LONGEST_NAME) -> str:
    """A name as matplotlib shows it: no formula, and not left out for beginning with ``_``."""
    return " " + shown(name, longest).replace("$", r"\$")

"""Planned and delivered spots, and the monitor units of the layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from mqi_dagster.pictures.style import (
    BAR_IN,
    BEAM_X,
    BEAM_Y,
    DELIVERED,
    DENSITY_MAP,
    EDGE_IN,
    INK,
    PLANNED,
    QUIET,
    as_png,
    colour_bar,
    dress,
    legend,
    new_figure,
)

Floats = NDArray[np.float64]

_MARGIN_MM = 15.0
_BINS = 160
_POINTS_AT_MOST = 2000
"""More samples than this are shown as a density."""
_CIRCLES_AT_MOST = 4000
"""More spots than this are shown as dots."""
_LARGEST_CIRCLE_PT2 = 140.0
_SMALLEST_CIRCLE_PT2 = 4.0
_BARS_AT_MOST = 60
"""More layers than this are shown as steps."""


def spot_map(
    planned: Iterable[tuple[ArrayLike, ArrayLike]], delivered: Iterable[tuple[ArrayLike, ArrayLike]]
) -> bytes:
    """Where spots were planned and where the beam was.

    Args:
        planned: Per layer, positions (n, 2) [mm] and monitor units (n,).
        delivered: Per layer, positions of the samples (m, 2) [mm] and their weights (m,); may be a
            generator, as one layer at a time is kept.

    Returns:
        PNG.
    """
    positions, units = _joined(planned)
    low, high = _extent(positions)
    density = np.zeros((_BINS, _BINS))
    kept: list[tuple[Floats, Floats]] = []
    samples = 0
    outside = total = 0.0
    edges = [np.linspace(low[axis], high[axis], _BINS + 1) for axis in (0, 1)]
    for place, weight in delivered:
        xy, w = _layer(place, weight)
        samples += len(w)
        if samples <= _POINTS_AT_MOST:
            kept.append((xy, w))
        inside = np.all((xy >= low) & (xy <= high), axis=1)
        total += float(w.sum())
        outside += float(w[~inside].sum())
        density += np.histogram2d(xy[inside, 0], xy[inside, 1], bins=edges, weights=w[inside])[0]

    dense = samples > _POINTS_AT_MOST
    figure = new_figure(6.2, 5.4, right_in=BAR_IN if dense else EDGE_IN, bottom_in=0.75)
    axes = figure.add_subplot()
    if dense:
        _draw_density(figure, axes, edges, density)
    elif samples:
        xy, w = _joined(kept)
        shown = np.all((xy >= low) & (xy <= high), axis=1)
        axes.plot(xy[shown, 0], xy[shown, 1], ".", color=DELIVERED, markersize=2.5, label="delivered samples")
    _draw_planned(axes, positions, units)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal")
    dress(axes, "Planned and delivered spots at the isocentre", BEAM_X, BEAM_Y)
    legend(axes, "upper left", (0.0, -0.1))
    if total > 0.0 and outside > 0.0:
        share = max(outside / total, 1e-4)
        axes.text(
            1.0, 1.01, f"{share:.2%} of the counts lie outside", transform=axes.transAxes, ha="right",
            va="bottom", fontsize=8, color=QUIET,
        )  # fmt: skip
    return as_png(figure)


def layer_mu_bars(numbers: Sequence[int], planned_mu: ArrayLike, delivered_mu: ArrayLike) -> bytes:
    """Monitor units of each layer, and their ratio.

    Args:
        numbers: Layer numbers.
        planned_mu: Planned monitor units of each.
        delivered_mu: Logged monitor units of each.

    Returns:
        PNG.
    """
    planned, delivered = np.asarray(planned_mu, dtype=float), np.asarray(delivered_mu, dtype=float)
    figure = new_figure(7.2, 4.4)
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1.3), "hspace": 0.12})
    positions = np.asarray(numbers, dtype=float)
    if len(positions) <= _BARS_AT_MOST:
        upper.bar(positions - 0.2, planned, 0.38, color=PLANNED, label="planned")
        upper.bar(positions + 0.2, delivered, 0.38, color=DELIVERED, label="delivered")
    else:
        upper.step(positions, planned, where="mid", color=PLANNED, linewidth=1.4, label="planned")
        upper.step(positions, delivered, where="mid", color=DELIVERED, linewidth=1.0, label="delivered")
    upper.set_ylim(bottom=0.0)
    upper.margins(x=0.02)
    ratio = np.divide(delivered, planned, out=np.full_like(planned, np.nan), where=planned > 0)
    lower.axhline(1.0, color=QUIET, linewidth=0.8)
    lower.plot(positions, ratio, "o", color=INK, markersize=3 if len(positions) > 30 else 4)
    furthest = float(np.nanmax(np.abs(ratio - 1.0), initial=0.0)) if np.any(planned > 0) else 0.0
    lower.set_ylim(1.0 - max(0.03, 1.25 * furthest), 1.0 + max(0.03, 1.25 * furthest))
    lower.xaxis.get_major_locator().set_params(integer=True)
    dress(upper, "Monitor units per layer", "", "monitor units [MU]")
    dress(lower, "", "layer number", "MU ratio")
    legend(upper, "lower right", (1.0, 1.0))
    return as_png(figure)


def layer_positions(numbers: Sequence[int], mean_mm: ArrayLike, sd_mm: ArrayLike, limit_mm: float) -> bytes:
    """Mean difference delivered - planned of each layer, with the scatter as bars.

    Args:
        numbers: Layer numbers.
        mean_mm: Means in x and y [mm]; shape (layers, 2).
        sd_mm: Standard deviations likewise.
        limit_mm: Greatest mean that is as planned.

    Returns:
        PNG.
    """
    means = np.asarray(mean_mm, dtype=float).reshape(-1, 2)
    scatter = np.asarray(sd_mm, dtype=float).reshape(-1, 2)
    figure = new_figure(7.2, 3.6)
    axes = figure.add_subplot()
    positions = np.asarray(numbers, dtype=float)
    for axis, (name, colour) in enumerate((("x", PLANNED), ("y", DELIVERED))):
        axes.errorbar(
            positions + (axis - 0.5) * 0.2, means[:, axis], scatter[:, axis], fmt="o", color=colour,
            markersize=4, elinewidth=1.0, label=f"{name}: mean and SD",
        )  # fmt: skip
    for limit in (-limit_mm, limit_mm):
        axes.axhline(limit, color=QUIET, linewidth=0.8, linestyle="--")
    axes.axhline(0.0, color=QUIET, linewidth=0.8)
    reach = max(1.5 * limit_mm, 1.1 * float(np.max(np.abs(means) + scatter, initial=0.0)))
    axes.set_ylim(-reach, reach)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    dress(axes, "Delivered against planned positions", "layer number", "delivered - planned [mm]")
    legend(axes, "lower right", (1.0, 1.0))
    return as_png(figure)


def _draw_density(figure: Figure, axes: Axes, edges: list[Floats], density: Floats) -> None:
    """Delivered counts per area; a low power of them, because one slow spot outshines many quick ones."""
    greatest = float(density.max())
    shown = np.ma.masked_less_equal(density.T, 0.0)
    image = axes.pcolormesh(
        edges[0],
        edges[1],
        100.0 * shown / max(greatest, 1e-300),
        cmap=DENSITY_MAP,
        norm=PowerNorm(0.4, vmin=0.0, vmax=100.0),
        rasterized=True,
    )
    colour_bar(figure, image, "delivered counts per area [% of maximum]", ticks=(1, 10, 50, 100))


def _draw_planned(axes: Axes, positions: Floats, units: Floats) -> None:
    """A circle for each planned spot, its area by monitor units."""
    if len(units) > _CIRCLES_AT_MOST:
        axes.plot(positions[:, 0], positions[:, 1], ".", color=PLANNED, markersize=1.0, label="planned spots")
        return
    # Crowded plans get smaller circles, so that neighbours stay apart.
    largest = _LARGEST_CIRCLE_PT2 / max(1.0, len(units) / 200.0)
    share = units / max(float(units.max(initial=0.0)), 1e-300)
    axes.scatter(
        positions[:, 0],
        positions[:, 1],
        s=np.maximum(largest * share, _SMALLEST_CIRCLE_PT2),
        facecolors="none",
        edgecolors=PLANNED,
        linewidths=1.0 if len(units) < 500 else 0.5,
        label="planned spots, area by MU",
    )


def _layer(positions: ArrayLike, weights: ArrayLike) -> tuple[Floats, Floats]:
    return np.asarray(positions, dtype=float).reshape(-1, 2), np.asarray(weights, dtype=float).ravel()


def _joined(layers: Iterable[tuple[ArrayLike, ArrayLike]]) -> tuple[Floats, Floats]:
    """All layers as one; empty arrays if there are none."""
    parts = [_layer(*layer) for layer in layers] or [_layer([], [])]
    return np.concatenate([xy for xy, _ in parts]), np.concatenate([w for _, w in parts])


def _extent(positions: Floats) -> tuple[Floats, Floats]:
    """Lower left and upper right of the square around the planned spots."""
    if len(positions) == 0:
        return np.full(2, -_MARGIN_MM), np.full(2, _MARGIN_MM)
    low, high = positions.min(axis=0), positions.max(axis=0)
    half = float((high - low).max()) / 2.0 + _MARGIN_MM
    centre: Floats = (low + high) / 2.0
    return centre - half, centre + half

"""The noise of a record's positions, kept from passing for another place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.delivery.delivered_path import Path
from mqi_dagster.delivery.spot_plan import SpotPlan

Floats = NDArray[np.float64]

_QUIET = 0.2
"""Noise over tolerance up to which single samples are held against the plan; noisier ones are averaged."""


def averaging_window(path: Path, plan: SpotPlan) -> int:
    """How many samples a mean place is taken of, so that their noise is well below the tolerance.

    No more than half a usual spot's, or the mean would hide what it lies between.
    """
    noisy = path.noise_mm / (_QUIET * plan.tolerance_mm)
    least = int(np.ceil(noisy**2)) if noisy > 1.0 else 1
    return max(1, min(least, len(path) // (2 * max(1, int((plan.mu > 0).sum())))))


def averaged(values: Floats, window: int) -> Floats:
    """Running mean over the samples around each; shape (n, 2)."""
    if window <= 1:
        return values
    sums = np.concatenate([np.zeros((1, 2)), np.cumsum(values, axis=0)])
    first = np.maximum(np.arange(len(values)) - window // 2, 0)
    stop = np.minimum(first + window, len(values))
    mean: Floats = (sums[stop] - sums[first]) / (stop - first)[:, None]
    return mean


def distance_mm(path: Path, plan: SpotPlan, apart: Floats) -> Floats:
    """How far each sample is from its planned place, without the noise of a noisy record."""
    distance: Floats = np.linalg.norm(averaged(apart, averaging_window(path, plan)), axis=1)
    return distance

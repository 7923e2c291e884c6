"""The planned spots of a layer as a path in time or in monitor units, and the samples' part in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.delivery.delivered_path import Path
from mqi_dagster.delivery.planned_timeline import PlannedTimeline
from mqi_dagster.plan.model import ScanMode

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

OFF_PLAN = -1
"""Spot index of a sample that belongs to no planned spot."""
_TOLERANCE_MM = (1.5, 3.0)
"""Least and greatest distance at which a sample still follows the plan: 0.4 of the spots' spacing between."""


@dataclass(frozen=True, slots=True)
class SpotPlan:
    """The planned spots of a layer, and the path that leads through them."""

    mode: ScanMode
    start_mm: Floats
    """Shape (n, 2): where the line that leads to each spot begins; the spot itself in spot scanning."""
    spot_mm: Floats
    """Shape (n, 2)."""
    mu: Floats
    """Shape (n,)."""
    begin_s: Floats
    """Shape (n,): when a spot begins to be given."""
    end_s: Floats
    """Shape (n,)."""
    travel_mm_s: float
    """Speed of the beam between spots."""

    @property
    def tolerance_mm(self) -> float:
        """How far a sample may lie from where it was planned at its time and still follow the plan."""
        steps = np.linalg.norm(np.diff(self.spot_mm, axis=0), axis=1)
        steps = steps[steps > 0.1]
        least, most = _TOLERANCE_MM
        return float(np.clip(0.4 * np.median(steps), least, most)) if len(steps) else most

    @property
    def rests(self) -> bool:
        """Whether all spots lie in one place, so that time does not matter."""
        return bool(np.all(np.ptp(self.spot_mm, axis=0) <= 0.01))

    def positions_at(self, time_s: Floats) -> tuple[Floats, Indices]:
        """Planned place (n, 2) [mm] and spot (n,) at times on the timeline; held before and after."""
        if self.mode is ScanMode.MODULATED:
            between = (self.end_s[:-1] + self.begin_s[1:]) / 2
            spot = np.searchsorted(between, time_s, side="right").astype(np.int64)
            return self.spot_mm[spot], spot
        spot = np.minimum(np.searchsorted(self.end_s, time_s, side="left"), len(self.mu) - 1).astype(np.int64)
        lasts = self.end_s - self.begin_s
        share = np.where(lasts[spot] > 0, (time_s - self.begin_s[spot]) / np.maximum(lasts[spot], 1e-12), 1.0)
        share = np.clip(share, 0.0, 1.0)[:, None]
        return self.start_mm[spot] + share * (self.spot_mm[spot] - self.start_mm[spot]), spot

    def transformed(self, matrix: Sequence[Sequence[int]]) -> SpotPlan:
        """The same plan with its axes mirrored or swapped."""
        turn = np.asarray(matrix, dtype=float).T
        return replace(self, start_mm=self.start_mm @ turn, spot_mm=self.spot_mm @ turn)


def spot_plan(timeline: PlannedTimeline, speed_cm_s: float, first_mu: float) -> SpotPlan:
    """The spots of a planned timeline.

    Args:
        timeline: The planned layer.
        speed_cm_s: Speed of the beam between spots.
        first_mu: Monitor units of the first spot; in line scanning the beam stands there until they are
            given, before the timeline begins.
    """
    speed = speed_cm_s * 10.0
    if timeline.mode is ScanMode.MODULATED:
        spots = timeline.positions_mm[::2]
        mu = timeline.cumulative_mu[1::2] - timeline.cumulative_mu[::2]
        return SpotPlan(timeline.mode, spots, spots, mu, timeline.time_s[::2], timeline.time_s[1::2], speed)
    spots = timeline.positions_mm
    mu = np.diff(timeline.cumulative_mu, prepend=0.0)
    lasts = np.diff(timeline.time_s)
    rates = mu[1:][lasts > 0] / lasts[lasts > 0]
    lead = first_mu / float(rates.max()) if first_mu > 0 and len(rates) and rates.max() > 0 else 0.0
    ends = timeline.time_s + lead
    begins = np.concatenate([[0.0], ends[:-1]])
    return SpotPlan(timeline.mode, np.vstack([spots[:1], spots[:-1]]), spots, mu, begins, ends, speed)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The planned spot and place of every sample."""

    spot: Indices
    """Shape (n,): 0-based spot, or ``OFF_PLAN``."""
    planned_mm: Floats
    """Shape (n, 2): where the sample was planned to be; its own place where it belongs to no spot."""
    by_time: bool
    """Whether the delivery followed the planned timeline."""
    transform: str | None = None
    """What became of the axes, for example ``x mirrored``; spots are then those of the plan it resembles."""
    offset_mm: tuple[float, float] = (0.0, 0.0)
    """Median of delivered - planned, after the transform."""
    swapped: tuple[tuple[int, int], ...] = ()
    """Pairs of 0-based spots, each given in the other's turn."""


def at_planned_rate(path: Path, plan: SpotPlan, scale: float) -> tuple[Path, SpotPlan] | None:
    """A line-scanned layer and its plan as if both were given at one dose rate, that of the plan.

    In line scanning the beam is on its way to a spot until the spot's monitor units are given. At another
    dose rate, also one that varies, it is late or early in time, but never in monitor units.

    Args:
        path: What was delivered. Parts that were delivered one after the other are one.
        plan: The planned spots.
        scale: Planned over delivered monitor units.

    Returns:
        The two with times that are monitor units over the plan's dose rate; None without a dose rate.
    """
    lasts = plan.end_s - plan.begin_s
    given = (plan.mu > 0) & (lasts > 0)
    if plan.mode is not ScanMode.LINE or not given.any():
        return None
    rate = float((plan.mu[given] / lasts[given]).max())
    end = np.cumsum(plan.mu) / rate
    begin = np.concatenate([[0.0], end[:-1]])
    at = (np.cumsum(path.mu) - path.mu / 2) * scale / rate
    steady = replace(path, part=np.zeros_like(path.part), time_s=at)
    return steady, replace(plan, begin_s=begin, end_s=end, travel_mm_s=np.inf)


def misfit(path: Path, plan: SpotPlan, rows: Indices, lag_s: float, offset: Floats) -> float:
    """Squared distance of samples from the plan at their times, weighted by monitor units; bounded."""
    planned, _ = plan.positions_at(path.time_s[rows] - lag_s)
    squares = ((path.positions_mm[rows] - offset - planned) ** 2).sum(axis=1)
    return float((np.minimum(squares, (2 * plan.tolerance_mm) ** 2) * path.mu[rows]).sum())

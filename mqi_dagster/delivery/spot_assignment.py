"""Which planned spot a delivered sample belongs to: by time where the beam kept to its plan, else by order.

A delivery that follows the planned timeline is assigned by time. One that does not (a spot left out, one
too many, two in the other order, another dose rate, a pause) is aligned with the planned sequence of spots
by dynamic programming: in order, with spots skipped and samples off the plan at a price. Mirrored and
swapped axes are found by trying them.
"""

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

TRANSFORMS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "x mirrored": ((-1, 0), (0, 1)),
    "y mirrored": ((1, 0), (0, -1)),
    "axes swapped": ((0, 1), (1, 0)),
    "x and y mirrored": ((-1, 0), (0, -1)),
    "axes swapped and x mirrored": ((0, -1), (1, 0)),
    "axes swapped and y mirrored": ((0, 1), (-1, 0)),
    "axes swapped, x and y mirrored": ((0, -1), (-1, 0)),
}
"""What a sign or a cable can make of planned positions, as matrices; the likelier ones first."""

_FIT_SAMPLES = 6000
"""A fit looks at no more samples than this, evenly chosen."""
_LAG_S = (-600e-6, 1500e-6)
"""Delays between the start of the record and of the planned timeline that are tried (60 to 120 us in real
records)."""
_RESUMED_S = 5e-3
"""How far from where its dose says a resumed part is looked for."""
_TOLERANCE_MM = (1.5, 3.0)
"""Least and greatest distance at which a sample still follows the plan: 0.4 of the spots' spacing between."""
_FOLLOWS = 0.997
"""Share of the monitor units within the tolerance of a delivery that kept to the planned timeline."""
_RESEMBLES = 0.9
"""The same of one that did so with its axes mirrored or swapped."""
_STRAYED_RUN = 3
"""Samples in a row beyond the tolerance that are no flicker of the record."""
_SAME_MM = 1.0
"""A mirrored layer lies where the mirrored plan does, within this."""
_ALIGNED_CELLS = 12_000_000
"""Groups of samples times spots that an alignment may hold."""
_GROUP_MM = 0.8
_GROUP_SAMPLES = 16
_REFINED_MM = 0.2
_UNEVEN_SAMPLES = 6
_STRETCH_SAMPLES = 12
"""Fewer samples between two breaks have no delay of their own."""
_EXPLAINS = 0.97
_ENTER_OFF_PLAN, _SKIP, _SKIP_EACH = 6.0, 8.0, 4.0
"""Prices of the alignment in units of a squared millimetre."""


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
    """What became of the axes, a key of ``TRANSFORMS``; spots are then those of the plan it resembles."""
    offset_mm: tuple[float, float] = (0.0, 0.0)
    """Median of delivered - planned, after the transform."""
    swapped: tuple[tuple[int, int], ...] = ()
    """Pairs of 0-based spots, each given in the other's turn."""


@dataclass(frozen=True, slots=True)
class _Fit:
    lag_s: tuple[float, ...]
    """By part."""
    offset: Floats
    share: float
    """Of the monitor units within the tolerance."""


def assign(path: Path, plan: SpotPlan) -> Assignment:
    """The planned spot of every sample of a layer."""
    fit = _fit(path, plan)
    found = _by_time(path, plan, fit)
    if _kept_to_plan(path, plan, fit, found):
        mirrored = _mirrored(path, plan, fit) if plan.rests else None
        return found if mirrored is None else mirrored
    mirrored = _mirrored(path, plan, fit)
    if mirrored is not None:
        return mirrored
    swapped = _swapped(path, plan, found, fit)
    if swapped is not None:
        return swapped
    return _by_order(path, plan, fit)


def recognised(path: Path, plan: SpotPlan) -> str | None:
    """What became of a plan that a delivery far from it still follows; None where it is another's.

    Its axes mirrored or swapped; or, where the spots do not all lie in one place, so that their order and
    distances show whose they are, an offset.
    """
    fit = _fit(path, plan)
    if not plan.rests and fit.share >= _RESEMBLES:
        return f"shifted by {fit.offset[0]:+.1f} mm in x and {fit.offset[1]:+.1f} mm in y"
    mirrored = _mirrored(path, plan, fit)
    return mirrored.transform if mirrored is not None else None


def _lags(path: Path, plan: SpotPlan) -> list[tuple[Indices, Floats]]:
    """The rows of each part, and the delays at which its start is looked for."""
    reached = np.cumsum(path.mu)
    planned = np.cumsum(plan.mu)
    rows_of = [np.flatnonzero(path.part == part) for part in np.unique(path.part)]
    found = []
    for index, rows in enumerate(rows_of):
        if index == 0:
            lags = np.arange(_LAG_S[0], _LAG_S[1], 60e-6)
        else:
            share = reached[rows[0] - 1] / reached[-1] * planned[-1]
            spot = min(int(np.searchsorted(planned, share)), len(planned) - 1)
            left = (planned[spot] - share) / plan.mu[spot] if plan.mu[spot] > 0 else 0.0
            start = plan.end_s[spot] - left * (plan.end_s[spot] - plan.begin_s[spot])
            lags = -start + np.arange(-_RESUMED_S, _RESUMED_S, 60e-6)
        found.append((rows, lags))
    return found


def _fit(path: Path, plan: SpotPlan, near_s: Sequence[float] | None = None) -> _Fit:
    """The delay of each part, and the offset of all, at which most of the dose follows the timeline."""
    tolerance = plan.tolerance_mm
    best_lags: list[float] = []
    for index, (rows, wide) in enumerate(_lags(path, plan)):
        lags = wide if near_s is None else near_s[index] + np.arange(-2.0, 3.0) * 60e-6
        if plan.rests:
            best_lags.append(0.0 if index == 0 else float(lags[len(lags) // 2]))
            continue
        chosen = rows[:: max(1, len(rows) // _FIT_SAMPLES)]

        def cost(lag: float, chosen: Indices = chosen) -> float:
            planned, _ = plan.positions_at(path.time_s[chosen] - lag)
            apart: Floats = path.positions_mm[chosen] - planned
            centred = apart - np.median(apart, axis=0)
            squares = np.minimum((centred**2).sum(axis=1), (2 * tolerance) ** 2)
            return float((squares * path.mu[chosen]).sum())

        coarse = min(lags, key=cost)
        best_lags.append(min(coarse + np.arange(-45e-6, 46e-6, 15e-6), key=cost))
    apart: Floats = path.positions_mm - _at(path, plan, best_lags)[0]
    offset = np.asarray(np.median(apart, axis=0), dtype=np.float64)
    within = np.linalg.norm(apart - offset, axis=1) <= tolerance
    return _Fit(tuple(best_lags), offset, float(path.mu[within].sum() / path.mu.sum()))


def _at(path: Path, plan: SpotPlan, lags: Sequence[float]) -> tuple[Floats, Indices]:
    """Planned place and spot of every sample, with these delays of the parts."""
    numbers = np.searchsorted(np.unique(path.part), path.part)
    return plan.positions_at(path.time_s - np.asarray(lags)[numbers])


def _by_time(path: Path, plan: SpotPlan, fit: _Fit) -> Assignment:
    planned, spot = _at(path, plan, fit.lag_s)
    return Assignment(spot, planned, True, offset_mm=(float(fit.offset[0]), float(fit.offset[1])))


def _kept_to_plan(path: Path, plan: SpotPlan, fit: _Fit, found: Assignment) -> bool:
    if plan.rests:
        return _strayed(path, plan, fit, found) is None
    return fit.share >= _FOLLOWS and _strayed(path, plan, fit, found) is None


def _strayed(path: Path, plan: SpotPlan, fit: _Fit, found: Assignment) -> tuple[int, int] | None:
    """First and last sample of those runs that leave the timeline, None without any."""
    apart = np.linalg.norm(path.positions_mm - found.planned_mm - fit.offset, axis=1)
    far = np.concatenate([[False], apart > plan.tolerance_mm, [False]])
    edges = np.flatnonzero(far[1:] != far[:-1]).reshape(-1, 2)
    runs = edges[(edges[:, 1] - edges[:, 0]) >= _STRAYED_RUN]
    return (int(runs[0, 0]), int(runs[-1, 1]) - 1) if len(runs) else None


def _mirrored(path: Path, plan: SpotPlan, fit: _Fit) -> Assignment | None:
    """The delivery as one of the plan with its axes mirrored or swapped; None where it is none."""
    if np.abs(plan.spot_mm).max() < _SAME_MM:
        return None
    if plan.rests and np.linalg.norm(fit.offset) < 2 * _SAME_MM:
        return None
    best: tuple[float, str, SpotPlan, _Fit] | None = None
    for name, matrix in TRANSFORMS.items():
        turned = plan.transformed(matrix)
        if np.abs(turned.spot_mm - plan.spot_mm).max() < _SAME_MM:
            continue
        seen = _fit(path, turned, fit.lag_s if plan.rests else None)
        alike = seen.share >= _RESEMBLES and np.linalg.norm(seen.offset) < (
            _SAME_MM if plan.rests else np.linalg.norm(np.ptp(plan.spot_mm, axis=0))
        )
        if alike and (best is None or seen.share > best[0] + 0.02):
            best = (seen.share, name, turned, seen)
    if best is None or (not plan.rests and best[0] < fit.share + 0.1):
        return None
    _, name, turned, seen = best
    _, spot = _at(path, turned, seen.lag_s)
    planned, _ = _at(path, plan, seen.lag_s)
    return Assignment(
        spot, planned, True, transform=name, offset_mm=(float(seen.offset[0]), float(seen.offset[1]))
    )


def _swapped(path: Path, plan: SpotPlan, found: Assignment, fit: _Fit) -> Assignment | None:
    """The delivery as one in which two spots changed their turns; None where no pair explains it."""
    strayed = _strayed(path, plan, fit, found)
    if strayed is None or fit.share < 0.3:
        return None
    first, last = (int(found.spot[sample]) for sample in strayed)
    count = len(plan.mu)
    starts = range(max(0, first - 2), min(count - 1, first + 2))
    best: tuple[float, tuple[int, int], SpotPlan, _Fit] | None = None
    for one in starts:
        for other in {
            *range(one + 1, min(count, one + 4)),
            *range(max(one + 1, last - 2), min(count, last + 2)),
        }:
            turned = _with_turns(plan, one, other)
            seen = _fit(path, turned, fit.lag_s)
            if best is None or seen.share > best[0]:
                best = (seen.share, (one, other), turned, seen)
    if best is None or best[0] < _FOLLOWS:
        return None
    _, (one, other), turned, seen = best
    planned, turn = _at(path, turned, seen.lag_s)
    order = np.arange(count)
    order[[one, other]] = other, one
    return Assignment(
        order[turn],
        planned,
        False,
        offset_mm=(float(seen.offset[0]), float(seen.offset[1])),
        swapped=((one, other),),
    )


def _with_turns(plan: SpotPlan, one: int, other: int) -> SpotPlan:
    """The plan with two spots in each other's turn, at the same dose rate."""
    order = np.arange(len(plan.mu))
    order[[one, other]] = other, one
    spots, mu = plan.spot_mm[order], plan.mu[order]
    lasts = plan.end_s - plan.begin_s
    steps = np.linalg.norm(np.diff(spots, axis=0), axis=1)
    travel = np.concatenate([[0.0], steps / plan.travel_mm_s])
    if plan.mode is ScanMode.MODULATED:
        stops = lasts[order]
        ends = plan.begin_s[0] + np.cumsum(stops + travel)
        return replace(plan, start_mm=spots, spot_mm=spots, mu=mu, begin_s=ends - stops, end_s=ends)
    moving = lasts > 0
    rate = float((plan.mu[moving] / lasts[moving]).max()) if moving.any() else 0.0
    dose = mu / rate if rate > 0 else np.zeros(len(mu))
    ends = plan.begin_s[0] + np.cumsum(np.maximum(dose, travel))
    begins = np.concatenate([plan.begin_s[:1], ends[:-1]])
    return replace(
        plan, start_mm=np.vstack([spots[:1], spots[:-1]]), spot_mm=spots, mu=mu, begin_s=begins, end_s=ends
    )


def _by_order(path: Path, plan: SpotPlan, fit: _Fit) -> Assignment:
    """The spots by their order and place, whenever they came; by time again between what was found."""
    gross = fit.share > 0.3 and np.linalg.norm(fit.offset) > plan.tolerance_mm
    offset = fit.offset if gross else np.zeros(2)
    spot = _ordered(path, plan, offset)
    finer = _offset_from(path, plan, spot, offset)
    if np.linalg.norm(finer - offset) > _REFINED_MM:
        offset = finer
        spot = _ordered(path, plan, offset)
    found = Assignment(spot, np.zeros_like(path.positions_mm), False)
    if plan.mode is ScanMode.LINE:
        timed = _between_breaks(path, plan, spot, offset)
        if timed is not None:
            return replace(timed, offset_mm=(float(offset[0]), float(offset[1])))
    planned = path.positions_mm.copy()
    on = spot != OFF_PLAN
    planned[on] = _nearest_on_line(path.positions_mm[on] - offset, plan, spot[on])[0]
    return replace(found, planned_mm=planned, offset_mm=(float(offset[0]), float(offset[1])))


def _ordered(path: Path, plan: SpotPlan, offset: Floats) -> Indices:
    """The spot of each sample by order and place."""
    place = path.positions_mm - offset
    group = _groups(place, path.part, len(plan.mu))
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    samples = np.diff(starts, append=len(group))
    weight = np.add.reduceat(path.mu, starts)
    centre = np.add.reduceat(place * path.mu[:, None], starts, axis=0) / weight[:, None]
    return _aligned(centre, samples, plan)[group]


def _offset_from(path: Path, plan: SpotPlan, spot: Indices, offset: Floats) -> Floats:
    """The offset that lies across the lines of the samples' spots, by least squares.

    Along its own line a sample says nothing about the offset.
    """
    on = spot != OFF_PLAN
    if not on.any():
        return offset
    line = plan.spot_mm[spot[on]] - plan.start_mm[spot[on]]
    length = np.linalg.norm(line, axis=1)
    along = np.divide(line, length[:, None], out=np.zeros_like(line), where=length[:, None] > 0)
    apart = path.positions_mm[on] - _nearest_on_line(path.positions_mm[on] - offset, plan, spot[on])[0]
    weight = path.mu[on]
    across = np.eye(2)[None] - along[:, :, None] * along[:, None, :]
    matrix = (across * weight[:, None, None]).sum(axis=0)
    seen = ((across @ apart[:, :, None])[:, :, 0] * weight[:, None]).sum(axis=0)
    solved: Floats = np.linalg.lstsq(matrix, seen, rcond=1e-3)[0]
    return solved


def _between_breaks(path: Path, plan: SpotPlan, spot: Indices, offset: Floats) -> Assignment | None:
    """By time on each stretch between breaks of the order, None where that does not explain the delivery.

    A break is where a spot was passed over or too quickly, where one took too long, where the beam paused,
    and where it left the plan: behind it, everything is late or early by as much.
    """
    on = spot != OFF_PLAN
    share = _nearest_on_line(path.positions_mm - offset, plan, np.where(on, spot, 0))[1]
    lasts = plan.end_s - plan.begin_s
    lag = path.time_s - (plan.begin_s[spot] + share * lasts[spot])
    period_s = float(np.median(np.diff(path.time_s))) if len(path) > 1 else 0.0
    taken = np.bincount(spot[on], minlength=len(plan.mu)) * period_s
    uneven = (np.abs(taken - lasts) > 0.5 * lasts) & (np.abs(taken - lasts) > _UNEVEN_SAMPLES * period_s)
    step = np.diff(spot, prepend=spot[:1])
    before = np.concatenate([spot[:1], spot[:-1]])
    breaks = (np.diff(path.part, prepend=path.part[:1]) != 0) | (step > 1) | (on != (before != OFF_PLAN))
    breaks |= (step != 0) & uneven[before]
    breaks |= np.diff(path.time_s, prepend=path.time_s[:1]) > _UNEVEN_SAMPLES * period_s
    stretch = np.cumsum(breaks)
    planned, found = path.positions_mm.copy(), np.full(len(path), OFF_PLAN, dtype=np.int64)
    last_lag: float | None = None
    for number in range(int(stretch[-1]) + 1):
        rows = np.flatnonzero((stretch == number) & on)
        if not len(rows):
            continue
        if len(rows) >= _STRETCH_SAMPLES or last_lag is None:
            chosen = rows[:: max(1, len(rows) // _FIT_SAMPLES)]
            tried = float(np.median(lag[rows])) + np.arange(-20, 21) * 30e-6
            costs = [_cost(path, plan, chosen, float(one), offset) for one in tried]
            last_lag = float(tried[int(np.argmin(costs))])
        planned[rows], found[rows] = plan.positions_at(path.time_s[rows] - last_lag)
    apart = np.linalg.norm(path.positions_mm - planned - offset, axis=1)[on]
    explained = path.mu[on][apart <= plan.tolerance_mm].sum() / max(path.mu[on].sum(), 1e-300)
    return Assignment(found, planned, False) if explained >= _EXPLAINS else None


def _cost(path: Path, plan: SpotPlan, rows: Indices, lag_s: float, offset: Floats) -> float:
    planned, _ = plan.positions_at(path.time_s[rows] - lag_s)
    squares = ((path.positions_mm[rows] - offset - planned) ** 2).sum(axis=1)
    return float((np.minimum(squares, (2 * plan.tolerance_mm) ** 2) * path.mu[rows]).sum())


def _groups(place: Floats, part: Indices, spots: int) -> Indices:
    """Numbers of runs of samples that lie close together; shape (samples,), ascending."""
    longest = max(_GROUP_SAMPLES, len(place) * spots // _ALIGNED_CELLS + 1)
    group = np.empty(len(place), dtype=np.int64)
    number, first = 0, 0
    x, y, parts = place[:, 0].tolist(), place[:, 1].tolist(), part.tolist()
    for index in range(len(x)):
        apart = abs(x[index] - x[first]) + abs(y[index] - y[first])
        if index - first >= longest or apart > _GROUP_MM or parts[index] != parts[first]:
            number, first = number + 1, index
        group[index] = number
    return group


def _nearest_on_line(place: Floats, plan: SpotPlan, spot: Indices) -> tuple[Floats, Floats]:
    """The point (n, 2) of each sample's own line nearest to it, and the share of the line up to it."""
    start, line = plan.start_mm[spot], plan.spot_mm[spot] - plan.start_mm[spot]
    length = (line**2).sum(axis=1)
    along = np.where(
        length > 0, ((place - start) * line).sum(axis=1) / np.where(length > 0, length, 1.0), 0.0
    )
    share: Floats = np.clip(along, 0.0, 1.0)
    nearest: Floats = start + share[:, None] * line
    return nearest, share


def _aligned(centre: Floats, samples: Indices, plan: SpotPlan) -> Indices:
    """The spot of each group: the cheapest way through the planned order (Viterbi).

    A group may stay at a spot, go on to the next, skip spots, or lie off the plan; it never goes back.
    """
    count = len(plan.mu)
    line = plan.spot_mm - plan.start_mm
    length = (line**2).sum(axis=1)
    safe = np.where(length > 0, length, 1.0)
    dosed = np.cumsum(plan.mu > 0).astype(float)
    before = np.concatenate([[0.0], dosed[:-1]])
    off_cost = plan.tolerance_mm**2
    numbers = np.arange(count)
    on_came = np.empty((len(centre), count), dtype=np.int32)
    off_came = np.empty((len(centre), count), dtype=np.int32)
    # A state is a spot (0 to n - 1), or off the plan behind a spot (n to 2 n - 1).
    on = _SKIP_EACH * before + np.where(numbers > 0, _SKIP, 0.0)
    off = on + _ENTER_OFF_PLAN
    for step in range(len(centre)):
        along = np.clip(((centre[step] - plan.start_mm) * line).sum(axis=1) / safe, 0.0, 1.0)
        apart = ((centre[step] - plan.start_mm - along[:, None] * line) ** 2).sum(axis=1)
        weight = float(min(samples[step], _GROUP_SAMPLES))
        came = np.where(off < on, numbers + count, numbers)
        least = np.minimum(on, off)
        # Skipping: the cheapest spot before, at a price for each spot with dose that is passed over.
        shifted = least - _SKIP_EACH * dosed
        running = np.minimum.accumulate(shifted)
        where = np.maximum.accumulate(np.where(shifted <= running, numbers, 0))
        new_on, source = least.copy(), came.copy()
        ahead = np.full(count, np.inf)
        ahead[1:] = least[:-1]
        better = ahead < new_on
        new_on[better], source[better] = ahead[better], came[:-1][better[1:]]
        skipped = np.full(count, np.inf)
        skipped[2:] = running[:-2] + _SKIP_EACH * before[2:] + _SKIP
        better = skipped < new_on
        new_on[better], source[better] = skipped[better], came[where[:-2]][better[2:]]
        enter = on + _ENTER_OFF_PLAN
        off_source = np.where(enter < off, numbers, numbers + count)
        off = np.minimum(off, enter) + off_cost * weight
        on = new_on + apart * weight
        on_came[step], off_came[step] = source, off_source
    state = int(np.argmin(np.minimum(on, off)))
    state = state + count if off[state] < on[state] else state
    found = np.empty(len(centre), dtype=np.int64)
    for step in range(len(centre) - 1, -1, -1):
        found[step] = state if state < count else OFF_PLAN
        state = int(on_came[step][state] if state < count else off_came[step][state - count])
    return found

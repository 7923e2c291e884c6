"""Which planned spot a delivered sample belongs to: by time where the beam kept to its plan, else by order.

A delivery that follows the planned timeline is assigned by time. A line-scanned one at another dose rate
follows the plan by its monitor units instead, as the lines are drawn until theirs are given. One that does
neither (a spot left out, one too many, two in the other order) is aligned with the planned sequence of
spots by dynamic programming: in order, with spots skipped and samples off the plan at a price. Mirrored
and swapped axes are found by trying them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.delivery.delivered_path import Path
from mqi_dagster.delivery.position_noise import distance_mm
from mqi_dagster.delivery.spot_order import by_order
from mqi_dagster.delivery.spot_plan import Assignment, SpotPlan, at_planned_rate, misfit
from mqi_dagster.plan.model import ScanMode

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

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
_FOLLOWS = 0.997
"""Share of the monitor units within the tolerance of a delivery that kept to the planned timeline."""
_PARTLY = 0.3
"""The same of one that did so in some stretch."""
_RESEMBLES = 0.9
"""The same of one that did so throughout with its axes mirrored or swapped."""
_STRAYED_RUN = 3
"""Samples in a row beyond the tolerance that are no flicker of the record."""
_SPOTS_NEEDED = 3
"""A part of a layer with fewer spots is not recognised."""
_STARTS, _START_SAMPLES = 4000, 400
"""Starts of a part that are tried at most, and samples that they are tried with."""
_SAME_MM = 1.0
"""A mirrored layer lies where the mirrored plan does, within this."""
_STRETCHES = 2
"""Rounds of fitting the ratio of monitor units."""
_TIMED_SAMPLES = 12
"""A spot that lasts fewer samples tells little of its time."""


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
        return _mirrored(path, plan, fit) or found if plan.rests else _less_shifted(path, plan, found)
    started = _started_otherwise(path, plan)
    if started is not None:
        return started
    steady = _steady(path, plan)
    if steady is not None:
        by_dose = _by_time(*steady)
        if _kept_to_plan(*steady, by_dose):
            return replace(by_dose, by_time=False)
    mirrored = _mirrored(path, plan, fit)
    if mirrored is None and steady is not None:
        mirrored = _mirrored(*steady)
    if mirrored is not None:
        return mirrored
    swapped = _swapped(path, plan, found, fit)
    if swapped is not None:
        return swapped
    shifted = fit.share > _PARTLY and np.linalg.norm(fit.offset) > plan.tolerance_mm
    return by_order(path, plan, fit.offset if shifted else None)


def _started_otherwise(path: Path, plan: SpotPlan) -> Assignment | None:
    """The delivery as one that kept to its plan after a first spot that was given too long, or not at all."""
    if plan.rests or path.part.any():
        return None
    second = plan.end_s[0] if plan.mode is ScanMode.LINE else plan.begin_s[1]
    late = path.time_s[-1] - plan.end_s[-1]
    for lag in (-float(second), float(late)):
        fit = _fit(path, plan, starts_s=lag + np.arange(_LAG_S[0], _LAG_S[1], 60e-6))
        found = _by_time(path, plan, fit)
        if _kept_to_plan(path, plan, fit, found):
            return found
    return None


def _less_shifted(path: Path, plan: SpotPlan, found: Assignment) -> Assignment:
    """Of a layer that seems shifted by a spot and more, whether it is rather one without its first spot."""
    shift = float(np.linalg.norm(found.offset_mm))
    started = _started_otherwise(path, plan) if shift > plan.tolerance_mm else None
    return started if started is not None and np.linalg.norm(started.offset_mm) < shift / 2 else found


def _steady(path: Path, plan: SpotPlan) -> tuple[Path, SpotPlan, _Fit] | None:
    """The layer by its monitor units in place of time, the ratio of which to the plan's is fitted."""
    scale = float(plan.mu.sum() / path.mu.sum())
    steady = at_planned_rate(path, plan, scale) if len(path) > 1 and not plan.rests else None
    if steady is None:
        return None
    given, wanted = steady
    fit = _fit(given, wanted)
    for _ in range(_STRETCHES):
        given = _stretched(given, wanted, fit)
        fit = _fit(given, wanted)
    return given, wanted, fit


def _stretched(path: Path, plan: SpotPlan, fit: _Fit) -> Path:
    """The path with its time stretched so that what follows the plan follows it best: least squares."""
    time_s = path.time_s - fit.lag_s[0]
    planned, spot = plan.positions_at(time_s)
    lasts = plan.end_s[spot] - plan.begin_s[spot]
    line = plan.spot_mm[spot] - plan.start_mm[spot]
    speed = np.divide(line, lasts[:, None], out=np.zeros_like(line), where=lasts[:, None] > 0)
    apart = path.positions_mm - planned - fit.offset
    # Where the plan is quicker than the record can follow, places tell little about time.
    near = (np.linalg.norm(apart, axis=1) <= plan.tolerance_mm) & (
        lasts >= _TIMED_SAMPLES * float(np.median(np.diff(path.time_s)))
    )
    speed, apart, at, mu = speed[near], apart[near], time_s[near], path.mu[near]
    rows = np.stack([speed, speed * at[:, None]], axis=2).reshape(-1, 2) * np.repeat(np.sqrt(mu), 2)[:, None]
    solved = np.linalg.lstsq(rows, (apart * np.sqrt(mu)[:, None]).ravel(), rcond=1e-6)[0]
    late, stretch = (float(one) for one in solved)
    return replace(path, time_s=time_s + late + stretch * time_s)


def recognised(path: Path, plan: SpotPlan) -> str | None:
    """What became of a plan that a delivery far from it still follows; None where it is another's.

    Its axes mirrored or swapped; or, where the spots do not all lie in one place, so that their order and
    distances show whose they are, an offset.
    """
    fit = _fit(path, plan)
    fits = [(path, plan, fit)]
    steady = _steady(path, plan)
    if steady is not None:
        fits.append(steady)
    if not plan.rests:
        rest = _fit(path, plan, starts_s=_rest_starts(path, plan))
        if _tells(path, plan, rest):
            fits.append((path, plan, rest))
    for _, _, seen in fits:
        if not plan.rests and seen.share >= _RESEMBLES:
            return f"shifted by {seen.offset[0]:+.1f} mm in x and {seen.offset[1]:+.1f} mm in y"
    for given, wanted, seen in fits[:2]:
        mirrored = _mirrored(given, wanted, seen)
        if mirrored is not None:
            return mirrored.transform
    return None if plan.rests else _mirrored_rest(path, plan)


def _rest_starts(path: Path, plan: SpotPlan) -> Floats:
    """Delays at which a record of the rest of an interrupted layer ends where the plan does."""
    starts: Floats = path.time_s[-1] - plan.end_s[-1] + np.arange(-_RESUMED_S, _RESUMED_S, 60e-6)
    return starts


def _mirrored_rest(path: Path, plan: SpotPlan) -> str | None:
    """What became of the axes of a layer whose rest, or another part of it, the record holds."""
    for name, matrix in TRANSFORMS.items():
        turned = plan.transformed(matrix)
        if np.abs(turned.spot_mm - plan.spot_mm).max() < _SAME_MM:
            continue
        for starts in (_rest_starts(path, plan), _anywhere(path, turned)):
            seen = _fit(path, turned, starts_s=starts)
            alike = seen.share >= _RESEMBLES and np.linalg.norm(seen.offset) < _SAME_MM
            if alike and _tells(path, turned, seen):
                return name
    return None


def _tells(path: Path, plan: SpotPlan, fit: _Fit) -> bool:
    """Whether a part of a layer is more than a piece of one line, which looks like any other."""
    planned, spot = _at(path, plan, fit.lag_s)
    return len(np.unique(spot)) >= _SPOTS_NEEDED and bool(np.ptp(planned, axis=0).min() > plan.tolerance_mm)


def _anywhere(path: Path, plan: SpotPlan) -> Floats:
    """Delays about the one at which a record lies nearest to some part of the plan."""
    lasts = plan.end_s - plan.begin_s
    step = max(float(np.median(lasts[lasts > 0])) / 4, plan.end_s[-1] / _STARTS)
    chosen = np.linspace(0, len(path) - 1, _START_SAMPLES).astype(np.int64)
    tried = np.arange(0.0, plan.end_s[-1], step)
    costs = [misfit(path, plan, chosen, -float(start), np.zeros(2)) for start in tried]
    best = float(tried[int(np.argmin(costs))])
    near: Floats = -best + np.arange(-step, step, 60e-6)
    return near


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


def _fit(
    path: Path, plan: SpotPlan, near_s: Sequence[float] | None = None, starts_s: Floats | None = None
) -> _Fit:
    """The delay of each part, and the offset of all, at which most of the dose follows the timeline.

    Args:
        path: What was delivered.
        plan: What it is held against.
        near_s: Delays of the parts near which is looked; anywhere where None.
        starts_s: Delays of the first part that are tried.
    """
    tolerance = plan.tolerance_mm
    best_lags: list[float] = []
    for index, (rows, wide) in enumerate(_lags(path, plan)):
        lags = wide if near_s is None else near_s[index] + np.arange(-2.0, 3.0) * 60e-6
        if index == 0 and starts_s is not None:
            lags = starts_s
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
    within = distance_mm(path, plan, apart - offset) <= tolerance
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
    apart = distance_mm(path, plan, path.positions_mm - found.planned_mm - fit.offset)
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
    if strayed is None or fit.share < _PARTLY:
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
            # What comes first decides when all the rest begins.
            seen = _fit(path, turned, fit.lag_s if one else None)
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

"""Which planned spot a sample belongs to by the order and place of the spots, whenever they came."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.delivery.delivered_path import Path
from mqi_dagster.delivery.position_noise import averaged, averaging_window, distance_mm
from mqi_dagster.delivery.spot_plan import OFF_PLAN, Assignment, SpotPlan, misfit
from mqi_dagster.plan.model import ScanMode

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_ALIGNED_CELLS = 12_000_000
"""Groups of samples times spots that an alignment may hold."""
_GROUP_MM = 0.8
_GROUP_SAMPLES = 16
_NEAREST_FIRST = np.array(sorted(range(-20, 21), key=abs), dtype=np.float64)
_STANDS_MM = 1.0
"""A beam that moves less stands still."""
_REFINED_MM = 0.2
_UNEVEN_SAMPLES = 6
_EXPLAINS = 0.97
_ENTER_OFF_PLAN, _SKIP, _SKIP_EACH = 6.0, 8.0, 4.0
"""Prices of the alignment in units of a squared millimetre."""
_FIT_SAMPLES = 6000
"""A fit looks at no more samples than this, evenly chosen."""
_STRETCH_SAMPLES = 12
"""Fewer samples between two breaks have no delay of their own."""
_STRAYED_RUN = 3
"""Samples in a row in another place that are no flicker of the record."""


def by_order(path: Path, plan: SpotPlan, shift: Floats | None) -> Assignment:
    """The spots by their order and place, whenever they came; by time again between what was found.

    Args:
        path: What was delivered.
        plan: The planned spots.
        shift: By how much the layer may be shifted [mm]; None where nothing speaks for a shift.
    """
    offset = np.zeros(2)
    spot = _ordered(path, plan, offset)
    if shift is not None:
        # A sequence that is one spot late on a raster looks like a shift by the raster's spacing.
        moved = _ordered(path, plan, shift)
        if path.mu[moved == OFF_PLAN].sum() < path.mu[spot == OFF_PLAN].sum():
            offset, spot = shift, moved
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
    position = averaged(path.positions_mm - offset, averaging_window(path, plan))
    group = _groups(position, path.part, len(plan.mu))
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    samples = np.diff(starts, append=len(group))
    weight = np.add.reduceat(path.mu, starts)
    centre = np.add.reduceat(position * path.mu[:, None], starts, axis=0) / weight[:, None]
    return _with_stands(path, plan, position, _aligned(centre, samples, plan)[group])


def _with_stands(path: Path, plan: SpotPlan, position: Floats, spot: Indices) -> Indices:
    """Samples of a beam that stands still belong to the spot that is given so, up to its monitor units.

    The place alone does not tell them from the start of the line that leads on from there.
    """
    length = np.linalg.norm(plan.spot_mm - plan.start_mm, axis=1)
    on = spot != OFF_PLAN
    if plan.mode is not ScanMode.LINE or not on.any():
        return spot
    found = spot.copy()
    for stand in np.flatnonzero((length < _STANDS_MM) & (plan.mu > 0)):
        # Where no dose was planned at the same place before, the stand begins there.
        first = stand
        while first > 0 and plan.mu[first - 1] <= 0 and length[first] < _STANDS_MM:
            first -= 1
        samples = np.flatnonzero(on & (found >= first))
        if not len(samples):
            continue
        rows = np.arange(samples[0], len(found))
        away = np.linalg.norm(position[rows] - plan.spot_mm[stand], axis=1) > _STANDS_MM
        left = np.flatnonzero(away & (np.cumsum(away) >= _STRAYED_RUN))
        rows = rows[: left[0]] if len(left) else rows
        wanted = plan.mu[stand] * path.mu.sum() / plan.mu.sum()
        rows = rows[(np.cumsum(path.mu[rows]) <= wanted) & (found[rows] != OFF_PLAN)]
        found[rows] = stand
    return found


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
    for stand in np.flatnonzero(np.linalg.norm(plan.spot_mm - plan.start_mm, axis=1) < _STANDS_MM):
        # Where the beam stands, its place does not say how far it has come.
        rows = np.flatnonzero(spot == stand)
        share[rows] = np.linspace(0.0, 1.0, len(rows))
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
            tried = float(np.median(lag[rows])) + _NEAREST_FIRST * 30e-6
            costs = [misfit(path, plan, chosen, float(one), offset) for one in tried]
            last_lag = float(tried[int(np.argmin(costs))])
        planned[rows], found[rows] = plan.positions_at(path.time_s[rows] - last_lag)
    apart = distance_mm(path, plan, path.positions_mm - planned - offset)[on]
    explained = path.mu[on][apart <= plan.tolerance_mm].sum() / max(path.mu[on].sum(), 1e-300)
    return Assignment(found, planned, False) if explained >= _EXPLAINS else None


def _groups(position: Floats, part: Indices, spots: int) -> Indices:
    """Numbers of runs of samples that lie close together; shape (samples,), ascending."""
    longest = max(_GROUP_SAMPLES, len(position) * spots // _ALIGNED_CELLS + 1)
    group = np.empty(len(position), dtype=np.int64)
    number, first = 0, 0
    x, y, parts = position[:, 0].tolist(), position[:, 1].tolist(), part.tolist()
    for index in range(len(x)):
        apart = abs(x[index] - x[first]) + abs(y[index] - y[first])
        if index - first >= longest or apart > _GROUP_MM or parts[index] != parts[first]:
            number, first = number + 1, index
        group[index] = number
    return group


def _nearest_on_line(position: Floats, plan: SpotPlan, spot: Indices) -> tuple[Floats, Floats]:
    """The point (n, 2) of each sample's own line nearest to it, and the share of the line up to it."""
    start, line = plan.start_mm[spot], plan.spot_mm[spot] - plan.start_mm[spot]
    length = (line**2).sum(axis=1)
    along = np.where(
        length > 0, ((position - start) * line).sum(axis=1) / np.where(length > 0, length, 1.0), 0.0
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

"""Delivered against planned, per layer and spot: positions, monitor units, missing and extra spots.

What is compared is what the machine recorded with what the plan asked for; nothing is judged here. The
limits stand in the settings, and :mod:`mqi_dagster.delivery.verdict` holds the figures against them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.delivery.comparison_figures import (
    Axes,
    ExtraDose,
    LayerComparison,
    SpotMu,
    SpotOutOfTurn,
)
from mqi_dagster.delivery.delivered_path import DeliveredPath, Path
from mqi_dagster.delivery.planned_timeline import PlannedTimeline
from mqi_dagster.delivery.spot_assignment import assign
from mqi_dagster.delivery.spot_plan import OFF_PLAN, Assignment, SpotPlan, spot_plan
from mqi_dagster.machine import Machine
from mqi_dagster.plan.model import PlanLayer, ScanMode

Floats = NDArray[np.float64]

_MISSING_SHARE = 0.2
"""A spot with less of its monitor units than this was not given."""
_JUDGED_COUNTS = 20
"""Spots of fewer counts of the monitor are too faint to be missed."""
_JUDGED_SAMPLES = 4
"""Line-scanned spots that last fewer samples cannot be told from their neighbours'."""
_LEAST_SAMPLES = 3
"""A spot's mean position needs as many samples."""
_EDGE_SAMPLES = 2.0
"""Samples' worth of monitor units that may fall to a line's neighbour."""
_RISING_SAMPLES = 10
_RISING_LOSS = 5.0
"""Samples' worth of monitor units that the rise of the beam costs at most."""
_SPOTS_SAID = 10
"""Spots that stand in a layer's figures by name; all of them stand in the table."""


@dataclass(frozen=True, slots=True)
class ComparedLayer:
    """The figures of a layer, and the table of its spots."""

    figures: LayerComparison
    spots: dict[str, NDArray[np.generic]]
    """By column, each of shape (spots,); NaN where a spot has no position."""


class LayerRecorder:
    """Takes a layer's samples as they are read and compares them once all were."""

    def __init__(self, layer: PlanLayer, timeline: PlannedTimeline, machine: Machine) -> None:
        self._layer = layer
        self._timeline = timeline
        self._machine = machine
        self._path = DeliveredPath()
        self._off_mu = 0.0
        self._on_mu = 0.0

    def add(self, part: int, time_s: Floats, positions_mm: Floats, mu: Floats) -> None:
        """Take the next beam-on samples.

        Args:
            part: 0-based part of the layer they belong to.
            time_s: Time since the part's first beam-on sample; shape (n,).
            positions_mm: Shape (n, 2).
            mu: Shape (n,).
        """
        self._path.add(part, time_s, positions_mm, mu)
        self._on_mu += float(mu.sum())

    def add_beam_off(self, mu: float) -> None:
        """Take monitor units that came while the beam was not on."""
        self._off_mu += mu

    def compared(self) -> ComparedLayer:
        """The comparison of everything that was taken."""
        return compare_layer(
            self._path.path(), self._layer, self._timeline, self._machine, (self._on_mu, self._off_mu)
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """Samples in a row that belong to no spot."""

    first: int
    stop: int
    mu: float
    position_mm: Floats
    before: int
    """0-based spot before the run, -1 at the start; and the one after it, -1 at the end."""
    after: int


def compare_layer(
    path: Path, layer: PlanLayer, timeline: PlannedTimeline, machine: Machine, mu: tuple[float, float]
) -> ComparedLayer:
    """Compare a delivered layer with its plan.

    Args:
        path: Its beam-on samples with monitor units.
        layer: The planned layer.
        timeline: Its planned timeline.
        machine: Speed of the beam and calibration of the monitor.
        mu: Monitor units with the beam on, and without it.
    """
    plan = spot_plan(timeline, machine.timing.speed_cm_s, float(layer.spot_mu[0]))
    count = len(plan.mu)
    on_mu, off_mu = mu
    turned: tuple[SpotOutOfTurn, ...] = ()
    extra: tuple[ExtraDose, ...] = ()
    off_plan = 0.0
    runs: list[_Run] = []
    if len(path):
        found = assign(path, plan)
        found, out_of_turn, runs = _reunited(path, plan, found)
        swapped, turned = _pairs(out_of_turn, found.swapped, plan.mu)
        extra = tuple(
            ExtraDose(
                x_mm=float(run.position_mm[0]),
                y_mm=float(run.position_mm[1]),
                mu=run.mu,
                after_spot=run.before + 1,
            )
            for run in runs
        )
        extra += _undosed(path, plan, found.spot)
        off_plan = float(path.mu[found.spot == OFF_PLAN].sum()) / on_mu * 100.0
    else:
        found = Assignment(np.empty(0, dtype=np.int64), np.empty((0, 2)), False)
        swapped = ()
    on = found.spot != OFF_PLAN
    spot, given = found.spot[on], path.mu[on]
    errors = path.positions_mm[on] - found.planned_mm[on]
    delivered: Floats = np.bincount(spot, weights=given, minlength=count).astype(np.float64)
    samples = np.bincount(spot, minlength=count)
    safe = np.where(delivered > 0, delivered, 1.0)
    means = np.column_stack(
        [np.bincount(spot, weights=given * errors[:, axis], minlength=count) / safe for axis in (0, 1)]
    )
    judged = _judged(plan, path, machine)
    expected = _expected(plan, delivered, judged)
    on_the_way = _on_the_way_back(path, plan, runs)
    missing = judged & (delivered < _MISSING_SHARE * expected) & ~on_the_way
    figures = LayerComparison(
        number=layer.number,
        planned_mu=layer.meterset_mu,
        delivered_mu=on_mu,
        ratio=on_mu / layer.meterset_mu if layer.meterset_mu > 0 else None,
        spots=count,
        follows_timeline=found.by_time,
        **_positions(errors, given, means, samples, _located(plan, delivered, expected, runs)),
        transform=found.transform,
        beam_off_percent=100.0 * off_mu / on_mu if on_mu > 0 else 0.0,
        missing_spots=tuple(int(index) + 1 for index in np.flatnonzero(missing)),
        swapped_spots=swapped,
        spots_out_of_turn=turned,
        extra=extra,
        off_plan_percent=off_plan,
        spot_mu=_spot_mu(plan, path, found.spot, delivered, expected, judged & ~missing & ~on_the_way),
    )
    table: dict[str, NDArray[np.generic]] = {
        "layer": np.full(count, layer.number, dtype=np.int32),
        "spot": np.arange(1, count + 1, dtype=np.int32),
        "x_mm": plan.spot_mm[:, 0],
        "y_mm": plan.spot_mm[:, 1],
        "planned_mu": plan.mu,
        "delivered_mu": delivered,
        "samples": samples.astype(np.int32),
        "dx_mm": np.where(samples > 0, means[:, 0], np.nan),
        "dy_mm": np.where(samples > 0, means[:, 1], np.nan),
    }
    return ComparedLayer(figures, table)


def _undosed(path: Path, plan: SpotPlan, spot: NDArray[np.int64]) -> tuple[ExtraDose, ...]:
    """Monitor units on spots that were to get none, beyond what the edges of samples explain."""
    given = np.bincount(spot[spot != OFF_PLAN], weights=path.mu[spot != OFF_PLAN], minlength=len(plan.mu))
    least = _RISING_SAMPLES * _sample_mu(path)
    return tuple(
        ExtraDose(
            x_mm=float(plan.spot_mm[index, 0]),
            y_mm=float(plan.spot_mm[index, 1]),
            mu=float(given[index]),
            after_spot=int(index),
        )
        for index in np.flatnonzero((plan.mu <= 0) & (given > least))
    )


def _positions(
    errors: Floats,
    mu: Floats,
    means: Floats,
    samples: NDArray[np.int64],
    located: NDArray[np.bool_],
) -> dict[str, Axes | tuple[int, int] | None]:
    """The figures of the positions."""
    if not len(mu) or mu.sum() <= 0:
        return {"mean_mm": None, "sd_mm": None, "p95_mm": None, "maximum_mm": None, "maximum_spot": None}
    total = mu.sum()
    mean = [float((errors[:, axis] * mu).sum() / total) for axis in (0, 1)]
    sd = [float(np.sqrt((((errors[:, axis] - mean[axis]) ** 2) * mu).sum() / total)) for axis in (0, 1)]
    seen = (samples >= _LEAST_SAMPLES) & located
    seen = seen if seen.any() else samples > 0
    worst = [int(np.argmax(np.where(seen, np.abs(means[:, axis]), -1.0))) for axis in (0, 1)]
    p95 = [_percentile(np.abs(errors[:, axis]), mu, 0.95) for axis in (0, 1)]
    return {
        "mean_mm": Axes(x=mean[0], y=mean[1]),
        "sd_mm": Axes(x=sd[0], y=sd[1]),
        "p95_mm": Axes(x=p95[0], y=p95[1]),
        "maximum_mm": Axes(x=float(means[worst[0], 0]), y=float(means[worst[1], 1])),
        "maximum_spot": (worst[0] + 1, worst[1] + 1),
    }


def _located(plan: SpotPlan, delivered: Floats, expected: Floats, runs: list[_Run]) -> NDArray[np.bool_]:
    """Which spots have a place of their own: given for the most part, and not on a way off the plan."""
    located = delivered > 0.5 * expected
    located |= (delivered > 0) & (plan.mu <= 0)
    if plan.mode is ScanMode.LINE:
        for run in runs:
            stop = run.after + 1 if run.after >= 0 else len(plan.mu)
            located[max(run.before, 0) : stop] = False
    return located


def _percentile(values: Floats, weights: Floats, share: float) -> float:
    """The value below which this share of the weights lies."""
    order = np.argsort(values, kind="stable")
    running = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(running, share * running[-1])])


def _sample_mu(path: Path) -> float:
    """Monitor units of a usual sample."""
    return float(np.median(path.mu)) if len(path) else 0.0


def _judged(plan: SpotPlan, path: Path, machine: Machine) -> NDArray[np.bool_]:
    """Which spots are strong enough that their monitor units can be told."""
    least = _JUDGED_COUNTS * machine.record.mu_per_count
    if plan.mode is ScanMode.LINE:
        least = max(least, _JUDGED_SAMPLES * _sample_mu(path))
    return plan.mu >= least


def _expected(plan: SpotPlan, delivered: Floats, judged: NDArray[np.bool_]) -> Floats:
    """Monitor units of each spot where all were given as most of the layer was."""
    given = judged & (delivered > 0)
    return plan.mu * (float(np.median(delivered[given] / plan.mu[given])) if given.any() else 1.0)


def _spot_mu(
    plan: SpotPlan,
    path: Path,
    spot: NDArray[np.int64],
    delivered: Floats,
    expected: Floats,
    judged: NDArray[np.bool_],
) -> tuple[SpotMu, ...]:
    """The spots farthest from what was expected, beyond what the edges of a line's samples explain.

    Where the beam comes on, its intensity rises over some samples, so that the first line gets less.
    """
    blur = np.zeros(len(plan.mu))
    if plan.mode is ScanMode.LINE:
        blur += _EDGE_SAMPLES * _sample_mu(path)
        for part in np.unique(path.part):
            rising = spot[np.flatnonzero(path.part == part)[:_RISING_SAMPLES]]
            blur[np.unique(rising[rising != OFF_PLAN])] += _RISING_LOSS * _sample_mu(path)
    excess = np.where(judged, np.maximum(np.abs(delivered - expected) - blur, 0.0), 0.0)
    share = np.divide(excess, expected, out=np.zeros_like(excess), where=expected > 0)
    worst = np.argsort(-share, kind="stable")[:_SPOTS_SAID]
    return tuple(
        SpotMu(
            spot=int(index) + 1,
            ratio=float(delivered[index] / expected[index]),
            planned_mu=float(plan.mu[index]),
        )
        for index in worst
        if share[index] > 0.01
    )


def _reunited(
    path: Path, plan: SpotPlan, found: Assignment
) -> tuple[Assignment, dict[int, tuple[int, int]], list[_Run]]:
    """Runs off the plan that are a spot out of its turn go to that spot.

    Returns:
        The assignment; by spot that was out of its turn, the spots before and after it; the runs left.
    """
    runs = _runs(path, found)
    delivered = np.bincount(
        found.spot[found.spot != OFF_PLAN], weights=path.mu[found.spot != OFF_PLAN], minlength=len(plan.mu)
    )
    spots = found.spot.copy()
    planned = found.planned_mm.copy()
    out_of_turn: dict[int, tuple[int, int]] = {}
    left = []
    for run in runs:
        lacking = (plan.mu > 0) & (delivered < _MISSING_SHARE * plan.mu)
        alike = (run.mu > 0.5 * plan.mu) & (run.mu < 2.0 * plan.mu)
        middle = (plan.start_mm + plan.spot_mm) / 2
        apart = np.linalg.norm(run.position_mm - np.asarray(found.offset_mm) - middle, axis=1)
        apart = np.where(lacking & alike, apart, np.inf)
        nearest = int(np.argmin(apart))
        if apart[nearest] <= plan.tolerance_mm:
            rows = slice(run.first, run.stop)
            spots[rows] = nearest
            planned[rows] = middle[nearest]
            delivered[nearest] += run.mu
            out_of_turn[nearest] = (run.before, run.after)
        else:
            left.append(run)
    return replace(found, spot=spots, planned_mm=planned), out_of_turn, left


def _on_the_way_back(path: Path, plan: SpotPlan, runs: list[_Run]) -> NDArray[np.bool_]:
    """Lines that were given on the way back from an extra place: they end at their spot all the same.

    What they lack of their monitor units lies on that way.
    """
    found = np.zeros(len(plan.mu), dtype=np.bool_)
    if plan.mode is ScanMode.LINE:
        for run in runs:
            end = path.positions_mm[run.stop - _LEAST_SAMPLES : run.stop].mean(axis=0)
            near = np.linalg.norm(plan.spot_mm - end, axis=1) <= 2 * plan.tolerance_mm
            stop = run.after + 1 if run.after >= 0 else len(plan.mu)
            found[max(run.before, 0) : stop] |= near[max(run.before, 0) : stop]
    return found


def _runs(path: Path, found: Assignment) -> list[_Run]:
    """Runs of samples off the plan, long or strong enough to be more than the edge of a spot."""
    off = np.concatenate([[False], found.spot == OFF_PLAN, [False]])
    edges = np.flatnonzero(off[1:] != off[:-1]).reshape(-1, 2)
    runs = []
    least = _LEAST_SAMPLES * _sample_mu(path)
    for first, stop in edges:
        mu = float(path.mu[first:stop].sum())
        if mu < least:
            continue
        position_mm = (path.positions_mm[first:stop] * path.mu[first:stop, None]).sum(axis=0) / mu
        before = int(found.spot[first - 1]) if first > 0 else -1
        after = int(found.spot[stop]) if stop < len(found.spot) else -1
        runs.append(_Run(int(first), int(stop), mu, position_mm, before, after))
    return runs


def _pairs(
    out_of_turn: dict[int, tuple[int, int]], swapped: tuple[tuple[int, int], ...], mu: Floats
) -> tuple[tuple[tuple[int, int], ...], tuple[SpotOutOfTurn, ...]]:
    """Spots out of their turn as pairs that changed places, and the others; 1-based."""
    rank = np.cumsum(mu > 0).astype(np.int64)
    pairs = [(one + 1, other + 1) for one, other in swapped]
    single = []
    seen: set[int] = set()
    for spot, (before, after) in sorted(out_of_turn.items()):
        if spot in seen:
            continue
        for other, (other_before, _) in out_of_turn.items():
            # Each of the two stands where the one before the other did.
            if other > spot and _next_to(rank, other_before, spot) and _next_to(rank, before, other):
                pairs.append((spot + 1, other + 1))
                seen |= {spot, other}
                break
        if spot in seen:
            continue
        if before > spot and rank[before] == rank[spot] + 1:
            pairs.append((spot + 1, before + 1))
        elif 0 <= after < spot and rank[after] == rank[spot] - 1:
            pairs.append((after + 1, spot + 1))
        else:
            single.append(SpotOutOfTurn(spot=spot + 1, after_spot=before + 1))
    return tuple(sorted(pairs)), tuple(single)


def _next_to(rank: NDArray[np.int64], before: int, spot: int) -> bool:
    """Whether ``before`` is the last spot with dose before ``spot``."""
    return int(rank[before] if before >= 0 else 0) == int(rank[spot]) - 1

"""Where the beam was planned to be at which time, and how far from there it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.delivery.machine_plan import MachinePlan, read_machine_plan
from mqi_dagster.delivery.manifest import LayerEntry
from mqi_dagster.delivery.summary import TimelineSource
from mqi_dagster.delivery.timing import spot_times_s, stop_times_s, travel_times_s
from mqi_dagster.errors import DeliveryError, Where
from mqi_dagster.machine import Machine, Preset
from mqi_dagster.plan.model import PlanLayer, ScanMode

_NEAR_START_MM = 10.0
"""The record still shows the magnets' rest position in its first beam-on rows; past this it is the beam."""
_RESTING_MM = 0.01
_NOTHING = 1e-9
"""Share of a layer's monitor units that is but the last bit of a sum."""


@dataclass(frozen=True, slots=True)
class PlannedTimeline:
    """The planned path of a layer, linear between its knots.

    In line scanning a knot is the end of each spot's segment, the first at 0. In spot scanning each spot
    has two: the beam comes to rest there, and has given the spot's monitor units; the first at 0.
    """

    source: TimelineSource
    time_s: NDArray[np.float64]
    """Shape (knots,), never descending."""
    positions_mm: NDArray[np.float64]
    """Shape (knots, 2), from the plan."""
    cumulative_mu: NDArray[np.float64]
    """Shape (knots,): monitor units up to each knot."""
    mode: ScanMode

    @property
    def rests(self) -> bool:
        """Whether all spots lie in one place, so that time does not matter."""
        return bool(np.all(np.ptp(self.positions_mm, axis=0) <= _RESTING_MM))

    def positions_at(self, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Planned x, y at times [s]; held before the start and after the end; shape (times, 2)."""
        return np.column_stack(
            [np.interp(time_s, self.time_s, self.positions_mm[:, axis]) for axis in range(2)]
        )

    def mu_at(self, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Planned monitor units up to times [s]; shape (times,)."""
        mu: NDArray[np.float64] = np.interp(time_s, self.time_s, self.cumulative_mu)
        return mu

    def sampled(
        self, time_s: NDArray[np.float64], mu_before: NDArray[np.float64], mu: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Planned x, y of samples that hold what was given from ``mu_before`` to ``mu``; shape (times, 2).

        Where the beam stops, a sample with monitor units lies on the spot they were given at, although the
        beam may be on its way at the sample's own time.
        """
        at = self.positions_at(time_s)
        if self.mode is ScanMode.LINE:
            return at
        ends = self.cumulative_mu[1::2]
        spot = np.minimum(np.searchsorted(ends, (mu_before + mu) / 2), len(ends) - 1)
        given = mu - mu_before > _NOTHING * self.cumulative_mu[-1]
        return np.where(given[:, None], self.positions_mm[2 * spot], at)


def _deviation(machine_plan: MachinePlan, layer: PlanLayer, preset: Preset) -> str | None:
    """What keeps the machine plan from being a timeline of this layer."""
    planned = len(layer.positions_mm)
    if len(machine_plan.time_s) != planned:
        return f"the machine plan has {len(machine_plan.time_s)} spots, the plan {planned}"
    off = np.abs(machine_plan.positions_mm - layer.positions_mm) / [preset.x_gain_mm, preset.y_gain_mm]
    worst = int(np.argmax(off.max(axis=1)))
    # One step for rounding to the preset's grid, one for the doubt about its zero (docs/formats.md 4).
    if off[worst].max() > 2.0:
        distance = np.abs(machine_plan.positions_mm[worst] - layer.positions_mm[worst]).max()
        return f"the machine plan's spot {worst + 1} lies {distance:.3f} mm from the plan's"
    return None


def planned_timeline(
    entry: LayerEntry | None, layer: PlanLayer, machine: Machine, mode: ScanMode
) -> PlannedTimeline:
    """The timeline of a layer: the machine's own where it wrote one, else the timing model's.

    Positions and monitor units are always the plan's. Of a resumed layer the first part's machine plan is
    used; where that one does not describe the whole layer, the timing model is.

    Args:
        entry: The delivered layer, or None for one that was not delivered.
        layer: The planned layer.
        machine: The machine of the beam.
        mode: How the plan has it scanned. A machine plan's times are the ends of the spots in either.

    Raises:
        DeliveryError: The machine plan of a layer delivered in one piece is damaged or is that of
            other spots.
        ConfigurationError: The timing model is needed and does not cover the energy.
    """
    if entry is not None and entry.parts[0].machine_plan is not None:
        part = entry.parts[0]
        assert part.machine_plan is not None
        where = Where(
            delivery=part.delivery, layer=layer.number, kind="machine plan", sha256=part.machine_plan.sha256
        )
        try:
            machine_plan = read_machine_plan(part.machine_plan.path, machine.preset)
        except DeliveryError as error:
            raise error.at(where) from error
        deviation = _deviation(machine_plan, layer, machine.preset)
        if deviation is None:
            if mode is ScanMode.MODULATED:
                return _stopping(TimelineSource.MACHINE_PLAN, layer, machine, machine_plan.time_s)
            return _scanning(TimelineSource.MACHINE_PLAN, layer, machine_plan.time_s)
        if len(entry.parts) == 1:
            raise DeliveryError(deviation, where=where)
    if mode is ScanMode.MODULATED:
        return _stopping(TimelineSource.TIMING_MODEL, layer, machine, None)
    return _scanning(TimelineSource.TIMING_MODEL, layer, spot_times_s(layer, machine.timing))


def _scanning(source: TimelineSource, layer: PlanLayer, times_s: NDArray[np.float64]) -> PlannedTimeline:
    """Line scanning: the spots are the knots."""
    return PlannedTimeline(source, times_s, layer.positions_mm, np.cumsum(layer.spot_mu), ScanMode.LINE)


def _stopping(
    source: TimelineSource, layer: PlanLayer, machine: Machine, ends_s: NDArray[np.float64] | None
) -> PlannedTimeline:
    """Spot scanning: to each spot at full speed and without dose, then a stop until its end.

    Args:
        source: Where the ends come from.
        layer: The planned layer.
        machine: Speed and dose rate.
        ends_s: End of each spot from the first one's end [s]; None: by the timing model.
    """
    travel = travel_times_s(layer, machine.timing)
    if ends_s is None:
        stops = stop_times_s(layer, machine.timing)
    else:
        spent = np.diff(ends_s)
        travel = np.minimum(travel, spent)
        later = spent - travel
        # The machine plan does not say how long the first stop is: as long as its monitor units take.
        given, lasted = float(layer.spot_mu[1:].sum()), float(later.sum())
        alone = given <= 0 or lasted <= 0
        first = stop_times_s(layer, machine.timing)[0] if alone else layer.spot_mu[0] * lasted / given
        stops = np.concatenate([[first], later])
    ends = np.cumsum(stops + np.concatenate([[0.0], travel]))
    mu = np.cumsum(layer.spot_mu)
    return PlannedTimeline(
        source,
        np.column_stack([ends - stops, ends]).ravel(),
        np.repeat(layer.positions_mm, 2, axis=0),
        np.column_stack([mu - layer.spot_mu, mu]).ravel(),
        ScanMode.MODULATED,
    )


class PositionComparison:
    """Mean of delivered - planned positions over a layer's beam-on samples, weighted by MU.

    Planned positions are those of the same time since the first beam-on sample. Leading samples are left
    out until the beam first comes within 10 mm of the planned start; where it never does, all samples
    count, so that a displaced layer shows. Of a resumed layer only the first part has a known place on the
    timeline; the later ones count where the planned beam rests.
    """

    def __init__(self, timeline: PlannedTimeline) -> None:
        self._timeline = timeline
        self._arrived = False
        self._since_arrival = np.zeros(3)
        self._from_start = np.zeros(3)
        self._compared = 0
        self._seen = 0

    def add(
        self,
        part: int,
        time_s: NDArray[np.float64],
        positions_mm: NDArray[np.float64],
        mu: NDArray[np.float64],
    ) -> None:
        """Take the next beam-on samples.

        Args:
            part: 0-based part of the layer they belong to.
            time_s: Time since the part's first beam-on sample; shape (n,).
            positions_mm: Shape (n, 2).
            mu: Shape (n,).
        """
        if not len(mu) or (part > 0 and not self._timeline.rests):
            return
        difference = positions_mm - self._timeline.positions_at(time_s)
        self._seen += len(mu)
        self._from_start += _weighted(difference, mu)
        if not self._arrived:
            near = np.linalg.norm(positions_mm - self._timeline.positions_mm[0], axis=1) <= _NEAR_START_MM
            if not near.any():
                return
            self._arrived = True
            first = int(np.argmax(near))
            difference, mu = difference[first:], mu[first:]
        self._compared += len(mu)
        self._since_arrival += _weighted(difference, mu)

    @property
    def samples(self) -> int:
        """How many samples stand behind the mean."""
        return self._compared if self._arrived else self._seen

    @property
    def mean_mm(self) -> tuple[float, float] | None:
        """Mean difference in x and y; None without monitor units."""
        dx, dy, mu = self._since_arrival if self._arrived else self._from_start
        return (float(dx / mu), float(dy / mu)) if mu > 0 else None


def _weighted(difference: NDArray[np.float64], mu: NDArray[np.float64]) -> NDArray[np.float64]:
    # Plain sums: a threaded dot product would make the last bits depend on the machine.
    dx, dy = (difference[:, axis] * mu for axis in range(2))
    return np.array([dx.sum(), dy.sum(), mu.sum()])

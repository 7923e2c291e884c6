"""The simulator's own timing of a layer: line scanning (docs/physics.md 4), or spot by spot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mqi_dagster.machine import Timing
from mqi_dagster.synthetic.source import Floats, SourceLayer

NO_MU = 1e-7
"""Below this [MU] a spot is only passed through."""


@dataclass(frozen=True, slots=True)
class SpotTimeline:
    """When each spot of a layer ends [s], from the first one's end, and the layer's dose rate [MU/s]."""

    spot_s: Floats
    rate_mu_s: float
    arrival_s: Floats | None = None
    """When the beam comes to rest at each spot; None where it scans the lines between them."""

    def lead_in_s(self, layer: SourceLayer) -> float:
        """How long the beam stays on the first spot before its time, to deliver that spot's own MU.

        A machine's own layers begin with a spot of weight 0, so that this is 0; other vendors' do not.
        """
        return float(layer.spot_mu[0]) / self.rate_mu_s


def planned_timeline(
    layer: SourceLayer, timing: Timing, *, stops: bool, rate_mu_s: float | None = None
) -> SpotTimeline:
    """The planned timeline of a layer.

    Args:
        layer: What is to be delivered.
        timing: Speed and dose rates of the machine.
        stops: Whether the beam stands still at each spot: it travels without dose, and delivers at the
            greatest dose rate of the energy.
        rate_mu_s: Dose rate of a layer that is not delivered as planned; of its plan where None.

    Raises:
        ConfigurationError: The machine's dose-rate table does not cover the layer's energy.
    """
    steps_cm = np.hypot(*np.diff(layer.positions_mm, axis=0).T) / 10.0
    path_cm = np.rint(10.0 * steps_cm) / 10.0
    mu = layer.spot_mu[1:]
    speed, slowest = timing.speed_cm_s, timing.minimum_dose_rate_mu_s
    greatest = max(timing.maximum_dose_rate_mu_s.at(layer.energy_mev), slowest)
    travel_s = path_cm / speed
    if stops:
        ends = np.concatenate([[0.0], np.cumsum(travel_s + mu / greatest)])
        arrival = np.concatenate([[-layer.spot_mu[0] / greatest], ends[:-1] + travel_s])
        return SpotTimeline(ends, greatest, arrival)
    moving = path_cm > 0
    rates = speed * mu[moving] / path_cm[moving]
    wanted = rates[rates >= slowest].min(initial=np.inf)
    wanted = slowest if np.isinf(wanted) else float(wanted)
    rate = min(wanted, greatest) if rate_mu_s is None else rate_mu_s
    steps_s = np.where(mu < NO_MU, travel_s, np.maximum(mu / rate, travel_s))
    return SpotTimeline(np.concatenate([[0.0], np.cumsum(steps_s)]), rate)

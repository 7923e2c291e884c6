"""The planned timeline of a layer from the plan alone: line scanning or spot scanning (docs/physics.md 4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.errors import ConfigurationError, Where
from mqi_dagster.machine import Timing
from mqi_dagster.plan.model import PlanLayer

_TRANSIT_MU = 1e-7
"""Below this a segment carries no dose and runs at full speed [MU]."""


def spot_times_s(layer: PlanLayer, timing: Timing) -> NDArray[np.float64]:
    """When the beam reaches the end of each spot's segment, with the first spot at 0 [s].

    The machine plans with distances in whole millimetres. They are rounded to the nearest one, an exact
    half to the even one: the public programs take the floor, which makes 0.5 cm of a 5.997 mm raster.
    One dose rate holds for the layer: the highest at which no segment with dose has to be scanned faster
    than the machine can, bounded by the machine's least rate and by its greatest at this energy.

    Args:
        layer: Spots with true positions, and their monitor units.
        timing: Speed and dose rates of the machine.

    Returns:
        Shape (spots,), never descending.

    Raises:
        ConfigurationError: The machine's dose-rate table does not cover the energy.
    """
    table_rate = _table_rate(layer, timing)
    step_cm = _steps_cm(layer)
    mu = layer.spot_mu[1:]
    speed = timing.speed_cm_s
    least = timing.minimum_dose_rate_mu_s
    moving = step_cm > 0
    rates = speed * mu[moving] / step_cm[moving]
    reachable = rates[rates >= least]
    wanted = float(reachable.min()) if reachable.size else least
    rate = min(max(wanted, least), max(table_rate, least))
    travel_s = step_cm / speed
    dose_s = np.where(mu < _TRANSIT_MU, 0.0, mu / rate)
    return np.concatenate([[0.0], np.cumsum(np.maximum(dose_s, travel_s))])


def travel_times_s(layer: PlanLayer, timing: Timing) -> NDArray[np.float64]:
    """How long the beam is on its way to each spot but the first, at full speed; shape (spots - 1,) [s]."""
    travel: NDArray[np.float64] = _steps_cm(layer) / timing.speed_cm_s
    return travel


def stop_times_s(layer: PlanLayer, timing: Timing) -> NDArray[np.float64]:
    """How long the beam stands on each spot of a spot-scanned layer; shape (spots,) [s].

    A spot is given at the machine's greatest dose rate of the energy: nothing moves meanwhile, so that no
    segment bounds it.

    Raises:
        ConfigurationError: The machine's dose-rate table does not cover the energy.
    """
    rate = max(_table_rate(layer, timing), timing.minimum_dose_rate_mu_s)
    stops: NDArray[np.float64] = layer.spot_mu / rate
    return stops


def _table_rate(layer: PlanLayer, timing: Timing) -> float:
    try:
        return timing.maximum_dose_rate_mu_s.at(layer.energy_mev)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"maximum_dose_rate_mu_s: {error.message}", where=Where(layer=layer.number)
        ) from error


def _steps_cm(layer: PlanLayer) -> NDArray[np.float64]:
    """Distances between spots in whole millimetres [cm]."""
    distance_cm = np.linalg.norm(np.diff(layer.positions_mm, axis=0), axis=1) / 10.0
    steps: NDArray[np.float64] = np.rint(10.0 * distance_cm) / 10.0
    return steps

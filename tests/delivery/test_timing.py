"""The planned timeline: whole millimetres by rounding, one dose rate a layer, full speed without dose."""

from __future__ import annotations

import numpy as np
import pytest

from mqi_dagster.delivery.timing import spot_times_s
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.machine import EnergyTable, Machines, Timing
from mqi_dagster.plan.model import PlanLayer

MICROSECOND = 1e-6


def _layer(spots: list[tuple[float, float, float]], energy_mev: float = 150.0, number: int = 1) -> PlanLayer:
    values = np.array(spots, dtype=np.float64)
    return PlanLayer(
        number=number,
        control_point_index=0,
        energy_mev=energy_mev,
        meterset_mu=float(values[:, 2].sum()),
        positions_mm=values[:, :2],
        spot_mu=values[:, 2],
    )


@pytest.fixture
def timing() -> Timing:
    return Timing(
        speed_cm_s=2000.0,
        minimum_dose_rate_mu_s=1.4,
        maximum_dose_rate_mu_s=EnergyTable(energy_mev=(70.0, 230.0), value=(3.91, 20.0)),
    )


def test_a_raster_of_5_997_mm_runs_with_steps_of_6_mm(timing: Timing) -> None:
    # 6 mm at 2000 cm/s take 300 us. The first segment with dose sets the rate: 0.001 MU / 300 us.
    layer = _layer(
        [(0, 0, 0), (5.997, 0, 0.001), (11.994, 0, 0.002), (11.994, 5.997, 0), (5.997, 5.997, 0.0015)]
    )
    assert spot_times_s(layer, timing) == pytest.approx(
        [0, 300e-6, 900e-6, 1200e-6, 1650e-6], abs=MICROSECOND
    )


def test_a_diagonal_is_rounded_as_a_distance(timing: Timing) -> None:
    # 3.02 and 4.02 mm make 5.028 mm: 5 mm, 250 us.
    layer = _layer([(0, 0, 0), (3.02, 4.02, 0)])
    assert spot_times_s(layer, timing) == pytest.approx([0, 250e-6], abs=1e-9)


def test_distances_below_half_a_millimetre_take_no_travel(timing: Timing) -> None:
    layer = _layer([(0, 0, 0), (0.4, 0, 0), (0.4, 0.6, 0)])
    assert spot_times_s(layer, timing) == pytest.approx([0, 0, 50e-6], abs=1e-9)


def test_the_rate_is_bounded_by_the_machine_at_this_energy(timing: Timing) -> None:
    # 0.003 MU in 300 us would be 10 MU/s; at 70 MeV the machine gives 3.91.
    layer = _layer([(0, 0, 0), (6, 0, 0.003)], energy_mev=70.0)
    assert spot_times_s(layer, timing) == pytest.approx([0, 0.003 / 3.91], abs=1e-9)


def test_segments_below_the_least_rate_do_not_set_it(timing: Timing) -> None:
    # 0.0001 MU in 300 us is 0.33 MU/s: scanned at full speed; 0.0006 MU give 2 MU/s.
    layer = _layer([(0, 0, 0), (6, 0, 0.0001), (12, 0, 0.0006), (12, 0, 0.002)])
    assert spot_times_s(layer, timing) == pytest.approx([0, 300e-6, 600e-6, 1600e-6], abs=1e-9)


def test_a_resting_beam_is_planned_at_the_least_rate(timing: Timing) -> None:
    layer = _layer([(-50, 50, 0), (-50, 50, 1.0)])
    assert spot_times_s(layer, timing) == pytest.approx([0, 1 / 1.4], abs=1e-9)


def test_one_spot_is_a_layer(timing: Timing) -> None:
    assert spot_times_s(_layer([(1, 2, 0.5)]), timing).tolist() == [0.0]


@pytest.mark.parametrize("energy", [69.9, 230.1])
def test_an_energy_outside_the_rate_table_is_an_error_that_names_the_layer(
    timing: Timing, energy: float
) -> None:
    with pytest.raises(ConfigurationError, match="maximum_dose_rate_mu_s") as caught:
        spot_times_s(_layer([(0, 0, 1)], energy_mev=energy, number=17), timing)
    assert caught.value.where.layer == 17


def test_the_product_machines_agree_with_the_public_limits(machines: Machines) -> None:
    # 20 MU/s at 230 MeV: 0.012 MU in 300 us would be 40.
    layer = _layer([(0, 0, 0), (5.997, 0, 0.012)], energy_mev=230.0)
    assert spot_times_s(layer, machines.named("G2").timing) == pytest.approx([0, 600e-6], abs=1e-9)

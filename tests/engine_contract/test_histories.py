"""Protons asked for are protons simulated, within 0.1 % at every energy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.engine_contract.histories import (
    HistoryRequest,
    read_counts,
    request_histories,
    truncated_histories,
)
from mqi_dagster.errors import EngineInputError
from mqi_dagster.machine import Machines
from mqi_dagster.settings import CsvDialect, EngineProfile, built_in_profiles
from tests.engine_contract.engine_cases import layer_of, write_csv

EMBEDDED, MOQUI = built_in_profiles()["embedded"], built_in_profiles()["moqui"]

K_110 = 1.418493333 * 0.983342911
K_150 = 1.85700629 * 0.946491263
"""A2 * B2 of docs/physics.md 5."""


def ask(
    machines: Machines,
    profile: EngineProfile,
    counts: dict[float, list[int]],
    histories: float,
    dividing_factor: float = 1.0,
) -> HistoryRequest:
    layers = [layer_of(i, e, n, "f", "0" * 64) for i, (e, n) in enumerate(counts.items(), start=1)]
    arrays = {i: np.array(n) for i, n in enumerate(counts.values(), start=1)}
    return request_histories(
        layers,
        machines.named("G2"),
        profile,
        histories=histories,
        counts_divided_by=dividing_factor,
        counts_of=arrays.__getitem__,
    )


def test_the_embedded_engine_gets_the_histories_over_the_protons(machines: Machines) -> None:
    request = ask(machines, EMBEDDED, {150.0: [4000], 110.0: [1000, 5000]}, 1e6)
    protons = 4000 * K_150 + 6000 * K_110
    assert request.protons == pytest.approx(protons, rel=1e-9)
    assert request.particles_per_history == pytest.approx(1e6 / protons, rel=1e-9)
    assert request.expected_histories == 1e6
    assert request.dose_factor == 1.0


def test_the_dividing_factor_goes_into_the_protons(machines: Machines) -> None:
    request = ask(machines, EMBEDDED, {110.0: [600]}, 1e6, dividing_factor=10.0)
    assert request.protons == pytest.approx(6000 * K_110, rel=1e-9)
    assert request.particles_per_history * request.protons == pytest.approx(1e6)
    assert request.dose_factor == 1.0
    moqui = ask(machines, MOQUI, {110.0: [4_000_000]}, 2_789_730, dividing_factor=10.0)
    assert moqui.particles_per_history == pytest.approx(0.5, rel=1e-5)
    assert moqui.dose_factor == pytest.approx(40.0, rel=2e-5)


def test_integers_that_would_lose_protons_are_asked_with_one(machines: Machines) -> None:
    request = ask(machines, MOQUI, {150.0: [4000], 110.0: [1000, 2000, 3000]}, 1000)
    assert request.particles_per_history == 1.0
    # int(4000 * 1.757640), int(1000 * 1.394865), int(2000 * ..), int(3000 * ..)
    assert request.expected_histories == 7030 + 1394 + 2789 + 4184
    assert request.dose_factor == 1.0


def test_counts_large_enough_are_thinned_and_the_dose_scaled_by_the_square(machines: Machines) -> None:
    request = ask(machines, MOQUI, {110.0: [2_000_000, 2_000_000]}, 2_789_730)
    assert request.particles_per_history == pytest.approx(0.5, rel=1e-5)
    assert request.expected_histories == pytest.approx(2_789_730, rel=1e-5)
    assert request.dose_factor == pytest.approx(4.0, rel=2e-5)


def test_one_lossy_layer_is_enough_even_if_the_sum_would_pass(machines: Machines) -> None:
    request = ask(machines, MOQUI, {150.0: [10**9], 110.0: [1999] * 10}, 1e6)
    assert request.particles_per_history == 1.0


def test_counts_that_integers_cannot_carry_are_refused_with_the_layer(machines: Machines) -> None:
    with pytest.raises(EngineInputError, match=r"28\.31 %") as caught:
        ask(machines, MOQUI, {150.0: [10**6], 110.0: [1] * 9}, 1e3)
    assert caught.value.where.layer == 2


@pytest.mark.parametrize("energy", [70.0, 110.0, 150.0, 190.0, 230.0])
def test_within_a_tenth_of_a_percent_at_every_energy(machines: Machines, energy: float) -> None:
    counts = [1500 + 7 * i for i in range(200)]
    request = ask(machines, MOQUI, {energy: counts}, 1e3)
    asked = sum(counts) * machines.named("G2").protons_per_count(energy)
    assert abs(request.expected_histories / asked - 1) <= 1e-3


def test_truncation_is_that_of_two_integer_steps() -> None:
    assert truncated_histories(np.array([1999, 999, 2001]), 0.001, 1.9) == 1 + 0 + 3


def test_energies_outside_the_beam_model_and_no_counts_are_refused(machines: Machines) -> None:
    with pytest.raises(EngineInputError, match="300") as caught:
        ask(machines, EMBEDDED, {150.0: [1], 300.0: [1]}, 1e6)
    assert caught.value.where.layer == 2
    with pytest.raises(EngineInputError, match="no counts"):
        ask(machines, EMBEDDED, {150.0: [0]}, 1e6)


def test_counts_are_read_in_the_engines_own_dialect(tmp_path: Path) -> None:
    for dialect in CsvDialect:
        write_csv(tmp_path / f"{dialect}.csv", [5, 0, 65535], dialect)
        assert read_counts(tmp_path / f"{dialect}.csv", dialect).tolist() == [5, 0, 65535]
    with pytest.raises(EngineInputError, match="several"):
        read_counts(tmp_path / "rows.csv", CsvDialect.FLAT)
    with pytest.raises(EngineInputError, match="columns"):
        read_counts(tmp_path / "flat.csv", CsvDialect.ROWS)
    (tmp_path / "half.csv").write_text("0.0,1.0,2.0,3.5\r\n")
    with pytest.raises(EngineInputError, match="integer"):
        read_counts(tmp_path / "half.csv", CsvDialect.ROWS)

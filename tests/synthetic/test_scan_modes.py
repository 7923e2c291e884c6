"""A plan for spot scanning is delivered spot by spot, one for line scanning along its lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from mqi_dagster.errors import PlanError
from mqi_dagster.machine import Machines
from mqi_dagster.synthetic.request import BuiltInPlan

from .conftest import Simulate
from .decoding import is_on, machine_plan, rows

EXACT: dict[str, Any] = {"lag_us": (0.0, 0.0), "noise_mm": (0.0, 0.0), "count_noise": 0.0, "mu_ratio": 1.0}


def _samples(folder: Path, layer: int, gain: tuple[float, float], zero: tuple[int, int]) -> np.ndarray:
    """x, y [mm] and counts of the beam-on rows."""
    (path,) = folder.glob(f"*_{layer:03d}.ptn")
    record = rows(path)
    on = record[is_on(record)].astype(float)
    return np.column_stack([(on[:, 0] - zero[0]) * gain[0], (on[:, 1] - zero[1]) * gain[1], on[:, 4]])


def _planned(path: Path, beam: int, layer: int) -> np.ndarray:
    """x, y [mm] and MU of the spots of a plan made in code, from its private tags."""
    item = next(b for b in pydicom.dcmread(path).IonBeamSequence if b.BeamNumber == beam)
    start, end = item.IonControlPointSequence[2 * layer - 2 : 2 * layer]
    xy = np.frombuffer(start[0x300B, 0x1094].value, dtype="<f4").reshape(-1, 2)
    weights = np.frombuffer(start[0x300B, 0x1096].value, dtype="<f4").astype(float)
    mu = float(end.CumulativeMetersetWeight) - float(start.CumulativeMetersetWeight)
    return np.column_stack([xy, weights / weights.sum() * mu])


def _nearest(samples: np.ndarray, spots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distances = np.linalg.norm(samples[:, None, :2] - spots[None, :, :2], axis=2)
    return distances.argmin(axis=1), distances.min(axis=1)


def test_all_counts_of_a_spot_lie_at_the_spot(simulate: Simulate) -> None:
    case = simulate(
        plan=BuiltInPlan(beams=1, layers=2, spots=12, layer_seconds=0.1, scan_mode="MODULATED"), **EXACT
    )
    for layer in (1, 2):
        spots = _planned(case.plan_path, 2, layer)
        samples = _samples(case.deliveries[0].folder, layer, (0.00726, 0.0071411), (24576, 32768))
        given = samples[samples[:, 2] > 0]
        nearest, distance = _nearest(given, spots)
        assert distance.max() < 0.006  # half a step of the record in x and y
        mu = np.bincount(nearest, weights=given[:, 2], minlength=len(spots)) * 2.12e-8
        # The plan's first spot stands in it twice, the first time without monitor units.
        mu[1] += mu[0]
        assert np.abs(mu[1:] - spots[1:, 2]).max() < 3e-8
        # On its way the beam gives nothing: there are rows off every spot, and they hold no counts.
        _, away = _nearest(samples, spots)
        assert samples[away > 1.0, 2].size > 20
        assert samples[away > 1.0, 2].sum() == 0


def test_with_noise_they_lie_within_the_noise(simulate: Simulate) -> None:
    case = simulate(plan=BuiltInPlan(beams=1, layers=1, spots=12, layer_seconds=0.1, scan_mode="MODULATED"))
    samples = _samples(case.deliveries[0].folder, 1, (0.00726, 0.0071411), (24576, 32768))
    _, distance = _nearest(samples, _planned(case.plan_path, 2, 1))
    assert samples[distance < 1.5, 2].sum() == samples[:, 2].sum()


def test_line_scanning_gives_them_along_the_lines(simulate: Simulate) -> None:
    case = simulate(plan=BuiltInPlan(beams=1, layers=1, spots=12, layer_seconds=0.1), **EXACT)
    samples = _samples(case.deliveries[0].folder, 1, (0.00726, 0.0071411), (24576, 32768))
    _, distance = _nearest(samples, _planned(case.plan_path, 2, 1))
    assert 0.25 < samples[distance < 1.0, 2].sum() / samples[:, 2].sum() < 0.42  # 2 of 6 mm


def test_the_machine_plan_holds_the_end_of_every_spot(simulate: Simulate, machines: Machines) -> None:
    case = simulate(plan=BuiltInPlan(beams=1, layers=1, spots=6, layer_seconds=0.1, scan_mode="MODULATED"))
    (path,) = case.deliveries[0].folder.glob("*.mgn")
    ends_s = np.array([record[0] for record in machine_plan(path)[1:-1]]) * 1e-6
    # At 2000 cm/s 6 mm take 300 us, the 8 mm aslant 400; then the spot's MU at the machine's greatest rate.
    rate = np.interp(110.0, [70.0, 230.0], [3.91, 20.0])
    mu = _planned(case.plan_path, 2, 1)[1:, 2]
    expected = np.cumsum(mu / rate + np.array([0.0, 300e-6, 400e-6, 300e-6, 300e-6]))
    assert ends_s - ends_s[0] == pytest.approx([0.0, *expected], abs=60e-6)
    assert machines.named("G2").timing.maximum_dose_rate_mu_s.at(110.0) == pytest.approx(rate)


@pytest.mark.slow
def test_a_vendors_plan_is_delivered_at_its_spots(
    simulate: Simulate, machines: Machines, shared: Path
) -> None:
    plan = shared / "cases" / "ion_plans" / "eclipse_mono_323_spots.dcm"
    case = simulate(plan=plan, machine=machines.named("TR2"), patient_id="SYNTH9")
    point = pydicom.dcmread(plan).IonBeamSequence[0].IonControlPointSequence[0]
    spots = np.array(point.ScanSpotPositionMap, dtype=float).reshape(-1, 2)
    samples = _samples(case.deliveries[0].folder, 1, (0.01, 0.01), (32768, 32768))
    _, distance = _nearest(samples, spots)
    assert samples[distance < 3.0, 2].sum() == samples[:, 2].sum()


def test_a_plan_of_another_mode_is_not_delivered(simulate: Simulate, tmp_path: Path) -> None:
    plan = pydicom.dcmread(simulate(plan=BuiltInPlan(beams=1, layers=1)).plan_path)
    for beam in plan.IonBeamSequence:
        beam.ScanMode = "UNIFORM"
    plan.save_as(tmp_path / "uniform.dcm")
    with pytest.raises(PlanError, match="scan mode UNIFORM cannot be delivered"):
        simulate(plan=tmp_path / "uniform.dcm")

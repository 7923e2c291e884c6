"""A clean case holds what real cases hold (docs/formats.md 1 to 3 and 14)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.machine import Machines
from mqi_dagster.synthetic.request import BuiltInPlan

from .conftest import Simulate
from .decoding import flag_runs, is_on, key_values, machine_plan, rows, table


def _planned(plan_path: Path, beam_number: int, layer: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Positions, weights and MU of a layer, from the private tags."""
    plan = pydicom.dcmread(plan_path)
    beam = next(b for b in plan.IonBeamSequence if b.BeamNumber == beam_number)
    start, end = beam.IonControlPointSequence[2 * layer - 2 : 2 * layer]
    assert start[0x300B, 0x0010].value == "IMPAC"
    positions = np.frombuffer(start[0x300B, 0x1094].value, dtype="<f4").reshape(-1, 2)
    weights = np.frombuffer(start[0x300B, 0x1096].value, dtype="<f4")
    mu = float(end.CumulativeMetersetWeight) - float(start.CumulativeMetersetWeight)
    return positions, weights, mu


def test_flags_run_through_the_machines_sequence(simulate: Simulate) -> None:
    case = simulate()
    records = sorted(case.folder.glob("*/*.ptn"))
    assert len(records) == 12
    for path in records:
        values, lengths = zip(*flag_runs(rows(path)), strict=True)
        assert values == (1, 32769, 49153, 16385, 1)
        assert 94 <= lengths[0] <= 365
        assert 1 <= lengths[1] <= 2
        assert 1 <= lengths[3] <= 2
        assert 65 <= lengths[4] <= 349


@pytest.mark.parametrize(("name", "mu_per_count"), [("G1", 2.1125e-8), ("G2", 2.12e-8), ("GENERIC", 1e-5)])
def test_counts_of_a_layer_add_up_to_0_988_of_its_planned_mu(
    simulate: Simulate, machines: Machines, name: str, mu_per_count: float
) -> None:
    # Long enough that the idle rows around a layer weigh little, as around real ones.
    case = simulate(machine=machines.named(name), plan=BuiltInPlan(spots=9, layer_seconds=0.4))
    for delivery in case.deliveries:
        for layer in range(1, 4):
            (path,) = delivery.folder.glob(f"*_{layer:03d}.ptn")
            record = rows(path)
            _, _, mu = _planned(case.plan_path, delivery.beam, layer)
            counts = int(record[is_on(record), 4].sum())
            assert abs(counts - 0.988 * mu / mu_per_count) <= 1
            second = record[is_on(record), 5].sum()
            assert second / counts == pytest.approx(0.995, abs=1e-3)
            assert record[~is_on(record), 4].sum() / counts < 0.002
            assert set(record[:, 6]) == {layer}


def test_intensity_is_that_of_the_real_machine_and_rises_over_the_first_rows(simulate: Simulate) -> None:
    case = simulate(plan=BuiltInPlan())
    for path in case.folder.glob("*/*.ptn"):
        record = rows(path)
        counts = record[is_on(record), 4]
        assert 3900 < counts.mean() < 4500
        assert counts[:3].max() < 500
        assert counts.max() < 5000


def test_positions_follow_the_plan_with_the_lag_and_the_noise(simulate: Simulate) -> None:
    case = simulate(plan=BuiltInPlan(beams=1, layers=2, spots=25, layer_seconds=0.3))
    for layer in (1, 2):
        (path,) = case.deliveries[0].folder.glob(f"*_{layer:03d}.ptn")
        record = rows(path)
        on = record[is_on(record)]
        x, y = (on[:, 0] - 24576) * 0.00726, (on[:, 1] - 32768) * 0.0071411
        resting = x > 290
        assert 1 <= resting.sum() <= 2
        assert resting[: resting.sum()].all()
        assert np.all(y[resting] < -220)
        (plan_path,) = case.deliveries[0].folder.glob(f"*_{layer:03d}.mgn")
        spots = machine_plan(plan_path)[1:-1]
        t = (np.array([s[0] for s in spots]) - 19100) * 1e-6
        xs = (np.array([s[3] for s in spots]) - 32768) * 0.005445
        ys = (np.array([s[4] for s in spots]) - 32768) * 0.0071411
        deviation = {}
        for lag_us in range(0, 200, 10):
            moments = (np.arange(len(on)) * 60e-6 - lag_us * 1e-6)[~resting]
            dx, dy = x[~resting] - np.interp(moments, t, xs), y[~resting] - np.interp(moments, t, ys)
            deviation[lag_us] = (float(dx.std() + dy.std()), float(dx.std()), float(dy.std()), dx.mean())
        best = min(deviation, key=lambda lag: deviation[lag][0])
        assert 40 <= best <= 140
        assert deviation[best][1] == pytest.approx(0.20, abs=0.01)
        assert deviation[best][2] == pytest.approx(0.14, abs=0.01)
        assert abs(deviation[best][3]) < 0.02


def test_machine_plan_holds_the_spots_on_the_planned_timeline(simulate: Simulate) -> None:
    case = simulate()
    positions, weights, mu = _planned(case.plan_path, 3, 2)
    (path,) = next(d.folder for d in case.deliveries if d.beam == 3).glob("*_002.mgn")
    records = machine_plan(path)
    assert len(records) == 9 + 2
    assert records[0] == (0, 32768, 32768, 32768, 32768, 0)
    assert records[1][0] == 19100
    assert [r[5] for r in records[1:10]] == [1] * 8 + [0]
    assert records[10][1:] == (32768, 32768, 32768, 32768, 0)
    assert records[10][0] > records[9][0]
    xy = np.array([[(r[3] - 32768) * 0.005445, (r[4] - 32768) * 0.0071411] for r in records[1:10]])
    assert np.abs(xy - positions).max() < 0.005
    # The lightest spot is scanned at 2000 cm/s over 0.6 cm; its rate, 1.5 MU/s, holds for the whole layer.
    steps_s = np.diff([r[0] for r in records[1:10]]) * 1e-6
    spot_mu = weights[1:] / weights.sum() * mu
    assert steps_s.min() == pytest.approx(0.0003)
    assert np.abs(spot_mu / steps_s - 1.5).max() < 1e-5


def test_a_real_plan_gives_its_own_machine_plans_positions(simulate: Simulate, shared: Path) -> None:
    (real,) = (shared / "cases" / "qa_9spots_g2").iterdir()
    (plan,) = real.glob("RP*.dcm")
    case = simulate(plan=plan)
    assert case.plan_path.read_bytes() == plan.read_bytes()
    assert [d.beam for d in case.deliveries] == [2, 3, 4, 5]
    real_folders = sorted(p for p in real.iterdir() if p.is_dir())
    for delivery, folder in zip(case.deliveries, real_folders, strict=True):
        for layer in range(1, 10):
            (ours,), (theirs,) = (f.glob(f"*_{layer:03d}.mgn") for f in (delivery.folder, folder))
            assert [r[1:] for r in machine_plan(ours)] == [r[1:] for r in machine_plan(theirs)]
        ours_info, real_info = (
            key_values(delivery.folder / "PlanInfo.txt"),
            key_values(folder / "PlanInfo.txt"),
        )
        assert list(ours_info) == list(real_info)
        differing = {key for key in ours_info if ours_info[key] != real_info[key]}
        assert differing <= {"TCSC_IRRAD_DATETIME", "TCSC_PATIENT_ID", "ACTUAL_DIR"}


def test_every_redundancy_of_a_case_agrees(simulate: Simulate) -> None:
    case = simulate()
    plan = pydicom.dcmread(case.plan_path)
    assert case.folder.name == plan.StudyInstanceUID
    assert plan.PatientID == "SYNTH001"
    running = set()
    for delivery in case.deliveries:
        folder = delivery.folder
        info = key_values(folder / "PlanInfo.txt")
        assert folder.name == info["TCSC_IRRAD_DATETIME"]
        assert len(folder.name) == 16
        assert info["DICOM_STUDY_INS_UID"] == plan.StudyInstanceUID
        assert info["DICOM_PATIENT_ID"] == "SYNTH001"
        assert info["DICOM_BEAM_NUMBER"] == info["TCSC_FIELD_NUMBER"] == str(delivery.beam)
        assert (info["START_LAYER_NUMBER"], info["STOP_LAYER_NUMBER"]) == ("1", "4")
        assert info["ACTUAL_DIR"] == f"SYNTH001\\{plan.StudyInstanceUID}\\{folder.name}"
        number = info["TCSC_PATIENT_ID"]
        assert len(number) == 7
        running.add(number)
        beam = next(b for b in plan.IonBeamSequence if b.BeamNumber == delivery.beam)
        energies = [cp.NominalBeamEnergy for cp in beam.IonControlPointSequence[::2]]
        lines = table(folder / "PlanRange.txt")
        assert [float(line["LAYER_ENERGY"]) for line in lines] == [float(e) for e in energies]
        assert [line["LAYER_NO"] for line in lines] == ["1", "2", "3", "4"]
        for line in lines:
            layer = int(line["LAYER_NO"])
            assert line["RESULT_ID"] == folder.name
            assert line["PATIENT_ID"] == "SYNTH001"
            assert line["FLD_NO"] == str(delivery.beam)
            assert line["DOSE1_RANGE"] == line["PLAN_DOSE2_RANGE"] == "2"
            assert line["SCAN_OUT_FL_NM"] == f"02_{number}_001_{delivery.beam:03d}_{layer:03d}.ptn"
            assert line["PLAN_SCAN_OUT_FL_NM"] == f"02_SYNTH001_001_{delivery.beam:03d}_{layer:03d}.mgn"
        named = {line[key] for line in lines for key in ("SCAN_OUT_FL_NM", "PLAN_SCAN_OUT_FL_NM")}
        assert {p.name for p in folder.iterdir()} == named | {"PlanInfo.txt", "PlanRange.txt"}
        samples = sum(p.stat().st_size // 16 for p in folder.glob("*.ptn"))
        assert samples == delivery.samples
    assert len(running) == 3
    assert len({d.folder.name for d in case.deliveries}) == 3


def test_a_count_beyond_16_bits_is_refused_by_machine_beam_and_layer(
    simulate: Simulate, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    # 1.5 MU/s are about 4,200 counts in a sample; 21 times as many are more than 65,535.
    with pytest.raises(
        ConfigurationError, match=r"beam 2, layer 1.*machine G2.*do not fit 16 bits"
    ) as caught:
        simulate("mu-error:beam=2,layer=1,percent=2000", inbox=inbox)
    assert caught.value.where.layer == 1
    assert not inbox.exists()
    assert list(tmp_path.iterdir()) == []

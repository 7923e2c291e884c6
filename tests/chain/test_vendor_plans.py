"""Plans of other vendors, delivered by the simulator to the generic machine, become RT Doses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pydicom
import pytest

from mqi_dagster.engine.embedded.install import Installation
from tests.chain.chain import MACHINES, Chain, mcsquare_engine, quick_engine

PLANS = {
    "eclipse_mono_323_spots": ("TR2", [1]),
    "eclipse_sobp_3468_spots": ("TR2", [1]),
    "raystation_ramp_2_beams": ("TR3", [1, 2]),
    "raystation_sobp5_7912_spots": ("TR3", [1]),
}


def through(tmp_path: Path, plan: Path, engine: dict[str, Any], **request: Any) -> tuple[Chain, str]:
    chain = Chain(tmp_path / "site", {"engine": engine})
    chain.deliver(plan=plan, patient_id="SYNTH9", **request)
    chain.tick_sensors()
    (case,) = chain.runs_of("intake")
    for _, _, outcome in chain.runs:
        assert outcome.success, outcome.error
    assert chain.runs_of("conclusion") == [case]
    return chain, case


@pytest.mark.parametrize("name", PLANS)
def test_a_vendors_plan_runs_through_to_rt_dose(
    name: str, mcsquare: Installation, shared: Path, tmp_path: Path
) -> None:
    plan = shared / "cases" / "ion_plans" / f"{name}.dcm"
    reduced = {} if name == "eclipse_mono_323_spots" else {"max_layers": 2, "max_spots": 60}
    chain, case = through(tmp_path, plan, mcsquare_engine(20000), **reduced)
    beams = [beam["beam"] for beam in chain.summary(case)["beams"]]
    assert len(beams) == len(PLANS[name][1])
    for beam in chain.summary(case)["beams"]:
        assert beam["mu_ratio"] == pytest.approx(0.988, abs=1e-3)
        assert beam["rt_dose"]["units"] == "GY"
    assert len(list(chain.handover.rglob("rt_dose.dcm"))) == len(beams)


def test_the_ramp_plan_enters_the_patient_from_both_sides(
    mcsquare: Installation, shared: Path, tmp_path: Path
) -> None:
    plan = shared / "cases" / "ion_plans" / "raystation_ramp_2_beams.dcm"
    beams = pydicom.dcmread(plan).IonBeamSequence
    angles = {int(b.BeamNumber): float(b.IonControlPointSequence[0].GantryAngle) for b in beams}
    assert sorted(angles.values()) == [90.0, 270.0]
    chain, case = through(
        tmp_path, plan, mcsquare_engine(20000), max_layers=1, max_spots=60, ct="water", ct_cube_mm=400.0
    )
    for number, angle in angles.items():
        (path,) = chain.handover.glob(f"{case}/{case}__b{number:02d}/rt_dose.dcm")
        dose = pydicom.dcmread(path)
        assert dose.FrameOfReferenceUID == pydicom.dcmread(plan).FrameOfReferenceUID
        along_x = dose.pixel_array.astype(float).sum(axis=(0, 1))
        # At 90 degrees the beam enters from the patient's left, which is +x: there the water is irradiated
        # to its very edge, and behind the range on the other side there is none.
        entry, far = (along_x[::-1], along_x) if angle == 90.0 else (along_x, along_x[::-1])
        assert entry[: entry.size // 4].sum() > 20 * far[: far.size // 4].sum()


@pytest.mark.parametrize("name", PLANS)
def test_without_a_machine_file_a_vendors_machine_is_refused_by_name(
    name: str, shared: Path, tmp_path: Path
) -> None:
    machines = tmp_path / "machines"
    machines.mkdir()
    for file in ("g1.yaml", "g2.yaml"):
        shutil.copyfile(MACHINES / file, machines / file)
    chain = Chain(tmp_path / "site", {"engine": quick_engine(), "paths": {"machines": str(machines)}})
    plan = shared / "cases" / "ion_plans" / f"{name}.dcm"
    chain.deliver(plan=plan, patient_id="SYNTH9", max_layers=1, max_spots=20)
    chain.tick_sensors()
    ((job, _, outcome),) = chain.runs
    assert (job, outcome.success, outcome.code) == ("intake", False, "unknown-machine")
    named = {str(beam.TreatmentMachineName) for beam in pydicom.dcmread(plan).IonBeamSequence}
    assert named == {PLANS[name][0]}
    assert f"machine {PLANS[name][0]} is unknown (known: G1, G1_LS, G2)" in outcome.error

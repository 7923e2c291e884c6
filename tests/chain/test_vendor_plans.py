"""Plans as other vendors export them, delivered by the simulator to the generic machine, become RT Doses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pydicom
import pytest

from mqi_dagster.embedded_engine.install import Installation
from tests.chain.chain import MACHINES, Chain, mcsquare_engine, quick_engine
from tests.vendor_plans import EVERY, Vendor


def through(tmp_path: Path, plan: Path, engine: dict[str, Any], **request: Any) -> tuple[Chain, str]:
    chain = Chain(tmp_path / "site", {"engine": engine})
    chain.deliver(plan=plan, patient_id="SYNTH9", **request)
    chain.tick_sensors()
    (case,) = chain.runs_of("intake")
    for _, _, outcome in chain.runs:
        assert outcome.success, outcome.error
    assert chain.runs_of("conclusion") == [case]
    return chain, case


# One in the default suite: each simulates.
@pytest.mark.parametrize(
    ("vendor_plan", "vendor"),
    [EVERY[0], *(pytest.param(*one.values, id=one.id, marks=pytest.mark.slow) for one in EVERY[1:])],
    indirect=["vendor_plan"],
)
def test_a_vendors_plan_runs_through_to_rt_dose(
    vendor: Vendor, mcsquare: Installation, vendor_plan: Path, tmp_path: Path
) -> None:
    reduced = {} if vendor.spots < 400 else {"max_layers": 2, "max_spots": 60}
    chain, case = through(tmp_path, vendor_plan, mcsquare_engine(20000), **reduced)
    beams = [beam["beam"] for beam in chain.summary(case)["beams"]]
    assert len(beams) == len(vendor.beams)
    for beam in chain.summary(case)["beams"]:
        assert beam["mu_ratio"] == pytest.approx(0.988, abs=1e-3)
        assert beam["rt_dose"]["units"] == "GY"
    assert len(list(chain.handover.rglob("rt_dose.dcm"))) == len(beams)


@pytest.mark.slow
@pytest.mark.parametrize("vendor_plan", ["raystation_opposed", "raystation_ramp_2_beams"], indirect=True)
def test_opposed_beams_enter_the_patient_from_both_sides(
    mcsquare: Installation, vendor_plan: Path, tmp_path: Path
) -> None:
    plan = vendor_plan
    beams = pydicom.dcmread(plan).IonBeamSequence
    angles = {int(b.BeamNumber): float(b.IonControlPointSequence[0].GantryAngle) for b in beams}
    assert sorted(angles.values()) == [90.0, 270.0]
    chain, case = through(
        tmp_path,
        plan,
        mcsquare_engine(20000),
        max_layers=1,
        max_spots=60,
        ct="water",
        ct_cube_mm=400.0,
        ct_voxel_mm=5.0,
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


@pytest.mark.parametrize(("vendor_plan", "vendor"), EVERY, indirect=["vendor_plan"])
def test_without_a_machine_file_a_vendors_machine_is_refused_by_name(
    vendor: Vendor, vendor_plan: Path, tmp_path: Path
) -> None:
    machines = tmp_path / "machines"
    machines.mkdir()
    for file in ("g1.yaml", "g2.yaml"):
        shutil.copyfile(MACHINES / file, machines / file)
    chain = Chain(tmp_path / "site", {"engine": quick_engine(), "paths": {"machines": str(machines)}})
    chain.deliver(plan=vendor_plan, patient_id="SYNTH9", max_layers=1, max_spots=20)
    chain.tick_sensors()
    ((job, _, outcome),) = chain.runs
    assert (job, outcome.success, outcome.code) == ("intake", False, "unknown-machine")
    named = {str(beam.TreatmentMachineName) for beam in pydicom.dcmread(vendor_plan).IonBeamSequence}
    assert named == {vendor.machine}
    assert f"machine {vendor.machine} is unknown (known: G1, G1_LS, G2)" in outcome.error

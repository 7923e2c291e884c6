"""Determinism, layouts, publishing, other plans, limits, CT and the built-in plan."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mqi_dagster.errors import ConfigurationError, PlanError, UnknownMachineError
from mqi_dagster.machine import Machine, Machines
from mqi_dagster.synthetic.plans import built_in_plan
from mqi_dagster.synthetic.request import BuiltInPlan, Layout
from tests.vendor_plans import EVERY, Vendor

from .conftest import Simulate
from .decoding import contents, is_on, rows


def test_the_same_request_gives_the_same_bytes_and_another_seed_does_not(simulate: Simulate) -> None:
    first, second, other = (
        simulate(ct="water", ct_cube_mm=30),
        simulate(ct="water", ct_cube_mm=30),
        simulate(seed=2),
    )
    assert contents(first.folder.parent) == contents(second.folder.parent)
    assert first.folder.name != other.folder.name
    ours, others = contents(first.folder), contents(other.folder)
    for a, b in zip(
        sorted(n for n in ours if ".ptn" in n), sorted(n for n in others if ".ptn" in n), strict=True
    ):
        assert ours[a] != others[b]


def test_the_grouped_layout_puts_the_marker_into_the_patients_folder(simulate: Simulate) -> None:
    case = simulate(layout=Layout.GROUPED, marker="_CASE_READY", patient_id="MARK-77")
    inbox = case.folder.parents[2]
    assert case.folder.relative_to(inbox).parts[:2] == ("G2", "MARK-77")
    assert (inbox / "G2" / "MARK-77" / "_CASE_READY").is_file()
    assert not (case.folder / "_CASE_READY").exists()


def test_the_machine_layout_puts_the_marker_into_the_case(simulate: Simulate) -> None:
    case = simulate(marker="_CASE_READY")
    assert (case.folder / "_CASE_READY").is_file()
    assert case.folder.parent.name.startswith("inbox")


def test_the_simple_layout_names_folders_after_beams(simulate: Simulate) -> None:
    case = simulate("resumed:beam=3,layer=1", layout=Layout.SIMPLE, case_name="환자 1", fractions=2)
    assert case.folder.name == "환자 1"
    assert case.plan_path.parent == case.folder
    assert {p.name for p in case.folder.iterdir() if p.is_dir()} == {
        f"{name}{suffix}"
        for name in ("1G000_TX", "2G000_TX", "2G000_TX_part2", "3G000_TX")
        for suffix in ("", "_fx2")
    }


def test_beams_go_in_the_order_asked_for(simulate: Simulate) -> None:
    case = simulate(beams=(4, 2), start=datetime(2026, 3, 1, 8, 30, 15, 120_000))
    assert [(d.beam, d.folder.name) for d in case.deliveries] == [
        (4, "2026030108301512"),
        (2, "2026030108341512"),
    ]


def test_nothing_is_replaced_and_no_work_folder_is_left(simulate: Simulate, tmp_path: Path) -> None:
    inbox = tmp_path / "site" / "inbox"
    case = simulate(inbox=inbox)
    before = contents(inbox)
    with pytest.raises(ConfigurationError, match="there already"):
        simulate("mu-error:beam=2,layer=1,percent=5", inbox=inbox)
    with pytest.raises(ConfigurationError, match="another plan of this study"):
        simulate(inbox=inbox, max_layers=1, start=datetime(2026, 2, 1))
    assert contents(inbox) == before
    assert [p.name for p in (tmp_path / "site").iterdir()] == ["inbox"]
    assert (case.folder.stat().st_mode & 0o755) == 0o755


def test_markers_of_a_person_stand_where_they_are_asked_for(simulate: Simulate) -> None:
    case = simulate(patient_id="ZZ-4711", patient_name="Marker^Only", patient_birth_date="19010203")
    plan = pydicom.dcmread(case.plan_path)
    assert (plan.PatientID, str(plan.PatientName), plan.PatientBirthDate) == (
        "ZZ-4711",
        "Marker^Only",
        "19010203",
    )
    assert len(list(case.folder.glob("*/02_ZZ-4711_*.mgn"))) == 12
    assert not any(b"SYNTH001" in content for content in contents(case.folder).values())


@pytest.mark.parametrize("vendor_plan", ["eclipse"], indirect=True)
def test_a_plan_for_another_machine_or_no_plan_at_all_is_refused(
    simulate: Simulate, vendor_plan: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnknownMachineError, match="machine TR2, not for G2"):
        simulate(plan=vendor_plan)
    with pytest.raises(PlanError, match="cannot be opened") as caught:
        simulate(plan=tmp_path / "secret-name.dcm")
    assert "secret-name" not in str(caught.value)
    (tmp_path / "text.dcm").write_text("no plan")
    with pytest.raises(PlanError, match="not a DICOM file"):
        simulate(plan=tmp_path / "text.dcm")


@pytest.mark.parametrize(("vendor_plan", "vendor"), EVERY, indirect=["vendor_plan"])
def test_other_vendors_plans_are_delivered_whole_and_small(
    simulate: Simulate, machines: Machines, vendor_plan: Path, vendor: Vendor
) -> None:
    case = simulate(plan=vendor_plan, machine=machines.named("TR2"))
    assert [d.beam for d in case.deliveries] == vendor.beams
    references = pydicom.dcmread(vendor_plan).FractionGroupSequence[0].ReferencedBeamSequence
    total_mu = [float(reference.BeamMeterset) for reference in references]
    for delivery, planned in zip(case.deliveries, total_mu, strict=True):
        assert delivery.samples < 1_000_000
        assert (delivery.first_layer, delivery.last_layer) == (1, vendor.layers)
        records = [rows(path) for path in delivery.folder.glob("*.ptn")]
        assert len(records) == vendor.layers
        assert sum(path.stat().st_size // 14 - 2 for path in delivery.folder.glob("*.mgn")) == vendor.spots
        counts = sum(int(record[is_on(record), 4].sum()) for record in records)
        assert counts * 1e-5 / planned == pytest.approx(0.988, abs=1e-5)


@pytest.mark.parametrize(
    "vendor_plan",
    ["raystation_shifter", pytest.param("raystation_sobp5_7912_spots", marks=pytest.mark.slow)],
    indirect=True,
)
@pytest.mark.parametrize("built_in", [False, True])
def test_limits_shorten_the_plan_and_the_delivery_alike(
    simulate: Simulate, machines: Machines, vendor_plan: Path, built_in: bool
) -> None:
    plan_of = {} if built_in else {"plan": vendor_plan}
    machine = machines.named("GENERIC")
    whole = simulate(machine=machine, **plan_of)
    short = simulate(machine=machine, max_layers=2, max_spots=6, **plan_of)
    beam = pydicom.dcmread(short.plan_path).IonBeamSequence[-1]
    points = beam.IonControlPointSequence
    assert len(points) == beam.NumberOfControlPoints == 4
    assert [int(p.ControlPointIndex) for p in points] == [0, 1, 2, 3]
    assert float(points[-1].CumulativeMetersetWeight) == float(beam.FinalCumulativeMetersetWeight)
    if not built_in:
        assert points[0].NumberOfScanSpotPositions == len(points[0].ScanSpotMetersetWeights) == 6
    for path in sorted(short.deliveries[-1].folder.glob("*.mgn")):
        long = next(whole.deliveries[-1].folder.glob(f"*_{path.stem[-3:]}.mgn")).read_bytes()
        assert path.stat().st_size == 14 * 8
        spots = np.frombuffer(path.read_bytes(), dtype=">u2").reshape(-1, 7)[1:7, 4:6]
        assert np.array_equal(spots, np.frombuffer(long, dtype=">u2").reshape(-1, 7)[1:7, 4:6])
    assert short.plan_path.name != whole.plan_path.name


def test_the_built_in_plan_is_like_those_of_mosaiq(g2: Machine, tmp_path: Path) -> None:
    plan = built_in_plan(g2, seed=3)
    plan.save_as(tmp_path / "plan.dcm", enforce_file_format=True)
    plan = pydicom.dcmread(tmp_path / "plan.dcm")
    assert plan.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert plan.SOPClassUID == "1.2.840.10008.5.1.4.1.1.481.8"
    setup, *beams = plan.IonBeamSequence
    assert (setup.BeamNumber, setup.BeamName, setup.TreatmentDeliveryType) == (1, "SETUP", "SETUP")
    assert [(b.BeamNumber, b.BeamName) for b in beams] == [(2, "1G000:TX"), (3, "2G000:TX"), (4, "3G000:TX")]
    assert {b.TreatmentMachineName for b in plan.IonBeamSequence} == {"G2"}
    energies = [[float(cp.NominalBeamEnergy) for cp in b.IonControlPointSequence[::2]] for b in beams]
    assert energies == [[110, 106, 102], [150, 146, 142], [190, 186, 182]]
    point = beams[0].IonControlPointSequence[0]
    assert "ScanSpotPositionMap" not in point
    assert point[0x300B, 0x1092].value == b"25"
    positions = np.frombuffer(point[0x300B, 0x1094].value, dtype="<f4").reshape(-1, 2)
    weights = np.frombuffer(point[0x300B, 0x1096].value, dtype="<f4")
    assert weights[0] == 0
    assert weights[1:].min() > 0
    extent = positions.max(axis=0) - positions.min(axis=0)
    assert extent == pytest.approx([35.982, 35.982], abs=0.01)
    # An L: its upper right quarter is empty, the other three are not.
    x, y = positions.T
    assert not np.any((x > 0) & (y > 0))
    assert np.any((x < 0) & (y > 0))
    assert np.any((x > 0) & (y < 0))
    assert len({(round(float(a), 3), round(float(b), 3)) for a, b in positions}) == 24


def test_a_g1_plan_has_a_block_and_leaves(machines: Machines) -> None:
    plan = built_in_plan(machines.named("G1"))
    beam = plan.IonBeamSequence[1]
    (block,) = beam.IonBlockSequence
    assert [float(v) for v in block.BlockData] == pytest.approx(
        [-27.991, -27.991, 27.991, -27.991, 27.991, 27.991, -27.991, 27.991]
    )
    assert float(block.BlockThickness) == 65.0
    boundaries = [float(v) for v in beam.IonBeamLimitingDeviceSequence[0].LeafPositionBoundaries]
    assert (len(boundaries), boundaries[0], boundaries[1]) == (41, -75.0, -71.25)
    leaves = [
        [float(v) for v in cp.BeamLimitingDevicePositionSequence[0].LeafJawPositions]
        for cp in beam.IonControlPointSequence[::2]
    ]
    assert [len(layer) for layer in leaves] == [80, 80, 80]
    assert [max(layer) for layer in leaves] == pytest.approx([32.991, 33.991, 34.991])
    assert leaves[0][0] == leaves[0][40] == -95.0


def test_a_range_shifter_the_machine_lacks_is_refused(g2: Machine) -> None:
    with pytest.raises(ConfigurationError, match="G2 has no range shifter RS_3CM"):
        built_in_plan(g2, BuiltInPlan(range_shifter="RS_3CM"))


def test_the_water_ct_stands_around_the_isocentre(simulate: Simulate) -> None:
    case = simulate(ct="water", ct_cube_mm=60, ct_margin_mm=12, ct_voxel_mm=3)
    plan = pydicom.dcmread(case.plan_path)
    slices = [pydicom.dcmread(path) for path in (case.folder / "CT").iterdir()]
    slices.sort(key=lambda s: float(s.ImagePositionPatient[2]))
    assert len(slices) == 28
    assert {(s.StudyInstanceUID, s.FrameOfReferenceUID, s.PatientID) for s in slices} == {
        (plan.StudyInstanceUID, plan.FrameOfReferenceUID, "SYNTH001")
    }
    assert len({s.SOPInstanceUID for s in slices}) == 28
    assert len({s.SeriesInstanceUID for s in slices}) == 1
    z = [float(s.ImagePositionPatient[2]) for s in slices]
    assert np.diff(z) == pytest.approx(3.0)
    hu = np.stack([s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices])
    assert set(np.unique(hu)) == {-1000, 0}
    water = np.argwhere(hu == 0)
    assert len(water) == 20**3
    origin = np.array([float(v) for v in slices[0].ImagePositionPatient])
    centre = origin + water[:, ::-1].mean(axis=0) * 3.0
    assert centre == pytest.approx([10.0, -20.0, 30.0])

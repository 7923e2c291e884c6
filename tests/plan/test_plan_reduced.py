"""The plan copy that an engine sees."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from mqi_dagster.errors import InfrastructureError, PlanError, PrivacyError
from mqi_dagster.plan.model import PlanBeam
from mqi_dagster.plan.reading import read_ion_plan
from mqi_dagster.plan.reduced import write_reduced_plan
from tests.vendor_plans import EVERY, Vendor

Save = Callable[..., Path]


def same_delivery(one: PlanBeam, other: PlanBeam) -> bool:
    scalars = ("number", "name", "machine_name", "gantry_angle_deg", "couch_angle_deg", "isocenter_mm")
    scalars += ("snout_position_mm", "meterset_mu", "range_shifters")
    return all(getattr(one, name) == getattr(other, name) for name in scalars) and [
        (
            a.number,
            a.control_point_index,
            a.energy_mev,
            a.meterset_mu,
            a.positions_mm.tolist(),
            a.spot_mu.tolist(),
        )
        for a in one.layers
    ] == [
        (
            b.number,
            b.control_point_index,
            b.energy_mev,
            b.meterset_mu,
            b.positions_mm.tolist(),
            b.spot_mu.tolist(),
        )
        for b in other.layers
    ]


@pytest.mark.parametrize("syntax", ["implicit", "explicit"])
def test_copy_holds_one_beam_and_no_identity(
    mosaiq: Dataset, saved: Save, tmp_path: Path, syntax: str
) -> None:
    source = (
        saved(mosaiq, syntax=ExplicitVRLittleEndian, bare=False) if syntax == "explicit" else saved(mosaiq)
    )
    target = tmp_path / "reduced.dcm"
    write_reduced_plan(source, target, 2)
    raw = target.read_bytes()
    for marker in (
        "MARK",
        "19551231",
        "20770101",
        "1.2.3.4.",
        "길동",
        "홍",
        "about ",
        "2G000",
        "SETUP",
        "Site",
    ):
        assert marker.encode() not in raw, marker
    copy = read_ion_plan(target)
    assert [beam.number for beam in copy.beams] == [2]
    assert copy.patient_id == ""
    assert copy.setup_beam_numbers == ()
    assert same_delivery(copy.beam(2), read_ion_plan(source).beam(2))
    assert (copy.beam(2).description, copy.beam(2).meterset_mu) == ("", 53.362)
    assert all(text.startswith("2.25.") for text in copy.identifiers)


def test_copy_is_a_dicom_file_with_the_private_map_in_its_bytes(
    mosaiq: Dataset, saved: Save, tmp_path: Path
) -> None:
    target = tmp_path / "reduced.dcm"
    write_reduced_plan(saved(mosaiq), target, 3)
    assert target.read_bytes()[128:132] == b"DICM"
    copy = pydicom.dcmread(target)
    assert copy.SOPClassUID == "1.2.840.10008.5.1.4.1.1.481.8"
    assert copy.Modality == "RTPLAN"
    assert copy.file_meta.MediaStorageSOPInstanceUID == copy.SOPInstanceUID
    point = copy.IonBeamSequence[0].IonControlPointSequence[0]
    original = mosaiq.IonBeamSequence[1].IonControlPointSequence[0]
    for offset in (0x90, 0x92, 0x94, 0x96, 0x9A):
        assert point[0x300B, 0x1000 | offset].value == original[0x300B, 0x1000 | offset].value
    (group,) = copy.FractionGroupSequence
    assert group.NumberOfBeams == 1
    assert [reference.ReferencedBeamNumber for reference in group.ReferencedBeamSequence] == [3]


def test_same_input_gives_the_same_bytes_and_beams_differ_in_instance_alone(
    mosaiq: Dataset, saved: Save, tmp_path: Path
) -> None:
    source = saved(mosaiq)
    digests, copies = [], []
    for name, beam in (("a", 2), ("b", 2), ("c", 3)):
        write_reduced_plan(source, tmp_path / name, beam)
        digests.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
        copies.append(read_ion_plan(tmp_path / name))
    assert digests[0] == digests[1] != digests[2]
    assert copies[0].sop_instance_uid != copies[2].sop_instance_uid
    assert copies[0].study_instance_uid == copies[2].study_instance_uid
    assert copies[0].frame_of_reference_uid == copies[2].frame_of_reference_uid


def require_equal_copies(source: Path, target: Path) -> None:
    plan = read_ion_plan(source)
    for beam in plan.beams:
        write_reduced_plan(source, target, beam.number)
        assert same_delivery(read_ion_plan(target).beam(beam.number), beam)
        raw = target.read_bytes()
        assert [text for text in plan.identifiers if text.encode() in raw] == []


@pytest.mark.parametrize(("vendor_plan", "vendor"), EVERY, indirect=["vendor_plan"])
def test_copies_of_other_vendors_plans_equal_their_beams(
    vendor_plan: Path, vendor: Vendor, tmp_path: Path
) -> None:
    assert [beam.number for beam in read_ion_plan(vendor_plan).beams] == vendor.beams
    require_equal_copies(vendor_plan, tmp_path / "reduced.dcm")


def test_copies_of_the_qa_plan_equal_its_beams(qa: Path, tmp_path: Path) -> None:
    (plan,) = qa.glob("RP.*.dcm")
    require_equal_copies(plan, tmp_path / "reduced.dcm")


def test_blocks_and_leaves_survive(mosaiq: Dataset, saved: Save, tmp_path: Path) -> None:
    beam = mosaiq.IonBeamSequence[1]
    block, device, position = Dataset(), Dataset(), Dataset()
    block.BlockNumber, block.BlockThickness, block.MaterialID, block.BlockName = 1, 65, "BRASS", "NAMEMARK"
    block.BlockNumberOfPoints, block.BlockData = 3, [-35.5, 10, 20, 30, -5, 0.25]
    beam.IonBlockSequence, beam.NumberOfBlocks = Sequence([block]), 1
    device.RTBeamLimitingDeviceType, device.NumberOfLeafJawPairs = "MLCX", 2
    device.LeafPositionBoundaries = [-5, 0, 5]
    beam.IonBeamLimitingDeviceSequence = Sequence([device])
    position.RTBeamLimitingDeviceType, position.LeafJawPositions = "MLCX", [-10, -20, 10, 20]
    beam.IonControlPointSequence[0].BeamLimitingDevicePositionSequence = Sequence([position])
    write_reduced_plan(saved(mosaiq), tmp_path / "reduced.dcm", 3)
    copy = read_ion_plan(tmp_path / "reduced.dcm").beam(3)
    (found,) = copy.blocks
    assert (found.thickness_mm, found.material) == (65.0, "BRASS")
    assert found.outline_mm.tolist() == [[-35.5, 10], [20, 30], [-5, 0.25]]
    assert copy.mlc is not None
    assert copy.mlc.boundaries_mm.tolist() == [-5, 0, 5]
    assert copy.mlc.layers[0].left_mm.tolist() == [-10, -20]
    assert copy.mlc.layers[0].right_mm.tolist() == [10, 20]


def test_a_range_shifter_out_of_the_beam_is_not_in_the_copy(
    mosaiq: Dataset, saved: Save, tmp_path: Path
) -> None:
    beam = mosaiq.IonBeamSequence[1]
    shifters, settings = [], []
    for number, position in ((0, "OUT"), (1, "IN")):
        shifter, setting = Dataset(), Dataset()
        shifter.RangeShifterNumber, shifter.RangeShifterID = number, f"SNOUT_DEG_{number}"
        setting.ReferencedRangeShifterNumber, setting.RangeShifterSetting = number, position
        shifters.append(shifter)
        settings.append(setting)
    beam.RangeShifterSequence, beam.NumberOfRangeShifters = Sequence(shifters), 2
    beam.IonControlPointSequence[0].RangeShifterSettingsSequence = Sequence(settings)
    write_reduced_plan(saved(mosaiq), tmp_path / "reduced.dcm", 3)
    copy = pydicom.dcmread(tmp_path / "reduced.dcm").IonBeamSequence[0]
    assert ([s.RangeShifterID for s in copy.RangeShifterSequence], copy.NumberOfRangeShifters) == (
        ["SNOUT_DEG_1"],
        1,
    )
    assert len(copy.IonControlPointSequence[0].RangeShifterSettingsSequence) == 1
    assert len(read_ion_plan(tmp_path / "reduced.dcm").beam(3).range_shifters) == 1

    settings[1].RangeShifterSetting = "OUT"
    write_reduced_plan(saved(mosaiq), tmp_path / "reduced.dcm", 3)
    copy = pydicom.dcmread(tmp_path / "reduced.dcm").IonBeamSequence[0]
    assert "RangeShifterSequence" not in copy
    assert copy.NumberOfRangeShifters == 0


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("BeamName", "1G_idmark77"),
        ("BeamName", "GivMark 180"),
        ("BeamName", "길동1"),
        ("BeamName", "x othermark2"),
        ("BeamDescription", "boost of FAMMARK"),
    ],
)
def test_a_beam_named_after_the_patient_is_refused(
    mosaiq: Dataset, saved: Save, tmp_path: Path, keyword: str, value: str
) -> None:
    setattr(mosaiq.IonBeamSequence[1], keyword, value)
    source = saved(mosaiq)
    with pytest.raises(PrivacyError, match="beam 3, RT plan") as caught:
        write_reduced_plan(source, tmp_path / "reduced.dcm", 3)
    assert value not in str(caught.value)
    assert not list(tmp_path.glob("*reduced*"))
    write_reduced_plan(source, tmp_path / "reduced.dcm", 2)


@pytest.mark.parametrize("number", [1, 9])
def test_setup_and_unknown_beams_have_no_copy(
    mosaiq: Dataset, saved: Save, tmp_path: Path, number: int
) -> None:
    with pytest.raises(PlanError, match=f"no treatment beam {number}"):
        write_reduced_plan(saved(mosaiq), tmp_path / "reduced.dcm", number)
    assert not list(tmp_path.glob("*reduced*"))


def test_a_target_that_cannot_be_written_leaves_nothing(mosaiq: Dataset, saved: Save, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="cannot be written: No such file") as caught:
        write_reduced_plan(saved(mosaiq), tmp_path / "absent" / "reduced.dcm", 2)
    assert str(tmp_path) not in str(caught.value)


def test_a_damaged_element_that_only_the_copy_needs_is_a_typed_error(
    mosaiq: Dataset, saved: Save, tmp_path: Path
) -> None:
    mosaiq.IonBeamSequence[1].IonControlPointSequence[0].BeamLimitingDeviceAngle = "77.125"
    source = saved(mosaiq)
    source.write_bytes(source.read_bytes().replace(b"77.125", b"SECRET"))
    with pytest.raises(
        PlanError, match="Beam Limiting Device Angle holds something that is no number"
    ) as caught:
        write_reduced_plan(source, tmp_path / "reduced.dcm", 3)
    assert "SECRET" not in str(caught.value)
    assert not list(tmp_path.glob("*reduced*"))

"""Reading plans made in code: private spot maps, setup beams, metersets, and every contradiction."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from mqi_dagster.errors import PlanError
from mqi_dagster.plan.layers import meterset_mu
from mqi_dagster.plan.reading import read_ion_plan
from mqi_dagster.plan.spot_maps import decode_floats, encode_floats, read_spot_map

Save = Callable[..., Path]
SPOTS = [[0.0, 0.1], [-0.2, 5.997], [33.13, -64.27]]


def beam_item(plan: Dataset, number: int) -> Dataset:
    return next(beam for beam in plan.IonBeamSequence if beam.BeamNumber == number)


def point(plan: Dataset, number: int, index: int) -> Dataset:
    return beam_item(plan, number).IonControlPointSequence[index]


def test_private_positions_survive_near_zero_and_on_the_raster(mosaiq: Dataset, saved: Save) -> None:
    beam = read_ion_plan(saved(mosaiq)).beam(2)
    np.testing.assert_allclose(beam.layers[0].positions_mm, SPOTS, atol=4e-6, rtol=0)
    assert np.abs(beam.layers[0].positions_mm[:2] - np.array(SPOTS)[:2]).max() < 1e-6
    np.testing.assert_allclose(beam.layers[0].spot_mu, [0.0, 5.0, 15.0], atol=1e-9)


@pytest.mark.parametrize(("written", "told"), [(b"x ", "is not a number"), (b"2.5 ", "is not an integer")])
def test_a_number_of_fractions_that_no_engine_could_be_given_refuses_the_plan(
    mosaiq: Dataset, saved: Save, written: bytes, told: str
) -> None:
    group = mosaiq.FractionGroupSequence[0]
    group[0x300A0078] = RawDataElement(Tag(0x300A0078), "IS", len(written), written, 0, False, True)
    with pytest.raises(PlanError, match=f"Number of Fractions Planned {told}"):
        read_ion_plan(saved(mosaiq))


def test_setup_beam_numbered_one_is_no_beam_and_shifts_none(mosaiq: Dataset, saved: Save) -> None:
    plan = read_ion_plan(saved(mosaiq))
    assert plan.setup_beam_numbers == (1,)
    assert [(beam.number, beam.name) for beam in plan.beams] == [(3, "2G000:TX"), (2, "1G180:TX")]
    assert plan.beam(2).layers[0].energy_mev == 150.25
    assert plan.beam(3).layers[0].energy_mev == 120.0
    with pytest.raises(KeyError):
        plan.beam(1)


@pytest.mark.parametrize(
    ("kind", "name", "description"),
    [("SETUP", "AP", ""), ("TREATMENT", "Setup", ""), ("TREATMENT", "AP", "Site Setup")],
)
def test_setup_beams_are_known_by_type_name_or_description(
    mosaiq: Dataset, saved: Save, kind: str, name: str, description: str
) -> None:
    item = beam_item(mosaiq, 1)
    item.TreatmentDeliveryType, item.BeamName, item.BeamDescription = kind, name, description
    assert read_ion_plan(saved(mosaiq)).setup_beam_numbers == (1,)


def test_setup_beam_may_be_referenced_without_meterset(mosaiq: Dataset, saved: Save) -> None:
    reference = Dataset()
    reference.ReferencedBeamNumber = 1
    mosaiq.FractionGroupSequence[0].ReferencedBeamSequence.append(reference)
    assert [beam.number for beam in read_ion_plan(saved(mosaiq)).beams] == [3, 2]


def test_layers_of_one_energy_stay_apart_and_count_from_one(mosaiq: Dataset, saved: Save) -> None:
    layers = read_ion_plan(saved(mosaiq)).beam(2).layers
    assert [(layer.number, layer.control_point_index, layer.energy_mev) for layer in layers] == [
        (1, 0, 150.25),
        (2, 2, 150.25),
        (3, 4, 140.5),
    ]
    assert [len(layer.spot_mu) for layer in layers] == [3, 2, 3]


def test_energy_is_inherited_from_the_last_given(mosaiq: Dataset, saved: Save) -> None:
    del point(mosaiq, 2, 2).NominalBeamEnergy
    assert [layer.energy_mev for layer in read_ion_plan(saved(mosaiq)).beam(2).layers] == [
        150.25,
        150.25,
        140.5,
    ]


def test_one_control_point_per_layer_is_read_too(standard: Dataset, saved: Save) -> None:
    item = beam_item(standard, 3)
    first, last = item.IonControlPointSequence
    middle = Dataset()
    middle.ControlPointIndex, middle.CumulativeMetersetWeight, middle.NominalBeamEnergy = 1, "4", "110"
    middle.NumberOfScanSpotPositions = 1
    middle.ScanSpotPositionMap, middle.ScanSpotMetersetWeights = [7.0, 8.0], 2.0
    last.ControlPointIndex = 2
    item.IonControlPointSequence = Sequence([last, first, middle])
    item.NumberOfControlPoints = 3
    layers = read_ion_plan(saved(standard)).beam(3).layers
    assert [(layer.energy_mev, layer.meterset_mu) for layer in layers] == [(120.0, 4.0), (110.0, 6.0)]
    assert layers[1].positions_mm.tolist() == [[7.0, 8.0]]
    assert layers[1].spot_mu.tolist() == [6.0]


def test_meterset_that_mosaiq_rounded_leaves_the_weights_as_monitor_units(
    mosaiq: Dataset, saved: Save
) -> None:
    beam = read_ion_plan(saved(mosaiq)).beam(2)
    assert beam.meterset_mu == 53.362
    assert [layer.meterset_mu for layer in beam.layers] == pytest.approx([20.0, 13.362, 20.0], abs=1e-9)


@pytest.mark.parametrize(
    ("printed", "weights", "expected"),
    [
        (53.4, 53.362, 53.362),
        (99.3, 99.328, 99.328),
        (99.1, 99.149, 99.149),
        (58414.5492229546, 6847.778384, 58414.5492229546),
        (17571.2, 15719.83, 17571.2),
        (1.03, 1.0, 1.03),
        (53.5, 53.362, 53.5),
    ],
)
def test_only_a_rounded_copy_of_the_weights_is_taken_for_one(
    printed: float, weights: float, expected: float
) -> None:
    assert meterset_mu(printed, weights) == expected


def test_weights_of_another_unit_scale_to_the_meterset(mosaiq: Dataset, saved: Save) -> None:
    mosaiq.FractionGroupSequence[0].ReferencedBeamSequence[1].BeamMeterset = "106.724"
    beam = read_ion_plan(saved(mosaiq)).beam(2)
    assert beam.meterset_mu == 106.724
    assert [layer.meterset_mu for layer in beam.layers] == pytest.approx([40.0, 26.724, 40.0], abs=1e-9)
    np.testing.assert_allclose(beam.layers[0].spot_mu, [0.0, 10.0, 30.0], atol=1e-9)


def test_geometry_comes_from_the_first_control_point(mosaiq: Dataset, saved: Save) -> None:
    beam = read_ion_plan(saved(mosaiq)).beam(3)
    assert (beam.gantry_angle_deg, beam.couch_angle_deg, beam.snout_position_mm) == (180.0, 5.0, 300.0)
    assert beam.isocenter_mm == (1.5, -2.5, 3.5)
    assert (beam.machine_name, beam.description) == ("G1_LS", "about 2G000:TX")


@pytest.mark.parametrize("bare", [True, False])
def test_preamble_and_transfer_syntax_do_not_matter(standard: Dataset, saved: Save, bare: bool) -> None:
    beam = read_ion_plan(saved(standard, syntax=ExplicitVRLittleEndian, bare=bare)).beam(2)
    np.testing.assert_allclose(beam.layers[0].positions_mm, SPOTS, atol=4e-6)
    assert beam.layers[0].spot_mu.tolist() == pytest.approx([0.0, 5.0, 15.0])


@pytest.mark.parametrize("representation", ["UN", "OB", "FL"])
@pytest.mark.parametrize("explicit", [True, False])
def test_private_map_may_be_stored_in_any_representation(
    mosaiq: Dataset, saved: Save, representation: str, explicit: bool
) -> None:
    first = point(mosaiq, 3, 0)
    for offset, values in ((0x94, [0.1, -0.2, 5.997, 0.0]), (0x96, [1.0, 3.0])):
        raw: object = struct.pack(f"<{len(values)}f", *values) if representation != "FL" else values
        del first[0x300B, 0x1000 | offset]
        first.add_new((0x300B, 0x1000 | offset), representation, raw)
    del first[0x300B, 0x1092]
    first.add_new(
        (0x300B, 0x1092), "UN" if representation == "UN" else "SH", b"2 " if representation == "UN" else "2"
    )
    path = saved(mosaiq, syntax=ExplicitVRLittleEndian, bare=False) if explicit else saved(mosaiq)
    layer = read_ion_plan(path).beam(3).layers[0]
    np.testing.assert_allclose(layer.positions_mm, [[0.1, -0.2], [5.997, 0.0]], atol=1e-6)
    assert layer.spot_mu.tolist() == pytest.approx([2.5, 7.5])


def test_private_map_is_found_by_its_creator_not_by_its_block(mosaiq: Dataset, saved: Save) -> None:
    first = point(mosaiq, 3, 0)
    moved = {element.tag: element.value for element in first if element.tag.group == 0x300B}
    for tag in moved:
        del first[tag]
    first.add_new((0x300B, 0x0010), "LO", "SOMEBODY")
    first.add_new((0x300B, 0x1094), "UN", b"nonsense")
    first.add_new((0x300B, 0x0042), "LO", "IMPAC")
    for tag, value in moved.items():
        if tag.element > 0xFF:
            first.add_new((0x300B, 0x4200 | tag.element & 0xFF), "UN", value)
    layer = read_ion_plan(saved(mosaiq)).beam(3).layers[0]
    np.testing.assert_allclose(layer.positions_mm, SPOTS, atol=4e-6)


def test_equal_standard_and_private_maps_agree(mosaiq: Dataset, standard: Dataset, saved: Save) -> None:
    for keyword in ("NumberOfScanSpotPositions", "ScanSpotPositionMap", "ScanSpotMetersetWeights"):
        point(mosaiq, 3, 0).add(point(standard, 3, 0)[keyword])
    assert len(read_ion_plan(saved(mosaiq)).beam(3).layers[0].spot_mu) == 3
    point(mosaiq, 3, 0).ScanSpotPositionMap[3] += 0.01
    with pytest.raises(PlanError, match=r"beam 3, layer 1.*standard and the private spot map differ"):
        read_ion_plan(saved(mosaiq))
    point(mosaiq, 3, 0).NumberOfScanSpotPositions = 2
    point(mosaiq, 3, 0).ScanSpotPositionMap = [0, 0.1, -0.2, 5.997]
    point(mosaiq, 3, 0).ScanSpotMetersetWeights = [0, 1]
    with pytest.raises(PlanError, match="different numbers of spots"):
        read_ion_plan(saved(mosaiq))


@given(
    st.lists(
        st.tuples(*[st.floats(-400, 400, width=32)] * 2, st.floats(0, 100, width=32)), min_size=1, max_size=50
    )
)
def test_private_map_round_trip(spots: list[tuple[float, float, float]]) -> None:
    item = Dataset()
    item.add_new((0x300B, 0x0011), "LO", "IMPAC")
    item.add_new((0x300B, 0x1192), "UN", f"{len(spots)} ".encode())
    item.add_new((0x300B, 0x1194), "UN", encode_floats(np.array(spots)[:, :2]))
    item.add_new((0x300B, 0x1196), "UN", b"".join(struct.pack("<f", weight) for _, _, weight in spots))
    found = read_spot_map(item, 1, 1)
    assert found is not None
    assert np.column_stack((found.positions_mm, found.weights)).tolist() == [list(spot) for spot in spots]
    assert decode_floats(struct.pack("<3f", *spots[0])).tolist() == list(spots[0])


Change = Callable[[Dataset], object]


def _private(plan: Dataset, offset: int, raw: bytes) -> None:
    point(plan, 2, 2)[0x300B, 0x1000 | offset].value = raw


def _device(plan: Dataset, keyword: str, **values: object) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    setattr(beam_item(plan, 3), keyword, Sequence([item]))
    if keyword == "IonBlockSequence":
        beam_item(plan, 3).NumberOfBlocks = 1
    return item


def _group(plan: Dataset) -> Dataset:
    return plan.FractionGroupSequence[0]


def _later(plan: Dataset, keyword: str, value: object) -> None:
    setattr(point(plan, 2, 2), keyword, value)


CONTRADICTIONS: dict[str, tuple[Change, str]] = {
    "count above the bytes": (
        lambda p: _private(p, 0x92, b"3 "),
        r"beam 2, layer 2.*says 3 spots.*not 24\).*not 12",
    ),
    "half a weight": (
        lambda p: _private(p, 0x96, b"\0" * 6),
        r"beam 2, layer 2.*6 bytes of weights \(not 8\)",
    ),
    "half a position": (
        lambda p: _private(p, 0x94, b"\0" * 12),
        r"beam 2, layer 2.*12 bytes of positions \(not 16\)",
    ),
    "count is no number": (lambda p: _private(p, 0x92, b"ab"), "beam 2, layer 2.*count is not a number"),
    "no weights": (
        lambda p: point(p, 2, 2).__delitem__((0x300B, 0x1096)),
        "beam 2, layer 2.*lacks its count",
    ),
    "not a number": (
        lambda p: _private(p, 0x94, struct.pack("<4f", 0, 0, float("nan"), 0)),
        "layer 2.*not finite",
    ),
    "infinite weight": (
        lambda p: _private(p, 0x96, struct.pack("<2f", 1, float("inf"))),
        "layer 2.*not finite",
    ),
    "all weights zero": (
        lambda p: _private(p, 0x96, struct.pack("<2f", 0, 0)),
        "beam 2, layer 2.*are all zero",
    ),
    "negative weight": (
        lambda p: _private(p, 0x96, struct.pack("<2f", 2, -1)),
        "beam 2, layer 2.*negative weight",
    ),
    "no map": (lambda p: point(p, 2, 2).__delitem__((0x300B, 0x0010)), "beam 2, layer 2.*but no spots"),
    "no energy": (
        lambda p: point(p, 2, 0).__delattr__("NominalBeamEnergy"),
        "beam 2, layer 1.*has no energy",
    ),
    "energy per nucleon": (
        lambda p: _later(p, "NominalBeamEnergyUnit", "KEV"),
        "beam 2.*given in KEV, not in MEV",
    ),
    "weights fall": (lambda p: _later(p, "CumulativeMetersetWeight", "19"), "beam 2.*weight falls"),
    "weights end early": (
        lambda p: setattr(beam_item(p, 2), "FinalCumulativeMetersetWeight", "60"),
        "beam 2.*not the final one",
    ),
    "weights start late": (
        lambda p: setattr(point(p, 3, 0), "CumulativeMetersetWeight", "1"),
        "beam 3.*is not 0",
    ),
    "no weight": (lambda p: _later(p, "CumulativeMetersetWeight", None), "beam 2.*Weight is missing"),
    "index twice": (lambda p: _later(p, "ControlPointIndex", 1), "beam 2.*do not count up from 0"),
    "a control point short": (
        lambda p: beam_item(p, 2).IonControlPointSequence.pop(),
        "beam 2.*says 6 control points, but has 5",
    ),
    "duplicate number": (
        lambda p: setattr(beam_item(p, 2), "BeamNumber", 3),
        "beam number 3 stands in the plan twice",
    ),
    "no number": (lambda p: beam_item(p, 2).__delattr__("BeamNumber"), "Beam Number is missing"),
    "no name": (lambda p: setattr(beam_item(p, 2), "BeamName", ""), "beam 2.*Beam Name is missing"),
    "reference to nothing": (
        lambda p: setattr(_group(p).ReferencedBeamSequence[0], "ReferencedBeamNumber", 7),
        "fraction group refers to beam 7, which the plan does not have",
    ),
    "reference twice": (
        lambda p: setattr(_group(p).ReferencedBeamSequence[0], "ReferencedBeamNumber", 2),
        "refers to beam 2 twice",
    ),
    "beam without reference": (
        lambda p: _group(p).ReferencedBeamSequence.pop(),
        "fraction group does not refer to treatment beam 2",
    ),
    "no meterset": (
        lambda p: _group(p).ReferencedBeamSequence[1].__delattr__("BeamMeterset"),
        "beam 2.*Beam Meterset is missing",
    ),
    "zero meterset": (
        lambda p: setattr(_group(p).ReferencedBeamSequence[1], "BeamMeterset", 0),
        "beam 2.*has no meterset",
    ),
    "two groups": (lambda p: p.FractionGroupSequence.append(Dataset()), "2 fraction groups; exactly one"),
    "no group": (lambda p: p.__delattr__("FractionGroupSequence"), "0 fraction groups; exactly one"),
    "no beams": (lambda p: p.__delattr__("IonBeamSequence"), "the plan has no ion beams"),
    "setup beams only": (
        lambda p: [setattr(b, "TreatmentDeliveryType", "SETUP") for b in p.IonBeamSequence],
        "the plan has no treatment beams",
    ),
    "not monitor units": (
        lambda p: setattr(beam_item(p, 2), "PrimaryDosimeterUnit", "NP"),
        "beam 2.*given in NP, which is not supported",
    ),
    "carbon": (lambda p: setattr(beam_item(p, 2), "RadiationType", "ION"), "beam 2.*radiation is ION"),
    "arc": (lambda p: _later(p, "GantryAngle", 190), "beam 2.*GantryAngle changes"),
    "moving isocentre": (
        lambda p: _later(p, "IsocenterPosition", [0, 0, 0]),
        "beam 2.*IsocenterPosition changes",
    ),
    "no gantry angle": (
        lambda p: point(p, 2, 0).__delattr__("GantryAngle"),
        "beam 2.*GantryAngle of the first",
    ),
    "no snout": (
        lambda p: setattr(point(p, 2, 0), "SnoutPosition", None),
        "beam 2.*SnoutPosition of the first",
    ),
    "compensator": (lambda p: _device(p, "IonRangeCompensatorSequence"), "beam 3.*has a range compensator"),
    "block without points": (
        lambda p: _device(
            p, "IonBlockSequence", BlockNumber=4, BlockThickness=65, BlockNumberOfPoints=4, BlockData=[1, 2]
        ),
        "beam 3.*block 4 says 4 points, but holds 2 coordinates",
    ),
    "blocks missing": (lambda p: setattr(beam_item(p, 3), "NumberOfBlocks", 1), "beam 3.*says 1 blocks"),
    "range shifter missing": (
        lambda p: setattr(beam_item(p, 3), "NumberOfRangeShifters", 1),
        "beam 3.*says 1 range shifters, but describes 0",
    ),
    "leaves without boundaries": (
        lambda p: _device(
            p, "IonBeamLimitingDeviceSequence", RTBeamLimitingDeviceType="MLCX", NumberOfLeafJawPairs=2
        ),
        "beam 3.*has 2 leaf pairs, but 0 boundaries",
    ),
    "leaves without positions": (
        lambda p: _device(
            p,
            "IonBeamLimitingDeviceSequence",
            RTBeamLimitingDeviceType="MLCX",
            NumberOfLeafJawPairs=2,
            LeafPositionBoundaries=[0, 5, 10],
        ),
        "beam 3, layer 1.*has 2 leaf pairs, but 0 positions",
    ),
    "no SOP instance": (lambda p: p.__delattr__("SOPInstanceUID"), "SOP Instance UID is missing"),
    "another class": (
        lambda p: setattr(p, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.481.5"),
        "is not an RT Ion Plan",
    ),
    "no class": (lambda p: p.__delattr__("SOPClassUID"), "has no SOP class"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_refused_by_name(mosaiq: Dataset, saved: Save, name: str) -> None:
    change, message = CONTRADICTIONS[name]
    change(mosaiq)
    path = saved(mosaiq, name="IDMARK77.dcm")
    with pytest.raises(PlanError) as caught:
        read_ion_plan(path)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert caught.value.where.kind == "RT plan"
    for secret in ("MARK", str(path.parent), "1955", "1.2.3.4.888"):
        assert secret not in f"{caught.value}{caught.value.first_cause}"


def test_standard_map_shorter_than_its_count_names_the_layer(standard: Dataset, saved: Save) -> None:
    point(standard, 2, 4).NumberOfScanSpotPositions = 4
    with pytest.raises(
        PlanError, match=r"beam 2, layer 3.*says 4 spots, but holds 6 coordinates and 3 weights"
    ):
        read_ion_plan(saved(standard))


@pytest.mark.parametrize("content", [b"", b"not DICOM at all, IDMARK77", bytes(range(256)) * 40])
def test_what_is_no_dicom_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "IDMARK77.dcm"
    path.write_bytes(content)
    with pytest.raises(PlanError, match="RT plan: the plan is not a DICOM file") as caught:
        read_ion_plan(path)
    assert "MARK" not in str(caught.value)


def test_an_unreadable_plan_keeps_the_first_cause_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"cannot be read.*first cause: No such file or directory") as caught:
        read_ion_plan(tmp_path / "IDMARK77.dcm")
    assert caught.value.first_cause == "No such file or directory"
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(PlanError, match="Is a directory"):
        read_ion_plan(tmp_path)


def test_a_damaged_element_keeps_the_first_cause_without_its_value(mosaiq: Dataset, saved: Save) -> None:
    path = saved(mosaiq)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"53.400", b"SECRET"))
    with pytest.raises(PlanError) as caught:
        read_ion_plan(path)
    assert "ValueError" in str(caught.value) or "not a number" in str(caught.value)
    assert "SECRET" not in f"{caught.value}{caught.value.first_cause}"


def test_odd_identifiers_print_no_warning(
    mosaiq: Dataset, saved: Save, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(mosaiq)
    path.write_bytes(
        path.read_bytes().replace(b"19551231", b"SECRET77").replace(b"1.2.3.4.8882", b"1.SECRET.3.4")
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_ion_plan(path).study_instance_uid == "1.SECRET.3.4"
    assert [str(warning.message) for warning in caught if "SECRET" in str(warning.message)] == []
    assert "SECRET" not in caplog.text


def test_pitch_and_roll_of_any_control_point_are_noticed(mosaiq: Dataset, saved: Save) -> None:
    points = beam_item(mosaiq, 3).IonControlPointSequence
    points[0].TableTopPitchAngle, points[0].TableTopRollAngle = 0.25, 0.0
    points[1].TableTopRollAngle = 359.0
    assert read_ion_plan(saved(mosaiq)).beam(3).tilt_deg == pytest.approx(1.0)
    assert read_ion_plan(saved(mosaiq)).beam(2).tilt_deg == 0.0


def test_range_shifters_count_only_where_they_are_in_the_beam(mosaiq: Dataset, saved: Save) -> None:
    item = beam_item(mosaiq, 3)
    shifters, settings = [], []
    for number, shifter_id, position in ((0, "SNOUT_DEG_B", "IN"), (1, "SNOUT_DEG_S", "OUT")):
        shifter, setting = Dataset(), Dataset()
        shifter.RangeShifterNumber, shifter.RangeShifterID = number, shifter_id
        setting.ReferencedRangeShifterNumber, setting.RangeShifterSetting = number, position
        setting.IsocenterToRangeShifterDistance = 250.5
        setting.RangeShifterWaterEquivalentThickness = 41.25
        shifters.append(shifter)
        settings.append(setting)
    item.RangeShifterSequence = Sequence(shifters)
    item.NumberOfRangeShifters = 2
    first = item.IonControlPointSequence[0]
    first.RangeShifterSettingsSequence = Sequence(settings)
    (found,) = read_ion_plan(saved(mosaiq)).beam(3).range_shifters
    assert (found.number, found.shifter_id) == (0, "SNOUT_DEG_B")
    assert (found.isocenter_distance_mm, found.water_equivalent_thickness_mm) == (250.5, 41.25)

    settings[1].RangeShifterSetting = "HALF"
    with pytest.raises(PlanError, match=r"beam 3.*range shifter 1 is neither IN nor OUT"):
        read_ion_plan(saved(mosaiq))
    first.RangeShifterSettingsSequence = Sequence(settings[:1])
    with pytest.raises(PlanError, match=r"beam 3.*does not say whether range shifter 1"):
        read_ion_plan(saved(mosaiq))
    del first.RangeShifterSettingsSequence
    both = read_ion_plan(saved(mosaiq)).beam(3).range_shifters
    assert [(shifter.shifter_id, shifter.isocenter_distance_mm) for shifter in both] == [
        ("SNOUT_DEG_B", None),
        ("SNOUT_DEG_S", None),
    ]
    item.IonControlPointSequence[1].RangeShifterSettingsSequence = Sequence(settings[:1])
    with pytest.raises(PlanError, match=r"beam 3.*changes range shifter 0 during the beam"):
        read_ion_plan(saved(mosaiq))


def test_identifiers_hold_everything_that_names_somebody(mosaiq: Dataset, saved: Save) -> None:
    identifiers = read_ion_plan(saved(mosaiq)).identifiers
    expected = {
        "FAMMARK", "GIVMARK", "길동", "IDMARK77", "OTHERMARK1", "OTHERMARK2", "19551231", "1955-12-31",
        "REFMARK", "DOC", "RECMARK", "ROCMARK", "OPMARK", "REVMARK", "INSTMARK", "ACCMARK",
        "1.2.3.4.8881", "1.2.3.4.8882", "1.2.3.4.8883", "1.2.3.4.8884",
    }  # fmt: skip
    assert expected <= set(identifiers)
    assert "홍" not in identifiers
    assert not {text for text in identifiers if len(text) < 2 or (len(text) < 3 and text.isascii())}
    assert [len(text) for text in identifiers] == sorted((len(text) for text in identifiers), reverse=True)


def test_words_of_a_name_in_one_component_are_identifiers(mosaiq: Dataset, saved: Save) -> None:
    mosaiq.PatientName = "KIM MINSU"
    assert {"KIM MINSU", "KIM", "MINSU"} <= set(read_ion_plan(saved(mosaiq)).identifiers)


def test_first_cause_quotes_no_value(mosaiq: Dataset, saved: Save) -> None:
    first = point(mosaiq, 3, 0)
    del first[0x300B, 0x1094]
    first.add_new((0x300B, 0x1094), "SH", ["SECRET", "1"])
    with pytest.raises(PlanError, match="damaged elements") as caught:
        read_ion_plan(saved(mosaiq, syntax=ExplicitVRLittleEndian, bare=False))
    assert caught.value.first_cause == "ValueError: could not convert string to float: '...'"

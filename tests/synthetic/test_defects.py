"""Each defect changes exactly what it says, against the clean case of the same seed."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.synthetic.defects import DefectKind, list_defects, parse_defect
from mqi_dagster.synthetic.delivery import SimulatedCase

from .conftest import Simulate
from .decoding import contents, is_on, key_values, rows, table


def _changes(clean: SimulatedCase, case: SimulatedCase) -> tuple[set[str], set[str], set[str]]:
    """File names that are gone, new and changed."""
    before, after = contents(clean.folder), contents(case.folder)
    gone, new = set(before) - set(after), set(after) - set(before)
    return gone, new, {name for name in set(before) & set(after) if before[name] != after[name]}


def _folder(case: SimulatedCase, beam: int) -> str:
    return next(d.folder.name for d in case.deliveries if d.beam == beam)


def _file(case: SimulatedCase, beam: int, layer: int, kind: str = "ptn") -> str:
    (path,) = (case.folder / _folder(case, beam)).glob(f"*_{layer:03d}.{kind}")
    return str(path.relative_to(case.folder))


def _sum(case: SimulatedCase, name: str) -> int:
    record = rows(case.folder / name)
    return int(record[is_on(record), 4].sum())


def test_a_shift_moves_the_positions_of_its_layer_alone(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("shifted-spots:beam=3,layer=2,x=2,y=-1")
    name = _file(clean, 3, 2)
    assert _changes(clean, case) == (set(), set(), {name})
    before, after = rows(clean.folder / name), rows(case.folder / name)
    assert np.array_equal(before[:, 2:], after[:, 2:])
    moved = before[:, 0] != after[:, 0]
    assert moved.sum() >= is_on(before).sum() - 2
    assert ((after - before)[moved, 0] * 0.00726).mean() == pytest.approx(2.0, abs=0.001)
    assert ((after - before)[moved, 1] * 0.0071411).mean() == pytest.approx(-1.0, abs=0.001)


def test_an_mu_error_scales_the_counts_of_its_layer_alone(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("mu-error:beam=3,layer=2,percent=5")
    name = _file(clean, 3, 2)
    assert _changes(clean, case) == (set(), set(), {name})
    assert _sum(case, name) / _sum(clean, name) == pytest.approx(1.05, abs=1e-6)
    assert np.array_equal(rows(clean.folder / name)[:, :4], rows(case.folder / name)[:, :4])


@pytest.mark.parametrize(("code", "factor"), [(1, 160 / 470), (3, 1400 / 470)])
def test_another_range_code_scales_the_counts_by_the_inverse_factor(
    simulate: Simulate, code: int, factor: float
) -> None:
    clean, case = simulate(), simulate(f"range-code:beam=4,layer=1,code={code}")
    name, sheet = _file(clean, 4, 1), _folder(clean, 4) + "/PlanRange.txt"
    assert _changes(clean, case) == (set(), set(), {name, sheet})
    assert _sum(case, name) * factor == pytest.approx(_sum(clean, name), abs=factor)
    assert [line["DOSE1_RANGE"] for line in table(case.folder / sheet)] == [str(code), "2", "2", "2"]


def test_a_range_code_that_does_not_exist_stands_only_in_the_sheet(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("range-code:beam=4,layer=1,code=6")
    sheet = _folder(clean, 4) + "/PlanRange.txt"
    assert _changes(clean, case) == (set(), set(), {sheet})
    assert table(case.folder / sheet)[0]["DOSE1_RANGE"] == "6"


def test_an_energy_row_differs_in_the_sheet_alone(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("energy-row:beam=2,layer=3,mev=3")
    sheet = _folder(clean, 2) + "/PlanRange.txt"
    assert _changes(clean, case) == (set(), set(), {sheet})
    energies = [line["LAYER_ENERGY"] for line in table(case.folder / sheet)]
    assert energies == ["110", "106", "105", "98"]


def test_a_missing_layer_lacks_its_record_alone(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("missing-layer:beam=3,layer=4")
    assert _changes(clean, case) == ({_file(clean, 3, 4)}, set(), set())


def test_a_missing_row_takes_the_layers_files_with_it(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("missing-row:beam=3,layer=2")
    gone = {_file(clean, 3, 2), _file(clean, 3, 2, "mgn")}
    assert _changes(clean, case) == (gone, set(), {_folder(clean, 3) + "/PlanRange.txt"})
    lines = table(case.folder / _folder(clean, 3) / "PlanRange.txt")
    assert [line["LAYER_NO"] for line in lines] == ["1", "3", "4"]


def test_a_truncated_record_is_no_whole_number_of_rows(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("truncated:beam=3,layer=2,bytes=5")
    name = _file(clean, 3, 2)
    assert _changes(clean, case) == (set(), set(), {name})
    before, after = contents(clean.folder)[name], contents(case.folder)[name]
    assert before[:-5] == after
    assert len(after) % 16 == 11


def test_a_wrong_layer_number_stands_in_column_6_alone(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("wrong-layer-number:beam=3,layer=2")
    name = _file(clean, 3, 2)
    assert _changes(clean, case) == (set(), set(), {name})
    before, after = rows(clean.folder / name), rows(case.folder / name)
    assert set(after[:, 6]) == {3}
    assert np.array_equal(np.delete(before, 6, axis=1), np.delete(after, 6, axis=1))


def test_scan_number_zero_leaves_the_two_bits(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("scan-number-zero:beam=3,layer=2")
    name = _file(clean, 3, 2)
    assert _changes(clean, case) == (set(), set(), {name})
    after = rows(case.folder / name)
    assert set(after[:, 7]) == {0, 32768, 49152, 16384}
    assert np.array_equal(after[:, :7], rows(clean.folder / name)[:, :7])


def test_a_foreign_layer_carries_another_patients_numbers(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("foreign-layer:beam=3,layer=2")
    folder = _folder(clean, 3)
    gone, new, changed = _changes(clean, case)
    assert gone == {_file(clean, 3, 2), _file(clean, 3, 2, "mgn")}
    assert new == {f"{folder}/02_9999999_001_003_002.ptn", f"{folder}/02_OTHER999_001_003_002.mgn"}
    assert changed == {f"{folder}/PlanRange.txt"}
    assert table(case.folder / folder / "PlanRange.txt")[1]["SCAN_OUT_FL_NM"] == "02_9999999_001_003_002.ptn"


def test_a_wrong_patient_stands_in_all_sheets_of_the_beam_alone(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("wrong-patient:beam=4")
    folder = _folder(clean, 4)
    assert all(name.startswith(folder) for change in _changes(clean, case) for name in change)
    assert key_values(case.folder / folder / "PlanInfo.txt")["DICOM_PATIENT_ID"] == "OTHER999"
    assert {line["PATIENT_ID"] for line in table(case.folder / folder / "PlanRange.txt")} == {"OTHER999"}
    assert pydicom.dcmread(case.plan_path).PatientID == "SYNTH001"


@pytest.mark.parametrize(
    ("defect", "key", "value"),
    [
        ("wrong-study:beam=2", "DICOM_STUDY_INS_UID", "1.2.826.0.1.3680043.8.498.999"),
        ("stop-beyond-plan:beam=2", "STOP_LAYER_NUMBER", "5"),
    ],
)
def test_a_wrong_key_of_plan_info(simulate: Simulate, defect: str, key: str, value: str) -> None:
    clean, case = simulate(), simulate(defect)
    name = _folder(clean, 2) + "/PlanInfo.txt"
    assert _changes(clean, case) == (set(), set(), {name})
    assert key_values(case.folder / name)[key] == value


def test_a_missing_plan_info_is_all_that_is_missing(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("missing-plan-info:beam=2")
    assert _changes(clean, case) == ({_folder(clean, 2) + "/PlanInfo.txt"}, set(), set())


def test_two_plans_lie_beside_each_other(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("two-plans")
    gone, new, changed = _changes(clean, case)
    assert (gone, changed) == (set(), set())
    assert len(new) == 1
    first, second = (pydicom.dcmread(p) for p in sorted(case.folder.glob("RP.*.dcm")))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.StudyInstanceUID == second.StudyInstanceUID


def test_the_fraction_group_refers_to_a_beam_that_does_not_exist(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("fraction-group:beam=3")
    assert _changes(clean, case) == (set(), set(), {clean.plan_path.name})
    plan = pydicom.dcmread(case.plan_path)
    references = plan.FractionGroupSequence[0].ReferencedBeamSequence
    assert [int(r.ReferencedBeamNumber) for r in references] == [2, 99, 4]
    assert [int(b.BeamNumber) for b in plan.IonBeamSequence] == [1, 2, 3, 4]


@pytest.mark.parametrize(("given", "name"), [("", "G3"), (":name=GTR9", "GTR9"), (":name=", "")])
def test_an_unknown_machine_stands_in_the_plan_alone(simulate: Simulate, given: str, name: str) -> None:
    clean, case = simulate(), simulate("unknown-machine" + given)
    assert _changes(clean, case) == (set(), set(), {clean.plan_path.name})
    plan = pydicom.dcmread(case.plan_path)
    assert {beam.TreatmentMachineName or "" for beam in plan.IonBeamSequence} == {name}


def test_a_duplicate_delivery_repeats_every_byte(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("duplicate-delivery:beam=3")
    folder = _folder(clean, 3)
    gone, new, changed = _changes(clean, case)
    assert (gone, changed) == (set(), set())
    assert contents(case.folder / folder) == contents(case.folder / f"{folder}_copy")
    assert len(new) == 10


def test_a_resumed_beam_comes_in_two_disjoint_ranges(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("resumed:beam=3,layer=1")
    assert [(d.beam, d.first_layer, d.last_layer) for d in case.deliveries] == [
        (2, 1, 4),
        (3, 1, 1),
        (3, 2, 4),
        (4, 1, 4),
    ]
    first, second = (d.folder for d in case.deliveries if d.beam == 3)
    assert first.name < second.name
    assert key_values(second / "PlanInfo.txt")["START_LAYER_NUMBER"] == "2"
    assert [line["LAYER_NO"] for line in table(second / "PlanRange.txt")] == ["2", "3", "4"]
    for layer in (2, 3, 4):
        (path,) = second.glob(f"*_{layer:03d}.ptn")
        assert _sum(case, f"{second.name}/{path.name}") == _sum(clean, _file(clean, 3, layer))


def test_a_split_layer_has_its_mu_in_two_parts(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("split-layer:beam=3,layer=2,share=0.3")
    parts = [d for d in case.deliveries if d.beam == 3]
    assert [(d.first_layer, d.last_layer) for d in parts] == [(1, 2), (2, 4)]
    sums = [_sum(case, str(next(d.folder.glob("*_002.ptn")).relative_to(case.folder))) for d in parts]
    whole = _sum(clean, _file(clean, 3, 2))
    assert sums[0] / whole == pytest.approx(0.3, abs=1e-5)
    assert sum(sums) == pytest.approx(whole, abs=1)
    lasting = [is_on(rows(next(d.folder.glob("*_002.ptn")))).sum() for d in parts]
    assert sum(lasting) == pytest.approx(is_on(rows(clean.folder / _file(clean, 3, 2))).sum(), abs=8)


def test_an_overlap_repeats_layers_in_full(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("overlap:beam=3,layer=3,layers=2")
    parts = [d for d in case.deliveries if d.beam == 3]
    assert [(d.first_layer, d.last_layer) for d in parts] == [(1, 3), (2, 4)]
    for part in parts:
        (path,) = part.folder.glob("*_002.ptn")
        assert _sum(case, str(path.relative_to(case.folder))) == _sum(clean, _file(clean, 3, 2))


def test_an_unfinished_beam_stops(simulate: Simulate) -> None:
    case = simulate("unfinished:beam=3,layer=2")
    assert [(d.beam, d.first_layer, d.last_layer) for d in case.deliveries] == [
        (2, 1, 4),
        (3, 1, 2),
        (4, 1, 4),
    ]


def test_a_repeated_beam_is_delivered_twice_with_other_noise(simulate: Simulate) -> None:
    case = simulate("repeated-beam:beam=3")
    first, second = (d.folder for d in case.deliveries if d.beam == 3)
    assert len(list(first.glob("*.ptn"))) == len(list(second.glob("*.ptn"))) == 4
    assert next(first.glob("*_001.ptn")).read_bytes() != next(second.glob("*_001.ptn")).read_bytes()


def test_out_of_order_leaves_each_beams_records_as_they_were(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("out-of-order")
    assert [d.beam for d in sorted(case.deliveries, key=lambda d: d.folder.name)] == [4, 3, 2]
    for beam in (2, 3, 4):
        for layer in (1, 2, 3, 4):
            name, other = _file(clean, beam, layer), _file(case, beam, layer)
            assert (clean.folder / name).read_bytes() == (case.folder / other).read_bytes()


def test_a_second_fraction_is_added_without_moving_the_first(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("two-fractions")
    gone, new, changed = _changes(clean, case)
    assert (gone, changed) == (set(), set())
    assert [(d.fraction, d.beam) for d in case.deliveries] == [(f, b) for f in (1, 2) for b in (2, 3, 4)]
    assert {name[:8] for name in new} == {"20260106"}


def test_a_replan_is_another_plan_and_study_of_the_same_patient(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("replan:percent=10")
    before, after = pydicom.dcmread(clean.plan_path), pydicom.dcmread(case.plan_path)
    assert before.PatientID == after.PatientID == "SYNTH001"
    assert before.SOPInstanceUID != after.SOPInstanceUID
    assert before.StudyInstanceUID != after.StudyInstanceUID == case.folder.name
    for old, new in zip(before.IonBeamSequence[1:], after.IonBeamSequence[1:], strict=True):
        ratio = float(new.FinalCumulativeMetersetWeight) / float(old.FinalCumulativeMetersetWeight)
        assert ratio == pytest.approx(1.1, abs=1e-6)
    assert _sum(case, _file(case, 3, 1)) / _sum(clean, _file(clean, 3, 1)) == pytest.approx(1.1, abs=1e-5)


def test_a_late_beam_is_withheld_and_comes_with_a_second_call(simulate: Simulate) -> None:
    clean, case = simulate(), simulate("late-beam:beam=3")
    assert [d.beam for d in case.deliveries] == [2, 4]
    late = simulate(deliver=(3,), inbox=case.folder.parent)
    assert late.folder == case.folder
    assert [d.beam for d in late.deliveries] == [3]
    assert contents(case.folder) == contents(clean.folder)


def test_every_defect_is_listed_and_can_be_written() -> None:
    forms = list_defects()
    assert len(forms) == len(DefectKind) == 33
    examples = {"beam": "3", "layer": "2", "share": "0.5", "bytes": "3"}
    for form, description in forms.items():
        name, _, parameters = form.partition(":")
        keys = [p.rstrip("=") for p in parameters.split(",") if p]
        text = name + ":" + ",".join(f"{key}={examples.get(key, '4')}" for key in keys)
        assert parse_defect(text).kind.value == name
        assert "\n" not in description
        assert len(description) > 20


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mu-eror:beam=3", r"unknown defect mu-eror.*\n.*mu-error:beam=,layer=,percent="),
        ("mu-error:beam=3", "it needs layer="),
        ("mu-error:beam=3,layer=2,code=1", "does not take code="),
        ("mu-error:beam=3,layer=2,colour=1", "colour"),
        ("mu-error:beam=three,layer=2", "beam: .*integer"),
        ("mu-error:beam", "expected name=value"),
        ("truncated:beam=3,layer=2,bytes=16", "bytes: .*15"),
    ],
)
def test_a_defect_that_cannot_be_read_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"(?s){says}"):
        parse_defect(text)


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        ("mu-error:beam=1,layer=1", r"no treatment beam 1 \(it has 2, 3, 4\)"),
        ("mu-error:beam=3,layer=9", "beam 3 has 4 layers, not 9"),
        ("resumed:beam=3,layer=4", "layer must be 1 to 3"),
    ],
)
def test_a_defect_at_a_place_that_does_not_exist_is_refused(
    simulate: Simulate, defect: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        simulate(defect)

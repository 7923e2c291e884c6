"""A delivered case is checked against its plan; every fault says which delivery, layer or beam."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mqi_dagster.delivery.manifest import CaseManifest, beam_inputs
from mqi_dagster.delivery.validation import CaseCheck, build_manifest, check_case
from mqi_dagster.errors import DeliveryError, InputError, PlanError, UnknownMachineError
from mqi_dagster.machine import Machines
from tests.delivery.delivery_cases import (
    BEAM_2,
    BEAM_3,
    BEAM_4,
    BEAM_5,
    STUDY,
    ct_slice,
    qa_copy,
    replace_in,
    surveyed,
)
from tests.synthetic.decoding import is_on, rows

SECRETS = ("QA0001", "OTHER9", STUDY, "/tmp", "shared", ".ptn", ".mgn")


def manifest_of(case: Path, machines: Machines) -> CaseManifest:
    survey = surveyed(case)
    fraction = survey.fractions[0] if survey.fractions else None
    return build_manifest(survey, fraction, "P123.fx0001", 1, machines)


def failure_of(case: Path, machines: Machines) -> InputError:
    with pytest.raises(InputError) as caught:
        manifest_of(case, machines)
    text = str(caught.value)
    assert not [secret for secret in SECRETS if secret in text]
    assert text.startswith("case P123.fx0001")
    report = check_case(surveyed(case), machines)
    assert not report.passed
    findings = [*report.findings, *(f for fraction in report.fractions for f in fraction.findings)]
    assert caught.value.message in [finding.message for finding in findings]
    return caught.value


def change_plan(case: Path, change: Callable[[pydicom.Dataset], None]) -> None:
    (path,) = case.glob("*.dcm")
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def record(folder: Path, layer: int) -> Path:
    (path,) = folder.glob(f"*_{layer:03d}.ptn")
    return path


def machine_plan(folder: Path, layer: int) -> Path:
    (path,) = folder.glob(f"*_{layer:03d}.mgn")
    return path


def rewrite(path: Path, change: Callable[[np.ndarray], None]) -> None:
    words = np.frombuffer(path.read_bytes(), dtype=">u2").reshape(-1, 8).copy()
    change(words)
    path.write_bytes(words.tobytes())


def keep_layers(folder: Path, first: int, last: int) -> None:
    """Make a delivery of some layers only out of a whole one."""
    info, table = folder / "PlanInfo.txt", folder / "PlanRange.txt"
    replace_in(info, "START_LAYER_NUMBER,1", f"START_LAYER_NUMBER,{first}")
    replace_in(info, "STOP_LAYER_NUMBER,9", f"STOP_LAYER_NUMBER,{last}")
    header, *rows = table.read_text().splitlines(keepends=True)
    table.write_text(header + "".join(rows[first - 1 : last]))
    for layer in range(1, 10):
        if not first <= layer <= last:
            record(folder, layer).unlink()
            machine_plan(folder, layer).unlink()


def copy_delivery(folder: Path, name: str, number: str) -> Path:
    """The same beam irradiated again at the time `name`, with another record number."""
    target = folder.with_name(name)
    target.mkdir()
    room, old = record(folder, 1).name.split("_")[:2]
    (time,) = re.findall(r"TCSC_IRRAD_DATETIME,(\d{16})", (folder / "PlanInfo.txt").read_text())
    for path in folder.iterdir():
        copy = target / path.name.replace(f"{room}_{old}_", f"{room}_{number}_")
        shutil.copyfile(path, copy)
        if copy.suffix == ".txt":
            text = copy.read_text().replace(time, name).replace(f"{room}_{old}_", f"{room}_{number}_")
            copy.write_text(text.replace(f"TCSC_PATIENT_ID,{old}", f"TCSC_PATIENT_ID,{number}"))
    return target


# ── what passes ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_case_passes_with_all_its_layers(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path)
    manifest = manifest_of(case, machines)
    assert manifest.machine_id == "G2"
    assert [beam.number for beam in manifest.beams] == [2, 3, 4, 5]
    assert [beam.name for beam in manifest.beams] == ["2S110", "3S150", "4S190", "5S230"]
    assert [len(beam.layers) for beam in manifest.beams] == [9, 9, 9, 9]
    assert [beam.layers[0].energy_mev for beam in manifest.beams] == [110.0, 150.0, 190.0, 230.0]
    assert (manifest.partial, manifest.missing_beams, manifest.duplicates) == (False, (), ())
    assert (manifest.fraction, manifest.clinical_fraction, manifest.notes) == (1, 1, ())
    assert [delivery.number for delivery in manifest.deliveries] == [1, 2, 3, 4]
    assert [delivery.beam_number for delivery in manifest.deliveries] == [2, 3, 4, 5]
    for beam in manifest.beams:
        ratio = sum(layer.delivered_mu for layer in beam.layers) / sum(
            layer.planned_mu for layer in beam.layers
        )
        assert ratio == pytest.approx(0.990, abs=0.001)
    part = manifest.beam(2).layers[0].parts[0]
    assert (part.range_code, part.delivery) == (2, 1)
    assert part.record.path == case / BEAM_2 / "02_1010000_001_002_001.ptn"
    assert part.record.sha256 == hashlib.sha256(part.record.path.read_bytes()).hexdigest()
    assert part.machine_plan is not None
    assert part.machine_plan.size == 56


def test_the_check_counts_every_layer(qa: Path, machines: Machines) -> None:
    report = check_case(surveyed(qa), machines)
    assert report.passed
    (fraction,) = report.fractions
    assert len(fraction.layers) == 36
    first = fraction.layers[0]
    written = rows(qa / BEAM_2 / "02_1010000_001_002_001.ptn")
    on = written[is_on(written)]
    assert (first.beam_number, first.layer, first.rows) == (2, 1, len(written))
    assert first.beam_on_samples == len(on)
    assert (first.raw_dose1_sum, first.raw_dose2_sum) == (on[:, 4].sum(), on[:, 5].sum())
    assert first.range_codes == (2, 2)
    # A count is 2.12e-8 MU in range 2.
    assert first.delivered_mu == pytest.approx(on[:, 4].sum() * 2.12e-8)
    assert first.planned_mu == 1.0
    assert [beam.ratio for beam in fraction.beams] == pytest.approx([0.990] * 4, abs=0.001)
    again = CaseCheck.model_validate_json(report.model_dump_json())
    assert again == report
    assert not [secret for secret in SECRETS if secret in report.model_dump_json()]


@pytest.mark.parametrize("qa", ["real"], indirect=True)
def test_the_check_counts_the_first_layer_of_the_real_case(qa: Path, machines: Machines) -> None:
    first = check_case(surveyed(qa), machines).fractions[0].layers[0]
    assert (first.beam_number, first.layer, first.rows, first.beam_on_samples) == (2, 1, 6165, 6001)
    assert (first.raw_dose1_sum, first.raw_dose2_sum) == (46702922, 46469418)
    # 46702922 counts of 2.12e-8 MU.
    assert first.delivered_mu == pytest.approx(0.9901019464)


def test_order_names_and_further_fractions_leave_a_beams_inputs_unchanged(
    qa: Path, tmp_path: Path, machines: Machines
) -> None:
    plain = manifest_of(qa_copy(qa, tmp_path / "a", BEAM_2, BEAM_3), machines)
    case = qa_copy(qa, tmp_path / "b", BEAM_2, BEAM_3)
    other = copy_delivery(case / BEAM_3, "2026010510050000", "1010001")
    shutil.rmtree(case / BEAM_3)
    other.rename(case / "첫째 빔")
    (case / BEAM_2).rename(case / "beam 2")
    copy_delivery(case / "beam 2", "2026010710000000", "1010009")
    case = case.rename(case.with_name("환자 a"))
    changed = manifest_of(case, machines)
    assert [delivery.beam_number for delivery in changed.deliveries] == [3, 2]
    assert [delivery.beam_number for delivery in plain.deliveries] == [2, 3]
    assert [len(fraction.deliveries) for fraction in surveyed(case).fractions] == [2, 1]
    for number in (2, 3):
        assert beam_inputs(changed, number) == beam_inputs(plain, number)
    assert beam_inputs(plain, 2) != beam_inputs(plain, 3)


def test_a_beams_inputs_follow_content(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)
    seen = [beam_inputs(manifest_of(case, machines), 2)]
    replace_in(
        case / BEAM_2 / "PlanRange.txt",
        "QA0001,2,2,2,2,2,02_1010000_001_002_004",
        "QA0001,2,3,3,2,2,02_1010000_001_002_004",
    )
    seen.append(beam_inputs(manifest_of(case, machines), 2))
    rewrite(record(case / BEAM_2, 4), lambda words: words.__setitem__((0, 2), 7))
    seen.append(beam_inputs(manifest_of(case, machines), 2))
    assert seen[0] != seen[1] != seen[2] != seen[0]


def test_missing_beams_make_a_partial_case(qa: Path, tmp_path: Path, machines: Machines) -> None:
    manifest = manifest_of(qa_copy(qa, tmp_path, BEAM_2, BEAM_4), machines)
    assert (manifest.partial, manifest.missing_beams) == (True, (3, 5))
    assert manifest.notes == ("partial fraction: no delivery of beam 3, 5",)


def test_an_interrupted_beam_is_partial(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path)
    keep_layers(case / BEAM_3, 1, 6)
    manifest = manifest_of(case, machines)
    assert (manifest.partial, manifest.missing_beams) == (True, ())
    assert (manifest.beam(3).complete, manifest.beam(2).complete) == (False, True)
    assert manifest.notes == ("partial fraction: 6 of 9 layers of beam 3 delivered",)


def test_a_resumed_beam_is_one_beam(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2, BEAM_3)
    rest = copy_delivery(case / BEAM_2, "2026010510300000", "1010009")
    keep_layers(case / BEAM_2, 1, 6)
    keep_layers(rest, 7, 9)
    beam = manifest_of(case, machines).beam(2)
    assert beam.complete
    assert [layer.number for layer in beam.layers] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [layer.parts[0].delivery for layer in beam.layers] == [1, 1, 1, 1, 1, 1, 3, 3, 3]


def test_a_layer_in_two_parts_needs_their_sum_within_the_plan(
    qa: Path, tmp_path: Path, machines: Machines
) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)
    rest = copy_delivery(case / BEAM_2, "2026010510300000", "1010009")
    keep_layers(case / BEAM_2, 1, 6)
    keep_layers(rest, 6, 9)
    error = failure_of(case, machines)
    assert "deliveries 1 and 2 of beam 2 sum to 1.980 MU in this layer, planned 1.000 MU" in str(error)
    assert (error.where.delivery, error.where.layer) == (2, 6)

    def share(factor: float) -> Callable[[np.ndarray], None]:
        return lambda words: words.__setitem__((slice(None), 4), (words[:, 4] * factor).astype(">u2"))

    rewrite(record(case / BEAM_2, 6), share(0.4))
    rewrite(record(rest, 6), share(0.6))
    layer = manifest_of(case, machines).beam(2).layers[5]
    assert [part.delivery for part in layer.parts] == [1, 2]
    assert layer.delivered_mu == pytest.approx(0.990, abs=0.001)


def test_the_same_beam_twice_names_both_deliveries(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2, BEAM_3)
    copy_delivery(case / BEAM_2, "2026010510300000", "1010009")
    error = failure_of(case, machines)
    assert "deliveries 1 and 3 of beam 2 overlap in layers 1 to 9" in str(error)


def test_an_exact_copy_is_set_aside(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)
    shutil.copytree(case / BEAM_2, case / "copy of it")
    (plan,) = case.glob("*.dcm")
    shutil.copyfile(plan, case / "same plan.dcm")
    manifest = manifest_of(case, machines)
    assert len(manifest.deliveries) == 1
    # 9 records, 9 machine plans, PlanInfo, PlanRange and the plan.
    assert len(manifest.duplicates) == 21
    assert "delivery 1: an exact copy is set aside" in manifest.notes
    assert "RT plan: a copy of the plan is set aside" in manifest.notes


def test_a_setup_beams_delivery_is_set_aside(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2, BEAM_3)

    def make_setup(dataset: pydicom.Dataset) -> None:
        dataset.IonBeamSequence[1].TreatmentDeliveryType = "SETUP"

    change_plan(case, make_setup)
    manifest = manifest_of(case, machines)
    assert [beam.number for beam in manifest.beams] == [2]
    assert manifest.missing_beams == (4, 5)
    assert "delivery 2: it belongs to setup beam 3 and is set aside" in manifest.notes


def test_a_layer_without_a_machine_plan_passes(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)
    replace_in(case / BEAM_2 / "PlanRange.txt", "02_QA0001_001_002_003.mgn", "")
    machine_plan(case / BEAM_2, 3).unlink()
    assert manifest_of(case, machines).beam(2).layers[2].parts[0].machine_plan is None


@pytest.mark.parametrize(("code", "factor"), [(1, 160 / 470), (3, 1400 / 470)])
def test_a_range_code_scales_the_delivered_mu(
    qa: Path, tmp_path: Path, machines: Machines, code: int, factor: float
) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)
    replace_in(case / BEAM_2 / "PlanRange.txt", "QA0001,2,2,2,", f"QA0001,2,{code},{code},")
    layer = manifest_of(case, machines).beam(2).layers[0]
    written = rows(record(case / BEAM_2, 1))
    assert layer.delivered_mu == pytest.approx(written[is_on(written), 4].sum() * 2.12e-8 * factor)
    assert layer.parts[0].range_code == code


def test_a_record_that_ends_with_the_beam_on_is_noted(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)
    path = record(case / BEAM_2, 5)
    path.write_bytes(path.read_bytes()[: 3000 * 16])
    notes = manifest_of(case, machines).notes
    assert "delivery 1, layer 5, record: the record ends while the beam is on" in notes


# ── what fails, one fault at a time in delivery 2 (beam 3) ─────────────────────────────────────────────────


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: replace_in(folder / name, old, new)


def rename(kind: Callable[[Path, int], Path], layer: int, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = kind(folder, layer)
        replace_in(folder / "PlanRange.txt", path.name, path.name.replace(old, new))
        path.rename(folder / path.name.replace(old, new))

    return change


def other_patient(folder: Path) -> None:
    for name in ("PlanInfo.txt", "PlanRange.txt"):
        replace_in(folder / name, "QA0001", "OTHER9")
    for path in folder.glob("*.mgn"):
        path.rename(folder / path.name.replace("QA0001", "OTHER9"))


def shift_preset(folder: Path) -> None:
    path = machine_plan(folder, 4)
    words = np.frombuffer(path.read_bytes(), dtype=">u2").copy()
    # Third word pair of record 1: x preset, 3 steps of 0.005445 mm.
    words[7 + 4] += 3
    path.write_bytes(words.tobytes())


FAULTS: dict[str, tuple[Callable[[Path], object], str, int | None, str]] = {
    "no PlanInfo": (lambda f: (f / "PlanInfo.txt").unlink(), "PlanInfo", None, "PlanInfo is missing"),
    "no PlanRange": (lambda f: (f / "PlanRange.txt").unlink(), "PlanRange", None, "PlanRange is missing"),
    "wrong patient": (other_patient, "PlanInfo", None, "its patient ID differs from the RT plan's"),
    "wrong patient in PlanRange": (
        edit(
            "PlanRange.txt",
            "QA0001,3,2,2,2,2,02_1010001_001_003_005",
            "OTHER9,3,2,2,2,2,02_1010001_001_003_005",
        ),
        "PlanRange",
        5,
        "the patient ID differs from PlanInfo's",
    ),
    "wrong study": (
        edit("PlanInfo.txt", STUDY + "\nDICOM_BEAM", "1.2.3\nDICOM_BEAM"),
        "PlanInfo",
        None,
        "its study UID differs from the RT plan's",
    ),
    "wrong folder name": (
        lambda f: f.rename(f.with_name("2026010510150000")),
        "PlanInfo",
        None,
        "its time differs from the name of its folder",
    ),
    "wrong directory": (
        edit("PlanInfo.txt", "ACTUAL_DIR,QA0001", "ACTUAL_DIR,OTHER9"),
        "PlanInfo",
        None,
        "ACTUAL_DIR names another patient, study or time",
    ),
    "unknown beam": (
        edit("PlanInfo.txt", "DICOM_BEAM_NUMBER,3", "DICOM_BEAM_NUMBER,8"),
        "PlanInfo",
        None,
        "beam 8 is no treatment beam of the plan (it has beams 2, 3, 4, 5)",
    ),
    "stop beyond the plan": (
        edit("PlanInfo.txt", "STOP_LAYER_NUMBER,9", "STOP_LAYER_NUMBER,10"),
        "PlanInfo",
        None,
        "STOP_LAYER_NUMBER 10 lies beyond the 9 layers of beam 3",
    ),
    "fewer rows than layers": (
        edit("PlanInfo.txt", "STOP_LAYER_NUMBER,9", "STOP_LAYER_NUMBER,8"),
        "PlanRange",
        None,
        "PlanRange has 9 rows for the 8 layers 1 to 8 of beam 3",
    ),
    "wrong result": (
        edit("PlanRange.txt", "2026010510140000,7,", "2026010510140001,7,"),
        "PlanRange",
        7,
        "RESULT_ID differs from PlanInfo's time",
    ),
    "wrong field": (
        edit(
            "PlanRange.txt",
            "QA0001,3,2,2,2,2,02_1010001_001_003_006",
            "QA0001,4,2,2,2,2,02_1010001_001_003_006",
        ),
        "PlanRange",
        6,
        "FLD_NO 4 differs from PlanInfo's field 3",
    ),
    "energy": (
        edit("PlanRange.txt", ",3,150,", ",3,150.002,"),
        "PlanRange",
        3,
        "energy 150.002 MeV differs from the plan's 150 MeV (beam 3)",
    ),
    "range code 6": (
        edit("PlanRange.txt", "3,2,2,2,2,02_1010001_001_003_002", "3,6,2,2,2,02_1010001_001_003_002"),
        "PlanRange",
        2,
        "range code 6 is unknown to machine G2",
    ),
    "range code 0 of monitor 2": (
        edit("PlanRange.txt", "3,2,2,2,2,02_1010001_001_003_002", "3,2,0,2,2,02_1010001_001_003_002"),
        "PlanRange",
        2,
        "range code 0 is unknown to machine G2",
    ),
    "record missing": (
        lambda f: record(f, 4).unlink(),
        "record",
        4,
        "the record that PlanRange names is missing",
    ),
    "record cut inside a row": (
        lambda f: record(f, 4).write_bytes(record(f, 4).read_bytes()[:-5]),
        "record",
        4,
        "cut short",
    ),
    "record empty": (lambda f: record(f, 4).write_bytes(b""), "record", 4, "the record is empty"),
    "record of another layer": (
        lambda f: shutil.copyfile(record(f, 5), record(f, 4)),
        "record",
        4,
        "rows belong to another layer than 4 (column 6)",
    ),
    "one row of another layer": (
        lambda f: rewrite(record(f, 4), lambda words: words.__setitem__((17, 6), 5)),
        "record",
        4,
        "1 of {rows} rows belong to another layer than 4 (column 6)",
    ),
    "record of another field": (
        lambda f: rewrite(
            record(f, 4), lambda words: words.__setitem__((slice(None), 0), words[:, 0] + 3000)
        ),
        "record",
        4,
        "a record of another field",
    ),
    "beam never on": (
        lambda f: rewrite(record(f, 4), lambda words: words.__setitem__((slice(None), 7), 32769)),
        "record",
        4,
        "no sample with the beam on",
    ),
    "record number of another delivery": (
        rename(record, 8, "1010001", "1010577"),
        "record",
        8,
        "the number of another delivery",
    ),
    "record name of another layer": (
        rename(record, 8, "_008", "_018"),
        "record",
        8,
        "another layer number than PlanRange",
    ),
    "record name without form": (
        rename(record, 8, "02_", "x"),
        "record",
        8,
        "the file name is not of the machine's form",
    ),
    "machine plan of another patient": (
        rename(machine_plan, 8, "QA0001", "OTHER9"),
        "machine plan",
        8,
        "the number of another patient",
    ),
    "machine plan missing": (
        lambda f: machine_plan(f, 4).unlink(),
        "machine plan",
        4,
        "the machine plan that PlanRange names is missing",
    ),
    "machine plan of another field": (
        lambda f: shutil.copyfile(machine_plan(f, 5), machine_plan(f, 4)),
        "machine plan",
        4,
        "2 of 2 spots differ from the RT plan, by up to 50.000 mm",
    ),
    "machine plan off by 0.016 mm": (shift_preset, "machine plan", 4, "by up to 0.01"),
    "machine plan cut": (
        lambda f: machine_plan(f, 4).write_bytes(machine_plan(f, 4).read_bytes()[:-3]),
        "machine plan",
        4,
        "cut short",
    ),
    "unlisted record": (
        lambda f: shutil.copyfile(record(f, 4), f / "02_1010009_001_003_010.ptn"),
        "record",
        None,
        "1 file of this kind not named by PlanRange",
    ),
    "unlisted machine plan": (
        lambda f: shutil.copyfile(machine_plan(f, 4), f / "02_OTHER9_001_003_004.mgn"),
        "machine plan",
        None,
        "1 file of this kind not named by PlanRange",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_an_error_at_its_place(qa: Path, tmp_path: Path, machines: Machines, fault: str) -> None:
    change, kind, layer, message = FAULTS[fault]
    case = qa_copy(qa, tmp_path, BEAM_2, BEAM_3)
    rows_written = len(rows(record(case / BEAM_3, 4)))
    change(case / BEAM_3)
    error = failure_of(case, machines)
    assert message.format(rows=rows_written) in str(error)
    assert (error.where.delivery, error.where.layer, error.where.kind) == (2, layer, kind)


def test_a_layer_missing_from_the_table_is_named(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2, BEAM_3)
    table = case / BEAM_3 / "PlanRange.txt"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if "_003_006" not in line))
    report = check_case(surveyed(case), machines)
    assert [str(finding) for finding in report.fractions[0].findings if finding.code == "delivery"] == [
        "delivery 2, PlanRange: PlanRange has 8 rows for the 9 layers 1 to 9 of beam 3",
        "delivery 2, record: 1 file of this kind not named by PlanRange",
        "delivery 2, machine plan: 1 file of this kind not named by PlanRange",
        "delivery 2, layer 6, PlanRange: the layer is missing from PlanRange",
    ]


def test_the_check_reports_every_fault_at_once_in_order(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2, BEAM_3)
    record(case / BEAM_3, 7).unlink()
    record(case / BEAM_3, 2).unlink()
    replace_in(case / BEAM_2 / "PlanRange.txt", ",5,110,", ",5,111,")
    (fraction,) = check_case(surveyed(case), machines).fractions
    assert [(f.delivery, f.layer) for f in fraction.findings if f.code == "delivery"] == [
        (1, 5),
        (2, 2),
        (2, 7),
    ]
    assert len(fraction.layers) == 16
    assert failure_of(case, machines).where.layer == 5


# ── what concerns the whole case ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("name", "shown"), [("G3", "machine G3 is unknown"), ("", "machine")])
def test_an_unknown_machine_is_named(
    qa: Path, tmp_path: Path, machines: Machines, name: str, shown: str
) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)

    def rename_machine(dataset: pydicom.Dataset) -> None:
        dataset.IonBeamSequence[2].TreatmentMachineName = name

    change_plan(case, rename_machine)
    error = failure_of(case, machines)
    assert shown in str(error)
    assert "beam 4" in str(error)
    assert isinstance(error, UnknownMachineError | PlanError)


def test_two_machines_in_one_case_are_an_error(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)

    def rename_machine(dataset: pydicom.Dataset) -> None:
        dataset.IonBeamSequence[2].TreatmentMachineName = "G1_LS"

    change_plan(case, rename_machine)
    error = failure_of(case, machines)
    assert "its beams are planned on 2 machines: G1 (beam 4), G2 (beam 2, 3, 5)" in str(error)


def test_an_unknown_range_shifter_is_named(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)

    def add_shifter(dataset: pydicom.Dataset) -> None:
        shifter = pydicom.Dataset()
        shifter.RangeShifterNumber = 0
        shifter.RangeShifterID = "SNOUT_DEG_X"
        shifter.RangeShifterType = "BINARY"
        dataset.IonBeamSequence[1].NumberOfRangeShifters = 1
        dataset.IonBeamSequence[1].RangeShifterSequence = [shifter]

    change_plan(case, add_shifter)
    error = failure_of(case, machines)
    assert "beam 3: range shifter SNOUT_DEG_X is unknown to machine G2" in str(error)


def test_two_plans_are_an_error(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)
    (path,) = case.glob("*.dcm")
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    dataset.save_as(case / "second.dcm")
    assert "2 RT plans are in the case folder" in str(failure_of(case, machines))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.dcmread(
        path
    ).SOPInstanceUID
    dataset.RTPlanLabel = "changed"
    dataset.save_as(case / "second.dcm")
    assert "2 different RT plans with the same SOP Instance UID" in str(failure_of(case, machines))


def test_no_plan_or_an_unreadable_one_is_an_error(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)
    (path,) = case.glob("*.dcm")
    path.write_bytes(path.read_bytes()[:200])
    assert failure_of(case, machines).where.kind == "RT plan"
    path.unlink()
    assert "there is no RT Ion Plan in the case folder" in str(failure_of(case, machines))


def test_a_study_folder_of_another_study_is_an_error(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)
    case = case.rename(case.with_name("1.2.840.113854.19.1.7.8"))
    assert "the study folder's name differs from the RT plan's study UID" in str(failure_of(case, machines))
    case = case.rename(case.with_name("case 12"))
    assert manifest_of(case, machines).beam(2).complete


def test_machine_files_outside_a_delivery_are_an_error(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)
    shutil.copyfile(record(case / BEAM_2, 1), case / "02_1010000_001_002_001.ptn")
    assert "1 machine file stands in the case folder, outside any delivery" in str(failure_of(case, machines))


def test_nothing_readable_is_an_error(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)
    (case / BEAM_2 / "PlanInfo.txt").unlink()
    survey = surveyed(case)
    error = failure_of(case, machines)
    assert "no readable delivery of a treatment beam" in str(error)
    assert survey.fractions[0].identities == ()
    messages = [finding.message for finding in check_case(survey, machines).fractions[0].findings]
    assert "PlanInfo is missing" in messages


FRAME = "1.2.752.243.1.1.20200527162607614.6510.46061"
"""The real plan's frame of reference."""


@pytest.mark.parametrize(
    ("patient", "frame", "fault"),
    [
        ("QA0001", FRAME, None),
        ("OTHER9", FRAME, "CT: 2 of 2 images are of another patient than the plan"),
        ("QA0001", "1.2.3.9", "CT: 2 of 2 images are in another frame of reference than the plan"),
        ("QA0001", None, "CT: 2 of 2 images are in another frame of reference than the plan"),
    ],
)
def test_ct_images_must_be_of_the_plans_patient_and_frame_of_reference(
    qa: Path, tmp_path: Path, machines: Machines, patient: str, frame: str | None, fault: str | None
) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)
    (case / "CT").mkdir()
    for index in (2, 1):
        image = ct_slice(f"1.2.3.{index}", patient, frame, z_mm=2.0 * index)
        image.save_as(case / "CT" / f"{9 - index}.dcm", enforce_file_format=True)
    shutil.copyfile(case / "CT" / "7.dcm", case / "CT" / "z.dcm")
    if fault is not None:
        assert fault in str(failure_of(case, machines))
        return
    manifest = manifest_of(case, machines)
    assert [entry.path.name for entry in manifest.ct_series] == ["8.dcm", "7.dcm"]
    assert [entry.path.name for entry in manifest.duplicates] == ["z.dcm"]


def test_a_machine_plan_whose_zero_is_one_step_off_is_that_of_the_layer(
    qa: Path, tmp_path: Path, machines: Machines
) -> None:
    # Whether G1's zero is 32767 or 32768 is not known: neither may refuse every case of that gantry.
    case = qa_copy(qa, tmp_path, BEAM_2)
    g2 = machines.named("G2")
    preset = g2.preset.model_copy(update={"x_offset": 32767, "y_offset": 32767})
    assert manifest_of(case, Machines([g2.model_copy(update={"preset": preset})])).beam(2).complete


def test_the_fourth_beam_alone_is_found_by_number_and_not_by_order(
    qa: Path, tmp_path: Path, machines: Machines
) -> None:
    manifest = manifest_of(qa_copy(qa, tmp_path, BEAM_5), machines)
    assert [(beam.number, beam.name) for beam in manifest.beams] == [(5, "5S230")]
    assert manifest.missing_beams == (2, 3, 4)


def test_errors_are_typed(qa: Path, tmp_path: Path, machines: Machines) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)
    record(case / BEAM_2, 1).unlink()
    assert isinstance(failure_of(case, machines), DeliveryError)
    case = qa_copy(qa, tmp_path, BEAM_2)
    replace_in(case / BEAM_2 / "PlanRange.txt", "QA0001,2,2,2,", "QA0001,2,6,2,")
    assert isinstance(failure_of(case, machines), UnknownMachineError)

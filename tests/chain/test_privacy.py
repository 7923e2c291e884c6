"""Identifiers stand in the store's manifest, the inputs and the DICOM hand-over, and nowhere else."""

from __future__ import annotations

import base64
from pathlib import Path

import dagster as dg
import pydicom
import pytest

from mqi_dagster.synthetic.request import Layout
from tests.chain.chain import PLAN, Chain, faulty_engine, quick_engine
from tests.chain.test_engine_faults import FAULTS as ENGINE_FAULTS
from tests.chain.test_input_faults import FAULTS as INPUT_FAULTS
from tests.chain.test_site_conversions import (
    CONVERTER_FAULTS,
    INTERPRETER_FAULTS,
    converter,
    interpreter,
)

PATIENT = "ZQXPAT77431"
NAME = "Wyxqvzanderik^Ozmbelthrax"
BIRTH = "19371119"
PHYSICIAN = "Fjorquanziel^Kettlwump"
ACCESSION = "ACCQZ88117"
STUDY = "1.2.826.0.1.3680043.8.498.77553311997755331199"
SOP = "1.2.826.0.1.3680043.8.498.66442200886644220088"
MARKERS = (PATIENT, *NAME.split("^"), BIRTH, *PHYSICIAN.split("^"), ACCESSION, STUDY, SOP)

SITUATIONS = [
    ("success", ""),
    *(("input", name) for name in INPUT_FAULTS),
    *(("engine", mode) for mode in ENGINE_FAULTS if mode != "hang"),
    *(("interpreter", mode) for mode in INTERPRETER_FAULTS if mode != "hang"),
    *(("converter", mode) for mode in CONVERTER_FAULTS if mode not in ("hang", "elsewhere")),
]
"""The hangs say nothing that others do not; a converter that writes elsewhere puts its own DICOM there."""
QUICK = ("success", "input")


def patterns(*, utf16: bool = True) -> list[tuple[str, bytes]]:
    """Every marker as it might be hidden: plain, upper and lower, UTF-16, base64 at three offsets."""
    found = []
    for marker in MARKERS:
        plain = marker.encode()
        found += [(marker, plain), (marker, plain.lower()), (marker, plain.upper())]
        if utf16:
            found += [(marker, marker.encode("utf-16-le")), (marker, marker.encode("utf-16-be"))]
        for shift in range(3):
            # Whole groups of three bytes, whatever stands before and after them.
            text = plain[shift : shift + 3 * ((len(plain) - shift) // 3)]
            found.append((marker, base64.b64encode(text)))
    return found


def may_hold_identity(path: Path, chain: Chain) -> bool:
    """The manifest, RT Doses in the store and the hand-over, and the inbox."""
    if path.is_relative_to(chain.inbox):
        return True
    if path.name == "case_manifest.json":
        return path.is_relative_to(chain.data) and path.stat().st_mode & 0o077 == 0
    in_store = path.is_relative_to(chain.data) and "rt_dose" in path.parts
    if in_store and path.suffix == ".dcm":
        return path.stat().st_mode & 0o077 == 0
    return path.is_relative_to(chain.handover) and path.suffix == ".dcm"


def places_of_markers(root: Path, chain: Chain) -> list[str]:
    wanted = patterns()
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_relative_to(chain.inbox):
            continue
        name = str(path.relative_to(root)).encode()
        found += [f"name of {path.name}: {marker}" for marker, text in wanted if text in name]
        if path.is_file() and not may_hold_identity(path, chain):
            content = path.read_bytes()
            found += [f"{path.relative_to(root)}: {marker}" for marker, text in wanted if text in content]
    return found


def deliver_marked(chain: Chain, *defects: str) -> Path:
    case = chain.deliver(
        *defects,
        plan=PLAN,
        layout=Layout.GROUPED,
        patient_id=PATIENT,
        patient_name=NAME,
        patient_birth_date=BIRTH,
    )
    study = case.folder
    old = study.name
    for number, path in enumerate(sorted(study.glob("RP*.dcm"))):
        plan = pydicom.dcmread(path)
        plan.ReferringPhysicianName = plan.OperatorsName = PHYSICIAN
        plan.AccessionNumber, plan.StudyInstanceUID = ACCESSION, STUDY
        plan.SOPInstanceUID = SOP + ("1" if number else "")
        plan.file_meta.MediaStorageSOPInstanceUID = plan.SOPInstanceUID
        plan.RTPlanDescription = plan.StudyDescription = f"{NAME} {PATIENT}"
        path.unlink()
        plan.save_as(study / f"RP.{plan.SOPInstanceUID}.dcm", enforce_file_format=True)
    for path in study.rglob("PlanInfo.txt"):
        path.write_text(path.read_text().replace(old, STUDY))
    return study.rename(study.with_name(STUDY))


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        # Those of engines and site commands take seconds each: one of them here, all in `make test-all`.
        pytest.param(kind, name, marks=() if kind in QUICK or name == "crash-text" else (pytest.mark.slow,))
        for kind, name in SITUATIONS
    ],
    ids=lambda value: value or "all",
)
def test_the_markers_stand_nowhere_else(
    kind: str,
    name: str,
    tmp_path: Path,
    disk_instance: dg.DagsterInstance,
    capfd: pytest.CaptureFixture[str],
) -> None:
    mode = tmp_path / "mode"
    mode.write_text(name if kind == "engine" else "good")
    settings = {"engine": faulty_engine(mode) if kind == "engine" else quick_engine()}
    settings |= interpreter(name) if kind == "interpreter" else {}
    settings |= converter(name) if kind == "converter" else {}
    settings["handover"] = {"raw_dose": True, "tps_file": True, "csv": True}
    chain = Chain(tmp_path / "site", settings, instance=disk_instance)
    deliver_marked(chain, *([INPUT_FAULTS[name][0]] if kind == "input" else []))

    chain.tick("case_arrivals")
    requests = chain.tick("beams_to_simulate", launch=kind == "success")
    if kind == "success":
        chain.tick("cases_to_conclude")
        assert [job for job, _, _ in chain.runs] == ["intake", "beam", "beam", "conclusion"]
        assert all(outcome.success for _, _, outcome in chain.runs)
        (dose, *_) = chain.handover.rglob("rt_dose.dcm")
        assert pydicom.dcmread(dose).PatientID == PATIENT
    else:
        for request in requests[:1]:
            chain.run("beam", str(request.partition_key), dict(request.tags))
        assert not chain.runs[-1][2].success

    said = "".join(capfd.readouterr())
    (tmp_path / "said").write_text(said)
    assert said
    assert list(tmp_path.rglob("*.db"))
    assert places_of_markers(tmp_path, chain) == []
    for record in disk_instance.get_run_records():
        tags = str(record.dagster_run.tags)
        assert not any(text.decode("latin-1") in tags for _, text in patterns(utf16=False))


def test_the_search_itself_finds_what_is_hidden(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    (tmp_path / "site" / "a.log").write_bytes(b"xx" + base64.b64encode(f"a{PATIENT}b".encode()))
    (tmp_path / "site" / "b.log").write_bytes(STUDY.encode("utf-16-le"))
    (tmp_path / "site" / f"{ACCESSION}.txt").write_text("x")
    assert len(places_of_markers(tmp_path, chain)) >= 3

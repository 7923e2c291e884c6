"""A name that names the patient is found however it is written, and other names are left alone."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from mqi_dagster.plan.identifiers import identity_of
from mqi_dagster.plan.identity import Identity
from tests.chain.chain import ONE_BEAM, Chain


def patient() -> Identity:
    plan = Dataset()
    plan.SpecificCharacterSet = "ISO_IR 192"
    plan.PatientID = "00-123 45A"
    plan.OtherPatientIDs = ["0004711"]
    plan.PatientName = "Müller-Lüdenscheidt^Jörg=洪^吉洞=홍^길동"
    plan.PatientBirthDate = "19790412"
    return identity_of(plan)


@pytest.mark.parametrize(
    ("told", "what"),
    [
        ("00-123 45A", "ID"),
        ("qa_0012345a_left", "ID"),
        ("0012-345a", "ID"),
        ("plan of 4711", "ID"),
        ("00004711", "ID"),
        ("4 711 TX", "ID"),
        ("\uff14\uff17\uff11\uff11", "ID"),
        ("MULLER LUDENSCHEIDT", "name"),
        ("mu\u0308ller_tx", "name"),
        ("JORG-1", "name"),
        ("Lüdenscheidt", "name"),
        ("fx1-홍길동", "name"),
        ("x-길동", "name"),
        ("洪吉洞", "name"),
        ("19790412", "birth date"),
        ("qa12041979", "birth date"),
        ("12-04-1979", "birth date"),
        ("4/12/79", "birth date"),
        ("12.4.1979", "birth date"),
        ("1979 04 12", "birth date"),
        ("790412", "birth date"),
        ("b-120479-x", "birth date"),
        ("04121979", "birth date"),
    ],
)
def test_a_name_that_names_the_patient_is_found(told: str, what: str) -> None:
    assert patient().named_in(told) == what


@pytest.mark.parametrize(
    "told",
    [
        "",
        "1G180:TX",
        "QA-2026.01",
        "5790412",
        "14711 of 47110",
        "2026041279000000",
        "12-04-1980",
        "Field 3",
        "이동",
        "Jo",
    ],
)
def test_other_names_are_left_alone(told: str) -> None:
    assert patient().named_in(told) is None


@pytest.mark.parametrize(
    ("name", "told", "is_named"),
    [
        ("Ann", "planned QA", False),
        ("Ann", "QA Ann 1", True),
        ("Lee", "sleeve_2", False),
        ("Park", "sparkle", False),
        ("Park", "1A_parkTX", True),
        ("Grant", "fragrances", False),
        ("Sullivan", "xsullivany", True),
    ],
)
def test_a_short_name_inside_an_ordinary_word_is_there_by_chance(
    name: str, told: str, is_named: bool
) -> None:
    assert Identity(names=(name,)).named_in(told) == ("name" if is_named else None)


def test_a_patient_of_whom_nothing_is_known_is_named_nowhere() -> None:
    assert identity_of(Dataset()).named_in("19790412 anything") is None
    assert Identity(("1",), ("a",), "x").named_in("none of it b") is None


@pytest.mark.parametrize(
    ("keyword", "value", "role"),
    [
        ("BeamName", "QA 12-04-1979", "name"),
        ("BeamDescription", "for synth-001", "description"),
        ("TreatmentMachineName", "SYNTH_001", "machine name"),
    ],
)
def test_a_plan_whose_names_hold_identity_is_refused_at_intake_and_nothing_is_written(
    tmp_path: Path, keyword: str, value: str, role: str
) -> None:
    chain = Chain(tmp_path / "site")
    case = chain.deliver(
        plan=ONE_BEAM,
        patient_id="SYNTH001",
        patient_birth_date="19790412",
    )
    (path,) = case.folder.rglob("RP*.dcm")
    plan = pydicom.dcmread(path)
    for beam in plan.IonBeamSequence:
        if beam.TreatmentDeliveryType == "TREATMENT":
            setattr(beam, keyword, value)
    plan.save_as(path)

    chain.tick_sensors()
    (outcome,) = [outcome for job, _, outcome in chain.runs if job == "intake"]
    assert (outcome.success, outcome.code) == (False, "privacy")
    assert f"the {role} of beam 2 holds the patient's" in outcome.error
    assert value not in outcome.error
    assert chain.runs_of("beam") == [] and chain.assets_in_store() == []

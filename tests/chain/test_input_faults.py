"""A fault of the input ends the intake in sight: named, without a trace in the store, and no beam starts."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from mqi_dagster.engine_contract import view
from mqi_dagster.plan import positions
from tests.chain.chain import Chain, deliver

FAULTS = {
    "truncated record": (
        "truncated:beam=3,layer=2",
        "delivery 2, layer 2, record: ",
        "16-byte rows",
    ),
    "missing layer": ("missing-layer:beam=2,layer=1", "delivery 1, layer 1, record: ", "is missing"),
    "other energy": ("energy-row:beam=3,layer=2,mev=3", "delivery 2, layer 2, PlanRange: ", "MeV"),
    "range code 6": ("range-code:beam=2,layer=2,code=6", "delivery 1, layer 2, PlanRange: ", "range code 6"),
    "unknown machine": ("unknown-machine:name=G3", "RT plan: ", "beam 2: machine G3 is unknown"),
    "wrong patient": (
        "wrong-patient:beam=3",
        "delivery 2, PlanInfo: ",
        "its patient ID differs",
    ),
    "two plans": ("two-plans", "RT plan: ", "2 RT plans are in the case folder"),
    "absent beam": ("fraction-group:beam=3", "beam 99, RT plan: ", "fraction group refers to beam 99"),
    "foreign layer": ("foreign-layer:beam=2,layer=2", "delivery 1, layer 2, record: ", "of another delivery"),
}
"""Defect, place and reason that the error names; beam 2 is delivery 1, beam 3 delivery 2."""


@pytest.mark.parametrize("name", FAULTS)
def test_an_input_fault_fails_the_intake_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    defect, place, reason = FAULTS[name]
    chain = Chain(tmp_path / "site")
    chain.deliver(defect)

    (request,) = chain.tick("case_arrivals")
    ((job, case, outcome),) = chain.runs

    assert (job, case) == ("intake", request.partition_key)
    assert not outcome.success
    assert outcome.error.startswith(f"case {case}, {place}")
    assert reason in outcome.error
    assert outcome.code in ("delivery", "plan", "unknown-machine")
    assert chain.assets_in_store() == []
    assert [path for path in (chain.data / "cases").rglob("*") if path.is_file()] == []
    assert chain.leftovers() == []
    assert chain.handed_over_files() == []

    chain.tick_sensors(rounds=2)
    assert chain.runs_of("beam") == []
    assert len(chain.runs) == 1
    assert chain.engine_starts() == 0


def test_range_codes_1_and_3_give_the_monitor_units_of_code_2(tmp_path: Path) -> None:
    plain = Chain(tmp_path / "plain", given=deliver(tmp_path / "a").folder)
    other = Chain(
        tmp_path / "other",
        given=deliver(
            tmp_path / "b", "range-code:beam=2,layer=1,code=1", "range-code:beam=2,layer=2,code=3"
        ).folder,
    )
    for chain in (plain, other):
        case, outcome = chain.run_intake()
        assert outcome.success
        assert chain.run_beams(case, [2])[0].success

    key = f"{case}__b02"
    expected, found = plain.metadata("interpreted_csvs", key), other.metadata("interpreted_csvs", key)
    assert [record["range code"] for record in found["layer table"]] == ["1", "3"]
    assert [record["range code"] for record in expected["layer table"]] == ["2", "2"]
    assert found["delivered MU"] == pytest.approx(expected["delivered MU"], rel=2e-4)
    assert found["MU ratio"] == pytest.approx(0.988, abs=1e-3)
    assert other.metadata("raw_dose", key)["protons"] == pytest.approx(
        plain.metadata("raw_dose", key)["protons"], rel=2e-4
    )


def test_a_dose_that_earlier_code_computed_for_a_patient_in_another_position_is_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = deliver(tmp_path / "in").folder
    (path,) = given.rglob("RP*.dcm")
    plan = pydicom.dcmread(path)
    for setup in plan.PatientSetupSequence:
        setup.PatientPosition = "FFS"
    plan.save_as(path)
    chain = Chain(tmp_path / "site", given=given)
    with monkeypatch.context() as earlier:
        earlier.setattr(positions, "beam_position_fault", lambda beam, in_images: "")
        earlier.setattr(view, "beam_position_fault", lambda beam, in_images: "")
        case, intake = chain.run_intake()
        assert intake.success, intake.error
        assert chain.run_beams(case, [2])[0].success
    (again,) = chain.run_beams(case, [2])
    assert not again.success
    assert "is treated in patient position FFS" in again.error
    assert chain.engine_starts() == 1

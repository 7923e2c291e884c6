"""How the patient lies: each beam's own setup, told by its number."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from mqi_dagster.errors import PlanError
from mqi_dagster.plan.positions import plan_position_faults
from mqi_dagster.plan.reading import read_ion_plan

Save = Callable[..., Path]


def setups(plan: Dataset, *positions: str, **referred: int) -> None:
    """Patient setups 1, 2, … in these positions; ``beam2=1`` lets beam 2 refer to the first."""
    items = []
    for number, position in enumerate(positions, start=1):
        item = Dataset()
        item.PatientSetupNumber, item.PatientPosition = number, position
        items.append(item)
    plan.PatientSetupSequence = Sequence(items)
    for beam in plan.IonBeamSequence:
        if f"beam{beam.BeamNumber}" in referred:
            beam.ReferencedPatientSetupNumber = referred[f"beam{beam.BeamNumber}"]


def positions(path: Path) -> dict[int, str]:
    return {beam.number: beam.patient_position for beam in read_ion_plan(path).beams}


def test_each_beam_has_the_position_of_its_own_setup(mosaiq: Dataset, saved: Save) -> None:
    setups(mosaiq, "FFS", "HFS", beam2=2, beam3=1)
    path = saved(mosaiq)
    assert positions(path) == {3: "FFS", 2: "HFS"}
    (error,) = plan_position_faults(read_ion_plan(path), in_images=False)
    assert str(error) == (
        "RT plan: beam 3 is treated in patient position FFS; only head first supine (HFS) is supported"
    )


@pytest.mark.parametrize("position", ["HFP", "FFP", "FFS", "HFDR", "HFDL", "FFDR", "FFDL", "SITTING"])
def test_every_position_but_one_is_refused_by_name(mosaiq: Dataset, saved: Save, position: str) -> None:
    setups(mosaiq, position)
    found = plan_position_faults(read_ion_plan(saved(mosaiq)), in_images=False)
    words = position if len(position) < 7 else "of another kind"
    assert [re.search(r"position ([\w ]+);", str(error)).group(1) for error in found] == [words, words]  # type: ignore[union-attr]


def test_a_plan_that_says_nothing_may_be_simulated_in_water_alone(mosaiq: Dataset, saved: Save) -> None:
    plan = read_ion_plan(saved(mosaiq))
    assert {beam.patient_position for beam in plan.beams} == {""}
    assert plan_position_faults(plan, in_images=False) == ()
    found = plan_position_faults(plan, in_images=True)
    assert [error.message[:6] for error in found] == ["beam 3", "beam 2"]
    assert "does not say how the patient lies" in found[0].message


def test_a_position_that_is_described_in_words_is_not_taken_for_none(mosaiq: Dataset, saved: Save) -> None:
    setups(mosaiq, "")
    mosaiq.PatientSetupSequence[0].PatientAdditionalPosition = "FAMMARK leans to the left"
    found = plan_position_faults(read_ion_plan(saved(mosaiq)), in_images=False)
    assert len(found) == 2
    assert "MARK" not in str(found[0])


def doubled(plan: Dataset) -> None:
    setups(plan, "HFS", "HFS")
    plan.PatientSetupSequence[1].PatientSetupNumber = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: setups(p, "HFS", beam2=7),
            "beam 2.*refers to patient setup 7, which",
        ),
        (lambda p: setups(p, beam2=1), "beam 2.*refers to patient setup 1, which the plan does not have"),
        (lambda p: setups(p, "HFS", "HFP"), "does not say in which of several patient setups it is treated"),
        (doubled, "patient setup 1 stands in the plan twice"),
    ],
    ids=["unknown", "none there", "which", "doubled"],
)
def test_a_setup_that_contradicts_the_plan_is_refused(
    mosaiq: Dataset, saved: Save, change: Callable[[Dataset], None], message: str
) -> None:
    change(mosaiq)
    with pytest.raises(PlanError) as caught:
        read_ion_plan(saved(mosaiq))
    assert re.search(message, str(caught.value))


def test_several_setups_in_one_position_need_no_reference(mosaiq: Dataset, saved: Save) -> None:
    setups(mosaiq, "HFS", "HFS")
    assert positions(saved(mosaiq)) == {3: "HFS", 2: "HFS"}

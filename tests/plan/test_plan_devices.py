"""Every device that a plan may put into a beam is modelled, refused, or named as left out of the dose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from mqi_dagster.errors import PlanError
from mqi_dagster.plan.reading import read_ion_plan
from mqi_dagster.plan.reduced import write_reduced_plan

Save = Callable[..., Path]


def beam(plan: Dataset) -> Dataset:
    """Beam 3."""
    return next(item for item in plan.IonBeamSequence if item.BeamNumber == 3)


def item(**values: object) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def magnets(plan: Dataset) -> None:
    """The scanning magnets, as RayStation and Eclipse export them."""
    beam(plan).NumberOfLateralSpreadingDevices = 2
    beam(plan).LateralSpreadingDeviceSequence = Sequence(
        item(
            LateralSpreadingDeviceNumber=number,
            LateralSpreadingDeviceID=name,
            LateralSpreadingDeviceType="MAGNET",
        )
        for number, name in ((1, "MagnetX"), (2, "MagnetY"))
    )


COUNTS = {
    "NumberOfWedges": "says 1 wedges, but describes 0",
    "NumberOfCompensators": "says 1 range compensators, but describes 0",
    "NumberOfBoli": "says 1 boli, but describes 0",
    "NumberOfBlocks": "says 1 blocks, but describes 0",
    "NumberOfRangeShifters": "says 1 range shifters, but describes 0",
    "NumberOfLateralSpreadingDevices": "says 1 lateral spreading devices, but describes 0",
    "NumberOfRangeModulators": "says 1 range modulators, but describes 0",
}

SEQUENCES: dict[str, tuple[dict[str, Any], str]] = {
    "IonWedgeSequence": ({}, "has a wedge, which is not supported"),
    "IonRangeCompensatorSequence": ({}, "has a range compensator, which is not supported"),
    "RangeModulatorSequence": ({}, "has a range modulator, which is not supported"),
    "ReferencedBolusSequence": ({"ReferencedROINumber": 5}, "has a bolus, which is not supported"),
    "ApplicatorSequence": ({}, "has an applicator, which is not supported"),
    "EnhancedRTBeamLimitingDeviceSequence": ({}, "has an enhanced beam limiting device"),
    "LateralSpreadingDeviceSequence": (
        {"LateralSpreadingDeviceType": "SCATTERER"},
        "has a lateral spreading device that is no magnet",
    ),
    "IonBeamLimitingDeviceSequence": (
        {"RTBeamLimitingDeviceType": "IRIS"},
        "has a beam limiting device of an unknown type",
    ),
}


def refusal(plan: Dataset, saved: Save) -> str:
    with pytest.raises(PlanError) as caught:
        read_ion_plan(saved(plan))
    assert caught.value.where.beam == "3"
    return caught.value.message


@pytest.mark.parametrize("keyword", COUNTS)
def test_a_device_that_is_counted_and_not_described_is_refused(
    mosaiq: Dataset, saved: Save, keyword: str
) -> None:
    setattr(beam(mosaiq), keyword, 1)
    assert refusal(mosaiq, saved) == COUNTS[keyword]


@pytest.mark.parametrize("keyword", SEQUENCES)
def test_a_device_that_changes_the_dose_is_refused(mosaiq: Dataset, saved: Save, keyword: str) -> None:
    values, message = SEQUENCES[keyword]
    setattr(beam(mosaiq), keyword, Sequence([item(**values)]))
    assert refusal(mosaiq, saved).startswith(message)


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("IonWedgePositionSequence", "has a wedge, which is not supported"),
        ("RangeModulatorSettingsSequence", "has a range modulator, which is not supported"),
    ],
)
def test_a_device_that_only_a_control_point_sets_is_refused(
    mosaiq: Dataset, saved: Save, keyword: str, message: str
) -> None:
    setattr(beam(mosaiq).IonControlPointSequence[0], keyword, Sequence([item()]))
    assert refusal(mosaiq, saved) == message


@pytest.mark.parametrize("tray", ["Wedge", "Compensator", "Block"])
def test_a_tray_that_takes_from_the_range_is_refused(mosaiq: Dataset, saved: Save, tray: str) -> None:
    setattr(beam(mosaiq), f"Total{tray}TrayWaterEquivalentThickness", 2.5)
    assert refusal(mosaiq, saved) == "has a tray that takes from the range, which is not supported"


def test_a_patient_who_sits_is_refused(mosaiq: Dataset, saved: Save) -> None:
    beam(mosaiq).PatientSupportType = "CHAIR"
    assert refusal(mosaiq, saved) == "has a patient support that is no table, which is not supported"


def test_scanning_magnets_are_no_device_in_the_way(mosaiq: Dataset, saved: Save) -> None:
    magnets(mosaiq)
    path = saved(mosaiq)
    assert read_ion_plan(path).beam(3).not_simulated == ()
    write_reduced_plan(path, path.with_name("reduced.dcm"), 3)
    # The magnets' names stay behind, and their count with them: what remains agrees with itself.
    assert (
        pydicom.dcmread(path.with_name("reduced.dcm")).IonBeamSequence[0].NumberOfLateralSpreadingDevices == 0
    )
    assert read_ion_plan(path.with_name("reduced.dcm")).beam(3).layers


def test_what_is_left_out_of_the_dose_is_named(mosaiq: Dataset, saved: Save) -> None:
    beam(mosaiq).NumberOfBlocks = 1
    beam(mosaiq).IonBlockSequence = Sequence(
        [item(BlockNumber=1, BlockThickness=65, BlockNumberOfPoints=3, BlockData=[0, 0, 10, 0, 0, 10])]
    )
    beam(mosaiq).IonBeamLimitingDeviceSequence = Sequence(
        [item(RTBeamLimitingDeviceType=kind, NumberOfLeafJawPairs=1) for kind in ("ASYMX", "Y")]
    )
    beam(mosaiq).GeneralAccessorySequence = Sequence([item(GeneralAccessoryID="TRAY")])
    plan = read_ion_plan(saved(mosaiq))
    assert plan.beam(3).not_simulated == ("block", "jaws", "general accessory")
    assert plan.beam(2).not_simulated == ()


def test_a_sequence_that_nobody_knows_here_is_named_as_well(mosaiq: Dataset, saved: Save) -> None:
    beam(mosaiq).ToleranceTableSequence = Sequence([item(ToleranceTableNumber=1)])
    assert read_ion_plan(saved(mosaiq)).beam(3).not_simulated == ("tolerance table",)

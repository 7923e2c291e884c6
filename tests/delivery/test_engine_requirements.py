"""What the engine of the site would refuse is refused when the case is taken in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from mqi_dagster.delivery.validation import check_case
from mqi_dagster.machine import Machine, Machines
from mqi_dagster.plan.model import PlanBeam, PlanRangeShifter
from mqi_dagster.plan.reading import read_ion_plan
from mqi_dagster.plan.requirements import beam_faults
from mqi_dagster.settings import EngineProfile
from mqi_dagster.settings.engine_profiles import built_in_profiles
from mqi_dagster.synthetic.delivery import SimulatedCase, simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest
from tests.delivery.delivery_cases import surveyed

EMBEDDED, MOQUI = built_in_profiles()["embedded"], built_in_profiles()["moqui"]


@pytest.fixture
def g2(machines: Machines) -> Machine:
    return machines.named("G2")


@pytest.fixture
def made(g2: Machine, tmp_path: Path) -> SimulatedCase:
    """One beam of one layer on G2, in the range shifter of its snout."""
    plan = BuiltInPlan(
        beams=1, layers=1, spots=4, layer_seconds=0.05, range_shifter=next(iter(g2.range_shifters))
    )
    return simulate_delivery(DeliveryRequest(plan=plan), g2, tmp_path / "inbox")


def faults(made: SimulatedCase, machines: Machines, profile: EngineProfile | None) -> list[str]:
    check = check_case(surveyed(made.folder), machines, profile)
    return [finding.message for finding in check.findings if finding.severity.value == "error"]


def planned(made: SimulatedCase) -> PlanBeam:
    return read_ion_plan(made.plan_path).beams[0]


def test_two_range_shifters_are_refused_at_intake_for_every_engine(
    made: SimulatedCase, machines: Machines
) -> None:
    assert faults(made, machines, None) == []
    plan = pydicom.dcmread(made.plan_path)
    beam = plan.IonBeamSequence[1]
    other = Dataset()
    other.update(beam.RangeShifterSequence[0])
    other.RangeShifterNumber = 7
    beam.RangeShifterSequence = Sequence([beam.RangeShifterSequence[0], other])
    beam.NumberOfRangeShifters = 2
    for point in beam.IonControlPointSequence:
        if "RangeShifterSettingsSequence" in point:
            del point.RangeShifterSettingsSequence
    plan.save_as(made.plan_path, enforce_file_format=True)
    for profile in (None, EMBEDDED, MOQUI):
        assert faults(made, machines, profile) == ["beam 2: has more than one range shifter in the beam"]


def test_an_energy_outside_the_beam_model_is_refused_where_the_engine_reads_it(
    made: SimulatedCase, g2: Machine
) -> None:
    beam = planned(made)
    (layer,) = beam.layers
    high = replace(beam, layers=(replace(layer, energy_mev=400.0),))
    (fault,) = beam_faults(high, g2, beam_model=EMBEDDED.reads_beam_model, in_images=False)
    assert fault.startswith("energy 400 MeV lies outside mean_energy_mev of the beam model")
    assert beam_faults(high, g2, beam_model=MOQUI.reads_beam_model, in_images=False) == ()
    assert beam_faults(beam, g2, beam_model=EMBEDDED.reads_beam_model, in_images=True) == ()


def test_a_range_shifter_has_the_thickness_of_the_machine_file_and_stands_before_the_patient(
    made: SimulatedCase, g2: Machine
) -> None:
    beam = planned(made)
    name = beam.range_shifters[0].shifter_id
    thickness = g2.range_shifters[name].water_equivalent_thickness_mm
    thicker = replace(beam, range_shifters=(PlanRangeShifter(1, name, 100.0, thickness + 1.5),))
    assert beam_faults(thicker, g2, beam_model=True, in_images=False) == (
        f"has a range shifter {name} of {thickness + 1.5:g} mm of water in the plan"
        f" and {thickness:g} mm in the machine file",
    )
    behind = replace(beam, range_shifters=(PlanRangeShifter(1, name, -5.0, None),))
    assert beam_faults(behind, g2, beam_model=True, in_images=False) == (
        "has a range shifter that lies 5 mm behind the isocentre",
    )
    assert beam_faults(behind, g2, beam_model=MOQUI.reads_beam_model, in_images=False) == ()


def test_a_tilted_table_is_refused_in_images_and_taken_in_water(made: SimulatedCase, g2: Machine) -> None:
    tilted = replace(planned(made), tilt_deg=0.5)
    (fault,) = beam_faults(tilted, g2, beam_model=EMBEDDED.reads_beam_model, in_images=True)
    assert fault.startswith("table or gantry is pitched or rolled by 0.5 degrees")
    assert beam_faults(tilted, g2, beam_model=EMBEDDED.reads_beam_model, in_images=False) == ()


@pytest.mark.parametrize("name", ["1/2 left", "-A", ".B"])
def test_a_name_that_cannot_name_files_fails_no_case(
    made: SimulatedCase, machines: Machines, name: str
) -> None:
    plan = pydicom.dcmread(made.plan_path)
    plan.IonBeamSequence[1].BeamName = name
    plan.save_as(made.plan_path, enforce_file_format=True)
    assert faults(made, machines, EMBEDDED) == []

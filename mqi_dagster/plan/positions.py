"""How the patient lies in each beam: the Patient Setup Sequence (300A,0180), PS3.3 C.8.8.12."""

from __future__ import annotations

from pydicom.dataset import Dataset

from mqi_dagster.dicom.ct_images import HANDLED_POSITION, position_name
from mqi_dagster.errors import PlanError, Where
from mqi_dagster.plan.elements import KIND, integer, items, optional_integer, refuse, text
from mqi_dagster.plan.model import IonPlan, PlanBeam


def patient_setups(plan: Dataset) -> dict[int, Dataset]:
    """The patient setups of a plan by Patient Setup Number.

    Raises:
        PlanError: A number is missing or stands twice.
    """
    setups: dict[int, Dataset] = {}
    for setup in items(plan, "PatientSetupSequence"):
        number = integer(setup, "PatientSetupNumber")
        if number in setups:
            refuse(f"patient setup {number} stands in the plan twice")
        setups[number] = setup
    return setups


def setup_of(beam: Dataset, number_of_beam: int, setups: dict[int, Dataset]) -> Dataset | None:
    """The patient setup that a beam refers to, or the only one; None where the plan has none.

    Several setups in the same position are as good as one for a beam that refers to none.

    Raises:
        PlanError: It refers to a setup that is not there, or does not say to which of several.
    """
    referred = optional_integer(beam, "ReferencedPatientSetupNumber", number_of_beam)
    if referred is not None and (setups or referred):
        if referred not in setups:
            refuse(f"refers to patient setup {referred}, which the plan does not have", number_of_beam)
        return setups[referred]
    if len({position_of(setup) for setup in setups.values()}) > 1:
        refuse("does not say in which of several patient setups it is treated", number_of_beam)
    return next(iter(setups.values()), None)


def position_of(setup: Dataset | None) -> str:
    """The patient's position as words; empty where the plan says nothing.

    Patient Additional Position (300A,0184) stands where the position is none of the defined terms.
    """
    if setup is None:
        return ""
    return text(setup, "PatientPosition") or text(setup, "PatientAdditionalPosition")


def plan_position_faults(plan: IonPlan, *, in_images: bool) -> tuple[PlanError, ...]:
    """Why no dose of the plan's beams can be simulated for the position they are treated in.

    Angles and axes are proven for one position; in any other the beam would come from the wrong side.

    Args:
        plan: The plan.
        in_images: Whether the dose is simulated in images, for which the plan has to state a position.
    """
    errors = []
    for beam in plan.beams:
        fault = beam_position_fault(beam, in_images=in_images)
        if fault:
            errors.append(PlanError(f"beam {beam.number} {fault}", where=Where(kind=KIND)))
    return tuple(errors)


def beam_position_fault(beam: PlanBeam, *, in_images: bool) -> str:
    """Why a beam's patient position cannot be simulated; empty where it can."""
    if not beam.patient_position:
        return "does not say how the patient lies (Patient Setup Sequence)" if in_images else ""
    if beam.patient_position == HANDLED_POSITION:
        return ""
    return (
        f"is treated in patient position {position_name(beam.patient_position)};"
        f" only head first supine ({HANDLED_POSITION}) is supported"
    )

"""What an engine asks of a beam: asked when a case is taken in, and again by whoever starts the engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mqi_dagster.errors import UnknownMachineError
from mqi_dagster.machine import BeamModel, EnergyTable, Machine, RangeShifter
from mqi_dagster.plan.model import PlanBeam

TILT_TOLERANCE_DEG = 0.05
THICKNESS_TOLERANCE_MM = 1.0


def beam_faults(beam: PlanBeam, machine: Machine, *, beam_model: bool, in_images: bool) -> tuple[str, ...]:
    """Why an engine would refuse a beam; empty where it would not.

    Args:
        beam: The beam.
        machine: Its machine.
        beam_model: Whether the engine reads the beam model of the machine file.
        in_images: Whether the dose is simulated in images.
    """
    faults = [shifter_count_fault(beam)]
    if beam_model:
        faults.append(_shifter_in_model(beam, machine) or "")
        energies = sorted({layer.energy_mev for layer in beam.layers})
        faults.append(energy_fault(machine.beam_model, energies))
        if in_images:
            faults.append(tilt_fault(beam))
    return tuple(fault for fault in faults if fault)


def shifter_count_fault(beam: PlanBeam) -> str:
    """More than one range shifter: forks of moqui take the thickness of the last one for all."""
    return "has more than one range shifter in the beam" if len(beam.range_shifters) > 1 else ""


def _shifter_in_model(beam: PlanBeam, machine: Machine) -> str:
    if len(beam.range_shifters) != 1:
        return ""
    try:
        known = {one.shifter_id: machine.range_shifter(one.shifter_id) for one in beam.range_shifters}
    except UnknownMachineError:
        return ""  # the check of the machine says so
    return shifter_fault(beam, known, machine.range_shifter_offset_mm)


def shifter_fault(beam: PlanBeam, known: Mapping[str, RangeShifter], offset_mm: float) -> str:
    """Why the range shifter of a beam cannot be placed; empty where it can, or where there is none.

    Args:
        beam: The beam, with at most one range shifter.
        known: The machine's range shifters by RangeShifterID, this one among them.
        offset_mm: From the snout position to the side that faces the patient [mm].
    """
    if not beam.range_shifters:
        return ""
    (planned,) = beam.range_shifters
    thickness = known[planned.shifter_id].water_equivalent_thickness_mm
    stated = planned.water_equivalent_thickness_mm
    if stated is not None and abs(stated - thickness) > THICKNESS_TOLERANCE_MM:
        return (
            f"has a range shifter {planned.shifter_id} of {stated:g} mm of water in the plan"
            f" and {thickness:g} mm in the machine file"
        )
    distance = shifter_distance_mm(beam, offset_mm)
    return f"has a range shifter that lies {-distance:g} mm behind the isocentre" if distance < 0 else ""


def shifter_distance_mm(beam: PlanBeam, offset_mm: float) -> float:
    """From the isocentre to the range shifter, by the plan, or else by the snout [mm]."""
    stated = beam.range_shifters[0].isocenter_distance_mm
    return beam.snout_position_mm + offset_mm if stated is None else stated


def energy_fault(model: BeamModel, energies_mev: Iterable[float]) -> str:
    """The first energy that a table of the beam model does not cover; empty where all are covered."""
    tables: dict[str, EnergyTable] = {
        "mean_energy_mev": model.mean_energy_mev,
        "energy_spread_mev": model.energy_spread_mev,
        **model.spot_tables(),
        "protons_per_mu": model.protons_per_mu,
    }
    if model.second_gaussian is not None:
        second = {"weight": model.second_gaussian.weight, **model.second_gaussian.spot_tables()}
        tables |= {f"second_gaussian.{name}": table for name, table in second.items()}
    energies = tuple(energies_mev)
    for name, table in tables.items():
        for energy in energies:
            if not table.covers(energy):
                return (
                    f"energy {energy:g} MeV lies outside {name} of the beam model"
                    f" ({table.energy_mev[0]:g} to {table.energy_mev[-1]:g} MeV)"
                )
    return ""


def tilt_fault(beam: PlanBeam) -> str:
    """Gantry and couch turn; pitch and roll of table or gantry are not simulated."""
    if beam.tilt_deg <= TILT_TOLERANCE_DEG:
        return ""
    return (
        f"table or gantry is pitched or rolled by {beam.tilt_deg:g} degrees, which the engine cannot"
        " simulate in a patient"
    )

"""A generated twin of the real QA delivery: four beams of nine layers of one spot, by the same names.

It guards, on any clone, what the real case guards where that is present: names, times, energies, positions
and sums are the same; rows and single counts are the simulator's own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom

from mqi_dagster.machine import Machine
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.plans import Patient, built_in_plan
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest

STUDY = "1.2.826.0.1.3680043.8.498.11718508086177127965967566896639452400"
FRAME = "1.2.752.243.1.1.20200527162607614.6510.46061"
NINE_SPOTS_MM = [(-50, 50), (0, 50), (50, 50), (50, 0), (0, 0), (-50, 0), (-50, -50), (0, -50), (50, -50)]
ENERGIES_MEV = (110.0, 150.0, 190.0, 230.0)


def write_twin(target: Path, machine: Machine) -> Path:
    """Write the case into an inbox.

    Args:
        target: The folder that becomes an inbox with this case alone; the plan is left beside it.
        machine: The product's machine G2.

    Returns:
        The case's folder.
    """
    plan = target.with_name("plan.dcm")
    qa_plan(machine).save_as(plan, enforce_file_format=True)
    made = simulate_delivery(DeliveryRequest(plan=plan, mu_ratio=0.990), machine, target)
    for index, delivery in enumerate(made.deliveries):
        _number(delivery.folder, str(1_010_000 + index))
    assert made.folder == target / STUDY
    return made.folder


def qa_plan(machine: Machine) -> pydicom.Dataset:
    """The plan: beams 2 to 5, each with its nine spots as layers of one energy."""
    options = BuiltInPlan(beams=4, layers=9, spots=3, energies_mev=ENERGIES_MEV, aperture=False)
    plan = built_in_plan(machine, options, patient=Patient("QA0001", "QA^WATER", "20200501"))
    plan.StudyInstanceUID, plan.FrameOfReferenceUID = STUDY, FRAME
    plan.IonBeamSequence = plan.IonBeamSequence[1:]
    for beam, energy in zip(plan.IonBeamSequence, ENERGIES_MEV, strict=True):
        beam.BeamName = beam.BeamDescription = f"{beam.BeamNumber}S{energy:.0f}"
        beam.FinalCumulativeMetersetWeight = "9"
        for index, point in enumerate(beam.IonControlPointSequence):
            point.NominalBeamEnergy = f"{energy:g}"
            point.CumulativeMetersetWeight = str((index + 1) // 2)
            # As the machine's own plans: a spot without weight, and the spot.
            block = point.private_block(0x300B, "IMPAC")
            block[0x92].value = b"2 "
            block[0x94].value = np.array([NINE_SPOTS_MM[index // 2]] * 2, "<f4").tobytes()
            block[0x96].value = np.array([0.0, 1.0 - index % 2], "<f4").tobytes()
    for reference in plan.FractionGroupSequence[0].ReferencedBeamSequence:
        reference.BeamMeterset = "9"
    return plan


def _number(folder: Path, number: str) -> None:
    """Give the records of a delivery the running number that the machine gave."""
    (first, *_) = sorted(folder.glob("*.ptn"))
    old = first.name.split("_")[1]
    for path in sorted(folder.iterdir()):
        if path.suffix == ".txt":
            path.write_text(path.read_text().replace(old, number))
        path.rename(folder / path.name.replace(f"_{old}_", f"_{number}_"))

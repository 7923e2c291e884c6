"""Plans as planning systems of other vendors export them: made in code, and real where those are present.

Standard scan spot maps, spot scanning, no setup beam; Eclipse's weights are of another unit than its MU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from mqi_dagster.machine import Machine
from mqi_dagster.synthetic.plans import Patient, built_in_plan
from mqi_dagster.synthetic.request import BuiltInPlan


@dataclass(frozen=True)
class Vendor:
    """What is particular about a plan."""

    machine: str
    layers: int
    spots: int
    """Of a whole beam."""
    gantry_deg: tuple[float, ...] = (0.0,)
    unit: float = 1.0
    """Meterset weight of one MU."""
    range_shifter: str | None = None

    @property
    def beams(self) -> list[int]:
        """BeamNumbers."""
        return [1 + index for index in range(len(self.gantry_deg))]


TWINS = {
    "eclipse": Vendor("TR2", 1, 40, unit=0.1172273),
    "raystation_opposed": Vendor("TR3", 2, 80, gantry_deg=(90.0, 270.0)),
    "raystation_shifter": Vendor("TR3", 3, 120, range_shifter="RS_3CM"),
}
REAL = {
    "eclipse_mono_323_spots": Vendor("TR2", 1, 323, unit=0.1172273),
    "eclipse_sobp_3468_spots": Vendor("TR2", 12, 3468),
    "raystation_ramp_2_beams": Vendor("TR3", 17, 7708, gantry_deg=(90.0, 270.0)),
    "raystation_sobp5_7912_spots": Vendor("TR3", 27, 7912, range_shifter="RS_3CM"),
}
EVERY = [
    *(pytest.param(name, vendor, id=name) for name, vendor in TWINS.items()),
    *(pytest.param(name, vendor, id=name, marks=pytest.mark.slow) for name, vendor in REAL.items()),
]
"""For ``parametrize(("vendor_plan", "vendor"), EVERY, indirect=["vendor_plan"])``: the twins in the default
suite, the real plans as well in the slow one."""


def write_twin(target: Path, name: str, machine: Machine) -> Path:
    """Write a plan made in code.

    Args:
        target: The file.
        name: A key of TWINS.
        machine: The product's generic machine.
    """
    vendor = TWINS[name]
    options = BuiltInPlan(
        beams=len(vendor.gantry_deg),
        layers=vendor.layers,
        spots=vendor.spots // vendor.layers + 1,
        energies_mev=(150.0,) * len(vendor.gantry_deg),
        gantry_deg=vendor.gantry_deg,
        range_shifter=vendor.range_shifter,
        layer_seconds=0.05,
    )
    plan = built_in_plan(machine, options, patient=Patient("VENDOR7", "FAMMARK^GIVMARK", "19500203"))
    plan.IonBeamSequence = plan.IonBeamSequence[1:]
    references = plan.FractionGroupSequence[0].ReferencedBeamSequence
    for number, beam, reference in zip(vendor.beams, plan.IonBeamSequence, references, strict=True):
        beam.BeamNumber = reference.ReferencedBeamNumber = number
        beam.BeamName = beam.BeamDescription = f"b{number}"
        beam.TreatmentMachineName = vendor.machine
        beam.ScanMode = "MODULATED"
        reference.BeamMeterset = f"{float(beam.FinalCumulativeMetersetWeight):.10g}"
        beam.FinalCumulativeMetersetWeight = _scaled(beam.FinalCumulativeMetersetWeight, vendor.unit)
        for point in beam.IonControlPointSequence:
            _with_standard_map(point, vendor.unit)
    plan.save_as(target, enforce_file_format=True)
    return target


def _scaled(weight: object, unit: float) -> str:
    return f"{float(str(weight)) * unit:.12g}"


def _with_standard_map(point: Dataset, unit: float) -> None:
    """Put the private spot map of a control point into the standard one."""
    block = point.private_block(0x300B, "IMPAC")
    positions, weights = (np.frombuffer(block[element].value, "<f4") for element in (0x94, 0x96))
    # The first spot of the machine's own plans has no weight: vendors have none such.
    point.ScanSpotPositionMap = positions[2:].tolist()
    point.ScanSpotMetersetWeights = (weights[1:] * unit).tolist()
    point.NumberOfScanSpotPositions = len(weights) - 1
    point.CumulativeMetersetWeight = _scaled(point.CumulativeMetersetWeight, unit)
    for element in [element for element in point if element.tag.group == 0x300B]:
        del point[element.tag]

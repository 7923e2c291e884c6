"""An RT Ion Plan as plain values, in the terms of DICOM PS3.3 C.8.8.25."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.plan.identity import UNKNOWN, Identity

Floats = NDArray[np.float64]


class ScanMode(StrEnum):
    """How the beam gives a layer its monitor units: Scan Mode (300A,0308)."""

    LINE = "LINE"
    """Along the line that leads to each spot, without a stop: MOSAIQ's term for line scanning."""
    MODULATED = "MODULATED"
    """At each spot, where the beam stands still; nothing on the way between them."""


@dataclass(frozen=True, slots=True)
class PlanLayer:
    """One energy layer: a control point that scans spots, and the one that closes its meterset."""

    number: int
    """1-based number of the layer in its beam; the machine's LAYER_NO."""
    control_point_index: int
    energy_mev: float
    meterset_mu: float
    """Monitor units of the layer."""
    positions_mm: Floats
    """Shape (n, 2): x, y of the spots at the isocentre plane, IEC gantry axes [mm]."""
    spot_mu: Floats
    """Shape (n,): monitor units of each spot; sums to ``meterset_mu``."""


@dataclass(frozen=True, slots=True)
class PlanRangeShifter:
    """A range shifter of a beam, with the setting of its first control point."""

    number: int
    shifter_id: str
    isocenter_distance_mm: float | None
    water_equivalent_thickness_mm: float | None


@dataclass(frozen=True, slots=True)
class Block:
    """A patient-specific aperture: the opening's outline."""

    number: int
    thickness_mm: float
    material: str
    outline_mm: Floats
    """Shape (n, 2): x, y [mm], DICOM Block Data."""


@dataclass(frozen=True, slots=True)
class LeafPositions:
    """Leaf positions of one layer."""

    energy_mev: float
    left_mm: Floats
    right_mm: Floats


@dataclass(frozen=True, slots=True)
class MultileafCollimator:
    """A multileaf collimator with the positions of each layer."""

    boundaries_mm: Floats
    """Shape (leaf pairs + 1,)."""
    layers: tuple[LeafPositions, ...]


@dataclass(frozen=True, slots=True)
class PlanBeam:
    """One treatment beam."""

    number: int
    """DICOM BeamNumber."""
    name: str
    description: str
    machine_name: str
    gantry_angle_deg: float
    couch_angle_deg: float
    isocenter_mm: tuple[float, float, float]
    """In the patient's DICOM axes [mm]."""
    snout_position_mm: float
    meterset_mu: float
    """BeamMeterset of the fraction group; the unrounded weights where it is only their rounded copy."""
    range_shifters: tuple[PlanRangeShifter, ...]
    blocks: tuple[Block, ...]
    mlc: MultileafCollimator | None
    layers: tuple[PlanLayer, ...]
    scan_mode: ScanMode
    tilt_deg: float = 0.0
    """Greatest pitch or roll of table top and gantry at any control point, without sign [degrees]."""
    patient_position: str = ""
    """Patient Position (0018,5100) of its patient setup; empty where the plan states none."""
    not_simulated: tuple[str, ...] = ()
    """Devices that the plan describes and no dose takes account of."""

    def layer(self, number: int) -> PlanLayer:
        """The layer of a number; KeyError if the beam has none such."""
        for layer in self.layers:
            if layer.number == number:
                return layer
        raise KeyError(number)


@dataclass(frozen=True, slots=True)
class IonPlan:
    """One RT Ion Plan with its treatment beams; setup beams are not beams here."""

    sop_instance_uid: str
    study_instance_uid: str
    frame_of_reference_uid: str
    patient_id: str
    """Stands nowhere but in memory and the DICOM hand-over."""
    fraction_group_number: int
    beams: tuple[PlanBeam, ...]
    """In the order of the plan; address them by number."""
    setup_beam_numbers: tuple[int, ...]
    identifiers: tuple[str, ...]
    """Every text of the plan that names a person, for scrubbing what engines print."""
    label: str = ""
    """RT Plan Label as it stands there."""
    identity: Identity = UNKNOWN
    """What names must not hold."""

    def beam(self, number: int) -> PlanBeam:
        """The treatment beam of a BeamNumber; KeyError if the plan has none such."""
        for beam in self.beams:
            if beam.number == number:
                return beam
        raise KeyError(number)

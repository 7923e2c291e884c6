"""The simulator's own reading of an RT Ion Plan: what the beams are to deliver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mqi_dagster.errors import PlanError, Where

Floats = NDArray[np.float64]
ROUNDED_COPY_MU = 0.05
"""A BeamMeterset this near to the final weight is its printed rounding, not a scale."""


@dataclass(frozen=True, slots=True)
class SourceLayer:
    """One layer as planned: positions (n, 2) [mm] and monitor units (n,) of its spots."""

    number: int
    energy_mev: float
    positions_mm: Floats
    spot_mu: Floats


@dataclass(frozen=True, slots=True)
class SourceBeam:
    """One treatment beam as planned."""

    number: int
    name: str
    machine_name: str
    isocenter_mm: tuple[float, float, float]
    layers: tuple[SourceLayer, ...]
    stops: bool
    """Whether the beam stands still at each spot (spot scanning), or scans the lines between them."""


def is_setup(beam: Dataset) -> bool:
    """Whether a beam only positions the patient."""
    if str(beam.get("TreatmentDeliveryType") or "").upper() == "SETUP":
        return True
    return str(beam.get("BeamName") or "").strip().upper() in {"SETUP", "SITE SETUP"}


def spot_map(control_point: Dataset) -> tuple[Floats, Floats]:
    """Positions (n, 2) [mm] and weights (n,) of a control point, from IMPAC's or the standard tags.

    Raises:
        PlanError: It has neither, or their lengths differ.
    """
    if "ScanSpotPositionMap" in control_point:
        flat = np.atleast_1d(np.asarray(control_point.ScanSpotPositionMap, dtype=np.float64))
        weights = np.atleast_1d(np.asarray(control_point.ScanSpotMetersetWeights, dtype=np.float64))
    else:
        try:
            block = control_point.private_block(0x300B, "IMPAC")
            flat = _float32(block[0x94].value)
            weights = _float32(block[0x96].value)
        except KeyError as error:
            raise PlanError("a control point has no scan spots", where=Where(kind="RT plan")) from error
    if flat.size != 2 * weights.size:
        raise PlanError(f"{flat.size} coordinates for {weights.size} weights", where=Where(kind="RT plan"))
    return flat.reshape(-1, 2), weights


def _float32(value: object) -> Floats:
    if isinstance(value, bytes):
        return np.frombuffer(value, dtype="<f4").astype(np.float64)
    return np.atleast_1d(np.asarray(value, dtype=np.float64))


def scanning_points(beam: Dataset) -> list[int]:
    """Indices of the control points after which the cumulative meterset rises."""
    weights = [float(cp.CumulativeMetersetWeight or 0.0) for cp in beam.IonControlPointSequence]
    return [i for i in range(len(weights) - 1) if weights[i + 1] > weights[i]]


def source_beams(plan: Dataset) -> list[SourceBeam]:
    """The treatment beams of a plan, in its order.

    Raises:
        PlanError: It has none, or a layer of one cannot be read.
    """
    metersets: dict[int, float] = {
        int(reference.ReferencedBeamNumber): float(reference.get("BeamMeterset") or 0.0)
        for group in plan.get("FractionGroupSequence") or []
        for reference in group.get("ReferencedBeamSequence") or []
    }
    try:
        beams = [
            _source_beam(beam, metersets.get(int(beam.BeamNumber)))
            for beam in plan.get("IonBeamSequence") or []
            if not is_setup(beam)
        ]
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise PlanError(
            "the plan lacks what a delivery needs",
            where=Where(kind="RT plan"),
            first_cause=type(error).__name__,
        ) from error
    if not beams:
        raise PlanError("the plan has no ion treatment beam", where=Where(kind="RT plan"))
    return beams


def _source_beam(beam: Dataset, meterset: float | None) -> SourceBeam:
    points = beam.IonControlPointSequence
    cumulative = [float(cp.CumulativeMetersetWeight or 0.0) for cp in points]
    final = float(beam.get("FinalCumulativeMetersetWeight") or cumulative[-1])
    scale = 1.0
    if meterset and abs(meterset - final) > ROUNDED_COPY_MU + 1e-9:
        scale = meterset / final
    layers: list[SourceLayer] = []
    energies = np.zeros(len(points))
    energy = 0.0
    for i, point in enumerate(points):
        energy = float(point.get("NominalBeamEnergy") or energy)
        energies[i] = energy
    for i in scanning_points(beam):
        positions, weights = spot_map(points[i])
        if weights.sum() <= 0 or energies[i] <= 0:
            raise PlanError(
                "a layer has no weights or no energy", where=Where(kind="RT plan", layer=len(layers) + 1)
            )
        mu = (cumulative[i + 1] - cumulative[i]) * scale
        layers.append(
            SourceLayer(len(layers) + 1, float(energies[i]), positions, weights / weights.sum() * mu)
        )
    x, y, z = (float(v) for v in points[0].get("IsocenterPosition") or (0.0, 0.0, 0.0))
    return SourceBeam(
        int(beam.BeamNumber),
        str(beam.get("BeamName") or ""),
        str(beam.get("TreatmentMachineName") or ""),
        (x, y, z),
        tuple(layers),
        _stops(beam),
    )


def _stops(beam: Dataset) -> bool:
    """Whether the plan asks for spot scanning.

    Raises:
        PlanError: Its scan mode is neither that nor line scanning.
    """
    mode = str(beam.get("ScanMode") or "").upper()
    stationary = str(beam.get("ModulatedScanModeType") or "").upper() == "STATIONARY"
    if mode == "MODULATED" or (mode == "MODULATED_SPEC" and stationary):
        return True
    if mode != "LINE":
        raise PlanError(
            f"scan mode {mode or '(missing)'} cannot be delivered: only LINE, MODULATED, and MODULATED_SPEC"
            " with type STATIONARY",
            where=Where(beam=str(beam.BeamNumber), kind="RT plan"),
        )
    return False

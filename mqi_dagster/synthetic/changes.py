"""Changes to a plan before it is delivered: other identifiers, fewer spots, and the plan's own defects."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from mqi_dagster.errors import ConfigurationError, PlanError, Where
from mqi_dagster.synthetic.defects import DefectKind
from mqi_dagster.synthetic.request import DeliveryRequest
from mqi_dagster.synthetic.source import is_setup, scanning_points, spot_map

ABSENT_BEAM = 99
UNKNOWN_MACHINE = "G3"


def requested_plan(plan: Dataset, request: DeliveryRequest) -> tuple[Dataset, bool]:
    """The plan as it goes into the case, without the defects that the delivery itself must not notice.

    Returns:
        The plan, and whether it differs from the one given.

    Raises:
        PlanError: A limit cannot be applied to it.
    """
    changed = deepcopy(plan)
    touched = False
    for keyword, value in (
        ("PatientID", request.patient_id),
        ("PatientName", request.patient_name),
        ("PatientBirthDate", request.patient_birth_date),
    ):
        if value is not None:
            if not value.isascii():
                changed.SpecificCharacterSet = "ISO_IR 192"
            setattr(changed, keyword, value)
            touched = True
    if request.max_layers is not None or request.max_spots is not None:
        _shorten(changed, request.max_layers, request.max_spots)
        _rename(changed, f"shortened {request.max_layers} {request.max_spots}")
        touched = True
    for defect in request.defects_of(DefectKind.REPLAN):
        _scale_mu(changed, 1.0 + defect.amount("percent") / 100.0)
        _rename(changed, "re-plan", study=True)
        touched = True
    return changed, touched


def broken_plan(plan: Dataset, request: DeliveryRequest) -> tuple[Dataset, bool]:
    """The plan with the defects that only its reader sees, and whether there are any."""
    broken = deepcopy(plan)
    touched = False
    for defect in request.defects_of(DefectKind.UNKNOWN_MACHINE):
        for beam in broken.IonBeamSequence:
            beam.TreatmentMachineName = UNKNOWN_MACHINE if defect.name is None else defect.name
        touched = True
    for defect in request.defects_of(DefectKind.FRACTION_GROUP):
        references = [
            reference
            for group in broken.FractionGroupSequence
            for reference in group.ReferencedBeamSequence
            if int(reference.ReferencedBeamNumber) == defect.beam
        ]
        if not references:
            raise ConfigurationError(f"defect fraction-group: no beam {defect.beam} in the fraction group")
        for reference in references:
            reference.ReferencedBeamNumber = ABSENT_BEAM
        touched = True
    return broken, touched


def second_plan(plan: Dataset) -> Dataset:
    """The plan of the same study under another SOP instance UID."""
    other = deepcopy(plan)
    _rename(other, "second plan")
    return other


def _rename(plan: Dataset, role: str, *, study: bool = False) -> None:
    entropy = [str(plan.SOPInstanceUID), role]
    plan.SOPInstanceUID = generate_uid(entropy_srcs=[*entropy, "plan"])
    plan.file_meta.MediaStorageSOPInstanceUID = plan.SOPInstanceUID
    if study:
        plan.StudyInstanceUID = generate_uid(entropy_srcs=[*entropy, "study"])
        plan.SeriesInstanceUID = generate_uid(entropy_srcs=[*entropy, "series"])


def _scale_mu(plan: Dataset, factor: float) -> None:
    for beam in plan.IonBeamSequence:
        for point in beam.IonControlPointSequence:
            point.CumulativeMetersetWeight = f"{float(point.CumulativeMetersetWeight or 0) * factor:.10g}"
        beam.FinalCumulativeMetersetWeight = (
            f"{float(beam.get('FinalCumulativeMetersetWeight') or 0) * factor:.10g}"
        )
    for group in plan.FractionGroupSequence:
        for reference in group.ReferencedBeamSequence:
            reference.BeamMeterset = f"{float(reference.get('BeamMeterset') or 0) * factor:.10g}"


def _shorten(plan: Dataset, layers: int | None, spots: int | None) -> None:
    """Keep the first layers of each beam and the first spots of each layer; every kept spot keeps its MU."""
    finals: dict[int, tuple[float, float]] = {}
    for beam in plan.IonBeamSequence:
        if is_setup(beam):
            continue
        kept: list[Dataset] = []
        total = 0.0
        points = beam.IonControlPointSequence
        cumulative = [float(cp.CumulativeMetersetWeight or 0.0) for cp in points]
        energy = None
        scanning = scanning_points(beam)[:layers]
        for index, point in enumerate(points):
            energy = point.get("NominalBeamEnergy") or energy
            if index not in scanning:
                continue
            start, end = deepcopy(point), deepcopy(points[index + 1])
            start.NominalBeamEnergy = end.NominalBeamEnergy = energy
            share = _keep_spots(start, spots)
            _keep_spots(end, spots)
            start.CumulativeMetersetWeight = f"{total:.10g}"
            total += (cumulative[index + 1] - cumulative[index]) * share
            end.CumulativeMetersetWeight = f"{total:.10g}"
            kept += [start, end]
        for index, point in enumerate(kept):
            point.ControlPointIndex = index
        finals[int(beam.BeamNumber)] = (
            float(beam.get("FinalCumulativeMetersetWeight") or cumulative[-1]),
            total,
        )
        beam.FinalCumulativeMetersetWeight = f"{total:.10g}"
        beam.NumberOfControlPoints = len(kept)
        beam.IonControlPointSequence = Sequence(kept)
    for group in plan.FractionGroupSequence:
        for reference in group.ReferencedBeamSequence:
            before, after = finals.get(int(reference.ReferencedBeamNumber), (0.0, 0.0))
            if before > 0:
                meterset = float(reference.get("BeamMeterset") or before)
                scale = 1.0 if abs(meterset - before) <= 0.05 else meterset / before
                reference.BeamMeterset = f"{after * scale:.10g}"


def _keep_spots(point: Dataset, spots: int | None) -> float:
    """Cut a control point's map to its first spots; the share of the weight that is kept."""
    positions, weights = spot_map(point)
    if spots is None or spots >= len(weights):
        return 1.0
    share = float(weights[:spots].sum() / weights.sum()) if weights.sum() > 0 else 1.0
    if share <= 0:
        raise PlanError(f"the first {spots} spots of a layer have no weight", where=Where(kind="RT plan"))
    if "ScanSpotPositionMap" in point:
        point.ScanSpotPositionMap = positions[:spots].ravel().tolist()
        point.ScanSpotMetersetWeights = weights[:spots].tolist()
        point.NumberOfScanSpotPositions = spots
    else:
        block = point.private_block(0x300B, "IMPAC")
        count = str(spots).encode()
        block[0x92].value = count + b" " * (len(count) % 2)
        block[0x94].value = np.ascontiguousarray(positions[:spots], dtype="<f4").tobytes()
        block[0x96].value = np.ascontiguousarray(weights[:spots], dtype="<f4").tobytes()
    return share

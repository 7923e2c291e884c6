"""The built-in plan: an RT Ion Plan as MOSAIQ exports them, with private float32 spot tags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ImplicitVRLittleEndian, RTIonPlanStorage, generate_uid

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.machine import Machine
from mqi_dagster.synthetic.apertures import add_aperture, add_leaf_positions
from mqi_dagster.synthetic.request import BuiltInPlan
from mqi_dagster.synthetic.source import Floats

CLOCK_S = 1e-4
"""Step of the machine plan's clock: spots that last whole steps keep their planned time exactly."""
MU_RATE_OVER_MINIMUM = 15 / 14
"""Dose rate of the light spot over the machine's least one: 1.5 of 1.4 MU/s, as on the real machines."""
PROXIMAL_SHARE = 0.4
"""MU of a layer over those of the next deeper one: few enough that the deepest Bragg peak stands out."""


@dataclass(frozen=True, slots=True)
class Patient:
    """Identifiers of an artificial patient."""

    patient_id: str = "SYNTH001"
    name: str = "SYNTHETIC^CASE"
    birth_date: str = "19000101"


def built_in_plan(
    machine: Machine, options: BuiltInPlan | None = None, *, seed: int = 1, patient: Patient | None = None
) -> Dataset:
    """A plan with treatment beams 2, 3, … and a SETUP beam numbered 1.

    The spots of every layer fill an L, which tells mirrored and swapped axes apart. One of them is so
    light that it sets the layer's dose rate, as the transit spots of real plans do. The deepest layer
    is the heaviest, so that R80 of a beam's depth dose is the range of its highest energy.

    Raises:
        ConfigurationError: The machine lacks the range shifter, or does not reach an energy.
    """
    options = options or BuiltInPlan()
    patient = patient or Patient()
    plan = _header(machine, seed, options, patient)
    if options.range_shifter is not None and options.range_shifter not in machine.range_shifters:
        raise ConfigurationError(f"machine {machine.id} has no range shifter {options.range_shifter}")
    tops = options.energies_mev or tuple(np.linspace(110.0, 190.0, options.beams).tolist())
    if len(tops) != options.beams:
        raise ConfigurationError(f"{len(tops)} energies for {options.beams} beams")
    beams = [_setup_beam(machine)]
    references = []
    for index, top in enumerate(tops):
        number = index + 2
        beam, total = _treatment_beam(machine, options, number, top, np.random.default_rng([seed, number]))
        beams.append(beam)
        reference = Dataset()
        # MOSAIQ prints the meterset with one decimal.
        reference.BeamMeterset = f"{total:.1f}" if total >= 1 else f"{total:.6g}"
        reference.ReferencedBeamNumber = number
        references.append(reference)
    group = Dataset()
    group.FractionGroupNumber = 1
    group.NumberOfFractionsPlanned = 2
    group.NumberOfBeams = len(references)
    group.NumberOfBrachyApplicationSetups = 0
    group.ReferencedBeamSequence = Sequence(references)
    plan.FractionGroupSequence = Sequence([group])
    plan.IonBeamSequence = Sequence(beams)
    return plan


def _header(machine: Machine, seed: int, options: BuiltInPlan, patient: Patient) -> Dataset:
    # A plan that is scanned in lines has the identifiers of its other options alone.
    request_json = options.model_dump_json(exclude={"scan_mode"} if options.scan_mode == "LINE" else None)
    entropy = ["mqi-synthetic", machine.id, str(seed), request_json, patient.patient_id]

    def uid(role: str) -> str:
        return str(generate_uid(entropy_srcs=[*entropy, role]))

    plan = Dataset()
    plan.SpecificCharacterSet = "ISO_IR 100"
    plan.InstanceCreationDate, plan.InstanceCreationTime = "20260101", "080000"
    plan.SOPClassUID = RTIonPlanStorage
    plan.SOPInstanceUID = uid("plan")
    plan.StudyDate, plan.StudyTime = "20260101", "080000"
    plan.AccessionNumber = ""
    plan.Modality = "RTPLAN"
    plan.Manufacturer = "mqi_dagster"
    plan.ReferringPhysicianName = ""
    plan.OperatorsName = ""
    plan.ManufacturerModelName = "simulate-delivery"
    plan.PatientName = patient.name
    plan.PatientID = patient.patient_id
    plan.PatientBirthDate = patient.birth_date
    plan.PatientSex = "O"
    plan.StudyInstanceUID = uid("study")
    plan.SeriesInstanceUID = uid("series")
    plan.StudyID = ""
    plan.SeriesNumber = 1
    plan.FrameOfReferenceUID = uid("frame of reference")
    plan.PositionReferenceIndicator = ""
    plan.RTPlanLabel = "SYNTHETIC"
    plan.RTPlanDate, plan.RTPlanTime = "20260101", "080000"
    plan.PlanIntent = "VERIFICATION"
    plan.RTPlanGeometry = "PATIENT"
    setup = Dataset()
    setup.PatientPosition = "HFS"
    setup.PatientSetupNumber = 1
    plan.PatientSetupSequence = Sequence([setup])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTIonPlanStorage
    meta.MediaStorageSOPInstanceUID = plan.SOPInstanceUID
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    plan.file_meta = meta
    return plan


def _beam(machine: Machine, number: int, name: str, kind: str) -> Dataset:
    beam = Dataset()
    beam.Manufacturer = "Generic"
    beam.TreatmentMachineName = machine.names[0]
    beam.PrimaryDosimeterUnit = "MU"
    beam.BeamNumber = number
    beam.BeamName = name
    beam.BeamDescription = name
    beam.BeamType = "STATIC"
    beam.RadiationType = "PROTON"
    beam.TreatmentDeliveryType = kind
    beam.NumberOfWedges = beam.NumberOfCompensators = beam.NumberOfBoli = beam.NumberOfBlocks = 0
    beam.VirtualSourceAxisDistances = list(machine.sad_mm)
    beam.NumberOfRangeShifters = 0
    beam.NumberOfLateralSpreadingDevices = beam.NumberOfRangeModulators = 0
    beam.PatientSupportType = "TABLE"
    return beam


def _control_point(index: int, energy_mev: float, cumulative: float) -> Dataset:
    point = Dataset()
    point.NominalBeamEnergyUnit = "MEV"
    point.ControlPointIndex = index
    point.NominalBeamEnergy = f"{energy_mev:.10g}"
    point.CumulativeMetersetWeight = f"{cumulative:.10g}"
    return point


def _add_geometry(point: Dataset, options: BuiltInPlan, gantry_deg: float) -> None:
    point.GantryAngle = f"{gantry_deg:g}"
    point.GantryRotationDirection = "NONE"
    point.BeamLimitingDeviceAngle = "0"
    point.BeamLimitingDeviceRotationDirection = "NONE"
    point.PatientSupportAngle = f"{options.couch_deg:g}"
    point.PatientSupportRotationDirection = "NONE"
    point.IsocenterPosition = [f"{v:.10g}" for v in options.isocenter_mm]
    point.TableTopPitchAngle = point.TableTopRollAngle = 0.0
    point.TableTopPitchRotationDirection = point.TableTopRollRotationDirection = "NONE"
    point.SnoutPosition = float(options.snout_position_mm)


def _setup_beam(machine: Machine) -> Dataset:
    beam = _beam(machine, 1, "SETUP", "SETUP")
    beam.FinalCumulativeMetersetWeight = "0"
    beam.NumberOfControlPoints = 2
    beam.ScanMode = "NONE"
    first = _control_point(0, 70.0, 0.0)
    _add_geometry(first, BuiltInPlan(), 0.0)
    beam.IonControlPointSequence = Sequence([first, _control_point(1, 70.0, 0.0)])
    return beam


def _treatment_beam(
    machine: Machine, options: BuiltInPlan, number: int, top_mev: float, rng: np.random.Generator
) -> tuple[Dataset, float]:
    gantry = options.gantry_deg[(number - 2) % len(options.gantry_deg)]
    beam = _beam(machine, number, f"{number - 1}G{gantry:03.0f}:TX", "TREATMENT")
    beam.ScanMode = options.scan_mode
    aperture = machine.exports_aperture if options.aperture is None else options.aperture
    outline = l_shape(options.spots, options.spacing_mm)
    if aperture:
        add_aperture(beam, outline)
    if options.range_shifter is not None:
        shifter = Dataset()
        shifter.RangeShifterNumber = 1
        shifter.RangeShifterID = options.range_shifter
        shifter.RangeShifterType = "BINARY"
        beam.RangeShifterSequence = Sequence([shifter])
        beam.NumberOfRangeShifters = 1
    points, total = [], 0.0
    for layer in range(options.layers):
        energy = top_mev - layer * options.energy_step_mev
        seconds = options.layer_seconds * PROXIMAL_SHARE**layer
        positions, mu = _spots(machine, options, energy, seconds, rng)
        start = _control_point(2 * layer, energy, total)
        if layer == 0:
            _add_geometry(start, options, gantry)
            if options.range_shifter is not None:
                start.RangeShifterSettingsSequence = Sequence([_shifter_setting(machine, options)])
        if aperture:
            add_leaf_positions(start, outline, layer)
        total += float(mu.sum())
        end = _control_point(2 * layer + 1, energy, total)
        _add_spots(start, positions, mu)
        _add_spots(end, positions, np.zeros_like(mu))
        points += [start, end]
    beam.FinalCumulativeMetersetWeight = f"{total:.10g}"
    beam.NumberOfControlPoints = len(points)
    beam.IonControlPointSequence = Sequence(points)
    return beam, total


def _shifter_setting(machine: Machine, options: BuiltInPlan) -> Dataset:
    assert options.range_shifter is not None
    setting = Dataset()
    setting.RangeShifterSetting = "IN"
    setting.IsocenterToRangeShifterDistance = float(options.snout_position_mm)
    known = machine.range_shifters[options.range_shifter]
    setting.RangeShifterWaterEquivalentThickness = known.water_equivalent_thickness_mm
    setting.ReferencedRangeShifterNumber = 1
    return setting


def _add_spots(point: Dataset, positions_mm: Floats, mu: Floats) -> None:
    block = point.private_block(0x300B, "IMPAC", create=True)
    block.add_new(0x90, "UN", b"3.0 ")
    count = str(len(mu)).encode()
    block.add_new(0x92, "UN", count + b" " * (len(count) % 2))
    block.add_new(0x94, "UN", positions_mm.astype("<f4").tobytes())
    block.add_new(0x96, "UN", mu.astype("<f4").tobytes())
    block.add_new(0x9A, "UN", b"1 ")


def l_shape(spots: int, spacing_mm: float) -> Floats:
    """Positions (spots, 2) [mm] of an L, scanned in snakes; the first is given twice.

    The upright arm points to +y, the foot to +x, both two spots wide; the box around it lies at the centre.
    """
    wanted = spots - 1
    upright = max(2, (wanted + 3) // 4 + 1)
    cells = [(x if y % 2 == 0 else 1 - x, y) for y in reversed(range(2, upright)) for x in (0, 1)]
    column = 0
    while len(cells) < wanted:
        pair = [(column, 1), (column, 0)]
        cells += pair if column % 2 == 0 else pair[::-1]
        column += 1
    grid = np.array(cells[:wanted], dtype=np.float64) * spacing_mm
    grid -= (grid.min(axis=0) + grid.max(axis=0)) / 2
    return np.vstack([grid[:1], grid])


def _spots(
    machine: Machine, options: BuiltInPlan, energy_mev: float, seconds: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Positions (n, 2) [mm] and MU (n,) of a layer that lasts about ``seconds``."""
    timing = machine.timing
    positions = l_shape(options.spots, options.spacing_mm)
    least = timing.minimum_dose_rate_mu_s
    rate = min(least * MU_RATE_OVER_MINIMUM, max(timing.maximum_dose_rate_mu_s.at(energy_mev), least))
    steps = np.rint(np.hypot(*np.diff(positions, axis=0).T)) / 10.0 / timing.speed_cm_s
    lasting = seconds / len(steps) * rng.uniform(0.6, 1.4, len(steps))
    lasting = np.maximum(np.rint(lasting / CLOCK_S) * CLOCK_S, np.maximum(steps, CLOCK_S))
    if len(steps) > 2:
        lasting[len(steps) // 2] = steps[len(steps) // 2]
    return positions, np.concatenate([[0.0], lasting * rate])

"""Reading an RT Ion Plan: standard scan spot maps of any vendor, and MOSAIQ's private ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import RTIonPlanStorage

from mqi_dagster.dicom.reading import decoding_as, read_dicom
from mqi_dagster.errors import PlanError, Where
from mqi_dagster.plan.devices import (
    not_simulated,
    read_blocks,
    read_mlc,
    read_range_shifters,
    refuse_unsupported,
)
from mqi_dagster.plan.elements import (
    KIND,
    integer,
    items,
    number,
    numbers,
    optional_integer,
    refuse,
    required_text,
    text,
)
from mqi_dagster.plan.identifiers import identifiers_of, identity_of
from mqi_dagster.plan.layers import control_points, meterset_mu, read_layers
from mqi_dagster.plan.model import IonPlan, PlanBeam, ScanMode
from mqi_dagster.plan.positions import patient_setups, position_of, setup_of

SETUP_NAMES = ("setup", "site setup")
"""Names and descriptions of MOSAIQ's setup beams, whose delivery type does not say so."""

STEADY_MM_DEG = 0.01
"""Gantry, couch, isocentre and snout within this stand still."""

reading_plan = partial(decoding_as, PlanError, Where(kind=KIND), "the plan ")
"""Reads elements without printing their values; a PlanError says what is damaged, with the first cause."""

TILTS = ("TableTopPitchAngle", "TableTopRollAngle", "GantryPitchAngle")


def read_ion_plan(path: Path) -> IonPlan:
    """Read an RT Ion Plan with its treatment beams.

    Args:
        path: A DICOM file, with or without preamble.

    Raises:
        PlanError: The file cannot be read, is no RT Ion Plan, or contradicts itself. The message names the
            beam and layer, never the path or the patient.
    """
    with reading_plan():
        return _plan(read_dataset(path))


def read_dataset(path: Path) -> Dataset:
    """The plan's DICOM dataset, for the RT Ion Plan class only.

    Raises:
        PlanError: The file cannot be read or is of another class.
    """
    with reading_plan():
        dataset = read_dicom(path)
        sop_class = text(dataset, "SOPClassUID")
    if sop_class != RTIonPlanStorage:
        if not sop_class:
            refuse("the plan is not a DICOM file, or a truncated one: it has no SOP class")
        refuse("the DICOM file is not an RT Ion Plan")
    return dataset


def is_setup(beam: Dataset) -> bool:
    """Whether an item of the Ion Beam Sequence is a setup beam."""
    if text(beam, "TreatmentDeliveryType").upper() == "SETUP":
        return True
    return any(text(beam, keyword).lower() in SETUP_NAMES for keyword in ("BeamName", "BeamDescription"))


def _plan(dataset: Dataset) -> IonPlan:
    by_number: dict[int, Dataset] = {}
    for item in items(dataset, "IonBeamSequence"):
        beam = integer(item, "BeamNumber")
        if beam in by_number:
            refuse(f"beam number {beam} stands in the plan twice", beam)
        by_number[beam] = item
    if not by_number:
        refuse("the plan has no ion beams")
    treatment = {beam: item for beam, item in by_number.items() if not is_setup(item)}
    if not treatment:
        refuse("the plan has no treatment beams")

    groups = items(dataset, "FractionGroupSequence")
    if len(groups) != 1:
        refuse(f"the plan has {len(groups)} fraction groups; exactly one is supported")
    references: dict[int, Dataset] = {}
    for reference in items(groups[0], "ReferencedBeamSequence"):
        beam = integer(reference, "ReferencedBeamNumber")
        if beam not in by_number:
            refuse(f"fraction group refers to beam {beam}, which the plan does not have", beam)
        if beam in references:
            refuse(f"fraction group refers to beam {beam} twice", beam)
        references[beam] = reference
    for beam in treatment:
        if beam not in references:
            refuse(f"fraction group does not refer to treatment beam {beam}", beam)
    # The engine's copy of the plan holds it: damaged, it would be refused only once a slot is held.
    optional_integer(groups[0], "NumberOfFractionsPlanned")

    setups = patient_setups(dataset)
    return IonPlan(
        sop_instance_uid=required_text(dataset, "SOPInstanceUID"),
        study_instance_uid=required_text(dataset, "StudyInstanceUID"),
        frame_of_reference_uid=text(dataset, "FrameOfReferenceUID"),
        patient_id=text(dataset, "PatientID"),
        fraction_group_number=integer(groups[0], "FractionGroupNumber"),
        beams=tuple(
            _beam(item, beam, number(references[beam], "BeamMeterset", beam), setups)
            for beam, item in treatment.items()
        ),
        setup_beam_numbers=tuple(beam for beam in by_number if beam not in treatment),
        identifiers=identifiers_of(dataset),
        label=text(dataset, "RTPlanLabel"),
        identity=identity_of(dataset),
    )


def _beam(item: Dataset, beam: int, beam_meterset: float, setups: dict[int, Dataset]) -> PlanBeam:
    dosimeter = text(item, "PrimaryDosimeterUnit")
    if dosimeter not in ("", "MU"):
        refuse(f"its meterset is given in {dosimeter}, which is not supported: only MU", beam)
    radiation = text(item, "RadiationType")
    if radiation not in ("", "PROTON"):
        refuse(f"its radiation is {radiation}, which is not supported: only PROTON", beam)
    points = control_points(item, beam)
    refuse_unsupported(item, points, beam)
    layers = read_layers(item, points, beam, beam_meterset)
    isocenter = _steady(points, "IsocenterPosition", 3, beam)
    return PlanBeam(
        number=beam,
        name=required_text(item, "BeamName", beam),
        description=text(item, "BeamDescription"),
        machine_name=text(item, "TreatmentMachineName"),
        gantry_angle_deg=_steady(points, "GantryAngle", 1, beam)[0],
        couch_angle_deg=_steady(points, "PatientSupportAngle", 1, beam)[0],
        isocenter_mm=(isocenter[0], isocenter[1], isocenter[2]),
        snout_position_mm=_steady(points, "SnoutPosition", 1, beam)[0],
        meterset_mu=meterset_mu(beam_meterset, number(item, "FinalCumulativeMetersetWeight", beam)),
        range_shifters=read_range_shifters(item, points, beam),
        blocks=read_blocks(item, beam),
        mlc=read_mlc(item, points, layers, beam),
        layers=layers,
        tilt_deg=_tilt(points, beam),
        patient_position=position_of(setup_of(item, beam, setups)),
        not_simulated=not_simulated(item),
        scan_mode=_scan_mode(item, beam),
    )


def _scan_mode(item: Dataset, beam: int) -> ScanMode:
    """Scan Mode (300A,0308), and Modulated Scan Mode Type (300A,0309) where it says MODULATED_SPEC.

    Raises:
        PlanError: It is missing, or another than LINE, MODULATED and MODULATED_SPEC with STATIONARY.
    """
    mode = text(item, "ScanMode").upper()
    if mode == "MODULATED_SPEC":
        kind = text(item, "ModulatedScanModeType").upper()
        if kind != "STATIONARY":
            refuse(
                f"its scan mode is MODULATED_SPEC with type {kind or '(missing)'}, which is not supported:"
                " only STATIONARY",
                beam,
            )
        return ScanMode.MODULATED
    if mode not in {known.value for known in ScanMode}:
        refuse(
            f"its scan mode is {mode or '(missing)'}, which is not supported: only LINE (line scanning),"
            " MODULATED (spot scanning) and MODULATED_SPEC with type STATIONARY",
            beam,
        )
    return ScanMode(mode)


def _tilt(points: Sequence[Dataset], beam: int) -> float:
    """The greatest pitch or roll of any control point; 359.5 degrees are half a degree."""
    angles = [angle for point in points for keyword in TILTS for angle in numbers(point, keyword, beam)]
    return float(max((abs((angle + 180.0) % 360.0 - 180.0) for angle in angles), default=0.0))


def _steady(points: Sequence[Dataset], keyword: str, length: int, beam: int) -> list[float]:
    """A value of the first control point that no later one changes.

    Raises:
        PlanError: It is missing, has another length, or changes during the beam.
    """
    first = numbers(points[0], keyword, beam)
    if len(first) != length:
        refuse(f"{keyword} of the first control point is missing or incomplete", beam)
    for point in points[1:]:
        later = numbers(point, keyword, beam)
        if len(later) and (len(later) != length or np.abs(later - first).max() > STEADY_MM_DEG):
            refuse(f"{keyword} changes during the beam, which is not supported", beam)
    return [float(value) for value in first]

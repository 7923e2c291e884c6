"""Reading an RT Dose back and holding it against every rule it has to keep.

The same checks serve the built-in writer and a site's own conversion; only the tolerances differ.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import FileDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from mqi_dagster.dicom.own_objects import derived_uid
from mqi_dagster.dicom.patient_study import study_id
from mqi_dagster.dose.comparison import compare_site_dose, greatest_difference, require_same_geometry
from mqi_dagster.dose.grid import DoseFrame, DoseGrid, DoseUnits
from mqi_dagster.dose.plan_reference import (
    RT_ION_PLAN_CLASS,
    PlanReference,
    dataset_of,
    elements_of,
    read_plan_reference,
)
from mqi_dagster.dose.profiles import r80_mm
from mqi_dagster.dose.rt_dose import (
    PROCESSING_EQUIPMENT,
    RT_DOSE_CLASS,
    Irradiation,
    instance_role,
)
from mqi_dagster.dose.stored_image import (
    NATIVE_SYNTAXES,
    require,
    require_short_scaling,
    scaling_of,
    stored_grid,
)
from mqi_dagster.errors import DoseError, Where
from mqi_dagster.settings import DoseType, SummationType

_ROUNDING = 0.5 + 2e-6
"""Half a scaling, and what float64 loses at 2**32 steps in a quotient and a product (2 x 2**32 x 2**-53)."""

_WHERE = Where(kind="RT Dose")


@dataclass(frozen=True, slots=True)
class RtDoseReport:
    """What an RT Dose holds, without identity."""

    maximum: float
    """Greatest dose, in ``units``."""
    units: DoseUnits
    frames: int
    rows: int
    columns: int
    spacing_mm: tuple[float, float, float]
    """Between columns, rows and frames."""
    r80_mm: float | None
    """Depth in water; None for patients, planes, an unknown surface, and a range beyond the grid."""


def verify_rt_dose(
    path: Path,
    *,
    plan_path: Path,
    beam_number: int,
    frame: DoseFrame,
    units: DoseUnits,
    dose_type: DoseType,
    summation: SummationType,
    irradiation: Irradiation,
    expected: DoseGrid | None,
    digest: str | None,
    water_surface_y_mm: float | None = None,
) -> RtDoseReport:
    """Open an RT Dose and check it.

    Args:
        path: The file.
        plan_path: The plan it has to refer to.
        beam_number: The beam it has to be of.
        frame: Whose coordinates it has to be in.
        units: The units it has to be in.
        dose_type: The dose type it has to have.
        summation: The summation type that the built-in writer has given it; a site's own command may give
            it either.
        irradiation: When the beam was delivered, which the built-in writer has put into it.
        expected: The dose it has to hold, in that type (`rt_dose.as_written`).
        digest: The digest that the built-in writer derived its UIDs from; None for a file of a site's own
            command, which may choose its UIDs and grid and is compared within 1 %.
        water_surface_y_mm: DICOM y of a phantom's water surface, for R80 [mm].

    Raises:
        DoseError: A rule is broken; the message begins with the keyword of the attribute.
    """
    # The warnings of pydicom quote values, and the values of a plan are identity.
    with warnings.catch_warnings(action="ignore"):
        plan = read_plan_reference(plan_path, beam_number)
        dataset = dataset_of(path, _WHERE, of_ours=digest is not None)
        with elements_of(_WHERE):
            grid = _checked(dataset, plan, frame, digest)
            _check_summation(dataset, summation, built_in=digest is not None)
            if digest is not None:
                _check_irradiation(dataset, plan, irradiation)
        scaling = scaling_of(dataset)
        require_short_scaling(dataset)
        require(grid.units is units, "DoseUnits", f"is not {units.value}")
        require(dataset.get("DoseType") == dose_type.value, "DoseType", f"is not {dose_type.value}")
    maximum = float(grid.values.max())
    require(maximum > 0.0, "PixelData", "the dose is zero everywhere")
    if expected is not None:
        _compare(grid, expected, scaling, built_in=digest is not None)
    return RtDoseReport(
        maximum=maximum,
        units=units,
        frames=grid.shape[0],
        rows=grid.shape[1],
        columns=grid.shape[2],
        spacing_mm=(grid.column_spacing_mm, grid.row_spacing_mm, grid.frame_spacing_mm),
        r80_mm=_range(grid, water_surface_y_mm),
    )


def _checked(dataset: FileDataset, plan: PlanReference, frame: DoseFrame, digest: str | None) -> DoseGrid:
    _check_object(dataset, plan)
    _check_frame_of_reference(dataset, plan, frame)
    _check_reference(dataset, plan)
    # Other receivers read no more than this.
    native = dataset.file_meta.TransferSyntaxUID in NATIVE_SYNTAXES
    require(native, "TransferSyntaxUID", "is not uncompressed little-endian")
    require(dataset.get("BitsStored") == dataset.get("BitsAllocated"), "BitsStored", "is not BitsAllocated")
    grid = stored_grid(dataset, frame)
    if digest is not None:
        _check_built_in(dataset, grid, digest)
    return grid


def _check_object(dataset: FileDataset, plan: PlanReference) -> None:
    # What is handed over is a file of PS3.10, though headless files of others are read.
    require(bool(dataset.preamble), "Preamble", "is missing")
    require(dataset.get("SOPClassUID") == RT_DOSE_CLASS, "SOPClassUID", "is not that of an RT Dose")
    require(dataset.get("Modality") == "RTDOSE", "Modality", "is not RTDOSE")
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        require(UID(str(dataset.get(keyword) or "")).is_valid, keyword, "is missing or no UID")
    stored = dataset.file_meta.get("MediaStorageSOPInstanceUID")
    require(stored == dataset.SOPInstanceUID, "MediaStorageSOPInstanceUID", "differs from SOPInstanceUID")
    require(dataset.SOPInstanceUID != plan.uid("SOPInstanceUID"), "SOPInstanceUID", "is the plan's")
    plan_series = plan.dataset.get("SeriesInstanceUID")
    require(dataset.SeriesInstanceUID != plan_series, "SeriesInstanceUID", "is the plan's")
    study = dataset.get("StudyInstanceUID")
    require(study == plan.uid("StudyInstanceUID"), "StudyInstanceUID", "is not the plan's")
    patient = str(dataset.get("PatientID") or "")
    require(patient == str(plan.dataset.get("PatientID") or ""), "PatientID", "is not the plan's")


def _check_frame_of_reference(dataset: FileDataset, plan: PlanReference, frame: DoseFrame) -> None:
    is_the_plans = dataset.FrameOfReferenceUID == plan.dataset.get("FrameOfReferenceUID")
    if frame is DoseFrame.PATIENT:
        require(is_the_plans, "FrameOfReferenceUID", "is not the plan's")
    else:
        require(not is_the_plans, "FrameOfReferenceUID", "is the plan's, but the dose is a phantom's")


def _check_reference(dataset: FileDataset, plan: PlanReference) -> None:
    plans = dataset.get("ReferencedRTPlanSequence") or []
    require(len(plans) == 1, "ReferencedRTPlanSequence", f"has {len(plans)} items instead of 1")
    sop_class = plans[0].get("ReferencedSOPClassUID")
    require(sop_class == RT_ION_PLAN_CLASS, "ReferencedSOPClassUID", "is not that of an RT Ion Plan")
    instance = plans[0].get("ReferencedSOPInstanceUID")
    require(instance == plan.uid("SOPInstanceUID"), "ReferencedSOPInstanceUID", "is not the plan's")
    groups = plans[0].get("ReferencedFractionGroupSequence") or []
    require(len(groups) == 1, "ReferencedFractionGroupSequence", f"has {len(groups)} items instead of 1")
    group = groups[0].get("ReferencedFractionGroupNumber")
    expected = plan.fraction_group_number
    require(group == expected, "ReferencedFractionGroupNumber", f"is not {expected}")
    beams = groups[0].get("ReferencedBeamSequence") or []
    require(len(beams) == 1, "ReferencedBeamSequence", f"has {len(beams)} items instead of 1")
    beam = beams[0].get("ReferencedBeamNumber")
    require(beam == plan.beam_number, "ReferencedBeamNumber", f"is not {plan.beam_number}")


def _check_summation(dataset: FileDataset, summation: SummationType, *, built_in: bool) -> None:
    allowed = [summation.value] if built_in else [kind.value for kind in SummationType]
    found = dataset.get("DoseSummationType")
    require(found in allowed, "DoseSummationType", f"is not {' or '.join(allowed)}")


def _check_irradiation(dataset: FileDataset, plan: PlanReference, irradiation: Irradiation) -> None:
    for keyword, value in irradiation.attributes().items():
        require(dataset.get(keyword) == value, keyword, f"is not {value}")
    if irradiation.fraction_number is None:
        require("CurrentFractionNumber" not in dataset, "CurrentFractionNumber", "is not known, but given")
    require(
        dataset.get("StudyID") == study_id(plan.dataset),
        "StudyID",
        "is neither the plan's nor made of its study",
    )
    require(dataset.get("SeriesNumber") == plan.beam_number, "SeriesNumber", f"is not {plan.beam_number}")


def _check_built_in(dataset: FileDataset, grid: DoseGrid, digest: str) -> None:
    syntax = dataset.file_meta.TransferSyntaxUID
    require(syntax == ExplicitVRLittleEndian, "TransferSyntaxUID", "is not Explicit VR Little Endian")
    derived = {"SOPInstanceUID": instance_role(grid), "SeriesInstanceUID": "series"}
    if grid.frame is DoseFrame.PHANTOM:
        derived["FrameOfReferenceUID"] = "frame of reference"
    for keyword, role in derived.items():
        require(dataset.get(keyword) == derived_uid(digest, role), keyword, "is not derived from the digest")
    equipment = dataset.get("ContributingEquipmentSequence") or []
    require(len(equipment) == 1, "ContributingEquipmentSequence", "does not name the engine")
    for keyword in ("ManufacturerModelName", "SoftwareVersions", "ContributionDescription"):
        require(bool(equipment[0].get(keyword)), f"ContributingEquipmentSequence.{keyword}", "is missing")
    purposes = equipment[0].get("PurposeOfReferenceCodeSequence") or []
    codes = [(item.get("CodeValue"), item.get("CodingSchemeDesignator")) for item in purposes]
    require(codes == [PROCESSING_EQUIPMENT[:2]], "PurposeOfReferenceCodeSequence", "is not 109102, DCM")


def _compare(grid: DoseGrid, expected: DoseGrid, scaling: float, *, built_in: bool) -> None:
    if not built_in:
        compare_site_dose(grid, expected)
        return
    require_same_geometry(grid, expected)
    difference = greatest_difference(grid, expected)
    require(difference <= _ROUNDING * scaling, "PixelData", "differs by more than half of DoseGridScaling")


def _range(grid: DoseGrid, water_surface_y_mm: float | None) -> float | None:
    if grid.frame is not DoseFrame.PHANTOM or grid.is_plane or water_surface_y_mm is None:
        return None
    try:
        return r80_mm(grid, water_surface_y_mm)
    except DoseError:
        return None

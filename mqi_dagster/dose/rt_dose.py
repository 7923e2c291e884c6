"""A dose grid to a DICOM RT Dose, PS3.3 A.18.

The same inputs give the same bytes: UIDs come from the digest, and every date and time is that of the
irradiation or of the plan, none is of now. The file is the one output that carries identity; its name never
does.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from mqi_dagster.dicom.own_objects import MANUFACTURER, derived_uid, sign_object
from mqi_dagster.dicom.patient_study import patient_and_study
from mqi_dagster.dose.encoding import decimal_string, encode_dose
from mqi_dagster.dose.grid import DoseFrame, DoseGrid
from mqi_dagster.dose.plan_reference import RT_ION_PLAN_CLASS, PlanReference, elements_of, read_plan_reference
from mqi_dagster.errors import DoseError, InfrastructureError, Where
from mqi_dagster.files import whole_file
from mqi_dagster.settings import DoseType, SummationType

RT_DOSE_CLASS = "1.2.840.10008.5.1.4.1.1.481.2"
GRID_FRAME_OFFSET_VECTOR = Tag(0x3004, 0x000C)
PROCESSING_EQUIPMENT = ("109102", "DCM", "Processing Equipment")
"""DICOM PS3.16 CID 7005."""

_PIXEL_DATA = Tag(0x7FE0, 0x0010)

_WHERE = Where(kind="RT Dose")


@dataclass(frozen=True, slots=True)
class EngineStamp:
    """Which engine made a dose, and how."""

    name: str
    version: str
    seed: int
    histories: int
    uncertainty_percent: float | None
    """Mean relative uncertainty above half of the maximum dose; None if the engine reports none."""


@dataclass(frozen=True, slots=True)
class Irradiation:
    """When the beam was delivered."""

    begun_at: datetime
    """Start of its first delivery, in the site's zone, as the machine wrote it."""
    fraction_number: int | None
    """Which fraction of the plan it was; None where that is not known for sure."""

    def attributes(self) -> dict[str, str | int]:
        """What of it stands in the file, by keyword.

        Treatment Date and Time and Current Fraction Number are not of the RT Dose IOD but of treatment
        records; a Standard Extended SOP Class may carry them (PS3.2 7.3), and whoever does not know them
        ignores them.
        """
        date, time = f"{self.begun_at:%Y%m%d}", f"{self.begun_at:%H%M%S.%f}"
        found: dict[str, str | int] = {}
        for what in ("Series", "Content", "Acquisition", "Treatment"):
            found |= {f"{what}Date": date, f"{what}Time": time}
        if self.fraction_number is not None:
            found["CurrentFractionNumber"] = self.fraction_number
        return found


@dataclass(frozen=True, slots=True)
class RtDoseRequest:
    """Everything of an RT Dose that is not in its grid."""

    plan_path: Path
    beam_number: int
    digest: str
    """Digest of the asset, 64 hexadecimal digits: every UID is derived from it."""
    irradiation: Irradiation
    engine: EngineStamp
    software_versions: tuple[str, ...]
    dose_type: DoseType
    summation: SummationType
    rbe: float
    """Factor from physical to effective dose; used for ``EFFECTIVE`` only."""
    bits: int
    """Bits per pixel, 16 or 32."""
    comment: str = ""
    """Dose Comment: at most 64 ASCII characters, without identifiers."""


def instance_role(grid: DoseGrid) -> str:
    """The role that a grid's SOP Instance UID is derived from."""
    return "sop instance, plane" if grid.is_plane else "sop instance, volume"


def as_written(grid: DoseGrid, request: RtDoseRequest) -> DoseGrid:
    """The physical dose of the engine in the dose type of the request."""
    return grid.scaled(request.rbe) if request.dose_type is DoseType.EFFECTIVE else grid


def write_rt_dose(path: Path, grid: DoseGrid, request: RtDoseRequest) -> None:
    """Write the RT Dose of one beam; the file appears whole or not at all.

    Args:
        path: Where; the folder exists.
        grid: Physical dose.
        request: The rest.

    Raises:
        DoseError: The grid holds no dose, or the plan does not have the beam.
        InfrastructureError: The disk refuses.
    """
    _check_texts(request)
    # The warnings of pydicom quote values, and the values of a plan are identity.
    with warnings.catch_warnings(action="ignore"):
        plan = read_plan_reference(request.plan_path, request.beam_number)
        # Named here, as a plan without it is not damaged.
        plan.uid("StudyInstanceUID")
        with elements_of(Where(kind="RT plan")):
            dataset = patient_and_study(plan.dataset)
        for keyword, value in request.irradiation.attributes().items():
            setattr(dataset, keyword, value)
        _series_frame_and_equipment(dataset, plan, grid, request)
        _image(dataset, as_written(grid, request), request.bits)
        _dose(dataset, plan, grid, request)
        _save(path, dataset)


def _series_frame_and_equipment(
    dataset: FileDataset, plan: PlanReference, grid: DoseGrid, request: RtDoseRequest
) -> None:
    instance_uid = derived_uid(request.digest, instance_role(grid))
    sign_object(dataset, RT_DOSE_CLASS, instance_uid, ExplicitVRLittleEndian)
    dataset.Modality = "RTDOSE"
    dataset.SeriesInstanceUID = derived_uid(request.digest, "series")
    dataset.SeriesNumber = request.beam_number
    dataset.SeriesDescription = f"Delivered dose, beam {request.beam_number}"
    dataset.OperatorsName = ""
    dataset.InstanceNumber = 2 if grid.is_plane else 1
    if grid.frame is DoseFrame.PATIENT:
        dataset.FrameOfReferenceUID = plan.uid("FrameOfReferenceUID")
        dataset.PositionReferenceIndicator = str(plan.dataset.get("PositionReferenceIndicator") or "")
    else:
        dataset.FrameOfReferenceUID = derived_uid(request.digest, "frame of reference")
        dataset.PositionReferenceIndicator = ""

    dataset.SoftwareVersions = list(request.software_versions)
    dataset.ContributingEquipmentSequence = Sequence([_engine_item(request)])


def _engine_item(request: RtDoseRequest) -> Dataset:
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = PROCESSING_EQUIPMENT
    engine = request.engine
    uncertainty = "not reported"
    if engine.uncertainty_percent is not None:
        uncertainty = f"{engine.uncertainty_percent:.2f} %"
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([purpose])
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = engine.name
    item.SoftwareVersions = engine.version
    item.ContributionDescription = (
        f"Monte Carlo dose; seed {engine.seed}; histories {engine.histories}; "
        f"mean uncertainty above half maximum {uncertainty}; digest {request.digest}"
    )
    return item


def _image(dataset: FileDataset, grid: DoseGrid, bits: int) -> None:
    encoded = encode_dose(grid, bits)
    frames, rows, columns = grid.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = rows
    dataset.Columns = columns
    dataset.BitsAllocated = dataset.BitsStored = encoded.bits
    dataset.HighBit = encoded.bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelSpacing = [decimal_string(grid.row_spacing_mm), decimal_string(grid.column_spacing_mm)]
    dataset.ImagePositionPatient = [decimal_string(part) for part in grid.origin_mm]
    dataset.ImageOrientationPatient = [
        decimal_string(part) for part in (*grid.row_direction, *grid.column_direction)
    ]
    dataset.SliceThickness = decimal_string(grid.frame_spacing_mm)
    if not grid.is_plane:
        dataset.NumberOfFrames = frames
        dataset.FrameIncrementPointer = GRID_FRAME_OFFSET_VECTOR
        # Offsets count along the normal of the rows and columns, PS3.3 C.8.8.3.2.
        normal = np.cross(grid.row_direction, grid.column_direction)
        step = grid.frame_spacing_mm * float(np.sign(normal @ np.array(grid.frame_direction)))
        dataset.GridFrameOffsetVector = [decimal_string(index * step) for index in range(frames)]
    dataset.DoseGridScaling = encoded.scaling
    dataset.add_new(_PIXEL_DATA, "OW", encoded.pixels.tobytes())


def _dose(dataset: FileDataset, plan: PlanReference, grid: DoseGrid, request: RtDoseRequest) -> None:
    dataset.DoseUnits = grid.units.value
    dataset.DoseType = request.dose_type.value
    dataset.DoseSummationType = request.summation.value
    if request.comment:
        dataset.DoseComment = request.comment
    dataset.TissueHeterogeneityCorrection = "WATER" if grid.frame is DoseFrame.PHANTOM else "IMAGE"
    beam = Dataset()
    beam.ReferencedBeamNumber = request.beam_number
    group = Dataset()
    group.ReferencedBeamSequence = Sequence([beam])
    group.ReferencedFractionGroupNumber = plan.fraction_group_number
    reference = Dataset()
    reference.ReferencedSOPClassUID = RT_ION_PLAN_CLASS
    reference.ReferencedSOPInstanceUID = plan.uid("SOPInstanceUID")
    reference.ReferencedFractionGroupSequence = Sequence([group])
    dataset.ReferencedRTPlanSequence = Sequence([reference])


def _check_texts(request: RtDoseRequest) -> None:
    """Refuse what the attributes cannot hold: LO is 64 characters, and ASCII is in every character set."""
    if not re.fullmatch(r"[0-9a-f]{64}", request.digest):
        raise DoseError("the digest is not 64 hexadecimal digits", where=_WHERE)
    if not request.rbe > 0.0:
        raise DoseError("the RBE is not positive", where=_WHERE)
    if not request.software_versions:
        raise DoseError("SoftwareVersions: no version is given", where=_WHERE)
    texts = {
        "ManufacturerModelName": request.engine.name,
        "SoftwareVersions": request.engine.version,
        "DoseComment": request.comment,
    }
    texts |= {f"SoftwareVersions {n}": text for n, text in enumerate(request.software_versions, start=1)}
    for keyword, text in texts.items():
        if not re.fullmatch(r"[ -\[\]-~]{0,64}", text):
            raise DoseError(f"{keyword} is longer than 64 characters, or not plain ASCII", where=_WHERE)


def _save(path: Path, dataset: FileDataset) -> None:
    try:
        with whole_file(path) as file:
            dcmwrite(file, dataset, enforce_file_format=True)
    except OSError as error:
        raise InfrastructureError(f"the RT Dose cannot be written: {error.strerror}", where=_WHERE) from None

"""Small plans, grids and requests for the tests of this folder."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from mqi_dagster.dose.grid import DoseGrid, DoseUnits, from_phantom
from mqi_dagster.dose.rt_dose import EngineStamp, Irradiation, RtDoseRequest
from mqi_dagster.settings import DoseType, SummationType

DIGEST = "0f" * 32
PLAN_UID = "1.2.3.4.5.100"
STUDY_UID = "1.2.3.4.5.200"
FRAME_UID = "1.2.3.4.5.300"
IRRADIATION = Irradiation(datetime(2024, 2, 20, 14, 5, 6, 70_000, ZoneInfo("Asia/Seoul")), 3)


def write_plan(path: Path, *, charset: str = "ISO_IR 192", name: str = "Marker^김") -> Path:
    """A plan of the two beams 2 and 5 in fraction group 7, with a setup beam 1 of no group."""
    plan = FileDataset("", {}, preamble=b"\0" * 128)
    plan.file_meta = FileMetaDataset()
    plan.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plan.SpecificCharacterSet = charset
    plan.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.8"
    plan.SOPInstanceUID = PLAN_UID
    plan.StudyInstanceUID = STUDY_UID
    plan.SeriesInstanceUID = "1.2.3.4.5.201"
    plan.FrameOfReferenceUID = FRAME_UID
    plan.PositionReferenceIndicator = "REF"
    plan.Modality = "RTPLAN"
    plan.PatientName = name
    plan.PatientID = "ID-77"
    plan.PatientBirthDate = "19700102"
    plan.PatientSex = "F"
    plan.StudyDate = "20240203"
    plan.OperatorsName = "Somebody^Else"
    plan.IonBeamSequence = [_item(BeamNumber=number) for number in (1, 2, 5)]
    references = [_item(ReferencedBeamNumber=number, BeamMeterset="9") for number in (2, 5)]
    plan.FractionGroupSequence = [_item(FractionGroupNumber=7, ReferencedBeamSequence=references)]
    plan.save_as(path, enforce_file_format=True)
    return path


def request(plan_path: Path, **changes: object) -> RtDoseRequest:
    """A request for beam 5, physical dose, 32 bits."""
    fields: dict[str, object] = {
        "plan_path": plan_path,
        "beam_number": 5,
        "digest": DIGEST,
        "irradiation": IRRADIATION,
        "engine": EngineStamp("mqi-engine", "0.1.0 (MCsquare 1.1)", 42, 1_000_000, 2.314),
        "software_versions": ("0.1.0", "pydicom 3.0.2"),
        "dose_type": DoseType.PHYSICAL,
        "summation": SummationType.BEAM_SESSION,
        "rbe": 1.1,
        "bits": 32,
        "comment": "delivered beam",
    }
    return RtDoseRequest(**(fields | changes))  # type: ignore[arg-type]


def phantom_grid(seed: int = 1, units: DoseUnits = DoseUnits.GY) -> DoseGrid:
    """An engine array of 4 x 5 x 6 voxels (z, y, x) of 2, 3 and 4 mm (x, y, z) without any symmetry."""
    values = np.random.default_rng(seed).uniform(0.0, 2.0, (4, 5, 6))
    return from_phantom(values, (-5.0, -6.0, -11.0), (2.0, 3.0, 4.0), units)


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def position_mm(grid: DoseGrid, frame: int, row: int, column: int) -> tuple[float, ...]:
    """Centre of a voxel, DICOM x, y, z [mm]."""
    axes = [grid.axis(dimension) for dimension in range(3)]
    where = {name: along[index] for (name, along), index in zip(axes, (frame, row, column), strict=True)}
    return tuple(float(where[name]) for name in "xyz")

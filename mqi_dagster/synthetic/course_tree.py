"""A tree of courses to begin with: four real chest CTs with a drawn tumour, a plan and a dose made around it.

The images and structure sets are those of the radiomics phantom of Lambin et al. (CancerData 2016,
doi 10.17195/candat.2016.08.1; CC BY-NC 3.0), which the package pycerr brings. Plan and dose are made here: no
machine could deliver the one, and nobody was to be treated with the other.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RTDoseStorage, RTPlanStorage

from mqi_dagster.dicom.elements import text_of
from mqi_dagster.dicom.own_objects import derived_uid, sign_object
from mqi_dagster.dicom.patient_study import patient_and_study
from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.errors import DicomError, InfrastructureError
from mqi_dagster.files import write_whole
from mqi_dagster.wheels import Wheel

WHEEL = Wheel("pycerr", "2.5.1", "5c3e82cc387538c5c38143827314fc2aa743ef886e8518f7f52beff6805c635d")
LICENCE = (
    "Lambin et al., Radiomics Digital Phantom, CancerData 2016, doi 10.17195/candat.2016.08.1: CC BY-NC 3.0"
)
_FOLDER = "cerr/datasets/radiomics_phantom_dicom/"
_LARGEST_MEMBER = 5_000_000
_PRESCRIBED_GY, _FRACTIONS = 60.0, 30
_SPACING_MM = 3.0
_GY_A_STEP = 0.001
_MARGIN_MM, _FALL_MM = 12.0, 3.0
"""How far the dose reaches beyond the tumour, and how steeply it falls there."""
_ROUNDNESS = 4
"""Of the shape that gets the dose: 2 is an ellipsoid, and with more it comes nearer to the box."""

Floats = NDArray[np.float64]


def make_course_tree(folder: Path, wheel: Path | None = None) -> int:
    """Write the tree, unless it is there already.

    Args:
        folder: Of the tree; appears whole.
        wheel: The package as a local file, for a machine without a package index.

    Returns:
        How many courses it holds.

    Raises:
        DicomError: The package is not the one that is known, or holds something else.
        InfrastructureError: It cannot be fetched, or the disk failed.
    """
    if folder.is_dir():
        return sum(one.is_dir() for one in folder.iterdir())
    beside = folder.with_name(f".{folder.name}.part")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        source = wheel or WHEEL.download(beside / "package")
        if fault := WHEEL.fault(source):
            raise DicomError(fault)
        tree = beside / "tree"
        tree.mkdir(exist_ok=True)
        by_patient: dict[str, list[bytes]] = {}
        with zipfile.ZipFile(source) as archive:
            for info in archive.infolist():
                if info.filename.startswith(_FOLDER) and info.filename.endswith(".dcm"):
                    with archive.open(info) as stream:
                        patient = info.filename.removeprefix(_FOLDER).split("/")[0]
                        by_patient.setdefault(patient, []).append(stream.read(_LARGEST_MEMBER))
        for number, patient in enumerate(sorted(by_patient), 1):
            _write_course(by_patient[patient], tree / f"course{number}")
        tree.rename(folder)
    except OSError as error:
        raise InfrastructureError(f"the courses cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return len(by_patient)


def _write_course(contents: list[bytes], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for content in contents:
        write_whole(folder / f"{hashlib.sha256(content).hexdigest()[:16]}.dcm", content)
    read = [read_dicom(content) for content in contents]
    drawn = next(one for one in read if text_of(one, "Modality") == "RTSTRUCT")
    images = [one for one in read if text_of(one, "Modality") == "CT"]
    digest = hashlib.sha256(text_of(drawn, "SOPInstanceUID").encode()).hexdigest()
    plan = _plan(drawn, digest)
    write_whole(folder / "plan.dcm", _bytes(plan))
    write_whole(folder / "dose.dcm", _bytes(_dose(drawn, images, plan, digest)))


def _bytes(dataset: FileDataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _item(**elements: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, Sequence(value) if isinstance(value, list) else value)
    return dataset


def _plan(drawn: Dataset, digest: str) -> FileDataset:
    """One beam and one target dose: what the dose's figures are held against (PS3.3 A.20)."""
    plan = patient_and_study(drawn)
    sign_object(plan, RTPlanStorage, derived_uid(digest, "plan"), ExplicitVRLittleEndian)
    plan.Modality = "RTPLAN"
    plan.SeriesInstanceUID = derived_uid(digest, "series of the plan")
    plan.SeriesNumber, plan.OperatorsName = 2, ""
    plan.FrameOfReferenceUID = drawn.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
    plan.PositionReferenceIndicator = ""
    plan.RTPlanLabel, plan.RTPlanDescription = "MADE", "Made around a drawn tumour; not a treatment plan"
    plan.RTPlanDate, plan.RTPlanTime, plan.RTPlanGeometry = "20240115", "", "PATIENT"
    plan.ApprovalStatus = "UNAPPROVED"
    plan.ReferencedStructureSetSequence = Sequence([_reference(drawn)])
    plan.DoseReferenceSequence = Sequence(
        [
            _item(
                DoseReferenceNumber=1,
                DoseReferenceStructureType="VOLUME",
                DoseReferenceDescription="tumour",
                ReferencedROINumber=drawn.StructureSetROISequence[0].ROINumber,
                DoseReferenceType="TARGET",
                TargetPrescriptionDose=_PRESCRIBED_GY,
            )
        ]
    )
    beam = _item(ReferencedBeamNumber=1, BeamDose=_PRESCRIBED_GY / _FRACTIONS, BeamMeterset=100.0)
    plan.FractionGroupSequence = Sequence(
        [
            _item(
                FractionGroupNumber=1,
                NumberOfFractionsPlanned=_FRACTIONS,
                NumberOfBeams=1,
                NumberOfBrachyApplicationSetups=0,
                ReferencedBeamSequence=[beam],
            )
        ]
    )
    plan.BeamSequence = Sequence(
        [
            _item(
                BeamNumber=1,
                BeamName="made",
                BeamType="STATIC",
                RadiationType="PHOTON",
                TreatmentMachineName="NONE",
                TreatmentDeliveryType="TREATMENT",
                SourceAxisDistance=1000.0,
                NumberOfWedges=0,
                NumberOfCompensators=0,
                NumberOfBoli=0,
                NumberOfBlocks=0,
                FinalCumulativeMetersetWeight=1.0,
                NumberOfControlPoints=0,
            )
        ]
    )
    return plan


def _reference(dataset: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=dataset.SOPClassUID, ReferencedSOPInstanceUID=dataset.SOPInstanceUID)


def _dose(drawn: Dataset, images: list[FileDataset], plan: FileDataset, digest: str) -> FileDataset:
    """The prescribed dose in the tumour and about it, as far as the images reach (PS3.3 A.18)."""
    contours = drawn.ROIContourSequence[0].ContourSequence
    points = np.concatenate([np.array(one.ContourData, float).reshape(-1, 3) for one in contours])
    low, high = points.min(axis=0), points.max(axis=0)
    firsts = np.array([one.ImagePositionPatient for one in images], float)
    across = np.array(
        [images[0].PixelSpacing[1] * images[0].Columns, images[0].PixelSpacing[0] * images[0].Rows, 0]
    )
    axes = [
        np.arange(first, last + _SPACING_MM, _SPACING_MM)
        for first, last in zip(firsts.min(axis=0), firsts.max(axis=0) + across, strict=True)
    ]
    values = _around((low + high) / 2, np.maximum((high - low) / 2, _SPACING_MM), axes)
    dose = patient_and_study(drawn)
    sign_object(dose, RTDoseStorage, derived_uid(digest, "dose"), ExplicitVRLittleEndian)
    dose.Modality = "RTDOSE"
    dose.SeriesInstanceUID = derived_uid(digest, "series of the dose")
    dose.SeriesNumber, dose.InstanceNumber, dose.OperatorsName = 3, 1, ""
    dose.FrameOfReferenceUID, dose.PositionReferenceIndicator = plan.FrameOfReferenceUID, ""
    dose.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dose.ImagePositionPatient = [round(float(axis[0]), 3) for axis in axes]
    dose.PixelSpacing, dose.SliceThickness = [_SPACING_MM, _SPACING_MM], None
    dose.FrameIncrementPointer = 0x3004000C
    dose.GridFrameOffsetVector = [_SPACING_MM * frame for frame in range(values.shape[0])]
    dose.NumberOfFrames, dose.Rows, dose.Columns = values.shape
    dose.SamplesPerPixel, dose.PhotometricInterpretation = 1, "MONOCHROME2"
    dose.BitsAllocated, dose.BitsStored, dose.HighBit, dose.PixelRepresentation = 16, 16, 15, 0
    dose.DoseUnits, dose.DoseType, dose.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    dose.DoseComment = "Made around a drawn tumour"
    dose.DoseGridScaling = _GY_A_STEP
    dose.ReferencedRTPlanSequence = Sequence([_reference(plan)])
    dose.PixelData = np.round(values / _GY_A_STEP).astype("<u2").tobytes()
    return dose


def _around(centre: Floats, half_mm: Floats, axes: list[Floats]) -> Floats:
    """Shape (z, y, x) [Gy]."""
    steps = [(axis - middle) / half for axis, middle, half in zip(axes, centre, half_mm, strict=True)]
    x, y, z = (np.abs(one) ** _ROUNDNESS for one in np.meshgrid(*steps, indexing="ij"))
    beyond_mm = ((x + y + z) ** (1 / _ROUNDNESS) - 1) * half_mm.mean()
    values = _PRESCRIBED_GY / (1 + np.exp(np.minimum((beyond_mm - _MARGIN_MM) / _FALL_MM, 50)))
    return np.asarray(values.transpose(2, 1, 0))

"""Small values and copies of the QA case for the tests of reading and checking deliveries."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian

from mqi_dagster.delivery.discovery import arrival_of
from mqi_dagster.delivery.record import record_chunks
from mqi_dagster.delivery.survey import Survey, survey_arrival
from mqi_dagster.plan.model import IonPlan, PlanBeam, PlanLayer, ScanMode
from tests.qa_twin import STUDY

SEOUL = ZoneInfo("Asia/Seoul")
HOUR = timedelta(hours=1)
BEAM_2, BEAM_3, BEAM_4, BEAM_5 = (
    "2026010510100000",
    "2026010510140000",
    "2026010510180000",
    "2026010510220000",
)


def qa_copy(source: Path, target: Path, *folders: str) -> Path:
    """A writable copy of a QA case with these delivery folders; all where none is named."""
    case = target / STUDY
    wanted = folders or (BEAM_2, BEAM_3, BEAM_4, BEAM_5)
    for path in [*source.glob("*.dcm"), *(file for name in wanted for file in (source / name).iterdir())]:
        copy = case / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return case


def surveyed(folder: Path) -> Survey:
    """The survey of a folder as the site in Seoul makes it."""
    return survey_arrival(arrival_of(folder), SEOUL, HOUR)


def replace_in(path: Path, old: str, new: str, count: int = -1) -> None:
    """Change a text file; the old text must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def plan_info_text(**changes: str | None) -> str:
    """A PlanInfo of beam 2, layers 1 to 9; a key that is changed to None is left out."""
    values: dict[str, str | None] = {
        "DICOM_PATIENT_ID": "PAT7",
        "DICOM_STUDY_INS_UID": "1.2.3.4.5",
        "DICOM_BEAM_NUMBER": "2",
        "TCSC_IRRAD_DATETIME": "2026010510100050",
        "TCSC_PATIENT_ID": "1010000",
        "TCSC_PLAN_NUMBER": "1",
        "TCSC_FIELD_NUMBER": "2",
        "START_LAYER_NUMBER": "1",
        "STOP_LAYER_NUMBER": "9",
        "SHARE_DIR": "ScanActual",
        "ACTUAL_DIR": "",
    }
    values.update(changes)
    return "".join(f"{key},{value}\n" for key, value in values.items() if value is not None)


def delivery_folder(
    parent: Path, name: str, beam: int, time: str, layers: tuple[int, int] = (1, 9), number: str = "1010000"
) -> Path:
    """A delivery folder with nothing but a PlanInfo."""
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "PlanInfo.txt").write_text(
        plan_info_text(
            DICOM_BEAM_NUMBER=str(beam),
            TCSC_IRRAD_DATETIME=time,
            TCSC_PATIENT_ID=number,
            START_LAYER_NUMBER=str(layers[0]),
            STOP_LAYER_NUMBER=str(layers[1]),
        )
    )
    return folder


def small_plan(beams: tuple[int, ...] = (2, 3, 4), layers: int = 9) -> IonPlan:
    """A plan of these beams, setup beam 1, every beam with as many layers of 1 MU."""
    spot = np.zeros((1, 2))
    steps = tuple(
        PlanLayer(number, 2 * number - 2, 100.0 - number, 1.0, spot, np.ones(1))
        for number in range(1, layers + 1)
    )
    return IonPlan(
        sop_instance_uid="1.2.3.9",
        study_instance_uid="1.2.3.4.5",
        frame_of_reference_uid="1.2.3.8",
        patient_id="PAT7",
        fraction_group_number=1,
        beams=tuple(
            PlanBeam(
                number=number,
                name=f"{number}S",
                description="",
                machine_name="G2",
                gantry_angle_deg=0.0,
                couch_angle_deg=0.0,
                isocenter_mm=(0.0, 0.0, 0.0),
                snout_position_mm=400.0,
                meterset_mu=float(layers),
                range_shifters=(),
                blocks=(),
                mlc=None,
                layers=steps,
                scan_mode=ScanMode.LINE,
            )
            for number in beams
        ),
        setup_beam_numbers=(1,),
        identifiers=(),
    )


def ct_slice(instance: str, patient: str, frame: str | None, z_mm: float) -> Dataset:
    """A CT image of 2 x 2 pixels of water, axial, head first supine."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = instance
    image.SeriesInstanceUID, image.Modality, image.PatientPosition = "1.2.3.100", "CT", "HFS"
    image.PatientID = patient
    if frame is not None:
        image.FrameOfReferenceUID = frame
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, z_mm], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness = [2, 2], 2
    image.Rows = image.Columns = 2
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 1
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, 0, "HU"
    image.PixelData = b"\0" * 8
    return image


def read_record(path: Path) -> np.ndarray:
    """A whole record, shape (rows, 8)."""
    return np.concatenate(list(record_chunks(path)))

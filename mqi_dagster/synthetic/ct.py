"""A CT series of a water cube around the plan's isocentre."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.synthetic.request import DeliveryRequest

AIR_HU, WATER_HU = -1000, 0
INTERCEPT_HU = -1024


def write_water_ct(
    folder: Path, plan: Dataset, isocenter_mm: tuple[float, float, float], request: DeliveryRequest
) -> int:
    """Write axial slices, head first supine, of a cube of water in air centred on the isocentre.

    A voxel is water where its centre lies in the cube.

    Returns:
        The number of slices.

    Raises:
        ConfigurationError: The plan has no frame of reference to share with the CT.
    """
    if not plan.get("FrameOfReferenceUID"):
        raise ConfigurationError("the plan has no FrameOfReferenceUID, so that a CT cannot refer to it")
    voxel, half = request.ct_voxel_mm, request.ct_cube_mm / 2
    count = int(np.ceil(2 * (half + request.ct_margin_mm) / voxel))
    centres = (np.arange(count) - (count - 1) / 2) * voxel
    inside = np.abs(centres) < half
    square = np.where(inside[:, None] & inside[None, :], WATER_HU, AIR_HU) - INTERCEPT_HU
    air = np.full_like(square, AIR_HU - INTERCEPT_HU)
    series = generate_uid(
        entropy_srcs=[
            str(plan.SOPInstanceUID),
            "CT series",
            request.model_dump_json(include={"ct_cube_mm", "ct_margin_mm", "ct_voxel_mm"}),
        ]
    )
    folder.mkdir()
    for index in range(count):
        image = _slice_header(plan, str(series), index)
        image.Rows = image.Columns = count
        image.PixelSpacing = [f"{voxel:.10g}"] * 2
        image.SliceThickness = f"{voxel:.10g}"
        origin = [
            isocenter_mm[0] + centres[0],
            isocenter_mm[1] + centres[0],
            isocenter_mm[2] + centres[index],
        ]
        image.ImagePositionPatient = [f"{v:.10g}" for v in origin]
        image.SliceLocation = f"{origin[2]:.10g}"
        image.PixelData = (square if inside[index] else air).astype("<i2").tobytes()
        image.save_as(folder / f"CT.{image.SOPInstanceUID}.dcm", enforce_file_format=True)
    return count


def _slice_header(plan: Dataset, series_uid: str, index: int) -> Dataset:
    image = Dataset()
    image.SpecificCharacterSet = plan.get("SpecificCharacterSet", "ISO_IR 100")
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = generate_uid(entropy_srcs=[series_uid, str(index)])
    image.StudyDate = image.SeriesDate = "20260101"
    image.StudyTime = image.SeriesTime = "080000"
    image.AccessionNumber = ""
    image.Modality = "CT"
    image.Manufacturer = "mqi_dagster"
    image.ReferringPhysicianName = ""
    image.PatientName = plan.get("PatientName", "")
    image.PatientID = plan.PatientID
    image.PatientBirthDate = plan.get("PatientBirthDate", "")
    image.PatientSex = plan.get("PatientSex", "")
    image.KVP = "120"
    image.PatientPosition = "HFS"
    image.StudyInstanceUID = plan.StudyInstanceUID
    image.SeriesInstanceUID = series_uid
    image.StudyID = ""
    image.SeriesNumber = 2
    image.AcquisitionNumber = 1
    image.InstanceNumber = index + 1
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.FrameOfReferenceUID = plan.FrameOfReferenceUID
    image.PositionReferenceIndicator = ""
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 1
    image.RescaleIntercept = str(INTERCEPT_HU)
    image.RescaleSlope = "1"
    image.RescaleType = "HU"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta = meta
    return image

"""Small CT and MR images, as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage


def image(
    values: NDArray[np.int_], z: float, *, modality: str = "CT", series: str = "1.2.6", number: int = 0
) -> FileDataset:
    """An axial image of 0.5 by 0.8 mm pixels whose first one is centred at (-10, -20, z)."""
    kind = {"CT": CTImageStorage, "MR": MRImageStorage}[modality]
    uid = f"{series}.{number}"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = kind, uid, modality
    made.SeriesInstanceUID, made.FrameOfReferenceUID = series, "1.2.9"
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.PatientPosition = "HFS"
    made.ImagePositionPatient, made.ImageOrientationPatient = [-10, -20, z], [1, 0, 0, 0, 1, 0]
    made.PixelSpacing = [0.5, 0.8]
    made.Rows, made.Columns = values.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 0
    if modality == "CT":
        made.RescaleSlope, made.RescaleIntercept, made.RescaleType = 1, -1024, "HU"
        values = values + 1024
    made.PixelData = values.astype("<u2").tobytes()
    return made


def written(folder: Path, images: Sequence[FileDataset]) -> list[Path]:
    """The images as files whose names are not in their order in space."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for index, one in enumerate(images):
        found.append(folder / f"{(index * 7) % len(images)}-{one.SOPInstanceUID}")
        one.save_as(found[-1], enforce_file_format=True)
    return sorted(found)

"""A series of small CT images on a grid, as a scanner would send them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from mqi_dagster.dose.encoding import decimal_string
from mqi_dagster.imaging.image_grid import ImageGrid

STUDY, SERIES = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2"


def oblique_grid(tilt_degrees: float = 20.0, turn_degrees: float = 0.0) -> ImageGrid:
    """Images tilted like a gantry about x, and turned about the axis of the patient."""
    tilt, turn = np.radians([tilt_degrees, turn_degrees])
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    row = about_z @ [1.0, 0.0, 0.0]
    column = about_z @ [0.0, np.cos(tilt), np.sin(tilt)]
    normal = np.cross(row, column)
    x, y, z = ([float(part) for part in axis] for axis in (row, column, normal))
    return ImageGrid(
        shape=(24, 48, 40),
        origin_mm=(-40.0, 12.5, -7.0),
        row_direction=(x[0], x[1], x[2]),
        column_direction=(y[0], y[1], y[2]),
        plane_direction=(z[0], z[1], z[2]),
        spacing_mm=(2.5, 0.9, 1.1),
        frame_of_reference_uid="1.2.826.0.1.3680043.8.498.3",
    )


def ct_headers(grid: ImageGrid) -> list[FileDataset]:
    """One image a plane, all water, with identity and without a Study ID."""
    return [_image(grid, plane) for plane in range(grid.shape[0])]


def _image(grid: ImageGrid, plane: int) -> FileDataset:
    image = FileDataset("", {}, preamble=b"\0" * 128)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.4.{plane + 1}"
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.SpecificCharacterSet = "ISO_IR 100"
    image.PatientName, image.PatientID = "Prüfung^Eins", "P-1"
    image.PatientBirthDate, image.PatientSex = "19500101", "O"
    image.StudyInstanceUID, image.SeriesInstanceUID = STUDY, SERIES
    image.StudyDate, image.StudyTime, image.AccessionNumber = "20260102", "101112", ""
    image.ReferringPhysicianName, image.StudyID = "", ""
    image.Modality, image.Manufacturer, image.SeriesNumber = "CT", "none", 3
    image.AcquisitionDate, image.AcquisitionTime = "20260103", "111213"
    image.InstanceNumber = plane + 1
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = grid.frame_of_reference_uid, ""
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.PatientPosition = "HFS"
    image.ImagePositionPatient = [decimal_string(float(v)) for v in grid.to_patient([plane, 0, 0])]
    image.ImageOrientationPatient = [decimal_string(v) for v in (*grid.row_direction, *grid.column_direction)]
    image.PixelSpacing = [grid.spacing_mm[1], grid.spacing_mm[2]]
    image.SliceThickness = grid.spacing_mm[0]
    image.Rows, image.Columns = grid.shape[1:]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType, image.KVP = 1, 0, "HU", 120
    image.AcquisitionNumber = 1
    image.PixelData = bytes(2 * grid.shape[1] * grid.shape[2])
    return image


def write_ct(folder: Path, grid: ImageGrid) -> list[Path]:
    """The images as files whose names say nothing of their order."""
    paths = []
    for plane, image in enumerate(ct_headers(grid)):
        path = folder / f"{(plane * 7919) % 10007:05d}.dcm"
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths

"""What pydicom thinks of a CT's identifiers is printed nowhere: its warnings would quote them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from mqi_dagster.dicom.ct_images import ct_pixels, read_ct_image
from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.engine_contract.ct_copy import blanked_ct
from mqi_dagster.errors import EngineInputError

UID = "1.2.0840.ZQXPAT77431"


def slice_with_an_odd_uid() -> bytes:
    with config.disable_value_validation():
        image = Dataset()
        image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        image.Modality = "CT"
        image.SOPInstanceUID = image.StudyInstanceUID = image.SeriesInstanceUID = UID
        image.FrameOfReferenceUID = UID
        image.PatientID = "ZQXPAT77431"
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness = [1, 1], 1
        image.Rows = image.Columns = 1
        image.RescaleSlope, image.RescaleIntercept = 1, 0
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 15, 0, 1
        image.PhotometricInterpretation, image.PatientPosition = "MONOCHROME2", "HFS"
        image.PixelData = b"\0\0"
        target = io.BytesIO()
        pydicom.dcmwrite(target, image, enforce_file_format=True)
    return target.getvalue()


def test_an_odd_uid_of_a_ct_is_not_printed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = slice_with_an_odd_uid()
    (tmp_path / "CT.dcm").write_bytes(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        dataset = read_dicom(tmp_path / "CT.dcm")
        image = read_ct_image(dataset, ct_pixels(dataset))
        assert (image.patient_id, image.instance_uid) == ("ZQXPAT77431", UID)
        try:
            blanked_ct(content)
        except EngineInputError as error:
            pytest.fail(str(error))
    assert [str(one.message) for one in said if "ZQX" in str(one.message)] == []
    assert "ZQX" not in caplog.text

"""A CT slice as an engine may see it: geometry and pixels, nothing of the patient."""

from __future__ import annotations

import hashlib
import io

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID

from mqi_dagster.dicom.reading import decoding_as, read_dicom
from mqi_dagster.errors import EngineInputError, Where

_WHERE = Where(kind="CT")

_KEPT = (
    "SOPClassUID",
    "Modality",
    "PatientPosition",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceThickness",
    "SpacingBetweenSlices",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "InstanceNumber",
    "PixelData",
)
"""What a dose engine reads; every other element stays behind."""

_NEEDED = (
    "SOPClassUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "PixelData",
)

_PSEUDONYMOUS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


def pseudonymous_uid(uid: str) -> UID:
    """A UID that stands for another: the same for the same, and not to be turned back."""
    number = int.from_bytes(hashlib.sha256(b"mqi engine view\0" + uid.encode()).digest()[:16], "big")
    return UID(f"2.25.{number}")


def blanked_ct(content: bytes) -> bytes:
    """The slice without anything that names the patient, as deterministic bytes.

    Args:
        content: A DICOM file of a CT slice.

    Raises:
        EngineInputError: It is no CT slice with position, orientation, spacing and pixels.
    """
    with decoding_as(EngineInputError, _WHERE, "a slice ", unread=None):
        return _blanked(read_dicom(content))


def _blanked(source: FileDataset) -> bytes:
    if source.get("Modality") != "CT":
        raise EngineInputError("a file of the series is no CT slice", where=_WHERE)
    absent = [keyword for keyword in _NEEDED if keyword not in source]
    if absent:
        raise EngineInputError(f"a slice has no {', '.join(absent)}", where=_WHERE)
    blanked = Dataset()
    for keyword in _KEPT:
        if keyword in source:
            blanked[keyword] = source[keyword]
    for keyword in _PSEUDONYMOUS:
        blanked.__setattr__(keyword, pseudonymous_uid(str(source.get(keyword, ""))))
    blanked.PatientName = ""
    blanked.PatientID = ""
    blanked.PatientBirthDate = ""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = source.SOPClassUID
    meta.MediaStorageSOPInstanceUID = blanked.SOPInstanceUID
    meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
    target = io.BytesIO()
    FileDataset(target, blanked, preamble=b"\0" * 128, file_meta=meta).save_as(
        target, enforce_file_format=True
    )
    return target.getvalue()

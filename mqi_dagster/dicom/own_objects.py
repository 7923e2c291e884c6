"""What every DICOM object that this program writes says of itself: UIDs from a digest, and who wrote it."""

from __future__ import annotations

import hashlib

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID

MANUFACTURER = "mqi_dagster"


def derived_uid(digest: str, role: str) -> str:
    """The UID of a role in a result: ``2.25.`` and the first 128 bits of SHA-256 of digest and role."""
    first_bytes = hashlib.sha256((digest + role).encode()).digest()[:16]
    return f"2.25.{int.from_bytes(first_bytes)}"


def sign_object(dataset: FileDataset, sop_class: str, instance_uid: str, transfer_syntax: str) -> None:
    """Give an object its file meta information, SOP Common UIDs and manufacturer.

    Args:
        dataset: The object.
        sop_class: SOP Class UID.
        instance_uid: SOP Instance UID.
        transfer_syntax: In which it is written.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(instance_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.ImplementationClassUID = UID(derived_uid(MANUFACTURER, "implementation"))
    meta.ImplementationVersionName = "MQI_DAGSTER"
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Manufacturer = dataset.ManufacturerModelName = MANUFACTURER

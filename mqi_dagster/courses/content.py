"""Whether two objects of one SOP Instance UID hold the same."""

from __future__ import annotations

import hashlib

from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mqi_dagster.dicom.reading import decoding

_PLAIN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
_TRAILING_PADDING = 0xFFFCFFFC


def content_sha256(dataset: FileDataset) -> str:
    """SHA-256 (hex) of the values of a data set, the same in every transfer syntax without compression.

    File meta information, group lengths and trailing padding count nothing. Objects that are compressed, or
    big endian, are equal to none of another transfer syntax.

    Args:
        dataset: The whole object.

    Raises:
        DicomError: An element is damaged.
    """
    digest = hashlib.sha256()
    with decoding():
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax not in _PLAIN:
            digest.update(f"{syntax}\n".encode("utf-8", "surrogateescape"))
        _add(digest, dataset)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, dataset: Dataset) -> None:
    for element in dataset:
        if element.tag.element == 0 or element.tag == _TRAILING_PADDING:
            continue
        if element.VR == "SQ":
            digest.update(f"{element.tag:08x} items {len(element.value)}\n".encode("ascii"))
            for item in element.value:
                _add(digest, item)
            digest.update(b"end\n")
            continue
        value = element.value
        content = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
        digest.update(f"{element.tag:08x} {len(content)}\n".encode("ascii"))
        digest.update(content)

"""Which scanner took an image, as the image says."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import FileDataset

from mqi_dagster.dicom.reading import decoding, read_dicom
from mqi_dagster.hu_table import Scanner

_KEYWORDS = ("Manufacturer", "ManufacturerModelName", "StationName", "KVP", "ConvolutionKernel")


def read_scanner(path: Path) -> Scanner:
    """The scanner of a CT image, from its header alone.

    Raises:
        DicomError: It is no DICOM file, or is damaged.
        OSError: The disk does not give the file.
    """
    dataset = read_dicom(path, only=_KEYWORDS)
    with decoding():
        kvp = dataset.get("KVP")
        return Scanner(
            manufacturer=_text(dataset, "Manufacturer"),
            model=_text(dataset, "ManufacturerModelName"),
            station=_text(dataset, "StationName"),
            kvp=None if kvp is None or kvp == "" else float(kvp),
            kernel=_text(dataset, "ConvolutionKernel"),
        )


def _text(dataset: FileDataset, keyword: str) -> str | None:
    value = dataset.get(keyword)
    if value is not None and not isinstance(value, str):
        value = next(iter(value), None)  # the first of several
    return str(value).strip() or None if value is not None else None

"""DICOM files as other systems write them: without preamble, without file meta information, damaged."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian


def whole(sop_class: str = "1.2.840.10008.5.1.4.1.1.2", **elements: object) -> bytes:
    """A file of PS3.10 in Explicit VR Little Endian."""
    image = FileDataset("", {}, preamble=b"\0" * 128, file_meta=FileMetaDataset())
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID, image.PatientID = sop_class, "2.25.7", "SYNTH001"
    for keyword, value in elements.items():
        setattr(image, keyword, value)
    target = io.BytesIO()
    image.save_as(target, enforce_file_format=True)
    return target.getvalue()


def without_preamble(content: bytes) -> bytes:
    """The file meta information comes first."""
    assert content[128:132] == b"DICM"
    return content[132:]


def headless(content: bytes, *, implicit: bool) -> bytes:
    """The bare data set, as XiO and Monaco write it."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    del dataset.file_meta
    dataset.preamble = None
    target = io.BytesIO()
    dataset.save_as(target, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    return target.getvalue()


def deflated(content: bytes) -> bytes:
    """The file in Deflated Explicit VR Little Endian (PS3.5 A.5)."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    target = io.BytesIO()
    dataset.save_as(target, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return target.getvalue()


def nested(depth: int) -> bytes:
    """A data set of sequences within each other."""
    inner = Dataset()
    inner.PatientID = "SYNTH001"
    content = b"\x08\x00\x16\x00\x1a\x00\x00\x001.2.840.10008.5.1.4.1.1.2\0"
    return content + b"\x0a\x30\x10\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth


def make_headless(path: Path, *, implicit: bool = True) -> Path:
    """Rewrite a file as a bare data set."""
    path.write_bytes(headless(path.read_bytes(), implicit=implicit))
    return path

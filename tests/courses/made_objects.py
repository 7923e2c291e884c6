"""DICOM objects of made courses, as small as grouping allows: images of 8 by 8 pixels, empty beams."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from mqi_dagster.courses.objects import HEADER, DicomObject, read_object
from mqi_dagster.dicom.reading import read_dicom

_ROOT = "1.2.826.0.1.3680043.8.498"


@dataclass(frozen=True)
class Made:
    """Makes objects of one course; an element that a test gives replaces another, None removes it."""

    number: int
    patient_id: str = ""
    name: str = ""
    issuer: str | None = None
    birth_date: str = "19600101"
    root: Path = Path()

    def uid(self, *parts: int) -> str:
        """A UID of this course."""
        return ".".join([_ROOT, str(self.number), *map(str, parts)])

    @property
    def frame(self) -> str:
        """Its Frame of Reference."""
        return self.uid(1)

    def at(self, root: Path) -> Made:
        """The same, writing below a folder."""
        return replace(self, root=root)

    def write(self, content: bytes, path: str = "") -> Path:
        """Write a file under a name that says nothing, or under this one."""
        digest = hashlib.sha256(content).hexdigest()
        file = self.root / (path or f"{digest[0]}/{digest[1:12]}")
        file.parent.mkdir(parents=True, exist_ok=True)
        assert not file.exists()
        file.write_bytes(content)
        return file

    def image(self, slice_: int = 0, *, series: int = 10, modality: str = "CT", **changes: object) -> bytes:
        """One slice."""
        classes = {"CT": uid.CTImageStorage, "MR": uid.MRImageStorage}
        pixels = np.full((8, 8), 1000 + slice_, dtype="<u2")
        return self._made(
            classes[modality],
            self.uid(series, slice_ + 1),
            **{
                "Modality": modality,
                "SeriesInstanceUID": self.uid(series),
                "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
                "InstanceNumber": slice_ + 1,
                "PatientPosition": "HFS",
                "RescaleSlope": 1,
                "RescaleIntercept": -1024,
                "ImagePositionPatient": [0, 0, 3 * slice_],
                "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
                "PixelSpacing": [1, 1],
                "Rows": 8,
                "Columns": 8,
                "BitsAllocated": 16,
                "BitsStored": 16,
                "HighBit": 15,
                "PixelRepresentation": 0,
                "SamplesPerPixel": 1,
                "PhotometricInterpretation": "MONOCHROME2",
                "PixelPaddingValue": 0,
                "PixelData": pixels.tobytes(),
                **changes,
            },
        )

    def structures(self, index: int = 1, *, series: int = 10, slices: int = 3, **changes: object) -> bytes:
        """A structure set with two regions, drawn on a series of this course."""
        frame = changes.get("FrameOfReferenceUID", self.frame)
        drawn = items([{"ReferencedSOPInstanceUID": self.uid(series, n + 1)} for n in range(slices)])
        of_series = items([{"SeriesInstanceUID": self.uid(series), "ContourImageSequence": drawn}])
        frames = items(
            [{"FrameOfReferenceUID": frame,
              "RTReferencedStudySequence": items([{"RTReferencedSeriesSequence": of_series}])}]
        )  # fmt: skip
        rois = [
            {"ROINumber": number, "ROIName": name, "ReferencedFrameOfReferenceUID": frame}
            for number, name in ((1, "PTV"), (2, "Heart"))
        ]
        return self._made(
            uid.RTStructureSetStorage,
            self.uid(20, index),
            Modality="RTSTRUCT",
            SeriesInstanceUID=self.uid(20),
            **{
                "StructureSetLabel": "drawn",
                "StructureSetDate": "20240110",
                "ReferencedFrameOfReferenceSequence": frames,
                "StructureSetROISequence": items(rois),
                **changes,
            },
        )

    def plan(
        self,
        index: int = 1,
        *,
        dose_gy: float | None = 60.0,
        fractions: int | None = 30,
        label: str = "plan",
        day: str = "20240115",
        related: tuple[str, int] | None = None,
        structures: int | None = 1,
        ion: bool = False,
        **changes: object,
    ) -> bytes:
        """A plan with one target; `related`: what it calls another plan of the course, and its index."""
        target: dict[str, object] = {
            "DoseReferenceNumber": 1,
            "DoseReferenceType": "TARGET",
            "ReferencedROINumber": 1,
        }
        if dose_gy is not None:
            target["TargetPrescriptionDose"] = dose_gy
        group: dict[str, object] = {"FractionGroupNumber": 1}
        if fractions is not None:
            group["NumberOfFractionsPlanned"] = fractions
        beams = [
            {"BeamNumber": n, "BeamName": f"field {n}", "TreatmentDeliveryType": kind}
            for n, kind in ((1, "TREATMENT"), (2, "TREATMENT"), (3, "SETUP"))
        ]
        links: dict[str, object] = {}
        if structures is not None:
            links["ReferencedStructureSetSequence"] = self._references(20, structures)
        if related is not None:
            named = {"ReferencedSOPInstanceUID": self.uid(30, related[1]), "RTPlanRelationship": related[0]}
            links["ReferencedRTPlanSequence"] = items([named])
        return self._made(
            uid.RTIonPlanStorage if ion else uid.RTPlanStorage,
            self.uid(30, index),
            Modality="RTPLAN",
            SeriesInstanceUID=self.uid(30),
            **{
                "RTPlanLabel": label,
                "RTPlanDate": day,
                "DoseReferenceSequence": items([target]),
                "FractionGroupSequence": items([group]),
                "IonBeamSequence" if ion else "BeamSequence": items(beams),
                **links,
                **changes,
            },
        )

    def dose(
        self,
        index: int = 1,
        *,
        plans: Sequence[int] = (1,),
        summation: str = "PLAN",
        beam: int | None = None,
        x_mm: float = 0.0,
        **changes: object,
    ) -> bytes:
        """A dose of 62 Gy on a grid of 8 by 8 by 2 voxels of 2 mm that begins at x."""
        named = []
        for plan in plans:
            one: dict[str, object] = {"ReferencedSOPInstanceUID": self.uid(30, plan)}
            if beam is not None:
                beams = items([{"ReferencedBeamNumber": beam}])
                group = {"ReferencedFractionGroupNumber": 1, "ReferencedBeamSequence": beams}
                one["ReferencedFractionGroupSequence"] = items([group])
            named.append(one)
        return self._made(
            uid.RTDoseStorage,
            self.uid(40, index),
            Modality="RTDOSE",
            SeriesInstanceUID=self.uid(40),
            **{
                "DoseUnits": "GY",
                "DoseType": "PHYSICAL",
                "DoseSummationType": summation,
                "ReferencedRTPlanSequence": items(named),
                "ImagePositionPatient": [x_mm, 0, 0],
                "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
                "PixelSpacing": [2, 2],
                "Rows": 8,
                "Columns": 8,
                "NumberOfFrames": 2,
                "FrameIncrementPointer": 0x3004000C,
                "GridFrameOffsetVector": [0, 2],
                "DoseGridScaling": "0.001",
                "BitsAllocated": 16,
                "BitsStored": 16,
                "HighBit": 15,
                "PixelRepresentation": 0,
                "SamplesPerPixel": 1,
                "PhotometricInterpretation": "MONOCHROME2",
                "PixelData": np.full((2, 8, 8), 62000, dtype="<u2").tobytes(),
                **changes,
            },
        )

    def registration(self, other_frame: str, index: int = 1) -> bytes:
        """A registration of another Frame of Reference with that of the course."""
        frames = items([{"FrameOfReferenceUID": self.frame}, {"FrameOfReferenceUID": other_frame}])
        return self._made(
            uid.SpatialRegistrationStorage,
            self.uid(50, index),
            Modality="REG",
            SeriesInstanceUID=self.uid(50),
            RegistrationSequence=frames,
        )

    def record(self, index: int = 1) -> bytes:
        """A treatment record of the first plan; like most it states no Frame of Reference."""
        return self._made(
            uid.RTBeamsTreatmentRecordStorage,
            self.uid(60, index),
            Modality="RTRECORD",
            SeriesInstanceUID=self.uid(60),
            ReferencedRTPlanSequence=self._references(30, 1),
            FrameOfReferenceUID=None,
        )

    def report(self) -> bytes:
        """A structured report, which refers to nothing here."""
        return self._made(uid.BasicTextSRStorage, self.uid(70, 1), Modality="SR", FrameOfReferenceUID=None)

    def whole(self, slices: int = 3) -> list[bytes]:
        """Images, structure set, plan and dose."""
        return [*(self.image(n) for n in range(slices)), self.structures(), self.plan(), self.dose()]

    def _references(self, kind: int, index: int) -> list[Dataset]:
        return items([{"ReferencedSOPInstanceUID": self.uid(kind, index)}])

    def _made(self, sop_class: str, sop_instance: str, **elements: object) -> bytes:
        known = {
            "SOPClassUID": sop_class,
            "SOPInstanceUID": sop_instance,
            "PatientID": self.patient_id or f"ID{self.number:03d}",
            "IssuerOfPatientID": self.issuer,
            "PatientName": self.name or f"Made^Number{self.number}",
            "PatientBirthDate": self.birth_date,
            "StudyInstanceUID": self.uid(2),
            "StudyDate": "20240105",
            "FrameOfReferenceUID": self.frame,
            **elements,
        }
        return encoded({keyword: value for keyword, value in known.items() if value is not None})


def items(of: Sequence[dict[str, object]]) -> list[Dataset]:
    """A sequence."""
    found = []
    for elements in of:
        item = Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        found.append(item)
    return found


def encoded(elements: dict[str, object], *, implicit: bool = False) -> bytes:
    """A file of PS3.10."""
    dataset = FileDataset("", {}, preamble=b"\0" * 128, file_meta=FileMetaDataset())
    dataset.file_meta.TransferSyntaxUID = (
        uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
    )
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


def parsed(content: bytes) -> DicomObject:
    """What the header of a file says."""
    return read_object(read_dicom(content, only=HEADER))

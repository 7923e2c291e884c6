"""An RT Ion Plan made in code, with MOSAIQ's private spot maps, a setup beam first and marker identifiers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ImplicitVRLittleEndian

SpotTable = list[tuple[float, float, float]]


def private_map(point: Dataset, spots: SpotTable, block_number: int = 0x10) -> None:
    """IMPAC's map in a block of the given number, written byte by byte."""
    base = block_number << 8
    point.add_new((0x300B, block_number), "LO", "IMPAC")
    count = str(len(spots))
    point.add_new((0x300B, base | 0x90), "UN", b"3.0 ")
    point.add_new((0x300B, base | 0x92), "UN", (count + " " * (len(count) % 2)).encode())
    point.add_new((0x300B, base | 0x94), "UN", b"".join(struct.pack("<ff", x, y) for x, y, _ in spots))
    point.add_new((0x300B, base | 0x96), "UN", b"".join(struct.pack("<f", w) for _, _, w in spots))
    point.add_new((0x300B, base | 0x9A), "UN", b"1 ")


def standard_map(point: Dataset, spots: SpotTable) -> None:
    """The standard scan spot map."""
    point.NumberOfScanSpotPositions = len(spots)
    point.ScanSpotPositionMap = [value for x, y, _ in spots for value in (x, y)]
    point.ScanSpotMetersetWeights = [w for _, _, w in spots]


def ion_beam(
    number: int, name: str, layers: list[tuple[float, float, SpotTable]], private: bool = True
) -> Dataset:
    """A treatment beam: layers of (energy, meterset weight, spots), two control points each."""
    beam = Dataset()
    beam.TreatmentMachineName = "G1_LS"
    beam.PrimaryDosimeterUnit = "MU"
    beam.BeamNumber = number
    beam.BeamName = name
    beam.BeamDescription = f"about {name}"
    beam.BeamType = "STATIC"
    beam.RadiationType = "PROTON"
    beam.TreatmentDeliveryType = "TREATMENT"
    beam.NumberOfBlocks = 0
    beam.NumberOfRangeShifters = 0
    beam.ScanMode = "LINE"
    points, weight = [], 0.0
    for energy, layer_weight, spots in layers:
        for share in (0.0, layer_weight):
            point = Dataset()
            point.ControlPointIndex = len(points)
            if not share:
                point.NominalBeamEnergy = energy
            weight += share
            point.CumulativeMetersetWeight = f"{weight:.6f}"
            if not points:
                point.GantryAngle = 180
                point.PatientSupportAngle = 5
                point.IsocenterPosition = [1.5, -2.5, 3.5]
                point.SnoutPosition = 300.0
            (private_map if private else standard_map)(point, spots)
            points.append(point)
    beam.NumberOfControlPoints = len(points)
    beam.FinalCumulativeMetersetWeight = f"{weight:.6f}"
    beam.IonControlPointSequence = Sequence(points)
    return beam


def setup_beam(number: int) -> Dataset:
    """A setup beam as MOSAIQ writes it: without spots, without a meterset."""
    beam = Dataset()
    beam.BeamNumber = number
    beam.BeamName = "SETUP"
    beam.BeamDescription = "Site Setup"
    beam.TreatmentDeliveryType = "TREATMENT"
    beam.NumberOfControlPoints = 0
    return beam


def ion_plan(beams: list[Dataset], metersets: dict[int, float]) -> Dataset:
    """A plan whose every identifying element holds a marker."""
    plan = Dataset()
    plan.SpecificCharacterSet = "ISO_IR 192"
    plan.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.8"
    plan.SOPInstanceUID = "1.2.3.4.8881"
    plan.StudyInstanceUID = "1.2.3.4.8882"
    plan.SeriesInstanceUID = "1.2.3.4.8883"
    plan.FrameOfReferenceUID = "1.2.3.4.8884"
    plan.StudyDate = "20770101"
    plan.AccessionNumber = "ACCMARK"
    plan.Modality = "RTPLAN"
    plan.InstitutionName = "INSTMARK"
    plan.ReferringPhysicianName = "REFMARK^DOC"
    plan.PhysiciansOfRecord = ["RECMARK^A", "ROCMARK^B"]
    plan.OperatorsName = "OPMARK"
    plan.SeriesDescription = "SERIESMARK"
    plan.PatientName = "FAMMARK^GIVMARK=홍^길동"
    plan.PatientID = "IDMARK77"
    plan.OtherPatientIDs = ["OTHERMARK1", "OTHERMARK2"]
    plan.PatientBirthDate = "19551231"
    plan.RTPlanLabel = "LABELMARK"
    plan.RTPlanDescription = "TEXTMARK"
    plan.ReviewerName = "REVMARK"
    plan.add_new((0x3253, 0x0010), "LO", "PRIVATE")
    plan.add_new((0x3253, 0x1000), "UN", b"XMLMARK ")
    group = Dataset()
    group.FractionGroupNumber = 1
    group.NumberOfFractionsPlanned = 25
    group.NumberOfBeams = len(metersets)
    references = []
    for number, meterset in metersets.items():
        reference = Dataset()
        reference.ReferencedBeamNumber = number
        reference.BeamMeterset = f"{meterset:.3f}"
        references.append(reference)
    group.ReferencedBeamSequence = Sequence(references)
    plan.FractionGroupSequence = Sequence([group])
    plan.IonBeamSequence = Sequence(beams)
    return plan


def mosaiq_plan(private: bool = True) -> Dataset:
    """SETUP numbered 1, then beams 3 and 2 in this order; beam 2 has spots at 0, 0.1, -0.2 and 5.997 mm."""
    spots = [(0.0, 0.1, 0.0), (-0.2, 5.997, 1.0), (33.13, -64.27, 3.0)]
    two = ion_beam(
        2, "1G180:TX", [(150.25, 20.0, spots), (150.25, 13.362, spots[1:]), (140.5, 20.0, spots)], private
    )
    three = ion_beam(3, "2G000:TX", [(120.0, 10.0, spots)], private)
    return ion_plan([setup_beam(1), three, two], {3: 10.0, 2: 53.4})


@pytest.fixture
def mosaiq() -> Dataset:
    """A plan as MOSAIQ exports it."""
    return mosaiq_plan()


@pytest.fixture
def standard() -> Dataset:
    """The same plan with standard spot maps."""
    return mosaiq_plan(private=False)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Writes a dataset as a DICOM file, by default without preamble and meta information."""

    def save(
        plan: Dataset, name: str = "RP.dcm", syntax: str = ImplicitVRLittleEndian, bare: bool = True
    ) -> Path:
        path = tmp_path / name
        implicit = syntax == ImplicitVRLittleEndian
        if bare:
            plan.save_as(path, implicit_vr=implicit, little_endian=True)
            return path
        plan.file_meta = FileMetaDataset()
        plan.file_meta.TransferSyntaxUID = syntax
        plan.save_as(path, enforce_file_format=True)
        return path

    return save

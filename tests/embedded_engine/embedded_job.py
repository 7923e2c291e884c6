"""Writes what `mqi-engine` reads, by hand: plan, CSVs, CT, beam model and TPS file of one beam."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTIonPlanStorage, generate_uid

from mqi_dagster.engine_contract.beam_model import beam_model_for
from mqi_dagster.hu_table import PACKAGED_HU_TABLES, HuCurves, read_hu_table
from mqi_dagster.machine import Machine
from mqi_dagster.plan.reading import read_ion_plan

TYPICAL = read_hu_table(PACKAGED_HU_TABLES / "typical_120kv.yaml").curves
Spot = tuple[float, float, int]
"""x [mm], y [mm], count."""


@dataclass
class Beam:
    """One beam, delivered as planned."""

    layers: dict[float, list[Spot]]
    """Spots by energy [MeV], in the order of delivery."""
    name: str = "1G000"
    gantry: float = 0.0
    couch: float = 0.0
    isocenter: tuple[float, float, float] = (0.0, 0.0, 0.0)
    snout: float = 400.0
    roll: float = 0.0
    shifter: str | None = None
    shifter_distance: float | None = None
    shifter_thickness: float | None = None
    tps: dict[str, object] = field(default_factory=dict)
    """Keys of the TPS file that differ from the default."""


@dataclass
class Ct:
    """A CT made in code: values [z, y, x] of HU."""

    hounsfield: NDArray[np.int16]
    first_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]
    position: str = "HFS"


def write_job(
    folder: Path,
    beam: Beam,
    machine: Machine,
    ct: Ct | None = None,
    histories: float = 20000,
    hu_table: HuCurves | None = None,
) -> Path:
    """Write a whole job; returns the TPS file."""
    dicom, logs = folder / "Log_csv" / "plan", folder / "Log_csv" / "log" / "1G000"
    dicom.mkdir(parents=True)
    logs.mkdir(parents=True)
    write_plan(dicom / "RP.dcm", beam)
    if ct is not None:
        write_ct(dicom, ct)
    for number, (energy, spots) in enumerate(beam.layers.items(), start=1):
        rows = [f"{0.06 * i:.2f},{x!r},{y!r},{n}\r\n" for i, (x, y, n) in enumerate(spots)]
        (logs / f"{number:02d}_{energy:.2f}MeV.csv").write_text("".join(rows), newline="")
    plan_beam = read_ion_plan(dicom / "RP.dcm").beam(1)
    model = beam_model_for(machine, plan_beam, 1.0, None if ct is None else hu_table or TYPICAL)
    (folder / "Log_csv" / "beam_model.json").write_text(model.render())
    total = sum(
        n * machine.protons_per_count(energy) for energy, spots in beam.layers.items() for _, _, n in spots
    )
    phantom = ct is None
    keys: dict[str, object] = {
        "GPUID": 0,
        "RandomSeed": -1932780356,
        "UseAbsolutePath": "true",
        "TotalThreads": -1,
        "MaxHistoriesPerBatch": 10000000,
        "ParentDir": folder / "Log_csv",
        "DicomPath": dicom,
        "DicomDir": "plan",
        "logFilePath": logs.parent,
        "BeamModelFile": folder / "Log_csv" / "beam_model.json",
        "EmbeddedShards": 2,
        "UsingPhantomGeo": str(phantom).lower(),
        "TwoCentimeterMode": str(phantom).lower(),
        "Scorer": "Dose",
        "SupressStd": "true",
        "ReadStructure": "false",
        "SourceType": "FluenceMap",
        "SimulationType": "perBeam",
        "BeamNumbers": 1,
        "ParticlesPerHistory": repr(histories / total),
        "ScoreToCTGrid": "true",
        "OutputDir": folder / "Dose",
        "OutputFormat": "mhd",
        "OverwriteResults": "true",
    }
    if phantom:
        keys |= dict(zip(("PhantomDimX", "PhantomDimY", "PhantomDimZ"), (60, 60, 200), strict=True))
        keys |= dict(zip(("PhantomUnitX", "PhantomUnitY", "PhantomUnitZ"), (2, 2, 2), strict=True))
        position = ("PhantomPositionX", "PhantomPositionY", "PhantomPositionZ")
        keys |= dict(zip(position, (-60, -60, -379), strict=True))
    keys |= beam.tps
    path = folder / "moqui_tps.in"
    path.write_text("".join(f"{key} {value}\n" for key, value in keys.items() if value is not None))
    return path


def write_plan(path: Path, beam: Beam) -> None:
    """An RT Ion Plan with the standard scan spot maps."""
    plan = _dataset(path, RTIonPlanStorage)
    plan.Modality, plan.PatientID, plan.PatientName = "RTPLAN", "TEST", "TEST"
    plan.StudyInstanceUID, plan.FrameOfReferenceUID = "1.2.3.4", "1.2.3.5"
    plan.PatientSetupSequence = []
    points: list[Dataset] = []
    cumulative = 0.0
    for energy, spots in beam.layers.items():
        for closes in (False, True):
            point = Dataset()
            point.ControlPointIndex = len(points)
            point.NominalBeamEnergy = energy
            weights = [float(n) for _, _, n in spots]
            cumulative += sum(weights) if closes else 0.0
            point.CumulativeMetersetWeight = cumulative
            point.NumberOfScanSpotPositions = len(spots)
            point.ScanSpotPositionMap = [v for x, y, _ in spots for v in (x, y)]
            point.ScanSpotMetersetWeights = [0.0] * len(spots) if closes else weights
            points.append(point)
    first = points[0]
    first.GantryAngle, first.PatientSupportAngle = beam.gantry, beam.couch
    first.TableTopPitchAngle, first.TableTopRollAngle = 0.0, beam.roll
    first.IsocenterPosition, first.SnoutPosition = list(beam.isocenter), beam.snout
    item = Dataset()
    item.BeamNumber, item.BeamName, item.BeamDescription = 1, beam.name, ""
    item.TreatmentMachineName, item.RadiationType = "GENERIC", "PROTON"
    item.TreatmentDeliveryType, item.ScanMode = "TREATMENT", "MODULATED"
    item.PrimaryDosimeterUnit = "MU"
    item.FinalCumulativeMetersetWeight = cumulative
    item.NumberOfControlPoints = len(points)
    item.NumberOfRangeShifters = 1 if beam.shifter else 0
    if beam.shifter:
        shifter = Dataset()
        shifter.RangeShifterNumber, shifter.RangeShifterID = 1, beam.shifter
        shifter.RangeShifterType = "BINARY"
        item.RangeShifterSequence = [shifter]
        setting = Dataset()
        setting.RangeShifterSetting, setting.ReferencedRangeShifterNumber = "IN", 1
        if beam.shifter_distance is not None:
            setting.IsocenterToRangeShifterDistance = beam.shifter_distance
        if beam.shifter_thickness is not None:
            setting.RangeShifterWaterEquivalentThickness = beam.shifter_thickness
        first.RangeShifterSettingsSequence = [setting]
    item.IonControlPointSequence = points
    plan.IonBeamSequence = [item]
    reference = Dataset()
    reference.ReferencedBeamNumber, reference.BeamMeterset = 1, cumulative
    group = Dataset()
    group.FractionGroupNumber, group.NumberOfBeams, group.NumberOfFractionsPlanned = 1, 1, 1
    group.ReferencedBeamSequence = [reference]
    plan.FractionGroupSequence = [group]
    plan.save_as(path, enforce_file_format=True)


def write_ct(folder: Path, ct: Ct) -> None:
    """An axial CT series whose file names say nothing about the order of the slices."""
    series = generate_uid(entropy_srcs=["series"])
    count = len(ct.hounsfield)
    for index, plane in enumerate(ct.hounsfield):
        path = folder / f"CT{(7 * index + 3) % count if count % 7 else index:04d}.dcm"
        one = _dataset(path, CTImageStorage)
        one.Modality, one.SeriesInstanceUID, one.PatientPosition = "CT", series, ct.position
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        x, y, z = ct.first_mm
        one.ImagePositionPatient = [x, y, z + index * ct.spacing_mm[2]]
        one.PixelSpacing = [ct.spacing_mm[1], ct.spacing_mm[0]]
        one.Rows, one.Columns = plane.shape
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
        one.PixelData = (plane.astype(np.int32) + 1024).astype("<u2").tobytes()
        one.save_as(path, enforce_file_format=True)


def _dataset(path: Path, sop_class: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    return dataset

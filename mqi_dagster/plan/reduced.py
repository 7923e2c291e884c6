"""The copy of a plan that an engine sees: one beam, nothing that names a person."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from pathlib import Path

from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ImplicitVRLittleEndian, RTIonPlanStorage

from mqi_dagster.errors import InfrastructureError, PrivacyError, Where
from mqi_dagster.files import whole_file
from mqi_dagster.plan.devices import COUNTED
from mqi_dagster.plan.elements import KIND, integer, items, numbers, refuse, required_text, text
from mqi_dagster.plan.identifiers import identity_of
from mqi_dagster.plan.reading import is_setup, read_dataset, read_ion_plan, reading_plan
from mqi_dagster.plan.spot_maps import CREATOR, GROUP, private_block

IMPLEMENTATION_UID = "2.25.329800735698586629295641978511506172918"
"""UUID-derived; part of every file, so that the bytes do not depend on pydicom's version."""
IMPLEMENTATION_NAME = "MQI_REDUCED_1"

KEPT: dict[str, tuple[str, ...]] = {
    "FractionGroupSequence": ("FractionGroupNumber", "NumberOfFractionsPlanned", "ReferencedBeamSequence"),
    "ReferencedBeamSequence": ("BeamMeterset", "ReferencedBeamNumber"),
    "IonBeamSequence": (
        "TreatmentMachineName",
        "PrimaryDosimeterUnit",
        "BeamNumber",
        "BeamName",
        "BeamType",
        "RadiationType",
        "TreatmentDeliveryType",
        "NumberOfWedges",
        "NumberOfCompensators",
        "NumberOfBoli",
        "NumberOfBlocks",
        "FinalCumulativeMetersetWeight",
        "NumberOfControlPoints",
        "ScanMode",
        "ModulatedScanModeType",
        "VirtualSourceAxisDistances",
        "SnoutSequence",
        "NumberOfRangeShifters",
        "RangeShifterSequence",
        "NumberOfLateralSpreadingDevices",
        "NumberOfRangeModulators",
        "PatientSupportType",
        "IonBlockSequence",
        "IonBeamLimitingDeviceSequence",
        "IonControlPointSequence",
    ),
    "SnoutSequence": ("SnoutID",),
    "RangeShifterSequence": ("RangeShifterNumber", "RangeShifterID", "RangeShifterType"),
    "IonBlockSequence": (
        "BlockType",
        "BlockDivergence",
        "BlockMountingPosition",
        "IsocenterToBlockTrayDistance",
        "BlockNumber",
        "MaterialID",
        "BlockThickness",
        "BlockNumberOfPoints",
        "BlockData",
    ),
    "IonBeamLimitingDeviceSequence": (
        "RTBeamLimitingDeviceType",
        "IsocenterToBeamLimitingDeviceDistance",
        "NumberOfLeafJawPairs",
        "LeafPositionBoundaries",
    ),
    "IonControlPointSequence": (
        "NominalBeamEnergyUnit",
        "ControlPointIndex",
        "NominalBeamEnergy",
        "BeamLimitingDevicePositionSequence",
        "GantryAngle",
        "GantryRotationDirection",
        "BeamLimitingDeviceAngle",
        "BeamLimitingDeviceRotationDirection",
        "PatientSupportAngle",
        "PatientSupportRotationDirection",
        "TableTopPitchAngle",
        "TableTopPitchRotationDirection",
        "TableTopRollAngle",
        "TableTopRollRotationDirection",
        "GantryPitchAngle",
        "GantryPitchRotationDirection",
        "IsocenterPosition",
        "CumulativeMetersetWeight",
        "SnoutPosition",
        "MetersetRate",
        "RangeShifterSettingsSequence",
        "ScanSpotTuneID",
        "NumberOfScanSpotPositions",
        "ScanSpotPositionMap",
        "ScanSpotMetersetWeights",
        "ScanningSpotSize",
        "NumberOfPaintings",
    ),
    "BeamLimitingDevicePositionSequence": ("RTBeamLimitingDeviceType", "LeafJawPositions"),
    "RangeShifterSettingsSequence": (
        "RangeShifterSetting",
        "IsocenterToRangeShifterDistance",
        "RangeShifterWaterEquivalentThickness",
        "ReferencedRangeShifterNumber",
    ),
}
"""What the copy keeps of each sequence; everything else of it, private or not, stays behind."""

NUMERIC = ("DS", "IS", "FL")
"""Representations of numbers."""

BLANK = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "Manufacturer",
    "OperatorsName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "SeriesNumber",
    "PositionReferenceIndicator",
    "RTPlanDate",
    "RTPlanTime",
)
"""What the class demands and may be empty."""


def write_reduced_plan(
    source: Path, target: Path, beam_number: int, *, as_number: int | None = None, as_name: str | None = None
) -> None:
    """Write the copy of a plan that holds one treatment beam and no identity.

    The same source and beam give the same bytes. UIDs are replaced by ones derived from a hash of the
    plan's SOP Instance UID.

    Args:
        source: The plan as it arrived.
        target: The file to write; its folder exists.
        beam_number: DICOM BeamNumber of a treatment beam.
        as_number: BeamNumber of the beam in the copy, for engines that take it as an index; None keeps it.
        as_name: BeamName of the beam in the copy, for engines that name files by it; None keeps it.

    Raises:
        PlanError: The plan cannot be read, or has no such treatment beam.
        PrivacyError: The beam's name or description names the patient.
        InfrastructureError: The copy cannot be written.
    """
    checked = read_ion_plan(source)
    with reading_plan():
        plan = read_dataset(source)
        beams = [beam for beam in items(plan, "IonBeamSequence") if not is_setup(beam)]
        chosen = [beam for beam in beams if integer(beam, "BeamNumber") == beam_number]
        if not chosen:
            refuse(f"the plan has no treatment beam {beam_number}", beam_number)
        _refuse_identity(plan, chosen[0], beam_number)
        reduced = _reduce(plan, chosen[0], beam_number)
        in_beam = {shifter.number for shifter in checked.beam(beam_number).range_shifters}
        _drop_range_shifters(reduced.IonBeamSequence[0], in_beam)
        if as_name is not None and as_name != text(chosen[0], "BeamName"):
            reduced.IonBeamSequence[0].BeamName = as_name
        if as_number is not None:
            reduced.IonBeamSequence[0].BeamNumber = as_number
            for reference in reduced.FractionGroupSequence[0].ReferencedBeamSequence:
                reference.ReferencedBeamNumber = as_number
    with config.disable_value_validation():  # its warnings would print the values
        _write(reduced, target)


def _refuse_identity(plan: Dataset, beam: Dataset, number: int) -> None:
    identity = identity_of(plan)
    found = [identity.named_in(text(beam, keyword)) for keyword in ("BeamName", "BeamDescription")]
    if any(found):
        raise PrivacyError(
            f"the beam's name or description holds the patient's {next(filter(None, found))};"
            " an engine addresses the beam by its name, so the plan cannot be given to one",
            where=Where(kind=KIND, beam=str(number)),
        )


def _pseudonym(plan: Dataset, role: str) -> str:
    """A UID of the 2.25 root, derived from the plan's SOP Instance UID and the role."""
    seed = f"mqi reduced plan\n{role}\n{required_text(plan, 'SOPInstanceUID')}"
    return f"2.25.{int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16])}"


def _reduce(plan: Dataset, beam: Dataset, number: int) -> Dataset:
    reduced = Dataset()
    reduced.SpecificCharacterSet = "ISO_IR 192"
    for keyword in BLANK:
        setattr(reduced, keyword, None)
    reduced.SOPClassUID = RTIonPlanStorage
    reduced.SOPInstanceUID = _pseudonym(plan, f"beam {number}")
    reduced.StudyInstanceUID = _pseudonym(plan, "study")
    reduced.SeriesInstanceUID = _pseudonym(plan, "series")
    reduced.FrameOfReferenceUID = _pseudonym(plan, "frame of reference")
    reduced.Modality = "RTPLAN"
    reduced.RTPlanLabel = "MQI"
    reduced.RTPlanGeometry = "PATIENT"

    group = _copy(items(plan, "FractionGroupSequence")[0], "FractionGroupSequence")
    group.NumberOfBeams = 1
    group.NumberOfBrachyApplicationSetups = 0
    group.ReferencedBeamSequence = Sequence(
        reference
        for reference in group.ReferencedBeamSequence
        if integer(reference, "ReferencedBeamNumber") == number
    )
    reduced.FractionGroupSequence = Sequence([group])
    reduced.IonBeamSequence = Sequence([_copy(beam, "IonBeamSequence")])
    return reduced


def _drop_range_shifters(beam: Dataset, in_beam: set[int]) -> None:
    """Leave only the range shifters that stand in the beam: moqui does not read whether one is IN or OUT."""

    def keep(item: Dataset, sequence: str, number: str) -> None:
        kept = [one for one in items(item, sequence) if integer(one, number) in in_beam]
        if len(kept) == len(items(item, sequence)):
            return
        if kept:
            setattr(item, sequence, Sequence(kept))
        else:
            delattr(item, sequence)

    keep(beam, "RangeShifterSequence", "RangeShifterNumber")
    if "NumberOfRangeShifters" in beam:
        beam.NumberOfRangeShifters = len(items(beam, "RangeShifterSequence"))
    for point in items(beam, "IonControlPointSequence"):
        keep(point, "RangeShifterSettingsSequence", "ReferencedRangeShifterNumber")


def _copy(item: Dataset, sequence: str) -> Dataset:
    """The kept elements of a sequence's item, deep.

    Raises:
        PlanError: What should be a number is none.
    """
    copy = Dataset()
    for keyword in KEPT[sequence]:
        if keyword not in item:
            continue
        if keyword in KEPT:
            setattr(copy, keyword, Sequence(_copy(inner, keyword) for inner in items(item, keyword)))
        else:
            element = item[keyword]
            if dictionary_VR(element.tag) in NUMERIC:  # pydicom hands a damaged number on as text
                numbers(item, keyword)
            copy.add(deepcopy(element))
    if sequence == "IonBeamSequence":
        for count, devices, _ in COUNTED:  # the scanning magnets stay behind, for example
            if count in copy:
                setattr(copy, count, len(items(copy, devices)))
    if sequence == "IonControlPointSequence" and (spots := private_block(item)):
        block = copy.private_block(GROUP, CREATOR, create=True)
        for offset, raw in spots.items():
            block.add_new(offset, "UN", raw)
    return copy


def _write(reduced: Dataset, target: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTIonPlanStorage
    meta.MediaStorageSOPInstanceUID = reduced.SOPInstanceUID
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_NAME
    try:
        with whole_file(target) as file:
            FileDataset("", reduced, preamble=b"\0" * 128, file_meta=meta).save_as(
                file, implicit_vr=True, little_endian=True, enforce_file_format=True
            )
    except OSError as error:
        raise InfrastructureError(
            f"the reduced plan cannot be written: {error.strerror}", where=Where(kind=KIND)
        ) from None

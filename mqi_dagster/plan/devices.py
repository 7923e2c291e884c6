"""What stands in a beam's way (PS3.3 C.8.8.25): each device is modelled, refused, or named as left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.datadict import dictionary_description, dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset

from mqi_dagster.plan.elements import (
    integer,
    items,
    number,
    numbers,
    optional_integer,
    optional_number,
    refuse,
    required_text,
    text,
)
from mqi_dagster.plan.model import (
    Block,
    Floats,
    LeafPositions,
    MultileafCollimator,
    PlanLayer,
    PlanRangeShifter,
)

COUNTED = (
    ("NumberOfWedges", "IonWedgeSequence", "wedges"),
    ("NumberOfCompensators", "IonRangeCompensatorSequence", "range compensators"),
    ("NumberOfBoli", "ReferencedBolusSequence", "boli"),
    ("NumberOfBlocks", "IonBlockSequence", "blocks"),
    ("NumberOfRangeShifters", "RangeShifterSequence", "range shifters"),
    ("NumberOfLateralSpreadingDevices", "LateralSpreadingDeviceSequence", "lateral spreading devices"),
    ("NumberOfRangeModulators", "RangeModulatorSequence", "range modulators"),
)
"""Every count of devices in a beam (PS3.3 C.8.8.25), and the sequence that describes as many."""

UNSUPPORTED = {
    "IonRangeCompensatorSequence": "a range compensator",
    "IonWedgeSequence": "a wedge",
    "RangeModulatorSequence": "a range modulator",
    "ReferencedBolusSequence": "a bolus",
    "ApplicatorSequence": "an applicator",
    "EnhancedRTBeamLimitingDeviceSequence": "an enhanced beam limiting device",
    "IonWedgePositionSequence": "a wedge",
    "RangeModulatorSettingsSequence": "a range modulator",
    "EnhancedRTBeamLimitingOpeningSequence": "an enhanced beam limiting device",
}
"""Devices that change the dose and that no engine here models: of the beam, and of its control points."""

TRAYS = (
    "TotalWedgeTrayWaterEquivalentThickness",
    "TotalCompensatorTrayWaterEquivalentThickness",
    "TotalBlockTrayWaterEquivalentThickness",
)
"""What trays take from the range."""

MODELLED = (
    "IonBeamLimitingDeviceSequence",
    "IonBlockSequence",
    "IonControlPointSequence",
    "LateralSpreadingDeviceSequence",
    "RangeShifterSequence",
    "SnoutSequence",
)
"""Read here, each with its own rule; the snout holds what is on it and is nothing else."""

NO_DEVICES = (
    "DeviceMotionControlSequence",
    "PlannedVerificationImageSequence",
    "ReferencedDoseSequence",
    "ReferencedReferenceImageSequence",
    "ReferencedDefinedDeviceSequence",
    "UDISequence",
)
"""Sequences of the module that describe nothing in the beam's way."""

MAGNET = "MAGNET"
"""Type of a lateral spreading device that is a scanning magnet: the spots are its work."""

LEAVES = ("MLCX", "MLCY")
JAWS = ("X", "Y", "ASYMX", "ASYMY")


def refuse_unsupported(beam: Dataset, points: Sequence[Dataset], number_of_beam: int) -> None:
    """Refuse a beam with a device that would be ignored in the dose, or that is counted and not described.

    Raises:
        PlanError: The beam has such a device.
    """
    for keyword, sequence, devices in COUNTED:
        count = optional_integer(beam, keyword, number_of_beam)
        described = len(items(beam, sequence))
        if count is not None and count != described:
            refuse(f"says {count} {devices}, but describes {described}", number_of_beam)
    for keyword, device in UNSUPPORTED.items():
        if any(items(place, keyword) for place in (beam, *points)):
            refuse(f"has {device}, which is not supported", number_of_beam)
    for keyword in TRAYS:
        if optional_number(beam, keyword, number_of_beam):
            refuse("has a tray that takes from the range, which is not supported", number_of_beam)
    for spreader in items(beam, "LateralSpreadingDeviceSequence"):
        if text(spreader, "LateralSpreadingDeviceType") != MAGNET:
            refuse("has a lateral spreading device that is no magnet, which is not supported", number_of_beam)
    for limiter in items(beam, "IonBeamLimitingDeviceSequence"):
        if text(limiter, "RTBeamLimitingDeviceType") not in (*LEAVES, *JAWS):
            refuse("has a beam limiting device of an unknown type, which is not supported", number_of_beam)
    support = text(beam, "PatientSupportType")
    if support not in ("", "TABLE"):
        refuse("has a patient support that is no table, which is not supported", number_of_beam)


def not_simulated(beam: Dataset) -> tuple[str, ...]:
    """What stands in the way of a beam and is left out of the dose, to be named wherever the dose is.

    Args:
        beam: Item of the Ion Beam Sequence, without anything that is refused.
    """
    limiting = {
        text(device, "RTBeamLimitingDeviceType") for device in items(beam, "IonBeamLimitingDeviceSequence")
    }
    found = {
        "block": bool(items(beam, "IonBlockSequence")),
        "MLC": bool(limiting & set(LEAVES)),
        "jaws": bool(limiting & set(JAWS)),
        "general accessory": bool(items(beam, "GeneralAccessorySequence")),
    }
    named = [device for device, there in found.items() if there]
    known = {*MODELLED, *NO_DEVICES, *UNSUPPORTED, "GeneralAccessorySequence"}
    for tag in beam.keys():  # noqa: SIM118  # the data set itself would give decoded elements
        keyword = "" if tag.is_private else keyword_for_tag(tag)
        if keyword and keyword not in known and dictionary_VR(tag) == "SQ" and items(beam, keyword):
            named.append(dictionary_description(tag).removesuffix(" Sequence").lower())
    return tuple(named)


def read_range_shifters(
    beam: Dataset, points: Sequence[Dataset], number_of_beam: int
) -> tuple[PlanRangeShifter, ...]:
    """The range shifters that stand in the beam.

    Those whose setting at the first control point is IN; all of them where it has no settings.

    Raises:
        PlanError: A setting is missing, neither IN nor OUT, or changes during the beam.
    """
    shifters = items(beam, "RangeShifterSequence")
    settings = _settings(points[0], number_of_beam)
    for point in points[1:]:
        for changed, setting in _settings(point, number_of_beam).items():
            before = settings.get(changed, Dataset())
            if text(setting, "RangeShifterSetting") != text(before, "RangeShifterSetting"):
                refuse(
                    f"changes range shifter {changed} during the beam; this is not supported", number_of_beam
                )
    known = [integer(shifter, "RangeShifterNumber", number_of_beam) for shifter in shifters]
    if len(set(known)) != len(known):
        refuse("has two range shifters of the same number", number_of_beam)
    if not set(settings) <= set(known):
        refuse("sets a range shifter that it does not have", number_of_beam)

    found = []
    for number_of_shifter, shifter in zip(known, shifters, strict=True):
        given = settings.get(number_of_shifter)
        if settings and given is None:
            refuse(f"does not say whether range shifter {number_of_shifter} is in the beam", number_of_beam)
        position = "IN" if given is None else text(given, "RangeShifterSetting")
        if position not in ("IN", "OUT"):
            refuse(f"the setting of range shifter {number_of_shifter} is neither IN nor OUT", number_of_beam)
        if position == "IN":
            source = Dataset() if given is None else given
            found.append(
                PlanRangeShifter(
                    number=number_of_shifter,
                    shifter_id=required_text(shifter, "RangeShifterID", number_of_beam),
                    isocenter_distance_mm=optional_number(
                        source, "IsocenterToRangeShifterDistance", number_of_beam
                    ),
                    water_equivalent_thickness_mm=optional_number(
                        source, "RangeShifterWaterEquivalentThickness", number_of_beam
                    ),
                )
            )
    return tuple(found)


def _settings(point: Dataset, number_of_beam: int) -> dict[int, Dataset]:
    return {
        integer(setting, "ReferencedRangeShifterNumber", number_of_beam): setting
        for setting in items(point, "RangeShifterSettingsSequence")
    }


def read_blocks(beam: Dataset, number_of_beam: int) -> tuple[Block, ...]:
    """Every block of the beam, with its outline in DICOM's millimetres.

    Raises:
        PlanError: A block lacks its number, thickness or outline.
    """
    blocks = []
    for item in items(beam, "IonBlockSequence"):
        block = integer(item, "BlockNumber", number_of_beam)
        data = numbers(item, "BlockData", number_of_beam)
        points = integer(item, "BlockNumberOfPoints", number_of_beam)
        if points < 3 or len(data) != 2 * points:
            refuse(f"block {block} says {points} points, but holds {len(data)} coordinates", number_of_beam)
        thickness = number(item, "BlockThickness", number_of_beam)
        if thickness <= 0:
            refuse(f"block {block} has no thickness", number_of_beam)
        blocks.append(Block(block, thickness, text(item, "MaterialID"), data.reshape(-1, 2)))
    if len({block.number for block in blocks}) != len(blocks):
        refuse("has two blocks of the same number", number_of_beam)
    return tuple(blocks)


def read_mlc(
    beam: Dataset, points: Sequence[Dataset], layers: Sequence[PlanLayer], number_of_beam: int
) -> MultileafCollimator | None:
    """The multileaf collimator with the leaf positions of every layer, or None where the beam has none.

    Raises:
        PlanError: There are several, or boundaries and positions contradict the number of leaf pairs.
    """
    devices = [
        device
        for device in items(beam, "IonBeamLimitingDeviceSequence")
        if text(device, "RTBeamLimitingDeviceType") in LEAVES
    ]
    if not devices:
        return None
    if len(devices) > 1:
        refuse("has several multileaf collimators, which is not supported", number_of_beam)
    pairs = integer(devices[0], "NumberOfLeafJawPairs", number_of_beam)
    boundaries = numbers(devices[0], "LeafPositionBoundaries", number_of_beam)
    if pairs < 1 or len(boundaries) != pairs + 1:
        refuse(
            f"its multileaf collimator has {pairs} leaf pairs, but {len(boundaries)} boundaries",
            number_of_beam,
        )
    device_type = text(devices[0], "RTBeamLimitingDeviceType")
    by_point: list[Floats | None] = []
    current: Floats | None = None
    for point in points:
        for position in items(point, "BeamLimitingDevicePositionSequence"):
            if text(position, "RTBeamLimitingDeviceType") == device_type:
                current = numbers(position, "LeafJawPositions", number_of_beam)
        by_point.append(current)
    found = []
    for layer in layers:
        leaves = by_point[layer.control_point_index]
        if leaves is None or len(leaves) != 2 * pairs:
            held = 0 if leaves is None else len(leaves)
            refuse(
                f"its multileaf collimator has {pairs} leaf pairs, but {held} positions",
                number_of_beam,
                layer.number,
            )
        left, right = np.split(leaves, 2)
        found.append(LeafPositions(layer.energy_mev, left, right))
    return MultileafCollimator(boundaries, tuple(found))

"""PlanInfo.txt: which plan, beam and layers one delivery folder belongs to (docs/formats.md 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from mqi_dagster.delivery.machine_files import PLAN_INFO, machine_file
from mqi_dagster.delivery.text_file import is_text, read_text_file, whole_number
from mqi_dagster.errors import DeliveryError, Where

KIND = "PlanInfo"
KEYS = (
    "DICOM_PATIENT_ID",
    "DICOM_STUDY_INS_UID",
    "DICOM_BEAM_NUMBER",
    "TCSC_IRRAD_DATETIME",
    "TCSC_PATIENT_ID",
    "TCSC_PLAN_NUMBER",
    "TCSC_FIELD_NUMBER",
    "START_LAYER_NUMBER",
    "STOP_LAYER_NUMBER",
    "SHARE_DIR",
    "ACTUAL_DIR",
)
"""Every key the machine writes; each must stand exactly once. Further keys are allowed and unused."""
FREE_KEYS = ("SHARE_DIR", "ACTUAL_DIR")
"""Folders of the machine's own: may be empty, and in the encoding of its system (CP949, for example)."""


@dataclass(frozen=True, slots=True)
class PlanInfo:
    """The content of one PlanInfo.txt."""

    patient_id: str = field(repr=False)
    study_instance_uid: str = field(repr=False)
    beam_number: int
    """DICOM_BEAM_NUMBER: the only key by which a delivery finds its beam."""
    result_id: str
    """TCSC_IRRAD_DATETIME, 16 digits: the machine's own local time, to the hundredth of a second."""
    record_number: str = field(repr=False)
    """TCSC_PATIENT_ID: the number in the record's file names, without leading zeros."""
    plan_number: int
    field_number: int
    first_layer: int
    last_layer: int
    actual_dir: str = field(repr=False)

    def irradiated_at(self, zone: ZoneInfo) -> tuple[datetime, ...]:
        """The moment of irradiation in UTC; in the hour that autumn repeats both, the earlier first.

        Args:
            zone: The zone in which the machine writes its times.
        """
        local = _machine_time(self.result_id).replace(tzinfo=zone)
        before, after = (local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
        # In the hour that spring leaves out the second of the two is no later one.
        return (before, after) if before < after else (before,)


def _machine_time(digits: str) -> datetime:
    whole = datetime.strptime(digits[:14], "%Y%m%d%H%M%S")
    return whole.replace(microsecond=int(digits[14:16]) * 10_000)


def machine_time(digits: str, zone: ZoneInfo) -> datetime | None:
    """The UTC time of a 16-digit machine time (YYYYMMDDHHMMSScc); None if it is none."""
    if len(digits) != 16 or not (digits.isascii() and digits.isdigit()):
        return None
    try:
        return _machine_time(digits).replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def read_plan_info(folder: Path) -> PlanInfo:
    """Read the PlanInfo.txt of a delivery folder.

    Raises:
        DeliveryError: The file is missing or unreadable, a key is missing, given twice, or malformed.
    """
    path = machine_file(folder, PLAN_INFO, KIND)
    return parse_plan_info(read_text_file(path or folder / PLAN_INFO, KIND))


def parse_plan_info(text: str) -> PlanInfo:
    """PlanInfo from its text: one ``KEY,VALUE`` a line, split at the first comma.

    Raises:
        DeliveryError: A line has no comma; a key is missing, given twice, malformed, or no text.
    """
    values = _values(text)
    first = whole_number(values["START_LAYER_NUMBER"], "START_LAYER_NUMBER", KIND, at_least=1)
    last = whole_number(values["STOP_LAYER_NUMBER"], "STOP_LAYER_NUMBER", KIND, at_least=1)
    if first > last:
        raise DeliveryError(
            f"START_LAYER_NUMBER {first} lies behind STOP_LAYER_NUMBER {last}", where=Where(kind=KIND)
        )
    result_id = values["TCSC_IRRAD_DATETIME"]
    if machine_time(result_id, ZoneInfo("UTC")) is None:
        raise DeliveryError("TCSC_IRRAD_DATETIME is not a time of 16 digits", where=Where(kind=KIND))
    record_number = values["TCSC_PATIENT_ID"]
    if not (record_number.isascii() and record_number.isdigit()):
        raise DeliveryError("TCSC_PATIENT_ID is not a number", where=Where(kind=KIND))
    return PlanInfo(
        patient_id=values["DICOM_PATIENT_ID"],
        study_instance_uid=values["DICOM_STUDY_INS_UID"],
        beam_number=whole_number(values["DICOM_BEAM_NUMBER"], "DICOM_BEAM_NUMBER", KIND),
        result_id=result_id,
        record_number=record_number.lstrip("0") or "0",
        plan_number=whole_number(values["TCSC_PLAN_NUMBER"], "TCSC_PLAN_NUMBER", KIND),
        field_number=whole_number(values["TCSC_FIELD_NUMBER"], "TCSC_FIELD_NUMBER", KIND),
        first_layer=first,
        last_layer=last,
        actual_dir=values["ACTUAL_DIR"],
    )


def _values(text: str) -> Mapping[str, str]:
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        key, comma, value = line.partition(",")
        key = key.strip()
        if not comma:
            raise DeliveryError(f"line {number} is not KEY,VALUE", where=Where(kind=KIND))
        if key in values:
            raise DeliveryError(f"key of line {number} stands twice", where=Where(kind=KIND))
        values[key] = value.strip()
    missing = [key for key in KEYS if key not in values]
    if missing:
        raise DeliveryError(f"lacks {', '.join(missing)}", where=Where(kind=KIND))
    used = [key for key in KEYS if key not in FREE_KEYS]
    foreign = [key for key in used if not is_text(values[key])]
    if foreign:
        raise DeliveryError(
            f"the value of {', '.join(foreign)} is not ASCII or UTF-8", where=Where(kind=KIND)
        )
    empty = [key for key in used if not values[key]]
    if empty:
        raise DeliveryError(f"no value for {', '.join(empty)}", where=Where(kind=KIND))
    return values

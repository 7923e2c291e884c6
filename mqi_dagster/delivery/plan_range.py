"""PlanRange.txt: which energy, range codes and files each delivered layer has (docs/formats.md 1).

Columns are found by their names in the header, and layers by LAYER_NO: the order of columns and rows
carries no meaning.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

from mqi_dagster.delivery.machine_files import PLAN_RANGES, machine_file
from mqi_dagster.delivery.text_file import is_text, read_text_file, whole_number
from mqi_dagster.errors import DeliveryError, Where

KIND = "PlanRange"
COLUMNS = (
    "RESULT_ID",
    "LAYER_NO",
    "LAYER_ENERGY",
    "PATIENT_ID",
    "FLD_NO",
    "DOSE1_RANGE",
    "DOSE2_RANGE",
    "SCAN_OUT_FL_NM",
    "PLAN_SCAN_OUT_FL_NM",
)
"""The columns in use; each must stand in the header exactly once."""


@dataclass(frozen=True, slots=True)
class PlanRangeRow:
    """One delivered layer."""

    result_id: str
    layer: int
    """LAYER_NO, 1-based within the beam."""
    energy_mev: float
    patient_id: str = field(repr=False)
    field_number: int
    dose1_range: int
    """Range code of dose monitor 1."""
    dose2_range: int
    record_name: str = field(repr=False)
    """File name of the record (`.ptn`)."""
    machine_plan_name: str | None = field(repr=False)
    """File name of the machine's plan (`.mgn`); None where the cell is empty."""


def plan_range_path(folder: Path) -> Path:
    """The PlanRange file of a delivery folder.

    Raises:
        DeliveryError: There is none, or both spellings are there.
    """
    found = [path for name in PLAN_RANGES if (path := machine_file(folder, name, KIND)) is not None]
    if not found:
        raise DeliveryError("PlanRange is missing", where=Where(kind=KIND))
    if len(found) > 1:
        raise DeliveryError("there are a PlanRange.txt and a PlanRange.csv", where=Where(kind=KIND))
    return found[0]


def read_plan_range(path: Path) -> tuple[PlanRangeRow, ...]:
    """Read a PlanRange file.

    Returns:
        The rows in ascending LAYER_NO.

    Raises:
        DeliveryError: The file is unreadable, a column is missing, a cell malformed, a layer given twice.
    """
    return parse_plan_range(read_text_file(path, KIND))


def parse_plan_range(text: str) -> tuple[PlanRangeRow, ...]:
    """PlanRange from its text.

    Returns:
        The rows in ascending LAYER_NO.

    Raises:
        DeliveryError: A column is missing, a cell malformed, a layer given twice, or no layer is there.
    """
    lines = [cells for cells in csv.reader(text.splitlines()) if any(cell.strip() for cell in cells)]
    if not lines:
        raise DeliveryError("PlanRange is empty", where=Where(kind=KIND))
    header = [cell.strip() for cell in lines[0]]
    for column in COLUMNS:
        if header.count(column) != 1:
            fault = "lacks" if column not in header else "has more than one"
            raise DeliveryError(f"PlanRange {fault} column {column}", where=Where(kind=KIND))
    rows: dict[int, PlanRangeRow] = {}
    for number, cells in enumerate(lines[1:], start=1):
        if len(cells) != len(header):
            raise DeliveryError(
                f"row {number} has {len(cells)} cells instead of {len(header)}", where=Where(kind=KIND)
            )
        named = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        foreign = [column for column in COLUMNS if not is_text(named[column])]
        if foreign:
            raise DeliveryError(
                f"row {number}: {', '.join(foreign)} is not ASCII or UTF-8", where=Where(kind=KIND)
            )
        row = _row(named, number)
        if row.layer in rows:
            raise DeliveryError("the layer stands twice", where=Where(kind=KIND, layer=row.layer))
        rows[row.layer] = row
    if not rows:
        raise DeliveryError("PlanRange names no layer", where=Where(kind=KIND))
    return tuple(rows[layer] for layer in sorted(rows))


def _row(cells: dict[str, str], number: int) -> PlanRangeRow:
    try:
        layer = whole_number(cells["LAYER_NO"], "LAYER_NO", KIND, at_least=1)
    except DeliveryError as error:
        raise DeliveryError(f"row {number}: {error.message}", where=Where(kind=KIND)) from None
    where = Where(kind=KIND, layer=layer)
    try:
        return PlanRangeRow(
            result_id=cells["RESULT_ID"],
            layer=layer,
            energy_mev=_energy(cells["LAYER_ENERGY"]),
            patient_id=cells["PATIENT_ID"],
            field_number=whole_number(cells["FLD_NO"], "FLD_NO", KIND),
            dose1_range=whole_number(cells["DOSE1_RANGE"], "DOSE1_RANGE", KIND),
            dose2_range=whole_number(cells["DOSE2_RANGE"], "DOSE2_RANGE", KIND),
            record_name=_file_name(cells["SCAN_OUT_FL_NM"], "SCAN_OUT_FL_NM"),
            machine_plan_name=(
                _file_name(cells["PLAN_SCAN_OUT_FL_NM"], "PLAN_SCAN_OUT_FL_NM")
                if cells["PLAN_SCAN_OUT_FL_NM"]
                else None
            ),
        )
    except DeliveryError as error:
        raise error.at(where) from None


def _energy(text: str) -> float:
    try:
        energy = float(text)
    except ValueError:
        energy = math.nan
    if not math.isfinite(energy) or energy <= 0:
        raise DeliveryError("LAYER_ENERGY is not an energy in MeV")
    return energy


def _file_name(text: str, column: str) -> str:
    if not text:
        raise DeliveryError(f"{column} names no file")
    # A name with a folder in it could lead out of the delivery.
    if "/" in text or "\\" in text or text in (".", ".."):
        raise DeliveryError(f"{column} is not a plain file name")
    return text

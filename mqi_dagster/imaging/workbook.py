"""Tables as one Excel workbook, row by row: none is held in memory, and none is cut without a word."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from xlsxwriter import Workbook
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from mqi_dagster.errors import shown

CONTENTS = "contents"
_ROWS_AT_ONCE = 2_000
_LONGEST_CELL = 32_767
_WIDEST, _NARROWEST = 48, 9


@dataclass(frozen=True, slots=True)
class SheetLimits:
    """What a sheet can hold."""

    rows: int = 1_048_576
    columns: int = 16_384


EXCEL = SheetLimits()


@dataclass(frozen=True, slots=True)
class SheetContent:
    """What has become of a table in a workbook."""

    table: str
    rows: int
    columns: int
    sheets: tuple[str, ...]
    """Those that hold it, one after the other."""
    remark: str
    """What is not in them; empty where it is all of it."""


def write_workbook(path: Path, tables: Mapping[str, Path], limits: SheetLimits = EXCEL) -> list[SheetContent]:
    """Write tables into a workbook: a sheet each, and one in front that says what they hold.

    Header rows are frozen and can be filtered by. A table with more rows than a sheet has goes on in another
    sheet; columns that no sheet has room for, and the ends of texts that no cell has room for, are left out,
    and that is said. A text is a text whatever it begins with: none is taken for a formula, link or number.

    Args:
        path: The workbook.
        tables: Parquet files, by the name of the sheet.
        limits: Of a sheet.

    Returns:
        What stands in the sheet in front.

    Raises:
        OSError: The disk is full, or fails.
    """
    # What it writes on the way stands beside the workbook, and not in a temporary folder of the machine.
    options = {"constant_memory": True, "tmpdir": str(path.parent)}
    counts = {name: _size(source) for name, source in tables.items()}
    plans = {name: _plan(name, *count, limits) for name, count in counts.items()}
    with Workbook(str(path), options) as book:
        # The same tables are the same bytes.
        book.set_properties({"created": datetime(2000, 1, 1, tzinfo=UTC)})
        header = book.add_format({"bold": True, "bottom": 1, "text_wrap": True, "valign": "top"})
        front = book.add_worksheet(CONTENTS)
        told = []
        for name, source in tables.items():
            cut = _write_table(book, plans[name], source, header, limits)
            plan = plans[name]
            remark = "; ".join(part for part in (plan.remark, cut) if part)
            told.append(SheetContent(plan.table, plan.rows, plan.columns, plan.sheets, remark))
        _write_front(front, told, header)
    return told


def _size(source: Path) -> tuple[int, int]:
    table = pl.scan_parquet(source)
    return table.select(pl.len()).collect().item(), len(table.collect_schema())


def _plan(name: str, rows: int, columns: int, limits: SheetLimits) -> SheetContent:
    count = max(1, -(-rows // (limits.rows - 1)))
    sheets = tuple(name if number == 0 else f"{name} {number + 1}" for number in range(count))
    left_out = columns - limits.columns
    remark = f"{left_out} columns have no room in a sheet: the Parquet file has them" if left_out > 0 else ""
    return SheetContent(name, rows, min(columns, limits.columns), sheets, remark)


def _write_table(
    book: Workbook, plan: SheetContent, source: Path, header: Format, limits: SheetLimits
) -> str:
    """Write the sheets of a table; what of its texts was left out, in words."""
    names = pl.scan_parquet(source).collect_schema().names()[: plan.columns]
    cut = 0
    for number, name in enumerate(plan.sheets):
        begin = number * (limits.rows - 1)
        sheet = book.add_worksheet(name)
        sheet.freeze_panes(1, 1)
        for place, column in enumerate(names):
            sheet.set_column(place, place, min(_WIDEST, max(_NARROWEST, len(column) + 2)))
            sheet.write_string(0, place, column, header)
        row = 0
        for row, values in enumerate(_rows(source, names, begin, limits.rows - 1), start=1):
            for place, value in enumerate(values):
                cut += _write_cell(sheet, row, place, value)
        if names:
            sheet.autofilter(0, 0, row, len(names) - 1)
    return f"in {cut} cells the end of a text has no room: the Parquet file has it" if cut else ""


def _rows(source: Path, names: Sequence[str], begin: int, count: int) -> Iterator[tuple[object, ...]]:
    table = pl.scan_parquet(source).select(names)
    for first in range(begin, begin + count, _ROWS_AT_ONCE):
        some = table.slice(first, min(_ROWS_AT_ONCE, begin + count - first)).collect()
        yield from some.iter_rows()
        if some.height < _ROWS_AT_ONCE:
            return


def _write_cell(sheet: Worksheet, row: int, place: int, value: object) -> int:
    """Write a value; how many texts were cut."""
    if value is None:
        return 0
    if isinstance(value, bool):
        sheet.write_boolean(row, place, value)
    elif isinstance(value, int | float) and math.isfinite(value):
        sheet.write_number(row, place, value)
    else:
        text = str(value)
        sheet.write_string(row, place, shown(text, _LONGEST_CELL - 1))
        return int(len(text) > _LONGEST_CELL - 1)
    return 0


def _write_front(sheet: Worksheet, told: Sequence[SheetContent], header: Format) -> None:
    sheet.freeze_panes(1, 0)
    for place, (name, width) in enumerate(
        (("table", 16), ("rows", 12), ("columns", 12), ("sheets", 40), ("left out", 80))
    ):
        sheet.set_column(place, place, width)
        sheet.write_string(0, place, name, header)
    for row, one in enumerate(told, start=1):
        values = (one.table, one.rows, one.columns, ", ".join(one.sheets), one.remark or "nothing")
        for place, value in enumerate(values):
            _write_cell(sheet, row, place, value)

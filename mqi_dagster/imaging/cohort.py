"""The tables of all courses together: Parquet, and one Excel workbook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mqi_dagster.files import whole_file
from mqi_dagster.imaging.course_tables import (
    COURSE_FACTS,
    COURSE_STATE,
    COURSES,
    TABLES,
    TableColumn,
    described_columns,
    schema_of,
)
from mqi_dagster.imaging.workbook import EXCEL, SheetContent, SheetLimits, write_workbook

WORKBOOK = "cohort.xlsx"
COLUMNS = "columns"
"""The table that says what the columns of the others are."""


@dataclass(frozen=True, slots=True)
class CohortCourse:
    """One course among all."""

    key: str
    state: str
    reason: str
    """Why it has failed or waits."""
    part: Path | None
    """Folder of `write_course_tables`; None where it has no report on its present files."""


def write_cohort(
    courses: Sequence[CohortCourse], folder: Path, limits: SheetLimits = EXCEL
) -> list[SheetContent]:
    """Write the tables of all courses, each as Parquet, and a workbook of all of them.

    The rows of one course after the other are passed on: no table is in memory as a whole.

    Args:
        courses: Every one, in the order in which their rows shall stand.
        folder: Where the files are written.
        limits: Of a sheet of the workbook.

    Returns:
        What stands in the workbook, and what does not.

    Raises:
        OSError: The disk is full, or fails.
    """
    described = described_columns()
    for name in TABLES:
        if name == COURSES:
            _write(_courses(courses), folder / f"{name}.parquet")
        else:
            _join(_parts(courses, name), described[name], folder / f"{name}.parquet")
    tables = {name: folder / f"{name}.parquet" for name in TABLES}
    tables[COLUMNS] = folder / f"{COLUMNS}.parquet"
    _write(_columns(tables, described), tables[COLUMNS])
    return write_workbook(folder / WORKBOOK, tables, limits)


def _parts(courses: Sequence[CohortCourse], table: str) -> Iterator[Path]:
    for one in courses:
        if one.part is not None and (one.part / f"{table}.parquet").is_file():
            yield one.part / f"{table}.parquet"


def _join(parts: Iterator[Path], columns: Sequence[TableColumn], path: Path) -> None:
    """Put the rows of all courses below each other; a column that one does not have is null there."""
    found = [pl.scan_parquet(part) for part in parts]
    if not found:
        _write(pl.DataFrame(schema=schema_of(columns)), path)
        return
    pl.concat(found, how="diagonal_relaxed").sink_parquet(path)
    path.chmod(0o600)


def _courses(courses: Sequence[CohortCourse]) -> pl.DataFrame:
    """A row for each course; facts of those alone that have a report on their present files."""
    rows: list[dict[str, object]] = []
    for one in courses:
        facts: Mapping[str, object] = {}
        if one.part is not None:
            facts = pl.read_parquet(one.part / f"{COURSES}.parquet").row(0, named=True)
        state = {"course": one.key, "state": one.state, "reason": one.reason or None}
        rows.append({**facts, **state, "in_tables": one.part is not None})
    return pl.DataFrame(rows, schema=schema_of((*COURSE_STATE, *COURSE_FACTS)))


def _columns(tables: Mapping[str, Path], described: Mapping[str, Sequence[TableColumn]]) -> pl.DataFrame:
    """Unit and meaning of every column that a table has."""
    rows = []
    for name in TABLES:
        known = {one.name: one for one in described[name]}
        for column in pl.scan_parquet(tables[name]).collect_schema().names():
            one = known.get(column)
            rows.append((name, column, one.unit, one.meaning) if one else (name, column, "", "not described"))
    names = ("table", "name", "unit", "meaning")
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def _write(table: pl.DataFrame, path: Path) -> None:
    with whole_file(path) as stream:
        table.write_parquet(stream)

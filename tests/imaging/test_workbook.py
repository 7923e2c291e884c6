"""Tables in a workbook: what a sheet cannot hold goes on in the next or is said, and a text stays a text."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mqi_dagster.imaging.workbook import SheetLimits, write_workbook
from tests.radiotherapy.sheets import read_sheets


def written(folder: Path, limits: SheetLimits, **tables: pl.DataFrame) -> Path:
    sources = {}
    for name, table in tables.items():
        sources[name] = folder / f"{name}.parquet"
        table.write_parquet(sources[name])
    write_workbook(folder / "book.xlsx", sources, limits)
    return folder / "book.xlsx"


def test_a_long_table_goes_on_in_another_sheet(tmp_path: Path) -> None:
    table = pl.DataFrame({"n": list(range(7))})
    sheets = read_sheets(written(tmp_path, SheetLimits(rows=4, columns=9), long=table))
    assert list(sheets) == ["contents", "long", "long 2", "long 3"]
    assert [[row["A"] for row in sheets[name].rows] for name in list(sheets)[1:]] == [
        ["n", 0.0, 1.0, 2.0], ["n", 3.0, 4.0, 5.0], ["n", 6.0],
    ]  # fmt: skip
    assert list(sheets["contents"].rows[1].values()) == ["long", 7.0, 1.0, "long, long 2, long 3", "nothing"]


def test_a_wide_table_says_what_is_left_out(tmp_path: Path) -> None:
    table = pl.DataFrame({name: [1] for name in "abcde"})
    sheets = read_sheets(written(tmp_path, SheetLimits(rows=9, columns=3), wide=table))
    assert sheets["wide"].rows[0] == {"A": "a", "B": "b", "C": "c"}
    assert sheets["contents"].rows[1]["E"] == "2 columns have no room in a sheet: the Parquet file has them"


def test_texts_are_texts_and_numbers_numbers(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "text": ['=HYPERLINK("x")', "+1", "https://example.org", "12", "\x1b[2J", "ß" * 40_000],
            "number": [1.5, None, float("nan"), float("inf"), -2.0, 0.0],
            "truth": [True, False, None, None, None, None],
        }
    )
    sheets = read_sheets(written(tmp_path, SheetLimits(), mixed=table))
    rows = sheets["mixed"].rows[1:]
    assert [row["A"] for row in rows[:5]] == [
        '=HYPERLINK("x")',
        "+1",
        "https://example.org",
        "12",
        "\\x1b[2J",
    ]
    assert rows[5]["A"] == "ß" * 32_766 + "…"
    assert [row.get("B") for row in rows] == [1.5, None, "nan", "inf", -2.0, 0.0]
    assert [row.get("C") for row in rows] == [True, False, None, None, None, None]
    assert sheets["mixed"].formulas == 0
    assert (
        sheets["contents"].rows[1]["E"] == "in 1 cells the end of a text has no room: the Parquet file has it"
    )


def test_nothing_is_left_beside_the_workbook(tmp_path: Path) -> None:
    written(tmp_path, SheetLimits(), one=pl.DataFrame({"a": [1]}), none=pl.DataFrame({"a": []}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book.xlsx", "none.parquet", "one.parquet"]

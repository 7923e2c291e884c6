"""The columns of the dose-volume table say what their names promise."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.imaging.dvh import Dvh
from mqi_dagster.imaging.dvh_table import (
    DOSE_COLUMNS,
    LABEL_COLUMNS,
    METRICS_SCHEMA,
    STATUS_COLUMN,
    STATUS_MEANING,
    figures,
)

FORMATS = Path(__file__).parents[2] / "docs" / "formats.md"


def ramp(volume_cm3: float = 100.0, covered: float = 1.0) -> Dvh:
    """Doses from 0 to 80 Gy, of each the same volume."""
    doses = np.linspace(80.0, 0.0, 80_001)
    parts = np.full(len(doses), volume_cm3 * covered / len(doses))
    return Dvh(doses, np.cumsum(parts), volume_cm3)


def test_the_figures_of_a_dose_that_rises_evenly() -> None:
    found = figures(ramp(), prescription_gy=50.0)
    expected = {
        "Volume (cm³)": 100.0, "dose_coverage_percent": 100.0,
        "DmeanGy": 40.0, "DmaxGy": 80.0, "DminGy": 0.0, "D95Gy": 4.0, "D98Gy": 1.6, "D2Gy": 78.4,
        "D50Gy": 40.0, "SpreadGy": 80.0, "HI": 1.92, "HI%": 1.92, "D1ccGy": 79.2, "D0.1ccGy": 79.92,
        "D1cc%": 158.4, "D0.1cc%": 159.84,
        "IntegralDose_Gycm3": 4000.0, "Dmean%": 80.0, "Dmax%": 160.0, "Dmin%": 0.0, "D95%": 8.0, "D98%": 3.2,
        "D2%": 156.8, "D50%": 80.0, "Spread%": 160.0, "V95%Rx (cm³)": 40.625, "V95%Rx (%)": 40.625,
        "V100%Rx (cm³)": 37.5, "V100%Rx (%)": 37.5, "V1Gy (cm³)": 98.75, "V20Gy (%)": 75.0,
        "V60Gy (cm³)": 25.0,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.005)
    assert found["dose_metric_status"] == "measured"


def test_there_is_a_pair_of_columns_for_each_gray_up_to_sixty() -> None:
    names = [column.name for column in DOSE_COLUMNS]
    assert len(names) == len(set(names)) == 147
    assert {f"V{level}Gy ({unit})" for level in range(1, 61) for unit in ("cm³", "%")} <= set(names)


def test_without_a_prescription_nothing_is_given_in_percent_of_it() -> None:
    found = figures(ramp(), prescription_gy=None)
    absent = {name for name, value in found.items() if value is None}
    assert absent == {
        "Dmean%", "Dmax%", "Dmin%", "D95%", "D98%", "D2%", "D50%", "Spread%", "HI%",
        "D1cc%", "D0.1cc%", "V95%Rx (cm³)", "V95%Rx (%)", "V100%Rx (cm³)", "V100%Rx (%)",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("median", "prescription", "hi"),
    [(5.0, 50.0, 1.6), (4.9, 50.0, None), (5.0, None, 1.6), (0.79, None, None), (0.0, 50.0, None)],
)
def test_there_is_a_homogeneity_index_only_where_the_median_dose_is_one(
    median: float, prescription: float | None, hi: float | None
) -> None:
    # D2 8 Gy, D98 0 Gy.
    doses = np.array([8.0, median, 0.0])
    found = figures(Dvh(doses, np.array([10.0, 90.0, 100.0]), 100.0), prescription)
    assert found["HI"] == (pytest.approx(hi) if hi else None)
    assert found["HI%"] == (pytest.approx(hi) if hi and prescription else None)


def test_figures_have_no_digits_of_binary_fractions() -> None:
    third, whole = 60 * (1 + 3e-16), 100 / 3
    found = figures(Dvh(np.array([third, third]), np.array([0.1, whole * (1 + 6e-13)]), whole), 60.0)
    assert found["dose_coverage_percent"] == 100.0
    assert (found["DmaxGy"], found["Dmax%"], found["Volume (cm³)"]) == (60.0, 100.0, 33.333333)
    assert found["V1Gy (cm³)"] == 33.333333


def test_a_small_structure_has_no_dose_of_more_than_it_has() -> None:
    found = figures(ramp(volume_cm3=0.5), None)
    assert found["D1ccGy"] is None
    assert found["D0.1ccGy"] == pytest.approx(64.0, abs=0.01)


@pytest.mark.parametrize(("covered", "status"), [(0.998, "partly_outside_dose_grid"), (0.9991, "measured")])
def test_where_the_dose_of_a_part_is_unknown_no_dose_is_given(covered: float, status: str) -> None:
    found = figures(ramp(covered=covered), 50.0)
    assert found["dose_metric_status"] == status
    assert found["dose_coverage_percent"] == pytest.approx(100 * covered)
    assert found["Volume (cm³)"] == 100.0
    given = [name for name in ("DmeanGy", "D95Gy", "DmaxGy", "V20Gy (cm³)") if found[name] is not None]
    assert len(given) == (4 if status == "measured" else 0)


def test_a_structure_outside_of_the_dose_or_without_volume_says_so() -> None:
    none = np.empty(0)
    outside = figures(Dvh(none, none, 7.0), 50.0)
    assert (outside["dose_metric_status"], outside["Volume (cm³)"]) == ("outside_dose_grid", 7.0)
    assert outside["DmeanGy"] is None
    assert figures(Dvh(none, none, 0.0), 50.0)["dose_metric_status"] == "empty"


def test_the_guide_has_every_column_with_its_unit_and_formula() -> None:
    section = FORMATS.read_text(encoding="utf-8").partition("`dvh_metrics.parquet`, a row")[2]
    rows = re.findall(r"^\| `(.+?)` \| (.*?) \| (.*) \|$", section, re.MULTILINE)
    told = {name: (unit.strip(), text) for name, unit, text in rows}
    code = {column.name: (column.unit, column.formula) for column in DOSE_COLUMNS}
    code |= {column.name: (column.unit, column.meaning) for column in LABEL_COLUMNS}
    code[STATUS_COLUMN] = ("", STATUS_MEANING)
    alike = {name for name in code if re.fullmatch(r"V([2-9]|\d\d)Gy .*", name)}
    assert "The last two stand for each gray from 1 to 60." in section
    assert {name: told[name] for name in code.keys() & told.keys()} == {
        name: text for name, text in code.items() if name not in alike
    }
    assert list(told) == [name for name in METRICS_SCHEMA if name not in alike]

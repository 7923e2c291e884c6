"""PlanRange ties a layer to its energy, range codes and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqi_dagster.delivery.plan_range import parse_plan_range, plan_range_path, read_plan_range
from mqi_dagster.errors import DeliveryError
from tests.delivery.delivery_cases import BEAM_4

HEADER = (
    "RESULT_ID,LAYER_NO,LAYER_ENERGY,PATIENT_ID,FLD_NO,DOSE1_RANGE,DOSE2_RANGE,"
    "PLAN_DOSE1_RANGE,PLAN_DOSE2_RANGE,SCAN_OUT_FL_NM,PLAN_SCAN_OUT_FL_NM\n"
)
ROW_1 = "2026010510100000,1,146.3,PAT7,2,3,2,2,2,02_1010000_001_002_001.ptn,02_PAT7_001_002_001.mgn\n"
ROW_2 = "2026010510100000,2,142,PAT7,2,2,2,2,2,02_1010000_001_002_002.ptn,\n"


def test_the_file_of_a_delivery_is_read(qa: Path) -> None:
    folder = qa / BEAM_4
    rows = read_plan_range(plan_range_path(folder))
    assert [row.layer for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert {row.energy_mev for row in rows} == {190.0}
    assert rows[6].record_name == "02_1010002_001_004_007.ptn"
    assert rows[6].machine_plan_name == "02_QA0001_001_004_007.mgn"


def test_rows_are_found_by_layer_number_and_columns_by_name() -> None:
    first, second = parse_plan_range(HEADER + ROW_2 + ROW_1)
    assert (first.layer, first.energy_mev, first.dose1_range, first.dose2_range) == (1, 146.3, 3, 2)
    assert (second.layer, second.machine_plan_name) == (2, None)
    names = HEADER.strip().split(",")
    swapped = (
        ",".join([names[1], names[0], *names[2:]]) + "\n" + "1,2026010510100000," + ROW_1.split(",", 2)[2]
    )
    assert parse_plan_range(swapped)[0] == first


def test_the_older_spelling_is_read_but_not_both(tmp_path: Path) -> None:
    (tmp_path / "PlanRange.csv").write_text(HEADER + ROW_1)
    assert plan_range_path(tmp_path).name == "PlanRange.csv"
    (tmp_path / "PlanRange.txt").write_text(HEADER + ROW_1)
    with pytest.raises(DeliveryError, match=r"a PlanRange\.txt and a PlanRange\.csv"):
        plan_range_path(tmp_path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match="PlanRange is missing"):
        plan_range_path(tmp_path)


@pytest.mark.parametrize(
    ("text", "message", "layer"),
    [
        ("", "PlanRange is empty", None),
        (HEADER, "PlanRange names no layer", None),
        (HEADER.replace("LAYER_ENERGY", "ENERGY") + ROW_1, "lacks column LAYER_ENERGY", None),
        (HEADER.replace("PLAN_DOSE2_RANGE", "DOSE1_RANGE") + ROW_1, "more than one column DOSE1_RANGE", None),
        (HEADER + ROW_1 + ROW_1, "the layer stands twice", 1),
        (HEADER + ROW_1.replace("146.3", "nan"), "LAYER_ENERGY is not an energy in MeV", 1),
        (HEADER + ROW_1.replace("146.3", "-1"), "LAYER_ENERGY is not an energy in MeV", 1),
        (HEADER + ROW_2.replace(",142,PAT7,2,2,", ",142,PAT7,2,x,"), "DOSE1_RANGE is not a whole", 2),
        (HEADER + ROW_1.replace(",1,146", ",0,146"), "row 1: LAYER_NO is 0, below 1", None),
        (HEADER + ROW_1.replace("02_1010000_001_002_001.ptn", ""), "SCAN_OUT_FL_NM names no file", 1),
        (HEADER + ROW_1.replace("02_1010000_001_002_001.ptn", "../a.ptn"), "is not a plain file name", 1),
        (HEADER + ROW_1.replace("02_PAT7", "x\\02_PAT7"), "is not a plain file name", 1),
        (HEADER + ROW_1.strip() + ",7\n", "row 1 has 12 cells instead of 11", None),
    ],
)
def test_a_fault_is_named_by_column_and_layer(text: str, message: str, layer: int | None) -> None:
    with pytest.raises(DeliveryError) as caught:
        parse_plan_range(text)
    assert message in str(caught.value)
    assert (caught.value.where.kind, caught.value.where.layer) == ("PlanRange", layer)
    assert "PAT7" not in str(caught.value)

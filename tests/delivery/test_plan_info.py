"""PlanInfo.txt says which beam and layers a delivery is of, or says what is wrong with it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mqi_dagster.delivery.plan_info import machine_time, parse_plan_info, read_plan_info
from mqi_dagster.errors import DeliveryError
from tests.delivery.delivery_cases import BEAM_3, SEOUL, plan_info_text


def test_the_file_of_a_delivery_is_read(qa: Path) -> None:
    info = read_plan_info(qa / BEAM_3)
    assert info.patient_id == "QA0001"
    assert info.beam_number == 3
    assert info.result_id == "2026010510140000"
    assert info.record_number == "1010001"
    assert (info.plan_number, info.field_number) == (1, 3)
    assert (info.first_layer, info.last_layer) == (1, 9)


def test_values_are_split_at_the_first_comma() -> None:
    info = parse_plan_info(plan_info_text(DICOM_PATIENT_ID="A,B"))
    assert info.patient_id == "A,B"


def test_windows_line_ends_and_blank_lines_are_read() -> None:
    info = parse_plan_info("\r\n" + plan_info_text().replace("\n", "\r\n") + "\r\n")
    assert info.last_layer == 9


def test_beam_number_is_not_the_field_number() -> None:
    info = parse_plan_info(plan_info_text(DICOM_BEAM_NUMBER="4", TCSC_FIELD_NUMBER="1"))
    assert (info.beam_number, info.field_number) == (4, 1)


@pytest.mark.parametrize(("zone", "hour"), [("Asia/Seoul", 1), ("UTC", 10), ("America/New_York", 15)])
def test_the_machines_time_is_local_to_the_site(zone: str, hour: int) -> None:
    info = parse_plan_info(plan_info_text())
    expected = datetime(2026, 1, 5, hour, 10, 0, 500_000, tzinfo=UTC)
    assert info.irradiated_at(ZoneInfo(zone)) == (expected,)


def test_the_servers_zone_has_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    assert machine_time("2026010510100050", SEOUL) == datetime(2026, 1, 5, 1, 10, 0, 500_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["2026130510100000", "20260105101000", "202601051010000x", "20260105 0100000"]
)
def test_what_is_no_machine_time_is_none(text: str) -> None:
    assert machine_time(text, SEOUL) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"DICOM_BEAM_NUMBER": None}, "lacks DICOM_BEAM_NUMBER"),
        ({"ACTUAL_DIR": None, "TCSC_PLAN_NUMBER": None}, "lacks TCSC_PLAN_NUMBER, ACTUAL_DIR"),
        ({"DICOM_PATIENT_ID": " "}, "no value for DICOM_PATIENT_ID"),
        ({"DICOM_BEAM_NUMBER": "2a"}, "DICOM_BEAM_NUMBER is not a whole number"),
        ({"DICOM_BEAM_NUMBER": "-2"}, "DICOM_BEAM_NUMBER is not a whole number"),
        ({"START_LAYER_NUMBER": "0"}, "START_LAYER_NUMBER is 0, below 1"),
        ({"START_LAYER_NUMBER": "7", "STOP_LAYER_NUMBER": "6"}, "START_LAYER_NUMBER 7 lies behind"),
        ({"TCSC_IRRAD_DATETIME": "2026023010100000"}, "TCSC_IRRAD_DATETIME is not a time"),
        ({"TCSC_PATIENT_ID": "x1"}, "TCSC_PATIENT_ID is not a number"),
    ],
)
def test_a_fault_is_named_by_its_key(changes: dict[str, str | None], message: str) -> None:
    with pytest.raises(DeliveryError) as caught:
        parse_plan_info(plan_info_text(**changes))
    assert message in str(caught.value)
    assert caught.value.where.kind == "PlanInfo"
    assert "PAT7" not in str(caught.value)


def test_a_key_given_twice_is_an_error() -> None:
    with pytest.raises(DeliveryError, match="key of line 12 stands twice"):
        parse_plan_info(plan_info_text() + "DICOM_BEAM_NUMBER,3\n")


def test_a_line_without_a_comma_is_an_error() -> None:
    with pytest.raises(DeliveryError, match="line 12 is not KEY,VALUE"):
        parse_plan_info(plan_info_text() + "nonsense\n")


def test_a_missing_or_binary_file_is_an_error_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match=r"^PlanInfo: PlanInfo is missing$"):
        read_plan_info(tmp_path)
    (tmp_path / "PlanInfo.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DeliveryError, match=r"^PlanInfo: PlanInfo holds binary content$"):
        read_plan_info(tmp_path)

"""What others leave beside the machine's files, and names as a share shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqi_dagster.delivery.machine_files import machine_file
from mqi_dagster.delivery.plan_info import read_plan_info
from mqi_dagster.delivery.plan_range import parse_plan_range
from mqi_dagster.delivery.validation import check_case
from mqi_dagster.errors import DeliveryError
from mqi_dagster.machine import Machines
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest, Layout
from tests.delivery.delivery_cases import delivery_folder, plan_info_text, surveyed
from tests.delivery.test_fractions import grouped

LEFT = ("Thumbs.db", "desktop.ini", ".DS_Store", "._PlanInfo.txt", "._02_1_001_002_001.ptn", ".nfs0000a1")


@pytest.fixture
def case(tmp_path: Path, machines: Machines) -> Path:
    """A generated case of two beams."""
    plan = BuiltInPlan(beams=2, layers=2, spots=9, layer_seconds=0.1)
    request = DeliveryRequest(plan=plan, layout=Layout.SIMPLE)
    return simulate_delivery(request, machines.named("GENERIC"), tmp_path / "inbox").folder


def deliveries(case: Path) -> list[Path]:
    return sorted(path.parent for path in case.rglob("PlanInfo.txt"))


def test_files_that_systems_leave_count_nowhere(case: Path, machines: Machines) -> None:
    before = surveyed(case)
    for folder in (case, *deliveries(case)):
        for name in LEFT:
            (folder / name).write_bytes(b"\0\5\x16\7" * 40)
    (plan,) = case.glob("*.dcm")
    plan.with_name("._" + plan.name).write_bytes(b"\0\5\x16\7" * 40)
    after = surveyed(case)
    assert check_case(after, machines).passed
    assert after.arrival.fingerprint == before.arrival.fingerprint


def test_names_in_capitals_are_the_machines(case: Path, machines: Machines) -> None:
    for folder in deliveries(case):
        for file in list(folder.iterdir()):
            file.rename(folder / file.name.upper())
    check = check_case(surveyed(case), machines)
    assert check.passed, check.findings
    assert [(beam.number, beam.layers) for beam in check.fractions[0].beams] == [(2, 2), (3, 2)]


def test_two_records_whose_names_differ_by_capitals_are_one_too_many(case: Path, machines: Machines) -> None:
    record = sorted(deliveries(case)[0].glob("*.ptn"))[0]
    record.with_name(record.name.upper()).write_bytes(record.read_bytes())
    check = check_case(surveyed(case), machines)
    texts = [finding.message for finding in check.fractions[0].findings]
    assert not check.passed
    assert any("1 file of this kind not named by PlanRange" in text for text in texts)


def test_a_name_that_only_capitals_tell_apart_means_neither(tmp_path: Path) -> None:
    (tmp_path / "a.ptn").touch()
    (tmp_path / "A.PTN").touch()
    assert machine_file(tmp_path, "a.ptn", "record") == tmp_path / "a.ptn"
    with pytest.raises(DeliveryError, match="2 files have the name of the record but for capitals"):
        machine_file(tmp_path, "A.ptn", "record")
    assert machine_file(tmp_path, "b.ptn", "record") is None


def test_a_copy_is_a_copy_whatever_else_lies_in_it(tmp_path: Path) -> None:
    delivery_folder(tmp_path, "2026010510000000", 2, "2026010510000000")
    copy = delivery_folder(tmp_path, "2026010510000000 - Copy", 2, "2026010510000000")
    (copy / "Thumbs.db").write_bytes(b"x")
    (copy / "._02_1010000_001_002_001.ptn").write_bytes(b"\0\5\x16\7")
    (copy / "note of the night shift.txt").write_text("copied")
    (copy / "PlanInfo.txt").rename(copy / "PLANINFO.TXT")
    (fraction,) = grouped(tmp_path)
    assert [header.folder.name for header in fraction.deliveries] == ["2026010510000000"]
    assert [header.folder for header in fraction.duplicates] == [copy]


def test_a_value_that_nobody_reads_may_be_in_any_encoding(tmp_path: Path) -> None:
    text = plan_info_text(SHARE_DIR="@", ACTUAL_DIR="@\\PAT7\\1.2.3.4.5\\2026010510100050", REMARK="@")
    (tmp_path / "PlanInfo.txt").write_bytes(text.encode().replace(b"@", "공유".encode("cp949")))
    assert read_plan_info(tmp_path).beam_number == 2


def test_a_value_that_is_read_must_be_text(tmp_path: Path) -> None:
    text = plan_info_text(DICOM_PATIENT_ID="@")
    (tmp_path / "PlanInfo.txt").write_bytes(text.encode().replace(b"@", "환자".encode("cp949")))
    with pytest.raises(DeliveryError, match="the value of DICOM_PATIENT_ID is not ASCII or UTF-8"):
        read_plan_info(tmp_path)


def test_a_cell_in_use_must_be_text_and_others_need_not(case: Path) -> None:
    text = (deliveries(case)[0] / "PlanRange.txt").read_text()
    header, first, *rest = text.splitlines()
    foreign = "공".encode("cp949").decode("utf-8", "surrogateescape")
    with_remark = "\n".join([header + ",REMARK", *(row + "," + foreign for row in (first, *rest))])
    assert [row.layer for row in parse_plan_range(with_remark)] == [1, 2]
    cells = first.split(",")
    cells[header.split(",").index("PATIENT_ID")] = foreign
    with pytest.raises(DeliveryError, match="row 1: PATIENT_ID is not ASCII or UTF-8"):
        parse_plan_range("\n".join([header, ",".join(cells), *rest]))

"""Which folders of an inbox are cases, and when they can be taken."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from mqi_dagster.delivery.discovery import CaseFolder, arrival_of, find_arrivals
from mqi_dagster.delivery.survey import survey_arrival
from mqi_dagster.errors import ConfigurationError, DeliveryError, PlanError
from mqi_dagster.settings import Intake
from tests.delivery.delivery_cases import BEAM_2, BEAM_3, HOUR, SEOUL, STUDY, qa_copy, surveyed

AT_ONCE = Intake(stable_seconds=0)
MARKED = Intake(ready="marker")
T0 = datetime(2026, 1, 5, 3, 0, tzinfo=UTC)


def write_dicom(path: Path, sop_class: str, instance: str = "1.2.3.1", patient: str = "PAT7") -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = instance
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = instance
    dataset.PatientID = patient
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def ion_plan(path: Path) -> Path:
    return write_dicom(path, "1.2.840.10008.5.1.4.1.1.481.8")


def ct_image(path: Path, instance: str = "1.2.3.1") -> Path:
    return write_dicom(path, "1.2.840.10008.5.1.4.1.1.2", instance)


def delivery(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "PlanInfo.txt").write_text("x")
    return folder


def found(inbox: Path, intake: Intake = AT_ONCE, now: datetime = T0) -> list[CaseFolder]:
    return find_arrivals(inbox, intake, now)


def settle(root: Path, when: datetime = T0) -> None:
    """Give every file and folder this modification time."""
    for path in [root, *root.rglob("*")]:
        os.utime(path, (when.timestamp(), when.timestamp()))


@pytest.mark.parametrize("above", ["", "G2", "P 001", "G1/P001", "환자 1/그룹"])
@pytest.mark.parametrize("names", [("2026010510100000", "2026010510140000"), ("beam one", "빔:2")])
def test_both_layouts_are_found_below_groups_and_patients(
    tmp_path: Path, above: str, names: tuple[str, str]
) -> None:
    case = tmp_path / above / "1.2.3.4"
    deliveries = [delivery(case / name) for name in names]
    plan = ion_plan(case / "plan without suffix")
    (case / "notes.txt").write_text("no plan")
    (arrival,) = found(tmp_path)
    assert arrival.relative == (f"{above}/1.2.3.4" if above else "1.2.3.4")
    assert arrival.plans == (plan,)
    assert set(arrival.delivery_folders) == set(deliveries)
    assert (arrival.ready, arrival.reason) == (True, "")


def test_two_plans_of_one_patient_are_two_cases(tmp_path: Path) -> None:
    for study in ("1.2.3.4", "1.2.3.5"):
        ion_plan(tmp_path / "P001" / study / "RP.dcm")
        delivery(tmp_path / "P001" / study / BEAM_2)
    assert [arrival.relative for arrival in found(tmp_path)] == ["P001/1.2.3.4", "P001/1.2.3.5"]


def test_a_group_is_never_a_case_even_with_a_stray_delivery_in_it(tmp_path: Path) -> None:
    ion_plan(tmp_path / "G1" / "case" / "RP.dcm")
    delivery(tmp_path / "G1" / "case" / BEAM_2)
    delivery(tmp_path / "G1" / BEAM_3)
    stray, case = found(tmp_path)
    assert (case.relative, case.ready) == ("G1/case", True)
    assert case.delivery_folders == (tmp_path / "G1" / "case" / BEAM_2,)
    assert (stray.relative, stray.ready) == ("G1", False)
    assert stray.reason == "deliveries stand beside case folders, outside any of them"


def test_a_stray_record_in_a_patient_folder_hides_no_case(tmp_path: Path) -> None:
    ion_plan(tmp_path / "P001" / "case" / "RP.dcm")
    delivery(tmp_path / "P001" / "case" / BEAM_2)
    (tmp_path / "P001" / "stray.ptn").write_bytes(b"")
    assert [arrival.relative for arrival in found(tmp_path)] == ["P001/case"]


def test_deliveries_in_the_inbox_itself_are_shown_and_wait(tmp_path: Path) -> None:
    delivery(tmp_path / BEAM_2)
    (arrival,) = found(tmp_path)
    assert (arrival.relative, arrival.ready) == (".", False)
    assert "in the inbox itself" in arrival.reason


def test_a_plan_alone_waits_for_its_deliveries(tmp_path: Path) -> None:
    ion_plan(tmp_path / "case" / "RP.dcm")
    (arrival,) = found(tmp_path)
    assert (arrival.ready, arrival.reason) == (False, "no delivery folder is there yet")


def test_arrivals_without_one_plan_are_arrivals_all_the_same(tmp_path: Path) -> None:
    delivery(tmp_path / "none" / BEAM_2)
    delivery(tmp_path / "two" / BEAM_2)
    ion_plan(tmp_path / "two" / "a.dcm")
    write_dicom(tmp_path / "two" / "b.dcm", "1.2.840.10008.5.1.4.1.1.481.8", "1.2.3.2")
    delivery(tmp_path / "unreadable" / BEAM_2)
    (tmp_path / "unreadable" / "RP.dcm").write_bytes(b"half a file")
    none, two, unreadable = found(tmp_path)
    assert [len(arrival.plans) for arrival in (none, two, unreadable)] == [0, 2, 1]
    assert none.ready and two.ready and unreadable.ready
    error = survey_arrival(none, SEOUL, HOUR).plan_error
    assert isinstance(error, PlanError)
    assert str(error) == "RT plan: there is no RT Ion Plan in the case folder"
    assert isinstance(survey_arrival(unreadable, SEOUL, HOUR).plan_error, PlanError)


def test_a_delivery_that_lost_its_files_is_still_a_delivery(tmp_path: Path) -> None:
    ion_plan(tmp_path / "case" / "RP.dcm")
    (tmp_path / "case" / BEAM_2).mkdir()
    (arrival,) = found(tmp_path)
    assert arrival.delivery_folders == (tmp_path / "case" / BEAM_2,)


def test_ct_images_are_found_by_class_wherever_they_lie_in_the_case(tmp_path: Path) -> None:
    case = tmp_path / "case"
    ion_plan(case / "RP.dcm")
    folder = delivery(case / BEAM_2)
    beside = ct_image(case / "slice")
    below = ct_image(case / "CT" / "series 1" / "1.dcm", "1.2.3.2")
    beside_records = ct_image(folder / "here too.dcm", "1.2.3.3")
    ion_plan(case / "CT" / "exported plan.dcm")
    write_dicom(case / "CT" / "dose.dcm", "1.2.840.10008.5.1.4.1.1.481.2")
    (arrival,) = found(tmp_path)
    assert set(arrival.ct_files) == {beside, below, beside_records}
    assert {path.name for path in arrival.unused_files} == {"exported plan.dcm", "dose.dcm"}
    assert arrival.plans == (case / "RP.dcm",)


@pytest.mark.parametrize(
    "name", ["case.extracting", "case.zip.tmp", "case.backup.20260105", "extract_case.tmp"]
)
def test_unfinished_names_never_count(tmp_path: Path, name: str) -> None:
    ion_plan(tmp_path / name / "case" / "RP.dcm")
    delivery(tmp_path / name / "case" / BEAM_2)
    assert found(tmp_path) == []
    ion_plan(tmp_path / "case" / "RP.dcm")
    delivery(tmp_path / "case" / BEAM_2)
    (before,) = found(tmp_path)
    (tmp_path / "case" / name).write_text("x")
    delivery(tmp_path / "case" / BEAM_2 / name)
    (after,) = found(tmp_path)
    assert after.delivery_folders == before.delivery_folders
    assert after.fingerprint == before.fingerprint


@pytest.mark.parametrize("changed", ["case/RP.dcm", f"case/{BEAM_2}/PlanInfo.txt", f"case/{BEAM_2}"])
def test_a_case_is_ready_when_nothing_has_changed_for_long_enough(tmp_path: Path, changed: str) -> None:
    ion_plan(tmp_path / "case" / "RP.dcm")
    delivery(tmp_path / "case" / BEAM_2)
    settle(tmp_path / "case")
    late = T0 + timedelta(seconds=30)
    os.utime(tmp_path / changed, (late.timestamp(), late.timestamp()))
    rule = Intake(stable_seconds=60)
    (waiting,) = found(tmp_path, rule, T0 + timedelta(seconds=89))
    assert (waiting.ready, waiting.reason) == (False, "files changed within the last 60 s")
    assert waiting.next_check == T0 + timedelta(seconds=90)
    (ready,) = found(tmp_path, rule, T0 + timedelta(seconds=90))
    assert (ready.ready, ready.reason, ready.next_check) == (True, "", None)


def test_a_time_in_the_future_is_told(tmp_path: Path) -> None:
    ion_plan(tmp_path / "case" / "RP.dcm")
    delivery(tmp_path / "case" / BEAM_2)
    settle(tmp_path / "case", T0 + timedelta(days=1))
    (arrival,) = found(tmp_path, Intake(stable_seconds=60), T0)
    assert (arrival.ready, arrival.reason) == (False, "the time of a file lies in the future")


def test_where_the_site_uses_a_marker_only_the_marker_counts(tmp_path: Path) -> None:
    ion_plan(tmp_path / "G1" / "P001" / "case" / "RP.dcm")
    delivery(tmp_path / "G1" / "P001" / "case" / BEAM_2)
    settle(tmp_path)
    (waiting,) = found(tmp_path, MARKED, T0 + timedelta(days=365))
    assert (waiting.ready, waiting.reason) == (False, "no marker file _CASE_READY")
    for place in ("G1/P001/case", "G1/P001"):
        (tmp_path / place / "_CASE_READY").touch()
        (ready,) = found(tmp_path, MARKED, T0)
        assert ready.ready
        assert ready.fingerprint == waiting.fingerprint
        (tmp_path / place / "_CASE_READY").unlink()
    (tmp_path / "G1" / "_CASE_READY").touch()
    assert not found(tmp_path, MARKED)[0].ready


def test_a_marker_in_the_inbox_itself_releases_nothing(tmp_path: Path) -> None:
    ion_plan(tmp_path / "case" / "RP.dcm")
    delivery(tmp_path / "case" / BEAM_2)
    (tmp_path / "_CASE_READY").touch()
    assert not found(tmp_path, MARKED)[0].ready


def test_the_fingerprint_changes_with_size_time_and_name_alone(tmp_path: Path) -> None:
    ion_plan(tmp_path / "case" / "RP.dcm")
    info = delivery(tmp_path / "case" / BEAM_2) / "PlanInfo.txt"
    settle(tmp_path)
    seen = [found(tmp_path)[0].fingerprint]
    assert found(tmp_path)[0].fingerprint == seen[0]
    info.write_text("xy")
    settle(tmp_path)
    seen.append(found(tmp_path)[0].fingerprint)
    settle(tmp_path, T0 + timedelta(seconds=1))
    seen.append(found(tmp_path)[0].fingerprint)
    info.rename(info.with_name("PlanInfo.bak"))
    seen.append(found(tmp_path)[0].fingerprint)
    assert len(set(seen)) == 4


def test_a_moved_case_keeps_its_fingerprint(tmp_path: Path) -> None:
    ion_plan(tmp_path / "inbox" / "case" / "RP.dcm")
    delivery(tmp_path / "inbox" / "case" / BEAM_2)
    (before,) = found(tmp_path / "inbox")
    (tmp_path / "inbox" / "G1").mkdir()
    (tmp_path / "inbox" / "case").rename(tmp_path / "inbox" / "G1" / "case")
    (after,) = found(tmp_path / "inbox")
    assert (after.relative, after.fingerprint) == ("G1/case", before.fingerprint)


def test_links_out_of_the_inbox_are_refused_in_sight(tmp_path: Path) -> None:
    secret = tmp_path / "outside"
    delivery(secret / "case" / BEAM_2)
    inbox = tmp_path / "inbox"
    ion_plan(inbox / "case" / "RP.dcm")
    delivery(inbox / "case" / BEAM_2)
    (inbox / "case" / BEAM_3).symlink_to(secret / "case" / BEAM_2)
    (inbox / "linked").symlink_to(secret)
    (inbox / "broken").symlink_to(tmp_path / "nowhere")
    broken, case, linked = found(inbox)
    assert [broken.ready, case.ready, linked.ready] == [False, False, False]
    assert case.reason == "a link in it leads out of the inbox or nowhere"
    assert case.delivery_folders == (inbox / "case" / BEAM_2,)
    assert linked.reason == "is a link that leads out of the inbox or nowhere"
    assert "outside" not in linked.reason + broken.reason
    with pytest.raises(DeliveryError, match="leads out of the inbox"):
        arrival_of(inbox / "case")


def test_links_within_the_inbox_do_not_loop_or_double(tmp_path: Path) -> None:
    ion_plan(tmp_path / "case" / "RP.dcm")
    delivery(tmp_path / "case" / BEAM_2)
    (tmp_path / "case" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "case")
    assert [arrival.relative for arrival in found(tmp_path)] == ["case"]


def test_a_missing_inbox_is_an_error_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^the inbox cannot be read: No such file or directory$"):
        found(tmp_path / "inbox")


def test_a_read_only_inbox_is_enough(tmp_path: Path) -> None:
    ion_plan(tmp_path / "case" / "RP.dcm")
    delivery(tmp_path / "case" / BEAM_2)
    for path in [*tmp_path.rglob("*"), tmp_path]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        (arrival,) = found(tmp_path)
        assert arrival.ready
    finally:
        for path in [tmp_path, *tmp_path.rglob("*")]:
            path.chmod(0o755)


def test_a_folder_given_by_hand_is_the_case_or_holds_one(tmp_path: Path) -> None:
    case = tmp_path / "G1" / "case"
    ion_plan(case / "RP.dcm")
    delivery(case / BEAM_2)
    (case / "_CASE_READY").touch()
    for folder in (case, tmp_path / "G1", tmp_path):
        arrival = arrival_of(folder)
        assert (arrival.folder, arrival.ready) == (case, True)
    delivery(tmp_path / "G1" / "other" / BEAM_2)
    with pytest.raises(DeliveryError, match=r"^the folder holds 2 cases; name one of them$"):
        arrival_of(tmp_path)
    with pytest.raises(DeliveryError, match=r"^the folder holds no case"):
        arrival_of(case / BEAM_2)
    with pytest.raises(DeliveryError, match=r"^the folder is not there$"):
        arrival_of(tmp_path / "nowhere")


def test_another_fraction_leaves_a_fractions_fingerprint_alone(qa: Path, tmp_path: Path) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2, BEAM_3)
    (first,) = surveyed(case).fractions
    before = surveyed(case).fingerprint(first)
    later = case / "2026010610100000"
    later.mkdir()
    info = (case / BEAM_2 / "PlanInfo.txt").read_text().replace(BEAM_2, later.name)
    (later / "PlanInfo.txt").write_text(info)
    survey = surveyed(case)
    assert len(survey.fractions) == 2
    assert survey.fingerprint(survey.fractions[0]) == before
    assert survey.fingerprint(survey.fractions[1]) != before
    (case / BEAM_2 / "PlanRange.txt").touch()
    survey = surveyed(case)
    assert survey.fingerprint(survey.fractions[0]) != before


def test_the_qa_case_is_found(qa: Path) -> None:
    (arrival,) = find_arrivals(qa.parent, Intake(stable_seconds=0), T0)
    assert arrival.relative == STUDY
    assert len(arrival.plans) == 1
    assert len(arrival.delivery_folders) == 4
    assert arrival.ct_files == ()

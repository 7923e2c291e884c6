"""Courses in a tree of DICOM files: asked for once, and again only where something of them has changed."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.lifecycle import run_requests
from mqi_dagster.lifecycle.health import folders
from mqi_dagster.sensors import cohort, courses
from tests.chain.course_site import ALWAYS, CourseSite

pytestmark = pytest.mark.usefixtures("looks_here")


def test_three_courses_are_asked_for_once_each(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1, 2, 3)
    requests = site.tick()
    keys = site.keys(requests)
    assert len(keys) == 3 and all(key.startswith("R") and key.endswith(".c01") for key in keys)
    assert all(request.tags["mqi/case"] == request.partition_key for request in requests)
    assert all("mqi/course" in request.tags for request in requests)
    assert sorted(site.instance.get_dynamic_partitions("course")) == keys
    assert site.reports() == keys
    assert site.tick() == []
    assert site.said.startswith("nothing new is ready; 0 courses wait; 3 courses in the tree")
    site.reopen()
    assert site.tick() == [], "what the ledger knows is not asked for again by another process"


def test_one_added_file_asks_for_exactly_one_course(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1, 2, 3)
    site.tick()
    second = site.course(2)
    second.write(second.plan(2, dose_gy=10.0))
    (again,) = site.tick()
    name = site.site.pseudonyms.patient("ID002", None)
    assert again.partition_key == f"{name}.c01"
    assert site.tick() == []


@pytest.mark.slow
def test_a_removed_file_asks_for_its_course_and_one_put_back_asks_again(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1)
    made = site.course(1)
    second = made.write(made.plan(2, dose_gy=10.0), "second plan")
    (first,) = site.tick()
    second.rename(tmp_path / "aside")
    (without,) = site.tick()
    (tmp_path / "aside").rename(second)
    (back,) = site.tick()
    assert {first.partition_key, without.partition_key, back.partition_key} == {first.partition_key}
    assert len({first.run_key, without.run_key, back.run_key}) == 3
    assert site.tick() == []


def test_files_that_have_just_come_wait(tmp_path: Path) -> None:
    site = CourseSite(tmp_path, {"intake": {"stable_seconds": 3600}})
    site.write(1)
    assert site.tick() == []
    (row,) = site.site.ledger.arrivals.waiting("course")
    assert row.reason == "files of it have changed within the last 3600 s"
    assert row.next_check is not None
    site.change({"intake": {"stable_seconds": 0}})
    assert site.keys(site.tick()) == [row.case]


def test_a_crash_between_a_request_and_its_run_loses_nothing(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1)
    (lost,) = site.tick(launch=False)
    site.reopen()
    (again,) = site.tick()
    assert again.run_key == lost.run_key
    assert site.runs() == [lost.partition_key]


def test_no_course_is_asked_for_while_a_run_of_it_is_unfinished(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1)
    (first,) = site.tick(launch=False)
    run = site.instance.create_run_for_job(
        site.definitions.resolve_job_def("course"),
        tags={
            **first.tags,
            "dagster/run_key": str(first.run_key),
            "dagster/partition": str(first.partition_key),
        },
    )
    made = site.course(1)
    made.write(made.plan(2, dose_gy=10.0))
    assert site.tick() == []
    site.instance.report_run_canceled(run)
    assert site.keys(site.tick()) == [first.partition_key]


def test_whether_runs_have_come_is_asked_for_all_courses_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = CourseSite(tmp_path)
    site.write(1, 2, 3)
    requests = site.tick(launch=False)
    for request in requests:
        site.begin(request)
    asked: list[int] = []
    real = run_requests.asked_keys

    def counted(*given: Any) -> object:
        asked.append(len(given[2]))
        return real(*given)

    monkeypatch.setattr(run_requests, "asked_keys", counted)
    assert site.tick() == []
    assert asked == [3]
    rows = site.site.ledger.arrivals.all("course")
    assert [row.requested_fingerprint for row in rows] == [row.fingerprint for row in rows]


def test_a_tree_that_is_away_or_empty_is_an_alarm_and_takes_nothing_for_removed(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1)
    (request,) = site.tick()
    site.tree.rename(tmp_path / "unmounted")
    assert site.tick() == []
    assert site.said.startswith(
        "the tree of DICOM files: it cannot be read: No such file or directory. Mount it"
    )
    site.tree.mkdir()
    assert site.tick() == []
    assert "it is empty and another folder than before" in site.said
    (problem,) = [one for one in folders(site.site) if one.kind is AlarmKind.DICOM_AWAY]
    assert problem.subject == "dicom_root" and "radiotherapy.dicom_root" in problem.text
    assert str(tmp_path) not in problem.text
    row = site.site.ledger.arrivals.get(str(request.partition_key))
    assert row is not None and row.ready
    site.tree.rmdir()
    (tmp_path / "unmounted").rename(site.tree)
    assert site.tick() == []
    assert [one for one in folders(site.site) if one.kind is AlarmKind.DICOM_AWAY] == []


def test_a_tree_whose_folder_is_the_same_and_that_is_empty_takes_nothing_for_removed(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1)
    site.tick()
    for path in site.tree.iterdir():
        shutil.move(path, tmp_path / path.name)
    assert site.tick() == []
    assert "is empty and was not" in site.said
    (problem,) = [one for one in folders(site.site) if one.kind is AlarmKind.DICOM_AWAY]
    assert "is empty and was not" in problem.text
    assert all(row.ready for row in site.site.ledger.arrivals.all("course"))


@pytest.mark.slow
def test_a_course_that_is_gone_says_so_and_keeps_what_was_made(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1, 2)
    keys = site.keys(site.tick())
    name = site.site.pseudonyms.patient("ID002", None)
    for path in site.tree.rglob("*"):
        if path.is_file() and b"ID002" in path.read_bytes():
            path.unlink()
    assert site.tick() == []
    (gone,) = site.site.ledger.arrivals.waiting("course")
    assert (gone.case, gone.reason) == (f"{name}.c01", courses.GONE)
    assert site.reports() == keys
    assert sorted(site.instance.get_dynamic_partitions("course")) == keys
    site.write(2)
    assert site.keys(site.tick()) == [gone.case]
    assert site.site.ledger.arrivals.waiting("course") == []


def test_a_course_that_fails_is_asked_for_again_only_once_it_has_changed(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1)
    (request,) = site.tick(launch=False)
    run = site.instance.create_run_for_job(
        site.definitions.resolve_job_def("course"),
        tags={
            **request.tags,
            "dagster/run_key": str(request.run_key),
            "dagster/partition": str(request.partition_key),
        },
    )
    site.instance.report_run_failed(run)
    assert site.tick() == []
    made = site.course(1)
    made.write(made.plan(2, dose_gy=10.0))
    assert len(site.tick()) == 1


@pytest.mark.slow
def test_a_patient_that_cannot_be_looked_at_keeps_no_other_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = CourseSite(tmp_path)
    site.write(1, 2, 3)
    real = courses.group_patient

    def faulty(patient: courses.PatientKey, *others: object) -> object:
        if patient.patient_id == "ID002":
            raise RuntimeError("a path of a patient")
        return real(patient, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(courses, "group_patient", faulty)
    assert len(site.tick()) == 2
    assert site.tick() == []
    assert "1 patient cannot be looked at" in site.said
    monkeypatch.undo()
    assert len(site.tick()) == 1
    assert "cannot be looked at" not in site.said


def test_what_belongs_to_no_course_is_counted(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1)
    made = site.course(1)
    made.write(b"no DICOM", "notes/readme")
    made.write(b"cut", "notes/cut.dcm")
    made.write(made.image(5, series=90, FrameOfReferenceUID=made.uid(99)))
    made.write(made.image(6, PatientID=""))
    site.tick()
    site.tick()
    assert site.said.endswith("of no course: 1 damaged, 1 no course, 1 no patient ID, 1 stray file")


def test_a_site_without_a_tree_looks_at_nothing(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.change({"radiotherapy": {"dicom_root": None}})
    assert site.tick() == []
    assert site.said == "radiotherapy.dicom_root names no tree of DICOM files"
    assert site.tick("cohort") == []
    assert not (site.site.settings.paths.state / "dicom_index.db").exists()


def test_the_inbox_takes_no_course_for_a_case_and_drops_none(tmp_path: Path) -> None:
    site = CourseSite(tmp_path, {"intake": {"stable_seconds": 3600}})
    site.write(1)
    site.tick()
    assert site.tick("case_arrivals") == []
    assert len(site.site.ledger.arrivals.waiting("course")) == 1
    site.change({"intake": {"stable_seconds": 0}})
    site.tick(launch=False)
    assert site.tick("case_arrivals") == []
    assert site.runs("intake") == []


@pytest.mark.slow
def test_a_tree_is_not_looked_at_more_often_than_the_settings_say(tmp_path: Path) -> None:
    site = CourseSite(tmp_path, {"radiotherapy": {"scan_minutes": 60}})
    site.write(1)
    site.tick()
    site.write(2)
    assert site.tick() == []
    site.change({"radiotherapy": {"scan_minutes": ALWAYS}})
    assert len(site.tick()) == 1


@pytest.mark.slow
def test_the_tables_of_all_courses_are_made_once_courses_have_concluded(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1, 2)
    assert site.tick("cohort") == []
    site.tick()
    (asked,) = site.tick("cohort")
    assert asked.partition_key is None
    assert site.instance.get_latest_materialization_event(dg.AssetKey("cohort_tables")) is not None
    assert site.tick("cohort") == []
    site.write(3)
    site.tick(launch=False)
    assert site.tick("cohort") == [], "a course that is only asked for changes no table"
    site.tick()
    (again,) = site.tick("cohort")
    assert again.run_key != asked.run_key


def test_tables_that_were_asked_for_and_of_which_no_run_came_are_asked_for_again(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1)
    site.tick()
    data = site.evaluated("cohort")
    # As where the daemon was ended between its cursor and its runs.
    site.cursors["cohort"] = data.cursor
    (lost,) = data.run_requests
    (again,) = site.tick("cohort")
    assert again.run_key == lost.run_key
    assert site.tick("cohort") == []


def test_a_report_is_read_once_however_often_the_tables_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = CourseSite(tmp_path)
    site.write(1, 2)
    site.tick()
    read: list[int] = []
    real = cohort.made_by_number

    def counted(instance: dg.DagsterInstance, asset: str, numbers: Collection[int]) -> object:
        read.extend(numbers)
        return real(instance, asset, numbers)

    monkeypatch.setattr(cohort, "made_by_number", counted)
    assert len(site.tick("cohort")) == 1
    for _ in range(2):
        assert site.tick("cohort") == []
    assert len(read) == 2

"""The report of a course: a page and a quality report of whatever there is, without identity."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mqi_dagster.imaging.course_page_tables import structure_names
from mqi_dagster.imaging.dvh_files import CourseDvh, write_dvh
from mqi_dagster.imaging.structure_files import CourseStructures, StructureSource
from mqi_dagster.operations.course_results import verdict_in
from tests.radiotherapy.reported_courses import IDENTITY, SHAPE, ReportedCourses, images, made, record, whole

FIRST = made(1)


@pytest.fixture
def courses(tmp_path: Path) -> ReportedCourses:
    return ReportedCourses(tmp_path)


def organised(courses: ReportedCourses, objects: list[bytes] | None = None) -> str:
    """A course of the first patient with an inventory."""
    courses.add(FIRST, whole(FIRST) if objects is None else objects)
    key = courses.scan()[FIRST.patient_id]
    assert courses.run("course_inventory", key)
    return key


def page_of(courses: ReportedCourses, key: str) -> str:
    return courses.result("course_report", key).path("course.html").read_text(encoding="utf-8")


def data_of(html: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)  # type: ignore[no-any-return]


def rows_of(html: str, title: str) -> list[list[str]]:
    """The cells of a table, its heading first."""
    part = html.split(f"<h2>{title}</h2>")[1].split("</table>")[0]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in part.split("<tr>")[1:]]


def unpacked(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8)


def test_the_page_shows_what_the_stages_have_made(courses: ReportedCourses) -> None:
    key = organised(courses)
    courses.stages(FIRST, key)
    assert courses.run("course_report", key)
    html = page_of(courses, key)
    assert f"<h1>Course {key}</h1>" in html
    assert "CT, 6 images of 32 × 32 pixels, 1 × 1 × 3 mm · 1 plan · 1 dose · 1 structure set" in html
    assert "60 Gy in 30 fractions" in html
    data = data_of(html)
    # The target comes first, the body last; what is empty is not drawn.
    assert [one["name"] for one in data["structures"]] == ["PTV", "=Lung_L", "External"]
    mask = np.unpackbits(unpacked(data["structures"][0]["mask"])).reshape(SHAPE)
    assert np.argwhere(mask)[[0, -1]].tolist() == [[2, 12, 14], [3, 17, 25]] and mask.sum() == 144
    assert data["start"] == [2, 14, 19]
    assert np.unique(unpacked(data["dose"])).tolist() == [255]
    assert [one["doses"] for one in data["curves"]] == [[0.0, 20.0, 40.0, 60.0]] * 2
    assert [one["percent"] for one in data["curves"]] == [[100, 100, 99, 20], [100, 35, 17, 0]]
    assert [one["structure"] for one in data["curves"]] == [0, 1]
    assert [one["name"] for one in data["curves"]] == ["PTV", "=Lung_L"]
    assert data["curves"][0]["colour"] == data["structures"][0]["colour"]
    # 107 % of the prescribed dose is nowhere reached.
    assert re.findall(r"</i>(\d+ % \([\d.]+ Gy\))", html) == [
        "30 % (18 Gy)", "50 % (30 Gy)", "80 % (48 Gy)", "95 % (57 Gy)", "100 % (60 Gy)",
    ]  # fmt: skip
    assert rows_of(html, "Plans")[1] == ["plan 1", "60 Gy in 30 fractions", "2", "–", "–"]
    assert rows_of(html, "Doses")[1] == [
        "dose 1", "plan 1", "single_dose", "PHYSICAL", "60", "TargetPrescriptionDose of its plan", "60",
        "4 × 4 × 4",
    ]  # fmt: skip
    figures = rows_of(html, "Dose and volume: dose 1")
    assert figures[0][:3] == ["structure", "Volume (cm³)", "DmeanGy"]
    assert figures[1] == ["PTV", "0.432", "57.5", *["–"] * 10, "measured"]
    (goal,) = rows_of(html, "Clinical goals")[1:]
    assert goal == ["PTV", "D95% at least 57 Gy", "57.1 Gy", "met", "dose 1", ""]
    structures = rows_of(html, "Structures")
    assert [row[0] for row in structures[1:]] == ["External", "PTV", "Heart", "=Lung_L"]
    assert structures[1][2:] == ["automatic: rules_ct", "10.4", "–"]
    assert structures[3][2:] == ["clinical", "0", "empty"] and structures[4][4] == "ends early"
    assert rows_of(html, "Radiomics")[1:] == [
        ["computed", "1", "–"], ["left out", "1", "fewer than 200 voxels"],
    ]  # fmt: skip
    assert rows_of(html, "Segmentation models")[1][:4] == ["rules_ct 1.2", "SABCDEFGHJ", "made", "0"]
    provenance = dict(rows_of(html, "Provenance"))
    assert provenance["radiomics: z-rad"] == "1.0"
    assert provenance["digest of dvh"] == "dvh1"
    assert provenance["model rules_ct 1.2"] == "Rule-based; made. adults only"
    assert provenance["dose rules"] == "single_dose (1 used)"
    assert provenance["planning series"].endswith(": the structure set of its plan names it")


def test_the_report_says_of_which_inventory_it_is_and_is_made_once(courses: ReportedCourses) -> None:
    key = organised(courses)
    courses.stages(FIRST, key)
    assert courses.run("course_report", key)
    first = courses.metadata("course_report", key)
    assert first["course_inventory"] == courses.metadata("course_inventory", key)["digest"]
    assert first["slices"].startswith("![axial, coronal and sagittal")
    assert first["dose and volume"].startswith("![cumulative dose-volume histogram]")
    assert courses.run("course_report", key)
    assert courses.metadata("course_report", key) == first
    courses.stages(FIRST, key, version="2", mean_gy=58.0)
    assert courses.run("course_report", key)
    assert courses.metadata("course_report", key)["digest"] != first["digest"]
    assert ">58<" in page_of(courses, key)


def test_the_quality_report_holds_every_check_and_the_worst_verdict(courses: ReportedCourses) -> None:
    key = organised(courses)
    courses.stages(FIRST, key)
    assert courses.run("course_report", key)
    published = courses.result("course_report", key)
    report = json.loads(published.path("qc_report.json").read_bytes())
    by_name = {(one["asset"], one["name"]): one for one in report["checks"]}
    # Nobody has made the segmentation of the site's own models: a check that did not run is no pass.
    not_run = by_name["custom_segmentation", "models_ran"]
    assert not_run["verdict"] == "WARNING"
    assert not_run["text"] == "not evaluated: custom_segmentation has not been made"
    assert not_run["advice"] == "Make custom_segmentation, then the report"
    assert by_name["structures", "not_empty"]["verdict"] == "WARNING"
    assert by_name["course_inventory", "images_present"]["verdict"] == "PASS"
    assert report["overall_status"] == courses.metadata("course_report", key)["verdict"]
    assert report["overall_status"] != "PASS"
    told = verdict_in(published)
    assert told is not None and told.value == report["overall_status"]
    shown = courses.table("course_report", "checks", key)
    assert [row["check"] for row in shown] == [f"{one['asset']}: {one['name']}" for one in report["checks"]]
    assert courses.metadata("course_report", key)["missing"] == "custom_segmentation has not been made"


def test_structures_of_one_name_are_told_apart_by_their_source() -> None:
    clinical, automatic = StructureSource.CLINICAL, StructureSource.AUTOMATIC
    structures = (
        record("a", "S", "Heart", clinical),
        record("b", "S", "Heart", automatic, made_by="rules_ct"),
        record("c", "S", "PTV", clinical),
    )
    assert structure_names(CourseStructures(planning="S", structures=structures)) == {
        "a": "Heart (clinical)",
        "b": "Heart (automatic: rules_ct)",
        "c": "PTV",
    }


def test_a_course_of_images_alone_has_a_report(courses: ReportedCourses) -> None:
    one = [*images(FIRST), FIRST.plan(structures=None, dose_gy=None, fractions=None)]
    key = organised(courses, one)
    assert courses.run("course_report", key)
    html = page_of(courses, key)
    data = data_of(html)
    assert (data["dose"], data["structures"], data["curves"]) == (None, [], [])
    assert data["shape"] == [6, 32, 32]
    for asset in ("Auto segmentation", "Custom segmentation", "Structures", "Dvh", "Radiomics"):
        assert f"<li>{asset} has not been made.</li>" in html
    assert "no prescribed dose" in html
    assert courses.metadata("course_report", key)["verdict"] in ("WARNING", "FAIL")


def test_a_course_without_images_has_a_report(courses: ReportedCourses) -> None:
    key = organised(courses, [FIRST.structures(), FIRST.plan(), FIRST.dose()])
    assert courses.run("course_report", key)
    html = page_of(courses, key)
    assert "<li>There is no series of a CT or MR: nothing can be drawn.</li>" in html
    assert data_of(html)["image"] is None
    assert "slices" not in courses.metadata("course_report", key)
    # What has made it fail stands first, above and in the table.
    notes = re.findall(r"<li>(.*?)</li>", html)
    assert notes[0] == "FAIL, course inventory: images present: the course has no series of a CT or MR"
    verdicts = [re.sub("<.*?>", "", row[0]) for row in rows_of(html, "Checks")[1:]]
    assert verdicts[0] == "FAIL" and verdicts.index("WARNING") < verdicts.index("PASS")
    assert verdicts == sorted(verdicts, key=["FAIL", "WARNING", "PASS"].index)


def test_an_mr_has_windows_of_its_own_values(courses: ReportedCourses) -> None:
    pixels = np.arange(64, dtype="<u2").reshape(8, 8) * 10
    slices = [FIRST.image(n, modality="MR", RescaleIntercept=0, PixelData=pixels.tobytes()) for n in range(4)]
    key = organised(courses, [*slices, FIRST.plan(structures=None)])
    assert courses.run("course_report", key)
    html = page_of(courses, key)
    assert "MR, 4 images of 8 × 8 pixels" in html
    assert re.findall(r"<option[^>]*>(.*?)</option>", html) == ["all", "dark"]
    assert data_of(html)["value_unit"] == ""
    assert data_of(html)["grey_values"][-1] == pytest.approx(630, abs=3)


def test_images_with_a_gap_are_not_drawn_and_the_page_says_why(courses: ReportedCourses) -> None:
    objects = [*images(FIRST, (0, 1, 2, 4, 5)), *whole(FIRST)[6:]]
    key = organised(courses, objects)
    assert courses.run("course_report", key)
    html = page_of(courses, key)
    assert "The planning series cannot be drawn: the images are not evenly spaced: 3 mm, but 6 mm" in html
    assert data_of(html)["image"] is None


def test_a_dose_that_is_no_part_of_the_course_any_more_is_not_drawn(courses: ReportedCourses) -> None:
    key = organised(courses)
    courses.stages(made(2), key)
    courses.publish("structures", key, "structures-own", lambda to: _structures(to, courses))
    assert courses.run("course_report", key)
    html = page_of(courses, key)
    assert "Dose 1 is not drawn: it is no part of the course any more" in html
    assert data_of(html)["dose"] is None and len(data_of(html)["curves"]) == 2


def _structures(folder: Path, courses: ReportedCourses) -> None:
    from tests.radiotherapy.reported_courses import fill_structures

    fill_structures(folder, courses.planning(FIRST))


def test_stages_that_were_switched_off_are_said(courses: ReportedCourses) -> None:
    key = organised(courses)
    off = CourseDvh(doses=(), not_used=(), figures=(), empty_because="the settings switch them off")
    courses.publish("dvh", key, "off", lambda to: write_dvh(off, to))
    assert courses.run("course_report", key)
    html = page_of(courses, key)
    assert "<li>Dose and volume: the settings switch them off.</li>" in html
    assert "<li>No dose is drawn: the settings switch them off.</li>" in html


def test_a_result_that_is_gone_is_said_and_a_damaged_one_is_an_error(courses: ReportedCourses) -> None:
    import shutil

    key = organised(courses)
    courses.stages(FIRST, key)
    shutil.rmtree(courses.result("radiomics", key).folder)
    assert courses.run("course_report", key)
    assert courses.metadata("course_report", key)["missing"] == (
        "custom_segmentation has not been made; radiomics is gone from the store: materialise it again"
    )
    record = courses.result("dvh", key).path("dvh.json")
    record.write_bytes(record.read_bytes() + b" ")
    assert not courses.run("course_report", key)


def test_nothing_names_the_patient(courses: ReportedCourses) -> None:
    key = organised(courses)
    courses.stages(FIRST, key)
    assert courses.run("course_report", key)
    published = courses.result("course_report", key)
    assert sorted(published.manifest.files) == ["course.html", "dvh.png", "qc_report.json", "slices.png"]
    texts = [path.read_bytes().decode("latin-1") for path in published.folder.iterdir()]
    texts.append(str(courses.metadata("course_report", key)))
    for text in texts:
        assert not [one for one in IDENTITY if one in text]
        assert str(courses.tree) not in text and FIRST.uid(40, 1) not in text


def test_the_pictures_are_small(courses: ReportedCourses) -> None:
    key = organised(courses)
    courses.stages(FIRST, key)
    assert courses.run("course_report", key)
    published = courses.result("course_report", key)
    for name in ("slices.png", "dvh.png"):
        content = published.path(name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) < 30_000

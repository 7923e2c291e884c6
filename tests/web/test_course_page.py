"""The page of a course: its report, checks, tables and files, each for whom may see it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mqi_dagster.errors import KeyRejectedError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.engine_log import model_log
from tests.radiotherapy.reported_courses import IDENTITY, ReportedCourses, made, whole
from tests.web.real_sites import as_, courses_on_disk, pages_of

FIRST, SECOND = made(1), made(2)


@dataclass(frozen=True)
class Courses:
    """The pages of a site, and its courses."""

    site: ReportedCourses
    client: TestClient
    done: str
    waiting: str


@pytest.fixture(scope="module")
def courses(tmp_path_factory: pytest.TempPathFactory, empty_instance: Path) -> Iterator[Courses]:
    """A course with a report, and one of which nothing was made."""
    with courses_on_disk(tmp_path_factory.mktemp("courses"), empty_instance) as site:
        for one in (FIRST, SECOND):
            site.add(one, whole(one))
        keys = site.scan()
        done, waiting = (keys[one.patient_id] for one in (FIRST, SECOND))
        assert site.run("course_inventory", done)
        site.stages(FIRST, done)
        assert site.run("course_report", done)
        with pages_of(site.site) as client:
            yield Courses(site, client, done, waiting)


def test_the_checks_stand_there_with_what_to_do_the_worst_first(courses: Courses) -> None:
    page = as_(courses.client, "vera").get(f"/course/{courses.done}")
    verdicts = re.findall(r'<tr id="check-[^"]+"><td><span class="state verdict-(\w+)">', page)
    assert verdicts == ["warning"] * 6 + ["pass"] * (len(verdicts) - 6)
    assert "Make custom_segmentation, then the report" in page
    assert "60 Gy, 30 fractions" in page
    assert "rules_ct 1.2" in page
    assert f"/assets/dvh?view=partitions&amp;partition={courses.done}" in page


def test_a_course_of_which_nothing_was_made_has_a_page(courses: Courses) -> None:
    page = as_(courses.client, "vera").get(f"/course/{courses.waiting}")
    assert "There is no report yet." in page and "waiting" in page


def test_the_report_opens_as_a_stranger_that_reaches_nothing(courses: Courses) -> None:
    browser = as_(courses.client, "vera")
    assert f'href="/course/{courses.done}/report" target="_blank" rel="noopener"' in browser.get(
        f"/course/{courses.done}"
    )
    answer = courses.client.get(f"/course/{courses.done}/report")
    policy = answer.headers["content-security-policy"]
    assert "sandbox allow-scripts;" in policy and "default-src 'none'" in policy
    assert "allow-same-origin" not in policy and "connect-src" not in policy
    assert f"<h1>Course {courses.done}</h1>" in answer.text
    assert courses.client.get(f"/course/{courses.waiting}/report").status_code == 404


def test_the_pictures_of_the_report_are_shown(courses: Courses) -> None:
    page = as_(courses.client, "vera").get(f"/course/{courses.done}")
    shown = re.findall(rf'src="(/course/{courses.done}/picture/[^"]+)"', page)
    assert len(shown) == 2
    for one in shown:
        assert Image.open(BytesIO(courses.client.get(one).content)).format == "PNG"


def test_tables_come_as_they_lie_in_the_store_for_whom_may_see_identities(courses: Courses) -> None:
    table = f"/course/{courses.done}/table/dvh/dvh_metrics.parquet"
    browser = as_(courses.client, "vera")
    assert "/table/" not in browser.get(f"/course/{courses.done}")
    browser.get(table, 403)
    browser = as_(courses.client, "anna")
    assert f'href="{table}"' in browser.get(f"/course/{courses.done}")
    answer = courses.client.get(table)
    assert "attachment" in answer.headers["content-disposition"]
    assert pl.read_parquet(BytesIO(answer.content))["ROI_Name"].to_list() == ["PTV", "=Lung_L"]
    assert Action.IDENTITY_READ in {
        row.action for row in courses.site.site.ledger.audit.newest(9, subject=courses.done, actor="anna")
    }


@pytest.mark.parametrize("name", ["vera", "ed"])
def test_without_the_right_nothing_says_whose_it_is(courses: Courses, name: str) -> None:
    browser = as_(courses.client, name)
    told = [browser.get(f"/course/{one}") for one in (courses.done, courses.waiting)]
    told.append(courses.client.get(f"/course/{courses.done}/report").text)
    assert not [one for one in IDENTITY for text in told if one in text]


def test_whose_it_is_stands_there_for_whom_may_see_it(courses: Courses) -> None:
    browser = as_(courses.client, "anna")
    page = " ".join(re.sub(r"<[^>]+>", " ", browser.get(f"/course/{courses.done}")).split())
    assert "Findmich, Nummer1 Patient ID ZQ-77-1 Birth date 1947-08-13" in page
    # Before it is organised, the index of the tree tells.
    assert "Findmich, Nummer2" in browser.get(f"/course/{courses.waiting}")


def test_real_places_are_for_those_who_may_see_them(courses: Courses) -> None:
    tree = str(courses.site.tree)
    assert tree not in as_(courses.client, "vera").get(f"/course/{courses.done}")
    assert tree in as_(courses.client, "ed").get(f"/course/{courses.done}/files")


def test_what_a_model_has_printed_is_shown_from_its_end_without_marks_that_do_something(
    tmp_path: Path,
) -> None:
    log = tmp_path / "model.log"
    log.write_bytes(b"x" * 300_000 + b"\nred \x1b[31m\xe2\x80\xae<b>\x00\xff\nend\n")
    assert model_log(log) == ["red  [31m <b> \ufffd", "end"]
    with pytest.raises(KeyRejectedError):
        model_log(tmp_path / "other.log")


@pytest.mark.parametrize(
    "path",
    [
        "/course/R234567ABC.c01",
        "/course/..%2F..%2Fetc%2Fpasswd",
        "/course/{key}/table/dvh/..%2F..%2F..%2Fsecret",
        "/course/{key}/table/dvh/dvh.json",
        "/course/{key}/table/../course_inventory/inventory.json",
        "/course/{key}/table/structures/masks%2Fbody.npz",
        "/course/{key}/picture/..%2Fdvh.png",
        "/course/{key}/picture/other.png",
        "/course/{key}/log/0.txt",
        "/course/{key}/log/7.txt",
        "/stream/course/R234567ABC.c01",
        "/case/{key}",
    ],
)
def test_what_is_not_there_is_not_found(courses: Courses, path: str) -> None:
    as_(courses.client, "anna")
    assert courses.client.get(path.replace("{key}", courses.done)).status_code == 404

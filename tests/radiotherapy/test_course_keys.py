"""The number of a course is given once, whatever plans come later, earlier or go."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from mqi_dagster.courses.grouping import groups
from mqi_dagster.errors import InputError
from mqi_dagster.lifecycle.course import arrival_of, find_course, keyed_courses, open_index
from mqi_dagster.resources.site import Site
from tests.courses.made_objects import Made

MADE = Made(1)
Y2023, Y2024, Y2025 = "20230110", "20240115", "20250120"


class Keys:
    """A site whose tree has one patient."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.root = folder.resolve() / "tree"
        self.root.mkdir()
        (folder / "secret").touch(mode=0o600)
        (folder / "secret").write_text("5a" * 32 + "\n")

    def site(self, max_days: int | None) -> Site:
        days = "null" if max_days is None else max_days
        (self._folder / "mqi.yaml").write_text(
            f"site: {{timezone: Asia/Seoul}}\nradiotherapy: {{dicom_root: {self.root}, max_days: {days}}}\n"
        )
        return Site(self._folder / "mqi.yaml")

    def add(self, index: int, day: str) -> Path:
        content = MADE.plan(index, day=day, structures=None)
        return MADE.at(self.root).write(content, f"plan{index}")

    def found(self, max_days: int | None) -> dict[str, list[int]]:
        """The plans of each course, by its number."""
        site = self.site(max_days)
        with closing(open_index(site)) as index:
            index.scan()
            (group, _) = groups(index, site.pseudonyms.keyed, max_days)
            courses = keyed_courses(site, group)
        for key, course in courses.items():
            assert find_course(site, key) == course
        arrivals = {arrival_of(site, key, course)[0] for key, course in courses.items()}
        assert len(arrivals) == len(courses)
        return {
            key.split(".")[1]: [int(one.found.sop_instance_uid.rsplit(".", 1)[1]) for one in course.plans]
            for key, course in courses.items()
        }


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def test_an_earlier_plan_gets_the_next_number(keys: Keys) -> None:
    keys.add(1, Y2024)
    assert keys.found(30) == {"c01": [1]}
    keys.add(2, Y2023)
    assert keys.found(30) == {"c01": [1], "c02": [2]}
    keys.add(3, Y2025)
    assert keys.found(30) == {"c01": [1], "c02": [2], "c03": [3]}


def test_a_plan_of_the_same_days_is_of_the_same_course(keys: Keys) -> None:
    keys.add(5, Y2024)
    keys.add(2, Y2025)
    first = keys.found(30)
    number = {plans[0]: key for key, plans in first.items()}
    assert sorted(first) == ["c01", "c02"]
    keys.add(1, "20240101")  # the first of its run, and in the order of UIDs
    keys.add(3, "20250110")
    assert keys.found(30) == {number[5]: [1, 5], number[2]: [2, 3]}


def test_a_key_is_not_taken_over_when_its_plans_are_gone(keys: Keys) -> None:
    plan = keys.add(1, Y2024)
    assert keys.found(30) == {"c01": [1]}
    plan.unlink()
    keys.add(2, Y2023)
    assert keys.found(30) == {"c02": [2]}
    keys.add(1, Y2024)
    assert keys.found(30) == {"c01": [1], "c02": [2]}


@pytest.mark.parametrize("max_days", [None, 30])
def test_a_course_without_plans_is_still_itself_with_one(keys: Keys, max_days: int | None) -> None:
    MADE.at(keys.root).write(MADE.structures())
    assert keys.found(max_days) == {"c01": []}
    plan = keys.add(1, Y2024)
    assert keys.found(max_days) == {"c01": [1]}
    plan.unlink()
    assert keys.found(max_days) == {"c01": []}


def test_without_days_a_frame_of_reference_is_one_course(keys: Keys) -> None:
    plan = keys.add(1, Y2024)
    assert keys.found(None) == {"c01": [1]}
    keys.add(2, Y2023)
    assert keys.found(None) == {"c01": [1, 2]}
    plan.unlink()
    assert keys.found(None) == {"c01": [2]}


def test_the_number_that_a_site_has_given_by_the_frame_stays(keys: Keys) -> None:
    keys.add(1, Y2024)
    site = keys.site(None)
    name = site.pseudonyms.patient("ID001", None)
    by_frame = site.pseudonyms.keyed("course", "ID001", "", MADE.frame)
    assert site.ledger.fractions.number(name, ["another course"]) == 1
    assert site.ledger.fractions.number(name, [by_frame]) == 2

    assert keys.found(None) == {"c02": [1]}
    assert keys.found(30) == {"c02": [1]}
    keys.add(2, Y2023)
    assert keys.found(30) == {"c02": [1], "c03": [2]}


def test_days_that_are_set_later_leave_the_number_with_the_first_plans(keys: Keys) -> None:
    keys.add(1, Y2024)
    keys.add(2, Y2025)
    assert keys.found(None) == {"c01": [1, 2]}
    assert keys.found(30) == {"c01": [1], "c02": [2]}


def test_courses_that_become_one_are_an_error_that_says_what_to_do(keys: Keys) -> None:
    keys.add(1, "20240101")
    keys.add(2, "20240220")
    assert keys.found(30) == {"c01": [1], "c02": [2]}
    between = keys.add(3, "20240125")
    for max_days in (30, None, 400):
        with pytest.raises(InputError, match=r"known as the courses c01 and c02 has become one: choose rad"):
            keys.found(max_days)
    between.unlink()
    assert keys.found(30) == {"c01": [1], "c02": [2]}


def test_a_course_that_becomes_several_is_an_error_that_says_what_to_do(keys: Keys) -> None:
    keys.add(1, "20240101")
    keys.add(2, "20240220")
    assert keys.found(90) == {"c01": [1, 2]}
    with pytest.raises(InputError, match=r"\.c01: its plans have become several courses: set radiotherapy"):
        keys.found(30)
    assert keys.found(90) == {"c01": [1, 2]}

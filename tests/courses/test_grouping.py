"""What links objects to a course, what separates courses of one patient, and what is set aside."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mqi_dagster.courses.dicom_index import DicomIndex
from mqi_dagster.courses.grouping import Group, groups
from mqi_dagster.courses.inventory import CourseInventory, Reason
from mqi_dagster.pseudonyms import Pseudonyms
from tests.courses.made_objects import Made, items
from tests.courses.made_tree import COURSES
from tests.courses.test_made_tree import shown

KEYED = Pseudonyms(b"a secret of sixteen bytes").keyed
MADE = Made(1)


class Tree:
    """A tree that is scanned and grouped anew each time."""

    def __init__(self, root: Path, index: DicomIndex) -> None:
        self._root, self._index = root, index

    def with_(self, *contents: bytes) -> Tree:
        for content in contents:
            MADE.at(self._root).write(content)
        return self

    def group(self, max_days: int | None = None) -> Group:
        """Of the one patient."""
        self._index.scan()
        found, nobody = groups(self._index, KEYED, max_days)
        assert not nobody.set_aside
        return found

    def course(self) -> CourseInventory:
        (found,) = self.group().courses
        return found


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    root = tmp_path.resolve() / "tree"
    root.mkdir()
    with closing(DicomIndex(tmp_path / "index.sqlite", root)) as index:
        yield Tree(root, index)


def aside(group: Group) -> list[str]:
    return sorted(f"{one.role}: {one.reason.value}" for one in group.set_aside)


def findings(course: CourseInventory) -> list[str]:
    return [finding.text for finding in course.findings]


class TestFrameOfReference:
    def test_a_plan_lies_where_its_structure_set_does(self, tree: Tree) -> None:
        course = tree.with_(
            MADE.image(), MADE.structures(slices=1), MADE.plan(FrameOfReferenceUID=None)
        ).course()

        assert course.frame_of_reference_uid == MADE.frame
        assert [one.linked_by.value for one in (*course.structure_sets, *course.plans)] == [
            "reference",
            "reference",
        ]
        assert findings(course) == ["1 of 1 plans have no dose here"]

    def test_a_plan_without_structure_set_lies_where_its_dose_does(self, tree: Tree) -> None:
        course = tree.with_(MADE.plan(structures=None, FrameOfReferenceUID=None), MADE.dose()).course()

        assert course.frame_of_reference_uid == MADE.frame
        assert (len(course.plans), len(course.doses)) == (1, 1)

    def test_a_plan_that_nothing_tells_the_frame_of_is_set_aside(self, tree: Tree) -> None:
        group = tree.with_(MADE.plan(FrameOfReferenceUID=None)).group()

        assert (group.courses, aside(group)) == ((), ["plan: no Frame of Reference"])

    def test_images_count_more_than_what_a_structure_set_states(self, tree: Tree) -> None:
        course = tree.with_(MADE.image(), MADE.structures(slices=1, FrameOfReferenceUID=MADE.uid(5))).course()

        assert course.frame_of_reference_uid == MADE.frame
        assert findings(course) == [
            "a structure set has regions or images in another Frame of Reference than the course"
        ]

    def test_a_structure_set_lies_where_most_of_its_regions_do(self, tree: Tree) -> None:
        elsewhere = MADE.uid(0)  # the first in the order of UIDs
        rois = [
            {"ROINumber": n, "ReferencedFrameOfReferenceUID": frame}
            for n, frame in enumerate([elsewhere, MADE.frame, MADE.frame])
        ]
        course = tree.with_(MADE.structures(StructureSetROISequence=items(rois))).course()

        assert course.frame_of_reference_uid == MADE.frame

    def test_images_without_one_join_the_structure_set_that_names_them(self, tree: Tree) -> None:
        images = [MADE.image(n, FrameOfReferenceUID=None) for n in range(3)]
        course = tree.with_(MADE.structures(), *images).course()

        (series,) = course.image_series
        assert (len(series.images), series.linked_by.value, series.frame_of_reference_uid) == (
            3,
            "reference",
            None,
        )

    def test_a_dose_of_plans_that_lie_apart_is_set_aside(self, tree: Tree) -> None:
        apart = MADE.plan(2, structures=None, FrameOfReferenceUID=MADE.uid(5))
        total = MADE.dose(plans=[1, 2], summation="MULTI_PLAN", FrameOfReferenceUID=MADE.uid(6))
        group = tree.with_(MADE.plan(), apart, total).group()

        assert [len(course.doses) for course in group.courses] == [0, 0]
        assert aside(group) == ["dose: links that contradict each other"]


class TestRegistration:
    def test_it_never_joins_two_courses(self, tree: Tree) -> None:
        second = MADE.structures(2, series=11, FrameOfReferenceUID=MADE.uid(5))
        group = tree.with_(MADE.structures(), second, MADE.registration(MADE.uid(5))).group()

        assert [len(course.structure_sets) for course in group.courses] == [1, 1]
        assert [len(course.registrations) for course in group.courses] == [1, 1]

    def test_one_of_frames_without_course_is_set_aside(self, tree: Tree) -> None:
        images = [MADE.image(n, FrameOfReferenceUID=MADE.uid(5)) for n in range(2)]
        group = tree.with_(*images, MADE.registration(MADE.uid(5))).group()

        assert aside(group) == ["image: no course", "image: no course", "registration: no course"]


class TestDays:
    CONTENTS = (
        *MADE.whole(),
        MADE.plan(2, day="20240130", structures=1),
        MADE.plan(3, day="20240901", structures=2),
        MADE.structures(2, StructureSetDate="20240825"),
        MADE.structures(3, StructureSetDate="20240905"),
        MADE.dose(3, plans=[3]),
    )

    def test_without_a_limit_they_do_not_count(self, tree: Tree) -> None:
        course = tree.with_(*self.CONTENTS).course()

        assert (len(course.plans), len(course.structure_sets), len(course.doses)) == (3, 3, 2)

    def test_plans_farther_apart_are_courses_of_their_own(self, tree: Tree) -> None:
        first = tree.with_(*self.CONTENTS).group().courses[0]

        courses = {len(course.plans): course for course in tree.group(max_days=90).courses}

        assert courses[2].identity == first.identity
        assert [one.found.label for one in courses[1].plans] == ["plan"]
        assert [one.found.sop_instance_uid for one in courses[1].structure_sets] == [
            MADE.uid(20, 2),
            MADE.uid(20, 3),
        ]
        assert [one.found.sop_instance_uid for one in courses[2].structure_sets] == [MADE.uid(20, 1)]
        assert [len(courses[n].doses) for n in (1, 2)] == [1, 1]
        assert [len(courses[n].image_series[0].images) for n in (1, 2)] == [3, 3]

    def test_the_limit_is_between_neighbours(self, tree: Tree) -> None:
        contents = [MADE.plan(n, day=day) for n, day in ((1, "20240101"), (2, "20240120"), (3, "20240208"))]
        tree.with_(*contents)

        assert [len(course.plans) for course in tree.group(max_days=19).courses] == [3]
        assert [len(course.plans) for course in tree.group(max_days=18).courses] == [1, 1, 1]

    def test_what_neither_link_nor_day_tells_is_set_aside(self, tree: Tree) -> None:
        between = MADE.structures(4, StructureSetDate="20240515")
        undated = MADE.plan(4, day="")
        group = tree.with_(*self.CONTENTS, between, undated).group(max_days=60)

        assert aside(group) == ["plan: day unknown", "structure set: day unknown"]

    def test_a_day_that_is_near_two_courses_tells_neither(self, tree: Tree) -> None:
        plans = [MADE.plan(1, day="20240101", structures=None), MADE.plan(2, day="20240210", structures=None)]
        group = tree.with_(*plans, MADE.structures(StructureSetDate="20240121")).group(max_days=30)

        assert aside(group) == ["structure set: day unknown"]

    def test_a_later_course_keeps_the_identity_of_the_first(self, tree: Tree) -> None:
        before = tree.with_(*MADE.whole()).group(max_days=30).courses
        after = tree.with_(MADE.plan(2, day="20250101")).group(max_days=30).courses

        assert len(after) == 2
        assert before[0].identity in {course.identity for course in after}


def test_what_is_set_aside_is_counted_as_people_write_it() -> None:
    assert [Reason.STRAY.counted(1), Reason.STRAY.counted(3)] == ["1 stray file", "3 stray files"]
    assert Reason.EQUAL_COPY.counted(2) == "2 equal copies"
    assert Reason.DAMAGED.counted(2) == "2 damaged"


def test_identities_are_keyed(tree: Tree) -> None:
    tree.with_(*MADE.whole())
    tree._index.scan()
    other = Pseudonyms(b"another secret of more bytes").keyed

    (ours, _), (theirs, _) = groups(tree._index, KEYED), groups(tree._index, other)

    assert ours.courses[0].identity != theirs.courses[0].identity
    assert len(ours.courses[0].identity) == 64


def test_an_absent_issuer_is_said(tree: Tree) -> None:
    images = [Made(1, issuer="clinic").image(n) for n in range(3)]
    course = tree.with_(*images, MADE.structures()).course()

    assert findings(course) == ["some objects of this patient ID do not name its issuer"]
    assert len(course.image_series[0].images) == 3


def test_copies_of_two_patients_that_differ_are_set_aside_by_both(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    for patient in ("ONE", "TWO"):
        made = Made(1, patient_id=patient).at(root / patient)
        for content in made.whole():
            made.write(content)
    with closing(DicomIndex(tmp_path / "index.sqlite", root)) as index:
        index.scan()
        found = list(groups(index, KEYED))

    assert [group.courses for group in found] == [(), (), ()]
    assert [aside(group) for group in found[:2]] == 2 * [
        [*["dose: copies that differ"], *3 * ["image: copies that differ"],
         "plan: copies that differ", "structure set: copies that differ"]
    ]  # fmt: skip


def test_the_head_phantom_whose_plan_and_structure_set_name_what_is_not_there(
    shared: Path, tmp_path: Path
) -> None:
    with tarfile.open(shared / "cases" / "head_phantom" / "head_phantom.tar.xz") as archive:
        archive.extractall(tmp_path / "tree", filter="data")
    with closing(DicomIndex(tmp_path / "index.sqlite", (tmp_path / "tree").resolve())) as index:
        index.scan()
        found, _ = groups(index, KEYED)

    (course,) = found.courses
    assert shown(course) == (
        "CT 177 | sets 1 | plans 1 | doses 0 | 8.63867 Gy in 5, 8.63867 Gy in 5 | "
        "| reference_unresolved: 1 of 1 structure sets, images_missing: 177 of 177 images, "
        "plan_without_dose: 1 of 1 plans"
    )
    # The series is the one that the structure set names, its images are not.
    assert [series.linked_by.value for series in course.image_series] == ["reference"]
    assert len(course.structure_sets[0].found.rois) == 11
    assert found.set_aside == ()


def test_the_table_has_forty_courses() -> None:
    assert sorted(COURSES) == list(range(1, 41))

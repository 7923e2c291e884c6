"""Forty made courses among files of all kinds: the inventories equal a table, every file is accounted for."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mqi_dagster.courses.dicom_index import DicomIndex
from mqi_dagster.courses.dose_rules import DoseDecision
from mqi_dagster.courses.grouping import Group, groups
from mqi_dagster.courses.inventory import CourseInventory, LinkedBy, read_inventory, write_inventory
from mqi_dagster.courses.places import Place, read_placed
from mqi_dagster.pseudonyms import Pseudonyms
from tests.courses.made_objects import Made
from tests.courses.made_tree import COURSES, SET_ASIDE, write_tree

KEYED = Pseudonyms(b"a secret of sixteen bytes").keyed


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tree and its index."""
    folder = tmp_path_factory.mktemp("made").resolve()
    write_tree(folder / "tree")
    with closing(DicomIndex(folder / "index.sqlite", folder / "tree")) as index:
        assert index.scan().opened == 287  # 288 without the link
    return folder


@pytest.fixture
def tree(scanned: Path, tmp_path: Path) -> Path:
    """The tree, with the times that its index knows."""
    return Path(shutil.copytree(scanned / "tree", tmp_path.resolve() / "tree", symlinks=True))


@pytest.fixture
def index(scanned: Path, tree: Path, tmp_path: Path) -> Iterator[DicomIndex]:
    shutil.copy(scanned / "index.sqlite", tmp_path / "index.sqlite")
    with closing(DicomIndex(tmp_path / "index.sqlite", tree)) as opened:
        yield opened


def test_the_inventories_equal_the_table(index: DicomIndex) -> None:
    found = list(groups(index, KEYED))

    assert {number(course): shown(course) for group in found for course in group.courses} == COURSES
    aside = {
        (one.place.path, one.place.member): one.reason.value for group in found for one in group.set_aside
    }
    assert aside == SET_ASIDE


def test_every_file_of_the_tree_is_accounted_for(index: DicomIndex, tree: Path) -> None:
    places = [place for group in groups(index, KEYED) for place in accounted(group)]

    assert len(places) == len(set(places))
    files = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_symlink() or path.is_file()}
    assert {path for path, _ in places} == files
    members = {"ct/4", "../evil", "/root/evil", "C:\\evil", "readme"}
    assert {member for path, member in places if member} == members


def test_patients_are_told_apart_by_id_and_issuer(index: DicomIndex) -> None:
    of_patient = {
        (group.patient.patient_id, group.patient.issuer): [number(course) for course in group.courses]
        for group in groups(index, KEYED)
        if group.patient is not None
    }

    assert of_patient["ID001", None] == [1]
    assert of_patient["ID034", None] == [34]  # of the same name
    assert of_patient["SHARED", "clinic 35"] == [35]
    assert of_patient["SHARED", "clinic 36"] == [36]
    assert sorted(of_patient["TWO", None]) == [37, 38]


def test_neither_names_of_files_nor_the_order_of_reading_change_a_course(
    index: DicomIndex, tree: Path, tmp_path: Path
) -> None:
    other = tmp_path.resolve() / "other"
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    for position, file in enumerate(reversed(files)):
        target = other / f"{position % 7}" / f"{position:04d}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    with closing(DicomIndex(tmp_path / "other.sqlite", other)) as second:
        second.scan()

        assert courses(second).keys() == courses(index).keys()
        assert {number(course): shown(course) for course in courses(second).values()} == COURSES


def test_a_second_scan_opens_no_file(index: DicomIndex, tree: Path) -> None:
    opened: list[str] = []
    watching = [True]

    def note(event: str, details: tuple[object, ...]) -> None:
        if event == "open" and watching and isinstance(details[0], str | os.PathLike):
            opened.append(os.fspath(details[0]))

    sys.addaudithook(note)  # it stays as long as the process
    again = index.scan()
    assert (again.files, again.opened, again.compared, again.removed) == (288, 0, 0, 0)
    assert [path for path in opened if path.startswith(str(tree))] == []

    os.utime(tree / "DICOMDIR", ns=(1, 1))
    assert index.scan().opened == 1
    assert {path for path in opened if path.startswith(str(tree))} == {str(tree / "DICOMDIR")}
    watching.clear()


def test_one_added_file_changes_one_course(index: DicomIndex, tree: Path) -> None:
    before = courses(index)
    Made(17).at(tree).write(Made(17).image(3), "added")

    again = index.scan()
    after = courses(index)

    assert again.opened == 1
    assert after.keys() == before.keys()
    changed = [key for key in before if after[key].fingerprint != before[key].fingerprint]
    assert [number(after[key]) for key in changed] == [17]
    assert shown(after[changed[0]]).startswith("CT 4 |")


def test_a_removed_file_changes_one_course(index: DicomIndex, tree: Path) -> None:
    before = courses(index)
    dose = next(course.doses[0] for course in before.values() if number(course) == 3)
    (tree / dose.place.path).unlink()

    again = index.scan()
    after = courses(index)

    assert (again.opened, again.removed) == (0, 1)
    changed = [key for key in before if after[key].fingerprint != before[key].fingerprint]
    assert [shown(after[key]) for key in changed] == [
        "CT 3 | sets 1 | plans 1 | doses 0 | 60 Gy in 30 | | plan_without_dose: 1 of 1 plans"
    ]


_KILLED_SCAN = """
import os, signal, sys
from pathlib import Path
from mqi_dagster.courses.dicom_index import DicomIndex

def killed(progress):
    if progress.done >= 128:
        os.kill(os.getpid(), signal.SIGKILL)

DicomIndex(Path(sys.argv[1]), Path(sys.argv[2])).scan(progress=killed)
"""


def test_a_scan_that_is_killed_goes_on_where_it_was(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "killed.sqlite"
    child = subprocess.run(
        [sys.executable, "-c", _KILLED_SCAN, str(path), str(tree)], check=False, timeout=120
    )
    assert child.returncode == -signal.SIGKILL

    with closing(DicomIndex(path, tree)) as index:
        rest = index.scan()

        assert rest.opened == 287 - 128  # the link is not opened
        assert {number(course): shown(course) for course in courses(index).values()} == COURSES


def test_an_inventory_is_written_for_its_owner_and_names_nobody(index: DicomIndex, tmp_path: Path) -> None:
    for course in courses(index).values():
        path = tmp_path / "inventory.json"
        write_inventory(course, path)

        assert read_inventory(path) == course
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        text = path.read_text()
        assert not any(word in text for word in ("ID0", "SHARED", '"TWO', "Made^", "Else", "19600101"))


def test_an_object_is_read_from_its_place(index: DicomIndex, tree: Path) -> None:
    course = next(one for one in courses(index).values() if number(one) == 6)
    places = [image.place for series in course.image_series for image in series.images]

    assert [place.member for place in places] == ["", "", "", "ct/4"]
    values = [read_placed(tree, place).pixel_array[0, 0] for place in places]
    assert values == [1000, 1001, 1002, 1003]


def number(course: CourseInventory) -> int:
    """Of the made course."""
    return int(course.frame_of_reference_uid.split(".")[-2])


def courses(index: DicomIndex) -> dict[str, CourseInventory]:
    return {course.identity: course for group in groups(index, KEYED) for course in group.courses}


def accounted(group: Group) -> Iterator[tuple[str, str]]:
    """The places of all that stands in what was found of a patient."""
    for course in group.courses:
        places: list[Place] = [image.place for series in course.image_series for image in series.images]
        places += [one.place for one in (*course.structure_sets, *course.plans, *course.doses)]
        places += [one.place for one in (*course.registrations, *course.others, *course.set_aside)]
        yield from ((place.path, place.member) for place in places)
    yield from ((one.place.path, one.place.member) for one in group.set_aside)


def shown(course: CourseInventory) -> str:
    """A course as the table shows it."""
    by = {LinkedBy.REGISTRATION: " by registration"}
    series = [f"{s.modality} {len(s.images)}{by.get(s.linked_by, '')}" for s in course.image_series]
    counts = [("sets", course.structure_sets), ("plans", course.plans), ("doses", course.doses)]
    more = [("registrations", course.registrations), ("others", course.others)]
    doses = [
        f"{target.dose_gy:g} Gy in {one.fractions_planned}"
        for one in course.prescriptions
        for target in one.targets
    ]
    findings = [
        finding.code.value
        + (f": {finding.text.split(' that ')[0].split(' have ')[0]}" if finding.text[0].isdigit() else "")
        for finding in course.findings
    ]
    aside = [f"{one.reason.value} of {one.role}" for one in course.set_aside]
    parts = [
        ", ".join(series),
        *(f"{name} {len(found)}" for name, found in counts),
        *(f"{name} {len(found)}" for name, found in more if found),
        ", ".join(doses),
        ", ".join(decided(one) for one in course.dose_decisions),
        *([", ".join(findings)] if findings else []),
        *([f"set aside: {', '.join(aside)}"] if aside else []),
    ]
    return " | ".join(parts).replace("|  |", "| |").rstrip()


def decided(decision: DoseDecision) -> str:
    def index_of(uids: tuple[str, ...]) -> list[str]:
        return [uid.split(".")[-1] for uid in uids]

    plan = [] if decision.plan_uid is None else [f"(plan {index_of((decision.plan_uid,))[0]})"]
    summed = ["+".join(index_of(decision.summed))] if decision.summed else []
    used, not_used = index_of(decision.used), [f"-{one}" for one in index_of(decision.not_used)]
    return " ".join([decision.rule.value, *plan, *summed, *used, *not_used])

"""The inventory of a course as an asset: what is published, and its checks as Dagster has them."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from mqi_dagster.assets.radiotherapy.organise import course_inventory
from mqi_dagster.courses.grouping import groups
from mqi_dagster.courses.inventory import read_inventory
from mqi_dagster.imaging.course_facts import read_facts
from mqi_dagster.imaging.quality_control import checks_of
from mqi_dagster.lifecycle.course import INVENTORY_FILE, keyed_courses, load_course, open_index
from mqi_dagster.lifecycle.lineage import resolve
from mqi_dagster.lifecycle.materialisations import INVENTORY
from mqi_dagster.resources.composed import resources_of
from mqi_dagster.resources.site import Site
from tests.courses.made_objects import Made
from tests.courses.made_tree import write_tree

Evaluations = dict[str, dg.AssetCheckEvaluation]


class Organising:
    """A site with a tree of DICOM files.

    Args:
        folder: Of the site; the tree is below it.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder.resolve() / "tree"
        self.root.mkdir()
        (folder / "secret").touch(mode=0o600)
        (folder / "secret").write_text("5a" * 32 + "\n")
        (folder / "mqi.yaml").write_text(
            f"site: {{timezone: Asia/Seoul}}\nradiotherapy: {{dicom_root: {self.root}}}\n"
        )
        self.site = Site(folder / "mqi.yaml")
        self.instance = dg.DagsterInstance.ephemeral()
        definitions = dg.Definitions([course_inventory], resources=dict(resources_of(self.site)))
        self._job = definitions.resolve_implicit_global_asset_job_def()

    def keys(self) -> dict[int, str]:
        """Scan the tree; the keys of its courses by their numbers."""
        with closing(open_index(self.site)) as index:
            index.scan()
            keyed = [keyed_courses(self.site, group) for group in groups(index, self.site.pseudonyms.keyed)]
        return {
            int(course.frame_of_reference_uid.split(".")[-2]): key
            for courses in keyed
            for key, course in courses.items()
        }

    def run(self, key: str) -> tuple[bool, Evaluations]:
        """Materialise the inventory of a course; whether its run succeeded, and its checks by name."""
        self.instance.add_dynamic_partitions("course", [key])
        done = self._job.execute_in_process(instance=self.instance, partition_key=key, raise_on_error=False)
        return done.success, {one.check_name: one for one in done.get_asset_check_evaluations()}


@pytest.fixture
def organising(tmp_path: Path) -> Iterator[Organising]:
    made = Organising(tmp_path)
    with made.instance:
        yield made


def not_passed(found: Evaluations) -> dict[str, str]:
    """What did not pass, with its severity."""
    return {name: one.severity.value for name, one in found.items() if not one.passed}


def test_the_checks_of_an_inventory_stand_in_dagster(organising: Organising) -> None:
    made = Made(7).at(organising.root)
    for content in (made.image(0), made.image(1), made.image(3), made.structures(), made.dose()):
        made.write(content)
    (key,) = organising.keys().values()
    success, found = organising.run(key)
    assert success
    assert set(found) == {check.name for check in checks_of("course_inventory")}
    assert not_passed(found) == {
        "image_grid": "ERROR",
        "plan_present": "WARN",
        "references": "WARN",
        "referenced_images": "ERROR",
    }
    assert found["plan_present"].description == (
        "the course has no plan. What to do: Export the plan as well; without it there is no prescription,"
        " and no dose can be told to be whole."
    )
    assert found["image_grid"].partition == key
    (record,) = organising.instance.fetch_materializations(dg.AssetKey(INVENTORY), limit=1).records
    assert record.asset_materialization is not None
    assert record.asset_materialization.metadata["quality"].value == "FAIL"


def test_facts_are_published_beside_the_inventory_and_name_nobody(organising: Organising) -> None:
    made = Made(7).at(organising.root)
    for content in made.whole():
        made.write(content)
    (key,) = organising.keys().values()
    organising.run(key)
    published = resolve(organising.instance, organising.site.store, INVENTORY, key)
    facts = read_facts(published.folder, read_inventory(published.path(INVENTORY_FILE)))
    assert [image.instance_number for image in facts.image_series[0]] == [1, 2, 3]
    assert (facts.doses[0].maximum, facts.plans[0].fault) == (62.0, "")
    path = published.path("facts.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not any(word in path.read_text() for word in ("ID007", "Made", "1.2.826", "19600101"))


def test_a_second_run_evaluates_the_same_on_what_is_published(organising: Organising) -> None:
    made = Made(7).at(organising.root)
    for content in made.whole():
        made.write(content)
    (key,) = organising.keys().values()
    _, first = organising.run(key)
    before = resolve(organising.instance, organising.site.store, INVENTORY, key)
    _, second = organising.run(key)
    assert resolve(organising.instance, organising.site.store, INVENTORY, key).digest == before.digest
    assert {name: one.description for name, one in second.items()} == {
        name: one.description for name, one in first.items()
    }


def test_two_people_under_one_id_go_no_further(organising: Organising) -> None:
    made = Made(7).at(organising.root)
    for content in (*made.whole()[:4], made.plan(PatientBirthDate="19990909"), made.dose()):
        made.write(content)
    (key,) = organising.keys().values()
    success, found = organising.run(key)
    assert not success
    assert not_passed(found) == {"patient_identity": "ERROR"}


def test_a_file_is_opened_once_for_its_digest_and_its_facts(
    organising: Organising, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(7).at(organising.root)
    for content in made.whole():
        made.write(content)
    (key,) = organising.keys().values()
    opened = Counter[str]()
    plain = Path.open

    def counted(self: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        if self.is_relative_to(organising.root):
            opened[str(self)] += 1
        return plain(self, mode, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", counted)
    organising.run(key)
    assert sorted(opened.values()) == [1] * 6


def test_of_two_courses_the_one_with_a_damaged_image_fails_alone(organising: Organising) -> None:
    for number in (7, 8):
        made = Made(number).at(organising.root)
        for content in made.whole():
            file = made.write(content)
            if number == 8 and content == made.image(1):
                file.write_bytes(content[:-20])
    keys = organising.keys()
    found = {number: organising.run(keys[number])[1]["objects_readable"] for number in (7, 8)}
    assert {number: check.passed for number, check in found.items()} == {7: True, 8: False}
    assert str(found[8].description).startswith(
        "image 2 of 3 of the planning CT (by SOP Instance UID): is cut off"
    )


@pytest.mark.slow
def test_of_forty_courses_the_one_with_a_damaged_image_fails_alone(organising: Organising) -> None:
    write_tree(organising.root)
    keys = organising.keys()
    with closing(open_index(organising.site)) as index:
        third = next(
            course
            for group in groups(index, organising.site.pseudonyms.keyed)
            for key, course in keyed_courses(organising.site, group).items()
            if key == keys[3]
        )
    image = organising.root / third.image_series[0].images[1].place.path
    image.write_bytes(image.read_bytes()[:-20])
    assert organising.keys() == keys

    found = {number: organising.run(key) for number, key in keys.items()}

    assert sorted(found) == list(range(1, 41))
    assert all(len(checks) == len(checks_of("course_inventory")) for _, checks in found.values())
    damaged = {
        number: checks["objects_readable"].description
        for number, (_, checks) in found.items()
        if not checks["objects_readable"].passed
    }
    assert list(damaged) == [3]
    assert str(damaged[3]).startswith("image 2 of 3 of the planning CT (by SOP Instance UID): is cut off")
    # What follows is stopped for the one whose objects bear two birth dates.
    assert [number for number, (success, _) in found.items() if not success] == [39]
    for key in keys.values():
        course = load_course(organising.instance, organising.site.store, organising.site, key)
        assert len(course.contents) == len(course.places)

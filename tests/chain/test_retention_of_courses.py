"""What retention takes away of courses, and what it never does: the tree they are made from."""

from __future__ import annotations

import hashlib
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from mqi_dagster.lifecycle.materialisations import INVENTORY
from mqi_dagster.lifecycle.retention import remove, spare, tidy
from tests.chain.course_site import CourseSite

DAY = 86400.0
NO_LOGS = {"engine_log_days": None, "run_output_days": None}

pytestmark = pytest.mark.usefixtures("looks_here")


def aged(folder: Path, days: float) -> None:
    past = time.time() - days * DAY
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            os.utime(path, (past, past))


def listed(site: CourseSite, now: datetime | None = None) -> list[str]:
    found = spare(site.instance, site.site, now or datetime.now(UTC), [])
    return [f"{thing.kind.value}: {thing.name}" for thing in found]


def inventories(site: CourseSite, course: str) -> set[str]:
    folder = site.site.settings.paths.data / "courses" / course / "_course" / INVENTORY
    return {path.name for path in folder.iterdir() if not path.is_symlink()}


def organised_anew(site: CourseSite, number: int) -> str:
    """The key of a course that gets another plan and is organised again; nothing else of it is made."""
    made = site.course(number)
    made.write(made.plan(2, dose_gy=10.0))
    (request,) = site.tick(launch=False)
    dg.materialize(
        [asset for asset in site.definitions.assets or () if dg.AssetKey(INVENTORY) in asset.keys],
        instance=site.instance,
        partition_key=str(request.partition_key),
        resources=dict(site.definitions.resources or {}),
    )
    return str(request.partition_key)


def made_by(site: CourseSite, number: int) -> str:
    return f"{site.site.pseudonyms.patient(f'ID{number:03d}', None)}.c01"


def tree_of(site: CourseSite) -> dict[Path, str]:
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() for path in site.tree.rglob("*") if path.is_file()
    }


@pytest.mark.slow
def test_replaced_inventories_go_and_the_present_one_and_the_tree_stay(tmp_path: Path) -> None:
    site = CourseSite(tmp_path, {"retention": {"superseded_days": 10, **NO_LOGS}})
    site.write(1)
    course = str(site.tick()[0].partition_key)
    (old,) = inventories(site, course)
    made = site.course(1)
    made.write(made.plan(2, dose_gy=10.0))
    site.tick()
    site.tick()
    (new,) = inventories(site, course) - {old}
    assert listed(site) == []
    aged(site.site.settings.paths.data / "courses", 20)
    before = tree_of(site)
    replaced = listed(site)
    assert f"replaced result: {course} course_inventory {old[:8]}" in replaced
    # What is made of the images and contours alone is what it was.
    assert sorted(one.split()[3] for one in replaced) == ["course_inventory", "course_report", "dvh"]
    assert tidy(site.instance, site.site, datetime.now(UTC), 60.0)[::2] == (3, [])
    assert inventories(site, course) == {new}
    assert listed(site) == []
    assert tree_of(site) == before


@pytest.mark.slow
def test_the_inventory_that_the_present_report_is_of_stays_until_the_next_one(tmp_path: Path) -> None:
    site = CourseSite(tmp_path, {"retention": {"superseded_days": 10, **NO_LOGS}})
    site.write(1)
    course = str(site.tick()[0].partition_key)
    assert organised_anew(site, 1) == course
    aged(site.site.settings.paths.data / "courses", 20)
    assert len(inventories(site, course)) == 2
    assert listed(site) == []


@pytest.mark.slow
def test_a_concluded_course_goes_whole_only_where_the_settings_say_so(tmp_path: Path) -> None:
    site = CourseSite(tmp_path, {"retention": {"superseded_days": 10, **NO_LOGS}})
    site.write(1, 2)
    first, second = site.keys(site.tick())
    organised_anew(site, 2 if made_by(site, 1) == first else 1)
    later = datetime.now(UTC) + timedelta(days=40)
    assert listed(site, later) == []
    site.change({"retention": {"case_days": 30, "record_days": 1}})
    assert listed(site, later) == [f"course: {first}"], "the other one has no report on its inventory"
    before = tree_of(site)
    # Nothing is old yet.
    assert tidy(site.instance, site.site, datetime.now(UTC), 60.0)[0] == 0
    run = site.instance.create_run_for_job(
        site.definitions.resolve_job_def("course"), tags={"dagster/partition": first}
    )
    assert listed(site, later) == [], "one with a run in the queue stays"
    site.instance.report_run_canceled(run)
    site.instance.delete_run(run.run_id)
    (thing,) = spare(site.instance, site.site, later, [])
    assert thing.again == "from its inputs, where they are kept"
    assert remove(site.instance, site.site, thing)
    assert not thing.path.exists()
    assert tree_of(site) == before
    assert site.instance.get_dynamic_partitions("course") == [second]
    assert site.keys(site.tick()) == [second], "what was removed is not made again by itself"
    made = site.course(1 if made_by(site, 1) == first else 2)
    made.write(made.plan(2, dose_gy=10.0))
    assert site.keys(site.tick()) == [first]

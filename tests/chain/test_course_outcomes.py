"""How runs of courses end: told, tried again where only infrastructure was lost, an alarm where not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.test_utils import create_run_for_test

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.database import utc_now
from mqi_dagster.sensors.alarms import standing_alarms
from tests.chain.course_site import CourseSite

pytestmark = pytest.mark.usefixtures("looks_here")


@pytest.fixture
def site(tmp_path: Path) -> CourseSite:
    made = CourseSite(tmp_path)
    made.write(1)
    return made


def served(site: CourseSite, request: dg.RunRequest) -> dg.DagsterRun:
    """A run as the services launch it, executed."""
    job = site.definitions.resolve_job_def("course")
    wanted = frozenset(request.asset_selection) if request.asset_selection else None
    job = job.get_subset(asset_selection=wanted) if wanted is not None else job
    run = site.instance.create_run_for_job(
        job,
        tags={
            **request.tags,
            "dagster/run_key": str(request.run_key),
            "dagster/partition": str(request.partition_key),
        },
        asset_selection=wanted,
        remote_job_origin=ORIGIN,
    )
    execute_run(InMemoryJob(job), run, site.instance)
    ended = site.instance.get_run_by_id(run.run_id)
    assert ended is not None
    return ended


ORIGIN = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("mqi"), "repository"), "course")


def alarms(site: CourseSite) -> list[tuple[str, str]]:
    return [(one.kind.value, one.subject) for one in site.site.ledger.alarms.open()]


def test_a_course_that_has_concluded_is_told(site: CourseSite) -> None:
    site.site.ledger.notices.channel("mail")
    (request,) = site.tick(launch=False)
    assert served(site, request).status is dg.DagsterRunStatus.SUCCESS
    assert site.tick("run_outcomes") == []
    (notice,) = site.site.ledger.notices.due("mail", 10)
    assert notice.text == f"course {request.partition_key} has concluded"


@pytest.mark.parametrize("mount_point", [False, True])
def test_a_course_whose_tree_is_away_goes_on_by_itself_once_it_is_back(
    site: CourseSite, tmp_path: Path, mount_point: bool
) -> None:
    (request,) = site.tick(launch=False)
    site.tree.rename(tmp_path / "unmounted")
    if mount_point:
        site.tree.mkdir()
    assert served(site, request).status is dg.DagsterRunStatus.FAILURE
    assert site.tick("run_outcomes") == [], "not at once"
    assert site.tick() == []
    (waiting,) = site.site.ledger.outcomes.open_retries()
    assert (waiting.partition, waiting.code) == (request.partition_key, "inputs-away")
    if mount_point:
        site.tree.rmdir()
    (tmp_path / "unmounted").rename(site.tree)
    assert site.tick() == [], "the run that is tried again is of the present files"
    (again,) = site.tick("run_outcomes", launch=False)
    assert (again.job_name, again.partition_key) == ("course", request.partition_key)
    assert again.tags["mqi/course"] == "course"
    assert served(site, again).status is dg.DagsterRunStatus.SUCCESS
    site.tick("run_outcomes")
    assert site.site.ledger.outcomes.open_retries() == []
    assert alarms(site) == []


def test_a_course_that_fails_for_good_is_an_alarm_that_names_it_and_others_go_on(
    site: CourseSite,
) -> None:
    site.write(2)
    name = site.site.pseudonyms.patient("ID001", None)
    good, bad = sorted(site.tick(launch=False), key=lambda one: str(one.partition_key).startswith(name))
    next(one for one in site.tree.rglob("*") if one.is_file() and b"ID001" in one.read_bytes()).unlink()
    assert served(site, bad).status is dg.DagsterRunStatus.FAILURE
    assert served(site, good).status is dg.DagsterRunStatus.SUCCESS
    site.tick("run_outcomes")
    assert alarms(site) == [("partition_failed", bad.partition_key)]
    (again,) = site.tick(launch=False)
    assert again.partition_key == bad.partition_key, "its files have changed"
    assert served(site, again).status is dg.DagsterRunStatus.SUCCESS
    site.tick("run_outcomes")
    assert alarms(site) == []


def test_a_course_in_the_queue_for_long_is_no_alarm_and_a_beam_is(site: CourseSite) -> None:
    later = utc_now() + timedelta(days=1)

    def kinds() -> set[AlarmKind]:
        standing = standing_alarms(site.instance, site.site, PIPELINES, [], later)
        return {kind for kind, _ in standing}

    for job in ("course", "beam"):
        assert AlarmKind.BEAMS_WAITING not in kinds()
        create_run_for_test(
            site.instance, job_name=job, status=dg.DagsterRunStatus.QUEUED, remote_job_origin=ORIGIN
        )
    assert AlarmKind.BEAMS_WAITING in kinds()

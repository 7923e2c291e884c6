"""A second pipeline beside the proton one runs, is retried, is listed and raises alarms by the same rules."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
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
from rich.console import Console

from mqi_dagster.assets import pipelines
from mqi_dagster.assets.proton.pipeline import PROTON
from mqi_dagster.cli.case_show import show_cases
from mqi_dagster.definitions import LOADED, build_definitions
from mqi_dagster.errors import InputError
from mqi_dagster.lifecycle.pipeline import Pipeline
from mqi_dagster.lifecycle.run_requests import asking
from mqi_dagster.operations.graphql import GraphQL
from mqi_dagster.operations.retry import partitions_of, retry
from mqi_dagster.people.rights import Actor
from mqi_dagster.worklist import CaseStatus, Work, Worklist
from tests.chain.chain import Chain
from tests.chain.ended_runs import evaluate
from tests.pipelines.series import IMAGES, folder, images

GOOD, AWAY, MIXED = "S000000001", "S000000002", "S000000003"
PIPELINES: Sequence[Pipeline] = (PROTON, IMAGES)
OWNER = Actor.of_this_account()
SERVICES = RemoteJobOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("mqi"), "repository"), "series"
)
"""Where a run comes from that the services have launched."""


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    made = Chain(tmp_path / "site", {"execution": {"retry_seconds": 10, "retry_maximum_seconds": 60}})
    made.definitions = build_definitions(made.site, pipelines=(*LOADED, (IMAGES, images)))
    made.cursors["series_arrivals"] = None
    folder(made.site).mkdir(parents=True)
    return made


def arrive(chain: Chain, **series: str) -> None:
    for key, text in series.items():
        (folder(chain.site) / key).write_text(text)


def launched(chain: Chain, request: dg.RunRequest) -> dg.DagsterRun:
    """The run of a request as the services launch and execute it."""
    job = chain.definitions.resolve_job_def("series")
    wanted = frozenset(request.asset_selection or ()) or None
    if wanted is not None:
        job = job.get_subset(asset_selection=wanted)
    run = chain.instance.create_run_for_job(
        job,
        tags={**request.tags, "dagster/partition": str(request.partition_key)},
        asset_selection=wanted,
        remote_job_origin=SERVICES,
    )
    execute_run(InMemoryJob(job), run, chain.instance)
    ended = chain.instance.get_run_by_id(run.run_id)
    assert ended is not None
    return ended


def run_all(chain: Chain) -> list[dg.DagsterRun]:
    """What the pipeline's own sensor asks for, executed."""
    return [launched(chain, request) for request in chain.tick("series_arrivals", launch=False)]


def steps(chain: Chain, run: dg.DagsterRun) -> list[str | None]:
    events = chain.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)
    return [event.step_key for event in events]


def board(chain: Chain, now: datetime | None = None) -> Work:
    return Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger).snapshot(now)


def row(chain: Chain, series: str) -> CaseStatus:
    (found,) = [one for one in board(chain).cases if one.case == series]
    return found


def alarms(chain: Chain) -> list[tuple[str, str, str]]:
    return [(one.kind.value, one.subject, one.text) for one in chain.site.ledger.alarms.open()]


def test_its_sensor_asks_for_runs_that_make_its_assets_and_conclude(chain: Chain) -> None:
    arrive(chain, **{GOOD: "good"})
    chain.site.ledger.notices.channel("mail")
    (run,) = run_all(chain)
    assert (run.status, steps(chain, run)) == (
        dg.DagsterRunStatus.SUCCESS,
        ["series_sorted", "series_stored"],
    )
    assert evaluate(chain, "run_outcomes") == []
    (notice,) = chain.site.ledger.notices.due("mail", 10)
    assert (notice.subject, notice.text) == (GOOD, f"series {GOOD} has concluded")


def test_what_infrastructure_has_ended_goes_on_with_the_step_in_which_that_was(chain: Chain) -> None:
    arrive(chain, **{AWAY: "archive away"})
    (run,) = run_all(chain)
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert evaluate(chain, "run_outcomes") == [], "not at once"
    assert alarms(chain) == []
    chain.site.ledger.outcomes.bring_forward("infrastructure")
    arrive(chain, **{AWAY: "good"})
    (request,) = evaluate(chain, "run_outcomes")
    assert (request.job_name, request.partition_key) == ("series", AWAY)
    assert (request.tags["mqi/case"], request.tags["mqi/retry_of"]) == (AWAY, run.run_id)
    assert not {"mqi/gpu", "mqi/engine_failures", "mqi/upload"} & request.tags.keys()
    again = launched(chain, request)
    assert (again.status, steps(chain, again)) == (dg.DagsterRunStatus.SUCCESS, ["series_stored"])
    evaluate(chain, "run_outcomes")
    assert chain.site.ledger.outcomes.open_retries() == []


def test_a_failure_for_good_is_an_alarm_that_names_it_and_goes_with_a_success(chain: Chain) -> None:
    arrive(chain, **{MIXED: "mixed"})
    run_all(chain)
    evaluate(chain, "run_outcomes")
    ((kind, subject, text),) = alarms(chain)
    assert (kind, subject) == ("partition_failed", MIXED)
    assert "its images are of two patients" in text and "What to do" in text
    arrive(chain, **{MIXED: "good"})
    run_all(chain)
    evaluate(chain, "run_outcomes")
    assert alarms(chain) == []


class Recording(GraphQL):
    """Services that write down what they are asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def backfills(self) -> dict[str, list[str]]:
        return {}

    def reexecute_from_failure(self, run_id: str) -> str:
        self.asked.append((run_id,))
        return "again"

    def backfill(self, assets: Sequence[str], partitions: Sequence[str], title: str) -> str:
        self.asked.append((*assets, *partitions))
        return "backfill"


def test_a_person_can_retry_it_by_its_key(chain: Chain) -> None:
    arrive(chain, **{MIXED: "mixed"})
    (run,) = run_all(chain)
    assert partitions_of(chain.instance, chain.site, MIXED, None, PIPELINES) == [MIXED]
    services = Recording()
    assert retry(chain.instance, chain.site, services, OWNER, [MIXED], PIPELINES) == {MIXED: "again"}
    assert services.asked == [(run.run_id,)]
    for name in (AWAY, "S1", "series"):
        with pytest.raises(InputError):
            partitions_of(chain.instance, chain.site, name, None, PIPELINES)
    with pytest.raises(InputError, match="has no beams"):
        partitions_of(chain.instance, chain.site, MIXED, 2, PIPELINES)


def test_what_commands_and_boards_know_is_what_dagster_loads() -> None:
    assert tuple(pipeline for pipeline, _ in LOADED) == pipelines.PIPELINES


def test_its_runs_count_for_the_room_in_the_queue_and_its_sensor_is_watched(chain: Chain) -> None:
    assert asking(PIPELINES) == [
        *("case_arrivals", "beams_to_simulate", "cases_to_conclude", "series_arrivals", "run_outcomes")
    ]


def test_the_board_lists_it_with_its_stage_and_why(chain: Chain) -> None:
    arrive(chain, **{GOOD: "good", AWAY: "archive away", MIXED: "mixed"})
    chain.instance.add_dynamic_partitions("series", [GOOD])
    waiting = row(chain, GOOD)
    assert (waiting.state.value, waiting.stage.value) == ("waiting", "waiting")
    assert (waiting.fraction, waiting.beams_total) == (None, None)
    assert "no run yet" in waiting.reason
    run_all(chain)
    evaluate(chain, "run_outcomes")
    good, away, mixed = (row(chain, series) for series in (GOOD, AWAY, MIXED))
    assert (good.state.value, good.stage.value, good.reason) == ("complete", "concluded", "")
    assert (away.state.value, away.stage.value) == ("in work", "retried")
    assert "the archive does not answer" in away.reason and "goes on by itself" in away.reason
    assert (mixed.state.value, mixed.stage.value) == ("failed", "failed")
    assert "its images are of two patients" in mixed.reason
    assert mixed.next_step is not None
    assert board(chain).concluded_cases == 1
    assert [one.subject for one in board(chain).alarms if one.kind == "partition_failed"] == [MIXED]


def test_in_work_it_has_the_stage_of_its_step(chain: Chain) -> None:
    chain.instance.add_dynamic_partitions("series", [GOOD])
    job = chain.definitions.resolve_job_def("series")
    for status, state, stage in (
        (dg.DagsterRunStatus.QUEUED, "in work", "queued"),
        (dg.DagsterRunStatus.STARTED, "in work", "in_work"),
    ):
        tags = {"dagster/partition": GOOD}
        chain.instance.create_run_for_job(job, tags=tags, status=status, remote_job_origin=SERVICES)
        assert (row(chain, GOOD).state.value, row(chain, GOOD).stage.value) == (state, stage)


def test_concluded_long_ago_it_is_counted_and_not_listed(chain: Chain) -> None:
    arrive(chain, **{GOOD: "good"})
    run_all(chain)
    later = board(chain, datetime.now(UTC) + timedelta(days=3))
    assert (later.cases, later.concluded_cases) == ([], 1)


def test_the_list_of_cases_shows_it(chain: Chain) -> None:
    arrive(chain, **{MIXED: "mixed"})
    run_all(chain)
    work = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger)
    work.snapshot()
    rows = list(work.every_case())
    console = Console(record=True, width=160)
    show_cases(console, rows, {one.case: work.beams_of(one.case) for one in rows}, chain.site.timezone)
    text = console.export_text()
    assert f"{MIXED}  -         -        failed  -" in text
    assert f"{MIXED}: " in text and "its images are of two patients" in text

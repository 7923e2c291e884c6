"""What retention takes away of the records of removed cases, and that such a case can be made again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.ledger.location import DATABASE_VARIABLE
from mqi_dagster.lifecycle import record_retention, run_requests
from mqi_dagster.lifecycle import retention as retained
from mqi_dagster.lifecycle.retention import remove, spare, tidy
from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.settings import parse_settings
from mqi_dagster.worklist import Worklist
from tests.chain.boards import stage
from tests.chain.chain import ONE_BEAM, PLAN, Chain
from tests.chain.chain_places import chain_on
from tests.postgres.postgres_server import on_postgres

CASE, RUNS = "case", "runs of a removed case"
SETTINGS = {
    "retention": {"case_days": 10, "record_days": 20, "engine_log_days": None, "run_output_days": None}
}


@pytest.fixture(params=["files", on_postgres])
def chain(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chain]:
    """A chain whose records lie in files or on a server, as they do in production."""
    folder = tmp_path / "site"
    with ExitStack() as opened:
        if request.param == "files":
            settings = parse_settings({"site": {"timezone": "Asia/Seoul"}}, folder)
            write_instance(settings)
            instance = opened.enter_context(open_instance(settings))
            yield Chain(folder, SETTINGS, instance=instance)
        else:
            server = request.getfixturevalue("postgres")
            monkeypatch.setenv(DATABASE_VARIABLE, server.new_database("runs"))
            yield chain_on(server, "runs", opened, folder, SETTINGS)


def concluded(chain: Chain, seed: int) -> str:
    """A case that was delivered and concluded, and that the sensors have noted."""
    before = chain.runs_of("conclusion")
    chain.deliver(plan=ONE_BEAM, seed=seed)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")[len(before) :]
    return case


def go(chain: Chain, days: int) -> list[tuple[str, str]]:
    """What retention removes some days from now."""
    gone = []
    for thing in spare(chain.instance, chain.site, datetime.now(UTC) + timedelta(days=days), []):
        assert remove(chain.instance, chain.site, thing) and remove(chain.instance, chain.site, thing)
        gone.append((thing.kind.value, thing.name))
    return gone


def partitions_of_runs(chain: Chain) -> set[str]:
    return {run.tags["dagster/partition"].partition("__")[0] for run in chain.instance.get_runs()}


def test_the_runs_of_a_removed_case_go_with_all_that_they_have_left(chain: Chain) -> None:
    first = concluded(chain, 1)
    runs = {run.run_id for run in chain.instance.get_runs()}
    assert len(runs) == 3
    home = chain.site.settings.paths.dagster_home
    for run_id in runs:
        output = home / "storage" / run_id / "compute_logs"
        output.mkdir(parents=True, exist_ok=True)
        (output / "step.err").write_text("words")
    second = concluded(chain, 2)
    assert go(chain, 11) == [(CASE, case) for case in sorted([first, second])]
    assert partitions_of_runs(chain) == {first, second}, "they stay for 20 days more"
    assert [stage(chain, case) for case in (first, second)] == ["concluded"] * 2

    assert go(chain, 21) == [(RUNS, first)], "the newest run of a site stays"
    assert partitions_of_runs(chain) == {second}
    made = chain.instance.fetch_materializations(dg.AssetKey("rt_dose"), limit=10).records
    assert [record.partition_key for record in made] == [f"{second}__b02"]
    assert [path for path in home.rglob("*") if any(run_id in path.as_posix() for run_id in runs)] == []
    assert stage(chain, first) == "concluded"
    assert stage(chain, first, timedelta(0)) is None
    work = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger, history=timedelta(0)).snapshot()
    assert (work.concluded_cases, work.queue.waiting_cases) == (2, 0)
    asked = len(chain.runs)
    chain.tick_sensors(rounds=2)
    assert len(chain.runs) == asked, "nobody asked for it again"

    third = concluded(chain, 3)
    assert go(chain, 21) == [(CASE, third), (RUNS, second)]
    assert go(chain, 400) == []


@pytest.mark.slow
@pytest.mark.parametrize("records_too", [False, True])
def test_a_beam_that_comes_late_to_a_removed_case_has_all_of_it_made_again(
    chain: Chain, records_too: bool
) -> None:
    chain.change({"intake": {"fraction_window_minutes": 1e-9}})
    chain.deliver("late-beam:beam=3", plan=PLAN)
    chain.tick("case_arrivals")
    chain.tick_sensors()
    chain.tick("case_arrivals")
    (case,) = chain.runs_of("conclusion")
    assert go(chain, 11) == [(CASE, case)]
    concluded(chain, 2)
    if records_too:
        assert (RUNS, case) in go(chain, 21)
    chain.change({"intake": {"fraction_window_minutes": 60}})
    chain.deliver(plan=PLAN, deliver=(3,))
    chain.tick_sensors(rounds=3)
    beams = [beam for beam in chain.runs_of("beam") if beam.startswith(case)]
    assert sorted(beams) == [f"{case}__b02", f"{case}__b02", f"{case}__b03"]
    assert all(outcome.success for _, _, outcome in chain.runs)
    assert chain.runs_of("conclusion").count(case) == 2
    assert stage(chain, case) == "concluded"
    assert (CASE, case) not in go(chain, 9), "what was made again is new, and so are its runs"


@pytest.mark.parametrize("records_too", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_removed_case_that_is_made_again_with_the_same_result_concludes_again(
    chain: Chain, records_too: bool
) -> None:
    case = concluded(chain, 1)
    dose = chain.digest("rt_dose", f"{case}__b02")
    assert go(chain, 11) == [(CASE, case)]
    concluded(chain, 2)
    if records_too:
        assert (RUNS, case) in go(chain, 21)
    assert chain.run("intake", case).success
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("beam").count(f"{case}__b02") == 2
    assert chain.digest("rt_dose", f"{case}__b02") == dose
    assert chain.runs_of("conclusion").count(case) == 2
    assert stage(chain, case) == "concluded"
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("conclusion").count(case) == 2


@pytest.mark.slow
def test_a_removed_case_whose_beams_are_made_again_one_after_the_other_concludes_once_all_are(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.deliver(plan=PLAN, seed=1)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")
    assert go(chain, 11) == [(CASE, case)]
    assert chain.run("intake", case).success
    monkeypatch.setattr(run_requests, "REQUESTS_PER_TICK", 1)
    for beam in ("b02", "b03"):
        assert chain.runs_of("conclusion") == [case], "one of its beams is not made again yet"
        assert stage(chain, case) != "concluded"
        before = len(chain.runs)
        chain.tick_sensors()
        assert ("beam", f"{case}__{beam}") in [run[:2] for run in chain.runs[before:]]
    chain.tick_sensors()
    assert all(outcome.success for _, _, outcome in chain.runs)
    assert len(chain.runs_of("beam")) == 4
    assert chain.runs_of("conclusion") == [case, case]
    assert stage(chain, case) == "concluded"


@pytest.mark.slow
def test_an_open_board_goes_on_knowing_a_removed_case_as_concluded(chain: Chain) -> None:
    first = concluded(chain, 1)
    board = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger, history=None)

    def stages() -> list[str]:
        return [row.stage.value for row in board.snapshot().cases if row.case == first]

    assert stages() == ["concluded"]
    assert go(chain, 11) == [(CASE, first)]
    assert stages() == ["concluded"]
    concluded(chain, 2)
    assert chain.run("intake", first).success
    assert stages() != ["concluded"]
    chain.tick("beams_to_simulate")
    true, between = chain.instance.handle_new_event, []

    def and_look(event: dg.EventLogEntry, **named: Any) -> None:
        # Between the event of the conclusion and the end of its run.
        if event.is_dagster_event and event.get_dagster_event().is_job_success:
            between.append(stages())
        true(event, **named)

    with pytest.MonkeyPatch.context() as early:
        early.setattr(chain.instance, "handle_new_event", and_look)
        assert len(chain.tick("cases_to_conclude")) == 1
    assert between == [["concluding"]]
    assert stages() == ["concluded"]


@pytest.mark.slow
def test_a_removal_that_is_called_off_leaves_no_trace(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    case = concluded(chain, 1)
    (thing,) = spare(chain.instance, chain.site, datetime.now(UTC) + timedelta(days=11), [])
    answers = iter((False, True))
    with monkeypatch.context() as between:
        between.setattr(retained, "_wanted_again", lambda *_: next(answers))
        assert not remove(chain.instance, chain.site, thing)
    assert chain.site.ledger.arrivals.results_removed_at(case) is None
    assert chain.instance.has_dynamic_partition("case", case)
    assert chain.instance.has_dynamic_partition("beam", f"{case}__b02")
    assert stage(chain, case) == "concluded"


@pytest.mark.slow
def test_a_removal_that_is_killed_leaves_a_case_that_still_has_concluded_and_is_ended_by_the_next(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, second = concluded(chain, 1), concluded(chain, 2)
    other = f"{case}0"
    job = chain.definitions.resolve_job_def("intake")
    chain.instance.create_run_for_job(
        job, tags={"dagster/partition": other}, status=dg.DagsterRunStatus.SUCCESS
    )
    _kill_before_discarding(chain, monkeypatch)
    assert stage(chain, case) == stage(chain, second) == "concluded"
    tidy(chain.instance, chain.site, datetime.now(UTC), 60)
    assert stage(chain, case) == "concluded"
    storage = chain.instance.run_storage
    left = [1]
    true = storage.delete_run

    def delete_run(run_id: str) -> None:
        if not left.pop():
            raise KeyboardInterrupt
        left.append(0)
        true(run_id)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "delete_run", delete_run)
        with pytest.raises(KeyboardInterrupt):
            go(chain, 21)
    assert stage(chain, case) == "concluded"
    chain.tick_sensors()
    assert chain.runs_of("conclusion").count(case) == 1
    assert (RUNS, case) in go(chain, 21)
    assert case not in partitions_of_runs(chain) and other in partitions_of_runs(chain)


def _kill_before_discarding(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal that ends between its mark and the folder, and does nothing more."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(chain.site.store), "discard", killed)
        with pytest.raises(KeyboardInterrupt):
            go(chain, 11)


@pytest.mark.slow
def test_a_beam_that_is_made_again_after_a_removal_was_killed_leaves_its_case_concluded(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.deliver(plan=PLAN)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")
    _kill_before_discarding(chain, monkeypatch)
    assert chain.site.ledger.arrivals.results_removed_at(case) is not None

    assert chain.run("beam", f"{case}__b02").success
    chain.tick_sensors(rounds=2)
    assert stage(chain, case) == "concluded"
    assert chain.runs_of("conclusion") == [case], "it is what was concluded"

    chain.change({"rt_dose": {"bits": 32}})
    assert chain.run("beam", f"{case}__b02").success
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("conclusion") == [case] * 2
    assert stage(chain, case) == "concluded"
    assert go(chain, 11) == [(CASE, case)]


def test_a_case_whose_folder_cannot_go_is_left_as_it_was(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = concluded(chain, 1)

    def refused(*_: object) -> None:
        raise InfrastructureError("the disk is read-only")

    later = datetime.now(UTC) + timedelta(days=11)
    with monkeypatch.context() as patched:
        patched.setattr(type(chain.site.store), "discard", refused)
        assert tidy(chain.instance, chain.site, later, 60) == (0, True, ["the disk is read-only"])
    assert chain.site.ledger.arrivals.results_removed_at(case) is None
    assert chain.instance.has_dynamic_partition("case", case)
    assert chain.instance.has_dynamic_partition("beam", f"{case}__b02")
    assert go(chain, 11) == [(CASE, case)]


def test_a_case_that_comes_again_while_its_folder_goes_has_all_its_beams_made_again(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = concluded(chain, 1)
    true = type(chain.site.store).discard

    def slow(store: Any, folder: Path) -> None:
        true(store, folder)
        assert chain.run("intake", case).success
        assert folder.exists()

    with monkeypatch.context() as patched:
        patched.setattr(type(chain.site.store), "discard", slow)
        (thing,) = spare(chain.instance, chain.site, datetime.now(UTC) + timedelta(days=11), [])
        assert remove(chain.instance, chain.site, thing)
    assert chain.site.ledger.arrivals.results_removed_at(case) is not None
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("beam") == [f"{case}__b02"] * 2
    assert chain.runs_of("conclusion") == [case] * 2


@pytest.mark.slow
def test_a_beam_that_was_handed_over_again_as_it_was_keeps_its_case_until_that_is_old_too(
    chain: Chain,
) -> None:
    case = concluded(chain, 1)
    assert chain.run("beam", f"{case}__b02").success
    chain.tick_sensors()
    assert chain.runs_of("conclusion") == [case]
    (again, _) = chain.instance.fetch_materializations(dg.AssetKey("handed_over"), limit=3).records
    (told,) = chain.instance.fetch_materializations(dg.AssetKey("case_handed_over"), limit=2).records
    assert told.timestamp < again.timestamp
    between = datetime.fromtimestamp((told.timestamp + again.timestamp) / 2, UTC)
    assert not list(spare(chain.instance, chain.site, between + timedelta(days=10), []))
    assert go(chain, 11) == [(CASE, case)]


@pytest.mark.slow
def test_what_cannot_be_removed_holds_up_nothing_else(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [concluded(chain, seed) for seed in (1, 2, 3)]
    go(chain, 11)
    home = chain.site.settings.paths.dagster_home
    for run in chain.instance.get_runs():
        (home / "storage" / run.run_id).mkdir(parents=True, exist_ok=True)
    first = {
        run.run_id for run in chain.instance.get_runs() if run.tags["dagster/partition"].startswith(cases[0])
    }
    true = shutil.rmtree

    def rmtree(path: Path) -> None:
        if path.name in first:
            raise PermissionError(13, "Permission denied")
        true(path)

    monkeypatch.setattr(record_retention.shutil, "rmtree", rmtree)
    later = datetime.now(UTC) + timedelta(days=21)
    count, whole, problems = tidy(chain.instance, chain.site, later, 60)
    assert (count, whole) == (1, True)
    assert problems == [f"runs of a removed case {cases[0]} cannot be removed: Permission denied"]
    assert cases[1] not in partitions_of_runs(chain)
    assert stage(chain, cases[0]) == "concluded"


@pytest.mark.slow
def test_a_case_that_cannot_be_read_holds_up_nothing_else(chain: Chain) -> None:
    cases = [concluded(chain, seed) for seed in (1, 2, 3)]
    true = retained.size_of

    def size_of(path: Path) -> int:
        if path.name == cases[0]:
            raise PermissionError(13, "Permission denied")
        return true(path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(retained, "size_of", size_of)
        later = datetime.now(UTC) + timedelta(days=11)
        count, whole, problems = tidy(chain.instance, chain.site, later, 60)
    assert (count, whole) == (2, True)
    assert problems == [f"case {cases[0]} cannot be looked at: Permission denied"]
    assert go(chain, 11) == [(CASE, cases[0])]


def test_a_case_of_which_more_comes_while_it_is_being_removed_stays(chain: Chain) -> None:
    case = concluded(chain, 1)
    (thing,) = spare(chain.instance, chain.site, datetime.now(UTC) + timedelta(days=11), [])
    row = chain.site.ledger.arrivals.get(case)
    assert row is not None
    chain.site.ledger.arrivals.record(row.arrival, case, "another", True, "", None)
    assert not remove(chain.instance, chain.site, thing)
    assert thing.path.is_dir() and chain.instance.has_dynamic_partition("case", case)

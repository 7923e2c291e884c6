"""What retention takes away of a real chain's results, and what it never does."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from mqi_dagster.ledger.outcomes import RunOutcome, RunVerdict
from mqi_dagster.lifecycle.retention import RemovableKind, remove, spare, tidy
from tests.chain.chain import PLAN, Chain

DAY = 86400.0
NO_LOGS = {"engine_log_days": None, "run_output_days": None}
KEEP = {"retention": {"superseded_days": 10, **NO_LOGS}}


def aged(folder: Path, days: float) -> None:
    past = time.time() - days * DAY
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            os.utime(path, (past, past))


def digests(chain: Chain, asset: str, beam: str) -> set[str]:
    case, _, number = beam.partition("__")
    folder = chain.data / "cases" / case / number / asset
    return {path.name for path in folder.iterdir() if not path.is_symlink()}


def in_work(chain: Chain, beam: str) -> dg.DagsterRun:
    """A run of a beam that somebody has started."""
    return chain.instance.create_run_for_job(
        chain.definitions.resolve_job_def("beam"),
        tags={"dagster/partition": beam},
        status=dg.DagsterRunStatus.STARTED,
    )


def listed(chain: Chain) -> list[str]:
    return [
        f"{thing.kind.value}: {thing.name}"
        for thing in spare(chain.instance, chain.site, datetime.now(UTC), [])
    ]


def test_replaced_results_go_and_what_the_present_dose_needs_stays(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", KEEP)
    chain.deliver(plan=PLAN)
    chain.tick_sensors()
    (case,) = chain.runs_of("intake")
    beam = f"{case}__b02"
    before = {asset: digests(chain, asset, beam) for asset in ("raw_dose", "rt_dose", "interpreted_csvs")}
    assert listed(chain) == []
    chain.change({"interpretation": {"dose_dividing_factor": 2.0}})
    assert chain.run("beam", beam).success
    after = {asset: {str(chain.digest(asset, beam))} for asset in before}
    assert listed(chain) == [], "everything is new"
    aged(chain.data / "cases", 30)

    running = in_work(chain, f"{case}__b03")
    assert listed(chain) == [], "a beam of the case is in work"
    chain.instance.report_run_failed(running)

    found = listed(chain)
    assert {line.split()[-2] for line in found} >= {"raw_dose", "rt_dose", "interpreted_csvs"}
    assert all(line.startswith(f"replaced result: {beam} ") for line in found)
    assert tidy(chain.instance, chain.site, datetime.now(UTC), 60) == (len(found), True, [])
    for asset, kept in after.items():
        assert digests(chain, asset, beam) == kept and kept != before[asset]
    assert listed(chain) == []
    # What stands there is whole: the beam is handed over again from it, without an engine.
    starts = chain.engine_starts()
    assert chain.run("beam", beam).success and chain.engine_starts() == starts
    chain.tick("cases_to_conclude")
    assert chain.runs[-1][2].success


def test_a_replaced_result_that_is_needed_again_since_it_was_listed_stays(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", KEEP)
    chain.deliver(plan=PLAN)
    chain.tick_sensors()
    (case,) = chain.runs_of("intake")
    beam = f"{case}__b02"
    first = digests(chain, "raw_dose", beam)
    chain.change({"interpretation": {"dose_dividing_factor": 2.0}})
    assert chain.run("beam", beam).success
    aged(chain.data / "cases", 30)
    things = list(spare(chain.instance, chain.site, datetime.now(UTC), []))
    assert things

    running = in_work(chain, beam)
    assert not any(remove(chain.instance, chain.site, thing) for thing in things), "its run may reuse them"
    chain.instance.report_run_failed(running)

    chain.change({"interpretation": {"dose_dividing_factor": 1.0}})
    assert chain.run("beam", beam).success
    assert not any(remove(chain.instance, chain.site, thing) for thing in things)
    assert digests(chain, "raw_dose", beam) >= first
    assert chain.engine_starts() == 3, "two beams, and the one with the other factor"


def test_a_concluded_case_goes_with_its_partitions_and_its_hand_over_stays(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", {"retention": {"case_days": 10}})
    chain.deliver(plan=PLAN)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("intake")
    handed = chain.handed_over_files()
    assert listed(chain) == []
    later = datetime.now(UTC) + timedelta(days=11)
    (thing,) = spare(chain.instance, chain.site, later, [])
    assert (thing.kind, thing.name, thing.again) == (
        RemovableKind.CASE,
        case,
        "from its inputs, where they are kept",
    )
    assert remove(chain.instance, chain.site, thing) and remove(chain.instance, chain.site, thing)
    assert list((chain.data / "cases").iterdir()) == []
    assert (
        chain.instance.get_dynamic_partitions("case") == chain.instance.get_dynamic_partitions("beam") == []
    )
    assert chain.handed_over_files() == handed
    runs = len(chain.runs)
    chain.tick_sensors(rounds=2)
    assert len(chain.runs) == runs, "nobody asked for it again"


def test_a_concluded_case_of_which_more_has_come_stays(tmp_path: Path) -> None:
    chain = Chain(
        tmp_path / "site", {"retention": {"case_days": 10}, "intake": {"fraction_window_minutes": 1e-9}}
    )
    chain.deliver("late-beam:beam=3", plan=PLAN)
    chain.tick("case_arrivals")
    chain.tick_sensors()
    (case,) = chain.runs_of("conclusion")
    later = datetime.now(UTC) + timedelta(days=11)

    def goes() -> list[str]:
        return [thing.name for thing in spare(chain.instance, chain.site, later, [])]

    assert goes() == [case]
    # As after a removal that was cut short: no beam is a partition any more.
    chain.instance.delete_dynamic_partition("beam", f"{case}__b02")
    assert goes() == [case]

    chain.change({"intake": {"fraction_window_minutes": 60}})
    chain.deliver(plan=PLAN, deliver=(3,))
    chain.tick("case_arrivals", launch=False)
    assert goes() == [], "its new files wait for their intake"
    chain.tick("case_arrivals")
    assert chain.runs_of("intake") == [case, case]
    chain.tick("case_arrivals", launch=False)
    assert goes() == [], "the beam that came late is no partition yet"
    chain.tick_sensors()
    assert chain.runs_of("beam") == [f"{case}__b02", f"{case}__b03"]
    assert goes() == [case], "it has concluded once more"


def test_a_concluded_case_with_a_try_still_to_come_stays(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", {"retention": {"case_days": 10}})
    chain.deliver(plan=PLAN)
    # The second round notes that what was asked for is there.
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")
    now = datetime.now(UTC)
    later = now + timedelta(days=11)
    outcome = RunOutcome(
        run_id="0b1",
        job="intake",
        partition=case,
        verdict=RunVerdict.RETRY,
        code="InfrastructureError",
        cause="the inbox is in trouble",
        ended_at=now,
        first_at=now,
        tries=1,
        next_try_at=later,
    )
    chain.site.ledger.outcomes.record(outcome)
    assert list(spare(chain.instance, chain.site, later, [])) == []
    chain.site.ledger.outcomes.settle(["0b1"])
    assert [thing.name for thing in spare(chain.instance, chain.site, later, [])] == [case]


def test_a_case_that_has_not_concluded_stays_however_old(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", {"retention": {"case_days": 1, "superseded_days": 1, **NO_LOGS}})
    chain.deliver(plan=PLAN)
    chain.tick("case_arrivals")
    chain.tick("beams_to_simulate")
    aged(chain.data / "cases", 400)
    assert list(spare(chain.instance, chain.site, datetime.now(UTC) + timedelta(days=400), [])) == []


def test_only_old_logs_go_and_without_a_number_none(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    old = chain.site.engine_logs / "P1.fx0001__b02" / "0123-1.log"
    new = chain.site.engine_logs / "P1.fx0001__b03" / "0123-1.log"
    output = chain.site.settings.paths.dagster_home / "storage" / "run" / "compute_logs" / "step.err"
    for path in (old, new, output):
        path.parent.mkdir(parents=True)
        path.write_text("words")
    aged(old.parent, 91)
    aged(output.parent, 31)
    assert listed(chain) == ["engine log: P1.fx0001__b02", "output of a run: run"]
    chain.change({"retention": NO_LOGS})
    assert listed(chain) == []
    chain.change({"retention": {"engine_log_days": 90, "run_output_days": 30}})
    tidy(chain.instance, chain.site, datetime.now(UTC), 60)
    assert [path.exists() for path in (old, new, output)] == [False, True, False]

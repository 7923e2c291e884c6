"""When things happen: the real sensors on real definitions, and every run they ask for."""

from __future__ import annotations

import os
import shutil
import time
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from mqi_dagster.lifecycle import arrived
from mqi_dagster.synthetic.request import BuiltInPlan, Layout
from tests.chain.chain import PLAN, Chain, faulty_engine
from tests.chain.chain_places import Made

ONE_LAYER = BuiltInPlan(beams=3, layers=1, spots=4, layer_seconds=0.02, energies_mev=(100.0, 120.0, 140.0))


def waiting(chain: Chain) -> list[str]:
    return [row.reason for row in chain.site.ledger.arrivals.waiting()]


def run_keys(chain: Chain, job: str) -> list[str]:
    records = chain.instance.get_run_records(dg.RunsFilter(job_name=job))
    return sorted(record.dagster_run.tags["dagster/run_key"] for record in records)


def test_a_case_goes_through_once_and_a_second_scan_asks_for_nothing(made: Made, tmp_path: Path) -> None:
    chain = made(tmp_path / "site")
    chain.deliver(plan=ONE_LAYER)

    (intake,) = chain.tick("case_arrivals")
    case = str(intake.partition_key)
    assert case.endswith(".fx0001") and case.startswith("P")
    assert intake.run_key is not None and intake.run_key.startswith(f"{case}:")
    assert intake.tags["mqi/case"] == case
    assert chain.instance.get_dynamic_partitions("case") == [case]
    assert chain.instance.get_dynamic_partitions("beam") == []

    requests = chain.tick("beams_to_simulate", launch=False)
    keys = [f"{case}__b02", f"{case}__b03", f"{case}__b04"]
    assert chain.instance.get_dynamic_partitions("beam") == keys
    assert [request.partition_key for request in requests] == keys
    assert len({request.run_key for request in requests}) == 3
    assert all(request.tags["mqi/gpu"] and request.tags["mqi/case"] == case for request in requests)

    chain.tick("beams_to_simulate")
    assert chain.runs_of("beam") == keys
    chain.tick("cases_to_conclude")
    assert chain.runs_of("conclusion") == [case]
    assert all(outcome.success for _, _, outcome in chain.runs)
    assert (chain.handover / case / "_COMPLETE").is_file()

    before = len(chain.runs)
    chain.tick_sensors(rounds=2)
    assert len(chain.runs) == before
    chain.reopen()
    chain.cursors = dict.fromkeys(chain.cursors)
    chain.tick_sensors(rounds=2)
    assert len(chain.runs) == before


def test_a_late_beam_runs_alone_and_the_case_concludes_once_more(made: Made, tmp_path: Path) -> None:
    chain = made(tmp_path / "site", {"intake": {"fraction_window_minutes": 60}})
    chain.deliver("late-beam:beam=3", plan=PLAN)
    assert chain.tick("case_arrivals") == []
    assert waiting(chain) == ["1 of 2 beams have come; layers or beams are missing"]
    (row,) = chain.site.ledger.arrivals.waiting()
    assert row.next_check is not None
    assert abs(row.next_check - row.first_seen - timedelta(minutes=60)) < timedelta(seconds=10)

    # The window has passed: the case goes on as partial.
    chain.change({"intake": {"fraction_window_minutes": 1e-9}})
    chain.tick_sensors()
    (case,) = chain.runs_of("intake")
    assert chain.runs_of("beam") == [f"{case}__b02"]
    assert chain.runs_of("conclusion") == [case]
    assert chain.summary(case)["partial"] is True
    assert chain.summary(case)["missing_beams"] == [3]
    first = chain.results(case, [2])

    chain.change({"intake": {"fraction_window_minutes": 60}})
    chain.deliver(plan=PLAN, deliver=(3,))
    chain.tick_sensors(rounds=2)

    assert chain.runs_of("intake") == [case, case]
    assert chain.runs_of("beam") == [f"{case}__b02", f"{case}__b03"]
    assert chain.runs_of("conclusion") == [case, case]
    assert chain.summary(case)["partial"] is False
    assert [beam["beam"] for beam in chain.summary(case)["beams"]] == [2, 3]
    assert chain.results(case, [2]) == first
    assert chain.engine_starts() == 2


def test_a_failed_beam_holds_the_conclusion_until_its_backfill(made: Made, tmp_path: Path) -> None:
    (tmp_path / "mode").write_text("nan")
    chain = made(tmp_path / "site", {"engine": faulty_engine(tmp_path / "mode")})
    chain.deliver(plan=PLAN)
    chain.tick("case_arrivals")
    (case,) = chain.runs_of("intake")
    requests = chain.tick("beams_to_simulate", launch=False)
    for request in requests:
        (tmp_path / "mode").write_text("nan" if str(request.partition_key).endswith("b03") else "good")
        chain.run("beam", str(request.partition_key), {"dagster/run_key": str(request.run_key)})
    assert [outcome.success for job, _, outcome in chain.runs if job == "beam"] == [True, False]

    chain.tick_sensors(rounds=2)
    assert chain.runs_of("conclusion") == []
    assert chain.runs_of("beam") == [f"{case}__b02", f"{case}__b03"]
    assert not (chain.handover / case / "_COMPLETE").exists()

    (tmp_path / "mode").write_text("good")
    assert chain.run("beam", f"{case}__b03").success
    chain.tick_sensors(rounds=3)
    assert chain.runs_of("conclusion") == [case]
    assert (chain.handover / case / "_COMPLETE").is_file()
    assert chain.engine_starts() == 3


@pytest.mark.parametrize("sensor", ["case_arrivals", "beams_to_simulate", "cases_to_conclude"])
def test_a_crash_between_a_request_and_its_run_loses_nothing(made: Made, tmp_path: Path, sensor: str) -> None:
    chain = made(tmp_path / "site")
    chain.deliver(plan=PLAN)
    for name in ("case_arrivals", "beams_to_simulate", "cases_to_conclude"):
        if name == sensor:
            # The partitions were added, no run was created, the service died.
            assert chain.tick(name, launch=False)
            chain.reopen()
        chain.tick(name)
    chain.tick_sensors()
    (case,) = chain.runs_of("intake")
    assert chain.runs_of("beam") == [f"{case}__b02", f"{case}__b03"]
    assert chain.runs_of("conclusion") == [case]
    assert all(outcome.success for _, _, outcome in chain.runs)


def test_half_of_the_requested_runs_are_created_and_the_rest_follow(made: Made, tmp_path: Path) -> None:
    chain = made(tmp_path / "site")
    chain.deliver(plan=PLAN)
    chain.tick("case_arrivals")
    first, second = chain.tick("beams_to_simulate", launch=False)
    chain.run("beam", str(first.partition_key), {**first.tags, "dagster/run_key": str(first.run_key)})
    again = chain.tick("beams_to_simulate")
    assert [request.run_key for request in again] == [second.run_key]
    assert chain.runs_of("beam") == [first.partition_key, second.partition_key]


def test_a_beam_that_is_simulated_just_now_holds_the_conclusion(made: Made, tmp_path: Path) -> None:
    chain = made(tmp_path / "site")
    chain.deliver(plan=PLAN)
    chain.tick("case_arrivals")
    chain.tick("beams_to_simulate")
    (case,) = chain.runs_of("intake")
    job = chain.definitions.resolve_job_def("beam")
    running = chain.instance.create_run_for_job(
        job, tags={"dagster/partition": f"{case}__b03"}, status=dg.DagsterRunStatus.STARTED
    )
    assert chain.tick("cases_to_conclude") == []
    chain.instance.report_run_failed(running)
    assert chain.tick("cases_to_conclude") == []
    assert chain.run("beam", f"{case}__b03").success
    assert [request.partition_key for request in chain.tick("cases_to_conclude")] == [case]


def test_urgent_cases_come_first(made: Made, tmp_path: Path) -> None:
    chain = made(tmp_path / "site", {"intake": {"stable_seconds": 3600}})
    for seed in (1, 2, 3):
        chain.deliver(plan=PLAN, seed=seed)
    assert chain.tick("case_arrivals") == []
    rows = sorted(chain.site.ledger.arrivals.waiting(), key=lambda row: row.case)
    urgent = rows[1]
    chain.site.ledger.arrivals.record(
        urgent.arrival, urgent.case, urgent.fingerprint, False, urgent.reason, urgent.next_check, 7
    )
    chain.change({"intake": {"stable_seconds": 0}})
    requests = chain.tick("case_arrivals", launch=False)
    assert requests[0].partition_key == urgent.case
    assert [request.tags["dagster/priority"] for request in requests] == ["7", "0", "0"]


def test_an_arrival_waits_in_sight_until_its_files_are_quiet(made: Made, tmp_path: Path) -> None:
    chain = made(tmp_path / "site", {"intake": {"stable_seconds": 60}})
    case = chain.deliver(plan=PLAN)
    assert chain.tick("case_arrivals") == []
    assert waiting(chain) == ["files changed within the last 60 s"]
    past = time.time() - 61
    for path in (case.folder, *case.folder.rglob("*")):
        os.utime(path, (past, past))
    assert len(chain.tick("case_arrivals", launch=False)) == 1
    assert waiting(chain) == []


def test_with_the_marker_rule_only_the_marker_releases_a_case(made: Made, tmp_path: Path) -> None:
    chain = made(tmp_path / "site", {"intake": {"ready": "marker"}})
    case = chain.deliver(plan=PLAN)
    past = time.time() - 86400
    for path in (case.folder, *case.folder.rglob("*")):
        os.utime(path, (past, past))
    assert chain.tick("case_arrivals") == []
    assert waiting(chain) == ["no marker file _CASE_READY"]
    (case.folder / "_CASE_READY").touch()
    assert len(chain.tick("case_arrivals")) == 1
    assert chain.runs[0][2].success
    # Taking the marker away and back is no new arrival.
    (case.folder / "_CASE_READY").unlink()
    chain.tick("case_arrivals")
    (case.folder / "_CASE_READY").touch()
    chain.tick("case_arrivals")
    assert len(chain.runs) == 1


def test_fractions_are_numbered_by_first_sight_and_a_moved_folder_runs_no_beam(
    made: Made, tmp_path: Path
) -> None:
    chain = made(tmp_path / "site")
    chain.deliver(plan=PLAN, layout=Layout.MACHINE, start=datetime(2026, 1, 7, 10, 0))
    chain.tick_sensors()
    chain.deliver(plan=PLAN, layout=Layout.MACHINE, start=datetime(2026, 1, 5, 10, 0))
    chain.tick_sensors(rounds=2)
    cases = chain.runs_of("intake")
    assert [case[-6:] for case in cases] == ["fx0001", "fx0002"]
    beams, starts = len(chain.runs_of("beam")), chain.engine_starts()
    assert beams == 4

    (study,) = chain.inbox.iterdir()
    (chain.inbox / "G9").mkdir()
    shutil.move(study, chain.inbox / "G9" / "study")
    chain.tick_sensors(rounds=2)
    assert len(chain.runs_of("beam")) == beams
    assert chain.engine_starts() == starts


def test_a_case_that_is_not_in_the_inbox_any_more_says_so(made: Made, tmp_path: Path) -> None:
    chain = made(tmp_path / "site")
    case = chain.deliver(plan=PLAN)
    (request,) = chain.tick("case_arrivals", launch=False)
    shutil.rmtree(case.folder)
    outcome = chain.run("intake", str(request.partition_key))
    assert not outcome.success
    assert "the case is not in the inbox any more" in outcome.error
    assert outcome.code == "inputs-away"
    assert arrived.arrivals_in(chain.site, datetime.now().astimezone()) == []

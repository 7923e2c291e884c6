"""What was repaired after a failed intake is noticed, however it was repaired, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.delivery.discovery import CaseFolder
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.lifecycle.arrived import ArrivedCase, cases_of
from mqi_dagster.operations.case_report import case_report
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors import arrivals as arrivals_sensor
from mqi_dagster.worklist import Worklist
from tests.chain.chain import PLAN, Chain


def damaged(record: Path) -> None:
    """The same size and times, but no sample with the beam on."""
    status = record.stat()
    record.write_bytes(bytes(status.st_size))
    os.utime(record, ns=(status.st_atime_ns, status.st_mtime_ns))


def fail(chain: Chain) -> str:
    """The failed intake of the one case, with the alarm that `run_outcomes` raises."""
    chain.tick("case_arrivals")
    ((_, case, outcome),) = chain.runs
    assert not outcome.success
    chain.tick("case_arrivals")
    chain.site.ledger.alarms.raise_(AlarmKind.CASE_FAILED, case, "failed")
    return case


def test_a_file_that_was_repaired_with_its_size_and_time_kept_is_noticed(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    delivered = chain.deliver(plan=PLAN)
    record = sorted(delivered.folder.rglob("*.ptn"))[0]
    kept = tmp_path / "kept.ptn"
    shutil.copy2(record, kept)
    damaged(record)
    case = fail(chain)

    chain.tick("case_arrivals")
    assert chain.runs_of("intake") == [case]
    shutil.copy2(kept, record)
    # The first look of a process opens every case; a later one a failed case every five minutes.
    chain.reopen()
    chain.tick_sensors()
    assert chain.runs_of("intake") == [case, case]
    assert chain.runs_of("beam") == [f"{case}__b02", f"{case}__b03"]
    chain.tick_sensors(rounds=2)
    chain.reopen()
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("intake") == [case, case]
    assert chain.runs_of("conclusion") == [case]


def test_a_folder_that_was_renamed_after_its_intake_failed_is_taken_in_anew(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    delivered = chain.deliver(plan=PLAN)
    wrong = delivered.folder.with_name("1.2.3.4.5.6")
    delivered.folder.rename(wrong)
    case = fail(chain)
    wrong.rename(delivered.folder)
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("intake") == [case, case]
    assert chain.runs_of("conclusion") == [case]


def test_a_folder_that_was_moved_while_its_beams_were_due_is_read_where_it_stands(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    delivered = chain.deliver(plan=PLAN)
    chain.tick("case_arrivals")
    chain.tick("case_arrivals")
    (case,) = chain.runs_of("intake")
    (chain.inbox / "G9").mkdir()
    delivered.folder.rename(chain.inbox / "G9" / delivered.folder.name)
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("intake") == [case, case]
    assert all(outcome.success for _, _, outcome in chain.runs)
    assert chain.runs_of("conclusion") == [case]


def test_two_copies_of_a_case_are_not_taken_for_a_move(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    delivered = chain.deliver(plan=PLAN)
    shutil.copytree(delivered.folder, chain.inbox / "again" / delivered.folder.name)
    chain.tick_sensors(rounds=2)
    (case,) = set(chain.runs_of("intake"))
    before = len(chain.runs)
    for _ in range(2):
        chain.reopen()
        chain.tick_sensors(rounds=2)
    assert len(chain.runs) == before
    assert chain.runs_of("conclusion") == [case]


def test_a_plan_that_was_repaired_leaves_no_failed_case_behind(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    delivered = chain.deliver(plan=PLAN)
    (plan,) = delivered.folder.glob("*.dcm")
    whole = plan.read_bytes()
    plan.write_bytes(whole[:900])
    unreadable = fail(chain)
    assert unreadable.startswith("X")
    plan.write_bytes(whole)
    chain.tick_sensors(rounds=2)

    (case,) = {key for job, key, _ in chain.runs if job == "intake"} - {unreadable}
    assert chain.runs_of("conclusion") == [case]
    assert chain.instance.get_dynamic_partitions("case") == [case]
    assert chain.site.ledger.arrivals.get(unreadable) is None
    assert chain.site.ledger.alarms.open() == []
    work = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger)
    work.snapshot()
    assert [row.case for row in work.every_case()] == [case]


def test_the_run_of_an_unreadable_plan_is_waited_for_before_it_is_forgotten(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    delivered = chain.deliver(plan=PLAN)
    (plan,) = delivered.folder.glob("*.dcm")
    whole = plan.read_bytes()
    plan.write_bytes(whole[:900])
    unreadable = fail(chain)
    job = chain.definitions.resolve_job_def("intake")
    running = chain.instance.create_run_for_job(
        job, tags={"dagster/partition": unreadable}, status=dg.DagsterRunStatus.STARTED
    )
    plan.write_bytes(whole)
    chain.tick("case_arrivals")
    assert chain.site.ledger.arrivals.get(unreadable) is not None
    chain.instance.report_run_failed(running)
    chain.tick("case_arrivals", launch=False)
    assert chain.site.ledger.arrivals.get(unreadable) is not None
    chain.tick("case_arrivals")
    assert chain.instance.has_dynamic_partition("case", unreadable) is False
    assert chain.site.ledger.arrivals.get(unreadable) is None


def test_nothing_is_asked_of_a_partition_that_the_same_tick_removes(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    delivered = chain.deliver(plan=PLAN)
    (plan,) = delivered.folder.glob("*.dcm")
    whole = plan.read_bytes()
    plan.write_bytes(whole[:900])
    unreadable = fail(chain)
    row = chain.site.ledger.arrivals.get(unreadable)
    assert row is not None
    # Its files had changed once more before they were whole, and there was no room for that run.
    chain.site.ledger.arrivals.record(row.arrival, unreadable, "of these files", True, "", None)
    plan.write_bytes(whole)
    asked = [request.partition_key for request in chain.tick("case_arrivals", launch=False)]
    assert unreadable not in asked
    assert len(asked) == 1
    chain.tick_sensors(rounds=2)
    assert chain.site.ledger.arrivals.get(unreadable) is None
    assert chain.runs_of("intake").count(unreadable) == 1


@pytest.mark.parametrize("defect", ["truncated:beam=3,layer=2", None], ids=["record", "MU"])
def test_a_failed_intake_is_no_materialisation(defect: str | None, tmp_path: Path) -> None:
    limits = {"interpretation": {"mu_ratio_minimum": 1.2, "mu_ratio_maximum": 1.3}}
    chain = Chain(tmp_path / "site", limits if defect is None else {})
    chain.deliver(*([defect] if defect else []), plan=PLAN)
    chain.tick("case_arrivals")
    ((_, case, outcome),) = chain.runs
    assert not outcome.success
    # In the pages a partition with a materialisation is green, whatever a check says of it.
    assert chain.instance.get_latest_materialization_event(dg.AssetKey("case_manifest")) is None
    if defect is None:
        said = "logged/planned MU outside the limits: beam 2: 0.9880, beam 3: 0.9880"
        assert said in outcome.error and "interpretation.mu_ratio_minimum" in outcome.error
        chain.change({"interpretation": {"mu_ratio_minimum": 0.9, "mu_ratio_maximum": 1.1}})
        assert chain.run("intake", case).success


def test_every_delivery_of_a_failed_intake_is_shown_with_its_folder(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    delivered = chain.deliver("truncated:beam=3,layer=2", plan=PLAN)
    case = fail(chain)
    report = case_report(chain.instance, chain.site, case)
    assert report.first_cause is not None and "delivery 2, layer 2, record" in report.first_cause
    shown = [(one.number, one.beam, one.layers) for one in report.deliveries]
    assert shown == [(1, 2, (1, 2)), (2, 3, (1, 2))]
    (second,) = [one.folder for one in report.deliveries if one.number == 2]
    assert (
        second.is_relative_to(delivered.folder)
        and "DICOM_BEAM_NUMBER,3" in (second / "PlanInfo.txt").read_text()
    )


def test_a_case_without_a_readable_plan_shows_its_folders_too(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    delivered = chain.deliver(plan=PLAN)
    (plan,) = delivered.folder.glob("*.dcm")
    plan.write_bytes(plan.read_bytes()[:900])
    folders = sorted(path.parent for path in delivered.folder.rglob("PlanInfo.txt"))
    (folders[1] / "PlanInfo.txt").write_text("damaged")
    case = fail(chain)
    report = case_report(chain.instance, chain.site, case)
    assert sorted(one.folder for one in report.deliveries) == folders
    assert {one.folder: one.beam for one in report.deliveries} == {folders[0]: 2, folders[1]: None}


def test_a_failed_case_is_opened_again_only_when_one_of_its_files_was_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def counted(site: Site, arrival: CaseFolder) -> list[ArrivedCase]:
        looks.append(arrival.relative)
        return cases_of(site, arrival)

    monkeypatch.setattr(arrivals_sensor, "cases_of", counted)
    monkeypatch.setattr(arrivals_sensor, "_FAILED_AGAIN_AFTER", timedelta(0))
    chain = Chain(tmp_path / "site")
    delivered = chain.deliver(plan=PLAN)
    record = sorted(delivered.folder.rglob("*.ptn"))[0]
    kept = tmp_path / "kept.ptn"
    shutil.copy2(record, kept)
    damaged(record)
    case = fail(chain)
    before = len(looks)
    for _ in range(3):
        chain.tick("case_arrivals")
    assert len(looks) == before
    shutil.copy2(kept, record)
    chain.tick("case_arrivals")
    assert len(looks) == before + 1
    assert chain.runs_of("intake") == [case, case]


def test_what_waits_leaves_the_list_with_its_folder(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    waiting = chain.deliver("late-beam:beam=3", plan=PLAN).folder
    other = chain.deliver("late-beam:beam=3", plan=PLAN, seed=5, case_name="other").folder
    chain.tick("case_arrivals")
    first = {row.case: row.first_seen for row in chain.site.ledger.arrivals.waiting()}
    assert len(first) == 2
    # A process that has not seen it before lets it go as well.
    chain.reopen()
    shutil.rmtree(waiting)
    other.rename(other.with_name("moved"))
    chain.tick("case_arrivals")
    (row,) = chain.site.ledger.arrivals.all()
    assert row.first_seen == first[row.case]
    shutil.rmtree(other.with_name("moved"))
    chain.tick("case_arrivals")
    assert chain.site.ledger.arrivals.all() == []


def test_a_concluded_case_to_which_something_came_and_went_is_concluded(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    folder = chain.deliver(plan=PLAN).folder
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")
    chain.change({"intake": {"stable_seconds": 3600}})
    (folder / "note.txt").write_text("more comes")
    chain.tick("case_arrivals")
    assert [row.case for row in chain.site.ledger.arrivals.waiting()] == [case]
    shutil.rmtree(folder)
    chain.tick_sensors()
    assert chain.site.ledger.arrivals.waiting() == []
    work = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger)
    work.snapshot()
    assert [(row.case, row.state.value) for row in work.every_case()] == [(case, "complete")]
    assert chain.runs_of("intake") == [case]

"""What `mqi course` and the board say of courses, in the words of people who never start a service."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.cli.course_show import show_details, show_run
from mqi_dagster.cli.top_screen import View, print_once
from mqi_dagster.imaging.quality_control import CHECKS, QC_REPORT, QcResult, Verdict, write_qc_report
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.lifecycle.case_status import RunFacts, RunFailure
from mqi_dagster.lifecycle.jobs import course_job
from mqi_dagster.lifecycle.runs import RunRow
from mqi_dagster.lifecycle.stages import CaseState, Stage
from mqi_dagster.lifecycle.unit_status import unit_status
from mqi_dagster.operations.course_report import CourseDetails
from mqi_dagster.operations.course_results import CourseResult, RunResult, failing_in
from mqi_dagster.store.store import Store
from mqi_dagster.worklist import CaseStatus, Work
from mqi_dagster.worklist.board_rows import QueueStatus

NOW = datetime(2026, 5, 4, 10, 0, tzinfo=UTC)
KEY = "RAAAAAAAAA.c01"


def screen() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, width=200), stream


def test_every_option_of_a_run_can_be_read_at_80_columns() -> None:
    text = CliRunner().invoke(app, ["course", "run", "--help"], env={"COLUMNS": "80"}).output
    assert "…" not in text.replace("RTPIPELINE_…", "") and max(map(len, text.splitlines())) <= 80
    for name in ("--max-workers", "--no-totalseg-allow-fallback", "--totalseg-num-proc-export"):
        assert re.search(rf"{name}\b", text)
    assert "segmentation_custom, crop_ct, dvh" in text


@pytest.mark.parametrize(
    ("served", "words"),
    [
        (False, "correct the settings or machine files (`mqi doctor`), then run the same command again"),
        (True, "correct the settings or machine files (`mqi doctor`), then `mqi course retry`"),
    ],
)
def test_what_to_do_after_a_run_without_services_needs_none(served: bool, words: str) -> None:
    failure = RunFailure("a model file is wrong", "configuration", again=False)
    run = RunRow(1, "abcd", "course", "FAILURE", KEY, NOW, NOW, NOW, None)
    facts = RunFacts(run, failure=failure, served=served)
    found = unit_status([course_job], None, facts, lambda: False, "course")
    assert (found.state, found.next_step) == (CaseState.FAILED, words)


def test_a_course_that_waits_is_in_the_tree() -> None:
    arrival = Arrival(KEY, "hash", "print", False, "may still come", 0, NOW, NOW, None, None, None)
    found = unit_status([course_job], arrival, RunFacts(), lambda: False, "course")
    assert (found.stage, found.stage.words) == (Stage.TREE, "in the tree")


def test_a_failure_is_said_once() -> None:
    console, stream = screen()
    row = CaseStatus(
        case=KEY, fraction=None, arrived=None, state=CaseState.FAILED, stage=Stage.FAILED, reason="no memory"
    )
    show_details(console, CourseDetails(row=row), ZoneInfo("UTC"))
    assert stream.getvalue() == f"course {KEY}: failed; no memory\n"


def test_the_first_check_that_fails_is_told(tmp_path: Path) -> None:
    first, second, third, *_ = CHECKS
    results = [
        QcResult(first, Verdict.PASS, "fine", ""),
        QcResult(second, Verdict.FAIL, "there is no plan", "export it"),
        QcResult(third, Verdict.FAIL, "there is no dose", "export it"),
    ]
    store = Store(tmp_path)
    with store.stage(KEY, None, "course_report") as staging:
        write_qc_report(results, staging / QC_REPORT)
        report = store.publish(staging, KEY, None, "course_report", "a" * 64, meta={})
    assert failing_in(report) == f"{second.name}: there is no plan"
    assert failing_in(None) is None


def test_a_verdict_of_fail_says_below_the_table_what_failed() -> None:
    console, stream = screen()
    result = CourseResult(
        course=KEY, status=CaseState.COMPLETE, verdict=Verdict.FAIL, failing="image_grid: a plane is missing"
    )
    show_run(console, RunResult(status=CaseState.COMPLETE, courses=(result,)))
    assert stream.getvalue().splitlines()[-1] == f"{KEY}: image_grid: a plane is missing"


def test_a_board_of_courses_alone_speaks_of_courses() -> None:
    console, stream = screen()
    rows = [
        CaseStatus(case=KEY, fraction=None, arrived=NOW, state=CaseState.WAITING, stage=Stage.TREE),
    ]
    queue = QueueStatus(
        queued=0,
        in_work=0,
        max_runs=2,
        pool_in_use=0,
        pool_limit=None,
        waiting_beams=0,
        waiting_cases=0,
        inbox=1,
        reasons={},
    )
    work = Work(
        at=NOW,
        daemon_seen=None,
        daemon_alive=False,
        cases=rows,
        beams=[],
        concluded_cases=0,
        gpus=[],
        queue=queue,
        alarms=[],
    )
    print_once(console, work, View(), "site")
    text = stream.getvalue()
    assert "courses: 1 open, 0 concluded" in text and "1 in the tree" in text
    assert not re.search(r"\b(case|cases|beam|beams)\b", text)
    mixed = work.model_copy(update={"cases": [*rows, rows[0].model_copy(update={"case": "P1.fx0001"})]})
    print_once(console, mixed, View(), "site")
    assert "cases: 2 open" in stream.getvalue()


def test_settings_that_are_taken_over_are_named_with_the_way_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MQI_SITE", raising=False)
    runner = CliRunner()
    assert runner.invoke(app, ["init", "site", "--timezone", "UTC"]).exit_code == 0
    told = runner.invoke(app, ["course", "run", "--out", "out"]).stderr
    assert f"Settings are taken over from the site in the folder {tmp_path / 'site'};" in told
    assert "name a site (--site), or run where there is no folder `site`" in told

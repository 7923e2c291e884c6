"""Into a pipe every table is whole, however long its keys and reasons; boards tell the site's time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.cli.case_check import show_check
from mqi_dagster.cli.case_show import show_case, show_cases
from mqi_dagster.cli.demo import BoardDisplay
from mqi_dagster.cli.screen import output
from mqi_dagster.cli.top_screen import View, print_once, queue_line
from mqi_dagster.delivery.validation import BeamCheck, CaseCheck, FractionCheck, LayerCheck
from mqi_dagster.delivery.validation_findings import Finding, Severity
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.operations import diagnosis
from mqi_dagster.operations.case_report import CaseReport
from mqi_dagster.operations.probes import ProbeFinding, ProbeVerdict
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist import BeamStatus, CaseState, CaseStatus, GpuStatus, QueueStatus, Stage, Work

NOW = datetime(2026, 1, 4, 16, 10, 5, tzinfo=UTC)
SEOUL = ZoneInfo("Asia/Seoul")
CASE = "C" * 200
BEAM = f"{CASE}__b02"
LABEL = "a name of a beam " * 12 + "G1"
REASON = "waits since 2026-01-04 16:10 UTC for the cluster " * 5
TOLD = "waits since 2026-01-05 01:10 KST for the cluster " * 5


def case_of(state: CaseState = CaseState.WAITING) -> CaseStatus:
    return CaseStatus(case=CASE, fraction=1, arrived=NOW, state=state, stage=Stage.WAITING, reason=REASON)


def beam_of() -> BeamStatus:
    return BeamStatus(
        beam=BEAM,
        case=CASE,
        number=2,
        label=LABEL,
        state=CaseState.IN_WORK,
        stage=Stage.WAITING_FOR_CLUSTER,
        reason=REASON,
        slot=f"{'h' * 200}/gpu0",
    )


@pytest.fixture
def work() -> Work:
    gpu = GpuStatus(
        host="h" * 200,
        kind="gpu",
        index=0,
        uuid="GPU-0",
        slot=True,
        in_service=True,
        owner=BEAM,
        leased_at=NOW,
        heartbeat_at=NOW,
        memory_mb=1024,
    )
    queue = QueueStatus(
        queued=1,
        in_work=0,
        max_runs=1,
        pool_in_use=0,
        pool_limit=1,
        waiting_beams=0,
        waiting_cases=0,
        inbox=0,
        reasons={REASON: 1},
    )
    return Work(
        at=NOW,
        daemon_alive=True,
        daemon_seen=None,
        cases=[case_of()],
        beams=[beam_of()],
        gpus=[gpu],
        alarms=[],
        concluded_cases=0,
        queue=queue,
    )


@pytest.mark.parametrize("cases", [False, True])
def test_the_board_is_whole(work: Work, cases: bool) -> None:
    printed = io.StringIO()
    print_once(output(file=printed), work, View(cases=cases, zone=SEOUL), "clinic")
    lines = printed.getvalue().splitlines()
    assert len(lines) == 5, "head, slot, queue, titles, row"
    assert f"{'h' * 200}/gpu0" in lines[1] and BEAM in lines[1]
    assert TOLD.strip() in lines[2]
    assert lines[4].startswith(f"{CASE} " if cases else f"{BEAM} ") and TOLD.strip() in lines[4]
    if not cases:
        assert LABEL in lines[4] and "waiting for the cluster" in lines[4]
    else:
        assert lines[3].index("stage") == lines[4].index("waiting")
    assert "UTC" not in printed.getvalue()


def test_a_waiting_reason_is_told_in_the_site_s_zone(work: Work) -> None:
    assert TOLD.strip() in queue_line(work, SEOUL).plain
    printed = io.StringIO()
    BoardDisplay(output(file=printed), CASE, SEOUL).show(case_of(), [], 3.0)
    assert printed.getvalue() == f"    3 s  case {CASE}: {TOLD}\n"


def test_the_cases_are_whole() -> None:
    printed = io.StringIO()
    console = output(file=printed)
    show_cases(console, [case_of()], {CASE: [beam_of()]}, SEOUL)
    show_case(console, CaseReport(row=case_of(), notes=(REASON,)), SEOUL)
    lines = printed.getvalue().splitlines()
    assert lines[1].startswith(f"{CASE}  1 ")
    assert lines[2] == f"  {BEAM}: {LABEL}; waiting for the cluster"
    assert lines[3] == f"{CASE}: {TOLD}"
    assert lines[4] == f"case {CASE}: waiting; {TOLD}"
    assert len(lines) == 7


def test_the_check_of_a_case_is_whole() -> None:
    name = "[left] " + "b" * 57  # as long as a DICOM beam name may be
    finding = Finding(
        severity=Severity.ERROR,
        code="delivery",
        message=REASON,
        delivery=None,
        layer=None,
        kind=None,
        first_cause=None,
    )
    beam = BeamCheck.model_construct(
        number=2, name=name, layers=1, planned_layers=1, planned_mu=1.0, delivered_mu=None, ratio=None,
        delivery=None,
    )  # fmt: skip
    layer = LayerCheck.model_construct(beam_number=2, energy_mev=100.0, rows=3)
    fraction = FractionCheck.model_construct(
        fraction=1, beams=(beam,), layers=(layer,), missing_beams=(), findings=()
    )
    check = CaseCheck(
        passed=False, as_planned=False, machine_id="M" * 200, ct_images=0, findings=(finding,), fractions=()
    ).model_copy(update={"fractions": (fraction,)})
    printed = io.StringIO()
    show_check(output(file=printed), check)
    lines = printed.getvalue().splitlines()
    assert len(lines) == 4
    assert name in lines[1] and lines[2] == f"error: {REASON}"
    assert lines[3] == f"not passed: 1 fault (machine {'M' * 200})"


def test_the_diagnosis_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def examine(place: Path) -> Iterator[ProbeFinding]:
        yield ProbeFinding("s" * 200, ProbeVerdict.WARNING, REASON, "advice " * 40)

    monkeypatch.setattr(diagnosis, "examine", examine)
    lines = CliRunner().invoke(app, ["doctor"], catch_exceptions=False).output.splitlines()
    assert len(lines) == 3
    assert "s" * 200 in lines[1] and REASON.strip() in lines[1] and lines[1].count("advice") == 40


def test_the_gpus_are_whole(tmp_path: Path) -> None:
    folder = tmp_path / "clinic"
    made = CliRunner().invoke(app, ["init", str(folder), "--timezone", "Asia/Seoul"], catch_exceptions=False)
    assert made.exit_code == 0
    ledger = Site(folder / "mqi.yaml").ledger
    reason = "not seen since 2026-01-04 16:10 UTC; " + "r" * 160
    ledger.slots.declare("h" * 200, [Slot(SlotKind.GPU, 0)])
    ledger.slots.switch_off("h" * 200, "gpu", 0, reason)
    shown = CliRunner().invoke(app, ["gpu", "list", "--site", str(folder)], catch_exceptions=False).output
    (line,) = [line for line in shown.splitlines() if "h" * 200 in line]
    assert f"off: not seen since 2026-01-05 01:10 KST; {'r' * 160}" in line

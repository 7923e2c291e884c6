"""What `mqi course` prints: what came of a run, where courses stand, and everything about one of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.text import Text

from mqi_dagster.cli.screen import plain_table
from mqi_dagster.cli.top_screen import STYLES
from mqi_dagster.errors import LONGEST_MESSAGE, shown
from mqi_dagster.imaging.quality_control import Verdict
from mqi_dagster.moments import in_zone, local
from mqi_dagster.operations.course_report import CourseDetails, CourseRow
from mqi_dagster.operations.course_results import RunResult

_VERDICT_STYLES = {Verdict.PASS: "green", Verdict.WARNING: "yellow", Verdict.FAIL: "red"}


def show_run(console: Console, result: RunResult) -> None:
    """What came of a run: every course with its verdict and page, and where the tables are."""
    table = plain_table("course", "state", "verdict", "page", fold=("page",))
    for one in result.courses:
        state = Text(one.status.value, style=STYLES[one.status])
        page = "-" if one.page is None else shown(str(one.page), LONGEST_MESSAGE)
        table.add_row(one.course, state, _verdict(one.verdict), Text(page))
    console.print(table if result.courses else Text("no course"))
    for one in result.courses:
        if one.error is not None:
            console.print(Text(f"{one.course}: {one.error}", style="red"), soft_wrap=True)
        if one.failing is not None:
            console.print(Text(f"{one.course}: {one.failing}", style="red"), soft_wrap=True)
    if result.error is not None:
        console.print(Text(f"tables of all courses: {result.error}", style="red"), soft_wrap=True)
    if result.tables is not None:
        console.print(
            Text(f"tables of all courses: {shown(str(result.tables), LONGEST_MESSAGE)}"), soft_wrap=True
        )


def show_list(console: Console, rows: Sequence[CourseRow], zone: ZoneInfo) -> None:
    """The list of courses as a table, and why each stands where it does."""
    table = plain_table("course", "state", "stage", "verdict", "arrived", "age")
    now = datetime.now(UTC)
    for one in rows:
        row, arrived = one.row, one.row.arrived
        state = Text(row.state.value, style=STYLES[row.state])
        table.add_row(
            row.case,
            state,
            row.stage.words,
            _verdict(one.verdict),
            "-" if arrived is None else local(arrived, zone),
            "-" if arrived is None else _age((now - arrived).total_seconds()),
        )
    console.print(table if rows else Text("no course"))
    for one in rows:
        if one.row.reason:
            text = f"{one.row.case}: {in_zone(one.row.reason, zone)}"
            console.print(Text(text, style="dim"), soft_wrap=True)


def show_details(console: Console, found: CourseDetails, zone: ZoneInfo) -> None:
    """Everything about one course, for people."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    row = found.row
    reason = f"; {in_zone(row.reason, zone)}" if row.reason else ""
    stage = "" if row.stage.words == row.state.value else f", {row.stage.words}"
    head = (f"course {row.case}: ", (row.state.value, STYLES[row.state]), f"{stage}{reason}")
    console.print(Text.assemble(*head), soft_wrap=True)
    if row.arrived is not None:
        say(f"  arrived: {local(row.arrived, zone)}")
    if found.verdict is not None:
        console.print(Text.assemble("  verdict: ", _verdict(found.verdict)))
    if found.page is not None:
        say(f"  page: {shown(str(found.page), LONGEST_MESSAGE)}")
    for one in found.objects:
        words = ", ".join(filter(None, (one.label, one.words)))
        say(f"  {one.role}: {shown(words)}: {shown(str(one.path), LONGEST_MESSAGE)}")
    if found.analysed is not None:
        say(f"  analysed series: {found.analysed}")
    for text in found.doses:
        say(f"  dose: {text}")
    for aside in found.set_aside:
        say(f"  set aside: {aside.reason}: {aside.text}: {shown(str(aside.path), LONGEST_MESSAGE)}")
    for text in found.findings:
        say(f"  finding: {text}", "yellow")
    for result in found.results:
        digest = "reported by hand" if result.digest is None else result.digest[:12]
        place = "not in the store" if result.folder is None else shown(str(result.folder), LONGEST_MESSAGE)
        say(f"  {result.asset}: {digest}, {local(result.made_at, zone)}: {place}")
    for model in found.models:
        why = f" ({model.reason})" if model.reason else ""
        made = f"{model.state}{why}, {model.regions} regions"
        say(f"  model {model.model} {model.version} on {model.series}: {made}")
        for step in model.steps:
            say(f"    {step}")
        if model.log is not None:
            say(f"    log: {shown(str(model.log), LONGEST_MESSAGE)}")
    for check in found.checks:
        style = "" if check.passed else "red" if check.severity == "ERROR" else "yellow"
        verdict = "passed" if check.passed else check.severity.lower()
        say(f"  check {check.check} of {check.asset}: {verdict}: {check.text}", style)
    if found.first_cause is not None:
        say(f"first cause: {in_zone(found.first_cause, zone)}", "red")
        say(f"what to do: {found.next_step}")


def _verdict(verdict: Verdict | None) -> Text:
    return Text("-") if verdict is None else Text(verdict.value, style=_VERDICT_STYLES[verdict])


def _age(seconds: float) -> str:
    for length, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {word}"
    return f"{max(0.0, seconds):.0f} s"

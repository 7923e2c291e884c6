"""`mqi case list` and `mqi case show`: where cases stand, and everything about one of them."""

from collections.abc import Mapping, Sequence
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.text import Text

from mqi_dagster.cli.results_table import print_results
from mqi_dagster.cli.screen import plain_table
from mqi_dagster.cli.top_screen import STYLES
from mqi_dagster.errors import LONGEST_MESSAGE, shown
from mqi_dagster.moments import in_zone, local
from mqi_dagster.operations.case_report import BeamReport, CaseReport
from mqi_dagster.worklist import BeamStatus, CaseState, CaseStatus, Stage


def show_cases(
    console: Console, rows: Sequence[CaseStatus], beams: Mapping[str, Sequence[BeamStatus]], zone: ZoneInfo
) -> None:
    """The list of cases as a table, and what their beams are.

    Args:
        console: Where.
        rows: The cases.
        beams: The beams of each case.
        zone: Of the site.
    """
    table = plain_table("case", "fraction", "arrived", "state", "beams")
    for row in rows:
        count = "-" if row.beams_total is None else f"{row.beams_done} of {row.beams_total}"
        arrived = "-" if row.arrived is None else local(row.arrived, zone)
        state = Text(row.state.value, style=STYLES[row.state])
        table.add_row(row.case, "-" if row.fraction is None else str(row.fraction), arrived, state, count)
    console.print(table if rows else Text("no case"))
    for row in rows:
        for beam in beams[row.case]:
            words = f"  {beam.beam}: {beam.label}; {beam.stage.words}"
            console.print(Text(words, style=STYLES[beam.state]), soft_wrap=True)
        if row.reason:
            words = f"{row.stage.words}: " if row.stage.at_work else ""
            reason = f"{row.case}: {words}{in_zone(row.reason, zone)}"
            console.print(Text(reason, style="dim"), soft_wrap=True)


def show_case(console: Console, report: CaseReport, zone: ZoneInfo) -> None:
    """Everything about one case, for people."""
    row = report.row
    state = (row.state.value, STYLES[row.state])
    words = f", {row.stage.words}" if row.stage.at_work else ""
    reason = f"; {in_zone(row.reason, zone)}" if row.reason else ""
    console.print(Text.assemble(f"case {row.case}: ", state, words, reason), soft_wrap=True)
    facts = [
        ("arrived", local(row.arrived, zone) if row.arrived is not None else None),
        ("machine", report.machine),
        ("clinical fraction", report.clinical_fraction),
        ("RT plan", report.plan and shown(str(report.plan), LONGEST_MESSAGE)),
        ("CT images", report.ct_images or None),
    ]
    for name, value in facts:
        if value is not None:
            console.print(Text(f"  {name}: {value}"), soft_wrap=True)
    for delivery in report.deliveries:
        known = [f"beam {delivery.beam}" if delivery.beam is not None else "its PlanInfo cannot be read"]
        if delivery.layers is not None:
            known.append(f"layers {delivery.layers[0]} to {delivery.layers[1]}")
        if delivery.irradiated_at is not None:
            known.append(local(delivery.irradiated_at, zone, seconds=True))
        known.append(shown(str(delivery.folder), LONGEST_MESSAGE))
        text = f"  delivery {delivery.number}: {', '.join(known)}"
        console.print(Text(text), soft_wrap=True)
    for note in report.notes:
        console.print(Text(f"  note: {note}", style="dim"), soft_wrap=True)
    if report.beams:
        print_results(console, [beam.result for beam in report.beams])
    for beam in report.beams:
        _show_beam(console, beam, zone)
    if report.first_cause is not None:
        console.print(Text(f"first cause: {in_zone(report.first_cause, zone)}", style="red"), soft_wrap=True)
        console.print(Text(f"what to do: {report.next_step}"), soft_wrap=True)


def _show_beam(console: Console, beam: BeamReport, zone: ZoneInfo) -> None:
    number = f"{beam.result.beam} ({beam.result.label})"
    status = beam.status
    if status is not None and status.state in (CaseState.IN_WORK, CaseState.WAITING):
        share = f" {status.percent:.0f} %" if status.stage is Stage.SIMULATING else ""
        slot = f" on {status.slot}" if status.slot is not None else ""
        console.print(Text(f"  beam {number}: {status.stage.words}{share}{slot}"), soft_wrap=True)
        if status.reason:
            reason = in_zone(status.reason, zone)
            console.print(Text(f"  beam {number}: {reason}", style="dim"), soft_wrap=True)
    for job in beam.jobs:
        console.print(Text(f"  beam {number}, {in_zone(job, zone)}"), soft_wrap=True)
    for attempt in beam.attempts:
        cause = f": {in_zone(attempt.cause, zone)}" if attempt.cause else ""
        console.print(
            Text(
                f"  beam {number}, attempt {attempt.number},"
                f" {local(attempt.started_at, zone, seconds=True)}: {attempt.outcome}{cause}"
            ),
            soft_wrap=True,
        )
    if beam.result.error is not None:
        error = in_zone(beam.result.error, zone)
        console.print(Text(f"  beam {number}: {error}", style="red"), soft_wrap=True)

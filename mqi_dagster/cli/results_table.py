"""What came of cases and beams, as a table for people."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mqi_dagster.cli.screen import plain_table
from mqi_dagster.delivery.verdict import AS_PLANNED
from mqi_dagster.lifecycle.runs import RunState
from mqi_dagster.lifecycle.stages import CaseState
from mqi_dagster.operations.results import BeamRow, CaseResult

_WIDEST = 400


def results_table(rows: Sequence[BeamRow]) -> Table:
    """The rows as a table."""
    several = len({row.case for row in rows}) > 1
    numbers = ("layers", "MU ratio", "as planned", "histories", "R80 in mm", "uncertainty")
    titles = (*["case"] * several, "beam", "name, energies, gantry", *numbers, "RT Dose")
    table = plain_table(*titles, right=("beam", *numbers))
    for row in rows:
        cells = [
            str(row.beam),
            escape(row.label),
            "-" if row.layers is None else str(row.layers),
            _number(row.mu_ratio, "{:.4f}"),
            "-" if row.delivery is None else "yes" if row.delivery == AS_PLANNED else "no",
            _number(row.histories, "{:,.0f}"),
            _number(row.r80_mm, "{:.1f}"),
            _number(row.uncertainty_percent, "{:.1f} %"),
            escape(row.rt_dose or row.status.value),
        ]
        style = "red" if row.status is RunState.FAILED else None
        table.add_row(*([row.case, *cells] if several else cells), style=style)
    return table


def print_results(console: Console, rows: Sequence[BeamRow]) -> None:
    """Print the rows; paths stay whole, on a narrow terminal and in a file."""
    table = results_table(rows)
    wide = Measurement.get(console, console.options.update(max_width=_WIDEST), table).maximum
    width = console.width
    console.width = max(width, wide)
    console.print(table, crop=False)
    console.width = width
    for row in rows:
        if row.delivery is not None and row.delivery != AS_PLANNED:
            place = (
                f"{row.case}, beam {row.beam}" if len({one.case for one in rows}) > 1 else f"beam {row.beam}"
            )
            console.print(Text(f"  {place}, {row.delivery}", style="yellow"), soft_wrap=True)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def show_results(console: Console, results: Sequence[CaseResult]) -> None:
    """The results as a table, and the first cause of every failure."""
    rows = [row for result in results for row in result.beams]
    if rows:
        print_results(console, rows)
    for result in results:
        missing = ", ".join(str(number) for number in result.missing_beams)
        partial = f"; no delivery of beam {missing}" if missing else ""
        style = "red" if result.status is CaseState.FAILED else "green"
        console.print(Text.assemble(f"case {result.case}: ", (result.status.value, style), partial))
        for row in result.beams:
            if row.error is not None:
                console.print(
                    Text(f"  beam {row.beam} ({row.label}): {row.error}", style="red"), soft_wrap=True
                )
        if result.error is not None:
            console.print(Text(f"  {result.error}", style="red"), soft_wrap=True)

"""The board of a case on a screen: a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import tzinfo

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mqi_dagster.moments import in_zone
from mqi_dagster.worklist import BeamStand, CaseStand, CaseState

_LINE_EVERY_PERCENT = 25
_STYLES = {CaseState.FAILED: "red", CaseState.COMPLETE: "green"}


class BoardDisplay:
    """Shows a board again and again.

    Args:
        console: Where.
        case: Case key.
        zone: Of the site, in which moments are told.
    """

    def __init__(self, console: Console, case: str, zone: tzinfo) -> None:
        self._zone = zone
        self._console = console
        self._case = case
        self._live: Live | None = None
        self._said: dict[str, str] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While the block runs, a terminal shows the newest board in one place."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=4, transient=False) as live:
            self._live = live
            yield
        self._live = None

    def show(self, case: CaseStand | None, beams: Sequence[BeamStand], seconds: float) -> None:
        """Show where the case stands.

        Args:
            case: None where it was not seen yet.
            beams: Its beams, in the order of their numbers.
            seconds: Since the beginning.
        """
        if self._live is not None:
            self._live.update(self._table(case, beams, seconds))
            return
        self._say(f"case {self._case}", case_words(case, self._zone), 0.0, seconds)
        for beam in beams:
            self._say(f"beam {beam.number}", beam.stage.words, beam.percent, seconds)

    def _say(self, name: str, words: str, percent: float, seconds: float) -> None:
        if 0 < percent < 100:
            words += f" {int(percent // _LINE_EVERY_PERCENT) * _LINE_EVERY_PERCENT} %"
        if self._said.get(name) != words:
            self._said[name] = words
            self._console.print(Text(f"{seconds:5.0f} s  {name}: {words}"), soft_wrap=True)

    def _table(self, case: CaseStand | None, beams: Sequence[BeamStand], seconds: float) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(width=30)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        for beam in beams:
            bar = ProgressBar(total=100.0, completed=beam.percent)
            percent = f"{beam.percent:.0f} %" if beam.percent else ""
            words = Text(beam.stage.words, style=_STYLES.get(beam.state, ""))
            table.add_row(f"beam {beam.number}", bar, percent, words)
        head = Text.assemble(
            f"case {self._case}: ", (case_words(case, self._zone), "bold"), f"  ({seconds:.0f} s)"
        )
        return Group(head, table)


def case_words(case: CaseStand | None, zone: tzinfo) -> str:
    """Where a case stands, in a few words; None where it was not seen yet."""
    if case is None:
        return "in the inbox, not seen yet"
    waits = case.state is CaseState.WAITING and case.reason
    return in_zone(case.reason, zone) if waits else case.stage.words

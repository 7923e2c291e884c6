"""The board of a case on a screen: a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mqi_dagster.cli.case_board import Board, Station

_LINE_EVERY_PERCENT = 25


class BoardDisplay:
    """Shows a board again and again.

    Args:
        console: Where.
        case: Case key.
    """

    def __init__(self, console: Console, case: str) -> None:
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

    def show(self, board: Board, seconds: float) -> None:
        """Show where the case stands."""
        if self._live is not None:
            self._live.update(self._table(board, seconds))
            return
        self._say(f"case {self._case}", board.case, seconds)
        for number in sorted(board.beams):
            self._say(f"beam {number}", board.beams[number], seconds)

    def _say(self, name: str, station: Station, seconds: float) -> None:
        words = station.words
        if 0 < station.percent < 100:
            words += f" {int(station.percent // _LINE_EVERY_PERCENT) * _LINE_EVERY_PERCENT} %"
        if self._said.get(name) != words:
            self._said[name] = words
            self._console.print(Text(f"{seconds:5.0f} s  {name}: {words}"), soft_wrap=True)

    def _table(self, board: Board, seconds: float) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(width=30)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        for number in sorted(board.beams):
            station = board.beams[number]
            style = "red" if station.failed else "green" if station.done else ""
            bar = ProgressBar(total=100.0, completed=station.percent)
            percent = f"{station.percent:.0f} %" if station.percent else ""
            table.add_row(f"beam {number}", bar, percent, Text(station.words, style=style))
        case = Text.assemble(f"case {self._case}: ", (board.case.words, "bold"), f"  ({seconds:.0f} s)")
        return Group(case, table)

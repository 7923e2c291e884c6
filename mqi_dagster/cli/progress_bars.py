"""Bars on a terminal, and plain lines where there is none."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.text import Text


class ProgressBars:
    """A bar for each thing that goes on, by its label.

    Args:
        console: Where to show them.
        columns: What stands at the right of a bar.
    """

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._bars: Progress | None = None
        if console.is_terminal:
            first = (TextColumn("{task.description}"), BarColumn(bar_width=30))
            self._bars = Progress(*first, *columns, console=console)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def note(self, text: str) -> None:
        """Say something beside what is shown."""
        self._console.print(Text(text), soft_wrap=True)

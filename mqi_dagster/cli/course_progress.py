"""How far a run of many courses is: a bar for each stage on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from mqi_dagster.processes.progress import Progress as Count

_LINE_EVERY_PERCENT = 5


class CourseProgress:
    """Shows how far each stage is, by its label.

    Args:
        console: Where to show it.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, int] = {}
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[words]}"),
            )
            self._bars = Progress(*columns, console=console)

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

    def progress(self, progress: Count) -> None:
        """Show how far something is; in a file every twentieth of it is a line."""
        if self._bars is None:
            step = 100 * progress.ended // max(1, progress.total) // _LINE_EVERY_PERCENT
            if self._said.get(progress.label) != step:
                self._said[progress.label] = step
                self.note(str(progress))
            return
        words = str(progress).removeprefix(f"{progress.label}: ")
        if progress.label not in self._tasks:
            self._tasks[progress.label] = self._bars.add_task(progress.label, words=words)
        self._bars.update(
            self._tasks[progress.label], total=progress.total, completed=progress.ended, words=words
        )

"""How far a run of many courses is: a bar for each stage on a terminal, plain lines elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.progress import TextColumn

from mqi_dagster.cli.progress_bars import ProgressBars
from mqi_dagster.processes.progress import Progress

_LINE_EVERY_PERCENT = 5


class CourseProgress(ProgressBars):
    """Shows how far each stage is, by its label.

    Args:
        console: Where to show it.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console, TextColumn("{task.fields[words]}"))
        self._said: dict[str, int] = {}

    def progress(self, progress: Progress) -> None:
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

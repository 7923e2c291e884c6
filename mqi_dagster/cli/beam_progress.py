"""How far the beams of a running case are: a bar each on a terminal, a line a change elsewhere."""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import UnsupportedOperation

from rich.console import Console
from rich.progress import TextColumn, TimeElapsedColumn

from mqi_dagster.cli.progress_bars import ProgressBars
from mqi_dagster.cli.screen import output
from mqi_dagster.errors import MqiError
from mqi_dagster.lifecycle.stages import WorkPhase
from mqi_dagster.operations.case_run import Reports

_EVERY_SECONDS = 0.3
_LINE_EVERY_PERCENT = 20


def own_console() -> Console:
    """A console on standard error that stays ours while a step's output is captured."""
    try:
        return output(file=os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8"))
    except (UnsupportedOperation, AttributeError, OSError):
        return output(stderr=True)


class BeamProgress(ProgressBars):
    """Shows the ledger's progress of the beam in work, from a thread of its own.

    Args:
        console: Where to show it.
    """

    def __init__(self, console: Console) -> None:
        percent, phase = TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[phase]}")
        super().__init__(console, percent, phase, TimeElapsedColumn())
        self._said: tuple[str, int] = ("", -1)

    def expect(self, keys: Sequence[str]) -> None:
        """Show beams that will be in work, in their order."""
        if self._bars is not None:
            for key in keys:
                self._tasks[key] = self._bars.add_task(key, total=100.0, start=False, phase="")

    @contextmanager
    def watching(self, key: str, reports: Reports) -> Iterator[None]:
        """Follow a beam while the block runs."""
        self._said = ("", -1)
        if self._bars is not None:
            self._bars.start_task(self._tasks[key])
            self._bars.update(self._tasks[key], phase="interpreting")
        else:
            self.note(f"{key}: started")
        stop = threading.Event()
        follower = threading.Thread(
            target=self._follow, args=(key, reports, datetime.now(UTC), stop), daemon=True
        )
        follower.start()
        try:
            yield
        finally:
            stop.set()
            follower.join()

    def ended(self, key: str, error: str | None) -> None:
        """Say how a beam's run has ended."""
        phase = "done" if error is None else "failed"
        if self._bars is not None:
            self._bars.update(self._tasks[key], phase=phase, completed=100.0 if error is None else None)
            self._bars.stop_task(self._tasks[key])
        else:
            self.note(f"{key}: {phase}")

    def _follow(self, key: str, reports: Reports, since: datetime, stop: threading.Event) -> None:
        while not stop.wait(_EVERY_SECONDS):
            try:
                report = reports(key)
            except MqiError:
                # The run that is followed needs the ledger too, and says why it is away.
                continue
            # The row of an earlier run says nothing of this one.
            if report is not None and report.updated_at >= since:
                self._show(key, report.phase, report.percent)

    def _show(self, key: str, phase: str, percent: float) -> None:
        if self._bars is not None:
            words = "making the RT Dose" if phase == WorkPhase.SIMULATED else phase
            self._bars.update(self._tasks[key], completed=min(percent, 99.0), phase=words)
            return
        step = int(percent // _LINE_EVERY_PERCENT)
        if (phase, step) != self._said:
            self._said = (phase, step)
            self.note(f"{key}: {phase} {percent:.0f} %")

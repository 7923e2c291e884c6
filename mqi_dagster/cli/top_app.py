"""The board in a terminal: reads, shows, and follows the keys."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType

from rich.console import Console
from rich.live import Live

from mqi_dagster.cli.site import ended_by_any_signal
from mqi_dagster.cli.top_keys import Keys
from mqi_dagster.cli.top_log import engine_log
from mqi_dagster.cli.top_reader import BackgroundReader, BoardReader
from mqi_dagster.cli.top_screen import Screen
from mqi_dagster.cli.top_view import View
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist import BeamStand
from mqi_dagster.worklist.reading import plain_errors

_PAGE = 10
_LATE_SECONDS = 0.5
"""Within it after its time a look has woken whoever waits for a key, or the screen is drawn without it."""
_OLD_SECONDS = 1.0
"""What is older than a look's time and this is said to be old."""


class Board:
    """A board that runs until somebody ends it.

    Args:
        site: The site.
        reader: Reads it.
        seconds: From one look to the next.
        view: What is shown first.
        console: Where.
    """

    def __init__(self, site: Site, reader: BoardReader, seconds: float, view: View, console: Console) -> None:
        self._site = site
        self._reader = reader
        self._view = view
        self._console = console
        self._seconds = seconds
        self._keys = Keys(sys.stdin.fileno())
        self._background = BackgroundReader(reader, seconds, self._keys.wake)
        self._log_of: BeamStand | None = None

    def run(self) -> None:
        """Show the board until q or Ctrl-C.

        Raises:
            ConfigurationError: The ledger is of another revision.
        """
        with (
            ended_by_any_signal(),
            self._keys.raw(),
            Live(console=self._console, screen=True, auto_refresh=False) as live,
            self._woken_by_a_new_size(),
        ):
            self._background.start()
            try:
                while not self._view.quit and self._background.refused is None:
                    self._follow_log()
                    live.update(self._screen(), refresh=True)
                    key = self._keys.read(self._seconds + _LATE_SECONDS)
                    if key is not None:
                        self._press(key)
            except (KeyboardInterrupt, EOFError):
                pass
            finally:
                self._background.stop()
        if self._background.refused is not None:
            raise self._background.refused

    def _screen(self) -> Screen:
        work, error, now = self._background.work, self._background.error, datetime.now(UTC)
        if error is None and work is not None:
            age = (now - work.at).total_seconds()
            error = "the records have not answered since" if age > self._seconds + _OLD_SECONDS else None
        return Screen(work, self._view, self._site.settings.site.name, error, now)

    @contextmanager
    def _woken_by_a_new_size(self) -> Iterator[None]:
        def woken(number: int, frame: FrameType | None) -> None:
            self._keys.wake()

        before = signal.signal(signal.SIGWINCH, woken)
        try:
            yield
        finally:
            signal.signal(signal.SIGWINCH, before)

    def _press(self, key: str) -> None:
        view, work = self._view, self._background.work
        if view.typing:
            self._type(key)
        elif key == "q":
            view.quit = True
        elif view.log is not None:
            self._press_in_log(key)
        elif work is None:
            return
        elif key in _STEPS:
            view.move(work, _STEPS[key])
        elif key == "c":
            view.cases, view.cursor, view.place = not view.cases, None, 0
        elif key == "s":
            view.next_state()
        elif key == "/":
            view.typing, view.cursor = True, None
        elif key == "escape":
            view.state, view.text = None, ""
        elif key in ("l", "enter"):
            self._open_log()

    def _type(self, key: str) -> None:
        view = self._view
        if key == "enter":
            view.typing = False
        elif key == "escape":
            view.typing, view.text = False, ""
        elif key == "backspace":
            view.text = view.text[:-1]
        elif len(key) == 1 and key.isprintable():
            view.text += key

    def _press_in_log(self, key: str) -> None:
        view = self._view
        if key in ("escape", "l", "enter"):
            view.log, view.log_offset, self._log_of = None, 0, None
        elif key in _STEPS:
            longest = max(0, len(view.log or []) - 1)
            view.log_offset = max(0, min(longest, view.log_offset - _STEPS[key]))

    def _open_log(self) -> None:
        work = self._background.work
        if work is None:
            return
        place, rows = self._view.chosen(work), self._view.rows(work)
        row = rows[place] if rows else None
        if isinstance(row, BeamStand):
            self._log_of = row
            self._view.log_offset = 0

    def _follow_log(self) -> None:
        """The log that is open as it is now; one that somebody reads further up stands still."""
        view, beam, instance = self._view, self._log_of, self._reader.instance
        if beam is None or instance is None or (view.log is not None and view.log_offset):
            return
        work = self._background.work
        beam = next((row for row in work.beams if row.beam == beam.beam), beam) if work is not None else beam
        try:
            with plain_errors():
                kind, view.log = engine_log(instance, self._site, beam)
        except InfrastructureError as error:
            kind, view.log = "away", [error.message]
        view.log_title = f"{beam.beam}: the engine's log ({kind})"


_STEPS = {
    "up": -1,
    "down": 1,
    "k": -1,
    "j": 1,
    "page up": -_PAGE,
    "page down": _PAGE,
    "home": -1_000_000,
    "end": 1_000_000,
}

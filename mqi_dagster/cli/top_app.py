"""The board in a terminal: reads, shows, and follows the keys."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import FrameType

from rich.console import Console
from rich.live import Live

from mqi_dagster.cli.site import ended_by_any_signal
from mqi_dagster.cli.top_screen import Screen, View
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.operations.board_reader import BackgroundReader, BoardReader
from mqi_dagster.operations.engine_log import engine_log
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist import BeamStatus
from mqi_dagster.worklist.reading import plain_errors

_ESCAPES = {
    "[A": "up",
    "[B": "down",
    "OA": "up",
    "OB": "down",
    "[5~": "page up",
    "[6~": "page down",
    "[H": "home",
    "[F": "end",
    "OH": "home",
    "OF": "end",
    "[1~": "home",
    "[4~": "end",
}
_PLAIN = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace", "\x1b": "escape"}
_REST_SECONDS = 0.05
"""The rest of an escape sequence comes at once; a lone Esc has none."""


class Keys:
    """Reads keys of a terminal.

    Args:
        descriptor: The terminal.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        self._left = ""
        """A key that was read too far."""

    def wake(self) -> None:
        """Make a `read` that waits return; from another thread or a signal handler."""
        with suppress(BlockingIOError):
            os.write(self._waker, b".")

    @contextmanager
    def raw(self) -> Iterator[None]:
        """Within it keys come at once and are not echoed; Ctrl-C still interrupts."""
        before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        try:
            yield
        finally:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)

    def read(self, seconds: float) -> str | None:
        """The next key by its name or character; None where none comes in time, or it was woken.

        Raises:
            EOFError: The terminal is gone.
        """
        if not self._left:
            ready = select.select([self._descriptor, self._woken], [], [], seconds)[0]
            if self._woken in ready:
                os.read(self._woken, 4096)
            if self._descriptor not in ready:
                return None
        key = self._character()
        if key != "\x1b":
            return _PLAIN.get(key, key)
        rest = ""
        while self._follows():
            character = self._character()
            if not rest and character not in "[O":
                # Esc by itself, and another key right after it.
                self._left = character
                break
            rest += character
            if rest in _ESCAPES:
                return _ESCAPES[rest]
            if len(rest) > 1 and (character.isalpha() or character == "~"):
                return None
        return "escape"

    def _follows(self) -> bool:
        return bool(self._left or select.select([self._descriptor], [], [], _REST_SECONDS)[0])

    def _character(self) -> str:
        if self._left:
            character, self._left = self._left, ""
            return character
        first = os.read(self._descriptor, 1)
        if not first:
            raise EOFError
        more = 0 if first[0] < 0xC0 else 1 if first[0] < 0xE0 else 2 if first[0] < 0xF0 else 3
        return (first + (os.read(self._descriptor, more) if more else b"")).decode(errors="replace")


_PAGE = 10
_LATE_SECONDS = 0.5
"""Within it after its time a snapshot has woken who waits for a key, or the screen is drawn without it."""
_OLD_SECONDS = 1.0
"""What is older than a snapshot's time and this is said to be old."""


class Board:
    """A board that runs until somebody ends it.

    Args:
        site: The site.
        reader: Reads it.
        seconds: From one snapshot to the next.
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
        self._log_of: BeamStatus | None = None

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
            view.cases, view.cursor, view.position = not view.cases, None, 0
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
        position, rows = self._view.chosen(work), self._view.rows(work)
        row = rows[position] if rows else None
        if isinstance(row, BeamStatus):
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

"""The keyboard of a terminal, key by key, and the terminal as it was afterwards."""

from __future__ import annotations

import os
import select
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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

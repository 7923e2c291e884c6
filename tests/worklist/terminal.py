"""``mqi top`` in a pseudo-terminal of any size, with a person at its keys."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

MQI = Path(sys.executable).with_name("mqi")
_CODES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]")
_HOME = b"\x1b[H"


class Terminal:
    """A terminal with a command in it.

    Args:
        arguments: Of ``mqi``.
        columns: Width.
        rows: Height.
    """

    def __init__(self, *arguments: str, columns: int = 80, rows: int = 24) -> None:
        self._master, self._slave = pty.openpty()
        self.resize(columns, rows, tell=False)
        self.before = termios.tcgetattr(self._slave)
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
        environment = {name: value for name, value in environment.items() if value}
        self.process = subprocess.Popen(
            [str(MQI), *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=environment,
            preexec_fn=self._own_terminal,
        )
        self.output = b""

    def _own_terminal(self) -> None:
        os.setsid()
        # Whoever runs the tests in the background may ignore it; in a terminal nobody does.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def resize(self, columns: int, rows: int, *, tell: bool = True) -> None:
        """Give the terminal another size."""
        self._rows = rows
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def _read(self, seconds: float) -> None:
        while select.select([self._master], [], [], seconds)[0]:
            try:
                piece = os.read(self._master, 65536)
            except OSError:
                return
            self.output += piece
            seconds = 0.0

    @property
    def cpu_seconds(self) -> float:
        """User and system time of the command so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def screen(self) -> list[str]:
        """Lines of the newest whole frame: of the last one the end may not have come yet."""
        frames = self.output.split(_HOME)[1:]
        whole = (frame for frame in reversed(frames[-2:]) if frame.count(b"\n") == self._rows - 1)
        frame = next(whole, frames[-1] if frames else b"")
        return _CODES.sub(b"", frame).decode(errors="replace").replace("\r", "").split("\n")

    def wait_for(self, wanted: Callable[[list[str]], bool], what: str, seconds: float = 90.0) -> list[str]:
        """The first frame that is as wanted."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            self._read(0.2)
            if wanted(self.screen):
                return self.screen
            if self.process.poll() is not None:
                break
        raise AssertionError(f"{what}: not in {seconds:g} s\n" + "\n".join(self.screen))

    def see(self, text: str, seconds: float = 90.0) -> list[str]:
        """The first frame that holds a text."""
        return self.wait_for(lambda lines: any(text in line for line in lines), text, seconds)

    def end(self, seconds: float = 30.0) -> int:
        """The exit status, once the command has ended by itself."""
        limit = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < limit:
            self._read(0.1)
        assert self.process.poll() is not None, "the command has not ended"
        self._read(0.1)
        return self.process.returncode

    @property
    def left_clean(self) -> bool:
        """Whether the terminal is as it was: modes, cursor shown, own screen left."""
        same = termios.tcgetattr(self._slave)[:4] == self.before[:4]
        shown = self.output.rfind(b"\x1b[?25h") > self.output.rfind(b"\x1b[?25l")
        return same and shown and self.output.rfind(b"\x1b[?1049l") > self.output.rfind(b"\x1b[?1049h")

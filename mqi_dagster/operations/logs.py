"""Logs as people read and follow them: those of a site's services, and what else is written by lines."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.operations import service_locks
from mqi_dagster.operations.service_locks import Service
from mqi_dagster.settings import Settings

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_BLOCK = 64 * 1024
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?:UTC|[+-]\d{4})")
_FIRST = datetime.min.replace(tzinfo=UTC)

Scrub = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a log."""

    kind: str
    """Of what it is: ``service`` or ``partition``."""
    name: str
    line: str

    def content(self) -> dict[str, str]:
        """For JSON."""
        return {self.kind: self.name, "line": self.line}


@dataclass(slots=True)
class Tail:
    """The end of a log, and what comes after it, also where another file takes its name meanwhile.

    Args:
        kind: Of what it is: ``service`` or ``partition``.
        name: Whose.
        find: The file that is written now; None where there is none.
        scrub: What takes identifiers from whole lines of a file; told the file.
        before: The file of which the end counts where none is written now.
    """

    kind: str
    name: str
    find: Callable[[], Path | None]
    scrub: Callable[[Path], Scrub] = lambda _: bytes
    before: Path | None = None
    _stream: BinaryIO | None = field(default=None, init=False)
    _clean: Scrub = field(default=bytes, init=False)
    _rest: bytes = field(default=b"", init=False)

    def last(self, count: int, *, whole: bool = True) -> list[LogLine]:
        """The last lines; reading goes on behind them.

        Args:
            count: How many at the most.
            whole: Whether nothing more is read, so that a line that has no end yet counts.

        Raises:
            InfrastructureError: The log cannot be read.
        """
        path = self.find() or self.before
        if path is None or not self._open(path) or self._stream is None:
            return []
        size, block = self._stream.seek(0, os.SEEK_END), _BLOCK
        while True:
            begin = max(0, size - block)
            self._stream.seek(begin)
            content = self._stream.read(size - begin)
            if begin == 0 or content.count(b"\n") > count:
                break
            block *= 2
        # Of a line that is cut an identifier would not be recognised.
        lines = self._lines(content if begin == 0 else content.partition(b"\n")[2], whole)
        return lines[-count:] if count else []

    def more(self) -> list[LogLine]:
        """What has come since.

        Raises:
            InfrastructureError: The log cannot be read.
        """
        path = self.find()
        anew = path is not None and not self._is_open(path)
        lines = self._read(whole=anew)
        if anew and path is not None and self._open(path):
            lines += self._read()
        return lines

    def close(self) -> None:
        """Let go of the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _open(self, path: Path) -> bool:
        """Whether it is there."""
        self.close()
        try:
            self._stream = path.open("rb")
        except FileNotFoundError:
            return False
        except OSError as error:
            raise InfrastructureError(f"the log of {self.name} cannot be read: {error.strerror}") from None
        self._clean = self.scrub(path)
        return True

    def _is_open(self, path: Path) -> bool:
        if self._stream is None:
            return False
        try:
            there, here = path.stat(), os.fstat(self._stream.fileno())
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def _read(self, *, whole: bool = False) -> list[LogLine]:
        if self._stream is None:
            return []
        if os.fstat(self._stream.fileno()).st_size < self._stream.tell():
            # Somebody has emptied it.
            self._stream.seek(0)
        return self._lines(self._stream.read(), whole)

    def _lines(self, content: bytes, whole: bool) -> list[LogLine]:
        *ended, self._rest = (self._rest + content).split(b"\n")
        if whole and self._rest:
            ended, self._rest = [*ended, self._rest], b""
        return [LogLine(self.kind, self.name, _plain(self._clean(line))) for line in ended]


def _plain(line: bytes) -> str:
    text = COLOURS.sub("", line.decode(errors="replace")).expandtabs()
    return "".join(one if one.isprintable() else " " for one in text).rstrip()


def service_tails(settings: Settings, wanted: Iterable[Service] = Service) -> tuple[list[Tail], str]:
    """The logs of the services that `mqi dev` runs or has run, and in words where all others have theirs.

    Args:
        settings: Of the site.
        wanted: Which services.

    Raises:
        ConfigurationError: A service manager keeps the logs of all of them.
    """
    wanted = list(wanted)
    managed = service_locks.managed(settings)
    names = [service for service in wanted if service in managed]
    elsewhere = ""
    if names:
        units = " ".join(f"--unit mqi-{service}" for service in names)
        elsewhere = (
            f"a service manager keeps the logs of {', '.join(names)}: journalctl --follow {units},"
            f" or in containers docker compose logs --follow {' '.join(names)}"
        )
    tails = [
        Tail("service", service, partial(_log_of, settings, service))
        for service in wanted
        if service not in managed
    ]
    if elsewhere and not any_there(tails):
        raise ConfigurationError(elsewhere)
    return tails, elsewhere


def _log_of(settings: Settings, service: Service) -> Path:
    return settings.paths.state / "logs" / f"{service}.log"


def last_lines(tails: Sequence[Tail], count: int, *, whole: bool) -> list[LogLine]:
    """The last lines of each of several logs, in the order of the moments that they begin with.

    Raises:
        InfrastructureError: A log cannot be read.
    """
    timed: list[tuple[datetime, LogLine]] = []
    for tail in tails:
        at = _FIRST
        for line in tail.last(count, whole=whole):
            # What has no moment of its own belongs to the line before it.
            at = _moment(line.line) or at
            timed.append((at, line))
    return [line for _, line in sorted(timed, key=lambda one: one[0])]


def _moment(line: str) -> datetime | None:
    found = _MOMENT.match(line)
    if found is None:
        return None
    try:
        return datetime.strptime(found[0].replace("UTC", "+0000"), "%Y-%m-%d %H:%M:%S %z")
    except ValueError:
        return None


def any_there(tails: Iterable[Tail]) -> bool:
    """Whether one of some logs is there."""
    return any(path.is_file() for tail in tails if (path := tail.find() or tail.before) is not None)

"""How many channels may be open at once: what the settings say, or less where the server refuses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mqi_dagster.hpc.errors import ConnectError


class ChannelLimit:
    """A counter of open channels whose limit falls when the server (MaxSessions) refuses one.

    Args:
        wanted: The most that are ever open.
    """

    def __init__(self, wanted: int) -> None:
        self._limit = wanted
        self._open = 0
        self._granted = 0
        self._proven = 1
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """How many may be open now."""
        with self._changed:
            return self._limit

    @contextmanager
    def permit(self, timeout: float) -> Iterator[None]:
        """The right to open one channel.

        Raises:
            ConnectError: None became free in time.
        """
        end = time.monotonic() + timeout
        with self._changed:
            while self._open >= self._limit:
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise ConnectError("no channel of the connection became free in time")
            self._open += 1
        try:
            yield
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify()

    @contextmanager
    def granted(self) -> Iterator[None]:
        """While a channel is open that the server has granted."""
        with self._changed:
            self._granted += 1
            self._proven = max(self._proven, self._granted)
        try:
            yield
        finally:
            with self._changed:
                self._granted -= 1

    def refused(self) -> None:
        """The server has refused a channel while ours were open: from now on one less is asked for.

        Never less than were granted at once before: a server that frees a session late refuses as well.
        """
        with self._changed:
            self._limit = max(self._proven, min(self._limit, self._open - 1))

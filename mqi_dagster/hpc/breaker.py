"""The circuit breaker of a host: after some failed connections in a row none is tried for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mqi_dagster.hpc.errors import ConnectError


class Breaker:
    """Counts failed connections.

    Fifty beams that all reconnect at once are what a server's MaxStartups throws out; a host that is away
    gets one try a while instead.

    Args:
        failures: Failures in a row that open it.
        seconds: How long it stays open.
        clock: Seconds of a clock that never goes back; replaced in tests.
    """

    def __init__(self, failures: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._opened: float | None = None

    def check(self) -> None:
        """Let a try through; after the time is over, one.

        Raises:
            ConnectError: The breaker is open.
        """
        with self._lock:
            if self._opened is None:
                return
            left = self._opened + self._seconds - self._clock()
            if left > 0:
                raise ConnectError(
                    f"{self._failures} connections in a row have failed; the next try is in {left:.0f} s"
                )
            # Everybody else waits for what becomes of this one try.
            self._opened = self._clock()

    def failed(self) -> None:
        """A connection did not stand."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._limit:
                self._opened = self._clock()

    def succeeded(self) -> None:
        """A connection stands."""
        with self._lock:
            self._failures = 0
            self._opened = None

"""Waiting for a cluster that is away: a beam pauses in sight and goes on, it does not fail."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

import dagster as dg

from mqi_dagster.errors import MqiError, Retry, UnreachableError
from mqi_dagster.settings import Intervals

_TRIES = 6
"""Of what is damaged on the way each time: then it is not the way."""
T = TypeVar("T")


class Patience:
    """Calls again what another machine could not answer, for as long as it takes.

    Args:
        log: Of the step.
        intervals: Waits between two tries, and when people should know.
        pause: Called with the reason before each wait; stops the beam by raising.
    """

    def __init__(
        self, log: dg.DagsterLogManager, intervals: Intervals, pause: Callable[[str], None] = lambda _: None
    ) -> None:
        self._log = log
        self._intervals = intervals
        self._pause = pause

    def persist(self, what: str, call: Callable[[], T]) -> T:
        """The result of a call, once there is one.

        Args:
            what: What is being done, for people.
            call: Safe to repeat.

        Raises:
            MqiError: What a person has to mend, or what was damaged on the way six times.
        """
        began, wait, damaged, said, alarmed = time.monotonic(), self._intervals.retry_seconds, 0, "", False
        while True:
            try:
                return call()
            except UnreachableError as error:
                reason = error.message
            except MqiError as error:
                damaged += 1
                if error.retry is not Retry.FOREVER or damaged >= _TRIES:
                    raise
                reason = error.message
            if reason != said:
                self._log.warning("%s waits: %s", what, reason)
                said = reason
            away = time.monotonic() - began
            if away > self._intervals.alarm_seconds and not alarmed:
                self._log.error("%s has waited for %.0f minutes: %s", what, away / 60, reason)
                alarmed = True
            self._pause(reason)
            self.sleep(random.uniform(0.5, 1.0) * wait)
            wait = min(2 * wait, self._intervals.retry_maximum_seconds)

    def sleep(self, seconds: float) -> None:
        """Wait, looking every second whether the beam still may."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            self._pause("")

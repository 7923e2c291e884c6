"""Calls to other machines, repeated while these are away: a beam waits in sight, it does not fail."""

import time
from collections.abc import Callable
from typing import TypeVar

import dagster as dg

from mqi_dagster.backoff import Backoff
from mqi_dagster.errors import MqiError, Retry, UnreachableError
from mqi_dagster.settings import Intervals

_TRIES = 6
"""Of what is damaged on the way each time: then it is not the way."""
T = TypeVar("T")


class Retrying:
    """Calls again what another machine could not answer, for as long as it takes.

    Args:
        log: Of the step.
        intervals: Waits between two tries, and when people should know; None where nothing is tried again.
        pause: Called with the reason before each wait; stops the beam by raising.
        clock: Seconds of a clock that never goes back; replaced in tests.
        sleep: Lets so many seconds pass; replaced in tests.
    """

    def __init__(
        self,
        log: dg.DagsterLogManager,
        intervals: Intervals | None,
        pause: Callable[[str], None] = lambda _: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._log = log
        self._intervals = intervals
        self._pause = pause
        self._clock = clock
        self._sleep = sleep

    def call(self, what: str, function: Callable[[], T]) -> T:
        """The result of a call, once there is one.

        Args:
            what: What is being done, for people.
            function: Safe to repeat.

        Raises:
            MqiError: What a person has to mend, or what was damaged on the way six times.
        """
        intervals = self._intervals
        if intervals is None:
            return function()
        began, failures, damaged, said, alarmed = self._clock(), 0, 0, "", False
        backoff = Backoff(intervals.retry_seconds, intervals.retry_maximum_seconds, jitter=0.5)
        while True:
            try:
                return function()
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
            away = self._clock() - began
            if away > intervals.alarm_seconds and not alarmed:
                self._log.error("%s has waited for %.0f minutes: %s", what, away / 60, reason)
                alarmed = True
            self._pause(reason)
            failures += 1
            self.sleep(backoff.seconds(failures))

    def sleep(self, seconds: float) -> None:
        """Wait, looking every second whether the beam still may."""
        end = self._clock() + seconds
        while (left := end - self._clock()) > 0:
            self._sleep(min(1.0, left))
            self._pause("")

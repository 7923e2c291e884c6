"""Waiting for a cluster: for ever where it is away, six times for what is damaged, never for a person."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import dagster as dg
import pytest

from mqi_dagster.compute.retrying import Retrying
from mqi_dagster.errors import ConfigurationError, EngineError, LeaseLostError, MqiError
from mqi_dagster.hpc.errors import (
    AuthenticationError,
    CommandTimeoutError,
    ConnectError,
    ConnectionLostError,
    DiskFullError,
    HostKeyError,
    IntegrityError,
    PathRejectedError,
    SchedulerUnavailableError,
    SubmitRejectedError,
)
from mqi_dagster.settings import Intervals

LOG = logging.getLogger("retrying")
INTERVALS = Intervals.model_validate({"retry_seconds": 2, "retry_maximum_seconds": 300, "alarm_seconds": 600})


class Time:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


def make(time: Time, pause: Callable[[str], None] = lambda _: None) -> Retrying:
    log = cast("dg.DagsterLogManager", LOG)
    return Retrying(log, INTERVALS, pause, clock=time.monotonic, sleep=time.sleep)


def failing(*errors: BaseException) -> Callable[[], str]:
    """A call that fails so many times, and then has a result."""
    left = list(errors)

    def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call


def test_what_works_is_not_waited_for(time: Time) -> None:
    said: list[str] = []
    assert make(time, said.append).call("submitting", failing()) == "done"
    assert (time.slept, said) == ([], [])


@pytest.mark.parametrize(
    "kind",
    [ConnectError, ConnectionLostError, CommandTimeoutError, SchedulerUnavailableError, DiskFullError],
)
def test_what_is_away_is_waited_for_as_long_as_it_takes(time: Time, kind: type[MqiError]) -> None:
    reasons: list[str] = []
    call = failing(*(kind("no route") for _ in range(200)))
    assert make(time, reasons.append).call("submitting", call) == "done"
    assert reasons.count("no route") == 200, "each wait is told"
    assert time.now - 1000 > 200 * 100


def test_waits_grow_to_the_limit_and_are_spread(time: Time) -> None:
    waits: list[float] = []
    told = make(time, lambda reason: waits.append(time.now) if reason else None)
    told.call("submitting", failing(*(ConnectError("away") for _ in range(12))))
    waits.append(time.now)
    spans = [after - before for before, after in pairwise(waits)]
    for span, longest in zip(spans, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300], strict=True):
        assert longest / 2 <= span <= longest + 1e-6
    assert len({round(span, 6) for span in spans[8:]}) > 1, "not all beams at the same moment"


def test_while_it_waits_it_looks_every_second_whether_it_still_may(time: Time) -> None:
    looks: list[str] = []
    make(time, looks.append).sleep(10)
    assert sum(time.slept) == pytest.approx(10)
    assert max(time.slept) <= 1
    assert len(looks) >= 10


def test_a_beam_that_may_not_go_on_stops_waiting(time: Time) -> None:
    def pause(reason: str) -> None:
        if time.now > 1003:
            raise LeaseLostError("the lease has passed to another owner")

    with pytest.raises(LeaseLostError):
        make(time, pause).call("submitting", failing(*(ConnectError("away") for _ in range(100))))
    assert time.now < 1010
    with pytest.raises(LeaseLostError):
        make(time, pause).sleep(100)


def test_what_is_damaged_on_the_way_is_tried_six_times(time: Time) -> None:
    errors = [IntegrityError(f"damaged {number}") for number in range(6)]
    assert make(time).call("fetching", failing(*errors[:5])) == "done"
    with pytest.raises(IntegrityError, match="damaged 5"):
        make(time).call("fetching", failing(*errors))


def test_an_outage_between_does_not_use_up_the_tries(time: Time) -> None:
    mixed: list[BaseException] = []
    for number in range(5):
        mixed += [ConnectError("away"), ConnectError("away"), IntegrityError(f"damaged {number}")]
    assert make(time).call("fetching", failing(*mixed)) == "done"


@pytest.mark.parametrize(
    "error",
    [
        HostKeyError("another key"),
        AuthenticationError("not let in"),
        SubmitRejectedError("no such partition"),
        PathRejectedError("not ours"),
        ConfigurationError("wrong"),
        EngineError("no output"),
        ValueError("ours"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_person_has_to_mend_passes_at_once(time: Time, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        make(time).call("submitting", failing(error))
    assert raised.value is error
    assert time.slept == []


def test_people_are_told_once_of_each_reason_and_once_of_a_long_outage(
    time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [ConnectError("no route") for _ in range(20)] + [
        SchedulerUnavailableError("slurmctld is down")
    ] * 5
    make(time).call("submitting", failing(*errors))
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [text for level, text in told if level == "WARNING"] == [
        "submitting waits: no route",
        "submitting waits: slurmctld is down",
    ]
    (alarm,) = [text for level, text in told if level == "ERROR"]
    assert alarm.startswith("submitting has waited for 1")
    assert alarm.endswith("minutes: no route")


def test_a_short_outage_is_no_alarm(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    make(time).call("submitting", failing(*(ConnectError("away") for _ in range(5))))
    assert [record.levelname for record in caplog.records] == ["WARNING"]

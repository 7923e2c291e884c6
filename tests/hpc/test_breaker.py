"""A host that is away gets one try a while."""

from __future__ import annotations

import pytest

from mqi_dagster.errors import UnreachableError
from mqi_dagster.hpc.breaker import Breaker
from mqi_dagster.hpc.errors import ConnectError


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """Opens after three failures, for a minute."""
    return Breaker(3, 60.0, clock)


def is_open(breaker: Breaker) -> bool:
    try:
        breaker.check()
    except ConnectError:
        return True
    return False


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.failed()


def test_it_opens_after_some_failures_in_a_row(breaker: Breaker) -> None:
    fail(breaker, 2)
    assert not is_open(breaker)
    fail(breaker, 1)
    with pytest.raises(ConnectError, match=r"3 connections in a row have failed; the next try is in 60 s"):
        breaker.check()
    assert issubclass(ConnectError, UnreachableError), "whoever meets it waits"


def test_a_success_begins_the_count_anew(breaker: Breaker) -> None:
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)
    assert not is_open(breaker)


def test_after_its_time_one_try_is_let_through_and_the_others_wait_for_it(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, 3)
    clock.now += 59
    assert is_open(breaker)
    clock.now += 2
    assert [is_open(breaker) for _ in range(3)] == [False, True, True]
    breaker.succeeded()
    assert [is_open(breaker) for _ in range(3)] == [False, False, False]


def test_a_failed_try_opens_it_again_at_once(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 61
    assert not is_open(breaker)
    breaker.failed()
    clock.now += 59
    assert is_open(breaker)


def test_a_try_of_which_nothing_is_heard_does_not_open_it_for_ever(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 61
    assert not is_open(breaker)
    clock.now += 61
    assert not is_open(breaker)

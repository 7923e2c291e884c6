"""Waits double, and end at their limit."""

from __future__ import annotations

from mqi_dagster.backoff import Backoff


def test_each_wait_is_twice_the_one_before_up_to_the_longest() -> None:
    backoff = Backoff(2.0, 300.0)
    waits = [backoff.seconds(failures) for failures in range(1, 11)]
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0, 300.0]


def test_a_wait_without_a_limit_stays_a_number_however_often_something_fails() -> None:
    assert Backoff(1.0).seconds(100_000) == 2.0**40


def test_chance_shortens_a_wait_by_its_share_and_never_makes_it_longer() -> None:
    waits = {Backoff(8.0, jitter=0.5).seconds(1) for _ in range(200)}
    assert len(waits) > 100
    assert 4.0 <= min(waits) < 4.5 and 7.5 < max(waits) <= 8.0

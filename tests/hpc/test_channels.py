"""Channels at once: no more than wanted, fewer where the server says so, never none."""

from __future__ import annotations

import threading

import pytest

from mqi_dagster.hpc.channels import ChannelLimit
from mqi_dagster.hpc.errors import ConnectError


def test_no_more_are_open_than_wanted() -> None:
    channels, most, now = ChannelLimit(3), [0], [0]
    lock, full = threading.Lock(), threading.Event()

    def work() -> None:
        with channels.permit(20):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
                if now[0] == 3:
                    full.set()
            # The first ones stay until as many are open as may be.
            full.wait(20)
            with lock:
                now[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (most[0], now[0]) == (3, 0)


def test_who_gets_no_place_in_time_is_told() -> None:
    channels = ChannelLimit(1)
    with channels.permit(1), pytest.raises(ConnectError), channels.permit(0.05):
        pass
    with channels.permit(0):
        pass


def test_a_place_is_given_back_by_an_error_too() -> None:
    channels = ChannelLimit(1)
    with pytest.raises(ValueError, match="x"), channels.permit(1):
        raise ValueError("x")
    with channels.permit(0):
        pass


def test_a_refusal_lowers_the_limit_to_what_the_server_had_taken() -> None:
    channels = ChannelLimit(6)
    with channels.permit(1), channels.permit(1), channels.permit(1):
        channels.refused()
        assert channels.limit == 2
        with pytest.raises(ConnectError), channels.permit(0.01):
            pass
    with channels.permit(1):
        assert channels.limit == 2
        channels.refused()
        assert channels.limit == 1, "one is always tried"
        channels.refused()
        assert channels.limit == 1
    with channels.permit(0):
        pass


def test_a_refusal_never_raises_the_limit() -> None:
    channels = ChannelLimit(2)
    with channels.permit(1):
        channels.refused()
    assert channels.limit == 1


def test_the_limit_does_not_fall_below_what_the_server_has_granted_at_once() -> None:
    channels = ChannelLimit(6)
    with channels.permit(1), channels.granted(), channels.permit(1), channels.granted():
        pass
    with channels.permit(1), channels.permit(1):
        channels.refused()
        assert channels.limit == 2, "it frees a session a little late"


def test_a_refusal_does_not_take_back_what_was_granted_at_once() -> None:
    channels = ChannelLimit(6)
    with channels.permit(1), channels.granted(), channels.permit(1), channels.granted(), channels.permit(1):
        channels.refused()
    assert channels.limit == 2
    # A server that frees a session late.
    with channels.permit(1), channels.granted(), channels.permit(1):
        channels.refused()
    assert channels.limit == 2

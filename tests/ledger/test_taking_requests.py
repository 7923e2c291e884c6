"""Requests that several processes write down at once: one of them takes the launch upon itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from mqi_dagster.ledger.ledger import Ledger
from tests.ledger.ledger_doubles import Clock, Forked

KEY, ARRIVAL, FINGERPRINT = "S234567ABC.rules_ct", "a" * 32, "f" * 16
MINUTE = timedelta(minutes=1)


def take(ledger: Ledger, clock: Clock, fingerprint: str = FINGERPRINT) -> bool:
    return ledger.arrivals.take(ARRIVAL, KEY, fingerprint, "image_set", clock() + MINUTE)


def test_whoever_was_first_has_it_until_it_is_released_or_given_up(ledger: Ledger, clock: Clock) -> None:
    assert take(ledger, clock)
    assert not take(ledger, clock)
    ledger.arrivals.release(KEY)
    assert take(ledger, clock)
    clock.forward(120)
    assert take(ledger, clock), "its process may have died"
    ledger.arrivals.mark_requested(KEY, FINGERPRINT)
    (row,) = ledger.arrivals.all("image_set")
    assert (row.case, row.is_open, row.requested_fingerprint) == (KEY, False, FINGERPRINT)


def test_other_images_make_it_open_again(ledger: Ledger, clock: Clock) -> None:
    assert take(ledger, clock)
    ledger.arrivals.mark_requested(KEY, FINGERPRINT)
    assert take(ledger, clock, "0" * 16)
    (row,) = ledger.arrivals.all("image_set")
    assert row.is_open and row.fingerprint == "0" * 16


def test_of_processes_that_ask_at_once_one_takes_it(
    url: str, tmp_path: Path, fork: Callable[[Callable[[], None]], Forked]
) -> None:
    Ledger.open(url).close()
    begin = tmp_path / "begin"

    def ask(number: int) -> None:
        opened = Ledger.open(url)
        while not begin.exists():
            pass
        until = opened.database.clock() + MINUTE
        if opened.arrivals.take(ARRIVAL, KEY, FINGERPRINT, "image_set", until):
            (tmp_path / f"taken-{number}").touch()

    processes = [fork(lambda number=number: ask(number)) for number in range(6)]
    begin.touch()
    assert [process.wait() for process in processes] == [0] * 6
    assert len(list(tmp_path.glob("taken-*"))) == 1
    ledger = Ledger.open(url)
    assert len(ledger.arrivals.all("image_set")) == 1
    ledger.close()

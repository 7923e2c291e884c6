"""A request that comes twice is done once, also when both come together, and whoever dies in between."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from mqi_dagster.errors import AtWorkError, KeyReusedError
from mqi_dagster.ledger.idempotency import Answer
from mqi_dagster.ledger.ledger import Ledger
from tests.ledger.ledger_doubles import Clock, Forked


def ask(ledger: Ledger, request: str = "r1", key: str = "k", user: str = "anna", says: str = "done") -> str:
    """What the request is answered."""
    with ledger.idempotency.once(user, key, request) as taken:
        if taken.before is not None:
            return f"again {taken.before.status} {taken.before.body}"
        taken.answer = Answer(200, says)
        return says


def test_the_second_request_gets_the_answer_of_the_first(url: str, clock: Clock) -> None:
    ledger = Ledger.open(url, clock)
    assert (ask(ledger), ask(ledger, says="other")) == ("done", "again 200 done")
    assert ask(ledger, user="bert", says="of bert") == "of bert"
    assert ask(ledger, key="k2", says="another") == "another"
    with pytest.raises(KeyReusedError):
        ask(ledger, request="r2")
    clock.forward(24 * 3600)
    assert ask(ledger, request="r2", says="anew") == "anew"


def test_what_did_not_work_may_be_done_again(url: str, clock: Clock) -> None:
    ledger = Ledger.open(url, clock)
    with pytest.raises(RuntimeError), ledger.idempotency.once("anna", "k", "r1"):
        raise RuntimeError
    with ledger.idempotency.once("anna", "k", "r1"):
        pass
    assert ask(ledger) == "done"


def test_of_two_that_come_together_one_is_done(url: str, clock: Clock) -> None:
    ledger = Ledger.open(url, clock)
    begun, go_on = threading.Event(), threading.Event()
    answers: list[str] = []

    def first() -> None:
        with ledger.idempotency.once("anna", "k", "r1") as taken:
            begun.set()
            go_on.wait(60)
            taken.answer = Answer(200, "done")
            answers.append("done")

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(60)
    with pytest.raises(AtWorkError):
        ask(ledger)
    with pytest.raises(KeyReusedError):
        ask(ledger, request="r2")
    go_on.set()
    thread.join()
    assert (answers, ask(ledger)) == (["done"], "again 200 done")


def test_many_at_once_are_done_once(url: str, clock: Clock) -> None:
    ledger = Ledger.open(url, clock)
    done: list[str] = []
    together = threading.Barrier(4)

    def one() -> None:
        together.wait()
        try:
            with ledger.idempotency.once("anna", "k", "r1") as taken:
                if taken.before is None:
                    done.append("done")
                    taken.answer = Answer(200, "done")
        except AtWorkError:
            return

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == ["done"]


def test_what_a_dead_process_began_is_at_work_for_minutes_and_then_done_anew(
    url: str, clock: Clock, fork: Callable[[Callable[[], None]], Forked]
) -> None:
    ledger = Ledger.open(url, clock)

    def dies() -> None:
        with ledger.idempotency.once("anna", "k", "r1"):
            os._exit(9)

    assert fork(dies).wait() == 9
    with pytest.raises(AtWorkError):
        ask(ledger)
    clock.forward(timedelta(minutes=5).total_seconds())
    assert (ask(ledger), ask(ledger)) == ("done", "again 200 done")

"""Alarms, what is told of them, and how runs have ended, on every database."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from mqi_dagster.errors import InputError
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.outcomes import RunOutcome, RunVerdict

if TYPE_CHECKING:
    from tests.ledger.ledger_doubles import Clock, Forked

    Fork = Callable[[Callable[[], None]], Forked]

MINUTE = timedelta(minutes=1)


def told(ledger: Ledger, channel: str = "mail") -> list[tuple[str, str, str]]:
    """What a channel has to tell now: event, subject, text."""
    return [(one.event.value, one.subject, one.text) for one in ledger.notices.due(channel, 100)]


def test_an_alarm_is_open_once_until_it_is_cleared(ledger: Ledger, clock: Clock) -> None:
    began = clock.now
    first = ledger.alarms.raise_("beam_failed", "c1__b01", "the engine died", began)
    assert (first.kind, first.subject, first.text) == (AlarmKind.BEAM_FAILED, "c1__b01", "the engine died")
    clock.forward(60)
    again = ledger.alarms.raise_("beam_failed", "c1__b01", "died once more", clock.now)
    assert (again.id, again.count, again.first_at, again.last_at) == (first.id, 2, began, clock.now)
    ledger.alarms.raise_("case_failed", "c1", "no plan", began)
    assert [(alarm.subject, alarm.text) for alarm in ledger.alarms.open()] == [
        ("c1", "no plan"),
        ("c1__b01", "died once more"),
    ]
    assert ledger.alarms.clear("beam_failed", "c1__b01") is True
    assert ledger.alarms.clear("beam_failed", "c1__b01") is False
    assert [alarm.subject for alarm in ledger.alarms.open()] == ["c1"]
    fresh = ledger.alarms.raise_("beam_failed", "c1__b01", "and again", clock.now)
    assert fresh.id != first.id and fresh.count == 1
    assert len(ledger.alarms.all()) == 3


def test_the_same_event_twice_counts_once(ledger: Ledger, clock: Clock) -> None:
    for _ in range(3):
        alarm = ledger.alarms.raise_("beam_failed", "c1__b01", "died", clock.now)
    assert alarm.count == 1
    assert told(ledger) == []


def test_a_state_that_is_looked_at_again_and_again_is_one_raise(ledger: Ledger, clock: Clock) -> None:
    began = clock.now
    for _ in range(100):
        clock.forward(30)
        alarm = ledger.alarms.raise_("disk_full", "data", "4.0 GB free")
    assert alarm.count == 1
    assert alarm.last_at - began >= timedelta(minutes=40), "how long it has stood can be seen"
    assert ledger.alarms.raise_("disk_full", "data", "3.9 GB free").text == "3.9 GB free"


def test_a_person_dismisses_an_alarm_by_its_number(ledger: Ledger) -> None:
    alarm = ledger.alarms.raise_("beam_failed", "c1__b01", "died")
    assert ledger.alarms.dismiss(alarm.id).cleared_at is not None
    assert ledger.alarms.open() == []
    with pytest.raises(InputError, match="no open alarm has the number"):
        ledger.alarms.dismiss(alarm.id)


def test_many_who_raise_the_same_alarm_open_one(url: str, fork: Fork) -> None:
    Ledger.open(url).notices.channel("mail")
    start = multiprocessing.get_context("fork").Barrier(6)

    def work(number: int) -> None:
        own = Ledger.open(url)
        start.wait(120)
        own.alarms.raise_("cluster_away", "hpc", f"seen by {number}")

    children = [fork(functools.partial(work, number)) for number in range(6)]
    assert [child.wait() for child in children] == [0] * 6
    ledger = Ledger.open(url)
    assert len(ledger.alarms.all()) == 1
    assert len(ledger.notices.due("mail", 100)) == 1


def test_a_channel_tells_everything_in_order_and_goes_on_where_it_was(ledger: Ledger, clock: Clock) -> None:
    ledger.alarms.raise_("beam_failed", "before", "nobody was told anything then")
    assert told(ledger) == [], "a new channel does not tell what is long past"
    alarm = ledger.alarms.raise_("beam_failed", "c1__b01", "died")
    ledger.alarms.clear("beam_failed", "c1__b01")
    for _ in range(2):
        ledger.notices.record_conclusion("run1", "c1", "case c1 has concluded", clock.now)
    everything = [
        ("alarm_raised", "c1__b01", "died"),
        ("alarm_cleared", "c1__b01", "died"),
        ("case_concluded", "c1", "case c1 has concluded"),
    ]
    assert told(ledger) == everything
    assert told(ledger) == everything, "what was not taken is told again"
    first = ledger.notices.due("mail", 1)[0]
    clock.forward(5)
    ledger.notices.mark_notified("mail", first)
    assert told(ledger) == everything[1:]
    (row,) = [one for one in ledger.alarms.all() if one.id == alarm.id]
    assert row.notified_at == clock.now
    ledger.notices.mark_notified("mail", ledger.notices.due("mail", 3)[-1])
    ledger.notices.mark_notified("mail", first)
    assert told(ledger) == [], "a late word of an earlier notice changes nothing"


def test_channels_do_not_wait_for_each_other(ledger: Ledger) -> None:
    for channel in ("mail", "webhook"):
        ledger.notices.channel(channel)
    ledger.alarms.raise_("quota", "hpc", "full")
    ledger.notices.mark_notified("mail", ledger.notices.due("mail", 1)[0])
    assert told(ledger, "mail") == []
    assert told(ledger, "webhook") == [("alarm_raised", "hpc", "full")]


def test_a_receiver_that_is_away_is_left_alone_for_a_while(ledger: Ledger, clock: Clock) -> None:
    ledger.notices.channel("webhook")
    ledger.alarms.raise_("quota", "hpc", "full")
    since = clock.now
    ledger.notices.mark_failed("webhook", "connection refused", MINUTE)
    assert told(ledger, "webhook") == []
    clock.forward(61)
    assert len(told(ledger, "webhook")) == 1
    ledger.notices.mark_failed("webhook", "HTTP 500", 2 * MINUTE)
    (state,) = ledger.notices.channels()
    assert (state.tries, state.failing_since, state.failure) == (2, since, "HTTP 500")
    clock.forward(-3 * 86400)
    assert len(told(ledger, "webhook")) == 1, "a clock that was set back does not silence it"
    ledger.notices.mark_notified("webhook", ledger.notices.due("webhook", 1)[0])
    (state,) = ledger.notices.channels()
    assert (state.tries, state.failing_since, state.failure) == (0, None, "")


def outcome(run_id: str, clock: Clock, wait: float | None = None, **changes: object) -> RunOutcome:
    values: dict[str, object] = {
        "run_id": run_id,
        "job": "beam",
        "partition": "c1__b01",
        "verdict": RunVerdict.FAILED if wait is None else RunVerdict.RETRY,
        "code": "engine",
        "cause": "died",
        "ended_at": clock.now,
        "first_at": clock.now,
        "tries": 1,
        "next_try_at": None if wait is None else clock.now + timedelta(seconds=wait),
    }
    return RunOutcome(**{**values, **changes})  # type: ignore[arg-type]


def test_what_is_known_of_an_end_is_never_overwritten(ledger: Ledger, clock: Clock) -> None:
    first = ledger.outcomes.record(outcome("run1", clock))
    assert ledger.outcomes.record(outcome("run1", clock, cause="something later")) == first
    clock.forward(1)
    later = ledger.outcomes.record(outcome("run2", clock))
    assert ledger.outcomes.get_many(["run1", "run2", "run3"]) == {"run1": first, "run2": later}
    assert ledger.outcomes.get_many([]) == {}


def test_tries_are_due_in_their_order_and_settled_once(ledger: Ledger, clock: Clock) -> None:
    for run_id, wait in (("run1", 60.0), ("run2", 10.0), ("run3", None), ("run4", 7200.0)):
        ledger.outcomes.record(outcome(run_id, clock, wait))
    assert [one.run_id for one in ledger.outcomes.open_retries()] == ["run2", "run1", "run4"]
    assert ledger.outcomes.due_retries(10) == []
    clock.forward(61)
    assert [one.run_id for one in ledger.outcomes.due_retries(10)] == ["run2", "run1"]
    assert [one.run_id for one in ledger.outcomes.due_retries(1)] == ["run2"]
    ledger.outcomes.settle(["run2"])
    settled = ledger.outcomes.get_many(["run2"])["run2"].settled_at
    clock.forward(1)
    ledger.outcomes.settle(["run2", "run1"])
    assert ledger.outcomes.get_many(["run2"])["run2"].settled_at == settled
    assert [one.run_id for one in ledger.outcomes.open_retries()] == ["run4"]
    clock.forward(-2 * 86400)
    assert [one.run_id for one in ledger.outcomes.due_retries(10)] == ["run4"], (
        "nobody waits for a wrong clock"
    )

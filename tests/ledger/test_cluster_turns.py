"""Whose turn it is to look at a cluster: one at a time, and never nobody for long."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mqi_dagster.ledger.clusters import ClusterPoll
from mqi_dagster.ledger.leases import Lease, Need, Refusal
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.slots import Slot, SlotKind
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.ledger.ledger_doubles import Clock, Forked

    Fork = Callable[[Callable[[], None]], Forked]

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTE, NOTHING = timedelta(seconds=60), timedelta(0)


def take(ledger: Ledger, cluster: str = "hpc", hold: timedelta = MINUTE) -> ClusterPoll | None:
    return ledger.clusters.take_turn(cluster, shortest=timedelta(seconds=10), hold=hold)


def turn(ledger: Ledger) -> ClusterPoll:
    taken = take(ledger)
    assert taken is not None
    return taken


def end(ledger: Ledger, taken: ClusterPoll, seconds: float = 10, failure: str | None = None) -> None:
    span = timedelta(seconds=seconds)
    ledger.clusters.end_turn(taken, next_in=span, interval=span, failure=failure)


def look(ledger: Ledger) -> ClusterPoll:
    found = ledger.clusters.get("hpc")
    assert found is not None
    return found


def test_the_first_who_asks_has_the_turn_and_nobody_beside_him(ledger: Ledger) -> None:
    assert ledger.clusters.get("hpc") is None
    first = turn(ledger)
    assert (first.turn, first.interval_seconds, first.polling_until) == (1, 10, NOON + MINUTE)
    assert take(ledger) is None
    assert take(ledger, "other") is not None, "every cluster has a turn of its own"


def test_a_look_is_due_when_the_interval_is_over(ledger: Ledger, clock: Clock) -> None:
    end(ledger, turn(ledger), 15)
    found = look(ledger)
    assert (found.polled_at, found.interval_seconds, found.polling_until) == (NOON, 15, None)
    clock.forward(14)
    assert take(ledger) is None
    clock.forward(1)
    assert turn(ledger).turn == 2


def test_a_look_can_be_made_due_at_once_but_not_by_pushing_in(ledger: Ledger, clock: Clock) -> None:
    ledger.clusters.poll_soon("never-seen")
    taken = turn(ledger)
    ledger.clusters.poll_soon("hpc")
    assert take(ledger) is None, "somebody looks"
    end(ledger, taken, 1000)
    clock.forward(1)
    ledger.clusters.poll_soon("hpc")
    assert take(ledger) is not None


def test_the_turn_of_one_who_is_gone_passes_on_and_his_late_word_counts_no_more(
    ledger: Ledger, clock: Clock
) -> None:
    late = turn(ledger)
    clock.forward(59)
    assert take(ledger) is None
    clock.forward(2)
    second = turn(ledger)
    assert second.turn == late.turn + 1
    before = look(ledger)
    end(ledger, late, 1000, failure="late")
    assert look(ledger) == before
    assert take(ledger) is None, "the second one still looks"
    end(ledger, second)
    end(ledger, second, 1000, failure="twice")
    assert look(ledger).failure == "twice", "his own turn may be ended twice, nobody has it yet"


def test_who_has_seen_nothing_leaves_everything_as_it_was(ledger: Ledger, clock: Clock) -> None:
    end(ledger, turn(ledger), 15, failure="no route")
    before = look(ledger)
    clock.forward(15)
    first = turn(ledger)
    ledger.clusters.leave_turn(first)
    after = look(ledger)
    assert (after.failing_since, after.failure, after.polled_at) == (NOON, "no route", None)
    assert after.interval_seconds == before.interval_seconds
    second = turn(ledger)
    ledger.clusters.leave_turn(first)
    assert take(ledger) is None, "the turn has passed on"
    end(ledger, second)


def test_an_outage_is_told_from_its_beginning(ledger: Ledger, clock: Clock) -> None:
    end(ledger, turn(ledger))
    for number in range(3):
        clock.forward(10)
        end(ledger, turn(ledger), failure=f"no route {number}")
    found = look(ledger)
    assert (found.failing_since, found.failure) == (NOON + timedelta(seconds=10), "no route 2")
    assert found.polled_at == NOON, "the last answer"
    clock.forward(10)
    end(ledger, turn(ledger))
    found = look(ledger)
    assert (found.failing_since, found.failure, found.polled_at) == (None, "", NOON + timedelta(seconds=40))


@pytest.mark.parametrize("back", [400, 3600, 86_400 * 365])
def test_a_clock_that_was_set_back_stops_nobody(ledger: Ledger, clock: Clock, back: float) -> None:
    end(ledger, turn(ledger))
    clock.forward(-back)
    late = turn(ledger)
    clock.forward(-back)
    second = turn(ledger)
    end(ledger, late, failure="late")
    assert (look(ledger).turn, look(ledger).failure) == (second.turn, "")


def test_clocks_that_differ_a_little_do_not_let_two_look_at_once(ledger: Ledger, clock: Clock) -> None:
    taken = turn(ledger)
    clock.forward(-200)
    assert take(ledger) is None
    clock.forward(200)
    end(ledger, taken, 30)
    clock.forward(-200)
    assert take(ledger) is None


def test_a_long_interval_is_kept(ledger: Ledger, clock: Clock) -> None:
    end(ledger, turn(ledger), 7200)
    clock.forward(1)
    assert take(ledger) is None


def test_what_our_folders_take_is_remembered(ledger: Ledger, clock: Clock) -> None:
    end(ledger, turn(ledger))
    clock.forward(5)
    ledger.clusters.record_usage("hpc", 5e9)
    assert (look(ledger).used_bytes, look(ledger).measured_at) == (5e9, NOON + timedelta(seconds=5))
    clock.forward(5)
    end(ledger, turn(ledger))
    assert look(ledger).used_bytes == 5e9


def test_of_many_threads_only_one_looks(ledger: Ledger) -> None:
    start = threading.Barrier(8)
    taken: list[ClusterPoll | None] = []

    def ask() -> None:
        start.wait(10)
        taken.append(take(ledger))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(taken) == 8
    assert [one.turn for one in taken if one is not None] == [1]


def _look_twice(url: str, me: int, start: Barrier, events: Path) -> None:
    ledger = Ledger.open(url)
    start.wait(120)
    with events.open("w") as stream:
        for _ in range(2):
            taken = wait_for(lambda: take(ledger), "a turn")
            assert taken is not None
            stream.write(f"{time.monotonic_ns()} begin {taken.turn}\n")
            # The others ask meanwhile.
            ledger.jobs.all("hpc")
            stream.write(f"{time.monotonic_ns()} end {taken.turn}\n")
            ledger.clusters.end_turn(taken, next_in=NOTHING, interval=NOTHING)


def test_eight_processes_never_look_at_once(url: str, fork: Fork, tmp_path: Path) -> None:
    Ledger.open(url).close()
    start = multiprocessing.get_context("fork").Barrier(8)
    children = [
        fork(functools.partial(_look_twice, url, me, start, tmp_path / f"events{me}")) for me in range(8)
    ]
    assert [child.wait() for child in children] == [0] * 8
    events = sorted(
        (int(moment), kind, int(number))
        for path in tmp_path.glob("events*")
        for moment, kind, number in (line.split() for line in path.read_text().splitlines())
    )
    assert [(kind, number) for _, kind, number in events] == [
        (kind, number) for number in range(1, 17) for kind in ("begin", "end")
    ]


def test_a_killed_looker_holds_the_turn_no_longer_than_agreed(url: str, fork: Fork, tmp_path: Path) -> None:
    ledger = Ledger.open(url)

    def hold() -> None:
        take(Ledger.open(url), hold=timedelta(seconds=0.3))
        (tmp_path / "held").touch()
        time.sleep(60)

    holder = fork(hold)
    wait_for((tmp_path / "held").exists, "the turn is held")
    os.kill(holder.pid, signal.SIGKILL)
    assert holder.wait() == -9
    taken = wait_for(lambda: take(ledger, hold=timedelta(seconds=0.3)), "the turn of the dead one")
    assert taken is not None and taken.turn == 2


def _acquire(ledger: Ledger, owner: str, finished: str | None = None, beam: str = "b1") -> Lease | Refusal:
    return ledger.leases.acquire(
        beam, owner, Need(SlotKind.GPU, "hpc"), stale_after=MINUTE, finished_owner=finished
    )


@pytest.fixture
def held(ledger: Ledger) -> Lease:
    """The lease of a run whose job is on the cluster."""
    ledger.slots.declare("hpc", [Slot(SlotKind.GPU, index) for index in range(2)])
    taken = _acquire(ledger, "run1")
    assert isinstance(taken, Lease)
    return ledger.leases.set_job(taken, "hpc", "100")


def test_what_an_ended_run_has_held_passes_on_at_once_with_its_job(ledger: Ledger, held: Lease) -> None:
    assert _acquire(ledger, "run2") == Refusal("run run1 is at work on it", at_work=True)
    taken = _acquire(ledger, "run2", finished="run1")
    assert isinstance(taken, Lease)
    assert (taken.owner, taken.slots, taken.token) == ("run2", held.slots, held.token + 1)
    assert (taken.executor, taken.job_id) == ("hpc", "100")
    assert not ledger.leases.release(held), "the ended run has no right to it any more"


def test_only_the_lease_of_the_ended_run_passes_on(ledger: Ledger, held: Lease) -> None:
    assert _acquire(ledger, "run3", finished="run2") == Refusal("run run1 is at work on it", at_work=True)
    other = _acquire(ledger, "run3", finished="run1", beam="b2")
    assert isinstance(other, Lease)
    assert other.slots != held.slots, "another beam's lease is not touched"
    assert ledger.leases.get("b1") == held

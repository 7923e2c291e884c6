"""Slots and leases: one beam a slot, one slot a beam, whatever happens to their owners."""

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

from mqi_dagster.errors import ConfigurationError, InfrastructureError, LeaseLostError
from mqi_dagster.ledger.leases import AtOnce, Lease, LeaseKeeper, Need, Refusal
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.slots import Slot, SlotKind
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.ledger.ledger_doubles import Clock, Forked

    Fork = Callable[[Callable[[], None]], Forked]

MINUTE = timedelta(seconds=60)
CPU, GPU = Need(SlotKind.CPU), Need(SlotKind.GPU)


def _cpus(count: int) -> list[Slot]:
    return [Slot(SlotKind.CPU, index) for index in range(count)]


def _lease(found: Lease | Refusal) -> Lease:
    assert isinstance(found, Lease), found
    return found


def _index(lease: Lease) -> int:
    (slot,) = lease.slots
    return slot.index


def _take(ledger: Ledger, beam: str, owner: str) -> Lease | Refusal:
    return ledger.leases.acquire(beam, owner, CPU, stale_after=MINUTE)


def test_slots_are_declared_again_without_touching_leases(ledger: Ledger) -> None:
    ledger.slots.declare(
        "here", [Slot(SlotKind.GPU, 0, "GPU-a", 24000), Slot(SlotKind.GPU, 1, "GPU-b", 24000)]
    )
    ledger.slots.declare("there", _cpus(1))
    lease = _lease(ledger.leases.acquire("b1", "run1", GPU, stale_after=MINUTE))
    assert [(slot.uuid, slot.index, slot.memory_mb) for slot in lease.slots] == [("GPU-a", 0, 24000)]
    assert (lease.kind, lease.name) == (SlotKind.GPU, "here/gpu0")
    ledger.slots.declare("here", [Slot(SlotKind.CPU, 0)])
    assert [(slot.host, slot.kind, slot.index, slot.in_service) for slot in ledger.slots.all()] == [
        ("here", "cpu", 0, True),
        ("here", "gpu", 0, False),
        ("there", "cpu", 0, True),
    ]
    assert ledger.leases.get("b1") == lease
    assert ledger.leases.release(lease)
    assert ledger.leases.acquire("b2", "run2", GPU, stale_after=MINUTE) == Refusal(
        "no free slot: 1 not there any more: gpu0"
    )
    ledger.slots.declare("here", [Slot(SlotKind.CPU, 0)])
    assert [(slot.host, slot.kind) for slot in ledger.slots.all()] == [("here", "cpu"), ("there", "cpu")]
    with pytest.raises(ConfigurationError):
        ledger.slots.declare("here", [Slot(SlotKind.CPU, 0), Slot(SlotKind.CPU, 0)])


def test_a_beam_has_one_lease_and_a_slot_one_beam(ledger: Ledger) -> None:
    ledger.slots.declare("here", _cpus(2))
    first = _lease(_take(ledger, "b1", "run1"))
    assert _lease(_take(ledger, "b1", "run1")).token == first.token, "the same owner gets it again"
    assert _take(ledger, "b1", "run2") == Refusal("run run1 is at work on it", at_work=True)
    second = _lease(_take(ledger, "b2", "run2"))
    assert {_index(first), _index(second)} == {0, 1}
    assert _take(ledger, "b3", "run3") == Refusal("no free slot: 2 leased")
    assert ledger.leases.release(first)
    assert not ledger.leases.release(first), "what is free is not freed again"
    assert _index(_lease(_take(ledger, "b3", "run3"))) == _index(first)


def test_only_slots_of_the_wanted_kind_and_host_are_given(ledger: Ledger) -> None:
    ledger.slots.declare("here", [Slot(SlotKind.CPU, 0), Slot(SlotKind.CPU, 1, in_service=False)])
    ledger.slots.declare("there", [Slot(SlotKind.GPU, 0)])
    nothing = ledger.leases.acquire("b1", "run1", Need(SlotKind.GPU, "here"), stale_after=MINUTE)
    assert nothing == Refusal("no free slot: there is none")
    assert _lease(ledger.leases.acquire("b1", "run1", GPU, stale_after=MINUTE)).host == "there"
    assert _index(_lease(_take(ledger, "b2", "run2"))) == 0
    assert _take(ledger, "b3", "run3") == Refusal("no free slot: 1 leased; 1 not there any more: cpu1")


def test_a_stale_lease_of_the_same_beam_passes_on_with_its_job(ledger: Ledger, clock: Clock) -> None:
    ledger.slots.declare("here", _cpus(1))
    old = _lease(_take(ledger, "b1", "run1"))
    old = ledger.leases.set_job(old, "slurm", "4711")
    clock.forward(59)
    assert isinstance(_take(ledger, "b1", "run2"), Refusal)
    clock.forward(2)
    new = _lease(_take(ledger, "b1", "run2"))
    assert (new.owner, new.token, new.executor, new.job_id) == ("run2", old.token + 1, "slurm", "4711")
    for late in (ledger.leases.renew, lambda lease: ledger.leases.set_job(lease, "slurm", "1")):
        with pytest.raises(LeaseLostError):
            late(old)
    assert not ledger.leases.release(old)
    assert ledger.leases.get("b1") == new


def test_a_renewed_lease_does_not_become_stale(ledger: Ledger, clock: Clock) -> None:
    ledger.slots.declare("here", _cpus(1))
    lease = _lease(_take(ledger, "b1", "run1"))
    for _ in range(4):
        clock.forward(40)
        ledger.leases.renew(lease)
    assert isinstance(_take(ledger, "b1", "run2"), Refusal)


def test_a_heartbeat_from_the_future_does_not_hold_a_slot_for_ever(ledger: Ledger, clock: Clock) -> None:
    ledger.slots.declare("here", _cpus(1))
    _take(ledger, "b1", "run1")
    clock.forward(-7200)
    assert _lease(_take(ledger, "b1", "run2")).owner == "run2"


def test_a_stale_lease_of_another_beam_is_freed_by_nobody_but_who_confirms_its_end(
    ledger: Ledger, clock: Clock
) -> None:
    ledger.slots.declare("here", _cpus(1))
    dead = ledger.leases.set_job(_lease(_take(ledger, "b1", "run1")), "local", "1:1")
    clock.forward(61)
    assert _take(ledger, "b2", "run2") == Refusal("no free slot: 1 leased")
    assert ledger.leases.get("b1") == dead
    assert ledger.leases.release(dead, unless_renewed=True)
    got = _lease(_take(ledger, "b2", "run2"))
    assert (got.token, got.job_id) == (dead.token + 1, None)
    with pytest.raises(LeaseLostError):
        ledger.leases.renew(dead)


def test_an_owner_that_wakes_up_while_its_job_is_asked_about_keeps_its_lease(
    ledger: Ledger, clock: Clock
) -> None:
    ledger.slots.declare("here", _cpus(1))
    stale = _lease(_take(ledger, "b1", "run1"))
    clock.forward(61)
    awake = ledger.leases.renew(stale)
    assert not ledger.leases.release(stale, unless_renewed=True)
    assert ledger.leases.get("b1") == awake


def _hold_three_times(url: str, me: int, start: Barrier, events: Path) -> None:
    ledger = Ledger.open(url)

    def taken() -> Lease | None:
        answer = _take(ledger, f"beam{me}", f"run{me}")
        return answer if isinstance(answer, Lease) else None

    start.wait(120)
    with events.open("w") as stream:
        for _ in range(3):
            lease = _lease(wait_for(taken, "a slot"))
            stream.write(f"{time.monotonic_ns()} take {_index(lease)}\n")
            for _ in range(3):
                lease = ledger.leases.renew(lease)
            stream.write(f"{time.monotonic_ns()} give {_index(lease)}\n")
            assert ledger.leases.release(lease)


def test_eight_processes_never_share_three_slots(url: str, fork: Fork, tmp_path: Path) -> None:
    Ledger.open(url).slots.declare("here", _cpus(3))
    start = multiprocessing.get_context("fork").Barrier(8)
    children = [
        fork(functools.partial(_hold_three_times, url, me, start, tmp_path / f"events{me}"))
        for me in range(8)
    ]
    assert [child.wait() for child in children] == [0] * 8
    events = sorted(
        (int(moment), kind, int(index))
        for path in tmp_path.glob("events*")
        for moment, kind, index in (line.split() for line in path.read_text().splitlines())
    )
    assert len(events) == 8 * 3 * 2
    busy: set[int] = set()
    for _, kind, index in events:
        assert (index in busy) == (kind == "give"), "two beams in one slot"
        busy ^= {index}


def test_a_killed_holder_loses_its_lease_after_it_went_stale(url: str, fork: Fork, tmp_path: Path) -> None:
    passed = multiprocessing.get_context("fork").Value("d", 0.0)

    def clock() -> datetime:
        return datetime(2026, 3, 1, 12, 0, tzinfo=UTC) + timedelta(seconds=passed.value)

    ledger = Ledger.open(url, clock=clock)
    ledger.slots.declare("here", _cpus(1))

    def hold() -> None:
        own = Ledger.open(url, clock=clock)
        with LeaseKeeper(own.leases, _lease(_take(own, "b1", "run1")), every=timedelta(seconds=0.02)):
            (tmp_path / "held").touch()
            time.sleep(60)

    holder = fork(hold)
    wait_for((tmp_path / "held").exists, "the lease is held")
    passed.value = 100.0
    wait_for(lambda: _lease(ledger.leases.get("b1")).heartbeat_at == clock(), "a heartbeat")
    assert isinstance(_take(ledger, "b1", "run2"), Refusal), "kept alive"
    os.kill(holder.pid, signal.SIGKILL)
    assert holder.wait() == -9
    passed.value = 160.0
    assert isinstance(_take(ledger, "b1", "run2"), Refusal), "not before it was stale"
    passed.value = 160.001
    found = _lease(_take(ledger, "b1", "run2"))
    assert (found.owner, found.token) == ("run2", 2)


def test_the_keeper_says_when_the_lease_has_passed_on(ledger: Ledger, clock: Clock) -> None:
    ledger.slots.declare("here", _cpus(1))
    lease = _lease(_take(ledger, "b1", "run1"))
    with LeaseKeeper(ledger.leases, lease, every=timedelta(seconds=0.02)) as keeper:
        clock.forward(60)
        wait_for(lambda: _lease(ledger.leases.get("b1")).heartbeat_at == clock.now, "a heartbeat")
        keeper.check()
        ledger.leases.release(lease)
        wait_for(keeper.lost.is_set, "the loss is seen")
        with pytest.raises(LeaseLostError):
            keeper.check()


@pytest.mark.parametrize("taken", [False, True], ids=["still held", "taken meanwhile"])
def test_after_an_outage_the_keeper_goes_on_or_says_that_the_lease_is_lost(
    ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    ledger.slots.declare("here", _cpus(1))
    lease = _lease(_take(ledger, "b1", "run1"))
    asked = threading.Event()

    def away(_lease: Lease) -> Lease:
        asked.set()
        raise InfrastructureError("the ledger's database failed: gone")

    with LeaseKeeper(ledger.leases, lease, every=timedelta(seconds=0.02)) as keeper:
        with monkeypatch.context() as outage:
            outage.setattr(ledger.leases, "renew", away)
            wait_for(asked.is_set, "a heartbeat in vain")
            clock.forward(3600)
            assert not keeper.lost.is_set(), "an outage alone takes no lease"
            if taken:
                assert _lease(_take(ledger, "b1", "run2")).token == 2
        if taken:
            wait_for(keeper.lost.is_set, "the loss is seen")
            return
        wait_for(lambda: _lease(ledger.leases.get("b1")).heartbeat_at >= clock.now, "a heartbeat")
        keeper.check()


def test_partitions_of_a_kind_have_no_more_leases_than_the_setting_says(ledger: Ledger) -> None:
    ledger.slots.declare("here", _cpus(3))
    limited = Need(SlotKind.CPU, at_once=AtOnce(1, lambda key: key.startswith("c"), "a.setting"))

    def ask(partition: str, need: Need) -> Lease | Refusal:
        return ledger.leases.acquire(partition, f"run {partition}", need, stale_after=MINUTE, wait=MINUTE)

    first = _lease(ask("c1", limited))
    assert ask("c2", limited) == Refusal("1 of its kind are at work (a.setting)")
    assert _lease(ask("c1", limited)).token == first.token
    # What waits for others of its kind stands in nobody's way.
    assert [_index(_lease(ask(beam, CPU))) for beam in ("b1", "b2")] == [1, 2]
    assert ledger.leases.release(first)
    assert _index(_lease(ask("c2", limited))) == 0

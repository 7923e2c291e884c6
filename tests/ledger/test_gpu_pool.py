"""The pool: several slots a beam, switches, looks at the GPUs, and who comes first."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import sqlalchemy

from mqi_dagster.errors import ConfigurationError, InfrastructureError, LeaseLostError
from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.ledger.leases import Lease, Need, Refusal
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.slots import Slot, SlotKind
from tests.ledger.ledger_rows import waiting

if TYPE_CHECKING:
    from tests.ledger.ledger_doubles import Clock

MINUTE = timedelta(seconds=60)
WAIT = timedelta(seconds=20)
LOOK = timedelta(seconds=30)


def gpu(index: int, uuid: str = "", memory_mb: int = 24000) -> Slot:
    return Slot(SlotKind.GPU, index, uuid or f"GPU-{index}", memory_mb)


def need(count: int = 1, memory_mb: int = 0) -> Need:
    return Need(SlotKind.GPU, "here", count, memory_mb, LOOK)


def ask(
    ledger: Ledger, beam: str, what: Need | None = None, *, priority: int = 0, wait: timedelta | None = WAIT
) -> Lease | Refusal:
    return ledger.leases.acquire(
        beam, f"run of {beam}", what or need(), stale_after=MINUTE, priority=priority, wait=wait
    )


def lease(found: Lease | Refusal) -> Lease:
    assert isinstance(found, Lease), found
    return found


def seen(clock: Clock, index: int, **values: object) -> GpuUsage:
    content: dict[str, object] = {
        "host": "here",
        "index": index,
        "uuid": f"GPU-{index}",
        "name": "RTX A5000",
        "memory_mb": 24000,
        "used_mb": 10,
        "utilisation_percent": 0,
        "temperature_c": 41,
        "sm_clock_mhz": 210,
        "memory_clock_mhz": 405,
        "foreign_processes": 0,
        "seen_at": clock.now,
    }
    return GpuUsage(**{**content, **values})  # type: ignore[arg-type]


@pytest.fixture
def three(ledger: Ledger) -> Ledger:
    """A ledger with three GPUs."""
    ledger.slots.declare("here", [gpu(0), gpu(1), gpu(2)])
    return ledger


def test_a_beam_has_all_the_gpus_it_needs_or_none(three: Ledger) -> None:
    both = lease(ask(three, "b1", need(2)))
    assert [(slot.index, slot.uuid) for slot in both.slots] == [(0, "GPU-0"), (1, "GPU-1")]
    assert both.name == "here/gpu0+1"
    assert ask(three, "b2", need(2), wait=None) == Refusal(
        "no free slot: 2 leased; 1 of the 2 that are needed are free"
    )
    assert [held.partition for held in three.leases.all()] == ["b1"], "no part of b2 stays behind"
    assert lease(ask(three, "b3", need(1))).slots[0].index == 2
    assert three.leases.release(both)
    assert lease(ask(three, "b2", need(2))).slots == both.slots
    assert lease(ask(three, "b2", need(2))).token == both.token + 1


def test_the_gpus_of_a_beam_are_of_one_host(ledger: Ledger) -> None:
    ledger.slots.declare("here", [gpu(0)])
    ledger.slots.declare("there", [gpu(0), gpu(1)])
    anywhere = Need(SlotKind.GPU, None, 2)
    assert lease(ask(ledger, "b1", anywhere)).name == "there/gpu0+1"
    assert isinstance(ask(ledger, "b2", anywhere), Refusal)


def test_all_gpus_of_a_beam_pass_on_and_are_freed_together(three: Ledger, clock: Clock) -> None:
    old = three.leases.set_job(lease(ask(three, "b1", need(3))), "local", "7:7")
    clock.forward(61)
    new = lease(three.leases.acquire("b1", "run2", need(3), stale_after=MINUTE))
    assert (new.slots, new.token, new.job_id) == (old.slots, old.token + 1, "7:7")
    with pytest.raises(LeaseLostError):
        three.leases.renew(old)
    assert not three.leases.release(old)
    assert three.leases.release(new)
    assert three.leases.all() == []


def test_the_database_itself_refuses_a_second_lease_of_a_part(three: Ledger, url: str) -> None:
    ask(three, "b1")
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
    with pytest.raises(sqlalchemy.exc.IntegrityError), engine.begin() as connection:
        connection.exec_driver_sql("UPDATE mqi_slot SET partition = 'b1', part = 0 WHERE slot_index = 1")


def test_a_gpu_that_is_switched_off_is_not_given_until_it_is_switched_on(three: Ledger) -> None:
    held = lease(ask(three, "b1"))
    for index, reason in ((0, "fan broken"), (1, "in use for training")):
        three.slots.switch_off("here", "gpu", index, reason)
    assert three.leases.get("b1") == held, "who holds it keeps it to the end"
    assert lease(ask(three, "b2")).slots[0].index == 2
    three.leases.release(held)
    assert ask(three, "b3", wait=None) == Refusal(
        "no free slot: 1 switched off (fan broken): gpu0;"
        " 1 switched off (in use for training): gpu1; 1 leased"
    )
    three.slots.declare("here", [gpu(0), gpu(1), gpu(2)])
    assert [slot.usable for slot in three.slots.all()] == [False, False, True], "a declaration turns none on"
    three.slots.switch_on("here", "gpu", 1)
    assert lease(ask(three, "b3")).slots[0].index == 1
    with pytest.raises(ConfigurationError, match="here/gpu7"):
        three.slots.switch_off("here", "gpu", 7, "?")


def test_a_switched_off_gpu_that_vanishes_and_comes_back_is_still_off(three: Ledger) -> None:
    three.slots.switch_off("here", "gpu", 1, "falls off the bus")
    three.slots.declare("here", [gpu(0), gpu(2)])
    assert [(slot.index, slot.in_service) for slot in three.slots.all()] == [(0, True), (1, False), (2, True)]
    three.slots.declare("here", [gpu(0), gpu(1), gpu(2)])
    (back,) = (slot for slot in three.slots.all() if slot.index == 1)
    assert (back.in_service, back.usable, back.switched_off_reason) == (True, False, "falls off the bus")


def test_switch_and_lease_follow_the_gpu_and_not_its_index(three: Ledger) -> None:
    for beam in ("b0", "b1"):
        ask(three, beam)
    three.leases.release(lease(ask(three, "b0")))
    three.slots.switch_off("here", "gpu", 2, "noisy")
    # GPU-0 is gone, so NVML counts the others from 0.
    renamed = [gpu(0, "GPU-1"), gpu(1, "GPU-2")]
    three.slots.declare("here", renamed)
    states = [(s.index, s.uuid, s.in_service, s.switched_off_reason) for s in three.slots.all()]
    # GPU-1 is leased as index 1: it is not offered a second time as index 0.
    assert states == [(1, "GPU-1", False, None), (2, "GPU-2", False, "noisy")]
    held = three.leases.get("b1")
    assert held is not None and held.slots[0].uuid == "GPU-1"
    three.leases.release(held)
    three.slots.declare("here", renamed)
    states = [(s.index, s.uuid, s.in_service, s.switched_off_reason) for s in three.slots.all()]
    assert states == [(0, "GPU-1", True, None), (1, "GPU-2", True, "noisy")]


def test_the_switch_of_an_absent_gpu_outlasts_another_one_with_its_index(three: Ledger) -> None:
    three.slots.switch_off("here", "gpu", 0, "dying")
    three.slots.declare("here", [gpu(0, "GPU-1"), gpu(1, "GPU-2")])
    assert [(s.index, s.uuid, s.usable) for s in three.slots.all()] == [
        (0, "GPU-1", True),
        (1, "GPU-2", True),
        (1000, "GPU-0", False),
    ]
    three.slots.declare("here", [gpu(0), gpu(1), gpu(2)])
    assert [(s.index, s.uuid, s.switched_off_reason) for s in three.slots.all()] == [
        (0, "GPU-0", "dying"),
        (1, "GPU-1", None),
        (2, "GPU-2", None),
    ]


def test_one_gpu_is_not_declared_twice(ledger: Ledger) -> None:
    with pytest.raises(ConfigurationError):
        ledger.slots.declare("here", [gpu(0, "GPU-a"), gpu(1, "GPU-a")])


def test_what_was_seen_is_kept_by_uuid_and_forgotten_after_a_week(ledger: Ledger, clock: Clock) -> None:
    ledger.gpus.record("here", [seen(clock, 0), seen(clock, 1, utilisation_percent=None)])
    first = clock.now
    clock.forward(60)
    moved = seen(clock, 0, uuid="GPU-1", used_mb=900)
    ledger.gpus.record("here", [moved])
    assert ledger.gpus.all() == [seen(clock, 0, seen_at=first), moved]
    with pytest.raises(InfrastructureError):
        ledger.gpus.record("there", [moved])
    clock.forward(8 * 86400)
    ledger.gpus.record("here", [seen(clock, 0)])
    assert ledger.gpus.all() == [seen(clock, 0)]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"foreign_processes": 2}, "1 with a foreign process: gpu0"),
        ({"used_mb": 20000}, "1 with less than 8000 MB free: gpu0"),
        ({"memory_mb": None}, "1 of unknown memory: gpu0"),
    ],
)
def test_a_gpu_that_a_fresh_look_shows_in_use_is_not_free(
    ledger: Ledger, clock: Clock, values: dict[str, object], why: str
) -> None:
    ledger.slots.declare("here", [gpu(0)])
    ledger.gpus.record("here", [seen(clock, 0, **values)])
    assert ask(ledger, "b1", need(1, 8000)) == Refusal(f"no free slot: {why}", by_sample=True)
    assert [(one.partition, one.reason) for one in waiting(ledger)] == [("b1", f"no free slot: {why}")]
    clock.forward(29)
    assert isinstance(ask(ledger, "b1", need(1, 8000)), Refusal)
    clock.forward(2)
    assert isinstance(ask(ledger, "b1", need(1, 8000)), Lease), "an old look does not decide"


def test_memory_counts_only_for_an_engine_that_names_its_need(ledger: Ledger, clock: Clock) -> None:
    ledger.slots.declare("here", [gpu(0)])
    ledger.gpus.record("here", [seen(clock, 0, used_mb=23990)])
    assert isinstance(ask(ledger, "b1"), Lease)


def test_the_most_urgent_beam_is_next_and_then_who_has_waited_longest(ledger: Ledger, clock: Clock) -> None:
    ledger.slots.declare("here", [gpu(0)])
    holder = lease(ask(ledger, "holder"))
    for beam, priority in (("first", 0), ("second", 0), ("urgent", 5)):
        clock.forward(1)
        assert isinstance(ask(ledger, beam, priority=priority), Refusal)
    assert [one.partition for one in waiting(ledger)] == ["urgent", "first", "second"]
    ledger.leases.release(holder)
    for beam in ("second", "first", "new"):
        refused = ask(ledger, beam, wait=WAIT if beam != "new" else None)
        assert isinstance(refused, Refusal) and "more urgent or earlier" in refused.reason
    for beam, priority in (("urgent", 5), ("first", 0), ("second", 0)):
        ledger.leases.release(lease(ask(ledger, beam, priority=priority)))
    assert waiting(ledger) == []
    assert isinstance(ask(ledger, "new"), Lease)


def test_a_beam_that_becomes_urgent_while_it_waits_overtakes(ledger: Ledger, clock: Clock) -> None:
    ledger.slots.declare("here", [gpu(0)])
    holder = lease(ask(ledger, "holder"))
    for beam in ("first", "second"):
        clock.forward(1)
        ask(ledger, beam)
    ask(ledger, "second", priority=3)
    ledger.leases.release(holder)
    assert isinstance(ask(ledger, "first"), Refusal)
    assert isinstance(ask(ledger, "second", priority=3), Lease)


def test_who_waits_holds_back_only_as_many_slots_as_it_needs(three: Ledger) -> None:
    held = [lease(ask(three, f"b{index}")) for index in range(3)]
    assert isinstance(ask(three, "waiting"), Refusal)
    for one in held[:2]:
        three.leases.release(one)
    assert isinstance(ask(three, "other"), Lease)


def test_a_run_that_is_gone_does_not_hold_others_back(ledger: Ledger, clock: Clock) -> None:
    ledger.slots.declare("here", [gpu(0)])
    holder = lease(ask(ledger, "holder"))
    ask(ledger, "killed", priority=9)
    ask(ledger, "cancelled", priority=9)
    ledger.leases.stop_waiting("cancelled", "run of cancelled")
    ledger.leases.release(holder)
    assert isinstance(ask(ledger, "b1"), Refusal)
    clock.forward(21)
    assert isinstance(ask(ledger, "b1"), Lease)


def test_a_clock_that_was_set_back_holds_nobody_back_for_long(ledger: Ledger, clock: Clock) -> None:
    ledger.slots.declare("here", [gpu(0)])
    holder = lease(ask(ledger, "holder"))
    ask(ledger, "killed", priority=9)
    clock.forward(-7200)
    ledger.leases.release(holder)
    assert isinstance(ask(ledger, "b1"), Lease)


def test_the_limit_of_a_person_is_kept_until_it_is_taken_back(ledger: Ledger) -> None:
    assert ledger.slots.pool_limit("gpu") is None
    ledger.slots.set_pool_limit("gpu", 3)
    ledger.slots.set_pool_limit("gpu", 2)
    assert ledger.slots.pool_limit("gpu") == 2
    ledger.slots.set_pool_limit("gpu", None)
    assert ledger.slots.pool_limit("gpu") is None

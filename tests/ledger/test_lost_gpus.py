"""A GPU that should be there and is not stays known: beams wait for it by name, and nothing gets it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.ledger.leases import Lease, Need, Refusal
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.slots import Slot, SlotKind

if TYPE_CHECKING:
    from tests.ledger.ledger_doubles import Clock

MINUTE = timedelta(seconds=60)
NEED = Need(SlotKind.GPU, "here", max_sample_age=timedelta(seconds=30))


def gpu(index: int, uuid: str, *, there: bool = True) -> Slot:
    return Slot(SlotKind.GPU, index, uuid, 24000, there)


def look(clock: Clock, index: int, uuid: str) -> GpuUsage:
    return GpuUsage("here", index, uuid, "A5000", 24000, 10, 0, 41, 210, 405, 0, clock.now)


def ask(ledger: Ledger, beam: str) -> Lease | Refusal:
    return ledger.leases.acquire(beam, f"run of {beam}", NEED, stale_after=MINUTE)


def stand(ledger: Ledger) -> list[tuple[int, str, bool, bool]]:
    return [(slot.index, slot.uuid, slot.usable, slot.lost) for slot in ledger.slots.all()]


def test_a_beam_that_waits_for_lost_gpus_names_them_and_says_what_to_do(ledger: Ledger, clock: Clock) -> None:
    ledger.slots.declare("here", [gpu(0, "GPU-a"), gpu(1, "GPU-b")])
    ledger.gpus.record("here", [look(clock, 0, "GPU-a")])
    clock.forward(3600)
    ledger.slots.declare("here", [gpu(0, "GPU-a", there=False), gpu(1, "GPU-b", there=False)])
    assert ask(ledger, "b1") == Refusal(
        "no free slot: 1 not seen since 2026-03-01 12:00 UTC: gpu0 (GPU-a);"
        " 1 not there any more: gpu1 (GPU-b)."
        " Does its driver run (nvidia-smi)? One that is gone for good: `mqi gpu off`",
        by_sample=True,
    )
    ledger.slots.declare("here", [gpu(0, "GPU-a"), gpu(1, "GPU-b", there=False)])
    assert isinstance(ask(ledger, "b1"), Lease), "it is back"
    assert isinstance(ask(ledger, "b2"), Refusal), "the other one is not"


def test_a_lost_gpu_gives_way_to_one_that_has_its_index_now_and_comes_back(ledger: Ledger) -> None:
    ledger.slots.declare("here", [gpu(0, "GPU-a"), gpu(1, "GPU-b")])
    for _ in range(2):
        ledger.slots.declare("here", [gpu(0, "GPU-b"), gpu(0, "GPU-a", there=False)])
        assert stand(ledger) == [(0, "GPU-b", True, False), (1000, "GPU-a", False, True)]
        ledger.slots.declare("here", [gpu(0, "GPU-b"), gpu(1000, "GPU-a", there=False)])
        assert stand(ledger) == [(0, "GPU-b", True, False), (1000, "GPU-a", False, True)]
    ledger.slots.declare("here", [gpu(0, "GPU-a"), gpu(1, "GPU-b")])
    assert stand(ledger) == [(0, "GPU-a", True, False), (1, "GPU-b", True, False)]


def test_a_gpu_that_is_lost_while_it_is_leased_is_given_to_nobody_afterwards(ledger: Ledger) -> None:
    ledger.slots.declare("here", [gpu(0, "GPU-a"), gpu(1, "GPU-b")])
    held = ask(ledger, "b1")
    assert isinstance(held, Lease) and held.slots[0].uuid == "GPU-a"
    ledger.slots.declare("here", [gpu(1, "GPU-b"), gpu(0, "GPU-a", there=False)])
    assert ledger.leases.get("b1") == held
    assert ledger.leases.release(held)
    second = ask(ledger, "b2")
    assert isinstance(second, Lease) and second.slots[0].uuid == "GPU-b"
    assert isinstance(ask(ledger, "b3"), Refusal)


def test_whoever_switches_a_lost_gpu_off_knows_of_it(ledger: Ledger) -> None:
    ledger.slots.declare("here", [gpu(0, "GPU-a", there=False)])
    ledger.slots.switch_off("here", "gpu", 0, "taken out")
    assert stand(ledger) == [(0, "GPU-a", False, False)]
    assert ask(ledger, "b1") == Refusal("no free slot: 1 switched off (taken out): gpu0")


def test_when_a_gpu_of_the_pool_was_seen_last_is_not_forgotten(ledger: Ledger, clock: Clock) -> None:
    ledger.slots.declare("here", [gpu(0, "GPU-a")])
    first = clock.now
    ledger.gpus.record("here", [look(clock, 0, "GPU-a"), look(clock, 1, "GPU-of-no-pool")])
    clock.forward(30 * 86400)
    ledger.gpus.record("here", [look(clock, 2, "GPU-c")])
    assert [(one.uuid, one.seen_at) for one in ledger.gpus.all()] == [("GPU-a", first), ("GPU-c", clock.now)]

"""The slots of the pool, and what is known of the devices behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.ledger.leases import Lease, absence
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.worklist.board_rows import GpuStatus

_SEEN = ("name", "used_mb", "utilisation_percent", "temperature_c", "seen_at")


class PoolRow(NamedTuple):
    """A slot with its lease and the last sample of its device, or a device that is no slot."""

    slot: Slot
    """Out of service where the device is no slot."""
    pooled: bool
    """Whether it is a slot."""
    lease: Lease | None
    seen: GpuUsage | None


def pool_rows(slots: Iterable[Slot], leases: Iterable[Lease], seen: Iterable[GpuUsage]) -> Iterator[PoolRow]:
    """Every slot, and then the devices that were seen and are no slots."""
    held = {(lease.host, one.kind, one.index): lease for lease in leases for one in lease.slots}
    usages = {(one.host, one.uuid): one for one in seen}
    for slot in slots:
        lease = held.get((slot.host, slot.kind, slot.index))
        yield PoolRow(slot, True, lease, usages.pop((slot.host, slot.uuid), None) if slot.uuid else None)
    for one in usages.values():
        slot = Slot(SlotKind.GPU, one.index, one.uuid, one.memory_mb or 0, in_service=False, host=one.host)
        yield PoolRow(slot, False, None, one)


def state_of(row: PoolRow) -> str:
    """Whether a slot or a device is leased, free or in use, or why it is not given out."""
    slot, lease, seen = row.slot, row.lease, row.seen
    if not row.pooled and seen is not None:
        return {True: "in use", False: "free", None: "not of the pool"}[seen.allocated]
    if slot.switched_off_at is not None:
        return f"off: {slot.switched_off_reason}"
    if not slot.in_service:
        return absence(None if seen is None else seen.seen_at)
    if lease is None and seen is not None and seen.foreign_processes:
        return f"{seen.foreign_processes} foreign processes"
    return "leased" if lease is not None else "free"


def gpu_status(row: PoolRow) -> GpuStatus:
    """A row as the board has it."""
    slot, lease, seen = row.slot, row.lease, row.seen
    return GpuStatus(
        host=slot.host,
        kind=slot.kind.value,
        index=slot.index,
        uuid=slot.uuid,
        slot=row.pooled,
        in_service=slot.usable,
        status=state_of(row),
        owner=lease.partition if lease is not None else None,
        leased_at=lease.acquired_at if lease is not None else None,
        heartbeat_at=lease.heartbeat_at if lease is not None else None,
        memory_mb=slot.memory_mb,
        **{name: getattr(seen, name) for name in _SEEN if seen is not None},
    )

"""The slots of the pool, and what is known of the devices behind them."""

from __future__ import annotations

from collections.abc import Iterable

from mqi_dagster.ledger.leases import Lease
from mqi_dagster.ledger.slots import Slot
from mqi_dagster.worklist.rows import GpuStand


def gpu_stands(slots: Iterable[Slot], leases: Iterable[Lease]) -> list[GpuStand]:
    """Every slot with its owner."""
    held = {(lease.host, lease.kind, lease.index): lease for lease in leases}
    return [_stand(slot, held.get((slot.host, slot.kind, slot.index))) for slot in slots]


def _stand(slot: Slot, lease: Lease | None) -> GpuStand:
    return GpuStand(
        host=slot.host,
        kind=slot.kind.value,
        index=slot.index,
        uuid=slot.uuid,
        in_service=slot.in_service,
        owner=lease.beam if lease is not None else None,
        leased_at=lease.acquired_at if lease is not None else None,
        heartbeat_at=lease.heartbeat_at if lease is not None else None,
        memory_mb=slot.memory_mb,
    )

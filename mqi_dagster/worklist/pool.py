"""The slots of the pool, and what is known of the devices behind them."""

from __future__ import annotations

from collections.abc import Iterable

from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.ledger.leases import Lease
from mqi_dagster.ledger.slots import Slot
from mqi_dagster.worklist.board_rows import GpuStatus


def side_by_side(
    slots: Iterable[Slot], leases: Iterable[Lease], seen: Iterable[GpuUsage]
) -> tuple[list[tuple[Slot, Lease | None, GpuUsage | None]], list[GpuUsage]]:
    """Every slot with its lease and the last sample of its device; and the devices that are no slots."""
    held = {(lease.host, one.kind, one.index): lease for lease in leases for one in lease.slots}
    usages = {(one.host, one.uuid): one for one in seen}
    rows = [
        (
            slot,
            held.get((slot.host, slot.kind, slot.index)),
            usages.pop((slot.host, slot.uuid), None) if slot.uuid else None,
        )
        for slot in slots
    ]
    return rows, list(usages.values())


def gpu_statuses(slots: Iterable[Slot], leases: Iterable[Lease], seen: Iterable[GpuUsage]) -> list[GpuStatus]:
    """Every slot with its owner and its device, and then the devices that were seen and are no slots."""
    rows, others = side_by_side(slots, leases, seen)
    return [*(_slot(*row) for row in rows), *(_seen(one) for one in others)]


def _slot(slot: Slot, lease: Lease | None, seen: GpuUsage | None) -> GpuStatus:
    status = GpuStatus(
        host=slot.host,
        kind=slot.kind.value,
        index=slot.index,
        uuid=slot.uuid,
        slot=True,
        in_service=slot.usable,
        owner=lease.partition if lease is not None else None,
        leased_at=lease.acquired_at if lease is not None else None,
        heartbeat_at=lease.heartbeat_at if lease is not None else None,
        memory_mb=slot.memory_mb,
    )
    return status if seen is None else status.model_copy(update=_usage(seen))


def _seen(one: GpuUsage) -> GpuStatus:
    return GpuStatus(
        host=one.host,
        kind="gpu",
        index=one.index,
        uuid=one.uuid,
        slot=False,
        in_service=False,
        owner=None,
        leased_at=None,
        heartbeat_at=None,
        memory_mb=one.memory_mb or 0,
    ).model_copy(update=_usage(one))


def _usage(seen: GpuUsage) -> dict[str, object]:
    return {
        "name": seen.name,
        "used_mb": seen.used_mb,
        "utilisation_percent": seen.utilisation_percent,
        "temperature_c": seen.temperature_c,
        "seen_at": seen.seen_at,
    }

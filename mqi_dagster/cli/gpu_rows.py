"""The slots and GPUs as `mqi gpu list` shows them: slot, lease and last look side by side."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mqi_dagster.ledger.availability import absence
from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.ledger.leases import Lease
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.slots import Slot
from mqi_dagster.worklist.pool import side_by_side

_SEEN = (
    "name",
    "used_mb",
    "utilisation_percent",
    "temperature_c",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "foreign_processes",
    "allocated",
)


def gpu_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """One row a slot, and one a GPU that is seen and in no pool."""
    rows, others = side_by_side(ledger.slots(), ledger.leases(), ledger.gpus())
    return [*(_row(*row) for row in rows), *(_unpooled(look) for look in others)]


def _row(slot: Slot, lease: Lease | None, look: GpuUsage | None) -> dict[str, Any]:
    state = "leased" if lease is not None else "free"
    if slot.switched_off_at is not None:
        state = f"off: {slot.switched_off_reason}"
    elif not slot.in_service:
        state = absence(None if look is None else look.seen_at)
    elif lease is None and look is not None and look.foreign_processes:
        state = f"{look.foreign_processes} foreign processes"
    return {
        "slot": slot.name,
        "host": slot.host,
        "kind": slot.kind.value,
        "index": slot.index,
        "uuid": slot.uuid,
        "in_pool": slot.usable,
        "state": state,
        "beam": None if lease is None else lease.beam,
        "run": None if lease is None else lease.owner,
        "memory_mb": slot.memory_mb or (None if look is None else look.memory_mb),
        **_seen(look),
    }


def _unpooled(look: GpuUsage) -> dict[str, Any]:
    taken = {True: "in use", False: "free", None: "not of the pool"}[look.allocated]
    return {
        "slot": f"{look.host}/{look.uuid}" if look.allocated is not None else f"{look.host}/gpu{look.index}",
        "host": look.host,
        "kind": "gpu",
        "index": look.index,
        "uuid": look.uuid,
        "in_pool": False,
        "state": taken,
        "beam": None,
        "run": None,
        "memory_mb": look.memory_mb,
        **_seen(look),
    }


def _seen(look: GpuUsage | None) -> dict[str, Any]:
    values = dict.fromkeys(_SEEN) if look is None else asdict(look)
    seen_at = None if look is None else look.seen_at.isoformat(timespec="seconds")
    return {**{name: values[name] for name in _SEEN}, "seen_at": seen_at}

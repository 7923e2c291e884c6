"""The GPUs and slots of a site: who has them, and taking them out of the pool and putting them back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mqi_dagster.errors import InputError, UnreachableError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.slots import Slot
from mqi_dagster.lifecycle.jobs import POOL
from mqi_dagster.operations.audited import audited
from mqi_dagster.operations.instance import open_instance, pool_limit, set_pool_limit, simulations_at_once
from mqi_dagster.operations.sites import open_site
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.gpu_pool import GpuPool
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist.pool import PoolRow, pool_rows, state_of

REASON = re.compile(r"[^\x00-\x1f\x7f]{1,200}")

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
    leases = [*ledger.leases.all(), *ledger.work.leases()]
    return [_row(row) for row in pool_rows(ledger.slots.all(), leases, ledger.gpus.all())]


def _row(row: PoolRow) -> dict[str, Any]:
    slot, lease, seen = row.slot, row.lease, row.seen
    on_cluster = not row.pooled and seen is not None and seen.allocated is not None
    return {
        "slot": f"{slot.host}/{slot.uuid}" if on_cluster else slot.name,
        "host": slot.host,
        "kind": slot.kind.value,
        "index": slot.index,
        "uuid": slot.uuid,
        "in_pool": slot.usable,
        "state": state_of(row),
        "beam": None if lease is None else lease.partition,
        "run": None if lease is None else lease.owner,
        "memory_mb": slot.memory_mb or (None if seen is None else seen.memory_mb),
        **{name: None if seen is None else getattr(seen, name) for name in _SEEN},
        "seen_at": None if seen is None else seen.seen_at.isoformat(timespec="seconds"),
    }


def open_pool(place: Path) -> Site:
    """The site of a folder or settings file, its slots declared."""
    site = open_site(place)
    GpuPool(site).declare()
    return site


def _find(site: Site, name: str) -> Slot:
    host, _, rest = name.rpartition("/")
    found = [
        slot
        for slot in site.ledger.slots.all()
        if slot.host == host
        and rest in (str(slot.index), slot.uuid or None, f"{slot.kind.value}{slot.index}")
    ]
    in_service = [slot for slot in found if slot.in_service] or found
    if len(in_service) != 1:
        known = ", ".join(slot.name for slot in site.ledger.slots.all())
        raise InputError(f"{name} is no slot of the pool (known: {known})")
    return in_service[0]


def _adapt(site: Site) -> int:
    """Bring the limit of the pool in step with what is switched off; the limit."""
    with open_instance(site.settings) as instance:
        set_pool_limit(instance, site.settings, site.ledger)
    return pool_limit(site.settings, site.ledger)


def sampled(site: Site) -> str:
    """Sample the GPUs, and say why that failed; empty where it did not."""
    try:
        GpuPool(site).sample(site.settings.execution.gpu_monitoring)
    except UnreachableError as error:
        return error.message
    return ""


def switch_off(site: Site, actor: Actor, name: str, reason: str) -> tuple[str, int]:
    """Take a slot out of the pool; the beam that has it keeps it to its end.

    Args:
        site: The site.
        actor: Who does it.
        name: Host and index or UUID of the slot.
        reason: Shown to everybody who waits.

    Returns:
        The slot's name, and how many runs may simulate or wait now.

    Raises:
        InputError: It is no slot, or the reason is no line of at most 200 characters.
        NotAllowedError: The actor does not have the right ``pool``.
    """
    with audited(site, actor, Right.POOL, Action.GPU_OFF, name, reason=reason[:200]):
        if not REASON.fullmatch(reason):
            raise InputError("a reason is one line of at most 200 characters")
        found = _find(site, name)
        site.ledger.slots.switch_off(found.host, found.kind.value, found.index, reason)
        return found.name, _adapt(site)


def switch_on(site: Site, actor: Actor, name: str) -> tuple[str, int]:
    """Put a slot back into the pool; see :func:`switch_off`."""
    with audited(site, actor, Right.POOL, Action.GPU_ON, name):
        found = _find(site, name)
        site.ledger.slots.switch_on(found.host, found.kind.value, found.index)
        return found.name, _adapt(site)


def set_limit(site: Site, actor: Actor, runs: int | None) -> int:
    """Set how many runs may simulate or wait for a slot at once; None: slots and buffer say so.

    Returns:
        How many it are now.

    Raises:
        InputError: More than the slots and `execution.pool_buffer` allow.
        NotAllowedError: The actor does not have the right ``pool``.
    """
    settings, limit = site.settings, "auto" if runs is None else str(runs)
    with audited(site, actor, Right.POOL, Action.POOL_LIMIT, POOL, limit=limit):
        at_once = simulations_at_once(settings, site.ledger, switched_off_too=True)
        buffer = settings.execution.pool_buffer
        if runs is not None and runs > at_once + buffer:
            raise InputError(
                f"{runs} runs are more than {at_once} simulations and a buffer of {buffer}: the others would"
                " only wait; raise execution.pool_buffer where that is wanted"
            )
        site.ledger.slots.set_pool_limit(POOL, runs)
        return _adapt(site)

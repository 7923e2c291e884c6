"""Which slots a beam could have now, and in words why the others are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select

from mqi_dagster.ledger.gpus import GpuUsage, usage
from mqi_dagster.ledger.slots import SlotKind, slot_of
from mqi_dagster.ledger.tables import GPU, SLOT

NO_FREE_SLOT = "no free slot"
_LOST = "Does its driver run (nvidia-smi)? One that is gone for good: `mqi gpu off`"


@dataclass(frozen=True, slots=True)
class Need:
    """What a beam needs to be simulated."""

    kind: SlotKind
    host: str | None = None
    """Only slots of this host."""
    count: int = 1
    """Slots at once, all of one host."""
    memory_mb: int = 0
    """Free memory of each GPU [MB]; 0 for any."""
    look: timedelta = timedelta(0)
    """A look at a GPU decides whether it is free only while it is not older than this."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no lease now."""

    reason: str
    by_look: bool = False
    """Whether another look at the GPUs could change it."""
    at_work: bool = False
    """Whether another run is at work on the beam: what is shown of it is that run's."""


@dataclass(frozen=True, slots=True)
class Free:
    """What can be leased now."""

    slots: Sequence[Row[Any]]
    """As many as one beam needs, of one host."""
    beams: int
    """How many beams could have theirs."""


def usable_slots(connection: Connection, need: Need, now: datetime) -> Free | Refusal:
    """The free slots, or why there are not enough for one beam.

    Args:
        connection: Inside the transaction that takes them.
        need: Of the beam.
        now: The time.
    """
    wanted = [SLOT.c.kind == need.kind.value]
    if need.host is not None:
        wanted.append(SLOT.c.host == need.host)
    rows = connection.execute(select(SLOT).where(*wanted).order_by(SLOT.c.host, SLOT.c.slot_index)).all()
    looks = {}
    if need.look:
        looks = {(row.host, row.uuid): usage(row) for row in connection.execute(select(GPU)).all()}
    free: dict[str, list[Row[Any]]] = {}
    hindered: list[tuple[str, str]] = []
    lost = by_look = False
    for row in rows:
        seen = looks.get((row.host, row.uuid))
        why = _hindrance(row, seen)
        lost |= (gone := slot_of(row).lost)
        if not why and seen is not None and seen.is_fresh(now, need.look):
            why = seen.unfit(need.memory_mb)
            by_look |= bool(why)
        if why:
            name = f"{row.kind}{row.slot_index}"
            hindered.append((why, f"{name} ({row.uuid})" if need.look and gone else name))
        else:
            free.setdefault(row.host, []).append(row)
    enough = [rows for rows in free.values() if len(rows) >= need.count]
    if enough:
        return Free(enough[0][: need.count], sum(len(rows) // need.count for rows in enough))
    lost &= bool(need.look)
    reason = _reason(need, free.values(), hindered)
    return Refusal(f"{reason}. {_LOST}" if lost else reason, by_look or lost)


def absence(seen_at: datetime | None) -> str:
    """In words, that a slot is not there, and since when where somebody has looked at it."""
    return "not there any more" if seen_at is None else f"not seen since {seen_at:%Y-%m-%d %H:%M} UTC"


def _hindrance(row: Row[Any], seen: GpuUsage | None) -> str:
    if row.beam is not None:
        return "leased"
    if row.switched_off_at is not None:
        return f"switched off ({row.switched_off_reason})"
    if not row.in_service:
        return absence(None if seen is None else seen.seen_at)
    return ""


def _reason(need: Need, free: Iterable[Sequence[Row[Any]]], hindered: list[tuple[str, str]]) -> str:
    words = []
    for why, count in Counter(why for why, _ in hindered).items():
        names = ", ".join(name for one, name in hindered if one == why)
        words.append(f"{count} leased" if why == "leased" else f"{count} {why}: {names}")
    most = max((len(rows) for rows in free), default=0)
    if need.count > 1:
        words.append(f"{most} of the {need.count} that a beam needs are free")
    return f"{NO_FREE_SLOT}: {'; '.join(words)}" if words else f"{NO_FREE_SLOT}: there is none"

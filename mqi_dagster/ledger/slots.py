"""Slots: on what a simulation can run, and how many runs may stand in their pool."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import count
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, insert, select, update

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.tables import POOL, SLOT

_ASIDE = 1000
"""From this index on stand GPUs that are not there and whose index another has; no machine has so many."""


class SlotKind(StrEnum):
    """On what the engine runs in a slot."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one simulation."""

    kind: SlotKind
    index: int
    uuid: str = ""
    """Identity of the GPU; empty for a CPU slot."""
    memory_mb: int = 0
    in_service: bool = True
    """Whether it was there when its host declared its slots last; declared without, it should be there."""
    host: str = ""
    """Filled in by the ledger, as is what follows."""
    switched_off_at: datetime | None = None
    """When a person took it out of the pool."""
    switched_off_reason: str | None = None

    @property
    def usable(self) -> bool:
        """Whether it is there and not switched off; it may be leased."""
        return self.in_service and self.switched_off_at is None

    @property
    def lost(self) -> bool:
        """Whether it is a GPU that is not there and that nobody has switched off: it may come back."""
        return self.kind is SlotKind.GPU and not self.in_service and self.switched_off_at is None

    @property
    def name(self) -> str:
        """Of the slot, for people."""
        return f"{self.host}/{self.kind.value}{self.index}"


def slot_of(row: Row[tuple[object, ...]]) -> Slot:
    """A row of the table as a slot, without its lease."""
    values = row._mapping
    return Slot(
        kind=SlotKind(values["kind"]),
        index=values["slot_index"],
        uuid=values["uuid"],
        memory_mb=values["memory_mb"],
        in_service=values["in_service"],
        host=values["host"],
        switched_off_at=values["switched_off_at"],
        switched_off_reason=values["switched_off_reason"],
    )


class Slots:
    """The slots of every host, and the limits that people have set for pools."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def declare(self, host: str, slots: Sequence[Slot]) -> None:
        """Make the ledger's slots of a host these; every lease and every switch stays as it is.

        A slot that is declared out of service stays known, and gives way where another has its index. One
        that is not declared any more is taken out of service while it is leased or switched off, and removed
        otherwise. A GPU is known by its UUID: where it has another index now, its switch goes with
        it, and where it is still leased under the old one it joins the pool again once that lease has ended.

        Raises:
            ConfigurationError: Two slots have the same kind and index, or the same UUID.
        """
        there = [slot for slot in slots if slot.in_service]
        wanted = {(slot.kind.value, slot.index): slot for slot in there}
        named = [slot.uuid for slot in slots if slot.uuid]
        if len(wanted) != len(there) or len(set(named)) != len(named):
            raise ConfigurationError(
                f"host {host} declares two slots of the same kind and index, or one GPU twice"
            )
        with self._database.write() as connection:
            rows = connection.execute(select(SLOT).where(SLOT.c.host == host)).all()
            here = {(row.kind, row.slot_index): row for row in rows}
            for slot in slots:
                if not slot.in_service:
                    key = slot.kind.value, slot.index
                    others = {other for other, row in here.items() if row.uuid != slot.uuid}
                    wanted[key if key not in wanted else _aside(key[0], {*others, *wanted})] = slot
            same = {key for key, row in here.items() if key in wanted and wanted[key].uuid == row.uuid}
            leased = {key for key, row in here.items() if row.partition is not None and key not in same}
            busy = {here[key].uuid for key in leased if here[key].uuid}
            new = {
                key: slot
                for key, slot in wanted.items()
                if key not in same and key not in leased and slot.uuid not in busy
            }
            switches = _make_way(connection, host, here, same, new)
            for (kind, index), slot in wanted.items():
                values: dict[str, object] = {"memory_mb": slot.memory_mb, "in_service": slot.in_service}
                if (kind, index) in same:
                    row = here[kind, index]._mapping
                    # Every poll declares: a write that changes nothing would cost a disk's flush each time.
                    if any(row[name] != value for name, value in values.items()):
                        connection.execute(update(SLOT).where(*_this(host, kind, index)).values(**values))
                elif (kind, index) in new:
                    values |= {"host": host, "kind": kind, "slot_index": index, "uuid": slot.uuid, "token": 0}
                    connection.execute(insert(SLOT).values(**values, **switches.get(slot.uuid, {})))

    def switch_off(self, host: str, kind: str, index: int, reason: str) -> None:
        """Take a slot out of the pool until a person puts it back; who holds it keeps it to the end.

        Raises:
            ConfigurationError: The host has no such slot.
        """
        self._switch(host, kind, index, self._database.clock(), reason)

    def switch_on(self, host: str, kind: str, index: int) -> None:
        """Put a slot back into the pool.

        Raises:
            ConfigurationError: The host has no such slot.
        """
        self._switch(host, kind, index, None, None)

    def _switch(self, host: str, kind: str, index: int, at: datetime | None, reason: str | None) -> None:
        with self._database.write() as connection:
            changed = connection.execute(
                update(SLOT)
                .where(*_this(host, kind, index))
                .values(switched_off_at=at, switched_off_reason=reason)
            )
            if changed.rowcount != 1:
                raise ConfigurationError(f"the pool has no slot {host}/{kind}{index}; see `mqi gpu list`")

    def all(self) -> list[Slot]:
        """Every slot, by host, kind and index."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(SLOT).order_by(SLOT.c.host, SLOT.c.kind, SLOT.c.slot_index)
            ).all()
        return [slot_of(row) for row in rows]

    def set_pool_limit(self, name: str, max_runs: int | None) -> None:
        """Write down how many runs may stand in a pool at most; None: as many as its slots allow."""
        with self._database.write() as connection:
            connection.execute(delete(POOL).where(POOL.c.name == name))
            if max_runs is not None:
                connection.execute(
                    insert(POOL).values(name=name, max_runs=max_runs, set_at=self._database.clock())
                )

    def pool_limit(self, name: str) -> int | None:
        """The limit that a person has set, None where nobody has."""
        with self._database.read() as connection:
            found = connection.execute(
                select(POOL.c.max_runs).where(POOL.c.name == name)
            ).scalar_one_or_none()
        return None if found is None else int(found)


def _this(host: str, kind: str, index: int) -> list[ColumnElement[bool]]:
    return [SLOT.c.host == host, SLOT.c.kind == kind, SLOT.c.slot_index == index]


def _aside(kind: str, taken: Collection[tuple[str, int]]) -> tuple[str, int]:
    return kind, next(index for index in count(_ASIDE) if (kind, index) not in taken)


def _make_way(
    connection: Connection,
    host: str,
    here: Mapping[tuple[str, int], Row[Any]],
    same: Collection[tuple[str, int]],
    new: Mapping[tuple[str, int], Slot],
) -> dict[str, dict[str, object]]:
    """Remove or put aside the rows that are not declared as they are; the switches that GPUs take along."""
    placed = {slot.uuid for slot in new.values() if slot.uuid}
    taken = {*here, *new}
    switches: dict[str, dict[str, object]] = {}
    for key, row in here.items():
        if key in same:
            continue
        this = _this(host, *key)
        off = row.switched_off_at is not None
        if row.partition is None and (not off or row.uuid in placed):
            connection.execute(delete(SLOT).where(*this, SLOT.c.partition.is_(None)))
            if off:
                at, reason = row.switched_off_at, row.switched_off_reason
                switches[row.uuid] = {"switched_off_at": at, "switched_off_reason": reason}
            continue
        values: dict[str, object] = {"in_service": False}
        if key in new:
            # Another GPU has its index now, and a switch must outlast the absence of its own.
            aside = _aside(key[0], taken)
            taken.add(aside)
            values["slot_index"] = aside[1]
        connection.execute(update(SLOT).where(*this).values(**values))
    return switches

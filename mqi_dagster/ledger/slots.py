"""Slots: the places in which a simulation can run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import delete, insert, select, update

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.tables import SLOT


class SlotKind(StrEnum):
    """What a slot is a place on."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class Slot:
    """One place for one simulation."""

    kind: SlotKind
    index: int
    uuid: str = ""
    """Identity of the GPU; empty for a CPU slot."""
    memory_mb: int = 0
    in_service: bool = True
    host: str = ""
    """Filled in by the ledger."""


class SlotRows(Database):
    """The slots of every host."""

    def declare_slots(self, host: str, slots: Sequence[Slot]) -> None:
        """Make the ledger's slots of a host these, and leave every lease as it is.

        A slot that is no longer there is removed when it is free, and taken out of service while it is
        leased (the next declaration removes it).

        Raises:
            ConfigurationError: Two slots have the same kind and index.
        """
        wanted = {(slot.kind.value, slot.index): slot for slot in slots}
        if len(wanted) != len(slots):
            raise ConfigurationError(f"host {host} declares two slots of the same kind and index")
        with self._write() as connection:
            here = SLOT.c.host == host
            rows = connection.execute(select(SLOT.c.kind, SLOT.c.slot_index, SLOT.c.beam).where(here)).all()
            present = {(str(row.kind), int(row.slot_index)): row.beam for row in rows}
            for (kind, index), beam in present.items():
                if (kind, index) in wanted:
                    continue
                this = [here, SLOT.c.kind == kind, SLOT.c.slot_index == index]
                if beam is None:
                    connection.execute(delete(SLOT).where(*this, SLOT.c.beam.is_(None)))
                else:
                    connection.execute(update(SLOT).where(*this).values(in_service=False))
            for (kind, index), slot in wanted.items():
                values = {"uuid": slot.uuid, "memory_mb": slot.memory_mb, "in_service": slot.in_service}
                if (kind, index) in present:
                    connection.execute(
                        update(SLOT)
                        .where(here, SLOT.c.kind == kind, SLOT.c.slot_index == index)
                        .values(**values)
                    )
                else:
                    connection.execute(
                        insert(SLOT).values(host=host, kind=kind, slot_index=index, token=0, **values)
                    )

    def slots(self) -> list[Slot]:
        """Every slot, by host, kind and index."""
        with self._read() as connection:
            rows = connection.execute(
                select(SLOT).order_by(SLOT.c.host, SLOT.c.kind, SLOT.c.slot_index)
            ).all()
        return [
            Slot(
                kind=SlotKind(row.kind),
                index=row.slot_index,
                uuid=row.uuid,
                memory_mb=row.memory_mb,
                in_service=row.in_service,
                host=row.host,
            )
            for row in rows
        ]

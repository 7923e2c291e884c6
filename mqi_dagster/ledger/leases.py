"""Leases: the right of one beam to one slot, for as long as its heartbeat lasts.

Every change is an update that names what it expects to find and is believed only when it changed one row.
The token of a slot rises with every change of hands, so that an owner who comes back late is recognised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Row, select, update

from mqi_dagster.errors import LeaseLostError
from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.slots import SlotKind
from mqi_dagster.ledger.tables import SLOT

NO_FREE_SLOT = "no free slot"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of ``beam`` to a slot, held by ``owner``."""

    beam: str
    owner: str
    """Run id."""
    host: str
    kind: SlotKind
    index: int
    uuid: str
    memory_mb: int
    token: int
    acquired_at: datetime
    heartbeat_at: datetime
    executor: str | None = None
    job_id: str | None = None

    def is_stale(self, now: datetime, stale_after: timedelta) -> bool:
        """Whether the heartbeat has stopped; one from the far future is of a clock that was set back."""
        return abs(now - self.heartbeat_at) > stale_after


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no lease now."""

    reason: str


def _lease(row: Row[tuple[object, ...]]) -> Lease:
    values = dict(row._mapping)
    values["index"] = values.pop("slot_index")
    values["kind"] = SlotKind(values["kind"])
    del values["in_service"]
    return Lease(**values)


def _held(lease: Lease) -> list[ColumnElement[bool]]:
    return [
        SLOT.c.host == lease.host,
        SLOT.c.kind == lease.kind.value,
        SLOT.c.slot_index == lease.index,
        SLOT.c.beam == lease.beam,
        SLOT.c.owner == lease.owner,
        SLOT.c.token == lease.token,
    ]


_FREE: dict[str, None] = dict.fromkeys(
    ("beam", "owner", "acquired_at", "heartbeat_at", "executor", "job_id"), None
)


class LeaseRows(Database):
    """The leases on the slots."""

    def acquire(
        self,
        beam: str,
        owner: str,
        *,
        stale_after: timedelta,
        kind: str,
        host: str | None = None,
        confirm_ended: Callable[[Lease], bool] | None = None,
        gone: str | None = None,
    ) -> Lease | Refusal:
        """A lease for the beam, or why there is none now.

        The same owner gets its lease again. A beam whose lease is stale passes to the new owner with its
        slot, its job and a higher token. A stale lease of another beam is freed only where its job is
        known to have ended.

        Args:
            beam: Beam key.
            owner: Run id.
            stale_after: Age of a heartbeat after which its owner counts as gone.
            kind: Kind of slot, ``cpu`` or ``gpu``.
            host: Only slots of this host.
            confirm_ended: Whether the job of a stale lease is known to have ended; called outside any
                transaction. Without it no lease of another beam is freed.
            gone: A run that is known to have ended: what this beam holds in its name passes on at once.
        """
        wanted = SlotKind(kind)
        with self._write() as connection:
            found = self._own_or_free(connection, beam, owner, stale_after, wanted, host, gone)
        if isinstance(found, Lease) or found.reason != NO_FREE_SLOT or confirm_ended is None:
            return found
        now = self._clock()
        # Asking after a job may take long, so nobody else waits for the answer.
        ended = [
            lease
            for lease in self.leases()
            if lease.kind is wanted
            and host in (None, lease.host)
            and lease.is_stale(now, stale_after)
            and confirm_ended(lease)
        ]
        if not ended:
            return found
        with self._write() as connection:
            for lease in ended:
                connection.execute(
                    update(SLOT)
                    .where(*_held(lease), SLOT.c.heartbeat_at == lease.heartbeat_at)
                    .values(**_FREE)
                )
            return self._own_or_free(connection, beam, owner, stale_after, wanted, host, gone)

    def _own_or_free(
        self,
        connection: Connection,
        beam: str,
        owner: str,
        stale_after: timedelta,
        kind: SlotKind,
        host: str | None,
        gone: str | None,
    ) -> Lease | Refusal:
        now = self._clock()
        row = connection.execute(select(SLOT).where(SLOT.c.beam == beam)).one_or_none()
        if row is not None:
            lease = _lease(row)
            if host is not None and lease.host != host:
                # Its job there must have ended first: two engines would work for one beam.
                return Refusal(f"the beam still holds a slot of {lease.host}")
            if lease.owner == owner:
                return self._swap(connection, lease, heartbeat_at=now) or Refusal(NO_FREE_SLOT)
            if lease.owner != gone and not lease.is_stale(now, stale_after):
                return Refusal(f"beam is being simulated by run {lease.owner}")
            taken = self._swap(connection, lease, owner=owner, token=lease.token + 1, heartbeat_at=now)
            return taken or Refusal(f"beam is being simulated by run {lease.owner}")
        free = [SLOT.c.beam.is_(None), SLOT.c.in_service, SLOT.c.kind == kind.value]
        if host is not None:
            free.append(SLOT.c.host == host)
        rows = connection.execute(select(SLOT).where(*free).order_by(SLOT.c.host, SLOT.c.slot_index)).all()
        for slot in rows:
            taken_slot = connection.execute(
                update(SLOT)
                .where(
                    SLOT.c.host == slot.host,
                    SLOT.c.kind == slot.kind,
                    SLOT.c.slot_index == slot.slot_index,
                    SLOT.c.token == slot.token,
                    SLOT.c.beam.is_(None),
                )
                .values(beam=beam, owner=owner, token=slot.token + 1, acquired_at=now, heartbeat_at=now)
            )
            if taken_slot.rowcount == 1:
                return _lease(connection.execute(select(SLOT).where(SLOT.c.beam == beam)).one())
        return Refusal(NO_FREE_SLOT)

    def renew(self, lease: Lease) -> Lease:
        """Show that the owner is alive; at once or not at all, since others count the seconds.

        Raises:
            LeaseLostError: The lease was freed or passed to another owner.
        """
        return self._changed(lease, patient=False, heartbeat_at=self._clock())

    def set_job(self, lease: Lease, executor: str, job_id: str) -> Lease:
        """Write down the job that runs under the lease, before anybody waits for it.

        Raises:
            LeaseLostError: The lease was freed or passed to another owner.
        """
        return self._changed(lease, executor=executor, job_id=job_id)

    def release(self, lease: Lease) -> bool:
        """Free the slot.

        Returns:
            Whether this lease still held it; if not, nothing was changed.
        """
        with self._write() as connection:
            freed = connection.execute(update(SLOT).where(*_held(lease)).values(**_FREE))
            return freed.rowcount == 1

    def lease_of(self, beam: str) -> Lease | None:
        """The lease of a beam."""
        with self._read() as connection:
            row = connection.execute(select(SLOT).where(SLOT.c.beam == beam)).one_or_none()
        return None if row is None else _lease(row)

    def leases(self) -> list[Lease]:
        """Every lease, by host, kind and index."""
        with self._read() as connection:
            rows = connection.execute(
                select(SLOT)
                .where(SLOT.c.beam.is_not(None))
                .order_by(SLOT.c.host, SLOT.c.kind, SLOT.c.slot_index)
            ).all()
        return [_lease(row) for row in rows]

    def _swap(self, connection: Connection, lease: Lease, **values: object) -> Lease | None:
        changed = connection.execute(update(SLOT).where(*_held(lease)).values(**values))
        if changed.rowcount != 1:
            return None
        return _lease(connection.execute(select(SLOT).where(SLOT.c.beam == lease.beam)).one())

    def _changed(self, lease: Lease, *, patient: bool = True, **values: object) -> Lease:
        with self._write(patient=patient) as connection:
            changed = self._swap(connection, lease, **values)
        if changed is None:
            raise LeaseLostError(f"the lease of beam {lease.beam} has passed to another owner")
        return changed

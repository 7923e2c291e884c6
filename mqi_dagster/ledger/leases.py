"""Leases: the right of one beam to its slots, for as long as its heartbeat lasts.

Every change is an update that names what it expects to find and is believed only when it changed as many rows
as the lease has slots. The token of a slot rises with every change of hands, so that an owner who comes back
late is recognised. A beam has all the slots it needs or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Row, select, update

from mqi_dagster.errors import LeaseLostError
from mqi_dagster.ledger.availability import NO_FREE_SLOT, Need, Refusal, usable_slots
from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.slots import SlotKind
from mqi_dagster.ledger.tables import SLOT
from mqi_dagster.ledger.waiting import LONGEST, Waiting, ahead_of, note_waiting, remove_waiting


@dataclass(frozen=True, slots=True)
class LeasedSlot:
    """One slot of a lease."""

    kind: SlotKind
    index: int
    uuid: str
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of ``beam`` to its slots, held by ``owner``."""

    beam: str
    owner: str
    """Run id."""
    host: str
    slots: tuple[LeasedSlot, ...]
    """By part: the engine counts its GPUs in this order."""
    token: int
    acquired_at: datetime
    heartbeat_at: datetime
    executor: str | None = None
    job_id: str | None = None

    @property
    def kind(self) -> SlotKind:
        """Kind of its slots."""
        return self.slots[0].kind

    @property
    def name(self) -> str:
        """Of its place, for people."""
        return f"{self.host}/{self.kind.value}{'+'.join(str(slot.index) for slot in self.slots)}"

    def is_stale(self, now: datetime, stale_after: timedelta) -> bool:
        """Whether the heartbeat has stopped; one from the far future is of a clock that was set back."""
        return abs(now - self.heartbeat_at) > stale_after


def _lease(rows: Sequence[Row[tuple[object, ...]]]) -> Lease:
    parts = sorted((row._mapping for row in rows), key=lambda values: values["part"])
    first = parts[0]
    return Lease(
        **{name: first[name] for name in ("beam", "owner", "host", "token", "acquired_at", "heartbeat_at")},
        slots=tuple(
            LeasedSlot(SlotKind(one["kind"]), one["slot_index"], one["uuid"], one["memory_mb"])
            for one in parts
        ),
        executor=first["executor"],
        job_id=first["job_id"],
    )


def _held(lease: Lease) -> list[ColumnElement[bool]]:
    # All slots of a beam change hands together, so these three name the same rows for as long as it has them.
    return [SLOT.c.beam == lease.beam, SLOT.c.owner == lease.owner, SLOT.c.token == lease.token]


def _of(connection: Connection, beam: str) -> Lease | None:
    rows = connection.execute(select(SLOT).where(SLOT.c.beam == beam)).all()
    return _lease(rows) if rows else None


_FREE: dict[str, None] = dict.fromkeys(
    ("beam", "part", "owner", "acquired_at", "heartbeat_at", "executor", "job_id"), None
)


class LeaseRows(Database):
    """The leases on the slots."""

    def acquire(
        self,
        beam: str,
        owner: str,
        need: Need,
        *,
        stale_after: timedelta,
        priority: int = 0,
        wait: timedelta | None = None,
        gone: str | None = None,
        living: str | None = None,
    ) -> Lease | Refusal:
        """A lease for the beam, or why there is none now.

        The same owner gets its lease again. A beam whose lease is stale passes to the new owner with its
        slots, its job and a higher token. A beam that waits and is more urgent, or as urgent and waits
        longer, comes first.

        Args:
            beam: Beam key.
            owner: Run id.
            need: The slots that the beam needs.
            stale_after: Age of a heartbeat after which its owner counts as gone.
            priority: Higher ones come first.
            wait: For how long after this call the beam counts as waiting where it gets none; None: not.
            gone: A run that is known to have ended: what this beam holds in its name passes on at once.
            living: A run whose worker or engine may still be at work: what this beam holds in its name stays
                its own, however stale.
        """
        with self._write() as connection:
            found = self._own(connection, beam, owner, need, stale_after, gone, living)
            if found is None:
                found = self._free(connection, beam, owner, need, priority)
                if isinstance(found, Refusal) and wait is not None:
                    now = self._clock()
                    host, kind = need.host or "", need.kind.value
                    until = now + min(wait, LONGEST)
                    note_waiting(
                        connection,
                        Waiting(beam, owner, host, kind, priority, found.reason, now, until),
                    )
            return found

    def _own(
        self,
        connection: Connection,
        beam: str,
        owner: str,
        need: Need,
        stale_after: timedelta,
        gone: str | None,
        living: str | None,
    ) -> Lease | Refusal | None:
        now, lease = self._clock(), _of(connection, beam)
        if lease is None:
            return None
        if need.host is not None and lease.host != need.host:
            # Its job there must have ended first: two engines would work for one beam.
            return Refusal(
                f"the beam still holds a slot of {lease.host}, until its run {lease.owner} has ended"
            )
        if lease.owner == owner:
            return self._swap(connection, lease, heartbeat_at=now)
        if lease.owner != gone and not lease.is_stale(now, stale_after):
            return Refusal(f"beam is being simulated by run {lease.owner}", at_work=True)
        if lease.owner == living:
            return Refusal(
                f"run {lease.owner} has the beam and is silent, and its worker or engine is not known to have"
                " ended. If it is stopped, let it go on or terminate it in the pages"
            )
        return self._swap(connection, lease, owner=owner, token=lease.token + 1, heartbeat_at=now)

    def _free(
        self, connection: Connection, beam: str, owner: str, need: Need, priority: int
    ) -> Lease | Refusal:
        now = self._clock()
        found = usable_slots(connection, need, now)
        if isinstance(found, Refusal):
            return found
        ahead, waits = ahead_of(connection, beam, need.kind.value, need.host, priority, now)
        if ahead >= found.beams:
            return Refusal(f"{NO_FREE_SLOT}: {ahead} more urgent or earlier beams wait as well")
        token = max(row.token for row in found.slots) + 1
        with connection.begin_nested() as all_or_none:
            for part, slot in enumerate(found.slots):
                taken = connection.execute(
                    update(SLOT)
                    .where(
                        SLOT.c.host == slot.host,
                        SLOT.c.kind == slot.kind,
                        SLOT.c.slot_index == slot.slot_index,
                        SLOT.c.token == slot.token,
                        SLOT.c.beam.is_(None),
                    )
                    .values(beam=beam, part=part, owner=owner, token=token, acquired_at=now, heartbeat_at=now)
                )
                if taken.rowcount != 1:
                    all_or_none.rollback()
                    return Refusal(NO_FREE_SLOT)
        if waits:
            remove_waiting(connection, beam)
        lease = _of(connection, beam)
        return lease if lease is not None else Refusal(NO_FREE_SLOT)

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

    def release(self, lease: Lease, *, unless_renewed: bool = False) -> bool:
        """Free the slots.

        Args:
            lease: The lease.
            unless_renewed: Only where its heartbeat is still the one in ``lease``: its owner may have woken.

        Returns:
            Whether this lease still held them; if not, nothing was changed.
        """
        held = _held(lease)
        if unless_renewed:
            held.append(SLOT.c.heartbeat_at == lease.heartbeat_at)
        with self._write() as connection:
            return connection.execute(update(SLOT).where(*held).values(**_FREE)).rowcount > 0

    def lease_of(self, beam: str) -> Lease | None:
        """The lease of a beam."""
        with self._read() as connection:
            return _of(connection, beam)

    def leases(self) -> list[Lease]:
        """Every lease, by host, kind and index of its first slot."""
        with self._read() as connection:
            rows = connection.execute(
                select(SLOT)
                .where(SLOT.c.beam.is_not(None))
                .order_by(SLOT.c.host, SLOT.c.kind, SLOT.c.slot_index)
            ).all()
        beams = dict.fromkeys(str(row.beam) for row in rows)
        return [_lease([row for row in rows if row.beam == beam]) for beam in beams]

    def _swap(self, connection: Connection, lease: Lease, **values: object) -> Lease | Refusal:
        changed = connection.execute(update(SLOT).where(*_held(lease)).values(**values))
        now = _of(connection, lease.beam)
        if changed.rowcount != len(lease.slots) or now is None:
            return Refusal(f"beam is being simulated by another run than {lease.owner}", at_work=True)
        return now

    def _changed(self, lease: Lease, *, patient: bool = True, **values: object) -> Lease:
        with self._write(patient=patient) as connection:
            changed = self._swap(connection, lease, **values)
        if isinstance(changed, Refusal):
            raise LeaseLostError(f"the lease of beam {lease.beam} has passed to another owner")
        return changed

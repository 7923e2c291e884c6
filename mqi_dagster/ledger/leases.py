"""Leases: the right of one partition to its slots, for as long as its heartbeat lasts.

Every change is an update that names what it expects to find and is believed only when it changed as many rows
as the lease has slots. The token of a slot rises with every change of hands, so that an owner who comes back
late is recognised. A partition has all the slots it needs or none.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from sqlalchemy import ColumnElement, Connection, Row, delete, insert, select, update

from mqi_dagster.errors import InfrastructureError, LeaseLostError
from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.gpus import GpuUsage, usage
from mqi_dagster.ledger.slots import Slot, SlotKind, slot_of
from mqi_dagster.ledger.tables import GPU, SLOT, WAITING

_BY_PLACE = select(SLOT).order_by(SLOT.c.host, SLOT.c.kind, SLOT.c.slot_index)
_NO_FREE_SLOT = "no free slot"
_LOST = "Does its driver run (nvidia-smi)? One that is gone for good: `mqi gpu off`"
_LONGEST_WAIT = timedelta(minutes=10)
"""For longer no row counts after its run was heard of last."""
_FREE: dict[str, None] = dict.fromkeys(
    ("partition", "part", "owner", "acquired_at", "heartbeat_at", "executor", "job_id"), None
)


@dataclass(frozen=True, slots=True)
class AtOnce:
    """How many partitions of a kind may have a lease at once, however many slots are free."""

    most: int
    alike: Callable[[str], bool]
    """Whether a partition key is of that kind."""
    setting: str
    """That says so, for people."""


@dataclass(frozen=True, slots=True)
class Need:
    """What the computation of a partition needs."""

    kind: SlotKind
    host: str | None = None
    """Only slots of this host."""
    count: int = 1
    """Slots at once, all of one host."""
    memory_mb: int = 0
    """Free memory of each GPU [MB]; 0 for any."""
    max_sample_age: timedelta = timedelta(0)
    """A sample of a GPU decides whether it is free only while it is not older than this."""
    at_once: AtOnce | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no lease now."""

    reason: str
    by_sample: bool = False
    """Whether another sample of the GPUs could change it."""
    at_work: bool = False
    """Whether another run is at work on the partition: what is shown of it is that run's."""


@dataclass(frozen=True, slots=True)
class LeasedSlot:
    """One slot of a lease."""

    kind: SlotKind
    index: int
    uuid: str
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of ``partition`` to its slots, held by ``owner``."""

    partition: str
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
        """Of its slots, for people."""
        return f"{self.host}/{self.kind.value}{'+'.join(str(slot.index) for slot in self.slots)}"

    def is_stale(self, now: datetime, stale_after: timedelta) -> bool:
        """Whether the heartbeat has stopped; one from the far future is of a clock that was set back."""
        return abs(now - self.heartbeat_at) > stale_after


@dataclass(frozen=True, slots=True)
class Waiting:
    """One partition whose run waits for a slot."""

    partition: str
    owner: str
    """Run id."""
    host: str
    """Whose slots it waits for; empty for any."""
    kind: str
    priority: int
    reason: str
    since: datetime
    until: datetime
    """It counts until then; a run that lives moves it on."""


class Leases:
    """The leases on the slots, and the partitions that wait for one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(
        self,
        partition: str,
        owner: str,
        need: Need,
        *,
        stale_after: timedelta,
        priority: int = 0,
        wait: timedelta | None = None,
        finished_owner: str | None = None,
        live_owner: str | None = None,
    ) -> Lease | Refusal:
        """A lease for the partition, or why there is none now.

        The same owner gets its lease again. A partition whose lease is stale passes to the new owner with
        its slots, its job and a higher token. One that waits and is more urgent, or as urgent and waits
        longer, comes first.

        Args:
            partition: Partition key of any kind.
            owner: Run id.
            need: The slots that it needs.
            stale_after: Age of a heartbeat after which its owner counts as gone.
            priority: Higher ones come first.
            wait: For how long after this call it counts as waiting where it gets none; None: not.
            finished_owner: A run that is known to have ended: its lease passes on at once.
            live_owner: A run whose worker or engine may still be at work: its lease stays its own, however
                stale.
        """
        with self._database.write() as connection:
            found = self._own(connection, partition, owner, need, stale_after, finished_owner, live_owner)
            if found is None and (limited := _limit_reached(connection, need.at_once)):
                # It does not stand in the way of others that wait for the same slots.
                return limited
            if found is None:
                found = self._free(connection, partition, owner, need, priority)
                if isinstance(found, Refusal) and wait is not None:
                    now = self._database.clock()
                    host, kind = need.host or "", need.kind.value
                    until = now + min(wait, _LONGEST_WAIT)
                    _note_waiting(
                        connection,
                        Waiting(partition, owner, host, kind, priority, found.reason, now, until),
                    )
            return found

    def _own(
        self,
        connection: Connection,
        partition: str,
        owner: str,
        need: Need,
        stale_after: timedelta,
        finished_owner: str | None,
        live_owner: str | None,
    ) -> Lease | Refusal | None:
        now, lease = self._database.clock(), _of(connection, partition)
        if lease is None:
            return None
        if need.host is not None and lease.host != need.host:
            # Its job there must have ended first: two engines would work for one partition.
            return Refusal(f"it still holds a slot of {lease.host}, until its run {lease.owner} has ended")
        if lease.owner == owner:
            return self._swap(connection, lease, heartbeat_at=now)
        if lease.owner != finished_owner and not lease.is_stale(now, stale_after):
            return Refusal(f"run {lease.owner} is at work on it", at_work=True)
        if lease.owner == live_owner:
            return Refusal(
                f"run {lease.owner} has it and is silent, and its worker or engine is not known to have"
                " ended. If it is stopped, let it go on or terminate it in the pages"
            )
        return self._swap(connection, lease, owner=owner, token=lease.token + 1, heartbeat_at=now)

    def _free(
        self, connection: Connection, partition: str, owner: str, need: Need, priority: int
    ) -> Lease | Refusal:
        now = self._database.clock()
        found = _usable_slots(connection, need, now)
        if isinstance(found, Refusal):
            return found
        ahead, waits = _ahead_of(connection, partition, need.kind.value, need.host, priority, now)
        if ahead >= found.partitions:
            return Refusal(f"{_NO_FREE_SLOT}: {ahead} more urgent or earlier ones wait as well")
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
                        SLOT.c.partition.is_(None),
                    )
                    .values(
                        partition=partition,
                        part=part,
                        owner=owner,
                        token=token,
                        acquired_at=now,
                        heartbeat_at=now,
                    )
                )
                if taken.rowcount != 1:
                    all_or_none.rollback()
                    return Refusal(_NO_FREE_SLOT)
        if waits:
            _remove_waiting(connection, partition)
        lease = _of(connection, partition)
        return lease if lease is not None else Refusal(_NO_FREE_SLOT)

    def renew(self, lease: Lease) -> Lease:
        """Show that the owner is alive; at once or not at all, since others count the seconds.

        Raises:
            LeaseLostError: The lease was freed or passed to another owner.
        """
        return self._changed(lease, patient=False, heartbeat_at=self._database.clock())

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
        with self._database.write() as connection:
            return connection.execute(update(SLOT).where(*held).values(**_FREE)).rowcount > 0

    def get(self, partition: str) -> Lease | None:
        """The lease of a partition."""
        with self._database.read() as connection:
            return _of(connection, partition)

    def all(self) -> list[Lease]:
        """Every lease, by host, kind and index of its first slot."""
        with self._database.read() as connection:
            return _leases(connection.execute(_BY_PLACE.where(SLOT.c.partition.is_not(None))).all())

    def with_slots(self) -> tuple[list[Slot], list[Lease]]:
        """Every slot and every lease at one moment, in the order of `all`."""
        with self._database.read() as connection:
            rows = connection.execute(_BY_PLACE).all()
        return [slot_of(row) for row in rows], _leases([row for row in rows if row.partition is not None])

    def stop_waiting(self, partition: str, owner: str) -> None:
        """Forget that a run waits; nothing where it does not."""
        with self._database.write() as connection:
            _remove_waiting(connection, partition, owner)

    def _swap(self, connection: Connection, lease: Lease, **values: object) -> Lease | Refusal:
        changed = connection.execute(update(SLOT).where(*_held(lease)).values(**values))
        now = _of(connection, lease.partition)
        if changed.rowcount != len(lease.slots) or now is None:
            return Refusal(f"another run than {lease.owner} is at work on it", at_work=True)
        return now

    def _changed(self, lease: Lease, *, patient: bool = True, **values: object) -> Lease:
        with self._database.write(patient=patient) as connection:
            changed = self._swap(connection, lease, **values)
        if isinstance(changed, Refusal):
            raise LeaseLostError(f"the lease of {lease.partition} has passed to another owner")
        return changed


def _limit_reached(connection: Connection, at_once: AtOnce | None) -> Refusal | None:
    if at_once is None:
        return None
    leased = connection.execute(select(SLOT.c.partition).where(SLOT.c.partition.is_not(None))).scalars()
    if len({one for one in leased if at_once.alike(one)}) < at_once.most:
        return None
    return Refusal(f"{at_once.most} of its kind are at work ({at_once.setting})")


def _leases(rows: Sequence[Row[tuple[object, ...]]]) -> list[Lease]:
    by_partition: dict[str, list[Row[tuple[object, ...]]]] = {}
    for row in rows:
        by_partition.setdefault(str(row.partition), []).append(row)
    return [_lease(of_one) for of_one in by_partition.values()]


def _lease(rows: Sequence[Row[tuple[object, ...]]]) -> Lease:
    parts = sorted((row._mapping for row in rows), key=lambda values: values["part"])
    first = parts[0]
    return Lease(
        **{
            name: first[name]
            for name in ("partition", "owner", "host", "token", "acquired_at", "heartbeat_at")
        },
        slots=tuple(
            LeasedSlot(SlotKind(one["kind"]), one["slot_index"], one["uuid"], one["memory_mb"])
            for one in parts
        ),
        executor=first["executor"],
        job_id=first["job_id"],
    )


def _held(lease: Lease) -> list[ColumnElement[bool]]:
    # All slots of a partition change hands together: these three name the same rows while it has them.
    return [SLOT.c.partition == lease.partition, SLOT.c.owner == lease.owner, SLOT.c.token == lease.token]


def _of(connection: Connection, partition: str) -> Lease | None:
    rows = connection.execute(select(SLOT).where(SLOT.c.partition == partition)).all()
    return _lease(rows) if rows else None


@dataclass(frozen=True, slots=True)
class _Free:
    """What can be leased now."""

    slots: Sequence[Row[Any]]
    """As many as one partition needs, of one host."""
    partitions: int
    """How many could have theirs."""


def _usable_slots(connection: Connection, need: Need, now: datetime) -> _Free | Refusal:
    """The free slots, or why there are not enough for one partition.

    Args:
        connection: Inside the transaction that takes them.
        need: Of the partition.
        now: The time.
    """
    wanted = [SLOT.c.kind == need.kind.value]
    if need.host is not None:
        wanted.append(SLOT.c.host == need.host)
    rows = connection.execute(select(SLOT).where(*wanted).order_by(SLOT.c.host, SLOT.c.slot_index)).all()
    samples = {}
    if need.max_sample_age:
        samples = {(row.host, row.uuid): usage(row) for row in connection.execute(select(GPU)).all()}
    free: dict[str, list[Row[Any]]] = {}
    hindered: list[tuple[str, str]] = []
    lost = by_sample = False
    for row in rows:
        sample = samples.get((row.host, row.uuid))
        why = _hindrance(row, sample)
        lost |= (gone := slot_of(row).lost)
        if not why and sample is not None and sample.is_fresh(now, need.max_sample_age):
            why = sample.unfit(need.memory_mb)
            by_sample |= bool(why)
        if why:
            name = f"{row.kind}{row.slot_index}"
            hindered.append((why, f"{name} ({row.uuid})" if need.max_sample_age and gone else name))
        else:
            free.setdefault(row.host, []).append(row)
    enough = [rows for rows in free.values() if len(rows) >= need.count]
    if enough:
        return _Free(enough[0][: need.count], sum(len(rows) // need.count for rows in enough))
    lost &= bool(need.max_sample_age)
    reason = _reason(need, free.values(), hindered)
    return Refusal(f"{reason}. {_LOST}" if lost else reason, by_sample or lost)


def absence(seen_at: datetime | None) -> str:
    """In words, that a slot is not there, and since when where somebody has sampled it."""
    return "not there any more" if seen_at is None else f"not seen since {seen_at:%Y-%m-%d %H:%M} UTC"


def _hindrance(row: Row[Any], sample: GpuUsage | None) -> str:
    if row.partition is not None:
        return "leased"
    if row.switched_off_at is not None:
        return f"switched off ({row.switched_off_reason})"
    if not row.in_service:
        return absence(None if sample is None else sample.seen_at)
    return ""


def _reason(need: Need, free: Iterable[Sequence[Row[Any]]], hindered: list[tuple[str, str]]) -> str:
    words = []
    for why, count in Counter(why for why, _ in hindered).items():
        names = ", ".join(name for one, name in hindered if one == why)
        words.append(f"{count} leased" if why == "leased" else f"{count} {why}: {names}")
    most = max((len(rows) for rows in free), default=0)
    if need.count > 1:
        words.append(f"{most} of the {need.count} that are needed are free")
    return f"{_NO_FREE_SLOT}: {'; '.join(words)}" if words else f"{_NO_FREE_SLOT}: there is none"


def _remove_waiting(connection: Connection, partition: str, owner: str | None = None) -> None:
    """Take a partition out of those that wait."""
    this = [WAITING.c.partition == partition, *([] if owner is None else [WAITING.c.owner == owner])]
    connection.execute(delete(WAITING).where(*this))


def _ahead_of(
    connection: Connection, partition: str, kind: str, host: str | None, priority: int, now: datetime
) -> tuple[int, bool]:
    """How many others wait for the same slots and come first, and whether this one is written down.

    Args:
        connection: Inside the transaction that would give the slot.
        partition: Who asks; it may wait already.
        kind: Kind of slot.
        host: Whose slots; None for any.
        priority: Of the asking partition, now.
        now: Rows whose time is over, or lies beyond any that is ever given, are of runs that are gone.
    """
    rows = connection.execute(select(WAITING)).all()
    alive = [row for row in rows if row.kind == kind and now <= row.until <= now + _LONGEST_WAIT]
    own = next((row for row in alive if row.partition == partition), None)
    since, owner = (now, "") if own is None else (own.since, own.owner)
    others = [row for row in alive if row.partition != partition and (host is None or row.host in ("", host))]
    position = (-priority, since, owner, partition)
    ahead = sum((-row.priority, row.since, row.owner, row.partition) < position for row in others)
    return ahead, any(row.partition == partition for row in rows)


def _note_waiting(connection: Connection, asked: Waiting) -> None:
    """Write down that a partition waits; the time since when stays while it does."""
    row = connection.execute(select(WAITING).where(WAITING.c.partition == asked.partition)).one_or_none()
    values = {
        "owner": asked.owner,
        "host": asked.host,
        "kind": asked.kind,
        "priority": asked.priority,
        "reason": asked.reason,
        "until": asked.until,
    }
    if row is None:
        connection.execute(insert(WAITING).values(partition=asked.partition, since=asked.since, **values))
        return
    same = all(row._mapping[name] == value for name, value in values.items() if name != "until")
    # Most polls change nothing: a write each would cost a disk's flush for every waiting run.
    if same and asked.since <= row.until and (row.until - asked.since) * 2 > asked.until - asked.since:
        return
    gone = row.until < asked.since
    connection.execute(
        update(WAITING)
        .where(WAITING.c.partition == asked.partition)
        .values(since=asked.since if gone else row.since, **values)
    )


class LeaseKeeper:
    """Renews a lease from a thread of its own, as a context manager.

    ``lost`` is set when the lease has passed to another owner: from then on this one must stop and touch
    neither job nor slot. A ledger that is away takes no lease from anybody; once it is back, the first
    renewal says whether the lease is still held.

    Args:
        leases: Where the lease stands.
        lease: The lease to keep.
        every: Time between renewals.
    """

    def __init__(self, leases: Leases, lease: Lease, *, every: timedelta) -> None:
        self._leases = leases
        self._lease = lease
        self._every = every.total_seconds()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease-{lease.partition}", daemon=True)
        self.lost = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Stop the owner whose lease is gone.

        Raises:
            LeaseLostError: The lease is lost.
        """
        if self.lost.is_set():
            raise LeaseLostError(f"the lease of {self._lease.partition} is lost")

    def _beat(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._leases.renew(self._lease)
            except LeaseLostError:
                self.lost.set()
                return
            except InfrastructureError:
                continue

"""Arrivals: what came in, why it waits, and what was asked of Dagster for it.

A row is one case, or one unit of another kind (`Arrival.kind`) in place of a case.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Row, Select, and_, delete, func, insert, or_, select, true, update

from mqi_dagster.errors import InfrastructureError, InputError
from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.tables import ARRIVAL

_AGAIN = "~"
"""Behind a fingerprint: the files are the same by name, size and time, and are to be taken in again."""

CASE = "case"
"""The kind of what comes into the inbox."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One case as it was last seen in the inbox, or one course as it was last seen in its tree."""

    case: str
    """Its key."""
    arrival: str
    """Keyed hash of the folder in the inbox, or of what a course is known by in its tree."""
    fingerprint: str
    ready: bool
    reason: str
    """Why it waits; empty where it does not."""
    priority: int
    first_seen: datetime
    changed_at: datetime
    next_check: datetime | None
    requested_fingerprint: str | None
    requested_at: datetime | None
    results_removed_at: datetime | None = None
    """When retention has last removed its results and partitions."""
    records_removed_at: datetime | None = None
    """When retention has last removed its runs."""
    marker_withdrawn_at: datetime | None = None
    """When its completion marker was last withdrawn at the target, for a result that it does not tell of."""
    kind: str = CASE
    """Name of the kind of its partition."""

    @property
    def files(self) -> str:
        """The fingerprint of the files alone, whenever they are to be taken in again."""
        return self.fingerprint.partition(_AGAIN)[0]

    @property
    def again_ns(self) -> int | None:
        """Since when they are to be taken in again [ns]; None where it is for their being new."""
        since = self.fingerprint.partition(_AGAIN)[2]
        return int(since, 16) if since else None

    @property
    def is_open(self) -> bool:
        """Whether a run has to be asked for."""
        return self.ready and self.fingerprint != self.requested_fingerprint


def taken_again(fingerprint: str, since_ns: int) -> str:
    """The fingerprint of files that are to be taken in again from a moment on [ns]."""
    return f"{fingerprint}{_AGAIN}{since_ns:x}"


_ASKED_AT_ONCE = 500
"""Names in one query; databases limit them."""

_OPEN = and_(ARRIVAL.c.ready, ARRIVAL.c.fingerprint.is_distinct_from(ARRIVAL.c.requested_fingerprint))


def _of_kind(kind: str | None) -> ColumnElement[bool]:
    return true() if kind is None else ARRIVAL.c.kind == kind


def _arrival(row: Row[tuple[object, ...]]) -> Arrival:
    return Arrival(**row._mapping)


class Arrivals:
    """The arrivals of the inbox, one row a case."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self,
        arrival: str,
        case: str,
        fingerprint: str,
        ready: bool,
        reason: str,
        next_check: datetime | None,
        priority: int | None = None,
        kind: str = CASE,
    ) -> Arrival:
        """Write down what the inbox shows of a case now; the time of first sight stays.

        Args:
            arrival: Keyed hash of the folder in the inbox.
            case: Case key.
            fingerprint: Changes with every change of the files.
            ready: Whether it can be taken.
            reason: Why it waits, without paths; empty where it is ready.
            next_check: When to look again, for people; None where nothing is waited for.
            priority: Higher ones are taken first; None: as before, 0 at first.
            kind: Name of the kind of its partition; stays as it was first written.
        """
        seen = {
            "arrival": arrival,
            "fingerprint": fingerprint,
            "ready": ready,
            "reason": reason,
            "next_check": next_check,
        }
        if priority is not None:
            seen["priority"] = priority
        query = select(ARRIVAL).where(ARRIVAL.c.case == case)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        # A scan meets every arrival again and again: only a change is worth a write.
        if row is not None and all(row._mapping[name] == value for name, value in seen.items()):
            return _arrival(row)
        with self._database.write() as connection:
            now = self._database.clock()
            changed = connection.execute(
                update(ARRIVAL).where(ARRIVAL.c.case == case).values(**seen, changed_at=now)
            )
            if changed.rowcount == 0:
                new = {"priority": 0, **seen, "case": case, "kind": kind, "first_seen": now}
                new["changed_at"] = now
                connection.execute(insert(ARRIVAL).values(**new))
            return _arrival(connection.execute(query).one())

    def take(self, arrival: str, case: str, fingerprint: str, kind: str, until: datetime) -> bool:
        """Write down what was asked for, and take its launch upon oneself; whether nobody else has done so.

        Args:
            arrival: Keyed hash of what it is known by.
            case: Key of its partition.
            fingerprint: Changes with every change of what it is made of.
            kind: Name of the kind of its partition.
            until: From then on whoever has taken it is given up. It ends before with `release`.
        """
        with self._database.write() as connection:
            now, this = self._database.clock(), ARRIVAL.c.case == case
            seen = {"arrival": arrival, "fingerprint": fingerprint, "ready": True, "reason": ""}
            row = connection.execute(select(ARRIVAL).where(this)).one_or_none()
            if row is None:
                new = {
                    **seen,
                    "case": case,
                    "kind": kind,
                    "priority": 0,
                    "first_seen": now,
                    "changed_at": now,
                }
                connection.execute(insert(ARRIVAL).values(**new, next_check=until))
                return True
            changed = any(row._mapping[name] != value for name, value in seen.items())
            values: dict[str, object] = {**seen, "changed_at": now} if changed else {}
            removed = row.results_removed_at
            if removed is not None and (row.requested_at is None or row.requested_at <= removed):
                values["requested_fingerprint"] = None
            free = row.next_check is None or row.next_check <= now
            if free:
                values["next_check"] = until
            if values:
                connection.execute(update(ARRIVAL).where(this).values(**values))
            return free

    def release(self, case: str) -> None:
        """Whoever took the launch upon oneself is done with it."""
        self._mark(case, "next_check", None)

    def set_priority(self, case: str, priority: int) -> Arrival:
        """Say how urgent a case is: higher ones come first, 0 is ordinary.

        Raises:
            InputError: The case was never seen.
        """
        with self._database.write() as connection:
            this = ARRIVAL.c.case == case
            values = {"priority": priority, "changed_at": self._database.clock()}
            if connection.execute(update(ARRIVAL).where(this).values(**values)).rowcount == 0:
                raise InputError(f"no case {case} is known here; see `mqi case list`")
            return _arrival(connection.execute(select(ARRIVAL).where(this)).one())

    def priorities(self, cases: Collection[str]) -> dict[str, int]:
        """How urgent cases are, the most urgent first, then as they came; those never seen are left out."""
        query = (
            select(ARRIVAL.c.case, ARRIVAL.c.priority)
            .where(ARRIVAL.c.case.in_(sorted(cases)))
            .order_by(ARRIVAL.c.priority.desc(), ARRIVAL.c.first_seen, ARRIVAL.c.case)
        )
        with self._database.read() as connection:
            return {str(row.case): int(row.priority) for row in connection.execute(query).all()}

    def open(self, limit: int, kind: str | None = None) -> list[Arrival]:
        """What is ready and for whose present files no run was asked yet, most urgent first.

        Args:
            limit: Most of them.
            kind: Of this kind alone; None: of every kind.
        """
        return self._arrivals(
            select(ARRIVAL)
            .where(_OPEN, _of_kind(kind))
            .order_by(ARRIVAL.c.priority.desc(), ARRIVAL.c.first_seen, ARRIVAL.c.case)
            .limit(limit)
        )

    def waiting(self, kind: str | None = None) -> list[Arrival]:
        """What cannot be taken yet, oldest first; see `open`."""
        waits = select(ARRIVAL).where(~ARRIVAL.c.ready, _of_kind(kind))
        return self._arrivals(waits.order_by(ARRIVAL.c.first_seen, ARRIVAL.c.case))

    def all(self, kind: str | None = None) -> list[Arrival]:
        """Everything that was ever seen, oldest first; see `open`."""
        seen = select(ARRIVAL).where(_of_kind(kind))
        return self._arrivals(seen.order_by(ARRIVAL.c.first_seen, ARRIVAL.c.case))

    def changed_since(self, moment: datetime) -> tuple[int, list[Arrival]]:
        """How many cases there are, and those whose row has changed at or after a moment."""
        newer = or_(
            *(
                column >= moment
                for column in (
                    ARRIVAL.c.changed_at,
                    ARRIVAL.c.requested_at,
                    ARRIVAL.c.results_removed_at,
                    ARRIVAL.c.records_removed_at,
                    ARRIVAL.c.marker_withdrawn_at,
                )
            )
        )
        with self._database.read() as connection:
            count = connection.execute(select(func.count()).select_from(ARRIVAL)).scalar_one()
            rows = connection.execute(select(ARRIVAL).where(newer)).all()
        return int(count), [_arrival(row) for row in rows]

    def get(self, case: str) -> Arrival | None:
        """One case, or None where it was never seen."""
        found = self._arrivals(select(ARRIVAL).where(ARRIVAL.c.case == case))
        return found[0] if found else None

    def get_many(self, cases: Collection[str]) -> dict[str, Arrival]:
        """The rows of some cases; those never seen are left out."""
        wanted = sorted(set(cases))
        parts = [wanted[at : at + _ASKED_AT_ONCE] for at in range(0, len(wanted), _ASKED_AT_ONCE)]
        rows = [
            row for part in parts for row in self._arrivals(select(ARRIVAL).where(ARRIVAL.c.case.in_(part)))
        ]
        return {row.case: row for row in rows}

    def mark_requested(self, case: str, fingerprint: str) -> None:
        """Note that a run was asked for these files of the case.

        Raises:
            InfrastructureError: The case was never seen.
        """
        with self._database.write() as connection:
            marked = connection.execute(
                update(ARRIVAL)
                .where(ARRIVAL.c.case == case)
                .values(
                    requested_fingerprint=fingerprint, requested_at=self._database.clock(), next_check=None
                )
            )
            if marked.rowcount == 0:
                raise InfrastructureError(f"case {case} was requested but never seen")

    def take_again(self, case: str) -> None:
        """Have a case taken in anew, although its files are as they were; nothing where it is about to be.

        Raises:
            InputError: The case was never seen.
        """
        this = ARRIVAL.c.case == case
        with self._database.write() as connection:
            row = connection.execute(select(ARRIVAL).where(this)).one_or_none()
            if row is None:
                raise InputError(f"no case {case} is known here; see `mqi case list`")
            known, now = _arrival(row), self._database.clock()
            if not known.is_open:
                fingerprint = taken_again(known.files, int(now.timestamp() * 1e9))
                connection.execute(
                    update(ARRIVAL).where(this).values(fingerprint=fingerprint, changed_at=now)
                )

    def forget_unrequested(self, arrival: str, keep: Collection[str]) -> int:
        """Drop what a folder of the inbox was taken for before it could be read.

        Args:
            arrival: Keyed hash of the folder.
            keep: Cases that it holds now.

        Returns:
            How many cases were dropped; those for which a run was ever asked stay.
        """
        with self._database.write() as connection:
            dropped = connection.execute(
                delete(ARRIVAL).where(
                    ARRIVAL.c.arrival == arrival,
                    ARRIVAL.c.case.not_in(sorted(keep)),
                    ARRIVAL.c.requested_fingerprint.is_(None),
                )
            )
            return int(dropped.rowcount)

    def forget_removed(self, arrivals: Collection[str]) -> int:
        """Let go of what waits in folders that were removed from the inbox.

        A case for which a run was ever asked is again what it was then; any other is dropped.

        Args:
            arrivals: Keyed hashes of the folders.

        Returns:
            How many cases waited there.
        """
        waits = and_(ARRIVAL.c.arrival.in_(sorted(set(arrivals))), ~ARRIVAL.c.ready)
        asked = ARRIVAL.c.requested_fingerprint
        with self._database.write() as connection:
            back = {"ready": True, "reason": "", "next_check": None, "changed_at": self._database.clock()}
            dropped = connection.execute(delete(ARRIVAL).where(waits, asked.is_(None)))
            kept = connection.execute(update(ARRIVAL).where(waits).values(fingerprint=asked, **back))
            return int(dropped.rowcount + kept.rowcount)

    def forget(self, case: str) -> None:
        """Drop a case that stood for files which are another case now; nothing where it was never seen."""
        with self._database.write() as connection:
            connection.execute(delete(ARRIVAL).where(ARRIVAL.c.case == case))

    def mark_results_removed(self, case: str) -> None:
        """Note that the results of a case are removed; nothing where it was never seen."""
        self._mark(case, "results_removed_at", self._database.clock())

    def unmark_results_removed(self, case: str, before: datetime | None) -> None:
        """Take that note back, of a removal that was called off.

        Args:
            case: Case key.
            before: What `results_removed_at` was.
        """
        self._mark(case, "results_removed_at", before)

    def mark_records_removed(self, case: str) -> None:
        """Note that the runs of a removed case are removed; nothing where it was never seen."""
        self._mark(case, "records_removed_at", self._database.clock())

    def mark_marker_withdrawn(self, case: str) -> None:
        """Note that the completion marker of a case is withdrawn; nothing where it was never seen."""
        self._mark(case, "marker_withdrawn_at", self._database.clock())

    def removed_with_records(self, before: datetime) -> list[str]:
        """Cases whose results were removed before a moment, and whose runs were not since, in that order.

        One for whose present files a run has still to be asked for is left out.
        """
        results, records = ARRIVAL.c.results_removed_at, ARRIVAL.c.records_removed_at
        query = (
            select(ARRIVAL.c.case)
            .where(results < before, or_(records.is_(None), records < results), ~_OPEN)
            .order_by(results, ARRIVAL.c.case)
        )
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def results_removed_at(self, case: str) -> datetime | None:
        """When retention has last removed the results of a case; None where it never has."""
        row = self.get(case)
        return None if row is None else row.results_removed_at

    def _mark(self, case: str, column: str, moment: datetime | None) -> None:
        with self._database.write() as connection:
            connection.execute(update(ARRIVAL).where(ARRIVAL.c.case == case).values({column: moment}))

    def _arrivals(self, query: Select[tuple[object, ...]]) -> list[Arrival]:
        with self._database.read() as connection:
            return [_arrival(row) for row in connection.execute(query).all()]

"""Attempts: the starts of the engine for a partition."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from mqi_dagster.errors import LeaseLostError
from mqi_dagster.ledger.database import Database, batched
from mqi_dagster.ledger.tables import ATTEMPT


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """The engine failed: the only outcome that costs budget."""
    CANCELLED = "cancelled"
    LOST = "lost"
    """The worker or another part of the infrastructure went away."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of the engine for a partition, continued by every run that takes it over."""

    id: int
    partition: str
    digest: str
    number: int
    run_id: str
    started_at: datetime
    ended_at: datetime | None
    outcome: Outcome | None
    cause: str | None

    @property
    def job_key(self) -> str:
        """Key of the attempt's job: the same for every run that continues it."""
        return f"{self.digest}-{self.number}"


def _attempt(row: Row[tuple[object, ...]]) -> Attempt:
    values = dict(row._mapping)
    values["outcome"] = None if values["outcome"] is None else Outcome(values["outcome"])
    return Attempt(**values)


def _newest(connection: Connection, partition: str, digest: str) -> Row[Any] | None:
    return connection.execute(
        select(ATTEMPT)
        .where(ATTEMPT.c.partition == partition, ATTEMPT.c.digest == digest)
        .order_by(ATTEMPT.c.id.desc())
        .limit(1)
    ).one_or_none()


class Attempts:
    """The attempts of every partition; nothing that ended is ever overwritten."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, partition: str, digest: str, run_id: str) -> Attempt:
        """The attempt that a run works on.

        An unfinished one is continued and its run replaced. After a failure the number rises; after any
        other end a new row carries the same number, so that the history stays.

        Args:
            partition: Partition key.
            digest: Digest of what is to be made.
            run_id: The run that works on it from now on.
        """
        with self._database.write() as connection:
            now, last = self._database.clock(), _newest(connection, partition, digest)
            if last is not None and last.outcome is None:
                row_id = int(last.id)
                connection.execute(update(ATTEMPT).where(ATTEMPT.c.id == row_id).values(run_id=run_id))
            else:
                number = 1
                if last is not None:
                    number = int(last.number) + (1 if last.outcome == Outcome.FAILED else 0)
                made = connection.execute(
                    insert(ATTEMPT)
                    .values(partition=partition, digest=digest, number=number, run_id=run_id, started_at=now)
                    .returning(ATTEMPT.c.id)
                )
                row_id = int(made.scalar_one())
            return _attempt(connection.execute(select(ATTEMPT).where(ATTEMPT.c.id == row_id)).one())

    def end(self, attempt: Attempt, outcome: Outcome | str, cause: str | None = None) -> Attempt:
        """Write down how an attempt ended; saying the same twice changes nothing.

        Args:
            attempt: As its run knows it.
            outcome: How it ended.
            cause: Text of the first error, without paths and identifiers.

        Raises:
            LeaseLostError: Another run continues the attempt, or it has ended in another way.
        """
        ended = Outcome(outcome)
        with self._database.write() as connection:
            connection.execute(
                update(ATTEMPT)
                .where(
                    ATTEMPT.c.id == attempt.id,
                    ATTEMPT.c.run_id == attempt.run_id,
                    ATTEMPT.c.outcome.is_(None),
                )
                .values(outcome=ended.value, cause=cause, ended_at=self._database.clock())
            )
            now = _attempt(connection.execute(select(ATTEMPT).where(ATTEMPT.c.id == attempt.id)).one())
        if now.run_id != attempt.run_id:
            raise LeaseLostError(f"attempt {now.number} of {now.partition} has passed to another run")
        if now.outcome is not ended:
            raise LeaseLostError(f"attempt {now.number} of {now.partition} has already ended: {now.outcome}")
        return now

    def record_success(self, partition: str, digest: str, run_id: str) -> None:
        """Write down that what an attempt was to make is verified and published, where its run died before.

        An attempt that had ended in another way stays so, and the success gets a row with the same number.

        Args:
            partition: Partition key; nobody may hold its lease.
            digest: Digest of what is published.
            run_id: The run that has found it.
        """
        now, succeeded = self._database.clock(), Outcome.SUCCEEDED.value
        with self._database.write() as connection:
            last = _newest(connection, partition, digest)
            if last is None or last.outcome == succeeded:
                return
            if last.outcome is None:
                ended = {"outcome": succeeded, "ended_at": now}
                connection.execute(update(ATTEMPT).where(ATTEMPT.c.id == last.id).values(ended))
                return
            connection.execute(
                insert(ATTEMPT).values(
                    partition=partition,
                    digest=digest,
                    number=last.number,
                    run_id=run_id,
                    started_at=now,
                    ended_at=now,
                    outcome=succeeded,
                )
            )

    def history(self, partition: str) -> list[Attempt]:
        """Every attempt of a partition, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(ATTEMPT).where(ATTEMPT.c.partition == partition).order_by(ATTEMPT.c.id)
            ).all()
        return [_attempt(row) for row in rows]

    def newest(self, partitions: Collection[str]) -> dict[str, Attempt]:
        """The newest attempt of each partition that has one, in one question for every few hundred."""
        found: dict[str, Attempt] = {}
        with self._database.read() as connection:
            for some in batched(partitions):
                newest = (
                    select(func.max(ATTEMPT.c.id))
                    .where(ATTEMPT.c.partition.in_(some))
                    .group_by(ATTEMPT.c.partition)
                )
                rows = connection.execute(select(ATTEMPT).where(ATTEMPT.c.id.in_(newest))).all()
                found.update((row.partition, _attempt(row)) for row in rows)
        return found

    def succeeded(self, partitions: Collection[str]) -> set[tuple[str, str]]:
        """Partition and job key of every attempt of these partitions whose result was verified and published.

        One that is made anew begins with the same key: only the newest attempt at a digest tells.
        """
        found: set[tuple[str, str]] = set()
        with self._database.read() as connection:
            for some in batched(partitions):
                newest = (
                    select(func.max(ATTEMPT.c.id))
                    .where(ATTEMPT.c.partition.in_(some))
                    .group_by(ATTEMPT.c.partition, ATTEMPT.c.digest)
                )
                rows = connection.execute(
                    select(ATTEMPT).where(
                        ATTEMPT.c.id.in_(newest), ATTEMPT.c.outcome == Outcome.SUCCEEDED.value
                    )
                ).all()
                found |= {(attempt.partition, attempt.job_key) for attempt in map(_attempt, rows)}
        return found

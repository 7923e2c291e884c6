"""Live progress: where every partition is while its engine runs."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, insert, select, update

from mqi_dagster.ledger.database import Database, batched
from mqi_dagster.ledger.tables import PROGRESS


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """The newest report on a partition."""

    partition: str
    run_id: str
    attempt: int
    phase: str
    batch: int | None
    batches: int | None
    percent: float
    histories: float | None
    message: str
    updated_at: datetime


def _progress(row: Row[tuple[object, ...]]) -> ProgressReport:
    return ProgressReport(**row._mapping)


class ProgressReports:
    """One row a partition; the newest report replaces the one before."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self,
        partition: str,
        run_id: str,
        phase: str,
        batch: int | None = None,
        batches: int | None = None,
        percent: float = 0.0,
        histories: float | None = None,
        message: str = "",
        *,
        attempt: int = 1,
    ) -> ProgressReport:
        """Write down how far a partition is.

        Args:
            partition: Partition key.
            run_id: The run that works on it.
            phase: What it is doing.
            batch: Batch in work, from 1.
            batches: Number of batches.
            percent: 0 to 100; never goes back within one attempt of one run.
            histories: Histories simulated so far.
            message: For people, without paths and identifiers.
            attempt: Number of the attempt.
        """
        if not math.isfinite(percent):
            raise ValueError("percent is not a number")
        bounded = min(100.0, max(0.0, percent))
        query = select(PROGRESS).where(PROGRESS.c.partition == partition)
        with self._database.write() as connection:
            row = connection.execute(query).one_or_none()
            if row is not None and (row.run_id, row.attempt) == (run_id, attempt):
                bounded = max(bounded, row.percent)
            values = {
                "run_id": run_id,
                "attempt": attempt,
                "phase": phase,
                "batch": batch,
                "batches": batches,
                "percent": bounded,
                "histories": histories,
                "message": message,
                "updated_at": self._database.clock(),
            }
            if row is None:
                connection.execute(insert(PROGRESS).values(partition=partition, **values))
            else:
                connection.execute(update(PROGRESS).where(PROGRESS.c.partition == partition).values(**values))
            return _progress(connection.execute(query).one())

    def get(self, partition: str) -> ProgressReport | None:
        """The newest report on a partition."""
        with self._database.read() as connection:
            row = connection.execute(select(PROGRESS).where(PROGRESS.c.partition == partition)).one_or_none()
        return None if row is None else _progress(row)

    def get_many(self, partitions: Collection[str]) -> dict[str, ProgressReport]:
        """The newest report on each partition that has one, in one question for every few hundred."""
        found: dict[str, ProgressReport] = {}
        with self._database.read() as connection:
            for some in batched(partitions):
                rows = connection.execute(select(PROGRESS).where(PROGRESS.c.partition.in_(some))).all()
                found.update((row.partition, _progress(row)) for row in rows)
        return found

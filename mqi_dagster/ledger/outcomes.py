"""How runs have ended that did not succeed, and when what is worth it is tried again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Row, insert, select, update

from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.tables import RUN_OUTCOME

_LONGEST_WAIT = timedelta(days=1)


class RunVerdict(StrEnum):
    """What the end of a run means."""

    RETRY = "retry"
    """Infrastructure was lost: it is tried again by itself."""
    FAILED = "failed"
    """For good, until a person does something."""
    CANCELLED = "cancelled"
    """An operator has ended it, or has taken its next try back."""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The end of one run."""

    run_id: str
    job: str
    partition: str
    verdict: RunVerdict
    code: str
    """Class of the error (docs/checks.md); empty where there is none."""
    cause: str
    """The first error's own words."""
    ended_at: datetime
    first_at: datetime
    """When the first of the tries in a row ended that only infrastructure has ended."""
    tries: int
    """How many there were, this one included."""
    next_try_at: datetime | None = None
    settled_at: datetime | None = None
    """When the next run was there, or nobody waited for it any more."""


def _outcome(row: Row[tuple[object, ...]]) -> RunOutcome:
    values = dict(row._mapping)
    values["verdict"] = RunVerdict(values["verdict"])
    return RunOutcome(**values)


class RunOutcomes:
    """One row a run that failed or was cancelled."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, outcome: RunOutcome) -> RunOutcome:
        """Write down how a run has ended; what is known of it already stays."""
        query = select(RUN_OUTCOME).where(RUN_OUTCOME.c.run_id == outcome.run_id)
        with self._database.write() as connection:
            if connection.execute(query).one_or_none() is None:
                values = {**asdict(outcome), "verdict": outcome.verdict.value}
                connection.execute(insert(RUN_OUTCOME).values(**values))
            return _outcome(connection.execute(query).one())

    def get_many(self, run_ids: Collection[str]) -> dict[str, RunOutcome]:
        """What is known of some runs, by run id."""
        query = select(RUN_OUTCOME).where(RUN_OUTCOME.c.run_id.in_(sorted(set(run_ids))))
        with self._database.read() as connection:
            return {row.run_id: _outcome(row) for row in connection.execute(query).all()}

    def open_retries(self, limit: int | None = None) -> list[RunOutcome]:
        """Every try that is still to come, the next one first."""
        query = (
            select(RUN_OUTCOME)
            .where(RUN_OUTCOME.c.settled_at.is_(None), RUN_OUTCOME.c.next_try_at.is_not(None))
            .order_by(RUN_OUTCOME.c.next_try_at, RUN_OUTCOME.c.run_id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [_outcome(row) for row in connection.execute(query).all()]

    def due_retries(self, limit: int) -> list[RunOutcome]:
        """The tries whose time has come, the longest due first."""
        now = self._database.clock()
        # A moment further away than any wait is of a clock that was set back.
        due = (RUN_OUTCOME.c.next_try_at <= now) | (RUN_OUTCOME.c.next_try_at > now + _LONGEST_WAIT)
        query = (
            select(RUN_OUTCOME)
            .where(RUN_OUTCOME.c.settled_at.is_(None), due)
            .order_by(RUN_OUTCOME.c.next_try_at, RUN_OUTCOME.c.run_id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [_outcome(row) for row in connection.execute(query).all()]

    def bring_forward(self, code: str) -> int:
        """Make every try due that waits because of one class of error; how many there were."""
        now = self._database.clock()
        with self._database.write() as connection:
            done = connection.execute(
                update(RUN_OUTCOME)
                .where(
                    RUN_OUTCOME.c.code == code,
                    RUN_OUTCOME.c.settled_at.is_(None),
                    RUN_OUTCOME.c.next_try_at > now,
                )
                .values(next_try_at=now)
            )
            return int(done.rowcount)

    def settle(self, run_ids: Collection[str]) -> None:
        """Write down that nobody waits for the next try of some runs: it exists, or is not wanted."""
        if run_ids:
            with self._database.write() as connection:
                connection.execute(
                    update(RUN_OUTCOME)
                    .where(RUN_OUTCOME.c.run_id.in_(sorted(set(run_ids))), RUN_OUTCOME.c.settled_at.is_(None))
                    .values(settled_at=self._database.clock())
                )

    def take_back(self, run_ids: Collection[str]) -> None:
        """Write down that a person does not want the next try of some runs: what they hold is given up."""
        if run_ids:
            with self._database.write() as connection:
                connection.execute(
                    update(RUN_OUTCOME)
                    .where(
                        RUN_OUTCOME.c.run_id.in_(sorted(set(run_ids))),
                        RUN_OUTCOME.c.settled_at.is_(None),
                        RUN_OUTCOME.c.verdict == RunVerdict.RETRY.value,
                    )
                    .values(verdict=RunVerdict.CANCELLED.value, settled_at=self._database.clock())
                )

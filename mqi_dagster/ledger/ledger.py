"""The ledger as everybody uses it: one part for each subject, over one database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Self

from sqlalchemy import Column, ColumnElement, delete, func, or_, select, update

from mqi_dagster.ledger.accounts import Accounts, Sessions, Tokens
from mqi_dagster.ledger.alarms import Alarms
from mqi_dagster.ledger.arrivals import Arrivals
from mqi_dagster.ledger.attempts import Attempts
from mqi_dagster.ledger.audit import Audit
from mqi_dagster.ledger.cluster_jobs import ClusterJobs
from mqi_dagster.ledger.clusters import Clusters
from mqi_dagster.ledger.database import Database, utc_now
from mqi_dagster.ledger.fractions import Fractions
from mqi_dagster.ledger.gpus import Gpus
from mqi_dagster.ledger.idempotency import Idempotency
from mqi_dagster.ledger.key_check import KeyCheck
from mqi_dagster.ledger.leases import Leases
from mqi_dagster.ledger.notices import Notices
from mqi_dagster.ledger.outcomes import RunOutcomes
from mqi_dagster.ledger.progress import ProgressReports
from mqi_dagster.ledger.signatures import Signatures
from mqi_dagster.ledger.slots import Slots
from mqi_dagster.ledger.tables import (
    ALARM,
    ARRIVAL,
    ATTEMPT,
    CLUSTER_JOB,
    NOTICE,
    NOTICED_STATUS,
    PROGRESS,
    RUN_OUTCOME,
    WAITING,
    WORK_JOB,
)
from mqi_dagster.ledger.work import Workers, WorkJobs


class Ledger:
    """What a site keeps beside Dagster's records.

    One object may be used by many threads, and by a process and the children it forks.

    Args:
        database: At the newest revision.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.key_check = KeyCheck(database)
        self.fractions = Fractions(database)
        self.arrivals = Arrivals(database)
        self.slots = Slots(database)
        self.gpus = Gpus(database)
        self.leases = Leases(database)
        self.attempts = Attempts(database)
        self.progress = ProgressReports(database)
        self.clusters = Clusters(database)
        self.jobs = ClusterJobs(database)
        self.outcomes = RunOutcomes(database)
        self.alarms = Alarms(database)
        self.notices = Notices(database)
        self.accounts = Accounts(database)
        self.sessions = Sessions(database)
        self.tokens = Tokens(database)
        self.audit = Audit(database)
        self.signatures = Signatures(database)
        self.idempotency = Idempotency(database)
        self.work = WorkJobs(database)
        self.workers = Workers(database)

    @classmethod
    def open(cls, url: str, clock: Callable[[], datetime] = utc_now) -> Self:
        """Open a ledger, making or migrating its tables first where needed; see `Database.open`."""
        return cls(Database.open(url, clock))

    @classmethod
    def open_reading(cls, url: str, clock: Callable[[], datetime] = utc_now) -> Self:
        """Open a ledger for reading alone; see `Database.open_reading`."""
        return cls(Database.open_reading(url, clock))

    def close(self) -> None:
        """Let go of the database; safe to call twice."""
        self.database.close()

    def forget_case(self, case: str, instead: str) -> int:
        """Remove the key of a case, of which nothing is in work, from every row but those of its number.

        Alarms and notices stay, since their numbers count, and bear another key.

        Args:
            case: Case key.
            instead: The key that alarms and notices bear from then on.

        Returns:
            How many folders of its jobs still stand on clusters: they and their rows go later, by themselves.
        """
        with self.database.write() as connection:
            jobs, stands = _of(CLUSTER_JOB.c.partition, case), CLUSTER_JOB.c.removed_at.is_(None)
            connection.execute(delete(CLUSTER_JOB).where(jobs, ~stands))
            # By its attempts a folder is known to be needed no more.
            kept = select(CLUSTER_JOB.c.partition).where(jobs)
            connection.execute(
                delete(ATTEMPT).where(_of(ATTEMPT.c.partition, case), ATTEMPT.c.partition.not_in(kept))
            )
            for column in (
                ARRIVAL.c.case,
                WAITING.c.partition,
                PROGRESS.c.partition,
                RUN_OUTCOME.c.partition,
                NOTICED_STATUS.c.partition,
                WORK_JOB.c.partition,
            ):
                connection.execute(delete(column.table).where(_of(column, case)))
            now = self.database.clock()
            connection.execute(
                update(ALARM)
                .where(_of(ALARM.c.subject, case), ALARM.c.cleared_at.is_(None))
                .values(cleared_at=now)
            )
            for table in (ALARM, NOTICE):
                connection.execute(
                    update(table)
                    .where(or_(_of(table.c.subject, case), table.c.text.contains(case, autoescape=True)))
                    .values(
                        subject=func.replace(table.c.subject, case, instead),
                        text=func.replace(table.c.text, case, instead),
                    )
                )
            return int(
                connection.execute(select(func.count()).select_from(CLUSTER_JOB).where(jobs)).scalar_one()
            )


def _of(column: Column[str], case: str) -> ColumnElement[bool]:
    """Rows of a case and of its beams."""
    return or_(column == case, column.startswith(f"{case}__", autoescape=True))

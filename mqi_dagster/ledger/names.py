"""Names under which a case stands in the ledger, and its removal from there."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Column, ColumnElement, and_, delete, func, or_, select, update

from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.tables import (
    ALARM,
    ARRIVAL,
    ATTEMPT,
    CLUSTER_JOB,
    DELIVERY,
    FRACTION,
    NOTICE,
    PROGRESS,
    RUN_OUTCOME,
    WAITING,
)


def _of(column: Column[str], case: str) -> ColumnElement[bool]:
    """Rows of a case and of its beams."""
    return or_(column == case, column.startswith(f"{case}__", autoescape=True))


class NameRows(Database):
    """Every row that holds the key of a case."""

    def known_under(self, deliveries: Collection[str]) -> list[tuple[str, int]]:
        """The plan names and fraction numbers that any of these deliveries was ever given.

        Args:
            deliveries: Identities of deliveries, as keyed hashes.
        """
        query = (
            select(DELIVERY.c.plan, DELIVERY.c.number)
            .where(DELIVERY.c.delivery.in_(sorted(set(deliveries))))
            .distinct()
            .order_by(DELIVERY.c.plan, DELIVERY.c.number)
        )
        with self._read() as connection:
            return [(str(row.plan), int(row.number)) for row in connection.execute(query).all()]

    def forget_case(self, case: str, instead: str) -> int:
        """Remove the key of a case, of which nothing is in work, from every row but those of its number.

        Alarms and notices stay, since their numbers count, and bear another key.

        Args:
            case: Case key.
            instead: The key that alarms and notices bear from then on.

        Returns:
            How many folders of its jobs still stand on clusters: they and their rows go later, by themselves.
        """
        with self._write() as connection:
            jobs, stands = _of(CLUSTER_JOB.c.beam, case), CLUSTER_JOB.c.removed_at.is_(None)
            connection.execute(delete(CLUSTER_JOB).where(jobs, ~stands))
            # By its attempts a folder is known to be needed no more.
            kept = select(CLUSTER_JOB.c.beam).where(jobs)
            connection.execute(delete(ATTEMPT).where(_of(ATTEMPT.c.beam, case), ATTEMPT.c.beam.not_in(kept)))
            for column in (ARRIVAL.c.case, WAITING.c.beam, PROGRESS.c.beam, RUN_OUTCOME.c.partition):
                connection.execute(delete(column.table).where(_of(column, case)))
            now = self._clock()
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

    def forget_fraction(self, plan: str, number: int) -> None:
        """Remove a plan's fraction with its deliveries: last, for by them it is found."""
        with self._write() as connection:
            for table in (DELIVERY, FRACTION):
                connection.execute(delete(table).where(and_(table.c.plan == plan, table.c.number == number)))

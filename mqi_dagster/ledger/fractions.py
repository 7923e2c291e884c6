"""Fraction numbers: given once, in the order of first sight."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import and_, delete, func, insert, select

from mqi_dagster.errors import InputError
from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.tables import DELIVERY, FRACTION


class Fractions:
    """The fractions of every plan and the deliveries by which they are recognised."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def number(self, plan: str, deliveries: Collection[str]) -> int:
        """The number of the fraction that these deliveries are.

        A fraction is recognised by any delivery it shares with what is known of the plan; otherwise it gets
        the plan's next number. Numbers are never reused and never move.

        Args:
            plan: Pseudonym of the plan.
            deliveries: Identities of the fraction's deliveries, as keyed hashes.

        Raises:
            InputError: There is no delivery, or they belong to two fractions already known.
        """
        wanted = sorted(set(deliveries))
        if not wanted:
            raise InputError("a fraction without a delivery has no number")
        with self._database.write() as connection:
            rows = connection.execute(
                select(DELIVERY.c.delivery, DELIVERY.c.number).where(DELIVERY.c.plan == plan)
            ).all()
            known = {row.delivery: row.number for row in rows}
            numbers = sorted({known[delivery] for delivery in wanted if delivery in known})
            if len(numbers) > 1:
                raise InputError(
                    "these deliveries belong to fractions that are already known as "
                    + " and ".join(str(number) for number in numbers)
                )
            if numbers:
                number = int(numbers[0])
            else:
                last = connection.execute(
                    select(func.max(FRACTION.c.number)).where(FRACTION.c.plan == plan)
                ).scalar()
                number = int(last or 0) + 1
                connection.execute(
                    insert(FRACTION).values(plan=plan, number=number, first_seen=self._database.clock())
                )
            new = [
                {"plan": plan, "delivery": delivery, "number": number}
                for delivery in wanted
                if delivery not in known
            ]
            if new:
                connection.execute(insert(DELIVERY), new)
            return number

    def known_of(self, plan: str) -> dict[str, int]:
        """The number that each delivery of a plan belongs to, by its identity."""
        query = select(DELIVERY.c.delivery, DELIVERY.c.number).where(DELIVERY.c.plan == plan)
        with self._database.read() as connection:
            return {str(row.delivery): int(row.number) for row in connection.execute(query).all()}

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
        with self._database.read() as connection:
            return [(str(row.plan), int(row.number)) for row in connection.execute(query).all()]

    def forget(self, plan: str, number: int) -> None:
        """Remove a plan's fraction with its deliveries: last, for by them it is found."""
        with self._database.write() as connection:
            for table in (DELIVERY, FRACTION):
                connection.execute(delete(table).where(and_(table.c.plan == plan, table.c.number == number)))

"""Rows of a ledger that the platform writes and asks for in other ways."""

from __future__ import annotations

from sqlalchemy import select

from mqi_dagster.ledger.leases import Waiting
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.progress import ProgressReport
from mqi_dagster.ledger.tables import DELIVERY, PROGRESS, WAITING


def deliveries_by_fraction(ledger: Ledger, plan: str) -> dict[int, set[str]]:
    """The known deliveries of every fraction of a plan."""
    with ledger.database.read() as connection:
        rows = connection.execute(select(DELIVERY).where(DELIVERY.c.plan == plan)).all()
    return {row.number: {one.delivery for one in rows if one.number == row.number} for row in rows}


def waiting(ledger: Ledger) -> list[Waiting]:
    """Every partition whose run waits for a slot now, the most urgent and then the longest first."""
    query = select(WAITING).order_by(WAITING.c.priority.desc(), WAITING.c.since)
    with ledger.database.read() as connection:
        rows = connection.execute(query.where(WAITING.c.until >= ledger.database.clock())).all()
    return [Waiting(**row._mapping) for row in rows]


def progress_reports(ledger: Ledger) -> dict[str, ProgressReport]:
    """The newest report on every partition."""
    with ledger.database.read() as connection:
        partitions = connection.execute(select(PROGRESS.c.partition)).scalars().all()
    return ledger.progress.get_many(partitions)

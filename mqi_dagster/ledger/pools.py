"""The limit that a person has set for a pool."""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.tables import POOL


class PoolRows(Database):
    """What people have said about pools; nothing where the settings decide alone."""

    def set_pool_limit(self, name: str, most_runs: int | None) -> None:
        """Write down how many runs may stand in a pool at most; None: as many as its slots allow."""
        with self._write() as connection:
            connection.execute(delete(POOL).where(POOL.c.name == name))
            if most_runs is not None:
                connection.execute(insert(POOL).values(name=name, most_runs=most_runs, set_at=self._clock()))

    def pool_limit(self, name: str) -> int | None:
        """The limit that a person has set, None where nobody has."""
        with self._read() as connection:
            found = connection.execute(
                select(POOL.c.most_runs).where(POOL.c.name == name)
            ).scalar_one_or_none()
        return None if found is None else int(found)

"""The key check value of the site's secret: the secret itself stands in no ledger."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, inspect, select

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.ledger.database import Database, read_any_revision
from mqi_dagster.ledger.tables import ARRIVAL, FRACTION, KEY_CHECK

_SECRET = "secret"


class KeyCheck:
    """Whether the secret of the site is the one that its cases were named with."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def require(self, check: str) -> None:
        """Compare the key check value of the secret in use; the first one that comes is written down.

        Args:
            check: A keyed hash of a constant.

        Raises:
            ConfigurationError: It is that of another secret.
        """
        known = self.value()
        if known is None:
            with self._database.write() as connection:
                known = _known(connection)
                if known is None:
                    connection.execute(
                        insert(KEY_CHECK).values(name=_SECRET, value=check, set_at=self._database.clock())
                    )
                    return
        if known != check:
            raise ConfigurationError(
                "the secret is not the one that this site's cases were named with: put that one back from a"
                " backup; another would name every case anew and simulate it again (`mqi init --new-secret`)"
            )

    def value(self) -> str | None:
        """The key check value that is written down, None where no secret was in use yet."""
        with self._database.read() as connection:
            return _known(connection)

    def forget(self) -> None:
        """Let the next secret be another one."""
        with self._database.write() as connection:
            connection.execute(delete(KEY_CHECK).where(KEY_CHECK.c.name == _SECRET))

    def names_cases(self) -> bool:
        """Whether something stands here under names that only the secret can give again."""
        with self._database.read() as connection:
            tables = (ARRIVAL, FRACTION, KEY_CHECK)
            return any(connection.execute(select(func.count()).select_from(one)).scalar() for one in tables)


def key_check_in(url: str) -> str | None:
    """The key check value in a ledger of any revision, which is not migrated by looking; None if it has none.

    Raises:
        ConfigurationError: The URL is of no known kind.
        InfrastructureError: The database cannot be reached or read.
    """
    with read_any_revision(url) as connection:
        return _known(connection) if inspect(connection).has_table(KEY_CHECK.name) else None


def _known(connection: Connection) -> str | None:
    found = connection.execute(
        select(KEY_CHECK.c.value).where(KEY_CHECK.c.name == _SECRET)
    ).scalar_one_or_none()
    return None if found is None else str(found)

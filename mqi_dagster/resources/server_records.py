"""Dagster's records on PostgreSQL, by connections that are kept for as long as an instance is open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage, PostgresScheduleStorage
from sqlalchemy import create_engine

from mqi_dagster.dagster_internals import ConfigurableClassData, UserConfigSchema

_KEPT, _MOST = 1, 20
_RECYCLE_SECONDS = 1800


class _Events(PostgresEventLogStorage):
    def dispose(self) -> None:
        """Give the connections back with the instance, of which a code location opens one a tick."""
        super().dispose()
        self._engine.dispose()


class ServerRecords(DagsterPostgresStorage):
    """Dagster's own storage on PostgreSQL, but for its connections.

    Dagster's opens 2.3 a question, at four times the processor time; only the web server can keep them.

    Runs, events and ticks share one pool. It keeps one connection, and finds out before each use whether the
    server is still at its other end. Tables are made by `make_tables`, not by whoever opens an instance.

    Args:
        postgres_url: Of the database.
        inst_data: What Dagster has made this from.
    """

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(postgres_url, should_autocreate_tables=False, inst_data=inst_data)
        self._event_log_storage = _Events(postgres_url, should_autocreate_tables=False)
        # As Dagster makes it, which takes no options of its pool.
        engine = create_engine(
            postgres_url,
            isolation_level="AUTOCOMMIT",
            pool_size=_KEPT,
            max_overflow=_MOST - _KEPT,
            pool_pre_ping=True,
            pool_recycle=_RECYCLE_SECONDS,
            connect_args={"application_name": "mqi-dagster"},
        )
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = engine

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """What may stand in ``dagster.yaml``."""
        return {"postgres_url": dg.StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> ServerRecords:
        """From what stands in ``dagster.yaml``."""
        return cls(str(config_value["postgres_url"]), inst_data)


def share_connections(instance: dg.DagsterInstance) -> None:
    """Ask for ticks by the connections of events, of an instance whose storages keep some each."""
    events, ticks = instance.event_log_storage, instance.schedule_storage
    if isinstance(events, PostgresEventLogStorage) and isinstance(ticks, PostgresScheduleStorage):
        ticks._engine.dispose()
        ticks._engine = events._engine


def make_tables(postgres_url: str) -> None:
    """Make Dagster's tables where the database has none."""
    DagsterPostgresStorage(postgres_url)

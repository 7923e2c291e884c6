"""Dagster's records in SQLite files, by connections that are kept for as long as an instance is open."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import dagster as dg
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, inspect, text
from sqlalchemy.exc import DatabaseError, DisconnectionError, OperationalError

from mqi_dagster.dagster_internals import (
    INDEX_SHARD_NAME,
    ConfigurableClassData,
    DagsterSqliteStorage,
    SqliteEventLogStorage,
    SqliteRunStorage,
    SqliteScheduleStorage,
    UserConfigSchema,
)
from mqi_dagster.files import write_whole

_BUSY_SECONDS = 30.0
_KEPT, _MOST = 1, 20
_PAGE_BYTES = 1024
"""Of a run's own file, most of whose 40 tables and indexes stay empty at a page each."""


def _kept(path: Path) -> Engine:
    """An engine whose connection stays open for as long as its file is the one at that path."""
    engine = create_engine(
        f"sqlite:///{path.absolute()}",
        pool_size=_KEPT,
        max_overflow=_MOST - _KEPT,
        connect_args={"timeout": _BUSY_SECONDS},
    )

    def opening(_dialect: object, record: Any, _arguments: object, _named: object) -> None:
        record.info.update(file=_identity(path), fresh=True)

    def taken(_connection: object, record: Any, _proxy: object) -> None:
        # A fresh one is compared at its next use: of a file that others write all the time none would do.
        if record.info.pop("fresh", False):
            return
        # Restored or damaged meanwhile: SQLite would answer from what it has read before. It writes there
        # itself, but only when its log is full.
        if record.info["file"] != _identity(path):
            raise DisconnectionError("the file is another one now")

    event.listen(engine, "do_connect", opening)
    event.listen(engine, "checkout", taken)
    return engine


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _has_tables(engine: Engine, path: Path) -> bool:
    """Whether a file has Dagster's tables; Dagster reads all of its migrations to find that out."""
    if not path.exists():
        return False
    try:
        with engine.connect() as connection:
            return connection.execute(text("SELECT version_num FROM alembic_version")).first() is not None
    except OperationalError as error:
        if "no such table" not in str(error.orig):
            raise
        return False


class _OneFile:
    """What two of Dagster's storages have in common, each of which is one file."""

    _engine: Engine

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with self._engine.connect() as connection, connection.begin():
            yield connection

    def dispose(self) -> None:
        self._engine.dispose()


class _Runs(_OneFile, SqliteRunStorage):
    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engine = _kept(Path(conn_string.removeprefix("sqlite:///")))
        super().__init__(conn_string, inst_data)

    @classmethod
    def from_local(cls, base_dir: str, inst_data: ConfigurableClassData | None = None) -> Self:
        path = Path(base_dir).absolute() / "runs.db"
        made = cls(f"sqlite:///{path}", inst_data)
        if _has_tables(made._engine, path):
            return made
        made._engine.dispose()
        return super().from_local(base_dir, inst_data)


class _Ticks(_OneFile, SqliteScheduleStorage):
    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engine = _kept(Path(conn_string.removeprefix("sqlite:///")))
        super().__init__(conn_string, inst_data)

    @classmethod
    def from_local(
        cls, base_dir: str, inst_data: ConfigurableClassData | None = None
    ) -> SqliteScheduleStorage:
        path = Path(base_dir).absolute() / "schedules.db"
        made = cls(f"sqlite:///{path}", inst_data)
        if _has_tables(made._engine, path):
            return made
        made._engine.dispose()
        return super().from_local(base_dir, inst_data)


class _Events(SqliteEventLogStorage):
    def __init__(self, base_dir: str, ticks: SqliteScheduleStorage) -> None:
        self._index = _kept(Path(base_dir) / f"{INDEX_SHARD_NAME}.db")
        self._ticks = ticks
        self._run_file = Path()
        # Closed after every write: Dagster's pages watch the file of a run for what SQLite writes back then.
        self._of_a_run = create_engine(
            "sqlite://",
            poolclass=NullPool,
            creator=lambda: sqlite3.connect(self._run_file, timeout=_BUSY_SECONDS),
        )
        event.listen(self._of_a_run, "connect", _small_pages)
        self._empty = Path(base_dir).with_name(f"empty-run-{dg.__version__}.sqlite")
        super().__init__(base_dir)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            path, engine = Path(self.path_for_shard(shard)), self._index
            if shard != INDEX_SHARD_NAME:
                self._run_file, engine = path, self._of_a_run
            if shard not in self._initialized_dbs:
                if engine is self._of_a_run and not path.exists():
                    self._begin_run(path)
                if not _has_tables(engine, path):
                    self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    def _begin_run(self, path: Path) -> None:
        """Begin a run's file as a copy of an empty one: to make one, Dagster reads all its migrations."""
        # Whoever only reads makes no file. With the log of a removed file SQLite alone knows what to do.
        if self._only_reads() or path.with_name(f"{path.name}-wal").exists():
            return
        try:
            if not self._empty_is_sound():
                self._make_empty()
        finally:
            self._run_file = path
        # Another process may be first: what it has written stays.
        write_whole(path, self._empty.read_bytes(), replace=False)

    def _only_reads(self) -> bool:
        with self._index.connect() as connection:
            return bool(connection.execute(text("PRAGMA query_only")).scalar())

    def _empty_is_sound(self) -> bool:
        self._run_file = self._empty
        try:
            return _has_tables(self._of_a_run, self._empty)
        except DatabaseError:
            return False

    def _make_empty(self) -> None:
        self._run_file = self._empty.with_name(f".{self._empty.name}.{secrets.token_hex(6)}")
        try:
            self._initdb(self._of_a_run)
            self._run_file.replace(self._empty)
        finally:
            for left in self._run_file.parent.glob(f"{self._run_file.name}*"):
                left.unlink(missing_ok=True)

    def has_table(self, table_name: str) -> bool:
        with self._index.connect() as connection:
            return inspect(connection).has_table(table_name)

    def dispose(self) -> None:
        super().dispose()
        self._index.dispose()
        # Which an instance that is closed does not ask.
        self._ticks.dispose()


def _small_pages(connection: sqlite3.Connection, _record: object) -> None:
    # Counts for a file that is still empty.
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}").close()


class FileRecords(DagsterSqliteStorage):
    """Dagster's own storage in files, but for its connections.

    Dagster's makes an engine and a connection for every question, and reads all of its migrations in every
    process: most of the processor time of a run in which nothing is computed.

    Runs, ticks and the index of events keep one connection each, which is made anew where its file was
    replaced. The files, their tables and what they hold are Dagster's.

    Args:
        base_dir: Dagster's folder.
        inst_data: What Dagster has made this from.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        # Not Dagster's own, which would open each file the other way first.
        super(DagsterSqliteStorage, self).__init__()  # type: ignore[no-untyped-call]
        self.base_dir = base_dir
        self._inst_data = inst_data
        history = Path(base_dir) / "history"
        self._run_storage = _Runs.from_local(str(history))
        self._schedule_storage = _Ticks.from_local(str(Path(base_dir) / "schedules"))
        self._event_log_storage = _Events(str(history / "runs"), self._schedule_storage)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """What may stand in ``dagster.yaml``."""
        return {"base_dir": dg.StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> FileRecords:
        """From what stands in ``dagster.yaml``."""
        # As Dagster itself reads DAGSTER_HOME.
        return cls(str(Path(config_value["base_dir"]).expanduser()), inst_data)

"""Opening the ledger's database, and the one way to read from and write to it.

The same code works on SQLite and PostgreSQL. Writes happen one at a time on both: a ``BEGIN IMMEDIATE``
there, an advisory lock for the length of the transaction here. A ledger may be used from any thread and on
both sides of a fork: a connection to a file does not outlive its transaction; those to a server, which starts
a process for each, are kept, and a forked child makes its own. After a restart of the server new ones are
made.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, unquote

from sqlalchemy import Connection, Engine, NullPool, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from mqi_dagster.backoff import Backoff
from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.ledger.tables import REVISION, VERSION_TABLE

if TYPE_CHECKING:
    from alembic.config import Config

_BUSY_SECONDS = 30
_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
CONNECTION = {**_KEEPALIVES, "connect_timeout": 10, "tcp_user_timeout": 30_000}
"""An address behind which nobody is must not hold a process for minutes, nor a line that was cut."""
_SERVER = {
    **CONNECTION,
    "application_name": "mqi-ledger",
    "options": (
        f"-c timezone=UTC -c lock_timeout={_BUSY_SECONDS}s -c statement_timeout={2 * _BUSY_SECONDS}s"
        f" -c idle_in_transaction_session_timeout={2 * _BUSY_SECONDS}s"
    ),
}
_CONNECTING = Backoff(0.05, 1.0)
_ADVISORY_KEY = 0x6D716C64
_KEYS_AT_ONCE = 500
_MIGRATIONS = Path(__file__).parent / "migrations"
_SERVERS: weakref.WeakSet[Engine] = weakref.WeakSet()
# Alembic keeps the revision it runs in module globals.
_ALEMBIC = threading.Lock()


def utc_now() -> datetime:
    """The time of this machine, in UTC."""
    return datetime.now(UTC)


def batched(keys: Iterable[str]) -> Iterator[list[str]]:
    """The keys, in lists that one question may name on every database."""
    rest = sorted(keys)
    for begin in range(0, len(rest), _KEYS_AT_ONCE):
        yield rest[begin : begin + _KEYS_AT_ONCE]


def sqlite_url(path: Path) -> str:
    """The URL of a ledger in the file ``path``."""
    return URL.create("sqlite", database=str(path.absolute())).render_as_string(hide_password=False)


class Database:
    """A database at the newest revision, with read and write transactions.

    Args:
        engine: Where to connect to.
        clock: Tells the time in UTC; replaced in tests.
    """

    patience_seconds = float(_BUSY_SECONDS)
    """How long a server that is away is waited for, as a busy file is."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime] = utc_now) -> None:
        self._engine = engine
        self.clock = clock

    @classmethod
    def open(
        cls, url: str, clock: Callable[[], datetime] = utc_now, *, patience_seconds: float | None = None
    ) -> Self:
        """Open the ledger, making or migrating its tables first where needed.

        Args:
            url: ``sqlite:////folder/ledger.db`` or ``postgresql://…``.
            clock: Tells the time in UTC; replaced in tests.
            patience_seconds: How long a server that is away is waited for; None: as usual.

        Raises:
            ConfigurationError: The URL is of no known kind, or a newer program has written the ledger.
            InfrastructureError: The database cannot be reached.
        """
        engine = _engine(url)
        patience = cls.patience_seconds if patience_seconds is None else patience_seconds
        with _plain_errors():
            if _revision(engine, patience) != REVISION:
                _migrate(engine)
        made = cls(engine, clock)
        made.patience_seconds = patience
        return made

    @classmethod
    def open_reading(cls, url: str, clock: Callable[[], datetime] = utc_now) -> Self:
        """Open the ledger for reading alone: nothing is made, migrated or locked, and writing fails.

        Args:
            url: As for `open`.
            clock: Tells the time in UTC; replaced in tests.

        Raises:
            ConfigurationError: The URL is of no known kind, or the ledger is of another revision.
            InfrastructureError: The database cannot be reached, or holds no ledger yet.
        """
        engine = _engine(url, reading=True)
        with _plain_errors():
            found = _revision(engine)
        if found is None:
            raise InfrastructureError("there is no ledger yet; the services make it when they start")
        if found != REVISION:
            raise ConfigurationError(
                _newer(found)
                if found not in _known_revisions()
                else f"the ledger is at revision {found} and this version reads {REVISION}: the services "
                "migrate it when they start"
            )
        return cls(engine, clock)

    def close(self) -> None:
        """Let go of the database; safe to call twice."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database."""
        with _plain_errors(), _connected(self._engine, self.patience_seconds) as connection:
            yield connection

    @contextmanager
    def write(self, *, patient: bool = True) -> Iterator[Connection]:
        """A transaction that nobody else writes beside.

        Args:
            patient: Whether a server that is away is waited for.
        """
        patience = self.patience_seconds if patient else 0.0
        with _plain_errors(), _writing(self._engine, patience) as connection:
            yield connection


def _connected(engine: Engine, patience_seconds: float) -> Connection:
    """A connection; a server that does not take one now is asked again for a while.

    Only connecting is repeated: nothing was sent yet.
    """
    limit, failures = time.monotonic() + patience_seconds, 0
    while True:
        try:
            return engine.connect()
        except OperationalError as error:
            hopeless = engine.dialect.name != "postgresql" or any(
                words in str(error.orig) for words in ("authentication failed", "does not exist")
            )
            failures += 1
            wait = _CONNECTING.seconds(failures)
            if hopeless or time.monotonic() + wait > limit:
                raise
        time.sleep(wait)


@contextmanager
def _writing(engine: Engine, patience_seconds: float = 0.0) -> Iterator[Connection]:
    connected = _connected(engine, patience_seconds).execution_options(mqi_writes=True)
    with connected as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_KEY})
        yield connection


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
        raise InfrastructureError(f"the ledger's database failed: {reason[0]}") from None
    except sqlite3.Error as error:
        # In the preparation of a connection, of a file that is no database.
        raise InfrastructureError(f"the ledger's database failed: {error}") from None


def _forget_connections() -> None:
    for engine in list(_SERVERS):
        # They are the parent's: not even a farewell may be sent on them.
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_connections)


def _engine(url: str, *, reading: bool = False) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError("the ledger's URL cannot be read") from None
    if parsed.drivername == "postgresql":
        # SQLAlchemy 2.1 reads the bare name as psycopg 3; Dagster brings psycopg 2.
        parsed = parsed.set(drivername="postgresql+psycopg2")
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigurationError("the ledger must be a file or a server, several processes share it")
        if reading:
            parsed = parsed.set(database=f"file:{quote(parsed.database)}").update_query_dict(
                {"mode": "ro", "uri": "true"}
            )
        engine = create_engine(
            parsed, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": _BUSY_SECONDS}
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.get_backend_name() == "postgresql":
        reads = " -c default_transaction_read_only=on" if reading else ""
        engine = create_engine(
            parsed,
            pool_size=1,
            max_overflow=20,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={**_SERVER, "options": f"{_SERVER['options']}{reads}"},
        )
        _SERVERS.add(engine)
        return engine
    raise ConfigurationError("the ledger lives in SQLite or PostgreSQL, the URL names neither")


def _prepare_sqlite(dbapi_connection: Any, _record: object) -> None:
    # The driver must not begin transactions of its own: `_begin_sqlite` decides of which kind they are.
    dbapi_connection.isolation_level = None
    for pragma in (f"busy_timeout = {_BUSY_SECONDS * 1000}", "synchronous = FULL", "foreign_keys = ON"):
        dbapi_connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("mqi_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _as_it_is(url: str, *, reading: bool = False) -> Iterator[Engine]:
    """A ledger of whatever revision, which is not migrated, until the end of the block."""
    engine = _engine(url, reading=reading)
    try:
        with _plain_errors():
            yield engine
    finally:
        engine.dispose()


def revision_of(url: str) -> str | None:
    """The revision of a ledger, which is not migrated by looking; None where there is no ledger yet.

    Raises:
        ConfigurationError: The URL is of no known kind.
        InfrastructureError: The database cannot be reached or read.
    """
    with _as_it_is(url) as engine:
        return _revision(engine)


@contextmanager
def read_any_revision(url: str) -> Iterator[Connection]:
    """A connection to a ledger as it is, for what several revisions have in common.

    Raises:
        ConfigurationError: The URL is of no known kind.
        InfrastructureError: The database cannot be reached or read.
    """
    with _as_it_is(url, reading=True) as engine, engine.connect() as connection:
        yield connection


def try_out(url: str) -> None:
    """Read a ledger from its first page to its last, and write to it; nothing is changed.

    Raises:
        InfrastructureError: It is damaged, cannot be written, or cannot be reached.
    """
    with _as_it_is(url) as engine:
        if engine.dialect.name == "sqlite":
            with engine.connect() as connection:
                said = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())
            if said != "ok":
                raise InfrastructureError(f"the ledger is damaged: {said.splitlines()[-1]}")
        connected = _connected(engine, 0.0).execution_options(mqi_writes=True)
        with connected as connection, connection.begin() as written:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = version_num"))
            written.rollback()


@contextmanager
def standing_still(url: str) -> Iterator[None]:
    """Hold off every writer of a ledger, of whatever revision: within it the ledger does not change.

    Raises:
        InfrastructureError: The database cannot be reached.
    """
    with _as_it_is(url) as engine, _writing(engine, Database.patience_seconds):
        yield


def _revision(engine: Engine, patience_seconds: float = 0.0) -> str | None:
    """The revision of the database: None where there is no ledger yet."""
    if engine.dialect.name == "sqlite" and not _sqlite_file(engine).exists():
        return None
    with _connected(engine, patience_seconds) as connection:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one_or_none()
        return None if found is None else str(found)


def _sqlite_file(engine: Engine) -> Path:
    return Path(unquote(str(engine.url.database).removeprefix("file:")))


def _newer(found: str) -> str:
    return (
        f"the ledger is at revision {found}, which this version does not know: it was written by a "
        "newer one; update this installation or restore the backup"
    )


def _alembic_config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _known_revisions() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_alembic_config()).walk_revisions()}


def _migrate(engine: Engine) -> None:
    from alembic import command

    config = _alembic_config()
    with _ALEMBIC, _opened_by_one(engine):
        found = _revision(engine)
        if found is not None and found not in _known_revisions():
            raise ConfigurationError(_newer(found))
        with _writing(engine) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


@contextmanager
def _opened_by_one(engine: Engine) -> Iterator[None]:
    """On SQLite a lock file, since turning WAL on answers "locked" to a second process without waiting."""
    if engine.dialect.name != "sqlite":
        with nullcontext():
            yield
        return
    path = Path(str(engine.url.database))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            with engine.connect() as connection:
                driver = connection.connection.driver_connection
                assert driver is not None
                driver.execute("PRAGMA journal_mode = WAL").close()
            yield
        finally:
            os.close(lock)
    except OSError as error:
        raise InfrastructureError(f"the ledger's file cannot be made: {error.strerror}") from None

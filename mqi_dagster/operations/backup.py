"""Making a backup of a site, also while it works: settings, records, store, and a manifest of hashes."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy.engine import make_url

from mqi_dagster.errors import ConfigurationError, InfrastructureError, StoreError
from mqi_dagster.files import private_folder, sha256_file, sync_file, sync_folder, write_whole
from mqi_dagster.ledger.database import revision_of, standing_still
from mqi_dagster.ledger.glance import LEDGER_FILE, ledger_file
from mqi_dagster.ledger.location import ledger_url, server_url
from mqi_dagster.ledger.tables import REVISION, VERSION_TABLE
from mqi_dagster.lifecycle.image_set import sources_folder
from mqi_dagster.operations.instance import INSTANCE_FILE
from mqi_dagster.operations.site_folder import require_own_secret
from mqi_dagster.operations.sites import SETTINGS_NAME
from mqi_dagster.settings import Settings
from mqi_dagster.store.published import ResultFile
from mqi_dagster.store.store import Store

BACKUP_FORMAT = 1
BACKUP_MANIFEST = "backup.json"


class BackupManifest(BaseModel):
    """What stands in ``backup.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    made_at: datetime
    version: str
    """Of the installation that made it."""
    ledger_revision: str | None
    server: bool
    """Whether the records are a dump of a PostgreSQL database."""
    data: bool
    """Whether the store is in it."""
    files: dict[str, ResultFile]
    """By path relative to the backup."""


def write_manifest(
    folder: Path, *, version: str, ledger_revision: str | None, server: bool, data: bool
) -> BackupManifest:
    """List every file of a backup, which is whole from then on."""
    files = {
        path.relative_to(folder).as_posix(): ResultFile(sha256=sha256_file(path), size=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = BackupManifest(
        format=BACKUP_FORMAT,
        made_at=datetime.now(UTC),
        version=version,
        ledger_revision=ledger_revision,
        server=server,
        data=data,
        files=files,
    )
    write_whole(folder / BACKUP_MANIFEST, (manifest.model_dump_json(indent=1) + "\n").encode(), 0o600)
    return manifest


def read_manifest(folder: Path) -> BackupManifest:
    """The manifest of a backup whose every file was compared with it.

    Raises:
        ConfigurationError: It is no backup, of a newer format, or damaged; the file is named.
    """
    try:
        manifest = BackupManifest.model_validate_json((folder / BACKUP_MANIFEST).read_bytes())
    except FileNotFoundError:
        raise ConfigurationError(f"{folder} is no backup: it has no {BACKUP_MANIFEST}") from None
    except ValidationError:
        raise ConfigurationError(f"{BACKUP_MANIFEST} of the backup is damaged") from None
    if manifest.format > BACKUP_FORMAT:
        raise ConfigurationError(
            f"the backup has format {manifest.format}, this version reads {BACKUP_FORMAT}: update first"
        )
    for name, entry in manifest.files.items():
        path = folder / name
        if name.startswith("/") or ".." in Path(name).parts or path.is_symlink() or not path.is_file():
            raise ConfigurationError(f"{name} is missing from the backup")
        if path.stat().st_size != entry.size or sha256_file(path) != entry.sha256:
            raise ConfigurationError(
                f"{name} of the backup is damaged: its SHA-256 is not that of the manifest"
            )
    return manifest


_DEBIAN_PROGRAMS = Path("/usr/lib/postgresql")
_BUSY_SECONDS = 30.0
_CONNECT_SECONDS = 10


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database that may be in use, as it is at one moment.

    Raises:
        InfrastructureError: It cannot be read or written, or the copy is damaged.
    """
    private_folder(target.parent)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        reading = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
        writing = sqlite3.connect(target)
        try:
            reading.backup(writing)
            # A copy in WAL mode would grow two files beside itself as soon as somebody looks into it.
            writing.execute("PRAGMA journal_mode = DELETE").close()
        finally:
            writing.close()
            reading.close()
        _require_sound(target)
    except sqlite3.Error as error:
        raise InfrastructureError(f"{source.name} cannot be copied: {error}; it is damaged") from None


def _require_sound(copy: Path) -> None:
    """Read all of a copy: its pages are copied as they are, whatever stands in them.

    Raises:
        InfrastructureError: It is damaged, or empty.
    """
    opened = sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)
    try:
        found = [str(row[0]) for row in opened.execute("PRAGMA integrity_check(3)")]
        tables = opened.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
    finally:
        opened.close()
    if found != ["ok"]:
        raise InfrastructureError(
            f"{copy.name} is damaged: {found[0].splitlines()[0]}; restore the last good backup"
        )
    if not tables:
        raise InfrastructureError(f"{copy.name} is empty: its records are lost; restore the last good backup")


def dagster_databases(home: Path) -> list[Path]:
    """Dagster's SQLite files, in the order in which they are to be copied.

    What claims comes before what proves it: sensors' positions, then runs, then events. An older claim is
    made again and finds its result; a claim without proof would never be looked at again.
    """
    found = sorted(home.rglob("*.db"))

    def rank(path: Path) -> int:
        if path.parent.name == "schedules":
            return 0
        return 1 if path.name == "runs.db" else 3 if path.name == "index.db" else 2

    return sorted(found, key=rank)


def dump_server(url: str, target: Path) -> None:
    """Dump a PostgreSQL database as it is at one moment, in its own compressed format.

    Raises:
        ConfigurationError: There is no ``pg_dump`` here.
        InfrastructureError: It fails.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    _run(url, ["pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={target}"])
    if VERSION_TABLE not in _run(url, ["pg_restore", "--list", str(target)]):
        raise InfrastructureError("the dump holds no ledger: the backup would make no site")


def restore_server(url: str, dump: Path, *, overwrite: bool) -> None:
    """Read a dump into a database, all of it or nothing.

    Raises:
        ConfigurationError: There is no ``pg_restore`` here, or the database is not empty.
        InfrastructureError: It fails.
    """
    if not overwrite and (tables := _run(url, ["psql", "-XAtq", "-c", _COUNT_TABLES]).strip()) != "0":
        raise ConfigurationError(
            f"the database holds {tables} tables: name an empty one (--database), or give --overwrite"
        )
    clean = ["--clean", "--if-exists"] if overwrite else []
    options = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction", *clean]
    database = str(make_url(url).database)
    _run(url, ["pg_restore", *options, f"--dbname={database}", str(dump)])


_COUNT_TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"


def _run(url: str, argv: Sequence[str]) -> str:
    parsed = make_url(url)
    host, port = parsed.host or parsed.query.get("host"), parsed.port or parsed.query.get("port")
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        "PGHOST": str(host),
        "PGPORT": str(port),
        "PGUSER": str(parsed.username),
        "PGDATABASE": str(parsed.database),
        "PGCONNECT_TIMEOUT": str(_CONNECT_SECONDS),
        # In the environment only this user can read it; in a command everybody could.
        **({"PGPASSWORD": parsed.password} if parsed.password else {}),
    }
    done = subprocess.run(
        [str(_program(argv[0])), *argv[1:]],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InfrastructureError(f"{argv[0]} failed: {words[0]}")
    return done.stdout


def _program(name: str) -> Path:
    """The newest one: an older `pg_dump` refuses a newer server."""
    versions = [path for path in _DEBIAN_PROGRAMS.glob(f"*/bin/{name}") if path.parent.parent.name.isdigit()]
    if versions:
        return max(versions, key=lambda path: int(path.parent.parent.name))
    found = shutil.which(name)
    if found is None:
        raise ConfigurationError(f"{name} is not on this machine: install Debian's package postgresql-client")
    return Path(found)


PACKAGE = "mqi-dagster"
LAST_BACKUP = "last-backup.json"
DUMP = "database.dump"
DAGSTER, MACHINES, HU_TABLES, DATA, SECRET = "dagster", "machines", "hu", "data", "secret"
"""Names inside a backup."""
IMAGE_SETS = "image_sets"
"""What each was asked for: without it nobody knows which series of the PACS a request is of."""


def make_backup(settings_file: Path, settings: Settings, folder: Path, *, data: bool) -> BackupManifest:
    """Write a backup beside its place, and move it there when it is whole.

    Args:
        settings_file: Of the site.
        settings: Its content.
        folder: Where the backup shall stand; absent or empty.
        data: Whether the store goes with it.

    Raises:
        ConfigurationError: The folder holds something, or a newer version has written the ledger.
        InfrastructureError: A disk or the database failed; nothing is left at the folder.
        StoreError: A result in the copy is not what its manifest says; nothing is left at the folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is not empty: a backup gets a folder of its own")
    _require_known(revision_of(ledger_url(settings)))
    try:
        require_own_secret(settings)
    except ConfigurationError as error:
        raise ConfigurationError(f"the secret cannot be backed up: {error.message}") from None
    beside = folder.parent / f".{folder.name}.{secrets.token_hex(6)}"
    try:
        private_folder(folder.parent)
        private_folder(beside)
        _copy_settings(settings_file, settings, beside)
        revision = _copy_records(settings, beside)
        if data:
            # Last: the store may hold more than the event log names, and must not hold less.
            _copy_tree(Store(settings.paths.data).root, beside / DATA)
            _require_undamaged(beside / DATA)
        made = write_manifest(
            beside,
            version=metadata.version(PACKAGE),
            ledger_revision=revision,
            server=settings.database.host is not None,
            data=data,
        )
        for path in [*beside.rglob("*"), beside]:
            sync_folder(path) if path.is_dir() else sync_file(path)
        if folder.exists():
            folder.rmdir()
        beside.rename(folder)
        sync_folder(folder.parent)
        _note(settings, made)
    except OSError as error:
        raise InfrastructureError(f"the backup cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return made


def _copy_settings(settings_file: Path, settings: Settings, target: Path) -> None:
    _copy_file(settings_file, target / SETTINGS_NAME)
    _copy_file(settings.site.secret_file, target / SECRET)
    for name, folder, pattern in (
        (MACHINES, settings.paths.machines, "*.yaml"),
        (HU_TABLES, settings.paths.hu_tables, "*.yaml"),
        (IMAGE_SETS, sources_folder(settings), "*.json"),
    ):
        for path in sorted(folder.glob(pattern)):
            _copy_file(path, target / name / path.name)
    instance = settings.paths.dagster_home / INSTANCE_FILE
    if instance.is_file():
        _copy_file(instance, target / DAGSTER / INSTANCE_FILE)


def _require_known(revision: str | None) -> None:
    if revision is None:
        # `mqi init` makes one: it was lost, or is damaged beyond recognition.
        raise InfrastructureError("there is no ledger to back up: restore the last good backup")
    if revision > REVISION:
        raise ConfigurationError(
            f"the ledger is at revision {revision}, this version knows {REVISION}: update"
        )


def _copy_records(settings: Settings, target: Path) -> str:
    """Copy the ledger and Dagster's records so that each knows what the other relies on.

    The ledger stands still meanwhile. It gives a case its number before Dagster hears of the case, and
    notes a run only once Dagster has it: so Dagster, copied while the ledger cannot change, has every run
    that the ledger notes, and no case that the ledger does not know. Nothing is migrated: what a backup is
    made before stays as it is.

    Returns:
        The revision of the ledger in the copy.
    """
    server = server_url(settings)
    if server is not None:
        # One database, one moment.
        before = revision_of(server)
        dump_server(server, target / DUMP)
        _require_known(before)
        if revision_of(server) != before:
            raise InfrastructureError("the ledger was migrated meanwhile: make the backup again")
        return str(before)
    url = ledger_url(settings)
    with standing_still(url):
        revision = revision_of(url)
        _require_known(revision)
        for path in dagster_databases(settings.paths.dagster_home):
            copy_sqlite(path, target / DAGSTER / path.relative_to(settings.paths.dagster_home))
        copy_sqlite(ledger_file(settings), target / LEDGER_FILE)
    return str(revision)


def _copy_tree(source: Path, target: Path) -> None:
    for folder, names, files in os.walk(source, onerror=_raise):
        # Half-made and damaged results are no results; the links `current` are for people.
        names[:] = [name for name in sorted(names) if not name.startswith(".")]
        for file in sorted(files):
            path = Path(folder) / file
            if not path.is_symlink():
                _copy_file(path, target / path.relative_to(source))


def _require_undamaged(copied: Path) -> None:
    damaged = list(Store(copied).damaged())
    if damaged:
        raise StoreError(
            f"{damaged[0].message}; it is one of {len(damaged)} damaged results, and no backup was made:"
            " materialise them again, or back up without --data",
            where=damaged[0].where,
        )


def _raise(error: OSError) -> None:
    # A folder that cannot be read must not be missing in silence.
    raise error


def _copy_file(source: Path, target: Path) -> None:
    private_folder(target.parent)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with source.open("rb") as reading, os.fdopen(descriptor, "wb") as writing:
        shutil.copyfileobj(reading, writing, 1 << 20)


def _note(settings: Settings, made: BackupManifest) -> None:
    """Tell `mqi doctor` when the last backup was made."""
    content = json.dumps({"made_at": made.made_at.isoformat(), "data": made.data})
    write_whole(settings.paths.state / LAST_BACKUP, content.encode())

"""Making a backup of a site, also while it works."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from importlib import metadata
from pathlib import Path

from mqi_dagster.cli.backup_manifest import BackupManifest, write_manifest
from mqi_dagster.cli.backup_records import copy_sqlite, dagster_databases, dump_server
from mqi_dagster.cli.instance import INSTANCE_FILE
from mqi_dagster.cli.site_secret import require_own_secret
from mqi_dagster.cli.sites import SETTINGS_NAME
from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.ledger.database import revision_of, standing_still
from mqi_dagster.ledger.place import LEDGER_FILE, ledger_file, ledger_url, server_url
from mqi_dagster.ledger.tables import REVISION
from mqi_dagster.settings import Settings
from mqi_dagster.store.files import private_folder, sync_file, sync_folder, write_atomically
from mqi_dagster.store.store import Store

PACKAGE = "mqi-dagster"
LAST_BACKUP = "last-backup.json"
DUMP = "database.dump"
DAGSTER, MACHINES, HU_TABLES, DATA, SECRET = "dagster", "machines", "hu", "data", "secret"
"""Names inside a backup."""


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
    for name, folder in ((MACHINES, settings.paths.machines), (HU_TABLES, settings.paths.hu_tables)):
        for path in sorted(folder.glob("*.yaml")):
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
    write_atomically(settings.paths.state / LAST_BACKUP, content.encode())

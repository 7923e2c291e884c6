"""Making a site of a backup."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import yaml

from mqi_dagster.compute.run_workers import fail_orphaned_runs
from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.files import private_folder, sha256_file, whole_file, write_whole
from mqi_dagster.ledger.audit import Action
from mqi_dagster.ledger.glance import LEDGER_FILE, ledger_file
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.location import ledger_url, server_url
from mqi_dagster.ledger.tables import REVISION
from mqi_dagster.lifecycle.image_set import sources_folder
from mqi_dagster.operations import service_locks
from mqi_dagster.operations.backup import (
    DAGSTER,
    DATA,
    DUMP,
    HU_TABLES,
    IMAGE_SETS,
    MACHINES,
    SECRET,
    BackupManifest,
    dagster_databases,
    read_manifest,
    restore_server,
)
from mqi_dagster.operations.instance import open_instance, set_pool_limit, write_instance
from mqi_dagster.operations.services import Services
from mqi_dagster.operations.sites import SETTINGS_NAME
from mqi_dagster.people.rights import Actor
from mqi_dagster.resources.gpu_pool import this_host
from mqi_dagster.settings import LOCAL, Settings, parse_settings, read_content


def restore_backup(
    backup: Path, folder: Path, *, overwrite: bool = False, database: str | None = None
) -> BackupManifest:
    """Make a folder the site that a backup was made of; its settings are written last.

    A restore that is cut off leaves no site, and can be repeated with ``overwrite``.

    Args:
        backup: Folder of a backup.
        folder: The site's folder.
        overwrite: Whether what is there goes. The store is never removed: it is filled up.
        database: Name of another database on the server that the settings name.

    Raises:
        ConfigurationError: The backup is damaged, or newer than this version; services of the site run; or
            there is something that would be overwritten.
        InfrastructureError: A disk or the database failed.
    """
    manifest = read_manifest(backup)
    if manifest.ledger_revision is not None and manifest.ledger_revision > REVISION:
        raise ConfigurationError(
            f"the backup's ledger is at revision {manifest.ledger_revision}, this version knows {REVISION}:"
            " update this installation first"
        )
    content = read_content(backup / SETTINGS_NAME)
    text = (backup / SETTINGS_NAME).read_bytes()
    if database is not None:
        if not manifest.server:
            raise ConfigurationError("--database: the backup is of a site without a database server")
        content["database"] = {**content["database"], "name": database}
        text = yaml.safe_dump(content, sort_keys=False).encode()
    settings = parse_settings(content, folder.resolve())
    _require_free(folder, settings, overwrite=overwrite)
    try:
        private_folder(folder)
        (folder / SETTINGS_NAME).unlink(missing_ok=True)
        _put_back(backup, manifest, settings, overwrite=overwrite)
        write_whole(folder / SETTINGS_NAME, text)
    except OSError as error:
        raise InfrastructureError(f"the site cannot be written: {error.strerror}") from None
    return manifest


def _require_free(folder: Path, settings: Settings, *, overwrite: bool) -> None:
    # Services of version 0.1 hold no lock where `mqi dev` has started them.
    if service_locks.held(settings) or Services(folder / SETTINGS_NAME, settings).any_lives():
        raise ConfigurationError("services of this site are running: stop them first")
    if overwrite:
        return
    contents = [
        folder / SETTINGS_NAME,
        settings.site.secret_file,
        ledger_file(settings),
        settings.paths.dagster_home,
        settings.paths.data / "cases",
    ]
    for path in contents:
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise ConfigurationError(f"{path} is there already: give another folder, or --overwrite")


def _put_back(backup: Path, manifest: BackupManifest, settings: Settings, *, overwrite: bool) -> None:
    paths = settings.paths
    server = server_url(settings)
    if server is not None:
        restore_server(server, backup / DUMP, overwrite=overwrite)
    for beside in ("", "-wal", "-shm"):
        ledger_file(settings).with_name(f"{LEDGER_FILE}{beside}").unlink(missing_ok=True)
    shutil.rmtree(paths.dagster_home, ignore_errors=True)
    handover = [settings.handover.folder] if settings.handover.target == LOCAL else []
    # Without tables in the backup the folder stays absent: an empty one would be an error.
    hu_tables = [paths.hu_tables] if (backup / HU_TABLES).is_dir() else []
    folders = (paths.state, paths.dagster_home, paths.data, paths.machines, paths.inbox)
    for path in (*folders, *handover, *hu_tables):
        private_folder(path)
    targets = {
        DAGSTER: paths.dagster_home,
        MACHINES: paths.machines,
        HU_TABLES: paths.hu_tables,
        IMAGE_SETS: sources_folder(settings),
        DATA: paths.data,
    }
    for name in manifest.files:
        first, _, rest = name.partition("/")
        if first in targets:
            _copy(backup / name, targets[first] / rest)
    for database in dagster_databases(paths.dagster_home):
        _write_ahead(database)
    if LEDGER_FILE in manifest.files:
        _copy(backup / LEDGER_FILE, ledger_file(settings))
    _copy(backup / SECRET, settings.site.secret_file)
    ledger = Ledger.open(ledger_url(settings))
    write_instance(settings, ledger)
    with open_instance(settings) as instance:
        set_pool_limit(instance, settings, ledger)
        # Whatever was in work then is in nobody's hands here.
        fail_orphaned_runs(instance)
    # Who was signed in when the backup was made may have been signed out since.
    ledger.sessions.forget_all()
    actor = Actor.of_this_account()
    details = {"backup of": f"{manifest.made_at:%Y-%m-%d %H:%M} UTC"}
    ledger.audit.add(actor.name, actor.via, Action.RESTORED, "site", details=details)
    for lease in ledger.leases.all():
        host = settings.hosts.get(lease.host)
        if lease.host != this_host() and (host is None or host.slurm is None):
            # Of another machine, where nobody works for this site; a job on a cluster is taken over.
            ledger.leases.release(lease)


def _write_ahead(database: Path) -> None:
    """Give a copy the journal that Dagster sets once, at making: readers wait for no writer."""
    opened = sqlite3.connect(database)
    try:
        opened.execute("PRAGMA journal_mode = WAL").close()
    except sqlite3.Error as error:
        raise InfrastructureError(f"{database.name} cannot be opened: {error}") from None
    finally:
        opened.close()


def _copy(source: Path, target: Path) -> None:
    """A copy that its owner alone can read, unless the same is there: a result is never written again."""
    if target.is_file() and sha256_file(target) == sha256_file(source):
        target.chmod(0o600)
        return
    private_folder(target.parent)
    temporary = target.with_name(f".{target.name}.restoring")
    with source.open("rb") as reading, whole_file(target, temporary=temporary) as writing:
        shutil.copyfileobj(reading, writing, 1 << 20)

"""What a backup holds: a manifest with the SHA-256 of every file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.store.files import sha256_file, write_atomically
from mqi_dagster.store.published import FileEntry

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
    files: dict[str, FileEntry]
    """By path relative to the backup."""


def write_manifest(
    folder: Path, *, version: str, ledger_revision: str | None, server: bool, data: bool
) -> BackupManifest:
    """List every file of a backup, which is whole from then on."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_file(path), size=path.stat().st_size)
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
    write_atomically(folder / BACKUP_MANIFEST, (manifest.model_dump_json(indent=1) + "\n").encode(), 0o600)
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

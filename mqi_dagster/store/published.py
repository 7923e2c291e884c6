"""A published result: a folder that is what its manifest says."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mqi_dagster.errors import InfrastructureError, StoreError, Where
from mqi_dagster.files import sha256_file

MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class ResultFile(BaseModel):
    """One file of a result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    size: int


class Manifest(BaseModel):
    """What a result consists of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    asset: str
    digest: str
    files: dict[str, ResultFile]
    """By path relative to the result's folder, with ``/``."""
    meta: dict[str, Any]
    """Whatever the asset wants to find again."""


def checked_name(name: str, role: str) -> str:
    """A name that is safe as one part of a path.

    Raises:
        StoreError: It is not.
    """
    if not _NAME.fullmatch(name) or name.startswith(".") or ".." in name:
        raise StoreError(f"the {role} is no safe name: letters, digits, '.', '_' and '-' only")
    return name


@contextmanager
def plain_os_errors(where: Where) -> Iterator[None]:
    """Operating-system errors without the paths they would name."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InfrastructureError(f"the store's disk failed: {reason}", where=where) from None


def list_files(folder: Path, where: Where) -> dict[str, Path]:
    """Every file below a folder by its relative name, in the order of names.

    Raises:
        StoreError: There is something that is neither a file nor a folder, a link above all.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise StoreError("a result holds something that is neither a file nor a folder", where=where)
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path
    return found


@dataclass(frozen=True, slots=True)
class Published:
    """A result in the store."""

    folder: Path
    manifest: Manifest
    where: Where

    @property
    def digest(self) -> str:
        """The digest under which it is published."""
        return self.manifest.digest

    @property
    def meta(self) -> dict[str, Any]:
        """What the asset kept with it."""
        return self.manifest.meta

    def path(self, name: str) -> Path:
        """The place of one of its files.

        Raises:
            StoreError: The manifest lists no such file.
        """
        if PurePosixPath(name).as_posix() not in self.manifest.files:
            raise StoreError("the result has no file of the wanted name", where=self.where)
        return self.folder / name

    def content_digests(self) -> dict[str, str]:
        """SHA-256 of its files by name: what a consumer's digest is made of."""
        return {name: entry.sha256 for name, entry in sorted(self.manifest.files.items())}

    def verify(self, only: Collection[str] | None = None) -> None:
        """Compare the folder with the manifest: every file's size, and the content of those that are read.

        Args:
            only: Names of the files whose content is compared; all where None.

        Raises:
            StoreError: A file is missing, changed, or not in the manifest.
            InfrastructureError: A file cannot be read.
        """
        with plain_os_errors(self.where):
            present = list_files(self.folder, self.where)
            present.pop(MANIFEST, None)
            listed = self.manifest.files
            if present.keys() != listed.keys():
                missing = len(listed.keys() - present.keys())
                unknown = len(present.keys() - listed.keys())
                raise StoreError(
                    f"the published folder lacks {missing} files of its manifest and holds {unknown} others",
                    where=self.where,
                )
            for number, (name, entry) in enumerate(sorted(listed.items()), start=1):
                path = present[name]
                read = only is None or name in only
                if path.stat().st_size != entry.size or (read and sha256_file(path) != entry.sha256):
                    raise StoreError(
                        f"file {number} of {len(listed)} differs from its manifest",
                        where=Where(
                            case=self.where.case,
                            beam=self.where.beam,
                            kind=self.where.kind,
                            sha256=entry.sha256,
                        ),
                    )


def read_published(folder: Path, asset: str, digest: str, where: Where) -> Published:
    """The result in a folder, its manifest read and not yet compared with its files.

    Raises:
        StoreError: The manifest is missing, damaged, or of another result.
        InfrastructureError: It cannot be read.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise StoreError("the published folder has no manifest", where=where) from None
    except OSError as error:
        raise InfrastructureError(
            f"the store's disk failed: {error.strerror or type(error).__name__}", where=where
        ) from None
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError:
        raise StoreError("the manifest is damaged", where=where) from None
    if (manifest.asset, manifest.digest) != (asset, digest):
        raise StoreError("the manifest is that of another result", where=where)
    return Published(folder, manifest, where)

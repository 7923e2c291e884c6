"""The store: every result under its case, beam, asset and digest, published by rename.

``<root>/cases/<case>/<beam>/<asset>/<digest>/``; what belongs to the whole case has ``_case`` as its beam.
In the same way ``<root>/courses/<course>/_course/<asset>/<digest>/``, with ``_cohort`` for all courses, and
``<root>/image_sets/<image set>/_image_set/<asset>/<digest>/``.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from mqi_dagster.errors import COURSE_KEY, IMAGE_SET_KEY, ConfigurationError, StoreError, Where
from mqi_dagster.files import (
    private_folder,
    remove_unchanged,
    sha256_file,
    sync_file,
    sync_folder,
    write_whole,
)
from mqi_dagster.store.digests import canonical_json
from mqi_dagster.store.published import (
    MANIFEST,
    Manifest,
    Published,
    ResultFile,
    checked_name,
    list_files,
    plain_os_errors,
    read_published,
)

LAYOUT = 1
_CASE_LEVEL = "_case"
COHORT = "_cohort"
"""In place of a key: what is made of all courses together."""
_WHOLE = (
    (re.compile(rf"{COURSE_KEY}|{COHORT}"), "courses", "_course"),
    (re.compile(IMAGE_SET_KEY), "image_sets", "_image_set"),
)
"""What has no beams: its keys, its folder, and what stands there in place of a beam."""
_LEVELS = (_CASE_LEVEL, *(level for _, _, level in _WHOLE))
CURRENT = "current"
"""Link to the newest result of an asset, for people; code never reads a result by it."""


class Store:
    """The results of a site.

    Args:
        root: Its folder; made where it is missing.

    Raises:
        ConfigurationError: A newer version has laid the folder out, or it holds something else.
        InfrastructureError: The folder cannot be made or read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._cases = root / "cases"
        self._units = (self._cases, *(root / folder for _, folder, _ in _WHOLE))
        self._staging = root / ".staging"
        self._quarantine = root / ".quarantine"
        with plain_os_errors(Where(kind="store")):
            private_folder(root)
            self._check_layout()
            for folder in (*self._units, self._staging, self._quarantine):
                folder.mkdir(mode=0o700, exist_ok=True)

    def _check_layout(self) -> None:
        layout = self.root / "layout"
        if not layout.exists():
            write_whole(layout, f"{LAYOUT}\n".encode("ascii"))
        text = layout.read_text(encoding="ascii", errors="replace").strip()
        if not text.isdigit():
            raise ConfigurationError("the data folder's layout file holds no number")
        if int(text) > LAYOUT:
            raise ConfigurationError(
                f"the data folder has layout {text}, this version knows {LAYOUT}: update this installation"
            )

    @contextmanager
    def stage(self, case: str, beam: str | None, asset: str) -> Iterator[Path]:
        """An empty folder in which a result is made; gone after the block unless it was published.

        Args:
            case: Case key.
            beam: Beam folder (``b03``), or None for what belongs to the case.
            asset: Name of the asset.
        """
        where = _where(case, beam, asset)
        with plain_os_errors(where):
            folder = self._staging / f"{asset}.{os.getpid()}.{secrets.token_hex(6)}"
            folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(
        self,
        staging: Path,
        case: str,
        beam: str | None,
        asset: str,
        digest: str,
        *,
        meta: Mapping[str, Any],
    ) -> Published:
        """Give a finished result its name; the same result again is found and not replaced.

        Args:
            staging: Folder from :meth:`stage`.
            case: Case key.
            beam: Beam folder, or None for what belongs to the case.
            asset: Name of the asset.
            digest: Digest of everything it was made from.
            meta: JSON values kept in the manifest.

        Raises:
            StoreError: The result is empty or holds links.
            TypeError: ``meta`` holds something that has no canonical JSON, a path for example.
            ValueError: ``meta`` holds NaN or an infinity.
            InfrastructureError: The disk failed.
        """
        where = _where(case, beam, asset)
        target = self._folder(case, beam, asset) / checked_name(digest, "digest")
        with plain_os_errors(where):
            existing = self._valid(target, asset, digest, where)
            if existing is None:
                self._write_manifest(staging, asset, digest, meta, where)
                existing = self._move(staging, target, asset, digest, where)
            else:
                shutil.rmtree(staging)
            self._point_current(target)
        return existing

    def find(self, case: str, beam: str | None, asset: str, digest: str) -> Published | None:
        """A published result, its manifest read and not yet compared with its files.

        Raises:
            StoreError: It stands there, but its manifest is missing or damaged.
        """
        target = self._folder(case, beam, asset) / checked_name(digest, "digest")
        if not target.is_dir():
            return None
        return read_published(target, asset, digest, _where(case, beam, asset))

    def resolve(
        self, case: str, beam: str | None, asset: str, digest: str, *, only: Collection[str] | None = None
    ) -> Published:
        """A published result that was compared with its manifest: what a consumer reads.

        Args:
            case: Case key.
            beam: Beam folder, or None for what belongs to the case.
            asset: Name of the asset.
            digest: Digest of everything it was made from.
            only: Names of the files whose content is compared; all where None.

        Raises:
            StoreError: It is not there, or is not what its manifest says.
        """
        found = self.find(case, beam, asset, digest)
        if found is None:
            raise StoreError(
                f"the store has no result of digest {digest[:8]}", where=_where(case, beam, asset)
            )
        found.verify(only)
        return found

    def set_aside(self, case: str, beam: str | None, asset: str, digest: str) -> bool:
        """Move a damaged result out of the way, so that it is made again.

        Returns:
            Whether there was one.
        """
        target = self._folder(case, beam, asset) / checked_name(digest, "digest")
        with plain_os_errors(_where(case, beam, asset)):
            if not target.is_dir():
                return False
            self._quarantined(target)
            return True

    def damaged(self) -> Iterator[StoreError]:
        """Of every result that is not what its manifest says, what is wrong with it.

        Raises:
            InfrastructureError: A file cannot be read.
        """
        for folder in sorted(one for unit in self._units for one in unit.glob("*/*/*/*")):
            case, beam, asset, digest = folder.parts[-4:]
            if folder.is_symlink() or digest.startswith("."):
                continue
            where = _where(case, None if beam in _LEVELS else beam, asset)
            try:
                read_published(folder, asset, digest, where).verify()
            except StoreError as error:
                yield error

    def discard(self, folder: Path) -> None:
        """Remove a result or a case that nobody needs; it leaves its place at once and whole.

        Raises:
            InfrastructureError: The disk failed.
        """
        with plain_os_errors(Where(kind="store")):
            aside = self._staging / f"discarded.{os.getpid()}.{secrets.token_hex(6)}"
            try:
                folder.rename(aside)
            except FileNotFoundError:
                return
            sync_folder(folder.parent)
            shutil.rmtree(aside, ignore_errors=True)

    def clean_staging(self, older_than: timedelta) -> int:
        """Remove what crashes have left behind.

        Args:
            older_than: Age since the last change of a folder or anything in it.

        Returns:
            How many folders were removed.
        """
        with plain_os_errors(Where(kind="store")):
            return remove_unchanged(self._staging, older_than)

    def _folder(self, case: str, beam: str | None, asset: str) -> Path:
        if beam in _LEVELS:
            raise StoreError("a beam folder cannot have the name of the case level")
        for keys, folder, level in _WHOLE:
            if keys.fullmatch(case):
                if beam is not None:
                    raise StoreError("only a case has beams")
                return self.root / folder / case / level / checked_name(asset, "asset")
        level = _CASE_LEVEL if beam is None else checked_name(beam, "beam folder")
        return self._cases / checked_name(case, "case key") / level / checked_name(asset, "asset")

    def _valid(self, target: Path, asset: str, digest: str, where: Where) -> Published | None:
        """What stands at the target; moved aside where it is damaged."""
        if not target.is_dir():
            return None
        try:
            found = read_published(target, asset, digest, where)
            found.verify()
        except StoreError:
            self._quarantined(target)
            return None
        return found

    def _quarantined(self, target: Path) -> None:
        aside = self._quarantine / f"{target.parent.name}.{target.name[:16]}.{secrets.token_hex(6)}"
        # Another process may have moved it first: then there is nothing left to do.
        if target.is_dir():
            target.rename(aside)
            sync_folder(target.parent)

    @staticmethod
    def _write_manifest(
        staging: Path, asset: str, digest: str, meta: Mapping[str, Any], where: Where
    ) -> None:
        files = list_files(staging, where)
        if MANIFEST in files:
            raise StoreError("a result brings its own manifest", where=where)
        if not files:
            raise StoreError("a result without files cannot be published", where=where)
        entries = {}
        for name, path in files.items():
            # Whatever an engine or a command of the site has given it: results are about a patient.
            path.chmod(0o600)
            sync_file(path)
            entries[name] = ResultFile(sha256=sha256_file(path), size=path.stat().st_size)
        manifest = Manifest(asset=asset, digest=digest, files=entries, meta=json.loads(canonical_json(meta)))
        content = manifest.model_dump_json(indent=1) + "\n"
        write_whole(staging / MANIFEST, content.encode("utf-8"))
        for folder in [path for path in staging.rglob("*") if path.is_dir()] + [staging]:
            folder.chmod(0o700)
            sync_folder(folder)

    def _move(self, staging: Path, target: Path, asset: str, digest: str, where: Where) -> Published:
        private_folder(target.parent)
        try:
            staging.rename(target)
        except OSError:
            # Somebody else has published the same result in between.
            existing = self._valid(target, asset, digest, where)
            if existing is not None:
                shutil.rmtree(staging)
                return existing
            staging.rename(target)
        folder = target.parent
        while folder != self.root:
            sync_folder(folder)
            folder = folder.parent
        return read_published(target, asset, digest, where)

    @staticmethod
    def _point_current(target: Path) -> None:
        """Turn the link for people to this result; code never reads it."""
        beside = target.parent / f".{CURRENT}.{secrets.token_hex(6)}"
        beside.symlink_to(target.name)
        beside.replace(target.parent / CURRENT)


def _where(case: str, beam: str | None, asset: str) -> Where:
    return Where(
        case=checked_name(case, "case key"),
        beam=None if beam is None else checked_name(beam, "beam folder"),
        kind=checked_name(asset, "asset"),
    )

"""MCsquare's executable and materials: fetched once by name, version and SHA-256, kept in a cache.

The wheel is a container only: it pins other versions of Python and is never a dependency. Nothing but the
plain executable and the materials is unpacked. The wheel's SSE and AVX builds are left out on purpose: they
refuse to run on AMD, and another instruction set gives another dose for the same digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mqi_dagster.errors import EngineInputError, InfrastructureError
from mqi_dagster.files import write_whole
from mqi_dagster.wheels import Wheel

VERSION = "1.1"
WHEEL = Wheel("opentps-core", "3.0.1", "dcbc95c08c177018dffec41086aaef4c8ec930096dad1cbe0a0bee994bdc98f1")
EXECUTABLE = "MCsquare_linux"
MATERIALS = "Materials"
MANIFEST = "manifest.json"
_MEMBERS = "opentps/core/processing/doseCalculation/protons/MCsquare/"


@dataclass(frozen=True, slots=True)
class Installation:
    """An unpacked MCsquare."""

    folder: Path
    version: str

    @property
    def executable(self) -> Path:
        """The plain x86-64 build, the same on every processor."""
        return self.folder / EXECUTABLE

    @property
    def materials(self) -> Path:
        """The folder of material data."""
        return self.folder / MATERIALS


def default_cache() -> Path:
    """The user's cache: ``$XDG_CACHE_HOME/mqi_dagster`` or ``~/.cache/mqi_dagster``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mqi_dagster"


def install_engine(cache: Path | None = None, wheel: Path | None = None) -> Installation:
    """Fetch and unpack MCsquare, unless the cache already holds it undamaged.

    Args:
        cache: Folder to unpack below; the user's cache where None.
        wheel: The wheel as a local file, for sites without a network.

    Raises:
        EngineInputError: This machine cannot run it, or the wheel is not the one we know.
        InfrastructureError: The package index cannot be reached, or the cache cannot be written.
    """
    _require_platform()
    target = _folder(cache)
    if _intact(target):
        return Installation(target, VERSION)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(target.parent) as scratch:
            source = wheel if wheel is not None else WHEEL.download(scratch)
            if fault := WHEEL.fault(source):
                raise EngineInputError(fault)
            unpacked = scratch / "unpacked"
            _unpack(source, unpacked)
            _publish(unpacked, target, scratch)
    except OSError as error:
        raise InfrastructureError(f"the engine cannot be installed: {error.strerror}") from error
    if not _intact(target):
        raise InfrastructureError("the engine's files in the cache changed during the installation")
    return Installation(target, VERSION)


def installed_engine(cache: Path | None = None) -> Installation:
    """The MCsquare of the cache, verified by the size of every file and the run bit.

    Raises:
        EngineInputError: It is not installed, or damaged, or this machine cannot run it.
    """
    _require_platform()
    target = _folder(cache)
    if not _intact(target):
        raise EngineInputError("the embedded engine is not installed here: run `mqi engine install`")
    return Installation(target, VERSION)


def _folder(cache: Path | None) -> Path:
    return (cache if cache is not None else default_cache()) / f"mcsquare-{VERSION}-{WHEEL.sha256[:8]}"


def _require_platform() -> None:
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in ("x86_64", "AMD64"):
        raise EngineInputError(
            f"the embedded engine exists for Linux on x86-64 only, not for {sys.platform} on {machine}"
        )


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".install-", dir=beside))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(wheel: Path, target: Path) -> None:
    """Write the executable, the materials and a manifest of their sizes and digests."""
    sizes: dict[str, int] = {}
    digests: dict[str, str] = {}
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            name = info.filename.removeprefix(_MEMBERS)
            wanted = name == EXECUTABLE or (name.startswith(f"{MATERIALS}/") and not name.endswith(".py"))
            if info.is_dir() or name == info.filename or not wanted or ".." in name.split("/"):
                continue
            content = archive.read(info)
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            sizes[name] = len(content)
            digests[name] = hashlib.sha256(content).hexdigest()
    if EXECUTABLE not in sizes:
        raise EngineInputError("the wheel of the engine holds no executable")
    manifest = {"wheel_sha256": WHEEL.sha256, "version": VERSION, "sizes": sizes, "sha256": digests}
    write_whole(target / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode("utf-8"))
    # Nothing of it is secret, and another account may be the one that simulates. The archive has no run bit.
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path.name == EXECUTABLE else 0o644)


def _publish(unpacked: Path, target: Path, scratch: Path) -> None:
    """Put the folder in place by rename; another process may have been faster."""
    if target.exists() and not _intact(target):
        target.rename(scratch / "damaged")
    try:
        unpacked.rename(target)
    except OSError:
        if not _intact(target):
            raise


def _intact(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["wheel_sha256"] != WHEEL.sha256 or EXECUTABLE not in manifest["sizes"]:
            return False
        sizes = manifest["sizes"].items()
        whole = all((folder / name).stat().st_size == size for name, size in sizes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return whole and os.access(folder / EXECUTABLE, os.X_OK)

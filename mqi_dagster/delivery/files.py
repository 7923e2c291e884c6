"""Input files by content."""

from __future__ import annotations

from pathlib import Path

from mqi_dagster.delivery.manifest import InputFile
from mqi_dagster.errors import DeliveryError, Where
from mqi_dagster.files import sha256_stream


def sha256_of(path: Path, kind: str) -> str:
    """SHA-256 of a file's content, hexadecimal.

    Raises:
        DeliveryError: It cannot be read.
    """
    return file_entry(path, kind).sha256


def file_entry(path: Path, kind: str) -> InputFile:
    """Path, hash and size of a file.

    Args:
        path: The file.
        kind: Its role in errors.

    Raises:
        DeliveryError: It cannot be read.
    """
    try:
        with path.open("rb") as stream:
            digest, size = sha256_stream(stream)
        return InputFile(path=path, sha256=digest, size=size)
    except OSError as error:
        raise DeliveryError(f"the {kind} cannot be read: {error.strerror}", where=Where(kind=kind)) from None


def files_in(folder: Path, kind: str) -> list[Path]:
    """The files directly in a folder, in the order of names.

    Raises:
        DeliveryError: It cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise DeliveryError(f"the {kind} cannot be read: {error.strerror}", where=Where(kind=kind)) from None

"""What all targets agree on: names below them, receipts, and what a former receipt leaves to be removed."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

from pydantic import ValidationError

from mqi_dagster.errors import HandoverError, HandoverNameError, Where
from mqi_dagster.handover.target import Receipt, ReceiptEntry

RECEIPT = "receipt.json"
_UNSPEAKABLE = ("Cc", "Cs")
"""Control characters, and halves of characters that no file system keeps."""


def failure(message: str, sha256: str | None = None) -> HandoverError:
    """The error of a hand-over, with its place."""
    return HandoverError(message, where=Where(kind="hand-over", sha256=sha256))


def differs(wanted: str) -> HandoverError:
    """The error of a file that was read back as another one."""
    return failure("a file at the target differs from its source", wanted)


def relative(name: str) -> PurePosixPath:
    """A name at the target.

    Raises:
        HandoverNameError: It leads out of the target, or holds what is not part of a name.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise HandoverNameError("a name at the target must stay below it", where=Where(kind="hand-over"))
    if any(unicodedata.category(character) in _UNSPEAKABLE for character in name):
        raise HandoverNameError(
            "a name at the target holds control characters", where=Where(kind="hand-over")
        )
    return path


def content_of(receipt: Receipt) -> bytes:
    """The receipt as its file holds it."""
    return receipt.model_dump_json(indent=1).encode() + b"\n"


def outlived(former: bytes, receipt: Receipt, folder: PurePosixPath) -> list[ReceiptEntry]:
    """The files of a folder that its former receipt lists and the new one does not.

    A plane of an older calibration beside a new dose would pass for a part of it. What cannot be read as a
    receipt of this folder lists nothing: a file at the target is anybody's to change.
    """
    try:
        listed = Receipt.model_validate_json(former).entries
    except ValidationError:
        return []
    present = {entry.name for entry in receipt.entries}
    found = []
    for entry in listed:
        try:
            path = relative(entry.name)
        except HandoverError:
            continue
        if path.as_posix() not in present and path.is_relative_to(folder):
            found.append(entry)
    return found

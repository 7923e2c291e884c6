"""The weights of a model: those that its card names, and in our own process none that could run code."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

from mqi_dagster.errors import shown
from mqi_dagster.files import sha256_file
from mqi_dagster.imaging.models.card import CARD, OUR_ENVIRONMENT, Model, Weights
from mqi_dagster.imaging.models.model_errors import ModelCardError, UnsafeModelError

_PICKLED = frozenset({".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib"})
_LOOKED_AT_BYTES = 1 << 16
_MOST_MEMBERS = 100_000
_FIRST_OF_PROTOCOL = bytes([0x80])


def verify_weights(model: Model) -> dict[str, str]:
    """Prove that a model's weights are the ones that its card names, and safe for where they are loaded.

    Returns:
        SHA-256 (hex) of each file of weights, by its name.

    Raises:
        ModelCardError: A file is missing or cannot be read.
        UnsafeModelError: A file is another one than the card names; or it is, or holds, a pickle, and the
            runtime loads it in our own environment.
    """
    digests = {}
    for one in model.card.weights:
        path = model.folder / one.file
        try:
            if model.card.runtime in OUR_ENVIRONMENT:
                _require_no_code(model, one.file, path)
            found = sha256_file(path)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ModelCardError(f"weights {one.file} cannot be read: {reason}", where=model.where) from None
        if found != one.sha256:
            raise UnsafeModelError(
                f"weights {one.file} have SHA-256 {found[:8]}…, the card names {one.sha256[:8]}…",
                where=model.where,
            )
        digests[one.file] = found
    return digests


def weights_found(folder: Path) -> list[Weights]:
    """What a new card of a model folder has to say of its weights: each file but the card, by name.

    Raises:
        OSError: A file cannot be read.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / CARD)
    return [Weights(file=str(path.relative_to(folder)), sha256=sha256_file(path)) for path in files]


def _require_no_code(model: Model, name: str, path: Path) -> None:
    reason = ""
    if path.suffix.lower() in _PICKLED:
        reason = f"{path.suffix} is a format of pickled Python"
    elif member := _pickle_in_zip(path):
        reason = f"it is an archive with the pickle {shown(member, 80)}"
    elif _is_pickle(path):
        reason = "its content is a pickle"
    if reason:
        raise UnsafeModelError(
            f"weights {name} are refused: {reason}, which runs code when it is loaded", where=model.where
        )


def _pickle_in_zip(path: Path) -> str:
    """The first pickle in an archive, such as ``archive/data.pkl`` of torch; empty where there is none."""
    if not zipfile.is_zipfile(path):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()[:_MOST_MEMBERS]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, EOFError):
        return "of a damaged archive"
    return next((one for one in names if Path(one).suffix.lower() in _PICKLED), "")


def _is_pickle(path: Path) -> bool:
    """Whether a file starts as pickles do: by the mark of its protocol, or by opcodes up to the last one."""
    with path.open("rb") as stream:
        start = stream.read(_LOOKED_AT_BYTES)
    if start[:1] == _FIRST_OF_PROTOCOL and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    try:
        return any(
            opcode.name in ("STOP", "GLOBAL", "INST", "REDUCE") for opcode, _, _ in pickletools.genops(start)
        )
    except (ValueError, UnicodeDecodeError, OverflowError, EOFError):
        return False

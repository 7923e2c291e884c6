"""Which files of a delivery folder the machine wrote, found by name as the share shows it.

A share may ignore case and show every name in capitals, and whoever copied a folder may have left files of
its own beside the machine's.
"""

from __future__ import annotations

from pathlib import Path

from mqi_dagster.delivery.inbox_tree import is_ignored
from mqi_dagster.errors import DeliveryError, Where

PLAN_INFO = "PlanInfo.txt"
PLAN_RANGES = ("PlanRange.txt", "PlanRange.csv")
"""What the machine writes, and what older tools write."""
RECORD_SUFFIX = ".ptn"
MACHINE_PLAN_SUFFIX = ".mgn"

_NAMES = frozenset(name.casefold() for name in (PLAN_INFO, *PLAN_RANGES))
_SUFFIXES = (RECORD_SUFFIX, MACHINE_PLAN_SUFFIX)


def is_machine_file(name: str) -> bool:
    """Whether the machine writes files of this name, in capitals or not; `._1.ptn` is of a file server."""
    folded = name.casefold()
    return (folded in _NAMES or folded.endswith(_SUFFIXES)) and not is_ignored(name)


def machine_file(folder: Path, name: str, kind: str) -> Path | None:
    """The file of a delivery folder that a name means: exactly, or else the only one but for its case.

    Args:
        folder: The delivery folder.
        name: A plain file name.
        kind: The file's role in errors.

    Returns:
        None where there is none.

    Raises:
        DeliveryError: The folder cannot be listed, or several names differ from this one by case alone.
    """
    exact = folder / name
    try:
        if exact.is_file():
            return exact
        alike = [path for path in folder.iterdir() if path.name.casefold() == name.casefold()]
        alike = sorted(path for path in alike if path.is_file())
    except OSError as error:
        raise DeliveryError(f"the {kind} cannot be read: {error.strerror}", where=Where(kind=kind)) from None
    if len(alike) > 1:
        raise DeliveryError(
            f"{len(alike)} files have the name of the {kind} but for capitals: keep the machine's",
            where=Where(kind=kind),
        )
    return alike[0] if alike else None

"""Case and beam keys: `<plan>.fx<NNNN>` and `<case>__b<NN>`."""

import re

import dagster as dg

CASES = dg.DynamicPartitionsDefinition(name="case")
BEAMS = dg.DynamicPartitionsDefinition(name="beam")
LINEAGE_ONLY = dg.SpecificPartitionsPartitionMapping([])
"""Mapping between cases and beams: an edge in the graph that names no partition of the other side.

Without it Dagster takes one key for the other, finds no case of a beam's name, and refuses every backfill.
"""

_CASE = re.compile(r"^(?P<plan>[A-Za-z0-9._-]+)\.fx(?P<fraction>\d{4,})$")
_BEAM = re.compile(r"^(?P<case>[A-Za-z0-9._-]+)__b(?P<number>\d{2,})$")


def case_key(plan: str, fraction: int) -> str:
    """Key of a case.

    Raises:
        ValueError: The result would not be a safe key.
    """
    key = f"{plan}.fx{fraction:04d}"
    if not _CASE.match(key) or "__" in key:
        raise ValueError("a case key holds only letters, digits, '.', '_', '-' and no '__'")
    return key


def beam_key(case: str, number: int) -> str:
    """Key of a beam of a case by its DICOM BeamNumber."""
    return f"{case}__{beam_folder(number)}"


def beam_folder(number: int) -> str:
    """Name of a beam below its case, `b<NN>`."""
    return f"b{number:02d}"


def split_case_key(key: str) -> tuple[str, int]:
    """Plan part and fraction number of a case key.

    Raises:
        ValueError: It is none.
    """
    match = _CASE.match(key)
    if not match or not is_case_key(key):
        raise ValueError(f"{key!r} is no case key")
    return match["plan"], int(match["fraction"])


def is_case_key(key: str) -> bool:
    """Whether a text is a case key."""
    return _CASE.match(key) is not None and "__" not in key


def split_beam_key(key: str) -> tuple[str, int]:
    """Case key and BeamNumber of a beam key.

    Raises:
        ValueError: It is none.
    """
    match = _BEAM.match(key)
    if not match or "__" in match["case"]:
        raise ValueError(f"{key!r} is no beam key")
    return match["case"], int(match["number"])

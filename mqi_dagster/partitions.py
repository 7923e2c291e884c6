"""Case and beam keys: `<plan>.fx<NNNN>` and `<case>__b<NN>`."""

import re

import dagster as dg

CASES = dg.DynamicPartitionsDefinition(name="case")
BEAMS = dg.DynamicPartitionsDefinition(name="beam")
LINEAGE_ONLY = dg.SpecificPartitionsPartitionMapping([])
"""Mapping between cases and beams: an edge in the graph that names no partition of the other side.

Without it Dagster takes one key for the other, finds no case of a beam's name, and refuses every backfill.
"""

LONGEST_KEY = 255
"""Characters of a key: it is one name on a disk."""

# Always matched in full: `$` would let a newline pass, and `\d` the digits of every script.
_CASE = re.compile(r"(?P<plan>[A-Za-z0-9_-][A-Za-z0-9._-]*)\.fx(?P<fraction>[0-9]{4,9})")
_BEAM = re.compile(r"(?P<case>.+)__b(?P<number>[0-9]{2,9})", re.DOTALL)


def case_key(plan: str, fraction: int) -> str:
    """Key of a case.

    Raises:
        ValueError: The result would not be a safe key.
    """
    key = f"{plan}.fx{fraction:04d}"
    if not is_case_key(key):
        raise ValueError(
            "a case key holds only letters, digits, '.', '_', '-' and no '__' or '..', does not begin"
            f" with '.', and has at most {LONGEST_KEY} characters"
        )
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
        ValueError: It is none, or not the one way to write it: two keys of one case would be worked on at
            once, in the same places.
    """
    match = _CASE.fullmatch(key)
    if match is None or "__" in key or ".." in key or len(key) > LONGEST_KEY:
        raise ValueError(f"{key[:LONGEST_KEY]!a} is no case key")
    fraction = int(match["fraction"])
    if match["fraction"] != f"{fraction:04d}":
        raise ValueError(f"{key!a} is no case key: its fraction is written {fraction:04d}")
    return match["plan"], fraction


def is_case_key(key: str) -> bool:
    """Whether a text is a case key."""
    try:
        split_case_key(key)
    except ValueError:
        return False
    return True


def split_beam_key(key: str) -> tuple[str, int]:
    """Case key and BeamNumber of a beam key.

    Raises:
        ValueError: It is none, or not the one way to write it.
    """
    match = _BEAM.fullmatch(key)
    if match is None or not is_case_key(match["case"]):
        raise ValueError(f"{key[:LONGEST_KEY]!a} is no beam key")
    number = int(match["number"])
    if key != beam_key(match["case"], number):
        raise ValueError(f"{key[:LONGEST_KEY]!a} is no beam key: the beam is written {beam_folder(number)}")
    return match["case"], number


def is_beam_key(key: str) -> bool:
    """Whether a text is a beam key."""
    try:
        split_beam_key(key)
    except ValueError:
        return False
    return True

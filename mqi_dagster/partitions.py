"""Kinds of partitions and their keys: `<plan>.fx<NNNN>` of a case, `<case>__b<NN>` of a beam,
`<patient>.c<NN>` of a course, and `<series>.<model>` of an image set."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import dagster as dg

from mqi_dagster.errors import IMAGE_SET_KEY, KeyRejectedError

LINEAGE_ONLY = dg.SpecificPartitionsPartitionMapping([])
"""Mapping between two kinds of partitions: an edge in the graph that names no partition of the other side.

Without it Dagster takes one key for the other, finds no case of a beam's name, and refuses every backfill.
"""

LONGEST_KEY = 255
"""Characters of a key: it is one name on a disk."""
_PART_OF = "__"
"""Stands in a key between that of a whole and what tells its parts from each other, and nowhere else."""


@dataclass(frozen=True, slots=True, eq=False)
class PartitionKind:
    """One kind of partition, and which keys are of it; equal to itself alone."""

    name: str
    """Of its dynamic partitions in Dagster."""
    pattern: str
    """Of a key, always matched in full, without `\\d`, which takes the digits of every script. Its groups are
    ``stem`` and, where keys are numbered, ``number``."""
    digits: int = 0
    """To which a number is filled up with zeros."""
    parent: PartitionKind | None = None
    """The kind whose key is the stem, where a partition is a part of another one."""

    @property
    def definition(self) -> dg.DynamicPartitionsDefinition:
        """The dynamic partitions of this kind."""
        return dg.DynamicPartitionsDefinition(name=self.name)

    def find(self, text: str) -> PartitionKey | None:
        """A key of this kind, taken apart; None where a text is none, or not the one way to write it.

        Two keys of one case would be worked on at once, in the same places.
        """
        match = re.fullmatch(self.pattern, text)
        if match is None or len(text) > LONGEST_KEY:
            return None
        stem, number = match["stem"], int(match["number"]) if self.digits else 0
        if self.digits and match["number"] != self._written(number):
            return None
        if self.parent is None:
            return PartitionKey(self, text, stem, number)
        parent = self.parent.find(stem)
        return None if parent is None else PartitionKey(self, text, stem, number, parent)

    def key(self, text: str) -> PartitionKey:
        """A key of this kind, taken apart.

        Raises:
            KeyRejectedError: It is none, or not the one way to write it.
        """
        found = self.find(text)
        if found is not None:
            return found
        why, match = "", re.fullmatch(self.pattern, text)
        if match is not None and self.digits and match["number"] != self._written(int(match["number"])):
            why = f": its number is written {self._written(int(match['number']))}"
        raise KeyRejectedError(f"{text[:LONGEST_KEY]!a} is no {self.name} key{why}")

    def has(self, text: str) -> bool:
        """Whether a text is a key of this kind."""
        return self.find(text) is not None

    def _written(self, number: int) -> str:
        return f"{number:0{self.digits}d}"


@dataclass(frozen=True, slots=True)
class PartitionKey:
    """A key, taken apart."""

    kind: PartitionKind
    text: str
    stem: str
    """Name of the plan of a case; key of the case of a beam."""
    number: int
    """Of a case that of the fraction, of a beam the DICOM BeamNumber; 0 where keys of its kind have none."""
    parent: PartitionKey | None = None
    """Of a beam its case."""

    @property
    def root(self) -> str:
        """Key of the case of a beam; of what is no part of another partition its own."""
        return self.text if self.parent is None else self.parent.root


CASE = PartitionKind(
    "case",
    rf"(?!.*({_PART_OF}|\.\.))(?P<stem>[A-Za-z0-9_-][A-Za-z0-9._-]*)\.fx(?P<number>[0-9]{{4,9}})",
    digits=4,
)
BEAM = PartitionKind("beam", rf"(?P<stem>.+){_PART_OF}b(?P<number>[0-9]{{2,9}})", digits=2, parent=CASE)
COURSE = PartitionKind("course", r"(?P<stem>R[A-Z2-7]{9})\.c(?P<number>[0-9]{2,9})", digits=2)
IMAGE_SET = PartitionKind("image_set", rf"(?=(?P<stem>S[A-Z2-7]{{9}})){IMAGE_SET_KEY}")
_FOLDERS = {COURSE: "courses", IMAGE_SET: "image_sets"}
"""Of the kinds of which each partition is worked on whole, in the store."""


def whole_kind(key: str) -> PartitionKind:
    """The kind of a key whose partition is worked on whole: what is of no other kind is a case."""
    return next((kind for kind in _FOLDERS if kind.has(key)), CASE)


def folder_of(kind: PartitionKind) -> str:
    """Name of the folder in the store that the partitions of a kind have."""
    return _FOLDERS.get(kind, "cases")


def in_address(kind: str) -> str:
    """The name of a kind as the addresses of its pages have it."""
    return kind.replace("_", "-")


def find_key(text: str, kinds: Iterable[PartitionKind] = (CASE, BEAM)) -> PartitionKey | None:
    """A key, taken apart; None where it is of none of the kinds: in the pages anybody can add a partition."""
    for kind in kinds:
        key = kind.find(text)
        if key is not None:
            return key
    return None


def root_of(text: str) -> str:
    """Key of the case to which a partition belongs, also one that a person has invented as a part of it."""
    return text.partition(_PART_OF)[0]


def parts_of(case: str, texts: Iterable[str]) -> list[str]:
    """Those of some partitions that are parts of a case, also those that a person has invented."""
    return [text for text in texts if text != case and root_of(text) == case]


def case_key(plan: str, fraction: int) -> str:
    """Key of a case.

    Raises:
        ValueError: The result would not be a safe key.
    """
    key = f"{plan}.fx{fraction:04d}"
    if not CASE.has(key):
        raise ValueError(
            "a case key holds only letters, digits, '.', '_', '-' and no '__' or '..', does not begin"
            f" with '.', and has at most {LONGEST_KEY} characters"
        )
    return key


def course_key(patient: str, number: int) -> str:
    """Key of a course.

    Args:
        patient: Pseudonym of the patient (`Pseudonyms.patient`).
        number: Of the course among the patient's, in the order of first sight.
    """
    return COURSE.key(f"{patient}.c{number:02d}").text


def image_set_key(series: str, model: str) -> str:
    """Key of an image set.

    Args:
        series: Pseudonym of its series (`Pseudonyms.series`).
        model: Name of the model that it is for.

    Raises:
        KeyRejectedError: The model's name is none that may stand in a key.
    """
    return IMAGE_SET.key(f"{series}.{model}").text


def model_of(key: PartitionKey) -> str:
    """Name of the model that an image set is for."""
    return key.text.removeprefix(f"{key.stem}.")


def beam_key(case: str, number: int) -> str:
    """Key of a beam of a case by its DICOM BeamNumber."""
    return part_key(case, beam_folder(number))


def part_key(case: str, folder: str) -> str:
    """Key of a part of a case by the name of its folder below the case."""
    return f"{case}{_PART_OF}{folder}"


def beam_folder(number: int) -> str:
    """Name of a beam below its case, `b<NN>`."""
    return f"b{number:02d}"

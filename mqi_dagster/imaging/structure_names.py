"""The names of structures, as users and models write them and as TG-263 has them (AAPM Report 263, 2018).

A table says which names mean the same. Case and separators do not matter; left and right are words of their
own and stay what they are. A name that the table does not have, or that may mean two things, is kept.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from mqi_dagster.errors import ConfigurationError, shown
from mqi_dagster.yaml_file import read_yaml, validated

PACKAGED_NAMES = Path(__file__).parents[1] / "config" / "structures" / "tg263.yaml"
"""The table of the product."""

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+|[^\W\d_a-zA-Z]+|[+~!^*<>=&]")
"""Signs that TG-263 gives a meaning are words; others separate."""
_SIDES = {"l": "L", "lt": "L", "lft": "L", "left": "L", "r": "R", "rt": "R", "rgt": "R", "right": "R"}
_MOST_NEAREST = 10

Name = Annotated[str, Field(min_length=1, max_length=64)]
Vector = tuple[float, float, float]
Sided = tuple[str, str]
"""What a structure is without its side, and the side: L or R."""
_Meaning = TypeVar("_Meaning")


class Pair(BaseModel):
    """A structure with a name of its own on each side."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    left: Name
    right: Name
    names: tuple[Name, ...]
    """Others, without their side."""


class NameTable(BaseModel):
    """A table of names as its file has it; what is mapped to is a name, too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    single: dict[Name, tuple[Name, ...]] = {}
    """Name, and other names of the same."""
    sided: dict[Name, tuple[Name, ...]] = {}
    """The same of structures that are there twice, without their side: ``_L`` and ``_R`` are added."""
    pairs: tuple[Pair, ...] = ()
    """Structures that are there twice, and whose names say the side in another way."""
    ambiguous: dict[Name, tuple[Name, ...]] = {}
    """Names that mean several things in practice, without their side, and what: they are kept."""


class Naming(StrEnum):
    """How a name was found."""

    STANDARD = "standard"
    """It is one of the table's own."""
    MAPPED = "mapped"
    """It means one of them."""
    AMBIGUOUS = "ambiguous"
    """It may mean more than one: kept."""
    UNKNOWN = "unknown"
    """The table does not have it: kept."""


@dataclass(frozen=True, slots=True)
class StructureName:
    """What a structure is called, and what it was called."""

    name: str
    original: str
    naming: Naming
    reason: str = ""
    """Why the name was kept."""


class StructureNames:
    """Tables of names, the later ones before the earlier.

    Args:
        tables: By what they are, for errors.

    Raises:
        ConfigurationError: A table gives one name two meanings.
    """

    def __init__(self, tables: Mapping[str, NameTable]) -> None:
        self._single: dict[str, str] = {}
        self._sided: dict[str, tuple[str, str]] = {}
        self._side_of: dict[str, tuple[str, str]] = {}
        self._ambiguous: dict[str, tuple[str, ...]] = {}
        self._standard: set[str] = set()
        for role, table in tables.items():
            single = [(other, name) for name, others in table.single.items() for other in (name, *others)]
            pairs = [
                Pair(left=f"{stem}_L", right=f"{stem}_R", names=(stem, *others))
                for stem, others in table.sided.items()
            ]
            pairs += table.pairs
            single += [(name, name) for pair in pairs for name in (pair.left, pair.right)]
            self._standard |= {name for _, name in single}
            self._single |= (singles := _once(single, role))
            sided = [(other, (pair.left, pair.right)) for pair in pairs for other in pair.names]
            self._sided |= (sideds := _once(sided, role))
            for key in singles.keys() | sideds.keys():
                self._ambiguous.pop(key, None)
            for key, meanings in _once(table.ambiguous.items(), role).items():
                self._ambiguous[key] = meanings
                self._sided.pop(key, None)
                for side in ("", "l", "r"):
                    self._single.pop(key + side, None)
            for pair in pairs:
                self._side_of |= {pair.left: (pair.right, "L"), pair.right: (pair.left, "R")}
        self._called: Mapping[str, Sequence[str]] = {}

    def calling(self, called: Mapping[str, Sequence[str]]) -> StructureNames:
        """The same tables, where structures are kept under keys that are not their names.

        Args:
            called: Names of a structure by its key: of several sets each may have one of the same name.
        """
        same = copy(self)
        same._called = called
        return same

    def names_of(self, key: str) -> Sequence[str]:
        """The names of a structure that is kept under a key."""
        return self._called.get(key, (key,))

    def named(self, original: str) -> StructureName:
        """What a structure is called."""
        words = _words(original)
        whole = self._single.get("".join(words))
        if whole is not None:
            return self._found(original, whole)
        sides = {_SIDES[word] for word in words if word in _SIDES}
        rest = "".join(word for word in words if word not in _SIDES)
        if (meanings := self._ambiguous.get(rest)) is not None:
            if original in self._standard:
                return StructureName(original, original, Naming.STANDARD)
            return StructureName(original, original, Naming.AMBIGUOUS, f"may be {' or '.join(meanings)}")
        if len(sides) > 1:
            return StructureName(original, original, Naming.AMBIGUOUS, "says both left and right")
        pair = self._sided.get(rest)
        if pair is None:
            return StructureName(original, original, Naming.UNKNOWN, "is not in the table of names")
        if not sides:
            return StructureName(original, original, Naming.AMBIGUOUS, f"may be {pair[0]} or {pair[1]}")
        return self._found(original, pair[0] if sides == {"L"} else pair[1])

    def named_all(self, originals: Sequence[str]) -> tuple[StructureName, ...]:
        """What the structures of one set are called: of several with one meaning each keeps its name."""
        found = [self.named(original) for original in originals]
        counts = Counter(one.name for one in found)
        return tuple(
            replace(
                one,
                name=one.original,
                naming=Naming.AMBIGUOUS,
                reason=f"{counts[one.name]} mean {shown(one.name)}",
            )
            if counts[one.name] > 1 and one.naming is Naming.MAPPED
            else one
            for one in found
        )

    def meant_by(self, wanted: str, available: Iterable[str]) -> tuple[str, ...]:
        """Which of some structures a name means: that name, else one written alike, else one of its meaning.

        Args:
            wanted: The name, or the key of one of them.
            available: Names of structures that are there, or their keys (`calling`).

        Returns:
            None where there is no such structure, several where the name may mean any of them.
        """
        there = {key: self.names_of(key) for key in available}
        if wanted in there:
            return (wanted,)
        words, meaning = _words(wanted), self.named(wanted).name
        found: tuple[str, ...] = ()
        for fits in (
            lambda name: name == wanted,
            lambda name: _words(name) == words,
            lambda name: self.named(name).name == meaning,
        ):
            found = found or tuple(key for key, names in there.items() if any(map(fits, names)))
        return found

    def side_of(self, name: str) -> Sided | None:
        """What a name is of without its side, and the side; None where it says none, or both."""
        meaning = self.named(name).name
        found = self._side_of.get(meaning)
        if found is not None:
            partner, side = found
            return "/".join(sorted((meaning, partner))), side
        words = _words(name)
        sides = {_SIDES[word] for word in words if word in _SIDES}
        if len(sides) != 1:
            return None
        return "".join(word for word in words if word not in _SIDES), sides.pop()

    @staticmethod
    def _found(original: str, name: str) -> StructureName:
        return StructureName(name, original, Naming.STANDARD if name == original else Naming.MAPPED)


def read_structure_names(site: Path | None = None) -> StructureNames:
    """The table of the product, and before it that of a site.

    Args:
        site: A site's own table.

    Raises:
        ConfigurationError: A table cannot be read, has an unknown key, or gives one name two meanings.
    """
    paths = {"table of names": PACKAGED_NAMES} | ({} if site is None else {"site's table of names": site})
    return StructureNames(
        {role: validated(NameTable, read_yaml(path, role), role) for role, path in paths.items()}
    )


def laterality_faults(placed: Iterable[tuple[str, Sided, Vector]]) -> tuple[str, ...]:
    """Structures called left whose centre is on the right of their partner's.

    Args:
        placed: Name, side (`StructureNames.side_of`) and centre [mm] of each; DICOM x grows towards the
            patient's left.
    """
    by_side: dict[Sided, list[tuple[str, float]]] = {}
    for name, sided, centre in placed:
        by_side.setdefault(sided, []).append((name, centre[0]))
    return tuple(
        f"{shown(left)} lies {x_right - x_left:.3g} mm to the right of {shown(right)}"
        for (what, side), lefts in by_side.items()
        if side == "L"
        for left, x_left in lefts
        for right, x_right in by_side.get((what, "R"), ())
        if x_right >= x_left
    )


def nearest_names(wanted: str, there: Iterable[str]) -> str:
    """Which names that are there are written most alike, in words; empty where there is none.

    Args:
        wanted: A name that is not there.
        there: Names that are.
    """
    plain = wanted.casefold()
    alike = {name: SequenceMatcher(None, plain, name.casefold()).ratio() for name in there}
    found = sorted(alike, key=lambda name: (-alike[name], name))[:_MOST_NEAREST]
    return f" (nearest names: {', '.join(map(shown, found))})" if found else ""


def _words(name: str) -> list[str]:
    """The words of a name in small letters, accents aside; a capital within a word begins one."""
    plain = unicodedata.normalize("NFKD", name)
    return [word.lower() for word in _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))]


def _once(pairs: Iterable[tuple[str, _Meaning]], role: str) -> dict[str, _Meaning]:
    found: dict[str, _Meaning] = {}
    for other, meaning in pairs:
        key = "".join(_words(other))
        if found.setdefault(key, meaning) != meaning:
            raise ConfigurationError(f"{role}: {shown(other)} means {found[key]} and {meaning}")
    return found

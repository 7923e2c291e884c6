"""Structures made of others: unions, intersections, differences, margins, rings, crops (docs/formats.md).

A definition names its sources, clinical, automatic or defined itself, in any order. One that cannot be made
says why, and the others are made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mqi_dagster.errors import ConfigurationError, ImageError, Where, shown
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.margin import LARGEST_MARGIN_MM, Margins, with_margins
from mqi_dagster.imaging.structure_names import Naming, StructureNames, nearest_names
from mqi_dagster.yaml_file import problems, read_yaml

Mask = NDArray[np.bool_]
Millimetres = Annotated[float, Field(ge=-LARGEST_MARGIN_MM, le=LARGEST_MARGIN_MM)]

MOST_DEFINITIONS = 300
_ROLE = "file of custom structures"
_WHERE = Where(kind="custom structure")


class Operation(StrEnum):
    """What is made of the sources, in the order in which they are named."""

    UNION = "union"
    INTERSECTION = "intersection"
    SUBTRACT = "subtract"
    """The first without the others."""
    XOR = "xor"
    """What an odd number of them has."""
    MARGIN = "margin"
    """The one source with its margin."""
    RING = "ring"
    """What is farther from the one source than ``inner_mm``, and not farther than ``outer_mm``."""
    CROP = "crop"
    """The first, ``distance_mm`` away from the surface of the second: ``keep`` inside or outside of it."""


class Side(StrEnum):
    """Which part of a structure is kept."""

    INSIDE = "inside"
    OUTSIDE = "outside"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DirectedMargin(_Section):
    """A margin by the directions of the patient [mm]; negative: what is taken away."""

    left_mm: Millimetres = 0.0
    right_mm: Millimetres = 0.0
    anterior_mm: Millimetres = 0.0
    posterior_mm: Millimetres = 0.0
    superior_mm: Millimetres = 0.0
    inferior_mm: Millimetres = 0.0
    uniform_mm: Millimetres | None = None
    """In place of the six."""

    @model_validator(mode="after")
    def _one_or_six(self) -> DirectedMargin:
        if self.uniform_mm is not None and len(self.model_fields_set) > 1:
            raise ValueError("uniform_mm stands alone, without a direction")
        return self

    @property
    def margins(self) -> Margins:
        """The same, every direction given."""
        if self.uniform_mm is not None:
            return Margins.uniform(self.uniform_mm)
        return Margins(**{name: getattr(self, name) for name in Margins.__slots__})


_OWN_KEYS = {
    Operation.RING: {"inner_mm", "outer_mm"},
    Operation.CROP: {"keep", "distance_mm"},
}
_SOURCES = {
    Operation.MARGIN: (1, 1),
    Operation.RING: (1, 1),
    Operation.CROP: (2, 2),
    Operation.SUBTRACT: (2, 999),
}


class Definition(_Section):
    """One structure to make."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    operation: Operation = Operation.UNION
    source_structures: Annotated[tuple[str, ...], Field(min_length=1)]
    margin: Millimetres | DirectedMargin | None = None
    """Around what the operation gives: one for all directions [mm], or by direction."""
    inner_mm: Millimetres = 0.0
    outer_mm: Millimetres | None = None
    keep: Side = Side.INSIDE
    distance_mm: Annotated[float, Field(ge=0, le=LARGEST_MARGIN_MM)] = 0.0
    description: str = ""

    @field_validator("operation", mode="before")
    @classmethod
    def _difference_too(cls, value: object) -> object:
        return Operation.SUBTRACT if value == "difference" else value

    @model_validator(mode="after")
    def _complete(self) -> Definition:
        fewest, most = _SOURCES.get(self.operation, (1, 999))
        if not fewest <= len(self.source_structures) <= most:
            count = f"{fewest}" if fewest == most else f"at least {fewest}"
            raise ValueError(f"{self.operation} takes {count} source_structures")
        for operation, keys in _OWN_KEYS.items():
            if self.operation is not operation and (wrong := sorted(keys & self.model_fields_set)):
                raise ValueError(f"{self.operation} has no {', '.join(wrong)}")
        if self.operation is Operation.RING and not (
            self.outer_mm is not None and self.inner_mm < self.outer_mm
        ):
            raise ValueError("a ring needs outer_mm, above inner_mm")
        if self.operation is Operation.MARGIN and self.margin is None:
            raise ValueError("the operation margin needs a margin")
        return self


@dataclass(frozen=True, slots=True)
class CustomStructures:
    """What a file defines."""

    definitions: tuple[Definition, ...]
    faults: tuple[str, ...]
    """Definitions that are none, and why."""

    @property
    def certain_faults(self) -> tuple[str, ...]:
        """What is wrong whatever structures a course has; sources that nobody defines may be among these."""
        count = Counter(one.name for one in self.definitions)
        twice = [f"{shown(name)}: is defined twice" for name in count if count[name] > 1]
        needed = {one.name: {*one.source_structures} & count.keys() for one in self.definitions}
        circles: list[str] = []
        while True:
            try:
                TopologicalSorter(needed).prepare()
            except CycleError as error:
                # From what is needed to what needs it.
                circle = [*reversed(error.args[1])]
                circles.append(f"{shown(circle[0])}: needs itself: {' → '.join(map(shown, circle))}")
                needed[circle[0]] = set()
                continue
            return (*self.faults, *twice, *circles)


def read_custom_structures(path: Path) -> CustomStructures:
    """Read a file of definitions; what is wrong with one is said and touches no other.

    Raises:
        ConfigurationError: The file cannot be read, or holds no list ``custom_structures``.
    """
    content = read_yaml(path, _ROLE)
    if not isinstance(content, dict) or not isinstance(content.get("custom_structures"), list):
        raise ConfigurationError(f"{_ROLE} holds no list custom_structures")
    if others := sorted(shown(str(key)) for key in content if key != "custom_structures"):
        raise ConfigurationError(f"{_ROLE}: there is no such key: {', '.join(others)}")
    if len(content["custom_structures"]) > MOST_DEFINITIONS:
        raise ConfigurationError(f"{_ROLE} has more than {MOST_DEFINITIONS} definitions")
    definitions: list[Definition] = []
    faults: list[str] = []
    for number, item in enumerate(content["custom_structures"], start=1):
        try:
            definitions.append(Definition.model_validate(item))
        except ValidationError as error:
            what = f"definition {number}{_named(item)}"
            faults.append(f"{what}: {'; '.join(problems(error, Definition, 'all of it'))}")
    return CustomStructures(tuple(definitions), tuple(faults))


def _named(item: Any) -> str:
    name = item.get("name") if isinstance(item, dict) else None
    return f" ({shown(name)})" if isinstance(name, str) else ""


@dataclass(frozen=True, slots=True, eq=False)
class DerivedStructures:
    """What was made, and what was not."""

    masks: Mapping[str, Mask]
    """By name, on the grid of the sources; empty where nothing is left."""
    faults: dict[str, str]
    """Why a definition could not be made, by its name."""


def derive(
    definitions: Sequence[Definition],
    masks: Mapping[str, Mask],
    grid: ImageGrid,
    names: StructureNames,
    made: MutableMapping[str, Mask] | None = None,
) -> DerivedStructures:
    """Make structures of others, with no more than three masks in memory that are not held by the mappings.

    Args:
        definitions: In any order.
        masks: The structures that are there, by name or key, each of the shape of the grid.
        grid: Where they are.
        names: What means the same: a source may be named as the model or as TG-263 has it.
        made: Empty; where those that are made are kept. None: in memory.
    """
    if made is not None:
        return DerivedStructures(made, _Derivation(definitions, masks, grid, names, made).all())
    kept: dict[str, Mask] = {}
    faults = _Derivation(definitions, masks, grid, names, kept).all()
    ordered = {one.name: kept[one.name] for one in definitions if one.name in kept}
    return DerivedStructures(ordered, faults)


class _Derivation:
    def __init__(
        self,
        definitions: Sequence[Definition],
        masks: Mapping[str, Mask],
        grid: ImageGrid,
        names: StructureNames,
        made: MutableMapping[str, Mask],
    ) -> None:
        self._masks, self._grid, self._names, self._made = masks, grid, names, made
        self._definitions: dict[str, Definition] = {}
        self._faults: dict[str, str] = {}
        self._open: list[str] = []
        self._there = {name for key in masks for name in names.names_of(key)}
        for one in definitions:
            if one.name in self._definitions:
                self._faults[one.name] = "is defined twice"
            elif one.name in self._there:
                self._faults[one.name] = "is the name of a structure that is there already"
            self._definitions[one.name] = one

    def all(self) -> dict[str, str]:
        """Make every definition that can be made; why the others cannot, by name."""
        for name in self._definitions:
            self._make(name)
        return {name: self._faults[name] for name in self._definitions if name in self._faults}

    def _make(self, name: str) -> None:
        """Make one definition and what it needs; what stops it becomes its fault."""
        if name in self._made or name in self._faults:
            return
        self._open.append(name)
        try:
            definition = self._definitions[name]
            there = [self._source(wanted) for wanted in definition.source_structures]
            # One after the other: each may have to be read.
            sources = (self._masks[one] if one in self._masks else self._made[one] for one in there)
            self._made[name] = _combined(definition, sources, self._grid)
        except ImageError as error:
            self._faults.setdefault(name, error.message)
        finally:
            self._open.pop()

    def _source(self, wanted: str) -> str:
        """Name or key of the structure that a definition means, once it is made.

        Raises:
            ImageError: There is none, it may be any of several, cannot be made, or needs itself.
        """
        found = self._names.meant_by(wanted, [*self._masks, *self._definitions.keys() - self._there])
        if len(found) != 1:
            meant = self._names.named(wanted)
            ambiguous = meant.naming is Naming.AMBIGUOUS
            why = meant.reason if ambiguous else f"is not there{nearest_names(wanted, self._there)}"
            if found:
                why = f"may be any of {', '.join(map(shown, sorted(found)))}"
            raise ImageError(f"needs {shown(wanted)}, which {why}", where=_WHERE)
        (name,) = found
        if name in self._masks:
            return name
        if name in self._open:
            circle = self._open[self._open.index(name) :]
            fault = f"needs itself: {' → '.join(map(shown, [*circle, name]))}"
            self._faults |= dict.fromkeys(circle, fault)
            raise ImageError(fault, where=_WHERE)
        self._make(name)
        if name in self._faults:
            raise ImageError(f"needs {shown(wanted)}, which cannot be made", where=_WHERE)
        return name


def _combined(definition: Definition, sources: Iterator[Mask], grid: ImageGrid) -> Mask:
    first = next(sources)
    match definition.operation:
        case Operation.UNION:
            result = reduce(np.logical_or, sources, first)
        case Operation.INTERSECTION:
            result = reduce(np.logical_and, sources, first)
        case Operation.SUBTRACT:
            result = reduce(lambda left, taken: left & ~taken, sources, first)
        case Operation.XOR:
            result = reduce(np.logical_xor, sources, first)
        case Operation.MARGIN:
            result = first
        case Operation.RING:
            assert definition.outer_mm is not None
            inner, outer = (Margins.uniform(mm) for mm in (definition.inner_mm, definition.outer_mm))
            result = with_margins(first, outer, grid) & ~with_margins(first, inner, grid)
        case Operation.CROP:
            inside = definition.keep is Side.INSIDE
            distance = -definition.distance_mm if inside else definition.distance_mm
            limit = with_margins(next(sources), Margins.uniform(distance), grid)
            result = first & (limit if inside else ~limit)
    margin = definition.margin
    if margin is not None:
        margins = margin.margins if isinstance(margin, DirectedMargin) else Margins.uniform(margin)
        result = with_margins(result, margins, grid)
    return np.asarray(result)

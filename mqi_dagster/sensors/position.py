"""How far a sensor has read a growing table of Dagster's records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_OVERLAP = 200
"""Rows that are looked at again: PostgreSQL shows some only after others with a higher number."""


@dataclass(frozen=True, slots=True)
class Position:
    """The highest row that was read, and those read shortly before it."""

    after: int = 0
    seen: frozenset[int] = field(default=frozenset())

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Position:
        """From what `content` has made; one from before rows were remembered counts them all as read."""
        after = int(content["after"])
        if "seen" not in content:
            return cls(after, frozenset(range(max(0, after - _OVERLAP) + 1, after + 1)))
        return cls(after, frozenset(int(number) for number in content["seen"]))

    def content(self) -> dict[str, Any]:
        """For a cursor."""
        return {"after": self.after, "seen": sorted(self.seen)}

    @property
    def floor(self) -> int:
        """Rows with a higher number than this are to be looked at."""
        return max(0, self.after - _OVERLAP)

    def is_new(self, number: int) -> bool:
        """Whether a row was not read yet."""
        return number > self.floor and number not in self.seen

    def past(self, numbers: Iterable[int]) -> Position:
        """The position once these rows are read as well."""
        read = self.seen | set(numbers)
        after = max([self.after, *read])
        return Position(after, frozenset(number for number in read if number > after - _OVERLAP))

"""Whether a text names the patient, whatever its case, accents, hyphens, zeros and order of dates."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

_SHORTEST_JOINED = 4
"""Letters and digits from which on a text is found across blanks and hyphens: shorter ones are by chance."""
_SHORTEST_INSIDE = 6
"""Latin letters from which on a name is found in the middle of a word as well."""
_SHORTEST_ASCII, _SHORTEST = 3, 2
"""Letters of a name or number that is looked for at all: names of some scripts have two."""
_GROUPS = re.compile(
    r"(?<![0-9])(?=([0-9]{1,4})[^0-9A-Za-z]{1,3}([0-9]{1,4})[^0-9A-Za-z]{1,3}([0-9]{1,4})(?![0-9]))"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a patient is known by.

    Args:
        numbers: Patient IDs.
        names: Names, their components and words.
        birth_date: ``YYYYMMDD``; empty where it is not known.
    """

    numbers: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    birth_date: str = ""

    def named_in(self, text: str) -> str | None:
        """What of the patient a text holds: ``ID``, ``name`` or ``birth date``; None where nothing."""
        plain = _plain(text)
        if any(_holds(plain, _plain(one)) or _number_in(plain, _plain(one)) for one in self.numbers):
            return "ID"
        if any(_holds(plain, _plain(one)) for one in self.names):
            return "name"
        return "birth date" if self._dated(plain) else None

    def _dated(self, plain: str) -> bool:
        if not re.fullmatch(r"[0-9]{8}", self.birth_date):
            return False
        year, month, day = self.birth_date[:4], self.birth_date[4:6], self.birth_date[6:]
        orders = [(year, month, day), (day, month, year), (month, day, year), (year, day, month)]
        if any("".join(order) in _joined(plain) for order in orders):
            return True
        short = [tuple(part[-2:] for part in order) for order in orders]
        if {"".join(order) for order in short} & set(re.findall(r"[0-9]+", plain)):
            return True
        wanted = {tuple(int(part) for part in order) for order in (*orders, *short)}
        return any(group in wanted for group in _dates(plain))


def identifies(part: str) -> bool:
    """Whether a text is long enough to be looked for."""
    joined = _joined(_plain(part))
    return len(joined) >= (_SHORTEST_ASCII if joined.isascii() else _SHORTEST)


def _plain(text: str) -> str:
    """Without accents, in small letters, with digits of one script; letters of other scripts stay whole."""
    split = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(one for one in split if unicodedata.category(one) != "Mn")
    digits = "".join(
        str(unicodedata.decimal(one)) if unicodedata.decimal(one, None) is not None else one for one in kept
    )
    return unicodedata.normalize("NFC", digits)


def _joined(plain: str) -> str:
    return "".join(one for one in plain if one.isalnum())


def _holds(plain: str, wanted: str) -> bool:
    """Whether a text holds another: as it is written, or across blanks, hyphens and the like."""
    joined = _joined(wanted)
    if not joined:
        return False
    if joined.isascii() and joined.isalpha() and len(joined) < _SHORTEST_INSIDE:
        # Short names stand inside ordinary words ("Ann" in "planned"): there they are by chance.
        words = re.findall(r"[a-z]+", plain)
        edges = any(word.startswith(joined) or word.endswith(joined) for word in words)
        return joined in words or (len(joined) >= _SHORTEST_JOINED and edges)
    return (
        wanted in plain or joined in plain or (len(joined) >= _SHORTEST_JOINED and joined in _joined(plain))
    )


def _number_in(plain: str, wanted: str) -> bool:
    """Whether a number stands in a text with other leading zeros."""
    joined = _joined(wanted)
    bare = joined.lstrip("0")
    if not joined.isdigit() or len(bare) < _SHORTEST_ASCII:
        return False
    runs = [*re.findall(r"[0-9]+", plain), *re.findall(r"[0-9]+", _joined(plain))]
    return any(run.lstrip("0") == bare for run in runs)


def _dates(plain: str) -> Iterator[tuple[int, ...]]:
    """Every three groups of digits in a row, as they stand."""
    for found in _GROUPS.finditer(plain):
        yield tuple(int(group) for group in found.groups())


UNKNOWN = Identity()
"""Of a patient of whom nothing is known."""

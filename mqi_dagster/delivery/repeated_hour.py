"""Which of two moments a machine's local time means in the hour that autumn repeats.

The machine writes no zone, so a single time in that hour cannot be told. A night's deliveries together can:
parts of one beam follow each other by their layers, and a fraction is irradiated in one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

NIGHT = timedelta(hours=12)
"""How far from the repeated hour a delivery still speaks for what is in it."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What tells a delivery's place in the night."""

    moments: tuple[datetime, ...]
    """One or two, in UTC, the earlier first."""
    beam: int
    first_layer: int
    last_layer: int


def choose_moments(deliveries: Sequence[Timed], window: timedelta) -> list[datetime]:
    """The moment of each delivery: in one night those with the fewest fractions, and the shortest.

    Parts of a beam keep the order of their layers. Where nothing tells, it is the earlier moment.

    Args:
        deliveries: In any order.
        window: How long after its first delivery a fraction stays open.

    Returns:
        One moment for each delivery, in the order given.
    """
    chosen = [delivery.moments[0] for delivery in deliveries]
    open_ones = sorted(
        (index for index, delivery in enumerate(deliveries) if len(delivery.moments) > 1),
        key=lambda index: chosen[index],
    )
    while open_ones:
        first = chosen[open_ones[0]]
        hour = [index for index in open_ones if chosen[index] - first <= NIGHT]
        open_ones = [index for index in open_ones if index not in hour]
        night = [index for index, moment in enumerate(chosen) if abs(moment - first) <= NIGHT]
        best = _best([deliveries[index] for index in night], window)
        for index, moment in zip(night, best, strict=True):
            chosen[index] = moment
    return chosen


def _best(night: Sequence[Timed], window: timedelta) -> list[datetime]:
    starts = sorted({moment for delivery in night for moment in delivery.moments})
    ways = [_from(start, night) for start in starts]

    def cost(moments: list[datetime]) -> tuple[int, int, timedelta, list[datetime]]:
        fractions, opened = 0, None
        for moment in sorted(moments):
            if opened is None or moment - opened > window:
                fractions, opened = fractions + 1, moment
        return _out_of_order(night, moments), fractions, max(moments) - min(moments), sorted(moments)

    return min(ways, key=cost)


def _from(start: datetime, night: Sequence[Timed]) -> list[datetime]:
    """Each delivery at its first moment from a start on, parts of a beam one after the other."""
    moments = [delivery.moments[0] for delivery in night]
    reached: dict[int, datetime] = {}
    for index in sorted(range(len(night)), key=lambda index: (night[index].beam, night[index].first_layer)):
        delivery = night[index]
        bound = max(start, reached.get(delivery.beam, start))
        later = [moment for moment in delivery.moments if moment >= bound]
        moments[index] = later[0] if later else delivery.moments[-1]
        reached[delivery.beam] = moments[index]
    return moments


def _out_of_order(night: Sequence[Timed], moments: Sequence[datetime]) -> int:
    parts = list(zip(night, moments, strict=True))
    return sum(
        one.beam == other.beam and one.last_layer <= other.first_layer and moment > later
        for one, moment in parts
        for other, later in parts
        if one is not other
    )

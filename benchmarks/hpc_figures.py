"""Times and how `hpc.py` shows them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Figure:
    """What one way of doing a thing took, each time it was done."""

    name: str
    seconds: list[float] = field(default_factory=list)
    note: str = ""
    factor: float = 1.0
    """Of the share that was measured, what makes it the whole."""

    def time(self, action: Callable[..., object], *arguments: object) -> None:
        """Do it once more."""
        start = time.perf_counter()
        action(*arguments)
        self.seconds.append((time.perf_counter() - start) * self.factor)

    @property
    def median(self) -> float:
        """The median [s]."""
        return statistics.median(self.seconds)


def show(title: str, figures: list[Figure], *, compared_with: Figure) -> None:
    """Print figures in ms, and how many times as long as one of them each takes by the medians."""
    print(f"\n{title} (times: by the medians, of {compared_with.name!r})")
    print(f"  {'way':<58}{'best ms':>10}{'median':>10}{'max':>10}{'times':>8}{'of':>5}")
    for one in figures:
        milliseconds = [value * 1000 for value in (min(one.seconds), one.median, max(one.seconds))]
        numbers = "".join(f"{value:>10.1f}" for value in milliseconds)
        ratio = one.median / compared_with.median
        print(f"  {one.name:<58}{numbers}{ratio:>8.2f}{len(one.seconds):>5}  {one.note}".rstrip())


def ratios(slow: Figure, fast: Figure) -> tuple[float, float]:
    """How many times as long one thing takes as another, by the medians and by the best."""
    return slow.median / fast.median, min(slow.seconds) / min(fast.seconds)


def show_target(what: str, met: bool, value: float) -> None:
    """Print one target's line."""
    print(f"target {what}: {'met' if met else 'missed'} ({value:.2f})")


def load() -> str:
    """The load of this machine."""
    return f"load {' '.join(f'{value:.2f}' for value in os.getloadavg())} on {os.cpu_count()} cores"

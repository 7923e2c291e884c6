"""How long to wait before something is tried again: twice as long each time, up to a limit."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

_DOUBLINGS = 40
"""More than so many are beyond every limit, and beyond what a float holds of seconds."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between tries."""

    first_seconds: float
    """After the first failure."""
    longest_seconds: float = math.inf
    jitter: float = 0.0
    """Share of a wait, 0 to 1, by which chance shortens it, so that many do not try again at once."""

    def seconds(self, failures: int) -> float:
        """How long to wait after so many failures in a row, at least one."""
        doubled = self.first_seconds * 2.0 ** min(failures - 1, _DOUBLINGS)
        return min(doubled, self.longest_seconds) * random.uniform(1.0 - self.jitter, 1.0)

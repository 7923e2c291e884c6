"""Counts for the engine: whole numbers whose sum is the sum of what they stand for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class RunningCounts:
    """Rounds the running sum S instead of each value: N_j = R(S_j) - R(S_(j-1)), R half to even.

    Every partial sum is then within half a count of the truth, and whole numbers stay as they are. Cutting
    each sample on its own loses up to a third of the protons where counts are small (docs/physics.md 5).
    State is carried from call to call, so that pieces of a layer make the same counts as the whole.
    """

    def __init__(self) -> None:
        self.rounded = 0
        """R(S) after the last sample: the sum of all counts so far."""
        self.exact = 0.0
        """S after the last sample."""

    def follow(self, running: NDArray[np.float64]) -> NDArray[np.int64]:
        """The counts of the next samples.

        Args:
            running: S after each of them, never descending.
        """
        rounded = np.rint(running).astype(np.int64)
        counts = np.diff(rounded, prepend=self.rounded)
        if len(rounded):
            self.rounded = int(rounded[-1])
            self.exact = float(running[-1])
        return counts


class RecordCounts:
    """Counts of one record, N = raw * factor / divisor, continued from the layer's earlier parts.

    Args:
        running: The layer's running sum.
        factor: Monitor factor of the record's range code.
        divisor: The dose dividing factor.
    """

    def __init__(self, running: RunningCounts, factor: float, divisor: float) -> None:
        self._running = running
        self._before = running.exact
        self._factor = factor
        self._divisor = divisor
        self._raw_sum = 0

    def follow(self, raw: NDArray[np.uint16]) -> NDArray[np.int64]:
        """The counts of the next samples, from monitor 1 as recorded."""
        sums = np.cumsum(raw, dtype=np.int64)
        sums += self._raw_sum
        if len(sums):
            self._raw_sum = int(sums[-1])
        scaled = sums.astype(np.float64) * self._factor / self._divisor
        return self._running.follow(self._before + scaled)

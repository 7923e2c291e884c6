"""What the dose monitor counted while the beam was not on."""

from __future__ import annotations

import numpy as np

from mqi_dagster.delivery.record import DOSE_1, FLAGS, ON_BITS, Words, beam_on

GREATEST_ZERO = 30
"""Counts a sample that are taken for the monitor's own zero at most (idle samples of real records show 0 to
100)."""


class BeamOffCounts:
    """Adds up the counts of dose monitor 1 outside the beam, without the monitor's own zero.

    The zero is the median of the samples with neither beam bit, before the beam or after it, whichever is
    less, and no more than ``GREATEST_ZERO``: what drips is dose, what the electronics show of themselves is
    none.
    """

    def __init__(self) -> None:
        self._idle = np.zeros((2, GREATEST_ZERO + 1), dtype=np.int64)
        self._seen_on = False
        self._sum = 0

    def add(self, words: Words) -> None:
        """Take the next samples of a record."""
        on = beam_on(words)
        after = np.logical_or.accumulate(on) | self._seen_on
        self._seen_on = bool(after[-1])
        self._sum += int(words[~on, DOSE_1].sum(dtype=np.int64))
        idle = (words[:, FLAGS] & ON_BITS) == 0
        for index, rows in enumerate((idle & ~after, idle & after)):
            counts = np.minimum(words[rows, DOSE_1], GREATEST_ZERO)
            self._idle[index] += np.bincount(counts, minlength=GREATEST_ZERO + 1)

    @property
    def total(self) -> float:
        """Counts beyond the monitor's zero."""
        medians = [
            int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) for counts in self._idle if counts.sum()
        ]
        zero = min(medians, default=0)
        return float(max(0, self._sum - zero * int(self._idle.sum())))

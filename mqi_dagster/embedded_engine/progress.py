"""The lines that the platform follows, in moqui's words, flushed one by one."""

from __future__ import annotations

from collections.abc import Sequence

BATCHES = 20


def say(text: str) -> None:
    """Print a line and flush it: a pipe would hold it back otherwise."""
    print(text, flush=True)


class ShardProgress:
    """The parts' own percentages, told as moqui tells its batches.

    Args:
        histories: Histories of each part.
    """

    def __init__(self, histories: Sequence[int]) -> None:
        self._histories = histories
        self._percent = [0.0] * len(histories)
        self._batch = 0

    def begin(self) -> None:
        """Announce the histories and the first batch."""
        total = sum(self._histories)
        say(f"Uploading particles with batch.. : Particle count --> {total} with {BATCHES} batches")
        self._announce(1)

    def update(self, part: int, percent: float) -> None:
        """A part has come so far; batches are announced in order, each once."""
        self._percent[part] = max(self._percent[part], min(percent, 100.0))
        done = sum(p * n for p, n in zip(self._percent, self._histories, strict=True))
        share = done / (100.0 * sum(self._histories))
        self._announce(min(BATCHES, 1 + int(share * BATCHES + 1e-9)))

    def finish(self) -> None:
        """Announce what is left; every part has ended."""
        self._announce(BATCHES)
        self._complete()

    def _announce(self, upto: int) -> None:
        while self._batch < upto:
            if self._batch:
                self._complete()
            self._batch += 1
            say(f"Generating particles for ({self._batch} of {BATCHES} batches) in CPU ..")

    def _complete(self) -> None:
        say("Particle generation complete!")
        say("Transporting particles...")
        say("Particle transportation complete!")

"""How far a piece of work has come, in one line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How many tasks of a kind have ended, well or not."""

    label: str
    ended: int
    total: int
    elapsed_seconds: float

    @property
    def remaining_seconds(self) -> float | None:
        """At the pace so far; None before the first has ended."""
        return self.elapsed_seconds / self.ended * (self.total - self.ended) if self.ended else None

    def __str__(self) -> str:
        """``Label: X/Y (Z%) elapsed A ETA B``."""
        percent = 100 * self.ended // self.total if self.total else 100
        eta = "unknown" if self.remaining_seconds is None else f"{self.remaining_seconds:.1f}s"
        count = f"{self.ended}/{self.total} ({percent}%)"
        return f"{self.label}: {count} elapsed {self.elapsed_seconds:.1f}s ETA {eta}"

"""The last hour of every GPU, kept in this process's memory, and drawn as a line."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mqi_dagster.worklist import GpuStatus

SHOWN = timedelta(hours=1)
_EVERY = timedelta(seconds=30)
_MOST = SHOWN // _EVERY + 1
WIDTH, HEIGHT = 120, 24
"""Of the drawing, in its own units."""


@dataclass(frozen=True, slots=True)
class Line:
    """The use of a GPU in the last hour, ready to be drawn."""

    points: str
    """Of an SVG polyline: from an hour ago at 0 to now at `WIDTH`, 100 % at the top."""
    since: datetime
    """Of the first sample."""
    mean: float
    """Of its samples [%]."""
    highest: float
    """Of its samples [%]."""


class GpuHistory:
    """Samples of GPUs, at most one in half a minute."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], deque[tuple[datetime, float]]] = {}

    def add(self, gpus: Iterable[GpuStatus]) -> None:
        """Keep what was sampled since; a GPU that is not known any more is forgotten."""
        before, self._samples = self._samples, {}
        for gpu in gpus:
            key = gpu.host, gpu.uuid
            samples = self._samples[key] = before.get(key) or deque(maxlen=_MOST)
            if gpu.seen_at is None or gpu.utilisation_percent is None:
                continue
            if not samples or gpu.seen_at - samples[-1][0] >= _EVERY:
                samples.append((gpu.seen_at, gpu.utilisation_percent))

    def line(self, gpu: GpuStatus, now: datetime | None = None) -> Line | None:
        """The last hour of a GPU; None before there are two samples of it.

        Args:
            gpu: Which.
            now: Right end of the line; the machine's own time where None.
        """
        right = now or datetime.now(UTC)
        samples = [
            one for one in tuple(self._samples.get((gpu.host, gpu.uuid), ())) if right - one[0] <= SHOWN
        ]
        if len(samples) < 2:
            return None
        values = [value for _, value in samples]
        points = " ".join(
            f"{WIDTH * (1 - (right - at) / SHOWN):.1f},{HEIGHT * (1 - value / 100):.1f}"
            for at, value in samples
        )
        return Line(points, samples[0][0], sum(values) / len(values), max(values))

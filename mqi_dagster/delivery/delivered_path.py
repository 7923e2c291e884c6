"""Where the beam was and what it gave, sample by sample: one delivered layer in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SAMPLES_AT_MOST = 1 << 20
"""A longer layer is kept in coarser steps: about a minute of beam at 60 us a sample stays as it is."""
_LEADING = 12
"""Beam-on samples at the start of a record among which it may still show the magnets' rest position."""
_JUMP_MM = 10.0
"""No beam moves so far in one sample."""
_RESTING_SHARE = 0.005
"""Most of a part's monitor units that can lie in samples which show the rest position."""
_QUARTILE = 0.3186
"""Lower quartile of the distance from its mean of a normal variable with standard deviation 1."""


@dataclass(frozen=True, slots=True)
class Path:
    """The beam-on samples of a layer that carry monitor units, without those that show the rest position."""

    part: NDArray[np.int64]
    """Shape (n,): 0-based part of the layer."""
    time_s: Floats
    """Shape (n,): since the part's first beam-on sample [s]."""
    positions_mm: Floats
    """Shape (n, 2)."""
    mu: Floats
    """Shape (n,)."""
    noise_mm: float = 0.0
    """Standard deviation of a sample's place in either axis, as far as neighbouring samples show it."""

    def __len__(self) -> int:
        return len(self.mu)


class DeliveredPath:
    """Collects the beam-on samples of a layer as they are read."""

    def __init__(self) -> None:
        self._pieces: list[Path] = []
        self._step = 1
        self._samples = 0

    def add(self, part: int, time_s: Floats, positions_mm: Floats, mu: Floats) -> None:
        """Take the next beam-on samples of a part."""
        if not len(mu):
            return
        parts = np.full(len(mu), part, dtype=np.int64)
        piece = _coarser(Path(parts, time_s, positions_mm, mu), self._step)
        self._pieces.append(piece)
        self._samples += len(piece)
        if self._samples > SAMPLES_AT_MOST:
            self._pieces = [_coarser(_joined(self._pieces), 2)]
            self._step *= 2
            self._samples = len(self._pieces[0])

    def path(self) -> Path:
        """All samples so far with monitor units."""
        whole = _joined(self._pieces)
        kept = whole.mu > 0
        for part in np.unique(whole.part):
            rows = np.flatnonzero(whole.part == part)
            kept[rows[: _resting(whole, rows)]] = False
        positions = whole.positions_mm[kept]
        return Path(whole.part[kept], whole.time_s[kept], positions, whole.mu[kept], _noise_mm(positions))


def _noise_mm(positions_mm: Floats) -> float:
    """Noise of the positions from their second differences, which neither a place nor a speed is seen in."""
    if len(positions_mm) < 3:
        return 0.0
    # The lower quartile, as in a quickly stepping beam many differences are its steps.
    quartiles = np.quantile(np.abs(np.diff(positions_mm, n=2, axis=0)), 0.25, axis=0)
    return float(np.sqrt((quartiles**2).mean()) / (_QUARTILE * np.sqrt(6.0)))


def _resting(path: Path, rows: NDArray[np.int64]) -> int:
    """How many of a part's first samples show another place than the beam's: before a jump, without dose."""
    leading = rows[: _LEADING + 1]
    steps = np.linalg.norm(np.diff(path.positions_mm[leading], axis=0), axis=1)
    jumps = np.flatnonzero(steps > _JUMP_MM)
    if not len(jumps):
        return 0
    count = int(jumps[-1]) + 1
    given = path.mu[rows]
    return count if given[:count].sum() <= _RESTING_SHARE * given.sum() else 0


def _joined(pieces: list[Path]) -> Path:
    if not pieces:
        return Path(np.empty(0, dtype=np.int64), np.empty(0), np.empty((0, 2)), np.empty(0))
    return Path(
        np.concatenate([piece.part for piece in pieces]),
        np.concatenate([piece.time_s for piece in pieces]),
        np.concatenate([piece.positions_mm for piece in pieces]),
        np.concatenate([piece.mu for piece in pieces]),
    )


def _coarser(path: Path, step: int) -> Path:
    """Several samples as one at their mean place, weighted by monitor units; parts are not mixed."""
    if step == 1:
        return path
    starts = np.flatnonzero(
        (np.arange(len(path)) % step == 0) | (np.diff(path.part, prepend=path.part[:1]) != 0)
    )
    mu = np.add.reduceat(path.mu, starts)
    counts = np.diff(starts, append=len(path))
    # Samples without monitor units count as much as each other.
    weight = np.where(np.repeat(mu, counts) > 0, path.mu, 1.0)
    total = np.add.reduceat(weight, starts)
    xy = np.add.reduceat(path.positions_mm * weight[:, None], starts, axis=0) / total[:, None]
    return Path(path.part[starts], np.add.reduceat(path.time_s, starts) / counts, xy, mu)

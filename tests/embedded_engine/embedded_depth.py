"""The tests' own reading of raw doses and their own R80."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def read_raw(header: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Values [z, y, x], lower edge (x, y, z) and spacing (x, y, z) of a raw dose with header."""
    keys = dict(line.split(" = ", 1) for line in header.read_text().splitlines() if " = " in line)
    nx, ny, nz = (int(v) for v in keys["DimSize"].split())
    values = np.fromfile(header.with_suffix(".raw"), "<f8").reshape(nz, ny, nx)
    edge = np.array([float(v) for v in keys["Offset"].split()])
    return values, edge, np.array([float(v) for v in keys["ElementSpacing"].split()])


def r80(at: NDArray[np.float64], dose: NDArray[np.float64]) -> float:
    """Where the dose falls to 80 % of its maximum behind the peak; ``at`` runs with the beam."""
    peak = int(dose.argmax())
    beyond = peak + int(np.argmax(dose[peak:] < 0.8 * dose[peak]))
    high, low = dose[beyond - 1], dose[beyond]
    step = at[beyond] - at[beyond - 1]
    return float(at[beyond - 1] + step * (high - 0.8 * dose[peak]) / (high - low))

"""The parts' doses as one dose in Gy, with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.embedded_engine.driver import Shard
from mqi_dagster.embedded_engine.volume import Volume
from mqi_dagster.errors import EngineError

Floats = NDArray[np.float64]

GY_PER_EV_PER_G = 1.602176634e-16
"""Exact: 1 eV = 1.602176634e-19 J, and 1000 g in a kilogram."""

_SOLID = 0.1
"""Voxels lighter than this [g/cm3] do not count for maximum and uncertainty: rare events rule there."""
_AIR = 0.01
"""Dose in voxels lighter than this [g/cm3] is noise over next to no mass and is set to zero."""


class InvalidDoseError(EngineError):
    """MCsquare ended well, but what it left behind is no dose."""


@dataclass(frozen=True, slots=True)
class SimulatedDose:
    """The dose of the whole beam."""

    values: Floats
    """Shape (nz, ny, nx), DICOM axes [Gy where the beam model is commissioned]."""
    uncertainty_percent: float
    """Mean relative standard uncertainty of the voxels above half of the maximum."""


def combine(folder: Path, volume: Volume, parts: Sequence[Shard], protons: float) -> SimulatedDose:
    """Average the parts, weighted by their histories, and scale to the beam's protons.

    The uncertainty comes from the spread between the parts: for n parts of weight w_i the variance of
    the weighted mean is sum(w_i^2) s^2 with s^2 the sample variance; c4(n) removes the bias of s.

    Args:
        folder: Working folder of the parts.
        volume: What was simulated.
        parts: The parts, at least two.
        protons: Protons of the beam.

    Raises:
        InvalidDoseError: A dose is missing, has another size, is not finite, negative, or zero everywhere.
    """
    total = sum(part.histories for part in parts)
    shape = volume.hounsfield.shape
    mean, square = np.zeros(shape), np.zeros(shape)
    # Always in the order of the parts: another order of additions gives other bits.
    for part in parts:
        dose = _read(folder / part.output / "Dose.raw", volume)
        mean += dose * (part.histories / total)
        square += dose**2
    density = volume.density()
    mean[density < _AIR] = 0.0
    solid = np.where(density >= _SOLID, mean, 0.0)
    peak = float(solid.max())
    if peak <= 0:
        raise InvalidDoseError("the simulated dose is zero everywhere")
    high = solid > 0.5 * peak
    uncertainty = _spread(mean[high], square[high], [part.histories / total for part in parts])
    return SimulatedDose(mean * (GY_PER_EV_PER_G * protons), 100.0 * float(uncertainty.mean()))


def _spread(mean: Floats, square: Floats, weights: Sequence[float]) -> Floats:
    """Relative standard uncertainty of the mean, shape (voxels,)."""
    n = len(weights)
    variance = np.maximum(square - n * mean**2, 0.0) / (n - 1)
    c4 = math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))
    return np.asarray(np.sqrt(variance * sum(w**2 for w in weights)) / (c4 * mean))


def _read(path: Path, volume: Volume) -> Floats:
    try:
        dose = volume.read_dose(path)
    except OSError as error:
        raise InvalidDoseError(f"a part's dose cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidDoseError("a part's dose has another size than the volume") from error
    if not np.isfinite(dose).all() or float(dose.min()) < 0:
        raise InvalidDoseError("a part's dose holds values that are negative or not finite")
    return dose

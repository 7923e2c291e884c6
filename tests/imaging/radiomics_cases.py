"""Profiles, phantoms and comparisons for the tests of radiomics."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.imaging.radiomics_profile import RadiomicsProfile
from tests.imaging.ibsi_reference import Reference

PHANTOM_SETTINGS: dict[str, Any] = {
    "modality": "CT",
    "resampling": {
        "voxel_size_mm": [None, None, None],
        "image_interpolator": "linear",
        "mask_interpolator": "linear",
        "round_intensities": True,
    },
    "resegmentation": {"range": [1, 6]},
    "discretisation": {"bin_size": 1},
    "aggregations": ["2D_avg", "2D_comb", "2_5D_avg", "2_5D_comb", "3D_avg", "3D_comb"],
    "min_voxels": 1,
    "max_voxels": 1_000_000,
}
"""The digital phantom needs neither resampling nor discretisation: its intensities are its grey levels."""

CONFIGURATION_C: dict[str, Any] = {
    "modality": "CT",
    "resampling": {
        "voxel_size_mm": [2, 2, 2],
        "image_interpolator": "linear",
        "mask_interpolator": "linear",
        "mask_threshold": 0.5,
        "round_intensities": True,
    },
    "resegmentation": {"range": [-1000, 400]},
    "discretisation": {"bin_size": 25},
    "ivh_discretisation": {"bin_size": 2.5},
    "aggregations": ["3D_avg", "3D_comb"],
    "min_voxels": 27,
    "max_voxels": 1_000_000,
}
"""IBSI's, for the CT phantom."""


def profile(settings: dict[str, Any] = PHANTOM_SETTINGS, **changes: Any) -> RadiomicsProfile:
    """A profile with some keys changed: ``resampling__round_intensities=False`` is one of a section."""
    changed = copy.deepcopy(settings)
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            changed.setdefault(section, {})[key] = value
        else:
            changed[section] = value
    return RadiomicsProfile.model_validate(changed)


def digital_phantom() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """IBSI's digital phantom: 4 planes of 4 rows and 5 columns, voxels of 2 mm, 74 of them in the region."""
    image = np.array(
        [
            [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
            [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [1, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
            [[1, 4, 4, 1, 1], [1, 1, 1, 1, 1], [1, 1, 9, 1, 1], [1, 1, 6, 1, 1]],
            [[1, 4, 4, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
        ],
        dtype=np.float32,
    )
    mask = np.ones(image.shape, dtype=np.bool_)
    mask[1, 2, 0] = mask[2, 2, 2] = False
    mask[2:, 0, 3:] = False
    return image, mask


def agrees(value: float, reference: Reference) -> bool:
    """Whether a value is the published one: within its tolerance, or to three digits where it has none."""
    published = float(reference.value)
    if reference.tolerance:
        return abs(value - published) <= reference.tolerance
    return float(f"{value:.3g}") == published


def noise(shape: tuple[int, int, int], low: float = -200, high: float = 200) -> NDArray[np.float32]:
    """Intensities that no two voxels share by design."""
    return np.random.default_rng(20).uniform(low, high, shape).astype(np.float32)


def box(shape: tuple[int, int, int], *sides: tuple[int, int]) -> NDArray[np.bool_]:
    """A box from one index to before another along each axis."""
    mask = np.zeros(shape, dtype=np.bool_)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask

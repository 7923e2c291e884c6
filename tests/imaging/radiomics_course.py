"""A small CT whose structures have intensities that everybody can add up, and settings to compute it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from mqi_dagster.imaging.structure_files import (
    MASKS,
    CourseStructures,
    RegionRecord,
    StructureRecord,
    StructureSource,
    write_mask,
    write_structures,
)
from mqi_dagster.imaging.structure_names import Naming

SHAPE = (12, 16, 20)
"""Voxels of 3 x 2 x 2 mm."""
PROFILE = {
    "modality": "CT",
    "resampling": {
        "voxel_size_mm": [None, None, None],
        "image_interpolator": "linear",
        "mask_interpolator": "linear",
        "round_intensities": True,
    },
    "resegmentation": {"range": [-1000, 400]},
    "discretisation": {"bin_size": 25},
    "aggregations": ["3D_avg"],
    "min_voxels": 27,
    "max_voxels": 10000,
}
"""Leaves the voxels as they are."""
BOXES = {
    "halves": ((2, 6), (2, 6), (2, 6)),
    "planes": ((2, 6), (8, 12), (2, 6)),
    "numbers": ((2, 6), (8, 12), (12, 16)),
    "tiny": ((9, 11), (2, 5), (2, 5)),
    "whole": ((0, 12), (0, 16), (0, 20)),
    "couch": ((9, 12), (12, 15), (12, 15)),
}
"""By structure: from one index to before another, along planes, rows and columns."""
NAMES = {"halves": ("Lung_L", "left lung"), "couch": ("CouchSurface", "TABLE top")}
"""Name and original name; others are named by their id."""


def values() -> NDArray[np.int16]:
    """HU: -50 around; 0 and 100 in the halves; 0, 10, 20, 30 in the planes; 1 to 64 in the numbers."""
    made = np.full(SHAPE, -50, np.int16)
    made[2:6, 2:6, 2:4], made[2:6, 2:6, 4:6] = 0, 100
    made[2:6, 8:12, 2:6] = 10 * np.arange(4)[:, None, None]
    made[2:6, 8:12, 12:16] = np.arange(1, 65).reshape(4, 4, 4)
    return made


def write_profile(path: Path, **changes: object) -> Path:
    """A profile for the settings."""
    path.write_text(yaml.safe_dump({**PROFILE, **changes}))
    return path


def structures(
    folder: Path, series: str, *names: str, region: RegionRecord | None = None
) -> CourseStructures:
    """Write structures as their station does."""
    (folder / MASKS).mkdir(exist_ok=True)
    records = []
    for one in names:
        mask = np.zeros(SHAPE, bool)
        mask[tuple(slice(*ends) for ends in BOXES[one])] = True
        write_mask(mask, folder / MASKS / f"{one}.npz")
        name, original = NAMES.get(one, (one, one))
        records.append(
            StructureRecord(
                id=one,
                series=series,
                name=name,
                original_name=original,
                naming=Naming.UNKNOWN,
                source=StructureSource.CLINICAL,
                made_by="drawn",
                volume_cm3=mask.sum() * 0.012,
                voxels=int(mask.sum()),
                centre_mm=None,
            )
        )
    content = CourseStructures(planning=series, structures=tuple(records), region=region)
    write_structures(content, folder)
    return content

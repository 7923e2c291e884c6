"""The structures of a course as they stand in the store: what each is, its mask, and the analysis region.

``structures.json`` holds the records; ``masks/<id>.npz`` the voxels of one structure inside its box, packed
in bits (NumPy's format, nothing pickled). ``RS.dcm`` and ``SEG.dcm`` are there where there is something to
write, with the pseudonym of the series in their name for another one than the planning series.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, MutableMapping
from enum import StrEnum
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from mqi_dagster.errors import StoreError, Where
from mqi_dagster.files import whole_file, write_whole
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.structure_names import Naming, Sided

STRUCTURES, MASKS = "structures.json", "masks"
_WHERE = Where(kind="structures")
Mask = NDArray[np.bool_]
Vector = tuple[float, float, float]


class StructureSource(StrEnum):
    """Who has made a structure."""

    CLINICAL = "clinical"
    """Drawn: it stands in an RT Structure Set of the course."""
    AUTOMATIC = "automatic"
    CUSTOM_MODEL = "custom_model"
    DERIVED = "derived"
    """Made of others by a definition of the site."""


class _Part(BaseModel):
    # A side of the region that has no limit is infinite.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class StructureRecord(_Part):
    """One structure of a course, on the grid of one of its series."""

    id: str
    """By which its mask is found; follows from its source and its number or name there."""
    series: str
    """Pseudonym of the series on whose grid it is (`Pseudonyms.series`)."""
    name: str
    """TG-263 where there is such a name."""
    original_name: str
    naming: Naming
    sided: Sided | None = None
    """By the tables that named it; None where its name says no side."""
    source: StructureSource
    made_by: str
    """Label of the structure set, name of the model, or file of definitions."""
    structure_set_uid: str | None = None
    roi_number: int | None = None
    interpreted_type: str = ""
    """RT ROI Interpreted Type."""
    volume_cm3: float
    """Of contours by their geometry, also beyond the images; else of voxels."""
    voxels: int
    centre_mm: Vector | None
    """None where it is empty."""
    touches_first_or_last_plane: bool = False
    touches_image_edge: bool = False
    outside_image_cm3: float = 0.0
    gaps: tuple[tuple[float, float], ...] = ()
    """Between planes of contours that are farther apart than usual [mm along the normal]."""
    cut_off_percent: float | None = None
    """Of its voxels beyond the analysis region; None where there is no region, or it has no voxel."""
    faults: tuple[str, ...] = ()
    """What of it could not be taken, and why."""

    @property
    def is_empty(self) -> bool:
        """Whether it has no volume."""
        return self.volume_cm3 == 0


class RegionRecord(_Part):
    """The analysis region that was found."""

    name: str
    low_mm: Vector
    """Its least DICOM x, y and z; minus infinity where it has no limit."""
    high_mm: Vector
    from_structures: tuple[str, ...]
    """By which it was found."""
    notes: tuple[str, ...] = ()
    """What may make it another box than was meant."""


class CourseStructures(_Part):
    """All structures of a course."""

    planning: str | None
    """Pseudonym of the planning series."""
    structures: tuple[StructureRecord, ...]
    region: RegionRecord | None = None
    faults: tuple[str, ...] = ()
    """What could not be made or read, and why: sets, definitions, the analysis region."""
    notes: tuple[str, ...] = ()
    """What was taken otherwise than the files say, and why."""


def write_structures(content: CourseStructures, folder: Path) -> None:
    """Write the records; the masks are there already."""
    write_whole(folder / STRUCTURES, content.model_dump_json(indent=1).encode())


def read_structures(folder: Path) -> CourseStructures:
    """Read the records.

    Raises:
        StoreError: There are none, or they are of another version.
    """
    try:
        return CourseStructures.model_validate_json((folder / STRUCTURES).read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError):
        raise StoreError("the structures cannot be read", where=_WHERE) from None


def write_mask(mask: Mask, path: Path) -> None:
    """Write a mask.

    Args:
        mask: Shape of its grid.
        path: ``masks/<id>.npz``.
    """
    at = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    low = [int(one[0]) if len(one) else 0 for one in at]
    high = [int(one[-1]) + 1 if len(one) else 0 for one in at]
    box = mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    with whole_file(path) as stream:
        np.savez_compressed(stream, shape=mask.shape, low=low, box=box.shape, bits=np.packbits(box))


def read_mask(path: Path, grid: ImageGrid) -> Mask:
    """Read a mask.

    Args:
        path: ``masks/<id>.npz``.
        grid: On which it has to be.

    Raises:
        StoreError: It is damaged, or on another grid.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            shape, low, box = (tuple(int(one) for one in arrays[name]) for name in ("shape", "low", "box"))
            inside = np.unpackbits(arrays["bits"], count=int(np.prod(box))).astype(bool).reshape(box)
    except (OSError, KeyError, ValueError, EOFError, BadZipFile):
        raise StoreError("a mask cannot be read", where=_WHERE) from None
    if shape != grid.shape:
        raise StoreError("a mask is on another grid than its series", where=_WHERE)
    mask = np.zeros(grid.shape, bool)
    mask[tuple(slice(one, one + size) for one, size in zip(low, box, strict=True))] = inside
    return mask


class StoredMasks(MutableMapping[str, Mask]):
    """Masks of one series by the key of each structure; each is read from the disk when it is asked for.

    Args:
        folder: Of the result.
        grid: Of the series.
        ids: Of a structure, by its key.
    """

    def __init__(self, folder: Path, grid: ImageGrid, ids: Callable[[str], str]) -> None:
        self._folder, self._grid, self._ids = folder, grid, ids
        self._keys: dict[str, Path] = {}

    def __getitem__(self, key: str) -> Mask:
        return read_mask(self._keys[key], self._grid)

    def __setitem__(self, key: str, mask: Mask) -> None:
        write_mask(mask, self._path(key))
        self.add_written(key)

    def add_written(self, key: str) -> None:
        """Add a mask that is on the disk already."""
        self._keys[key] = self._path(key)

    def _path(self, key: str) -> Path:
        return self._folder / MASKS / f"{self._ids(key)}.npz"

    def __delitem__(self, key: str) -> None:
        self._keys.pop(key).unlink()

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        # What Mapping has would read the mask.
        return key in self._keys

"""The raw dose on disk, as moqui names and lays it out (docs/formats.md 9)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.errors import EngineInputError, Where
from mqi_dagster.files import write_whole

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OutputGrid:
    """A grid in the axes of the output."""

    values: Floats
    """Shape (nz, ny, nx)."""
    edge_mm: tuple[float, float, float]
    """Lower edge of the first voxel in x, y, z [mm]: what moqui writes as Offset."""
    spacing_mm: tuple[float, float, float]


def stem(beam_name: str, child: int, scorer: str) -> str:
    """``<BeamName>_<child>_<scorer>``, with the beam's name as it is.

    Raises:
        EngineInputError: The name cannot stand in a file name.
    """
    if not beam_name.strip() or "/" in beam_name or "\0" in beam_name:
        raise EngineInputError("the name of the beam cannot be a file name", where=Where(kind="RT plan"))
    return f"{beam_name}_{child}_{scorer}"


def write(folder: Path, name: str, grid: OutputGrid, with_header: bool) -> None:
    """Write ``<name>.raw`` (float64, little-endian, x fastest) and its ``.mhd``, each by rename.

    The header comes last: where it stands, the values are whole.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.raw", grid.values.astype("<f8").tobytes())
    if not with_header:
        return
    nz, ny, nx = grid.values.shape
    header = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = False",
        "TransformMatrix = 1 0 0 0 1 0 0 0 1",
        "Offset = " + " ".join(f"{value!r}" for value in grid.edge_mm),
        "CenterOfRotation = 0 0 0",
        "ElementSpacing = " + " ".join(f"{value!r}" for value in grid.spacing_mm),
        f"DimSize = {nx} {ny} {nz}",
        "ElementType = MET_DOUBLE",
        f"ElementDataFile = {name}.raw",
    ]
    write_whole(folder / f"{name}.mhd", ("\n".join(header) + "\n").encode("utf-8"))

"""A block of voxels in DICOM axes, the way it is simulated, and MCsquare's view of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Hounsfield = NDArray[np.float32]
Table = tuple[tuple[float, float], ...]

AIR_DENSITY = 0.0012
"""[g/cm3]."""


@dataclass(frozen=True, slots=True)
class Volume:
    """What is simulated.

    MCsquare counts x from the far side and y upwards, so both axes are turned on the way in and out.
    """

    hounsfield: Hounsfield
    """Shape (nz, ny, nx), DICOM axes."""
    first_mm: tuple[float, float, float]
    """Centre of the first voxel, x, y, z [mm]."""
    spacing_mm: tuple[float, float, float]
    """Voxel size in x, y, z [mm]."""
    densities: Table
    """(HU, g/cm3), ascending; linear between. The last row lies above every value of the volume."""
    materials: Table
    """(HU, MCsquare material): the material from this HU on."""

    def __post_init__(self) -> None:
        # MCsquare reads past the end of the density table at its last row.
        assert float(self.hounsfield.max()) < self.densities[-1][0]

    def density(self) -> NDArray[np.float64]:
        """Mass density of every voxel [g/cm3], shape (nz, ny, nx)."""
        at, value = np.array(self.densities).T
        return np.asarray(np.interp(self.hounsfield, at, value), dtype=np.float64)

    def to_mcsquare(self, point_mm: tuple[float, float, float]) -> tuple[float, float, float]:
        """A DICOM point in MCsquare's coordinates: from the corner, y upwards [mm]."""
        x, y, z = (
            point - first + step / 2
            for point, first, step in zip(point_mm, self.first_mm, self.spacing_mm, strict=True)
        )
        return x, self.hounsfield.shape[1] * self.spacing_mm[1] - y, z

    def write(self, folder: Path) -> None:
        """Write ``CT.mhd``, ``CT.raw`` and the two conversion tables for MCsquare."""
        nz, ny, nx = self.hounsfield.shape
        header = [
            "ObjectType = Image",
            "NDims = 3",
            f"DimSize = {nx} {ny} {nz}",
            "ElementSpacing = " + " ".join(f"{step:.6f}" for step in self.spacing_mm),
            "Offset = 0 0 0",
            "ElementType = MET_FLOAT",
            "ElementByteOrderMSB = False",
            "ElementDataFile = CT.raw",
        ]
        (folder / "CT.mhd").write_text("\n".join(header) + "\n", encoding="ascii")
        self.hounsfield[:, ::-1, ::-1].astype("<f4").tofile(folder / "CT.raw")
        for name, table in (("density.txt", self.densities), ("material.txt", self.materials)):
            (folder / name).write_text("".join(f"{a:g}\t{b:g}\n" for a, b in table), encoding="ascii")

    def read_dose(self, path: Path) -> NDArray[np.float64]:
        """MCsquare's raw dose [eV/g per proton] turned into DICOM axes, shape (nz, ny, nx).

        Raises:
            ValueError: The file has another size.
        """
        values = np.fromfile(path, "<f4").reshape(self.hounsfield.shape)
        return values[:, ::-1, ::-1].astype(np.float64)

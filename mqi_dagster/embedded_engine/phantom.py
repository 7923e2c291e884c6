"""The water phantom of the TPS file.

Engine frame: beam along -z, x = DICOM x, y = DICOM z, z = -DICOM y, isocentre at the origin; the beam comes
from gantry 0 whatever the plan says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.embedded_engine.volume import AIR_DENSITY, Table, Volume
from mqi_dagster.engine_contract.tps_keys import TpsFile
from mqi_dagster.errors import EngineInputError, Where

SURFACE_MM = 20.0
"""Water surface above the isocentre in 2 cm mode [mm]."""

_AIR, _WATER = 13.0, 17.0
# HU = 1000 (density - 1), so that a voxel cut by the surface carries its water fraction exactly.
_DENSITIES: Table = (
    (-1000.0, AIR_DENSITY),
    (1000.0 * (AIR_DENSITY - 1), AIR_DENSITY),
    (0.0, 1.0),
    (1000.0, 2.0),
)
_MATERIALS: Table = ((-2000.0, _AIR), (-999.0, _WATER))


def water_fraction(lower_mm: float, unit_mm: float, voxels: int, surface_mm: float) -> NDArray[np.float64]:
    """Share of each voxel below the water surface, along the engine's z, shape (voxels,)."""
    edges = lower_mm + unit_mm * np.arange(voxels)
    return np.asarray(np.clip((surface_mm - edges) / unit_mm, 0.0, 1.0))


def water_phantom(tps: TpsFile) -> Volume:
    """The box of the TPS file filled with water, in DICOM axes around the isocentre.

    In 2 cm mode the surface lies 20 mm above the isocentre and the voxel that it cuts gets the partial
    density, so that every water-equivalent depth is exact; otherwise the whole box is water.

    Raises:
        EngineInputError: In 2 cm mode the box does not reach the surface, or no voxel is centred on the
            isocentre's plane.
    """
    nx, ny, nz = tps.phantom_dimension
    ux, uy, uz = tps.phantom_unit_mm
    px, py, pz = tps.phantom_position_mm
    surface = SURFACE_MM if tps.two_centimeter_mode else float(pz + nz * uz)
    if tps.two_centimeter_mode:
        if pz + nz * uz < SURFACE_MM:
            raise EngineInputError(
                f"the phantom ends at z = {pz + nz * uz} mm, below the water surface at {SURFACE_MM:g} mm",
                where=Where(kind="TPS file"),
            )
        plane_index(tps)
    fraction = water_fraction(float(pz), float(uz), nz, surface)
    # DICOM y runs against the engine's z.
    along_y = (1000.0 * (fraction[::-1] - 1.0)).astype(np.float32)
    hounsfield = np.ascontiguousarray(np.broadcast_to(along_y[None, :, None], (ny, nz, nx)))
    return Volume(
        hounsfield=hounsfield,
        first_mm=(px + ux / 2, -(pz + nz * uz) + uz / 2, py + uy / 2),
        spacing_mm=(float(ux), float(uz), float(uy)),
        densities=_DENSITIES,
        materials=_MATERIALS,
    )


def to_engine_axes(dicom: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values [Z, Y, X] in DICOM axes as the engine's [z, y, x]."""
    return np.ascontiguousarray(dicom.transpose(1, 0, 2)[::-1])


def plane_index(tps: TpsFile) -> int:
    """Index in the engine's z of the voxels centred on the isocentre's plane, 20 mm deep.

    Raises:
        EngineInputError: The plane lies outside the box or between two voxels.
    """
    lower, unit, voxels = tps.phantom_position_mm[2], tps.phantom_unit_mm[2], tps.phantom_dimension[2]
    doubled = -2 * lower - unit
    if doubled % (2 * unit) or not 0 <= doubled // (2 * unit) < voxels:
        raise EngineInputError(
            "no voxel of the phantom is centred on z = 0, where the 2 cm plane is scored",
            where=Where(kind="TPS file"),
        )
    return doubled // (2 * unit)

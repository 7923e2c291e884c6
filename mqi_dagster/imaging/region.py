"""Analysis regions: a box in the directions of the patient, found by structures, in which figures are taken.

Nothing is cut out of images or masks: the box is a parameter of what is computed, and what it leaves out of
each structure is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, RootModel

from mqi_dagster.errors import ImageError, Where, shown
from mqi_dagster.imaging.image_grid import ImageGrid, Vector
from mqi_dagster.imaging.structure_names import StructureNames
from mqi_dagster.yaml_file import read_yaml, validated

Mask = NDArray[np.bool_]

PACKAGED_REGIONS = Path(__file__).parents[1] / "config" / "structures" / "regions.yaml"
"""The regions of the product."""
_TOUCHES_MM = 1e-3

_WHERE = Where(kind="analysis region")


class Direction(StrEnum):
    """A direction of the patient."""

    LEFT = "left"
    RIGHT = "right"
    ANTERIOR = "anterior"
    POSTERIOR = "posterior"
    SUPERIOR = "superior"
    INFERIOR = "inferior"

    @property
    def axis(self) -> int:
        """Which of DICOM x, y and z."""
        return {"left": 0, "right": 0, "posterior": 1, "anterior": 1, "superior": 2, "inferior": 2}[
            self.value
        ]

    @property
    def sign(self) -> int:
        """Whether the coordinate grows in this direction."""
        return 1 if self in (Direction.LEFT, Direction.POSTERIOR, Direction.SUPERIOR) else -1


class Limit(BaseModel):
    """Where a region ends in one direction."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    structures: Annotated[tuple[str, ...], Field(min_length=1)]
    edge: Direction
    """Which edge of all of them together."""
    margin_mm: float = 0.0
    """How far outwards of the edge."""


RegionDefinition = dict[Direction, tuple[Limit, ...]]
"""By direction, what is tried in this order; a direction that is not there is not limited."""


class _Regions(RootModel[dict[str, RegionDefinition]]):
    """A file of regions."""


def read_regions(site: Path | None = None) -> dict[str, RegionDefinition]:
    """The regions of the product by name, and in their place those of a site.

    Args:
        site: A site's own file.

    Raises:
        ConfigurationError: A file cannot be read, or has an unknown direction or key.
    """
    found: dict[str, RegionDefinition] = {}
    for path, role in ((PACKAGED_REGIONS, "analysis regions"), (site, "site's analysis regions")):
        if path is not None:
            found |= validated(_Regions, read_yaml(path, role), role).root
    return found


def region_around(structures: Sequence[str], margins_mm: Mapping[Direction, float]) -> RegionDefinition:
    """A region by structures and margins.

    Args:
        structures: Names; all of them have to be there.
        margins_mm: How far outwards of them the region ends, in each direction that is limited.
    """
    return {
        direction: (Limit(structures=tuple(structures), edge=direction, margin_mm=margin),)
        for direction, margin in margins_mm.items()
    }


@dataclass(frozen=True, slots=True)
class AnalysisRegion:
    """A box in the directions of the patient."""

    name: str
    low_mm: Vector
    """Its least DICOM x, y and z; minus infinity where it has no limit."""
    high_mm: Vector
    limits: dict[Direction, Limit]
    """What it was found by."""
    notes: tuple[str, ...]
    """What may make it another box than was meant."""

    def contains(self, points_mm: ArrayLike) -> NDArray[np.bool_]:
        """Which points lie in it.

        Args:
            points_mm: Shape (…, 3): DICOM x, y, z.
        """
        points = np.asarray(points_mm, float)
        return np.asarray(((points >= self.low_mm) & (points <= self.high_mm)).all(axis=-1))

    def mask_on(self, grid: ImageGrid) -> Mask:
        """Which voxels have their centre in it, shape of the grid."""
        mask = np.ones(grid.shape, bool)
        for axis in range(3):
            low, high = self.low_mm[axis], self.high_mm[axis]
            if math.isfinite(low) or math.isfinite(high):
                coordinate = _coordinate(grid, axis)
                mask &= (coordinate >= low) & (coordinate <= high)
        return mask


def analysis_region(
    name: str,
    definition: RegionDefinition,
    masks: Mapping[str, Mask],
    grid: ImageGrid,
    names: StructureNames,
    margins_mm: Mapping[Direction, float] | None = None,
) -> AnalysisRegion:
    """Find a region.

    Args:
        name: What it is called.
        definition: By which structures it is found.
        masks: The structures that are there, by name, each of the shape of the grid.
        grid: Where they are.
        names: What means the same.
        margins_mm: In place of the margins of the definition.

    Raises:
        ImageError: Structures are not there, or have no voxel: all of them are named. Or the region is empty.
    """
    # Their names alone: masks may be read from the disk, one at a time.
    there = [key for key, mask in masks.items() if mask.any()]
    used: dict[Direction, Limit] = {}
    missing: list[str] = []
    for direction, limits in definition.items():
        lacking = {
            limit: [n for n in limit.structures if len(names.meant_by(n, there)) != 1] for limit in limits
        }
        found = next((limit for limit in limits if not lacking[limit]), None)
        if found is None:
            choices = " or ".join(" and ".join(map(shown, lacking[limit])) for limit in limits)
            missing.append(f"{direction}: {choices}")
        else:
            margin = (margins_mm or {}).get(direction, found.margin_mm)
            used[direction] = found.model_copy(update={"margin_mm": margin})
    if missing:
        raise ImageError(
            f"{shown(name)} needs structures that are not there, or more than once ({'; '.join(missing)})",
            where=_WHERE,
        )
    low, high, notes = [-math.inf] * 3, [math.inf] * 3, []
    for direction, limit in used.items():
        chosen = {names.meant_by(one, there)[0]: None for one in limit.structures}
        edges = [(*_edge(masks[one], grid, limit.edge), one) for one in chosen]
        outermost = max(edges, key=lambda edge: limit.edge.sign * edge[0])
        at = outermost[0] + direction.sign * limit.margin_mm
        notes += [
            f"{shown(one)} reaches the end of the images: its {limit.edge} edge may be farther out"
            for _, touches, one in edges
            if touches
        ]
        (high if direction.sign > 0 else low)[direction.axis] = at
        beyond = direction.sign * (at - _edge_of_grid(grid, direction))
        if beyond > _TOUCHES_MM:
            notes.append(f"it would reach {beyond:.3g} mm beyond the images, {direction}")
    if not all(a < b for a, b in zip(low, high, strict=True)):
        raise ImageError(
            f"{shown(name)} is empty: its limits lie on the wrong sides of each other", where=_WHERE
        )
    return AnalysisRegion(name, _vector(low), _vector(high), used, tuple(notes))


@dataclass(frozen=True, slots=True)
class CutOff:
    """What a region leaves out of a structure."""

    structure: str
    volume_cm3: float
    """Of the whole structure."""
    cut_cm3: float
    """Outside of the region."""

    @property
    def percent(self) -> float:
        """Share of the structure that lies outside; 0 where it has no voxel."""
        return 100 * self.cut_cm3 / self.volume_cm3 if self.volume_cm3 else 0.0


def cut_off(region: AnalysisRegion, masks: Mapping[str, Mask], grid: ImageGrid) -> tuple[CutOff, ...]:
    """What a region leaves out of each structure, in voxels.

    Args:
        region: The region.
        masks: Structures by name, each of the shape of the grid.
        grid: Where they are.
    """
    outside, voxel_cm3 = ~region.mask_on(grid), grid.voxel_mm3 / 1000
    return tuple(
        CutOff(name, int(mask.sum()) * voxel_cm3, int((mask & outside).sum()) * voxel_cm3)
        for name, mask in masks.items()
    )


def _coordinate(grid: ImageGrid, axis: int) -> NDArray[np.float64]:
    """DICOM x, y or z of the voxels' centres: of size 1 along those axes of the grid along which it stays."""
    found = np.full((1, 1, 1), grid.origin_mm[axis])
    for along, step in enumerate(grid.affine[axis, :3]):
        if step:
            size = [1, 1, 1]
            size[along] = grid.shape[along]
            found = found + step * np.arange(grid.shape[along]).reshape(size)
    return found


def _half_voxel(grid: ImageGrid, axis: int) -> float:
    """How far a voxel reaches from its centre along an axis of the patient."""
    return float(np.abs(grid.affine[axis, :3]).sum()) / 2


def _edge(mask: Mask, grid: ImageGrid, direction: Direction) -> tuple[float, bool]:
    """Where a structure ends in a direction [mm], and whether the images end there."""
    reached = _coordinate(grid, direction.axis) * direction.sign
    end = float(np.max(np.broadcast_to(reached, grid.shape), where=mask, initial=-math.inf))
    indices = np.argwhere(mask & (reached >= end - _TOUCHES_MM))
    last = np.array(grid.shape) - 1
    # Axes of the grid along which the coordinate changes: only there can the images cut the structure.
    along = grid.affine[direction.axis, :3] != 0
    touches = bool((((indices == 0) | (indices == last)) & along).any())
    return direction.sign * (end + _half_voxel(grid, direction.axis)), touches


def _edge_of_grid(grid: ImageGrid, direction: Direction) -> float:
    ends = _coordinate(grid, direction.axis) * direction.sign
    return direction.sign * (float(ends.max()) + _half_voxel(grid, direction.axis))


def _vector(parts: Sequence[float]) -> Vector:
    x, y, z = parts
    return x, y, z

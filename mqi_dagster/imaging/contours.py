"""The volume inside contours on parallel planes, in sub-voxels of which a known part lies inside.

In a plane the even-odd rule decides: a hole is outside, also where a channel joins it to the outline. Between
planes the signed in-plane distance to the outline is interpolated by a cubic through the four nearest ones;
where the outline moves too far to be the same surface, it ends half-way. Beyond its first and last contour a
volume closes where its area, carried on, vanishes, else half a plane further. docs/physics.md, "Structures".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from mqi_dagster.errors import ImageError, Where
from mqi_dagster.imaging.image_grid import ImageGrid

Floats = NDArray[np.float64]

SUBVOXEL_MM = 0.5
FEWEST_SUBVOXELS, MOST_SUBVOXELS = 200_000, 8_000_000
"""In the box around a structure: those of a small one are smaller, those of a large one larger."""
_SMALLEST_SUBVOXEL_MM = 0.05
LARGEST_CONTOUR_COORDINATE_MM = 4000.0
LONGEST_OUTLINE_MM = 20_000.0
"""In one plane; that of a body has some thousand. A damaged one would fill the memory."""
_PLANE_TOLERANCE_MM = 0.1
"""Contours are written with few digits; farther from the plane of its first point none is planar."""
_SAME_PLANE_MM = 0.01
_BULGE = 1 / 12
"""Of the distance of two planes: how much farther out than in both a surface may lie between them."""
_BEYOND_PIXELS = 20
_GAP = 1.5
"""Planes farther apart than this many times the usual distance have a gap between them."""
_LARGEST_MOVE_MM = 12.0
_LARGEST_SLOPE = 4.0
"""A surface moves at most this many plane distances, and at least 12 mm, from one plane to the next."""

_CROSSING = 0.01
"""Of the smaller of two outlines: what of it has to lie on the other side for them to cross."""
_ON_EACH_OTHER = 0.999
_MOST_COMPARED = 50
"""Outlines of one plane, the largest ones: every two of them are compared."""
_COMPARED_PIXELS = 100

_WHERE = Where(kind="structure set")


@dataclass(frozen=True, slots=True)
class ContourPlane:
    """The contours in one plane."""

    height_mm: float
    """Of the plane above the first plane of the grid, along its plane direction."""
    polygons: tuple[Floats, ...]
    """Each of shape (n, 2): along the columns and along the rows from the first pixel of the grid [mm]."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Sub-voxels of one layer."""

    height_mm: float
    """Of their centres."""
    first_mm: tuple[float, float]
    """Centre of the first one, along the columns and along the rows."""
    coverage: Floats
    """Shape (down the columns, along the rows): which part of each lies inside, 0 to 1."""
    subvoxel_mm: tuple[float, float, float]
    """Thickness of the layer, and edges of a sub-voxel in it: down the columns and along the rows."""

    @property
    def volume_mm3(self) -> float:
        """Volume inside."""
        return float(self.coverage.sum()) * math.prod(self.subvoxel_mm)


@dataclass(frozen=True, slots=True)
class Contours:
    """All contours of a structure, in the frame of a grid."""

    planes: tuple[ContourPlane, ...]
    """By height."""
    usual_distance_mm: float
    """Between neighbouring planes."""

    @property
    def gaps(self) -> tuple[tuple[float, float], ...]:
        """Heights of neighbouring planes so far apart that nothing is taken to be between them [mm]."""
        return tuple((a.height_mm, b.height_mm) for a, b in pairwise(self.planes) if self._is_gap(a, b))

    def crossed_planes(self) -> int:
        """In how many planes outlines cross, or lie on each other: what they share counts as outside.

        Crossing ones share more than 1 % and less than 99 % of the smaller one. A hole shares all of it, and
        is smaller than what it is a hole of.
        """
        return sum(_cross(plane.polygons) for plane in self.planes)

    def _is_gap(self, lower: ContourPlane, upper: ContourPlane) -> bool:
        return upper.height_mm - lower.height_mm > _GAP * self.usual_distance_mm

    def runs(self) -> list[list[ContourPlane]]:
        """The planes without gaps between them."""
        found: list[list[ContourPlane]] = []
        for plane in self.planes:
            if found and not self._is_gap(found[-1][-1], plane):
                found[-1].append(plane)
            else:
                found.append([plane])
        return found

    def layers(self, most: int = MOST_SUBVOXELS) -> Iterator[Layer]:
        """The volume, layer by layer.

        Args:
            most: Sub-voxels in the box around the structure.
        """
        low, high = self._box()
        height = self.planes[-1].height_mm - self.planes[0].height_mm + self.usual_distance_mm
        edge = subvoxel_edge_mm(float(np.prod(high - low)) * height, most)
        count = np.ceil((high - low) / edge).astype(int) + 2
        raster = _Raster((low + high - (count - 1) * edge) / 2, np.array([edge, edge]), count)
        for run in self.runs():
            yield from _Body(run, self.usual_distance_mm, raster).layers()

    def mask_on(self, grid: ImageGrid) -> NDArray[np.bool_]:
        """Which voxels of the grid have their centre inside, shape of the grid."""
        spacing, pixels = np.array(grid.spacing_mm[1:]), np.array(grid.shape[1:])
        low, high = (np.floor(corner / spacing).astype(int) for corner in self._box())
        mask = np.zeros(grid.shape, bool)
        if np.any(high < 0) or np.any(low >= pixels):
            return mask
        # Of what the images do not show no more than a margin is looked at.
        first = np.maximum(low, -_BEYOND_PIXELS) - 1
        raster = _Raster(first * spacing, spacing, np.minimum(high, pixels + _BEYOND_PIXELS) + 3 - first)
        start, stop = np.maximum(first, 0), np.minimum(first + raster.count, pixels)
        shown = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        seen = tuple(slice(a, b) for a, b in zip(start - first, stop - first, strict=True))
        for run in self.runs():
            body = _Body(run, self.usual_distance_mm, raster)
            ends = run[0].height_mm - body.below_mm / 2, run[-1].height_mm + body.above_mm / 2
            lowest, above = (math.ceil(end / grid.spacing_mm[0] - 1e-6) for end in ends)
            for plane in range(max(0, lowest), min(grid.shape[0], above)):
                mask[plane][shown] |= body.signed_at(plane * grid.spacing_mm[0])[seen] > 0
        return mask

    def _box(self) -> tuple[Floats, Floats]:
        corners = np.concatenate([polygon for plane in self.planes for polygon in plane.polygons])
        return corners.min(axis=0), corners.max(axis=0)


def subvoxel_edge_mm(box_mm3: float, most: int) -> float:
    """Edge of the sub-voxels of a structure.

    Args:
        box_mm3: Volume of the box around it.
        most: Sub-voxels in this box.
    """
    most_mm, least_mm = math.cbrt(box_mm3 / FEWEST_SUBVOXELS), math.cbrt(box_mm3 / most)
    return max(min(SUBVOXEL_MM, most_mm), least_mm, _SMALLEST_SUBVOXEL_MM)


def contours_on(grid: ImageGrid, polygons_mm: Sequence[Floats]) -> Contours:
    """Contours in the frame of a grid.

    Args:
        grid: Of the images that they were drawn on, or of others in the same frame of reference.
        polygons_mm: Each of shape (n, 3): DICOM x, y, z of closed planar contours.

    Raises:
        ImageError: There is none, one has fewer than three points or lies outside of any scanner, or does not
            lie in a plane parallel to the images.
    """
    by_height: list[tuple[float, Floats]] = []
    for number, polygon in enumerate(polygons_mm, start=1):
        if polygon.ndim != 2 or polygon.shape[1] != 3 or len(polygon) < 3:
            raise ImageError(f"contour {number} has fewer than three points", where=_WHERE)
        # Also false for what is not a number.
        if not np.abs(polygon).max() <= LARGEST_CONTOUR_COORDINATE_MM:
            raise ImageError(f"contour {number} lies farther out than a scanner reaches", where=_WHERE)
        points = grid.to_indices(polygon) * grid.spacing_mm
        heights = points[:, 0]
        if np.ptp(heights) > 2 * _PLANE_TOLERANCE_MM:
            raise ImageError(f"contour {number} does not lie in a plane parallel to the images", where=_WHERE)
        by_height.append((float(np.median(heights)), points[:, 1:]))
    if not by_height:
        raise ImageError("a structure has no contour", where=_WHERE)
    by_height.sort(key=lambda one: one[0])
    grouped: list[list[tuple[float, Floats]]] = []
    for one in by_height:
        if grouped and one[0] - grouped[-1][0][0] <= _SAME_PLANE_MM:
            grouped[-1].append(one)
        else:
            grouped.append([one])
    for group in grouped:
        length = sum(
            float(np.linalg.norm(np.diff(one, axis=0, append=one[:1]), axis=1).sum()) for _, one in group
        )
        if length > LONGEST_OUTLINE_MM:
            raise ImageError(f"the outline in one plane is {length / 1000:.3g} m long", where=_WHERE)
    planes = tuple(ContourPlane(group[0][0], tuple(polygon for _, polygon in group)) for group in grouped)
    steps = np.diff([plane.height_mm for plane in planes])
    # The lower of two: between 1 mm and 2 mm there is a plane missing.
    usual = float(np.quantile(steps, 0.5, method="lower")) if len(steps) else grid.spacing_mm[0]
    return Contours(planes, usual)


@dataclass(frozen=True, slots=True)
class _Raster:
    """Pixels over the box around a structure, at least one more on each side."""

    first: Floats
    """Centre of the first one [mm]."""
    step: Floats
    """Between their centres, down the columns and along the rows [mm]."""
    count: NDArray[np.int_]

    def signed_distance(self, polygons: Sequence[Floats]) -> Floats:
        """Distance [mm] of each pixel to the outline, positive inside; exact near the outline."""
        pixels = [(polygon - self.first) / self.step for polygon in polygons]
        inside = filled(pixels, (int(self.count[0]), int(self.count[1])))
        edges = _once(np.concatenate([_edges(polygon - self.first) for polygon in polygons]))
        outline = _densified(edges, 0.25 * float(self.step.min()))
        if not len(outline):
            # Contours that lie on each other: everything is as far outside as the raster is wide.
            return np.full(self.count, -float(np.linalg.norm(self.count * self.step)))
        row, column = np.clip(np.rint(outline / self.step).astype(int), 0, self.count - 1).T
        nearest, away = np.zeros((*self.count, 2)), np.ones(self.count, bool)
        nearest[row, column], away[row, column] = outline, False
        rows, columns = distance_transform_edt(
            away, sampling=self.step, return_distances=False, return_indices=True
        )
        centres = np.indices(tuple(self.count)).transpose(1, 2, 0) * self.step
        distance = np.linalg.norm(nearest[rows, columns] - centres, axis=-1)
        close = distance < 2 * float(self.step.max())
        finer = _densified(edges, 0.05 * float(self.step.min()))
        distance[close] = cKDTree(finer).query(centres[close])[0]
        return np.asarray(np.where(inside, distance, -distance))


def filled(polygons: Sequence[Floats], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels have their centre inside of contours in a plane, by the even-odd rule.

    Args:
        polygons: Each of shape (n, 2): row and column, not only whole ones.
        shape: Rows and columns.
    """
    rows, columns = shape
    edges = np.concatenate([_edges(polygon) for polygon in polygons])
    (r0, c0), (r1, c1) = edges[:, 0].T, edges[:, 1].T
    first, last = np.clip(np.ceil([np.minimum(r0, r1), np.maximum(r0, r1)]), 0, rows).astype(int)
    # Each edge once for every row of centres that it crosses.
    edge = np.repeat(np.arange(len(edges)), last - first)
    row = (
        first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
    )
    slope = (c1 - c0)[edge] / (r1 - r0)[edge]
    column = np.ceil(c0[edge] + (row - r0[edge]) * slope).astype(int)
    toggles = np.zeros((rows, columns + 1), np.int32)
    np.add.at(toggles, (row, np.clip(column, 0, columns)), 1)
    return np.asarray(np.cumsum(toggles, axis=1)[:, :columns] % 2 == 1)


def _cross(polygons: Sequence[Floats]) -> bool:
    """Whether two outlines of a plane cross, or lie on each other."""
    if len(polygons) < 2:
        return False
    lows, highs = (np.array([end(one, axis=0) for one in polygons]) for end in (np.min, np.max))
    largest = np.argsort(-(highs - lows).prod(axis=1), kind="stable")[:_MOST_COMPARED]
    for place, one in enumerate(largest):
        others = largest[place + 1 :]
        meet = np.all((lows[others] < highs[one]) & (highs[others] > lows[one]), axis=1)
        if any(_share_in_part(polygons[one], polygons[other]) for other in others[meet]):
            return True
    return False


def _share_in_part(one: Floats, other: Floats) -> bool:
    """Whether of the smaller of two outlines a part lies in the larger and a part not, or they are alike."""
    areas = [_area(one), _area(other)]
    smaller, larger = (one, other) if areas[0] <= areas[1] else (other, one)
    low, high = smaller.min(axis=0), smaller.max(axis=0)
    step = np.maximum(high - low, 1e-6) / _COMPARED_PIXELS
    within, beyond = (
        filled([(polygon - low) / step - 0.5], (_COMPARED_PIXELS, _COMPARED_PIXELS))
        for polygon in (smaller, larger)
    )
    shared = float((within & beyond).sum()) / max(1, int(within.sum()))
    if shared >= 1 - _CROSSING:
        return min(areas) >= _ON_EACH_OTHER * max(areas)
    return shared > _CROSSING


def _area(polygon: Floats) -> float:
    """By Gauss's formula."""
    x, y = (polygon - polygon[0]).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _edges(polygon: Floats) -> Floats:
    """Shape (n, 2, 2): both ends of each edge."""
    return np.stack([polygon, np.roll(polygon, -1, axis=0)], axis=1)


def _once(edges: Floats) -> Floats:
    """The edges without those that are there twice: the two banks of a channel from a hole to its outline."""
    ends = np.sort(np.round(edges, 3).view([("", edges.dtype)] * 2)[..., 0], axis=1)
    _, which, counts = np.unique(ends, axis=0, return_inverse=True, return_counts=True)
    return np.asarray(edges[counts[which.ravel()] % 2 == 1])


def _densified(edges: Floats, step: float) -> Floats:
    """Points along edges, at most a step apart, shape (n, 2)."""
    vectors = edges[:, 1] - edges[:, 0]
    pieces = np.maximum(1, np.ceil(np.linalg.norm(vectors, axis=1) / step)).astype(int)
    of = np.repeat(np.arange(len(edges)), pieces)
    part = (np.arange(len(of)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) / pieces[of]
    return np.asarray(edges[of, 0] + part[:, None] * vectors[of])


class _Body:
    """What contours without a gap between their planes enclose.

    Args:
        planes: By height.
        usual_mm: Distance between planes, where there is one alone.
        raster: Pixels in which it is found.
    """

    def __init__(self, planes: Sequence[ContourPlane], usual_mm: float, raster: _Raster) -> None:
        self._planes = planes
        self._raster = raster
        self._heights = np.array([plane.height_mm for plane in planes])
        self._distances: dict[int, Floats] = {}
        steps = np.diff(self._heights)
        self.below_mm, self.above_mm = (float(steps[0]), float(steps[-1])) if len(steps) else (usual_mm,) * 2

    def signed_at(self, height_mm: float) -> Floats:
        """Signed distance [mm] of each pixel to the outline at a height, from low to high heights.

        Beyond the first and the last plane it is that of this plane.
        """
        heights = self._heights
        lower = int(np.clip(np.searchsorted(heights, height_mm) - 1, 0, max(0, len(heights) - 2)))
        near = range(max(0, min(lower - 1, len(heights) - 4)), min(len(heights), max(lower + 3, 4)))
        for plane in [plane for plane in self._distances if plane < near.start]:
            del self._distances[plane]
        if height_mm <= heights[0] or height_mm >= heights[-1]:
            return self._distance(0 if height_mm <= heights[0] else len(heights) - 1)
        found = np.zeros(self._raster.count)
        for weight, plane in zip(_lagrange(height_mm, heights[near.start : near.stop]), near, strict=True):
            found += weight * self._distance(plane)
        before, after = self._distance(lower), self._distance(lower + 1)
        step = heights[lower + 1] - heights[lower]
        # Where planes are close together, or a part ends, the cubic runs away from what it goes through.
        slack = np.abs(before - after) + _BULGE * step
        found = np.clip(found, np.minimum(before, after) - slack, np.maximum(before, after) + slack)
        jump = np.abs(before - after) > max(_LARGEST_MOVE_MM, _LARGEST_SLOPE * step)
        nearer = before if height_mm - heights[lower] <= step / 2 else after
        return np.asarray(np.where(jump, nearer, found))

    def _distance(self, plane: int) -> Floats:
        if plane not in self._distances:
            self._distances[plane] = self._raster.signed_distance(self._planes[plane].polygons)
        return self._distances[plane]

    def layers(self) -> Iterator[Layer]:
        """A cap below the first plane, what is between the planes, a cap above the last."""
        heights, count = self._heights, len(self._heights)
        yield from self._cap(list(range(min(3, count))), -self.below_mm)
        for lower, upper in pairwise(heights):
            # An even number, so that none lies on both sides of the middle.
            parts = 2 * math.ceil((upper - lower) / self._raster.step[0] / 2)
            thickness = float(upper - lower) / parts
            for part in range(parts):
                height = float(lower) + (part + 0.5) * thickness
                yield self._layer(height, thickness, self.signed_at(height))
        yield from self._cap(list(range(count - 1, max(-1, count - 4), -1)), self.above_mm)

    def _cap(self, planes: Sequence[int], step_mm: float) -> Iterator[Layer]:
        """What is beyond the last plane.

        Where the areas of the last three planes, carried on as a parabola (of a sphere or an ellipsoid they
        are one), vanish before the next plane, the volume closes there, and its outline shrinks by as much
        at every point; else it ends half a plane further as it is.

        Args:
            planes: The last ones, the outermost first, at most three.
            step_mm: From the last plane to where the next one would be.
        """
        outermost = self._distance(planes[0])
        edge = float(self._raster.step[0])
        at = (self._heights[planes] - self._heights[planes[0]]) / step_mm
        areas = [float(_coverage(self._distance(plane), edge).sum()) for plane in planes]
        parabola = np.polyfit(at, areas, 2) if len(areas) == 3 else np.zeros(3)
        ends = [float(root.real) for root in np.roots(parabola) if not root.imag and 0 < root.real < 1]
        height = min(ends, default=0.5) * abs(step_mm)
        deepest = np.sort(outermost, axis=None)[::-1]
        parts = max(1, math.ceil(height / edge))
        for part in range(parts):
            beyond = (part + 0.5) / parts * height / abs(step_mm)
            area = max(0, round(float(np.polyval(parabola, beyond))))
            level = float(deepest[min(area, len(deepest) - 1)]) if ends else 0.0
            yield self._layer(
                float(self._heights[planes[0]] + beyond * step_mm), height / parts, outermost - level
            )

    def _layer(self, height: float, thickness: float, signed: Floats) -> Layer:
        """A layer of sub-voxels, by the distance of each to the outline."""
        first, edge = self._raster.first, float(self._raster.step[0])
        start = float(first[0]), float(first[1])
        return Layer(height, start, _coverage(signed, edge), (thickness, edge, edge))


def _coverage(signed: Floats, edge: float) -> Floats:
    return np.clip(signed / edge + 0.5, 0.0, 1.0)


def _lagrange(at: float, nodes: Floats) -> list[float]:
    """Weights of the values at the nodes in the polynomial through them."""
    return [
        float(np.prod([(at - other) / (node - other) for j, other in enumerate(nodes) if j != i]))
        for i, node in enumerate(nodes)
    ]

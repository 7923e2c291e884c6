"""Where a scan ends inside the body: what lies beyond is simulated as air, and nobody would see it.

Asked of the scan as a whole, side by side, and of every beam: whether its protons enter the scan inside the
body, leave it there before they stop, or pass beside it. A note and no fault: a scan of a head ends in a
neck. A body that the round field of view of a scanner has cut inside the image is not seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.delivery.manifest import ScanEnd
from mqi_dagster.dicom.ct_images import BODY_HU, CtImage
from mqi_dagster.hu_table import PACKAGED_HU_TABLES, Curve, read_hu_table
from mqi_dagster.machine import Machine
from mqi_dagster.plan.model import PlanBeam

Floats = NDArray[np.float64]

_COARSE_MM = 4.0
_STEP_MM = 2.0
_LEAST_BORDER_SHARE = 0.005
_LEAST_RAY_SHARE = 0.01
_LAYERS, _SPOTS = 5, 40
"""At most so many layers of a beam, and spots of a layer, are followed."""

_SIDES = (("right", "left"), ("front", "back"), ("feet", "head"))
"""Of a patient head first supine: where x, y and z begin and end."""


def range_in_water_mm(energy_mev: float) -> float:
    """Range of protons in water [mm], R = 0.022 E^1.77 (Bortfeld, Med. Phys. 24 (1997) 2024); within 1 %."""
    return float(0.022 * energy_mev**1.77)


@dataclass(frozen=True, slots=True, eq=False)
class CoarseSlice:
    """One image, thinned to about 4 mm."""

    image: CtImage
    hounsfield: NDArray[np.float32]
    """Shape (rows, columns), its first and last ones those of the image."""


def coarse_slice(image: CtImage, hounsfield: NDArray[np.float32]) -> CoarseSlice:
    """Keep of an image what this needs.

    Args:
        image: What it says of itself.
        hounsfield: Its pixels, shape (rows, columns).
    """
    rows, columns = (
        np.rint(np.linspace(0, count - 1, _kept(count, spacing))).astype(np.intp)
        for count, spacing in zip(hounsfield.shape, image.spacing_mm, strict=True)
    )
    return CoarseSlice(image, hounsfield[np.ix_(rows, columns)])


def _kept(count: int, spacing_mm: float) -> int:
    return min(count, max(2, math.ceil((count - 1) * spacing_mm / _COARSE_MM) + 1))


@dataclass(frozen=True, slots=True, eq=False)
class _Scan:
    """The thinned scan: positions are linear in the index along each axis."""

    hounsfield: NDArray[np.float32]
    """Shape (nz, ny, nx)."""
    low_mm: Floats
    """Centre of the first voxel, x, y, z."""
    high_mm: Floats
    """Centre of the last voxel, x, y, z."""

    def at(self, points_mm: Floats) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """HU of the nearest voxel, and whether a point lies in the scan; shapes (…,) for points (…, 3)."""
        inside = np.all((points_mm >= self.low_mm) & (points_mm <= self.high_mm), axis=-1)
        counts = np.array(self.hounsfield.shape[::-1])
        share = (points_mm - self.low_mm) / (self.high_mm - self.low_mm)
        index = np.clip(np.rint(share * (counts - 1)), 0, counts - 1).astype(np.intp)
        return self.hounsfield[index[..., 2], index[..., 1], index[..., 0]], inside

    def side(self, point_mm: Floats) -> str:
        """The side of the scan that a point is nearest to."""
        distances = np.stack([point_mm - self.low_mm, self.high_mm - point_mm], axis=1)
        axis, end = np.unravel_index(int(np.argmin(distances)), distances.shape)
        return _SIDES[axis][end]


def scan_ends(
    slices: Sequence[CoarseSlice], beams: Sequence[PlanBeam], machine: Machine | None
) -> tuple[ScanEnd, ...]:
    """Where the scan ends inside the body.

    Args:
        slices: The images of one axial series, evenly spaced, head first supine; in any order.
        beams: The beams of the plan.
        machine: Their machine; without it beams are not followed.
    """
    scan = _scan(slices)
    ends = [ScanEnd(beam=None, text=text) for text in _borders(scan)]
    if machine is not None:
        density = read_hu_table(PACKAGED_HU_TABLES / "typical_120kv.yaml").density_g_cm3
        assert density is not None
        for beam in beams:
            ends += [ScanEnd(beam=beam.number, text=text) for text in _along(scan, beam, machine, density)]
    return tuple(ends)


def _scan(slices: Sequence[CoarseSlice]) -> _Scan:
    ordered = sorted(slices, key=lambda one: one.image.position_mm[2])
    first, last = ordered[0].image, ordered[-1].image
    rows_mm, columns_mm = first.spacing_mm
    low = np.array(first.position_mm)
    wide, tall = (first.columns - 1) * columns_mm, (first.rows - 1) * rows_mm
    high = np.array([low[0] + wide, low[1] + tall, last.position_mm[2]])
    return _Scan(np.stack([one.hounsfield for one in ordered]), low, high)


def _borders(scan: _Scan) -> list[str]:
    """The sides on which the body reaches the end of the scan, and how much of it."""
    extent_cm = (scan.high_mm - scan.low_mm) / 10.0
    found = []
    for axis in range(3):
        for end, index in enumerate((0, -1)):
            face = np.take(scan.hounsfield, index, axis=2 - axis)
            share = float((face > BODY_HU).mean())
            if share >= _LEAST_BORDER_SHARE:
                area = share * float(np.prod(np.delete(extent_cm, axis)))
                found.append(
                    f"the scan ends inside the body (or the couch) at the {_SIDES[axis][end]}:"
                    f" {100 * share:.0f} % of that side, {area:.0f} cm2; what lies beyond is simulated as air"
                )
    return found


def _along(scan: _Scan, beam: PlanBeam, machine: Machine, density: Curve) -> list[str]:
    """What a beam meets at the ends of the scan."""
    spots, ranges = _followed(beam, machine)
    starts, ways = _rays(beam, spots, machine.sad_mm)
    reach = float(np.linalg.norm(scan.high_mm - scan.low_mm)) / 2 + _STEP_MM
    # Around the middle of the scan, and not the isocentre, which a damaged plan may have anywhere.
    steps = np.arange(-reach, reach, _STEP_MM)
    middle = (scan.high_mm + scan.low_mm) / 2
    entering: list[str] = []
    leaving: list[tuple[str, float]] = []
    missing = 0
    for start, way, range_mm in zip(starts, ways, ranges, strict=True):
        points = start + (steps[:, None] + (middle - start) @ way) * way
        hounsfield, inside = scan.at(points)
        at = np.flatnonzero(inside)
        if not at.size:
            missing += 1
            continue
        if hounsfield[at[0]] > BODY_HU:
            entering.append(scan.side(points[at[0]]))
        left = range_mm - _STEP_MM * float(np.interp(hounsfield[at], density.hu, density.value).sum())
        if left > 0 and hounsfield[at[-1]] > BODY_HU:
            leaving.append((scan.side(points[at[-1]]), left))
    found = []
    count = len(ranges)
    if len(entering) >= _LEAST_RAY_SHARE * count:
        found.append(
            f"{_percent(len(entering), count)} of its spots enter the scan inside the body, at the"
            f" {_most(entering)}: the way before is simulated as air, and the protons reach too far"
        )
    if len(leaving) >= _LEAST_RAY_SHARE * count:
        most = max(left for _, left in leaving)
        found.append(
            f"{_percent(len(leaving), count)} of its spots leave the scan inside the body, at the"
            f" {_most([side for side, _ in leaving])}, with up to {most:.0f} mm of water of their range left"
        )
    if missing >= _LEAST_RAY_SHARE * count:
        found.append(f"{_percent(missing, count)} of its spots pass beside the scan")
    return found


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"


def _most(sides: list[str]) -> str:
    return max(sorted(set(sides)), key=sides.count)


def _followed(beam: PlanBeam, machine: Machine) -> tuple[Floats, list[float]]:
    """Spots, shape (n, 2) [mm], and the range in water that each has left behind the range shifters [mm]."""
    behind = 0.0
    for shifter in beam.range_shifters:
        known = machine.range_shifters.get(shifter.shifter_id)
        stated = shifter.water_equivalent_thickness_mm
        behind += known.water_equivalent_thickness_mm if known is not None else stated or 0.0
    by_energy = sorted(beam.layers, key=lambda layer: layer.energy_mev)
    spots, ranges = [], []
    for layer in (by_energy[index] for index in _spread(len(by_energy), _LAYERS)):
        chosen = layer.positions_mm[_spread(len(layer.positions_mm), _SPOTS)]
        spots.append(chosen)
        ranges += [range_in_water_mm(layer.energy_mev) - behind] * len(chosen)
    return np.concatenate(spots).astype(np.float64), ranges


def _spread(count: int, most: int) -> list[int]:
    """Indices from first to last, evenly spread."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, most))})


def _rays(beam: PlanBeam, spots: Floats, sad_mm: tuple[float, float]) -> tuple[Floats, Floats]:
    """Points of the isocentre plane and unit directions of spots, in the patient's DICOM axes (HFS).

    IEC 61217: the gantry turns clockwise seen from the foot end, the table counter-clockwise from above.
    """
    flat = np.column_stack([spots, np.zeros(len(spots))])
    slope = np.column_stack([spots / np.array(sad_mm), -np.ones(len(spots))])
    gantry, couch = math.radians(beam.gantry_angle_deg), math.radians(beam.couch_angle_deg)

    def in_patient(vectors: Floats) -> Floats:
        x, y, z = vectors.T
        x, z = x * math.cos(gantry) + z * math.sin(gantry), -x * math.sin(gantry) + z * math.cos(gantry)
        x, y = x * math.cos(couch) + y * math.sin(couch), -x * math.sin(couch) + y * math.cos(couch)
        return np.column_stack([x, -z, y])

    ways = in_patient(slope)
    return in_patient(flat) + np.array(beam.isocenter_mm), ways / np.linalg.norm(ways, axis=1)[:, None]

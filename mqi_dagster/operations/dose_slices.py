"""Slices of a beam's RT Dose over what it was computed in, drawn when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import dagster as dg
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mqi_dagster.assets.proton.rt_dose import FILES
from mqi_dagster.delivery.manifest import InputFile
from mqi_dagster.dicom.elements import text_of
from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.dose.grid import DoseFrame, DoseGrid, DoseUnits
from mqi_dagster.dose.plan_reference import elements_of
from mqi_dagster.dose.stored_image import stored_grid
from mqi_dagster.errors import InputError, MqiError, StoreError, Where
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.image_volume import read_volume
from mqi_dagster.lifecycle.beam import read_manifest
from mqi_dagster.lifecycle.lineage import RT_DOSE, ancestry, latest_digest
from mqi_dagster.lifecycle.raw_dose_files import read_record
from mqi_dagster.operations.kept import Kept
from mqi_dagster.partitions import root_of
from mqi_dagster.pictures.slices import Isodose, dose_slice
from mqi_dagster.pictures.style import CT_WINDOWS, ISODOSE_COLOURS, dicom_axis
from mqi_dagster.resources.site import Site

Floats = NDArray[np.float64]

LONGEST_SIDE = 512
"""Dots of a slice."""
_PERCENTS = (20, 40, 60, 80, 95)
"""Of the maximum."""
_CUT_BELOW, _AROUND_MM = 0.02, 15.0
"""Of a phantom, which is water all over, what has more of the maximum is shown, and so much around it."""
_WATER, _AIR = 0.0, -1000.0
_KEPT_DOSES, _KEPT_IMAGES, _KEPT_PICTURES = 256 << 20, 384 << 20, 64 << 20
"""Bytes that stay in memory."""
_ROUNDING = 1e-6
"""Of an index that stands at the edge."""
_WHERE = Where(kind="RT Dose")


class Plane(StrEnum):
    """A plane of the patient, across z, y and x."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"

    @property
    def across(self) -> int:
        """Place in (z, y, x) of the axis across it."""
        return list(Plane).index(self)

    @property
    def within(self) -> tuple[int, int]:
        """Places of the axes down and along it."""
        down, along = (axis for axis in range(3) if axis != self.across)
        return down, along


class Overlay(StrEnum):
    """How the dose is drawn."""

    BOTH = "colours and isodoses"
    WASH = "colours"
    LINES = "isodoses"
    NONE = "nothing"


AXES = "zyx"
WINDOWS = {one.name: one for one in CT_WINDOWS}
ENDS = {"z": ("I", "S"), "y": ("A", "P"), "x": ("R", "L")}
"""What lies at low and high coordinates of a patient (PS3.3 C.7.6.1.1.1, head first supine)."""


@dataclass(frozen=True, slots=True)
class PlaneFacts:
    """The slices of one plane."""

    plane: Plane
    count: int
    start: int
    """The one through the greatest dose, from 0."""
    first_mm: float
    """Coordinate of the first one."""
    step_mm: float
    across: str
    """DICOM axis across the slices, with its unit; so the next two."""
    along: str
    down: str


@dataclass(frozen=True, slots=True)
class DoseFacts:
    """What a page says of a dose whose slices it shows."""

    digest: str
    in_patient: bool
    """Whether it lies in the patient's CT; in a water phantom else, in a Frame of Reference of its own."""
    unit: str
    maximum: float
    isodoses: tuple[Isodose, ...]
    """From low to high."""
    planes: tuple[PlaneFacts, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ShownDose:
    """A dose whose slices are shown."""

    digest: str
    frame: DoseFrame
    units: DoseUnits
    values: NDArray[np.float32]
    """Shape (z, y, x), all rising."""
    axes_mm: tuple[Floats, Floats, Floats]
    """Coordinates along z, y and x."""
    spacing_mm: tuple[float, float, float]
    surface_mm: float | None
    """DICOM y of the water's surface in a phantom."""
    frame_of_reference_uid: str
    images: tuple[InputFile, ...]
    """The CT that a dose in a patient was computed in."""

    def facts(self) -> DoseFacts:
        """What is said of it."""
        highest = np.unravel_index(int(self.values.argmax()), self.values.shape)
        planes = []
        for plane in Plane:
            down, along = plane.within
            steps = self.axes_mm[plane.across]
            planes.append(
                PlaneFacts(
                    plane=plane,
                    count=len(steps),
                    start=int(highest[plane.across]),
                    first_mm=float(steps[0]),
                    step_mm=self.spacing_mm[plane.across],
                    across=dicom_axis(AXES[plane.across]),
                    along=dicom_axis(AXES[along]),
                    down=dicom_axis(AXES[down]),
                )
            )
        maximum = float(self.values[highest])
        isodoses = tuple(
            Isodose(f"{percent} %", maximum * percent / 100.0, colour)
            for percent, colour in zip(_PERCENTS, ISODOSE_COLOURS, strict=False)
        )
        in_patient = self.frame is DoseFrame.PATIENT
        return DoseFacts(self.digest, in_patient, self.units.shown, maximum, isodoses, tuple(planes))


@dataclass(frozen=True, slots=True, eq=False)
class CtImages:
    """A CT, in half of the memory."""

    grid: ImageGrid
    values: NDArray[np.int16]
    """Hounsfield units, shape of the grid."""


class DoseSlices:
    """Draws slices, and keeps what it has read and drawn up to a bound.

    Args:
        site: The site.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._doses = Kept[tuple[ShownDose, DoseFacts]](_KEPT_DOSES, lambda found: found[0].values.nbytes)
        self._images = Kept[CtImages](_KEPT_IMAGES, lambda images: images.values.nbytes)
        self._pictures = Kept[bytes](_KEPT_PICTURES, len)

    def facts(self, instance: dg.DagsterInstance, beam: str) -> DoseFacts:
        """What is to be said of the latest RT Dose of a beam.

        Raises:
            StoreError: There is none, or it is damaged.
            DoseError: Its grid is oblique.
        """
        return self._dose(instance, beam)[1]

    def picture(
        self, instance: dg.DagsterInstance, beam: str, plane: Plane, at: int, window: str, overlay: Overlay
    ) -> bytes:
        """A slice as PNG.

        Args:
            instance: Dagster's records.
            beam: Key of the beam.
            plane: Which plane.
            at: Which of its slices, from 0.
            window: One of `WINDOWS`.
            overlay: How the dose is drawn.

        Raises:
            InputError: There is no such slice or window.
            StoreError, DoseError: As `facts`.
        """
        dose, facts = self._dose(instance, beam)
        if window not in WINDOWS or not 0 <= at < facts.planes[plane.across].count:
            raise InputError("there is no such slice or window", where=_WHERE)
        return self._pictures.get(
            (beam, dose.digest, plane, at, window, overlay),
            lambda: draw(dose, facts, self._ct_of(dose), plane, at, window, overlay),
        )

    def _dose(self, instance: dg.DagsterInstance, beam: str) -> tuple[ShownDose, DoseFacts]:
        digest = latest_digest(instance, RT_DOSE, beam)
        if digest is None:
            raise StoreError("the beam has no RT Dose yet", where=_WHERE)
        return self._doses.get((beam, digest), lambda: self._read(instance, beam))

    def _read(self, instance: dg.DagsterInstance, beam: str) -> tuple[ShownDose, DoseFacts]:
        made = ancestry(instance, self._site.store, beam)
        record = read_record(made.raw_dose)
        in_patient = any(entry.axes == "patient" for entry in record.files)
        name = next((one for one in FILES.values() if one in made.rt_dose.manifest.files), "")
        made.rt_dose.verify([name])
        with elements_of(_WHERE):
            dataset = read_dicom(made.rt_dose.path(name), of_ours=True)
            grid = stored_grid(dataset, DoseFrame.PATIENT if in_patient else DoseFrame.PHANTOM)
        manifest = read_manifest(instance, self._site.store, root_of(beam))
        surface = None if record.surface_mm is None else -record.surface_mm
        dose = shown_dose(
            made.rt_dose.digest,
            grid,
            surface_mm=surface,
            frame_of_reference_uid=text_of(dataset, "FrameOfReferenceUID"),
            images=manifest.ct_series if in_patient else (),
        )
        return dose, dose.facts()

    def _ct_of(self, dose: ShownDose) -> CtImages | None:
        """The CT of a dose in a patient; None where it cannot be read any more."""
        if dose.frame is DoseFrame.PHANTOM:
            return None
        key = hashlib.sha256("".join(one.sha256 for one in dose.images).encode()).hexdigest()
        try:
            return self._images.get(key, lambda: _read_images(dose.images))
        except (MqiError, OSError):
            return None


def draw(
    dose: ShownDose,
    facts: DoseFacts,
    ct: CtImages | None,
    plane: Plane,
    at: int,
    window: str,
    overlay: Overlay,
) -> bytes:
    """A slice as PNG.

    Args:
        dose: The dose.
        facts: Of it.
        ct: That it is laid over where both lie in one Frame of Reference.
        plane: Which plane.
        at: Which of its slices, from 0.
        window: One of `WINDOWS`.
        overlay: How the dose is drawn.
    """
    within = plane.within
    steps = [dose.axes_mm[axis] for axis in within]
    sizes = [len(one) * dose.spacing_mm[axis] for one, axis in zip(steps, within, strict=True)]
    mm_per_dot = max(sizes) / LONGEST_SIDE
    places = []
    for one, axis, size in zip(steps, within, sizes, strict=True):
        dots = np.arange(max(1, round(size / mm_per_dot)))
        places.append(one[0] - dose.spacing_mm[axis] / 2 + mm_per_dot * (dots + 0.5))
    ends = [ENDS[AXES[axis]] if facts.in_patient else (f"-{AXES[axis]}", f"+{AXES[axis]}") for axis in within]
    if plane is not Plane.AXIAL:
        # Towards the head is up.
        places[0], ends[0] = places[0][::-1], ends[0][::-1]
    indices = [
        (where - one[0]) / dose.spacing_mm[axis]
        for where, one, axis in zip(places, steps, within, strict=True)
    ]
    hounsfield, note = _under(dose, ct, plane, at, places)
    return dose_slice(
        hounsfield,
        bilinear(np.take(dose.values, at, axis=plane.across), *indices),
        window=WINDOWS[window],
        maximum=facts.maximum,
        wash=overlay in (Overlay.BOTH, Overlay.WASH),
        isodoses=facts.isodoses if overlay in (Overlay.BOTH, Overlay.LINES) else (),
        mm_per_dot=mm_per_dot,
        edges=(*ends[1], *ends[0]),
        note=note,
    )


def _under(
    dose: ShownDose, ct: CtImages | None, plane: Plane, at: int, places: Sequence[Floats]
) -> tuple[Floats, str]:
    """Hounsfield units of a slice, and what is to be said of them."""
    points = np.empty((len(places[0]), len(places[1]), 3))
    down, along = plane.within
    # DICOM x, y, z from z, y, x.
    points[..., 2 - plane.across] = dose.axes_mm[plane.across][at]
    points[..., 2 - down] = places[0][:, np.newaxis]
    points[..., 2 - along] = places[1]
    if dose.frame is DoseFrame.PHANTOM:
        surface = -np.inf if dose.surface_mm is None else dose.surface_mm
        return np.where(points[..., 1] >= surface, _WATER, _AIR), ""
    unknown = np.full(points.shape[:2], np.nan)
    if ct is None:
        return unknown, "the CT cannot be read any more"
    if ct.grid.frame_of_reference_uid != dose.frame_of_reference_uid:
        return unknown, "the CT lies in another Frame of Reference"
    return trilinear(ct.values, ct.grid.to_indices(points)), ""


def shown_dose(
    digest: str,
    grid: DoseGrid,
    *,
    surface_mm: float | None = None,
    frame_of_reference_uid: str = "",
    images: tuple[InputFile, ...] = (),
) -> ShownDose:
    """A dose along rising DICOM axes; of a phantom the part with dose.

    Raises:
        DoseError: Its grid is oblique, or it is zero everywhere.
    """
    grid.require_a_dose()
    known = {name: (place, steps) for place in range(3) for name, steps in (grid.axis(place),)}
    values = grid.values.transpose(*(known[name][0] for name in "zyx"))
    axes = []
    for place, name in enumerate("zyx"):
        steps = known[name][1]
        if len(steps) > 1 and steps[1] < steps[0]:
            values, steps = np.flip(values, place), steps[::-1]
        axes.append(steps)
    spacing = [float(grid.spacing_mm[known[name][0]]) for name in "zyx"]
    if grid.frame is DoseFrame.PHANTOM:
        high = np.argwhere(values >= _CUT_BELOW * values.max())
        for place, (low, top) in enumerate(zip(high.min(axis=0), high.max(axis=0), strict=True)):
            around = int(np.ceil(_AROUND_MM / spacing[place]))
            kept = np.arange(max(0, low - around), min(values.shape[place], top + around + 1))
            values, axes[place] = values.take(kept, axis=place), axes[place][kept]
    return ShownDose(
        digest=digest,
        frame=grid.frame,
        units=grid.units,
        values=np.ascontiguousarray(values, dtype=np.float32),
        axes_mm=(axes[0], axes[1], axes[2]),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        surface_mm=surface_mm,
        frame_of_reference_uid=frame_of_reference_uid,
        images=images,
    )


def _read_images(files: Sequence[InputFile]) -> CtImages:
    volume = read_volume(map(_unchanged, files))
    return CtImages(volume.grid, np.clip(np.rint(volume.values), -32768, 32767).astype(np.int16))


def _unchanged(entry: InputFile) -> bytes:
    content = entry.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise InputError("an image has changed since the case was taken in", where=Where(kind="CT"))
    return content


def bilinear(values: NDArray[np.float32], down: Floats, across: Floats) -> Floats:
    """Values at fractional rows and columns; half a dot beyond the outermost ones theirs stand."""
    rows = _between(values, down)
    return np.ascontiguousarray(_between(rows.T, across).T)


def _between(values: NDArray[np.floating], at: Floats) -> NDArray[np.floating]:
    """Rows at fractional places."""
    where = np.clip(at, 0, len(values) - 1)
    low = where.astype(int)
    part = (where - low)[:, np.newaxis]
    return np.asarray((1.0 - part) * values[low] + part * values[np.minimum(low + 1, len(values) - 1)])


def trilinear(values: NDArray[np.int16], indices: ArrayLike) -> Floats:
    """Values at fractional indices; NaN beyond the centres of the outermost voxels.

    Args:
        values: Of a grid.
        indices: Shape (…, 3), in the order of its dimensions.
    """
    at = np.asarray(indices, float)
    last = np.array(values.shape) - 1
    known = np.all((at >= -_ROUNDING) & (at <= last + _ROUNDING), axis=-1)
    at = np.clip(at[known], 0, last)
    low = at.astype(int)
    parts = (at - low).T
    flat, strides = values.ravel(), np.array(values.strides) // values.itemsize
    first = low @ strides
    # Of the last voxel there is no next one, and none of it is asked for.
    steps = np.where(low < last, strides, 0).T
    found = np.zeros(len(at))
    for corner in np.ndindex(2, 2, 2):
        weight, place = np.ones(len(at)), first
        for side, part, step in zip(corner, parts, steps, strict=True):
            weight = weight * (part if side else 1.0 - part)
            place = place + step if side else place
        found += weight * flat[place]
    whole = np.full(known.shape, np.nan)
    whole[known] = found
    return whole

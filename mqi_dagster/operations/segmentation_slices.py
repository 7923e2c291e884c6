"""Slices of the images of a set with what a model has found in them, drawn when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import dagster as dg
import numpy as np
from numpy.typing import NDArray

from mqi_dagster.compute.segmentation_run import LABEL_MAP
from mqi_dagster.dicom.elements import text_of
from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.errors import InputError, Where
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.image_volume import read_volume
from mqi_dagster.imaging.segmentation_files import SEGMENTATIONS, SegmentedRegion, read_segmentations
from mqi_dagster.imaging.segmented_masks import read_labels, region_mask
from mqi_dagster.lifecycle.image_set import load_image_set
from mqi_dagster.lifecycle.lineage import latest_digest, resolve
from mqi_dagster.lifecycle.materialisations import IMAGES, SEGMENTED
from mqi_dagster.operations.dose_slices import AXES, ENDS, LONGEST_SIDE, Plane, PlaneFacts, bilinear
from mqi_dagster.operations.kept import Kept
from mqi_dagster.pictures.slices import region_slice
from mqi_dagster.pictures.style import CT_WINDOWS, Window, dicom_axis
from mqi_dagster.resources.site import Site

_COLOURS = ("#f2902b", "#28b4c8", "#e6d23a", "#c65bd6", "#3fbf5f", "#e8402f", "#3b6cf6", "#b0b0b0")
_WHOLE = (0.5, 99.5)
"""Percentiles of the values, where they are of no unit."""
_KEPT_IMAGES, _KEPT_PICTURES = 384 << 20, 64 << 20
"""Bytes that stay in memory."""


class Shown(StrEnum):
    """How regions are drawn."""

    BOTH = "colours and outlines"
    COLOURS = "colours"
    OUTLINES = "outlines"
    NONE = "nothing"


@dataclass(frozen=True, slots=True)
class SegmentationFacts:
    """What a page says of a segmentation whose slices it shows."""

    digest: str
    regions: tuple[tuple[str, str], ...]
    """Name and colour of each that was found."""
    windows: tuple[Window, ...]
    planes: tuple[PlaneFacts, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Images:
    facts: SegmentationFacts
    values: NDArray[np.float32]
    """Shape (z, y, x), all rising."""
    labels: NDArray[np.uint16]
    regions: tuple[SegmentedRegion, ...]
    spacing_mm: tuple[float, ...]


class SegmentationSlices:
    """Draws slices, and keeps what it has read and drawn up to a bound.

    Args:
        site: The site.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._images = Kept[_Images](_KEPT_IMAGES, lambda found: found.values.nbytes + found.labels.nbytes)
        self._pictures = Kept[bytes](_KEPT_PICTURES, len)

    def facts(self, instance: dg.DagsterInstance, key: str) -> SegmentationFacts:
        """What is to be said of the latest segmentation of an image set.

        Raises:
            StoreError: There is none, or it is damaged.
            ImageError: It is not of the latest images.
        """
        return self._found(instance, key).facts

    def picture(
        self, instance: dg.DagsterInstance, key: str, plane: Plane, at: int, window: str, shown: Shown
    ) -> bytes:
        """A slice as PNG.

        Args:
            instance: Dagster's records.
            key: Of the image set.
            plane: Which plane; of oblique images the one that is nearest.
            at: Which of its slices, from 0.
            window: Name of one of `SegmentationFacts.windows`; empty: the first.
            shown: How regions are drawn.

        Raises:
            InputError: There is no such slice or window.
            StoreError, ImageError: As `facts`.
        """
        found = self._found(instance, key)
        windows = {one.name: one for one in found.facts.windows}
        chosen = windows.get(window or found.facts.windows[0].name)
        if chosen is None or not 0 <= at < found.facts.planes[plane.across].count:
            raise InputError("there is no such slice or window", where=Where(case=key))
        return self._pictures.get(
            (key, found.facts.digest, plane, at, chosen.name, shown),
            lambda: _draw(found, plane, at, chosen, shown),
        )

    def _found(self, instance: dg.DagsterInstance, key: str) -> _Images:
        digests = tuple(latest_digest(instance, asset, key) for asset in (IMAGES, SEGMENTED))
        return self._images.get((key, *digests), lambda: self._read(instance, key))

    def _read(self, instance: dg.DagsterInstance, key: str) -> _Images:
        store = self._site.store
        images = load_image_set(instance, store, key)
        made = resolve(instance, store, SEGMENTED, key, only=(SEGMENTATIONS, LABEL_MAP))
        (record,) = read_segmentations(made.folder).segmentations
        files = images.files(images.main_role)
        volume, header = read_volume(files), read_dicom(files[0], only=("Modality",))
        labels = read_labels(made.path(LABEL_MAP), volume.grid)
        order, turned = _places(volume.grid)
        values = np.flip(volume.values.transpose(order), turned)
        labels = np.flip(labels.transpose(order), turned)
        regions = tuple(one for one in record.regions if one.voxels)
        facts = SegmentationFacts(
            digest=made.digest,
            regions=tuple((one.name, _COLOURS[number % len(_COLOURS)]) for number, one in enumerate(regions)),
            windows=CT_WINDOWS if text_of(header, "Modality") == "CT" else (_whole_range(values),),
            planes=tuple(_planes(volume.grid, labels, order, turned)),
        )
        spacing = tuple(float(volume.grid.spacing_mm[axis]) for axis in order)
        return _Images(facts, np.ascontiguousarray(values, np.float32), labels, regions, spacing)


def _whole_range(values: NDArray[np.floating]) -> Window:
    low, high = (float(one) for one in np.percentile(values, _WHOLE))
    return Window("whole range", low, max(high, low + 1.0))


def _places(grid: ImageGrid) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Which dimension of a grid lies nearest to z, y and x, and which of these fall along it."""
    directions = np.array([grid.plane_direction, grid.column_direction, grid.row_direction])
    left, order, turned = [0, 1, 2], list[int](), list[int]()
    for place, axis in enumerate((2, 1, 0)):
        nearest = max(left, key=lambda one: abs(directions[one][axis]))
        left.remove(nearest)
        order.append(nearest)
        if directions[nearest][axis] < 0:
            turned.append(place)
    return (order[0], order[1], order[2]), tuple(turned)


def _planes(
    grid: ImageGrid, labels: NDArray[np.uint16], order: Sequence[int], turned: Sequence[int]
) -> list[PlaneFacts]:
    directions = np.array([grid.plane_direction, grid.column_direction, grid.row_direction])
    found = []
    for plane in Plane:
        place, axis = plane.across, order[plane.across]
        ends = [0, labels.shape[place] - 1]
        ends = ends[::-1] if place in turned else ends
        at = np.zeros(3)
        at[axis] = ends[0]
        # Along the normal of the images: of such as lie straight, the coordinate itself.
        normal = directions[axis] * (-1.0 if place in turned else 1.0)
        counts = (labels > 0).sum(axis=tuple(other for other in range(3) if other != place))
        down, along = plane.within
        found.append(
            PlaneFacts(
                plane=plane,
                count=labels.shape[place],
                start=int(counts.argmax()) if counts.any() else labels.shape[place] // 2,
                first_mm=float(grid.to_patient(at) @ normal),
                step_mm=float(grid.spacing_mm[axis]),
                across=dicom_axis(AXES[place]),
                along=dicom_axis(AXES[along]),
                down=dicom_axis(AXES[down]),
            )
        )
    return found


def _draw(found: _Images, plane: Plane, at: int, window: Window, shown: Shown) -> bytes:
    within = plane.within
    values = np.take(found.values, at, axis=plane.across)
    labels = np.take(found.labels, at, axis=plane.across)
    spacing = [found.spacing_mm[axis] for axis in within]
    sizes = [count * mm for count, mm in zip(values.shape, spacing, strict=True)]
    mm_per_dot = max(sizes) / LONGEST_SIDE
    indices = [
        (np.arange(max(1, round(size / mm_per_dot))) + 0.5) * mm_per_dot / mm - 0.5
        for size, mm in zip(sizes, spacing, strict=True)
    ]
    ends = [ENDS[AXES[axis]] for axis in within]
    if plane is not Plane.AXIAL:
        # Towards the head is up.
        indices[0], ends[0] = indices[0][::-1], ends[0][::-1]
    nearest = [
        np.clip(np.rint(one), 0, count - 1).astype(int)
        for one, count in zip(indices, values.shape, strict=True)
    ]
    dots = labels[np.ix_(*nearest)]
    return region_slice(
        bilinear(values, *indices),
        [
            (colour, region_mask(dots, (one.label, *one.includes)))
            for (_, colour), one in zip(found.facts.regions, found.regions, strict=True)
        ],
        window=window,
        colours=shown in (Shown.BOTH, Shown.COLOURS),
        outlines=shown in (Shown.BOTH, Shown.OUTLINES),
        mm_per_dot=mm_per_dot,
        edges=(*ends[1], *ends[0]),
    )

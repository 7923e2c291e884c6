"""A made course with images, contours and doses that formulas describe, as files in a tree, and its records.

The images are 60 axial planes of 80 by 80 voxels of 2 mm by 1 mm by 1 mm around the origin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mqi_dagster.courses.dicom_index import DicomIndex
from mqi_dagster.courses.grouping import groups
from mqi_dagster.courses.inventory import CourseInventory
from mqi_dagster.courses.places import bytes_at
from mqi_dagster.imaging.contours import contours_on
from mqi_dagster.imaging.image_grid import ImageGrid
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
from mqi_dagster.pseudonyms import Pseudonyms
from tests.courses.made_objects import Made, items
from tests.imaging.shapes import axial_grid

Floats = NDArray[np.float64]
Formula = Callable[[Floats, Floats, Floats], Floats]

PSEUDONYMS = Pseudonyms(b"a secret of sixteen bytes")
PLANES, PIXELS = 60, 80
GRID = axial_grid(2.0, planes=PLANES, pixels=PIXELS)
SERIES = 10


def images(made: Made) -> list[bytes]:
    """The CT."""
    x, y, z = GRID.origin_mm
    pixels = np.full((PIXELS, PIXELS), 1000, "<u2").tobytes()
    return [
        made.image(
            plane,
            ImagePositionPatient=[x, y, z + 2.0 * plane],
            Rows=PIXELS,
            Columns=PIXELS,
            PixelData=pixels,
            PatientPosition="HFS",
            RescaleSlope=1,
            RescaleIntercept=-1000,
        )
        for plane in range(PLANES)
    ]


def drawn(made: Made, rois: dict[str, Sequence[Floats]], **changes: object) -> bytes:
    """A structure set with these contours, numbered from 1 in this order."""
    regions, contours = list[dict[str, object]](), list[dict[str, object]]()
    for number, (name, polygons) in enumerate(rois.items(), start=1):
        regions.append({"ROINumber": number, "ROIName": name, "ReferencedFrameOfReferenceUID": made.frame})
        contours.append({"ReferencedROINumber": number, "ContourSequence": [_contour(p) for p in polygons]})
    return made.structures(
        slices=PLANES,
        **{"StructureSetROISequence": items(regions), "ROIContourSequence": items(contours), **changes},
    )


def _contour(polygon: Floats) -> Dataset:
    item = Dataset()
    item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(polygon)
    item.ContourData = [f"{part:.4f}" for part in polygon.ravel()]
    return item


def dose(
    made: Made,
    formula: Formula,
    index: int = 1,
    *,
    low_mm: float = -42.3,
    spacing_mm: float = 3.0,
    count: int = 29,
    columns: int | None = None,
    **changes: object,
) -> bytes:
    """A dose by a formula of x, y, z on a cube of voxels; `columns`: fewer along x."""
    axis = low_mm + spacing_mm * np.arange(count)
    z, y, x = np.meshgrid(axis, axis, axis[:columns], indexing="ij")
    values = np.broadcast_to(np.asarray(formula(x, y, z), float), x.shape)
    return made.dose(
        index,
        **{
            "ImagePositionPatient": [low_mm] * 3,
            "PixelSpacing": [spacing_mm] * 2,
            "Rows": count,
            "Columns": x.shape[2],
            "NumberOfFrames": count,
            "GridFrameOffsetVector": [spacing_mm * n for n in range(count)],
            "FrameIncrementPointer": 0x3004000C,
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 32,
            "BitsStored": 32,
            "HighBit": 31,
            "PixelRepresentation": 0,
            "DoseGridScaling": "1e-6",
            "PixelData": np.rint(values / 1e-6).astype("<u4").tobytes(),
            **changes,
        },
    )


@dataclass(frozen=True)
class OnDisk:
    """A course as the index has found it."""

    tree: Path
    inventory: CourseInventory

    def content(self, uid: str) -> bytes:
        """The file of an object of it that is no image."""
        several = (self.inventory.structure_sets, self.inventory.plans, self.inventory.doses)
        (place,) = (one.place for some in several for one in some if one.found.sop_instance_uid == uid)
        return bytes_at(self.tree, place)


def on_disk(folder: Path, made: Made, contents: Sequence[bytes]) -> OnDisk:
    """Write objects and group them; they have to be one course."""
    tree = (folder / "tree").resolve()
    for content in contents:
        made.at(tree).write(content)
    with closing(DicomIndex(folder / "index.sqlite", tree)) as index:
        index.scan()
        (course,) = (course for group in groups(index, PSEUDONYMS.keyed) for course in group.courses)
    return OnDisk(tree, course)


def drawn_record(
    made: Made, number: int, name: str, polygons: Sequence[Floats], **changes: object
) -> StructureRecord:
    """The record of a region of the structure set."""
    volume = sum(layer.volume_mm3 for layer in contours_on(GRID, polygons).layers()) if polygons else 0.0
    fields: dict[str, object] = {
        "id": f"clinical-{number}",
        "source": StructureSource.CLINICAL,
        "made_by": "drawn",
        "structure_set_uid": made.uid(20, 1),
        "roi_number": number,
        "volume_cm3": volume / 1000,
    }
    return record(name, made, **{**fields, **changes})


def record(name: str, made: Made, **changes: object) -> StructureRecord:
    """The record of a structure of a model."""
    fields: dict[str, object] = {
        "id": name,
        "series": PSEUDONYMS.series(made.uid(SERIES)),
        "name": name,
        "original_name": name,
        "naming": Naming.UNKNOWN,
        "source": StructureSource.AUTOMATIC,
        "made_by": "rules_ct",
        "volume_cm3": 1.0,
        "voxels": 500,
        "centre_mm": (0.0, 0.0, 0.0),
    }
    return StructureRecord.model_validate({**fields, **changes})


def published(
    folder: Path,
    made: Made,
    records: Sequence[StructureRecord],
    masks: dict[str, NDArray[np.bool_]] | None = None,
    region: RegionRecord | None = None,
) -> CourseStructures:
    """Write the structures of the course as their asset would."""
    (folder / MASKS).mkdir(parents=True)
    for name, mask in (masks or {}).items():
        write_mask(mask, folder / MASKS / f"{name}.npz")
    content = CourseStructures(
        planning=PSEUDONYMS.series(made.uid(SERIES)), structures=tuple(records), region=region
    )
    write_structures(content, folder)
    return content


def mask_of(condition: Callable[[Floats, Floats, Floats], NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """The voxels whose centre fulfils a condition of x, y, z."""
    points = GRID.to_patient(np.moveaxis(np.indices(GRID.shape), 0, -1))
    return np.asarray(condition(points[..., 0], points[..., 1], points[..., 2]))


def course_grid(made: Made) -> ImageGrid:
    """The grid of the images, in the Frame of Reference of the course."""
    return replace(GRID, frame_of_reference_uid=made.frame)

"""Structure sets on the images of `ct_series`, and label maps as models leave them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from numpy.typing import NDArray

from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.models.label_map import LABEL_MAP, write_image
from mqi_dagster.imaging.segmentation_files import (
    CourseSegmentations,
    Segmentation,
    SegmentationState,
    SegmentedRegion,
    write_segmentations,
)
from tests.courses.made_objects import Made, items
from tests.imaging.ct_series import SERIES

Floats = NDArray[np.float64]
MADE = Made(77, patient_id="P-1", name="Made^Seventyseven", birth_date="19500101")
"""The patient of `ct_series`."""


def structure_set(
    grid: ImageGrid,
    rois: Sequence[tuple[int, str, Sequence[Floats]]],
    *,
    index: int = 1,
    label: str = "drawn",
    frame: str | None = None,
    series: str = SERIES,
    image_uid: str = "",
) -> bytes:
    """A structure set of closed contours.

    Args:
        grid: Of the images.
        rois: Number, name and contours of each region.
        index: Tells one from another.
        label: Of the set.
        frame: Frame of Reference; None: that of the grid, empty: none is named.
        series: That it refers to.
        image_uid: That every contour names.
    """
    frame = grid.frame_of_reference_uid if frame is None else frame
    regions = [
        {"ROINumber": number, "ROIName": name, "ROIGenerationAlgorithm": ""} for number, name, _ in rois
    ]
    for one in regions:
        one |= {"ReferencedFrameOfReferenceUID": frame} if frame else {}
    named = {"ContourImageSequence": items([{"ReferencedSOPInstanceUID": image_uid}])} if image_uid else {}
    contours = [
        {
            "ReferencedROINumber": number,
            "ContourSequence": items(
                [
                    {
                        "ContourGeometricType": "CLOSED_PLANAR",
                        "NumberOfContourPoints": len(one),
                        "ContourData": [f"{value:.4f}" for value in one.ravel()],
                        **named,
                    }
                    for one in drawn
                ]
            ),
        }
        for number, _, drawn in rois
    ]
    of_series = items([{"SeriesInstanceUID": series}])
    frames = {"RTReferencedStudySequence": items([{"RTReferencedSeriesSequence": of_series}])}
    frames |= {"FrameOfReferenceUID": frame} if frame else {}
    return MADE.structures(
        index,
        FrameOfReferenceUID=frame or None,
        StructureSetLabel=label,
        ReferencedFrameOfReferenceSequence=items([frames]),
        StructureSetROISequence=items(regions),
        ROIContourSequence=items(contours),
    )


def as_itk(values: NDArray[np.generic], grid: ImageGrid) -> sitk.Image:
    """Values on a grid as an image of ITK."""
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(grid.spacing_mm[::-1])
    image.SetOrigin(grid.origin_mm)
    axes = np.array([grid.row_direction, grid.column_direction, grid.plane_direction])
    image.SetDirection(axes.T.ravel().tolist())
    return image


def region(label: int, name: str, voxels: int, *, includes: tuple[int, ...] = ()) -> SegmentedRegion:
    """A region of a model."""
    return SegmentedRegion(
        label=label,
        includes=includes,
        name=name,
        voxels=voxels,
        volume_cm3=voxels / 1000,
        code=("12738006", "SCT", "Brain"),
        category=("91723000", "SCT", "Anatomical Structure"),
    )


def segmentation(
    folder: Path,
    series: str,
    labels: NDArray[np.uint16],
    grid: ImageGrid,
    regions: Sequence[SegmentedRegion],
    *,
    model: str = "made_model",
) -> CourseSegmentations:
    """What an asset of segmentation leaves: the label map of one model, and the records."""
    one = Segmentation(
        series=series,
        model=model,
        version="3",
        state=SegmentationState.MADE,
        regions=tuple(regions),
        family="Rule-based",
    )
    failed = one.model_copy(update={"model": "other", "state": SegmentationState.FAILED, "regions": ()})
    (folder / one.folder).mkdir(parents=True)
    write_image(as_itk(labels, grid), folder / one.folder / LABEL_MAP)
    content = CourseSegmentations(segmentations=(one, failed))
    write_segmentations(content, folder)
    return content

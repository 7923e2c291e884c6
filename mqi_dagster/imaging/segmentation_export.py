"""The segmentation of an image set as DICOM objects of the PACS, and what the PACS gives back of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.imaging.measurement_report import write_measurement_report
from mqi_dagster.imaging.models.label_map import connected_pieces
from mqi_dagster.imaging.segmentation_files import Segmentation, SegmentedRegion
from mqi_dagster.imaging.segmentation_object import (
    ARTIFICIAL_INTELLIGENCE,
    RULE_BASED,
    Algorithm,
    Code,
    Mask,
    SegmentationRequest,
    SegmentRequest,
    segmentation_masks,
    write_segmentation,
)
from mqi_dagster.imaging.segmented_masks import read_labels, region_mask
from mqi_dagster.imaging.source_images import source_images

_LONGEST = 64
_FAMILIES = {code.meaning: code for code in (ARTIFICIAL_INTELLIGENCE, RULE_BASED)}


class SegmentedImages:
    """What a model has found in the images of a series.

    Args:
        files: The images.
        labels: The label map on their grid.
        record: What it holds.

    Raises:
        DicomError: An image lacks an element.
        ImageError: The voxels of the label map are not those of the images.
    """

    def __init__(self, files: Sequence[Path], labels: Path, record: Segmentation) -> None:
        self._source = source_images([read_dicom(path) for path in files])
        self._labels = read_labels(labels, self._source.grid)
        self._record = record
        self._found = tuple(one for one in record.regions if one.voxels)

    def write(self, segmentation: Path, report: Path | None, digest: str) -> list[Path]:
        """Write a DICOM Segmentation and a report of its volumes; nothing where nothing was found.

        Args:
            segmentation: Where.
            report: Where; None: none is wanted.
            digest: From which their UIDs are derived.

        Returns:
            What was written.

        Raises:
            DicomError: The images lack an element.
            ImageError: A text does not fit, or what was read back differs.
            InfrastructureError: The disk refuses.
        """
        if not self._found:
            return []
        record = self._record
        algorithm = Algorithm(record.model, record.version, _FAMILIES[record.family])
        request = SegmentationRequest(
            label="MQI",
            segments=tuple(
                SegmentRequest(
                    label=_label(one),
                    mask=partial(self._mask, one),
                    category=Code(*one.category),
                    property_type=Code(*one.code),
                    algorithm=algorithm,
                )
                for one in self._found
            ),
            digest=digest,
            # Not of this program, whose next version has to make the same object of the same result.
            software_versions=(f"{record.model} {record.version}"[:_LONGEST],),
            series_description=f"{record.model} {record.version}"[:_LONGEST],
        )
        write_segmentation(segmentation, self._source, request)
        if report is None:
            return [segmentation]
        write_measurement_report(report, self._source, segmentation, self._found, algorithm, digest)
        return [segmentation, report]

    def differing(self, content: bytes) -> list[str]:
        """Names of the regions that a DICOM Segmentation does not hold as they were found.

        Raises:
            DicomError: It is damaged, or no segmentation.
            ImageError: It is of other images.
        """
        masks = segmentation_masks(read_dicom(content), self._source)
        return [
            one.name
            for one in self._found
            if _label(one) not in masks or not np.array_equal(masks[_label(one)], self._mask(one))
        ]

    def pieces(self) -> Iterator[tuple[SegmentedRegion, int]]:
        """Each region that was found, and of how many connected pieces it is."""
        for one in self._found:
            yield one, connected_pieces(self._mask(one))

    def _mask(self, region: SegmentedRegion) -> Mask:
        return region_mask(self._labels, (region.label, *region.includes))


def _label(region: SegmentedRegion) -> str:
    return region.tg263 or region.name

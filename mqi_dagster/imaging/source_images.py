"""The images that an object is made from and refers to: headers, their grid, and what dates it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from mqi_dagster.dicom.elements import text_of
from mqi_dagster.dicom.patient_study import completed
from mqi_dagster.errors import ImageError, Where
from mqi_dagster.imaging.image_grid import ImageGrid, ImageSeries, image_plane, image_series

_WHERE = Where(kind="image series")


@dataclass(frozen=True, slots=True, eq=False)
class SourceImages:
    """One series of images."""

    series: ImageSeries
    headers: tuple[Dataset, ...]
    """By plane. They hold identity, which goes nowhere but into DICOM files."""

    @property
    def grid(self) -> ImageGrid:
        """Where their voxels are."""
        return self.series.grid

    def uid(self, keyword: str) -> str:
        """A UID that all of them share.

        Raises:
            ImageError: They do not share it, or have none.
        """
        found = {text_of(header, keyword) for header in self.headers}
        if len(found) != 1 or "" in found:
            raise ImageError(f"the images have not one {keyword} in common", where=_WHERE)
        return found.pop()

    @property
    def date_and_time(self) -> tuple[str, str]:
        """When they were taken, as DICOM writes it: what is made from them carries no date of now."""
        for kind in ("Acquisition", "Series", "Study"):
            if date := text_of(self.headers[0], f"{kind}Date"):
                return date, text_of(self.headers[0], f"{kind}Time")
        return "", ""


def source_images(headers: Sequence[Dataset]) -> SourceImages:
    """The images of one series, localizers aside.

    Args:
        headers: In any order.

    Raises:
        DicomError: One lacks an element.
        ImageError: They do not lie in one regular grid.
    """
    series = image_series([image_plane(header) for header in headers])
    by_uid = {text_of(header, "SOPInstanceUID"): header for header in headers}
    if len(by_uid) != len(headers):
        raise ImageError("two images have the same SOPInstanceUID", where=_WHERE)
    for header in headers:
        completed(header)
    return SourceImages(series, tuple(by_uid[uid] for uid in series.instance_uids))

"""The structure set of a real head phantom, beside what three other programs make of it."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.imaging.contours import contours_on
from mqi_dagster.imaging.image_grid import image_plane, image_series
from mqi_dagster.imaging.structure_set import read_structure_set

ARCHIVE = Path(__file__).resolve().parents[3] / "shared" / "cases" / "head_phantom" / "head_phantom.tar.xz"
GEOMETRY = (
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
)
VOXELS = {
    "BODY": 13_342_056, "M1": 4, "M2": 2, "M3": 2, "M4": 4, "M5": 3, "M6": 4, "M7": 2, "BrainStem": 65_806,
    "CTV": 235_225, "Beekley": 74,
}  # fmt: skip
"""By plastimatch 1.9.4 (--xor-contours) and by dcmrtstruct2nii 5, which agree in all."""
AREAS_CM3 = {
    "BODY": 6870.355, "M1": 0.00246, "M2": 0.00252, "M3": 0.00228, "M4": 0.00204, "M5": 0.00203,
    "M6": 0.00236, "M7": 0.00229, "BrainStem": 33.889, "CTV": 121.186, "Beekley": 0.03856,
}  # fmt: skip
"""Areas by shapely 2.2.0 (symmetric difference) times 1.5 mm.

M1 to M7 are two outlines of about a pixel: voxels of 0.5 mm³ make no volume of them, and where one outline is
five times the other, a cone between them has up to 7 % less than areas times 1.5 mm.
"""

pytestmark = pytest.mark.skipif(not ARCHIVE.is_file(), reason="the head phantom is not here")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "head_phantom"


def test_its_volumes_are_those_of_other_programs(phantom: Path) -> None:
    planes = [image_plane(read_dicom(path, only=GEOMETRY)) for path in phantom.glob("CT*")]
    series = image_series(planes)
    assert series.grid.shape == (177, 512, 512)
    assert series.grid.spacing_mm == pytest.approx((1.5, 0.5859375, 0.5859375))
    (file,) = phantom.glob("RS*")
    found = read_structure_set(file)
    assert [(roi.number, roi.name, len(roi.contours_mm)) for roi in found.rois] == [
        (1, "BODY", 177), (2, "M1", 2), (3, "M2", 2), (4, "M3", 2), (5, "M4", 2), (6, "M5", 2),
        (7, "M6", 2), (8, "M7", 2), (9, "BrainStem", 44), (10, "CTV", 42), (11, "Beekley", 4),
    ]  # fmt: skip
    assert (found.faults, [roi.faults for roi in found.rois]) == ((), [()] * 11)
    # They name images of another export of this CT, in the same frame of reference.
    named = frozenset[str]().union(*(roi.image_uids for roi in found.rois))
    assert len(named) == 177 and not named & set(series.instance_uids)
    assert {roi.frame_of_reference_uid for roi in found.rois} == {series.grid.frame_of_reference_uid}
    for roi in found.rois:
        contours = contours_on(series.grid, roi.contours_mm)
        assert contours.gaps == ()
        assert int(contours.mask_on(series.grid).sum()) == VOXELS[roi.name]
        volume_cm3 = sum(layer.volume_mm3 for layer in contours.layers()) / 1000
        marker = len(roi.contours_mm) == 2
        assert volume_cm3 == pytest.approx(AREAS_CM3[roi.name], rel=0.08 if marker else 5e-4)

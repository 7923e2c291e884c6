"""IBSI's CT phantom, configuration C: every feature with a published value, within its tolerance.

The image is of a patient (Creative Commons BY-NC 3.0, doi:10.17195/candat.2016.08.1): fetched, never kept.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

pytest.importorskip("zrad", reason="the imaging extra is not installed")

from mqi_dagster.imaging.radiomics import RadiomicsResult, extract_features
from tests.imaging.ibsi_reference import CT_PHANTOM_C
from tests.imaging.radiomics_cases import CONFIGURATION_C, agrees, profile

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package that the phantom is in."""
    folder = tmp_path_factory.mktemp("pycerr")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--dest",
        str(folder),
        "pycerr==2.5.1",
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("pycerr 2.5.1, which holds the phantom, cannot be fetched here")
    (path,) = folder.glob("pycerr-2.5.1*.whl")
    if (
        hashlib.sha256(path.read_bytes()).hexdigest()
        != "5c3e82cc387538c5c38143827314fc2aa743ef886e8518f7f52beff6805c635d"
    ):
        pytest.skip("pycerr 2.5.1 is another one here")
    return path


@pytest.fixture(scope="module")
def result(wheel: Path) -> RadiomicsResult:
    image, mask, spacing_mm = read_phantom(wheel)
    return extract_features(image, mask, spacing_mm, profile(CONFIGURATION_C))


def read_phantom(
    wheel: Path,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], tuple[float, float, float]]:
    """The image, GTV-1 and the spacing of the first patient."""
    slices, structures = [], None
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if "/pat_1/" in name and name.endswith(".dcm"):
                dataset = pydicom.dcmread(io.BytesIO(archive.read(name)))
                if dataset.Modality == "CT":
                    slices.append(dataset)
                else:
                    structures = dataset
    assert structures is not None
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    heights = np.array([float(one.ImagePositionPatient[2]) for one in slices])
    image = np.stack([one.pixel_array * one.RescaleSlope + one.RescaleIntercept for one in slices])
    row_mm, column_mm = (float(value) for value in slices[0].PixelSpacing)
    left, top = (float(value) for value in slices[0].ImagePositionPatient[:2])
    (number,) = (one.ROINumber for one in structures.StructureSetROISequence if one.ROIName == "GTV-1")
    (roi,) = (one for one in structures.ROIContourSequence if one.ReferencedROINumber == number)
    rows, cols = np.mgrid[: image.shape[1], : image.shape[2]]
    centres = np.column_stack([left + cols.ravel() * column_mm, top + rows.ravel() * row_mm])
    mask = np.zeros(image.shape, dtype=np.bool_)
    for contour in roi.ContourSequence:
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
        plane = int(np.abs(heights - points[0, 2]).argmin())
        inside = Polygon(points[:, :2]).contains_points(centres).reshape(image.shape[1:])
        # Even-odd: a contour within another is a hole.
        mask[plane] ^= inside
    return image.astype(np.float32), mask, (float(heights[1] - heights[0]), row_mm, column_mm)


def test_every_feature_is_within_the_published_tolerance(result: RadiomicsResult) -> None:
    assert result.not_computed == {}
    assert len(CT_PHANTOM_C) == 210
    wrong = {
        tag: result.features[tag]
        for tag, reference in CT_PHANTOM_C.items()
        if not agrees(result.features[tag], reference)
    }
    assert wrong == {}


def test_the_region_is_the_one_that_ibsi_describes(result: RadiomicsResult) -> None:
    # IBSI's diagnostic values to the voxel; it allows 100 and 700 for the second and the third.
    facts = result.facts
    assert (facts.voxels, facts.resampled_voxels, facts.resegmented_voxels) == (125_256, 45_985, 45_981)

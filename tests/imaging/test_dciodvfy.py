"""dciodvfy, which knows PS3.3 and nothing of this program, finds no error in what is drawn on images."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mqi_dagster.imaging.segmentation_object import write_segmentation
from mqi_dagster.imaging.source_images import source_images
from mqi_dagster.imaging.structure_set_writer import GenerationAlgorithm, RoiRequest, write_structure_set
from tests.imaging import test_segmentation_object as seg
from tests.imaging import test_structure_set_writer as rtss
from tests.imaging.ct_series import ct_headers, oblique_grid
from tests.imaging.mask_shapes import SHAPES, ball
from tests.imaging.shapes import axial_grid

pytestmark = pytest.mark.slow

GRIDS = {"axial": axial_grid(2.0, planes=20, pixels=33), "oblique": oblique_grid(20.0, 13.0)}


def complaints(path: Path, iod: str) -> list[str]:
    """Its errors; it tells the name of the IOD where it has understood the file."""
    program = shutil.which("dciodvfy")
    assert program is not None, "install Debian's package dicom3tools (tests/system-packages)"
    done = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert iod in said, said
    return [line for line in said if line.startswith(("Error", "Abort"))]


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_no_error_in_a_structure_set(tmp_path: Path, grid: rtss.ImageGrid) -> None:
    rois = [
        rtss.roi(number, name, make(grid), made_by="total 2.4.0", description="of a test")
        for number, (name, (make, _)) in enumerate(SHAPES.items(), start=1)
    ]
    rois.append(RoiRequest(9, "Drüse", (), GenerationAlgorithm.MANUAL, interpreted_type=""))
    images = source_images(ct_headers(grid))
    write_structure_set(tmp_path / "s.dcm", images, rtss.request(*rois, series_description="Test"))
    assert complaints(tmp_path / "s.dcm", "RTStructureSet") == []


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_no_error_in_a_segmentation(tmp_path: Path, grid: rtss.ImageGrid) -> None:
    segments = [seg.segment(name, make(grid)) for name, (make, _) in SHAPES.items()]
    segments.append(seg.segment("nothing", np.zeros(grid.shape, bool)))
    write_segmentation(tmp_path / "s.dcm", source_images(ct_headers(grid)), seg.request(*segments))
    assert complaints(tmp_path / "s.dcm", "Segmentation") == []


def test_it_finds_what_is_wrong(tmp_path: Path) -> None:
    grid = GRIDS["axial"]
    made = rtss.request(rtss.roi(1, "Heart", ball(grid, 9.0)))
    write_structure_set(tmp_path / "s.dcm", source_images(ct_headers(grid)), made)
    dataset = pydicom.dcmread(tmp_path / "s.dcm")
    del dataset.StructureSetLabel
    dataset.save_as(tmp_path / "s.dcm")
    assert any("StructureSetLabel" in line for line in complaints(tmp_path / "s.dcm", "RTStructureSet"))

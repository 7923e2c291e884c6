"""Structure sets: what is written is what anybody reads, and enclosed as the mask had it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import grid_points_in_poly

from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.errors import DicomError, ImageError
from mqi_dagster.imaging.contours import contours_on
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.source_images import SourceImages, source_images
from mqi_dagster.imaging.structure_set import read_structure_set
from mqi_dagster.imaging.structure_set_writer import (
    GenerationAlgorithm,
    Mask,
    RoiRequest,
    StructureSetRequest,
    outlines,
    write_structure_set,
)
from tests.imaging.ct_series import SERIES, STUDY, ct_headers, oblique_grid, write_ct
from tests.imaging.mask_shapes import SHAPES, ball
from tests.imaging.shapes import axial_grid, sphere

DIGEST = "5f" * 32
AXIAL = axial_grid(1.0, planes=32, pixels=44)
OBLIQUE = replace(oblique_grid(20.0, 13.0), shape=(30, 60, 50), spacing_mm=(1.25, 0.7, 0.8))
GANTRY = replace(oblique_grid(20.0), shape=(30, 60, 50), spacing_mm=(1.25, 0.7, 0.8))
SLOPING = np.array([[0, 0, 0], [9, 0, 0], [9, 9, 4.0]])
GRIDS = {"axial": AXIAL, "gantry": GANTRY, "oblique": OBLIQUE}


def roi(number: int, name: str, shape: Mask | tuple[Any, ...], **more: Any) -> RoiRequest:
    return RoiRequest(number, name, shape, GenerationAlgorithm.AUTOMATIC, **more)


def request(*rois: RoiRequest, **more: Any) -> StructureSetRequest:
    return StructureSetRequest("auto", rois, DIGEST, ("mqi_dagster 0.2.0",), **more)


def images_on(grid: ImageGrid) -> SourceImages:
    return source_images(ct_headers(grid)[::-1])


def dice(a: Mask, b: Mask) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_comes_back_as_it_was(tmp_path: Path, grid: ImageGrid, shape: str) -> None:
    make, volume_cm3 = SHAPES[shape]
    mask = make(grid)
    path = tmp_path / "structures.dcm"
    assert write_structure_set(path, images_on(grid), request(roi(1, shape, mask))) == ()
    (read,) = read_structure_set(path).rois
    contours = contours_on(grid, read.contours_mm)
    assert dice(contours.mask_on(grid), mask) >= 0.995
    assert sum(layer.volume_mm3 for layer in contours.layers()) / 1000 == pytest.approx(volume_cm3, rel=0.03)


def test_a_hole_is_a_contour_of_its_own(tmp_path: Path) -> None:
    mask = np.zeros(AXIAL.shape, bool)
    mask[3:6, 10:20, 10:20], mask[3:6, 13:17, 13:17] = True, False
    write_structure_set(tmp_path / "s.dcm", images_on(AXIAL), request(roi(1, "Ring", mask)))
    (read,) = read_structure_set(tmp_path / "s.dcm").rois
    assert len(read.contours_mm) == 6
    # Half-way between voxel centres, the corners cut: x from -21.5 + 9.5 on.
    outer = max(read.contours_mm[:2], key=len)
    assert outer.min(axis=0).tolist() == [-12.0, -12.0, -12.5]
    assert outer.max(axis=0).tolist() == [-2.0, -2.0, -12.5]
    assert [len(contour) for contour in read.contours_mm[:2]] == [8, 8]


def test_every_element_that_others_read(tmp_path: Path) -> None:
    grid = oblique_grid(20.0, 13.0)
    paths = write_ct(tmp_path, grid)
    images = source_images([read_dicom(path) for path in sorted(paths)])
    mask = ball(grid, 12.0)
    made = request(
        roi(4, "Kidney_L", mask, made_by="total 2.4.0", colour=(255, 128, 0), description="from a test"),
        RoiRequest(9, "PTV", (), GenerationAlgorithm.MANUAL, interpreted_type="PTV"),
        series_description="Automatic structures",
    )
    write_structure_set(tmp_path / "s.dcm", images, made)
    found = pydicom.dcmread(tmp_path / "s.dcm")
    assert (found.PatientName, found.PatientID, found.PatientBirthDate) == ("Prüfung^Eins", "P-1", "19500101")
    assert (found.StudyInstanceUID, found.StudyDate) == (STUDY, "20260102")
    # SHA-256 of the study's UID.
    assert found.StudyID == "MQI6DADC91B850D"
    assert found.SOPClassUID == "1.2.840.10008.5.1.4.1.1.481.3"
    assert (found.Modality, found.StructureSetLabel, found.ApprovalStatus) == (
        "RTSTRUCT",
        "auto",
        "UNAPPROVED",
    )
    assert (found.StructureSetDate, found.StructureSetTime) == ("20260103", "111213")
    frame = found.ReferencedFrameOfReferenceSequence[0]
    assert frame.FrameOfReferenceUID == found.FrameOfReferenceUID == grid.frame_of_reference_uid
    study = frame.RTReferencedStudySequence[0]
    assert study.ReferencedSOPInstanceUID == STUDY
    series = study.RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == SERIES != found.SeriesInstanceUID
    named = {image.ReferencedSOPInstanceUID for image in series.ContourImageSequence}
    assert named == {f"1.2.826.0.1.3680043.8.498.4.{number}" for number in range(1, 25)}
    kidney, ptv = found.StructureSetROISequence
    assert (kidney.ROINumber, kidney.ROIName, kidney.ROIGenerationAlgorithm) == (4, "Kidney_L", "AUTOMATIC")
    assert (kidney.ROIGenerationDescription, kidney.ROIDescription) == ("total 2.4.0", "from a test")
    assert (ptv.ROINumber, ptv.ROIGenerationAlgorithm) == (9, "MANUAL")
    drawn, empty = found.ROIContourSequence
    assert (drawn.ReferencedROINumber, list(drawn.ROIDisplayColor)) == (4, [255, 128, 0])
    assert "ContourSequence" not in empty
    assert [one.RTROIInterpretedType for one in found.RTROIObservationsSequence] == ["ORGAN", "PTV"]
    positions = {path.SOPInstanceUID: path for path in ct_headers(grid)}
    for contour in drawn.ContourSequence:
        image = positions[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        away = np.array(contour.ContourData[:3], float) - np.array(image.ImagePositionPatient, float)
        assert abs(away @ np.array(grid.plane_direction)) < 0.001


def test_the_same_inputs_give_the_same_bytes_and_other_digests_other_uids(tmp_path: Path) -> None:
    made = request(roi(1, "Heart", ball(AXIAL, 9.0)))
    for name, wanted in {"a": made, "b": made, "c": replace(made, digest="60" * 32)}.items():
        write_structure_set(tmp_path / name, images_on(AXIAL), wanted)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    first, other = pydicom.dcmread(tmp_path / "a"), pydicom.dcmread(tmp_path / "c")
    assert first.SOPInstanceUID.startswith("2.25.")
    assert first.SOPInstanceUID != other.SOPInstanceUID
    assert first.SeriesInstanceUID != other.SeriesInstanceUID


def test_given_contours_are_written_to_the_micrometre(tmp_path: Path) -> None:
    given_contours = tuple(sphere(AXIAL, 10.0))
    write_structure_set(tmp_path / "s.dcm", images_on(AXIAL), request(roi(1, "Sphere", given_contours)))
    (read,) = read_structure_set(tmp_path / "s.dcm").rois
    assert len(read.contours_mm) == 20
    assert (
        max(float(np.abs(a - b).max()) for a, b in zip(read.contours_mm, given_contours, strict=True))
        < 0.00051
    )
    volume = sum(layer.volume_mm3 for layer in contours_on(AXIAL, read.contours_mm).layers())
    assert volume == pytest.approx(4188.8, rel=0.003)


def test_a_contour_of_more_than_64_kib_comes_back(tmp_path: Path) -> None:
    angles = np.linspace(0, 2 * np.pi, 6000, endpoint=False)
    polygon = np.column_stack([15 * np.cos(angles), 15 * np.sin(angles), np.full(6000, 0.5)])
    write_structure_set(tmp_path / "s.dcm", images_on(AXIAL), request(roi(1, "Fine", (polygon,))))
    (read,) = read_structure_set(tmp_path / "s.dcm").rois
    assert read.contours_mm[0].shape == (6000, 3)
    # An explicit one could not give it its VR.
    assert pydicom.dcmread(tmp_path / "s.dcm").file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert read.faults == ()


def test_names_in_other_scripts_do_not_damage_that_of_the_patient(tmp_path: Path) -> None:
    mask = ball(AXIAL, 5.0)
    write_structure_set(tmp_path / "s.dcm", images_on(AXIAL), request(roi(1, "Drüse 腺", mask)))
    found = pydicom.dcmread(tmp_path / "s.dcm")
    assert str(found.PatientName) == "Prüfung^Eins"
    assert found.StructureSetROISequence[0].ROIName == "Drüse 腺"


def test_planes_that_a_reader_will_fill_are_said(tmp_path: Path) -> None:
    mask = np.zeros(AXIAL.shape, bool)
    mask[[10, 12, 14], 5:15, 5:15] = True
    said = write_structure_set(tmp_path / "s.dcm", images_on(AXIAL), request(roi(1, "Every second", mask)))
    assert said == ("Every second: empty for 1 mm between two contours, which readers will fill",) * 2


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (request(roi(1, "n" * 65, ())), "ROIName has no text of at most 64 characters"),
        (request(roi(1, "a\\b", ())), "ROIName has no text"),
        (request(roi(1, "", ())), "ROIName has no text"),
        (request(roi(1, "a", (), interpreted_type="organ")), "RTROIInterpretedType of a"),
        (request(roi(1, "a", ()), roi(1, "b", ())), "two regions have the number 1"),
        (request(roi(1, "a", ()), roi(2, "a", ())), "two regions have the name a"),
        (request(roi(1, "a", (), made_by="m" * 65)), "ROIGenerationDescription has no text"),
        (request(roi(1, "a", np.zeros((2, 3, 4), bool))), "the mask of a is not on the grid"),
        (request(roi(1, "a", (np.zeros((2, 3)),))), "a: contour 1 has fewer than three points"),
        (request(roi(1, "a", (SLOPING,))), "a: contour 1 does not lie in a plane"),
        (replace(request(), label="seventeen letters"), "StructureSetLabel has no text of at most 16"),
        (replace(request(), digest="x"), "the digest is not 64 hexadecimal digits"),
        (replace(request(), software_versions=()), "SoftwareVersions: no version"),
    ],
)
def test_what_a_structure_set_cannot_hold_is_refused(
    tmp_path: Path, wanted: StructureSetRequest, reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        write_structure_set(tmp_path / "s.dcm", images_on(AXIAL), wanted)
    assert list(tmp_path.iterdir()) == []


def test_images_of_two_series_or_none_are_refused(tmp_path: Path) -> None:
    headers = ct_headers(AXIAL)
    headers[3].SeriesInstanceUID = "1.2.3"
    with pytest.raises(ImageError, match="not one SeriesInstanceUID in common"):
        write_structure_set(tmp_path / "s.dcm", source_images(headers), request())
    headers = ct_headers(AXIAL)
    for header in headers:
        del header.StudyInstanceUID
    with pytest.raises(DicomError, match="has no StudyInstanceUID"):
        write_structure_set(tmp_path / "s.dcm", source_images(headers), request())
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**48 - 1))
def test_outlines_enclose_exactly_their_pixels(bits: int) -> None:
    mask = np.array([bit == "1" for bit in f"{bits:048b}"]).reshape(1, 6, 8)
    grid = replace(oblique_grid(20.0, 13.0), shape=(1, 6, 8))
    inside = np.zeros((6, 8), bool)
    for contour in outlines(mask, grid):
        inside ^= grid_points_in_poly((6, 8), grid.to_indices(contour)[:, 1:])
    assert np.array_equal(inside, mask[0])


def test_contours_have_to_enclose_the_mask_that_they_are_of(tmp_path: Path) -> None:
    mask = ball(AXIAL, 9.0)
    shape, path = outlines(mask, AXIAL), tmp_path / "s.dcm"
    write_structure_set(path, images_on(AXIAL), request(roi(1, "Ball", shape, encloses=lambda: mask)))
    assert path.is_file()
    other = mask.copy()
    other[16, 22, 22] = False
    with pytest.raises(ImageError, match="the contours of Ball do not enclose its mask"):
        write_structure_set(path, images_on(AXIAL), request(roi(1, "Ball", shape, encloses=lambda: other)))

"""DICOM Segmentations: what is written is what anybody reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mqi_dagster.errors import DicomError, ImageError
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.segmentation_object import (
    ARTIFICIAL_INTELLIGENCE,
    Algorithm,
    Code,
    Mask,
    SegmentationRequest,
    SegmentRequest,
    segmentation_masks,
    write_segmentation,
)
from mqi_dagster.imaging.source_images import SourceImages, source_images
from tests.imaging.ct_series import ct_headers, oblique_grid
from tests.imaging.mask_shapes import SHAPES, ball
from tests.imaging.shapes import axial_grid

DIGEST = "5f" * 32
AXIAL = axial_grid(1.5, pixel_mm=1.5, planes=22, pixels=28)
ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
MODEL = Algorithm("total", "2.4.0", ARTIFICIAL_INTELLIGENCE)


def segment(label: str, mask: Mask, code: str = "80891009", meaning: str = "Heart") -> SegmentRequest:
    return SegmentRequest(label, mask, ANATOMY, Code(code, "SCT", meaning), MODEL)


def request(*segments: SegmentRequest) -> SegmentationRequest:
    return SegmentationRequest("AUTO", segments, DIGEST, ("mqi_dagster 0.2.0",))


def images_on(grid: ImageGrid) -> SourceImages:
    return source_images(ct_headers(grid)[::-1])


@pytest.mark.parametrize(
    "grid", [AXIAL, oblique_grid(20.0), oblique_grid(20.0, 13.0)], ids=["axial", "gantry", "oblique"]
)
def test_overlapping_masks_come_back_as_they_were(tmp_path: Path, grid: ImageGrid) -> None:
    masks = {name: make(grid) for name, (make, _) in SHAPES.items()}
    path, images = tmp_path / "seg.dcm", images_on(grid)
    write_segmentation(path, images, request(*(segment(name, mask) for name, mask in masks.items())))
    read = segmentation_masks(pydicom.dcmread(path), images)
    assert list(read) == ["hollow", "branched", "keyhole"]
    for name, mask in masks.items():
        assert np.array_equal(read[name], mask)


def test_disjoint_and_empty_segments_come_back_and_empty_frames_are_left_out(tmp_path: Path) -> None:
    inner = ball(AXIAL, 6.0)
    shell = ball(AXIAL, 12.0) & ~inner
    nothing = np.zeros(AXIAL.shape, bool)
    wanted = request(segment("inner", inner), segment("nothing", nothing), segment("shell", shell))
    write_segmentation(tmp_path / "seg.dcm", images_on(AXIAL), wanted)
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    # 8 and 16 planes of 1.5 mm hold something.
    assert found.NumberOfFrames == 24
    read = segmentation_masks(found, images_on(AXIAL))
    assert {name: int(mask.sum()) for name, mask in read.items()} == {
        "inner": int(inner.sum()),
        "nothing": 0,
        "shell": int(shell.sum()),
    }


def test_every_element_that_others_read(tmp_path: Path) -> None:
    drawn = replace(segment("Hand", ball(AXIAL, 4.0)), algorithm=None)
    both = replace(segment("Both", ball(AXIAL, 4.0)), semiautomatic=True)
    write_segmentation(
        tmp_path / "s", images_on(AXIAL), request(segment("Heart", ball(AXIAL, 9.0)), drawn, both)
    )
    found = pydicom.dcmread(tmp_path / "s")
    assert (str(found.PatientName), found.PatientID) == ("Prüfung^Eins", "P-1")
    assert (found.SegmentationType, found.ContentLabel) == ("BINARY", "AUTO")
    assert (found.ContentDate, found.ContentTime) == ("20260103", "111213")
    assert found.FrameOfReferenceUID == "1.2.3"
    heart, hand, half = found.SegmentSequence
    assert (heart.SegmentNumber, heart.SegmentLabel, heart.SegmentAlgorithmType) == (1, "Heart", "AUTOMATIC")
    assert heart.SegmentAlgorithmName == "total"
    assert heart.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "2.4.0"
    kind = heart.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("80891009", "SCT", "Heart")
    assert heart.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "123037004"
    assert (hand.SegmentAlgorithmType, half.SegmentAlgorithmType) == ("MANUAL", "SEMIAUTOMATIC")
    images = found.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert len(images) == 22


def test_the_same_inputs_give_the_same_bytes_and_other_digests_other_uids(tmp_path: Path) -> None:
    made = request(segment("Heart", ball(AXIAL, 9.0)))
    for name, wanted in {"a": made, "b": made, "c": replace(made, digest="60" * 32)}.items():
        write_segmentation(tmp_path / name, images_on(AXIAL), wanted)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    first, other = pydicom.dcmread(tmp_path / "a"), pydicom.dcmread(tmp_path / "c")
    assert first.SOPInstanceUID.startswith("2.25.")
    assert first.SOPInstanceUID != other.SOPInstanceUID


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (request(), "every mask is empty"),
        (request(segment("a", np.zeros(AXIAL.shape, bool))), "every mask is empty"),
        (request(segment("a", np.ones((2, 3, 4), bool))), "the mask of a is not on the grid"),
        (request(segment("", ball(AXIAL, 4.0))), "SegmentLabel"),
        (request(segment("n" * 65, ball(AXIAL, 4.0))), "SegmentLabel"),
        (replace(request(), label="lower"), "ContentLabel"),
        (replace(request(), digest="x"), "the digest is not 64 hexadecimal digits"),
    ],
)
def test_what_a_segmentation_cannot_hold_is_refused(
    tmp_path: Path, wanted: SegmentationRequest, reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        write_segmentation(tmp_path / "seg.dcm", images_on(AXIAL), wanted)
    assert list(tmp_path.iterdir()) == []


def test_a_segmentation_of_other_images_is_refused(tmp_path: Path) -> None:
    write_segmentation(tmp_path / "s", images_on(AXIAL), request(segment("Heart", ball(AXIAL, 9.0))))
    headers = ct_headers(AXIAL)
    for number, header in enumerate(headers):
        header.SOPInstanceUID = f"1.2.9.{number}"
    with pytest.raises(ImageError, match="is of other images"):
        segmentation_masks(pydicom.dcmread(tmp_path / "s"), source_images(headers))
    with pytest.raises(DicomError):
        segmentation_masks(headers[0], source_images(headers))

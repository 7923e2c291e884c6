"""A structure set is read region by region: what is wrong with one touches no other."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTIonPlanStorage,
    RTStructureSetStorage,
)

from mqi_dagster.errors import DicomError
from mqi_dagster.imaging.structure_set import Roi, read_structure_set

SQUARE = [0, 0, 5, 10, 0, 5, 10, 10, 5, 0, 10, 5]


def region(number: int, name: str) -> Dataset:
    item = Dataset()
    item.ROINumber, item.ROIName, item.ReferencedFrameOfReferenceUID = number, name, "1.9"
    return item


def contour(points: list[float], kind: str = "CLOSED_PLANAR") -> Dataset:
    image = Dataset()
    image.ReferencedSOPInstanceUID = "1.5.1"
    item = Dataset()
    item.ContourImageSequence = [image]
    item.ContourGeometricType, item.NumberOfContourPoints = kind, len(points) // 3
    item.ContourData = points
    return item


def contours(number: int, *items: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedROINumber, item.ContourSequence = number, list(items)
    return item


def structure_set() -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, "1.7"
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, "1.7"
    dataset.StructureSetLabel = "first"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = "1.6"
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = "1.9", [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence = [region(4, "Heart"), region(2, "PTV")]
    # Neither by place nor by order do the sequences belong together.
    dataset.ROIContourSequence = [
        contours(4, contour([3, 3, 5, 4, 3, 5, 4, 4, 5])),
        contours(2, contour(SQUARE)),
    ]
    observation = Dataset()
    observation.ReferencedROINumber, observation.RTROIInterpretedType = 2, "PTV"
    dataset.RTROIObservationsSequence = [observation]
    return dataset


def written(dataset: FileDataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def test_regions_are_joined_by_number() -> None:
    found = read_structure_set(written(structure_set()))
    assert (found.instance_uid, found.label, found.faults) == ("1.7", "first", ())
    assert (found.frame_of_reference_uids, found.series_uids) == (("1.9",), ("1.6",))
    ptv, heart = found.rois
    assert (ptv.number, ptv.name, ptv.interpreted_type, ptv.faults) == (2, "PTV", "PTV", ())
    assert (heart.number, heart.name, heart.interpreted_type) == (4, "Heart", "")
    assert ptv.contours_mm[0].tolist() == [[0, 0, 5], [10, 0, 5], [10, 10, 5], [0, 10, 5]]
    assert ptv.image_uids == {"1.5.1"}
    assert ptv.frame_of_reference_uid == "1.9"


def test_the_encoding_of_the_file_does_not_matter() -> None:
    explicit = structure_set()
    explicit.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    first, second = read_structure_set(written(explicit)), read_structure_set(written(structure_set()))
    for one, other in zip(first.rois, second.rois, strict=True):
        assert np.array_equal(one.contours_mm[0], other.contours_mm[0])


def spoilt(change: Callable[[FileDataset], None]) -> dict[str, Roi]:
    dataset = structure_set()
    change(dataset)
    return {roi.name: roi for roi in read_structure_set(written(dataset)).rois}


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        (contour([1.0, 2.0, 5.0], "POINT"), "1 contour is POINT and encloses nothing"),
        (contour(SQUARE, "OPEN_PLANAR"), "1 contour is OPEN_PLANAR and encloses nothing"),
        (contour(SQUARE[:-1]), "contour 2 holds 11 numbers, which are no points"),
        (contour([]), "contour 2 holds 0 numbers, which are no points"),
    ],
)
def test_a_contour_that_encloses_nothing_is_told_and_the_others_are_taken(item: Dataset, fault: str) -> None:
    def add(dataset: FileDataset) -> None:
        dataset.ROIContourSequence[1].ContourSequence.append(item)

    rois = spoilt(add)
    assert rois["PTV"].faults == (fault,)
    assert len(rois["PTV"].contours_mm) == 1
    assert rois["Heart"].faults == ()


def test_a_contour_that_is_there_twice_is_taken_once() -> None:
    # Once more from another point, and the other way round.
    turned = [10, 10, 5, 10, 0, 5, 0, 0, 5, 0, 10, 5]

    def add(dataset: FileDataset) -> None:
        dataset.ROIContourSequence[1].ContourSequence.append(contour([float(one) for one in turned]))

    ptv = spoilt(add)["PTV"]
    assert len(ptv.contours_mm) == 1
    assert ptv.faults == ("contour 2 is there twice: taken once",)


def test_a_type_that_nobody_has_defined_is_not_repeated() -> None:
    def add(dataset: FileDataset) -> None:
        dataset.ROIContourSequence[1].ContourSequence.append(contour([float(p) for p in SQUARE], "DOE JANE"))

    assert spoilt(add)["PTV"].faults == ("1 contour is of another kind and encloses nothing",)


def test_a_damaged_number_in_one_contour_touches_no_other() -> None:
    dataset = structure_set()
    content = written(dataset)
    # NumberOfContourPoints of the Heart: the text "3 " of three points.
    at = content.index(b"\x06\x30\x46\x00\x02\x00\x00\x003 ")
    found = read_structure_set(content[: at + 8] + b"x " + content[at + 10 :])
    ptv, heart = found.rois
    assert (ptv.faults, len(ptv.contours_mm)) == ((), 1)
    assert heart.contours_mm == () and heart.faults[0].startswith("contour 1 ")


def test_a_contour_that_says_another_number_of_points_is_told() -> None:
    def change(dataset: FileDataset) -> None:
        dataset.ROIContourSequence[1].ContourSequence[0].NumberOfContourPoints = 5

    assert spoilt(change)["PTV"].faults == ("contour 1 holds 4 points and says 5",)


def test_two_regions_of_one_number_are_neither_of_them() -> None:
    dataset = structure_set()
    dataset.StructureSetROISequence.append(region(2, "other PTV"))
    found = read_structure_set(written(dataset))
    assert [roi.name for roi in found.rois] == ["Heart"]
    assert found.faults == (
        "StructureSetROISequence has more than one item of region 2: none is taken",
        "there are contours of region 2, which is not in the list of regions",
    )


def test_a_region_without_contours_is_there_and_empty() -> None:
    dataset = structure_set()
    del dataset.ROIContourSequence[1]
    ptv, _ = read_structure_set(written(dataset)).rois
    assert (ptv.name, ptv.contours_mm, ptv.faults) == ("PTV", (), ())


def test_another_object_is_refused(tmp_path: Path) -> None:
    dataset = structure_set()
    dataset.SOPClassUID = RTIonPlanStorage
    file = tmp_path / "plan.dcm"
    file.write_bytes(written(dataset))
    with pytest.raises(DicomError, match="is no RT Structure Set"):
        read_structure_set(file)


WHOLE = written(structure_set())


@given(st.integers(132, len(WHOLE) - 1), st.binary(min_size=1, max_size=12))
def test_damaged_bytes_are_a_dicom_error_or_faults(at: int, damage: bytes) -> None:
    try:
        found = read_structure_set(WHOLE[:at] + damage + WHOLE[at + len(damage) :])
    except DicomError:
        return
    for roi in found.rois:
        assert all(np.isfinite(points).all() and points.shape[1] == 3 for points in roi.contours_mm)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_that_ends_early_never_raises_anything_else(at: int) -> None:
    try:
        read_structure_set(WHOLE[:at])
    except DicomError:
        return

"""The tree of courses that a demonstration begins with, from a small package in place of the real one."""

from __future__ import annotations

import hashlib
import zipfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from mqi_dagster.courses.dicom_index import DicomIndex
from mqi_dagster.courses.grouping import groups
from mqi_dagster.errors import DicomError
from mqi_dagster.synthetic import course_tree
from mqi_dagster.synthetic.course_tree import make_course_tree
from tests.courses.made_objects import Made, items

CUBE = [[-10, -10, 0, 10, -10, 0, 10, 10, 0, -10, 10, 0], [-10, -10, 6, 10, -10, 6, 10, 10, 6, -10, 10, 6]]


def package(path: Path) -> Path:
    """A wheel with two patients: three images and a structure set each."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in (1, 2):
            made = Made(number, patient_id=f"P{number}", name=f"Phantom^{number}")
            drawn = items(
                [{"ContourData": points, "ContourGeometricType": "CLOSED_PLANAR"} for points in CUBE]
            )
            contours = items([{"ReferencedROINumber": 1, "ContourSequence": drawn}])
            contents = [made.image(plane, PixelSpacing=[20, 20]) for plane in range(3)]
            contents.append(made.structures(ROIContourSequence=contours))
            for index, content in enumerate(contents):
                name = f"cerr/datasets/radiomics_phantom_dicom/pat_{number}/DCM_{index}.dcm"
                archive.writestr(name, content)
        archive.writestr("cerr/datasets/README", "not a DICOM file")
    return path


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = package(tmp_path / "small.whl")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(course_tree, "WHEEL", replace(course_tree.WHEEL, sha256=digest))
    return path


def test_each_patient_becomes_a_course_with_a_plan_and_a_dose(wheel: Path, tmp_path: Path) -> None:
    assert make_course_tree(tmp_path / "tree", wheel) == 2
    with closing(DicomIndex(tmp_path / "index.db", tmp_path / "tree")) as index:
        index.scan()
        courses = [
            course for group in groups(index, lambda *parts: "|".join(parts)) for course in group.courses
        ]
    assert len(courses) == 2
    for course in courses:
        assert [len(series.images) for series in course.image_series] == [3]
        assert [decision.rule for decision in course.dose_decisions] == ["single_dose"]
        (prescription,) = course.prescriptions
        assert prescription.fractions_planned == 30
        assert [(one.dose_gy, one.roi_name) for one in prescription.targets] == [(60.0, "PTV")]
        assert course.findings == ()


def test_the_dose_is_the_prescribed_one_in_the_tumour_and_little_far_from_it(
    wheel: Path, tmp_path: Path
) -> None:
    make_course_tree(tmp_path / "tree", wheel)
    dose = pydicom.dcmread(tmp_path / "tree" / "course1" / "dose.dcm")
    values = dose.pixel_array * dose.DoseGridScaling
    # The images begin at x = y = z = 0, which is the middle of the tumour across them.
    assert dose.ImagePositionPatient == [0, 0, 0]
    assert values[1, 0, 0] == pytest.approx(60, abs=0.5)
    assert values[1, 0, 30] < 0.5
    assert values[1, 30, 0] < 0.5


def test_a_second_time_nothing_is_made(wheel: Path, tmp_path: Path) -> None:
    make_course_tree(tmp_path / "tree", wheel)
    wheel.unlink()
    assert make_course_tree(tmp_path / "tree", wheel) == 2


def test_another_package_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DicomError, match=r"it must be pycerr 2\.5\.1 as published"):
        make_course_tree(tmp_path / "tree", package(tmp_path / "other.whl"))
    assert [path.name for path in tmp_path.iterdir()] == ["other.whl"]

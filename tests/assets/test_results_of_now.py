"""What was made of files or results of before never stands beside new ones."""

from __future__ import annotations

from contextlib import closing

import dagster as dg
import polars as pl
import pytest

from mqi_dagster.assets.radiotherapy.dvh import dvh
from mqi_dagster.assets.radiotherapy.organise import course_inventory
from mqi_dagster.assets.radiotherapy.radiomics import radiomics
from mqi_dagster.assets.radiotherapy.report import course_report
from mqi_dagster.assets.radiotherapy.segmentation import auto_segmentation, custom_segmentation
from mqi_dagster.assets.radiotherapy.structures import structures
from mqi_dagster.imaging.quality_control import QC_REPORT, Verdict, read_qc_report
from mqi_dagster.lifecycle.course import open_index
from mqi_dagster.lifecycle.lineage import resolve
from tests.assets.course_site import Course
from tests.courses.made_objects import Made
from tests.imaging.made_course import GRID, PIXELS, PLANES, dose, drawn
from tests.imaging.shapes import sphere

MADE = Made(9, name="Zweigelt^Quirin", patient_id="KX-48151623")
STAGES = (auto_segmentation, custom_segmentation, structures, dvh, radiomics)


def images(first_mm: float = 0.0) -> list[bytes]:
    x, y, z = GRID.origin_mm
    return [
        MADE.image(
            plane,
            ImagePositionPatient=[x, y, z + first_mm + 2.0 * plane], Rows=PIXELS, Columns=PIXELS,
            RescaleIntercept=-1000, PixelData=(1000).to_bytes(2, "little") * PIXELS**2,
        )
        for plane in range(PLANES)
    ]  # fmt: skip


def files(radius: float = 12.0, gray: float = 40.0, first_mm: float = 0.0) -> list[bytes]:
    """The course; the same objects by their UIDs whatever they hold."""
    plan, structure_set = MADE.plan(dose_gy=gray), drawn(MADE, {"PTV": sphere(GRID, radius)})
    return [*images(first_mm), structure_set, plan, dose(MADE, lambda x, y, z: gray + 0.0 * x, 1, plans=[1])]


@pytest.fixture(scope="module")
def only_course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return Course(tmp_path_factory.mktemp("course") / "site", files(), MADE.uid(10))


@pytest.fixture
def course(only_course: Course) -> Course:
    """With the files and settings that it begins with, and all that is made of them, mostly found."""
    off = {"enabled": False}
    only_course.change(segmentation=off, custom_models=off, structures={}, dvh={}, radiomics={})
    replace(only_course, files())
    for asset in (*STAGES, course_report):
        assert only_course.make(asset).success, asset.key
    return only_course


def replace(course: Course, contents: list[bytes]) -> None:
    """Put other files in the place of those of the course, and organise it again."""
    for number, content in enumerate(contents):
        (course.folder / "tree" / f"{number}").write_bytes(content)
    with closing(open_index(course.site)) as index:
        index.scan()
    assert course.make(course_inventory).success


def why(result: dg.ExecuteInProcessResult) -> str:
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_failure_data.user_failure_data is not None
    return failure.step_failure_data.user_failure_data.description or ""


def verdicts(course: Course) -> dict[str, tuple[Verdict, str]]:
    """Of the report, by check."""
    folder = resolve(course.instance, course.site.store, "course_report", course.key)
    return {one.name: (one.verdict, one.text) for one in read_qc_report(folder.path(QC_REPORT)).checks}


def test_radiomics_are_not_of_other_images_than_the_masks(course: Course) -> None:
    replace(course, files(first_mm=4.0))
    assert "structures" in (said := why(course.make(radiomics)))
    assert "was made of other files than the course has now" in said
    for asset in (auto_segmentation, custom_segmentation, structures):
        assert course.make(asset).success
    assert course.make(radiomics).success


def test_figures_are_not_of_contours_of_before(course: Course) -> None:
    replace(course, files(radius=8.0))
    assert "was made of other files than the course has now" in why(course.make(dvh))
    assert course.make(structures).success
    _, table = course.measured()
    # A sphere of 8 mm has 2.14 cm³.
    assert table["Volume (cm³)"].to_list() == pytest.approx([2.14], rel=0.02)


@pytest.mark.slow
def test_figures_are_not_of_a_structure_set_that_is_gone(course: Course) -> None:
    (course.folder / "tree" / str(PLANES)).unlink()
    replace(course, [])
    assert "was made of other files than the course has now" in why(course.make(dvh))
    assert course.make(structures).success
    _, table = course.measured()
    assert len(table) == 0


def test_a_report_leaves_out_what_is_of_before_and_says_so(course: Course) -> None:
    assert verdicts(course)["coverage"][0] is Verdict.PASS
    replace(course, files(gray=20.0))
    assert course.make(course_report).success
    assert verdicts(course)["coverage"] == (
        Verdict.WARNING,
        "not evaluated: dvh was made of other files than the course has now: materialise it again",
    )
    assert verdicts(course)["not_empty"][0] is Verdict.PASS
    assert course.make(dvh).success
    assert course.make(course_report).success
    assert verdicts(course)["coverage"][0] is Verdict.PASS
    folder = resolve(course.instance, course.site.store, "dvh", course.key).folder
    assert pl.read_parquet(folder / "dvh_metrics.parquet")["DmeanGy"].to_list() == pytest.approx([20.0])


@pytest.mark.slow
def test_what_was_made_of_a_result_that_is_made_anew_is_of_before(course: Course) -> None:
    names = course.folder / "definitions.yaml"
    names.write_text("custom_structures:\n  - {name: Ring, source_structures: [PTV], margin: 3}\n")
    course.change(structures={"custom_structures": str(names)})
    assert course.make(structures).success
    assert course.make(course_report).success
    assert verdicts(course)["coverage"] == (
        Verdict.WARNING,
        "not evaluated: dvh was made of an earlier structures: materialise it again",
    )


def test_a_stage_that_is_switched_off_is_never_of_before(course: Course) -> None:
    course.change(dvh={"enabled": False}, radiomics={"enabled": False})
    for asset in (dvh, radiomics):
        assert course.make(asset).success
    replace(course, files(gray=20.0))
    assert course.make(course_report).success
    assert verdicts(course)["dvh_made"][1] == "there are no figures: radiotherapy.dvh.enabled is false"

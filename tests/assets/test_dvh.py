"""The asset `dvh` in Dagster: what it publishes, shows and takes again, and what changes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqi_dagster.assets.radiotherapy.dvh import dvh
from mqi_dagster.imaging.structure_files import RegionRecord
from mqi_dagster.lifecycle.lineage import DIGEST
from tests.assets.course_site import Course
from tests.courses.made_objects import Made
from tests.imaging.made_course import GRID, dose, drawn, drawn_record, images, mask_of, record
from tests.imaging.shapes import sphere

MADE = Made(7, name="Secret^Person", patient_id="SECRET-ID")
PTV = sphere(GRID, 15.0)
GOALS = "name: made\nversion: '1'\ngoals:\n  - {structure: PTV, metric: Dmean, at_most: 41.0, unit: Gy}\n"


def whole(*more: bytes) -> list[bytes]:
    return [
        *images(MADE),
        drawn(MADE, {"PTV": PTV}),
        MADE.plan(dose_gy=40.0, label="$A_plan"),
        dose(MADE, lambda x, y, z: 40 + 0.4 * x),
        *more,
    ]


@pytest.fixture
def course(tmp_path: Path) -> Course:
    found = Course(tmp_path, whole(), MADE.uid(10))
    cube = mask_of(lambda x, y, z: (abs(x) < 5) & (abs(y) < 5) & (abs(z) < 6))
    cubes = [record("_cube$", MADE, id="cube")]
    found.give_structures([drawn_record(MADE, 1, "PTV", PTV), *cubes], masks={"cube": cube})
    return found


def test_the_tables_are_published_and_shown(course: Course) -> None:
    content, metrics = course.measured()
    assert metrics["course"].unique().to_list() == [course.key]
    rows = {row["ROI_Name"]: row for row in metrics.iter_rows(named=True)}
    assert rows["PTV"]["DmeanGy"] == pytest.approx(40.0, rel=5e-4)
    assert rows["PTV"]["Volume (cm³)"] == pytest.approx(14.1372, rel=2e-3)
    assert rows["PTV"]["D95%"] == pytest.approx(100 * (40 - 6 * 0.729299) / 40, rel=2e-3)
    assert rows["_cube$"]["Volume (cm³)"] == pytest.approx(1.2)
    assert rows["_cube$"]["DmeanGy"] == pytest.approx(40.0, rel=5e-4)
    metadata = course.metadata()
    assert metadata["doses"] == (
        "$A_plan: single_dose, PHYSICAL, maximum 56.68 Gy, prescribed:"
        " 40 Gy (Target Prescription Dose of the plan)"
    )
    first, second = (one.data for one in metadata["table"].records)
    assert (first["structure"], second["structure"]) == ("PTV", "_cube$")
    assert (second["volume [cm³]"], second["V95% [%]"], second["status"]) == ("1.2", "100", "measured")
    assert metadata["DVH $A_plan"].startswith("![dose-volume curves")
    assert (metadata["not measured"], metadata["clinical goals"]) == ("none", "none")
    shown = str(metadata) + content.model_dump_json() + str(metrics.to_dicts())
    assert "ecret" not in shown and "SECRET" not in shown and str(course.folder) not in shown


def test_its_checks_are_evaluated_with_it(course: Course) -> None:
    result = course.make(dvh)
    assert {one.check_name for one in result.get_asset_check_evaluations()} == {
        spec.name for spec in dvh.check_specs
    }


def test_what_is_unchanged_is_taken_again_and_what_changes_it_is_measured_anew(course: Course) -> None:
    course.measured()
    first = course.metadata()[DIGEST]
    course.measured()
    assert course.metadata()[DIGEST] == first
    goals = course.folder / "goals.yaml"
    goals.write_text(GOALS)
    digests = [first]
    for change in ({"dvh": {"curve_step_gy": 1.0}}, {"dvh": {"goals": "goals.yaml"}}):
        course.change(**change)
        content, _ = course.measured()
        digests.append(course.metadata()[DIGEST])
    assert [(one.goal, one.verdict) for one in content.goals] == [("Dmean ≤ 41 Gy", "met")]
    assert course.metadata()["clinical goals"] == "1 met"
    goals.write_text(GOALS.replace("41.0", "39.0"))
    content, _ = course.measured()
    assert [one.verdict for one in content.goals] == ["missed"]
    digests.append(course.metadata()[DIGEST])
    # Where the file lies says nothing.
    goals.rename(course.folder / "others.yaml")
    course.change(dvh={"goals": "others.yaml"})
    course.measured()
    assert course.metadata()[DIGEST] == digests[-1]
    course.give_structures([drawn_record(MADE, 1, "PTV", PTV)], digest="b" * 64)
    course.measured()
    digests.append(course.metadata()[DIGEST])
    assert len(set(digests)) == 5


@pytest.mark.slow
def test_switched_off_it_has_tables_without_rows_and_says_so(course: Course) -> None:
    course.change(dvh={"enabled": False})
    content, metrics = course.measured()
    assert (content.empty_because, len(metrics)) == ("radiotherapy.dvh.enabled is false", 0)
    assert course.metadata()["not measured"] == "radiotherapy.dvh.enabled is false"


def test_the_analysis_region_is_used_where_the_settings_say_so(course: Course) -> None:
    region = RegionRecord(
        name="half", low_mm=(-100, -100, 0), high_mm=(100, 100, 100), from_structures=("PTV",)
    )
    half = [drawn_record(MADE, 1, "PTV", PTV, cut_off_percent=50.0)]
    course.give_structures(half, digest="c" * 64, region=region)
    for cropping, volume_cm3, cropped in (
        ({"enabled": True, "region": "brain"}, 14.1372 / 2, True),
        ({"enabled": True, "region": "brain", "use_cropped_for_dvh": False}, 14.1372, False),
        ({"enabled": False}, 14.1372, False),
    ):
        course.change(ct_cropping=cropping)
        content, metrics = course.measured()
        assert metrics["Volume (cm³)"].to_list() == [pytest.approx(volume_cm3, rel=2e-3)]
        assert metrics["structure_cropped"].to_list() == [cropped]
        assert content.faults == ()


def test_a_region_that_was_not_found_is_said(course: Course) -> None:
    course.change(ct_cropping={"enabled": True, "region": "brain"})
    content, metrics = course.measured()
    assert content.faults == ("there is no analysis region: figures are of whole structures",)
    assert metrics["structure_cropped"].to_list() == [False, False]


def test_without_a_regular_grid_the_course_goes_on(tmp_path: Path) -> None:
    gap = whole()
    del gap[30]
    course = Course(tmp_path, gap, MADE.uid(10))
    course.give_structures([])
    content, metrics = course.measured()
    assert len(metrics) == 0
    assert content.empty_because.startswith(
        "the images of the planning series lie in no regular grid: the images are not evenly spaced"
    )
    assert [one.cause.value for one in content.not_used] == ["no_images"]

"""The asset `dvh` in Dagster: what it publishes, shows and takes again, and what changes it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml

from mqi_dagster.assets.radiotherapy.dvh import dvh
from mqi_dagster.assets.radiotherapy.organise import course_inventory
from mqi_dagster.courses.grouping import groups
from mqi_dagster.definitions import build_definitions
from mqi_dagster.imaging.dvh_files import CURVES, METRICS, CourseDvh, read_dvh
from mqi_dagster.imaging.structure_files import RegionRecord, StructureRecord
from mqi_dagster.lifecycle.course import keyed_courses, open_index
from mqi_dagster.lifecycle.lineage import DIGEST, latest_record, resolve
from mqi_dagster.partitions import COURSE
from mqi_dagster.resources.site import Site
from tests.courses.made_objects import Made
from tests.imaging.made_course import GRID, dose, drawn, drawn_record, images, mask_of, published, record
from tests.imaging.shapes import sphere

MADE = Made(7, name="Secret^Person", patient_id="SECRET-ID")
PTV = sphere(GRID, 15.0)
GOALS = "name: made\nversion: '1'\ngoals:\n  - {structure: PTV, metric: Dmean, at_most: 41.0, unit: Gy}\n"


class Courses:
    """A site with a tree of DICOM files."""

    def __init__(self, folder: Path, contents: Sequence[bytes]) -> None:
        self.folder = folder
        for content in contents:
            MADE.at((folder / "tree").resolve()).write(content)
        secret = folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text("5a" * 32 + "\n")
        self.instance = dg.DagsterInstance.ephemeral()
        self.settings: dict[str, Any] = {
            "site": {"timezone": "Asia/Seoul"},
            "radiotherapy": {"dicom_root": str((folder / "tree").resolve())},
        }
        self.change()
        with closing(open_index(self.site)) as index:
            index.scan()
            found = [
                key
                for group in groups(index, self.site.pseudonyms.keyed)
                for key in keyed_courses(self.site, group)
            ]
        (self.key,) = found
        self.instance.add_dynamic_partitions(COURSE.name, [self.key])
        self.make(course_inventory)

    def change(self, **radiotherapy: Any) -> None:
        """Open the site with other settings."""
        self.settings["radiotherapy"] |= radiotherapy
        (self.folder / "mqi.yaml").write_text(yaml.safe_dump(self.settings))
        self.site = Site(self.folder / "mqi.yaml")
        self.definitions = build_definitions(self.site)

    def make(self, asset: dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
        """Materialise an asset of the course."""
        return dg.materialize(
            [asset],
            instance=self.instance,
            partition_key=self.key,
            resources=dict(self.definitions.resources or {}),
            raise_on_error=False,
        )

    def give_structures(
        self,
        records: Sequence[StructureRecord],
        digest: str = "a" * 64,
        region: RegionRecord | None = None,
        masks: dict[str, Any] | None = None,
    ) -> None:
        """Publish structures as their asset does."""
        series = self.site.pseudonyms.series(MADE.uid(10))
        store = self.site.store
        with store.stage(self.key, None, "structures") as staging:
            content = published(
                staging, MADE, [one.model_copy(update={"series": series}) for one in records], masks, region
            ).model_copy(update={"planning": series})
            (staging / "structures.json").write_text(content.model_dump_json())
            store.publish(staging, self.key, None, "structures", digest, meta={})
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization("structures", partition=self.key, metadata={DIGEST: digest})
        )

    def measured(self) -> tuple[CourseDvh, pl.DataFrame]:
        """Make the asset, and read what it has published."""
        result = self.make(dvh)
        assert result.success, [event.message for event in result.all_events if event.is_failure]
        folder = resolve(self.instance, self.site.store, "dvh", self.key).folder
        assert (folder / CURVES).is_file()
        return read_dvh(folder), pl.read_parquet(folder / METRICS)

    def metadata(self) -> dict[str, Any]:
        """Of the latest materialisation."""
        found = latest_record(self.instance, "dvh", self.key)
        assert found is not None and found.asset_materialization is not None
        return {name: value.value for name, value in found.asset_materialization.metadata.items()}


def whole(*more: bytes) -> list[bytes]:
    return [
        *images(MADE),
        drawn(MADE, {"PTV": PTV}),
        MADE.plan(dose_gy=40.0, label="$A_plan"),
        dose(MADE, lambda x, y, z: 40 + 0.4 * x),
        *more,
    ]


@pytest.fixture
def courses(tmp_path: Path) -> Courses:
    found = Courses(tmp_path, whole())
    cube = mask_of(lambda x, y, z: (abs(x) < 5) & (abs(y) < 5) & (abs(z) < 6))
    cubes = [record("_cube$", MADE, id="cube")]
    found.give_structures([drawn_record(MADE, 1, "PTV", PTV), *cubes], masks={"cube": cube})
    return found


def test_the_tables_are_published_and_shown(courses: Courses) -> None:
    content, metrics = courses.measured()
    assert metrics["course"].unique().to_list() == [courses.key]
    rows = {row["ROI_Name"]: row for row in metrics.iter_rows(named=True)}
    assert rows["PTV"]["DmeanGy"] == pytest.approx(40.0, rel=5e-4)
    assert rows["PTV"]["Volume (cm³)"] == pytest.approx(14.1372, rel=2e-3)
    assert rows["PTV"]["D95%"] == pytest.approx(100 * (40 - 6 * 0.729299) / 40, rel=2e-3)
    assert rows["_cube$"]["Volume (cm³)"] == pytest.approx(1.2)
    assert rows["_cube$"]["DmeanGy"] == pytest.approx(40.0, rel=5e-4)
    metadata = courses.metadata()
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
    assert "ecret" not in shown and "SECRET" not in shown and str(courses.folder) not in shown


def test_its_checks_are_evaluated_with_it(courses: Courses) -> None:
    result = courses.make(dvh)
    assert {one.check_name for one in result.get_asset_check_evaluations()} == {
        spec.name for spec in dvh.check_specs
    }


def test_what_is_unchanged_is_taken_again_and_what_changes_it_is_measured_anew(courses: Courses) -> None:
    courses.measured()
    first = courses.metadata()[DIGEST]
    courses.measured()
    assert courses.metadata()[DIGEST] == first
    goals = courses.folder / "goals.yaml"
    goals.write_text(GOALS)
    digests = [first]
    for change in ({"dvh": {"curve_step_gy": 1.0}}, {"dvh": {"goals": "goals.yaml"}}):
        courses.change(**change)
        content, _ = courses.measured()
        digests.append(courses.metadata()[DIGEST])
    assert [(one.goal, one.verdict) for one in content.goals] == [("Dmean ≤ 41 Gy", "met")]
    assert courses.metadata()["clinical goals"] == "1 met"
    goals.write_text(GOALS.replace("41.0", "39.0"))
    content, _ = courses.measured()
    assert [one.verdict for one in content.goals] == ["missed"]
    digests.append(courses.metadata()[DIGEST])
    # Where the file lies says nothing.
    goals.rename(courses.folder / "others.yaml")
    courses.change(dvh={"goals": "others.yaml"})
    courses.measured()
    assert courses.metadata()[DIGEST] == digests[-1]
    courses.give_structures([drawn_record(MADE, 1, "PTV", PTV)], digest="b" * 64)
    courses.measured()
    digests.append(courses.metadata()[DIGEST])
    assert len(set(digests)) == 5


def test_switched_off_it_has_tables_without_rows_and_says_so(courses: Courses) -> None:
    courses.change(dvh={"enabled": False})
    content, metrics = courses.measured()
    assert (content.empty_because, len(metrics)) == ("radiotherapy.dvh.enabled is false", 0)
    assert courses.metadata()["not measured"] == "radiotherapy.dvh.enabled is false"


def test_the_analysis_region_is_used_where_the_settings_say_so(courses: Courses) -> None:
    region = RegionRecord(
        name="half", low_mm=(-100, -100, 0), high_mm=(100, 100, 100), from_structures=("PTV",)
    )
    half = [drawn_record(MADE, 1, "PTV", PTV, cut_off_percent=50.0)]
    courses.give_structures(half, digest="c" * 64, region=region)
    for cropping, volume_cm3, cropped in (
        ({"enabled": True, "region": "brain"}, 14.1372 / 2, True),
        ({"enabled": True, "region": "brain", "use_cropped_for_dvh": False}, 14.1372, False),
        ({"enabled": False}, 14.1372, False),
    ):
        courses.change(ct_cropping=cropping)
        content, metrics = courses.measured()
        assert metrics["Volume (cm³)"].to_list() == [pytest.approx(volume_cm3, rel=2e-3)]
        assert metrics["structure_cropped"].to_list() == [cropped]
        assert content.faults == ()


def test_a_region_that_was_not_found_is_said(courses: Courses) -> None:
    courses.change(ct_cropping={"enabled": True, "region": "brain"})
    content, metrics = courses.measured()
    assert content.faults == ("there is no analysis region: figures are of whole structures",)
    assert metrics["structure_cropped"].to_list() == [False, False]


def test_structures_of_another_series_are_refused(courses: Courses) -> None:
    other = replace(MADE, number=8)
    courses.give_structures([drawn_record(other, 1, "PTV", PTV)], digest="d" * 64)
    result = courses.make(dvh)
    failures = [event for event in result.all_events if event.is_step_failure]
    assert "the structures were made of what the course held before" in str(failures[0].event_specific_data)
    assert not result.success


def test_without_a_regular_grid_the_course_goes_on(tmp_path: Path) -> None:
    gap = whole()
    del gap[30]
    courses = Courses(tmp_path, gap)
    courses.give_structures([])
    content, metrics = courses.measured()
    assert len(metrics) == 0
    assert content.empty_because.startswith(
        "the images of the planning series lie in no regular grid: the images are not evenly spaced"
    )
    assert [one.cause.value for one in content.not_used] == ["no_images"]

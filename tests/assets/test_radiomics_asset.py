"""Radiomics of a made course through its asset: values, who is left out, and workers that die."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml

pytest.importorskip("zrad", reason="the imaging extra is not installed")

from mqi_dagster.courses.grouping import group_patient
from mqi_dagster.definitions import build_definitions
from mqi_dagster.imaging.radiomics_files import (
    TABLE,
    CourseRadiomics,
    RegionStatus,
    StructureRadiomics,
    read_radiomics,
)
from mqi_dagster.lifecycle.course import keyed_courses, load_course, open_index
from mqi_dagster.lifecycle.course_results import made_of
from mqi_dagster.lifecycle.lineage import DIGEST, latest_digest
from mqi_dagster.resources.site import Site
from mqi_dagster.store.published import Published
from tests.courses.made_objects import Made
from tests.imaging import radiomics_faults as faults
from tests.imaging.radiomics_course import SHAPE, structures, values, write_profile
from tests.waiting import wait_for

THREE = ("halves", "planes", "numbers")


def ct() -> Iterator[bytes]:
    """The images of a course."""
    made = Made(1)
    yield made.structures(slices=SHAPE[0])
    for plane, pixels in enumerate(values()):
        yield made.image(
            plane,
            Rows=SHAPE[1],
            Columns=SHAPE[2],
            PixelSpacing=[2, 2],
            PixelRepresentation=1,
            PixelPaddingValue=None,
            RescaleSlope=1,
            RescaleIntercept=0,
            RescaleType="HU",
            PatientPosition="HFS",
            PixelData=pixels.astype("<i2").tobytes(),
        )


class Course:
    """A site with one course, its structures made by the test."""

    def __init__(self, folder: Path, *names: str, **radiomics: object) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.settings: dict[str, Any] = {
            "site": {"timezone": "UTC"},
            "radiotherapy": {
                "dicom_root": "dicom",
                "radiomics": {"params_file": "profile.yaml", "workers": 2, **radiomics},
            },
        }
        write_profile(folder / "profile.yaml")
        (folder / "secret").touch(mode=0o600)
        (folder / "secret").write_text("5a" * 32)
        for content in ct():
            Made(1).at(folder / "dicom").write(content)
        self.instance = dg.DagsterInstance.ephemeral()
        self.change()
        self.key = self._organised()
        self.structures(*names)

    def change(self, **radiomics: object) -> None:
        """Change settings of radiomics, and open the site anew."""
        self.settings["radiotherapy"]["radiomics"] |= radiomics
        (self.folder / "mqi.yaml").write_text(yaml.safe_dump(self.settings))
        self.site = Site(self.folder / "mqi.yaml")

    def _organised(self) -> str:
        with closing(open_index(self.site)) as index:
            index.scan(workers=1)
            (patient,) = index.patients()
            group = group_patient(patient, index.objects(patient), self.site.pseudonyms.keyed, None)
            ((key, inventory),) = keyed_courses(self.site, group).items()
        (series,) = inventory.image_series
        self.series = self.site.pseudonyms.series(str(series.series_uid))
        self.instance.add_dynamic_partitions("course", [key])
        self.key = key
        assert self.materialise("course_inventory").success
        return key

    def structures(self, *names: str, digest: str = "made") -> None:
        """Publish structures."""
        with self.site.store.stage(self.key, None, "structures") as staging:
            structures(staging, self.series, *names)
            course = load_course(self.instance, self.site.store, self.site, self.key)
            meta = made_of(course, series=course.analysed)
            self.site.store.publish(staging, self.key, None, "structures", digest, meta=meta)
        made = dg.AssetMaterialization("structures", partition=self.key, metadata={DIGEST: digest})
        self.instance.report_runless_asset_event(made)

    def materialise(self, asset: str = "radiomics") -> dg.ExecuteInProcessResult:
        definitions = build_definitions(self.site)
        (wanted,) = [one for one in definitions.assets or () if dg.AssetKey(asset) in one.keys]
        return dg.materialize(
            [wanted],
            instance=self.instance,
            partition_key=self.key,
            resources=dict(definitions.resources or {}),
            raise_on_error=False,
        )

    def radiomics(self) -> tuple[pl.DataFrame, CourseRadiomics]:
        """Materialise; what was published."""
        assert self.materialise().success
        folder = self.published.folder
        assert sorted(one.name for one in folder.iterdir()) == ["manifest.json", "radiomics.json", TABLE]
        return pl.read_parquet(folder / TABLE), read_radiomics(folder)

    @property
    def published(self) -> Published:
        digest = latest_digest(self.instance, "radiomics", self.key)
        assert digest is not None
        return self.site.store.resolve(self.key, None, "radiomics", digest)


@pytest.fixture(scope="module")
def of_four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Course, pl.DataFrame, CourseRadiomics]:
    """A course with four structures, computed by one worker."""
    course = Course(tmp_path_factory.mktemp("course") / "site", *THREE, "whole", workers=1)
    return course, *course.radiomics()


@pytest.fixture(scope="module")
def undisturbed(
    of_four: tuple[Course, pl.DataFrame, CourseRadiomics],
) -> tuple[Course, pl.DataFrame, CourseRadiomics]:
    """Its three small structures."""
    course, table, content = of_four
    return course, rows(table, "whole"), content


def of(content: CourseRadiomics, structure: str) -> StructureRadiomics:
    return next(one for one in content.regions if one.structure_id == structure)


def rows(table: pl.DataFrame, *but: str) -> pl.DataFrame:
    return table.filter(~pl.col("structure_id").is_in(but))


def test_first_order_values_are_those_of_pencil_and_paper(
    undisturbed: tuple[Course, pl.DataFrame, CourseRadiomics],
) -> None:
    course, table, content = undisturbed
    wanted = {
        # 32 voxels of 0 HU and 32 of 100 HU.
        "halves": {
            "stat_mean": 50, "stat_var": 2500, "stat_skew": 0, "stat_kurt": -2, "stat_median": 50,
            "stat_min": 0, "stat_p10": 0, "stat_p90": 100, "stat_max": 100, "stat_range": 100,
            "stat_mad": 50, "stat_energy": 32 * 100**2, "stat_rms": 5000**0.5,
        },
        # 16 voxels each of 0, 10, 20 and 30 HU.
        "planes": {
            "stat_mean": 15, "stat_var": (2 * 15**2 + 2 * 5**2) / 4, "stat_skew": 0, "stat_median": 15,
            "stat_min": 0, "stat_max": 30, "stat_mad": 10, "stat_energy": 16 * (100 + 400 + 900),
        },
        # Each HU from 1 to 64 once.
        "numbers": {
            "stat_mean": 32.5, "stat_var": (64**2 - 1) / 12, "stat_skew": 0, "stat_median": 32.5,
            "stat_min": 1, "stat_max": 64, "stat_mad": 16, "stat_energy": 64 * 65 * 129 / 6,
        },
    }  # fmt: skip
    assert table["structure_id"].to_list() == list(wanted)
    for row in table.iter_rows(named=True):
        expected = wanted[row["structure_id"]]
        assert {tag: row[tag] for tag in expected} == pytest.approx(expected, abs=1e-6)
        assert row["morph_vol_approx"] == pytest.approx(64 * 12)
        assert (row["status"], row["reason"], row["structure_cropped"]) == ("computed", "", False)
        assert (row["course"], row["modality"], row["series"]) == (course.key, "CT", course.series)
    assert table.row(0, named=True)["roi_name"] == "Lung_L"
    assert table.row(0, named=True)["roi_original_name"] == "left lung"
    assert table["segmentation_source"].to_list() == ["clinical"] * 3
    assert content.versions == {"z-rad": "26.9.0"}
    (series,) = content.series
    assert (series.workers, series.steps, series.profile.discretisation.bin_size) == (1, (), 25)
    assert of(content, "planes").voxels == of(content, "planes").resampled_voxels == 64


@pytest.mark.slow
def test_two_workers_and_one_after_another_give_the_same_bits(
    undisturbed: tuple[Course, pl.DataFrame, CourseRadiomics], tmp_path: Path
) -> None:
    _, table, _ = undisturbed
    course = Course(tmp_path / "site", *THREE, workers=2)
    first, _ = course.radiomics()
    digest = course.published.digest
    course.change(sequential=True, workers=4, thread_limit=2, task_timeout=500, attempts=2)
    assert course.radiomics()[0].equals(first)
    assert course.published.digest == digest
    # Made anew, and not found.
    course.site.store.discard(course.published.folder)
    second, content = course.radiomics()
    assert content.series[0].workers == 1
    for other in (first, second):
        assert other.equals(table, null_equal=True)
        assert [other.write_json()] == [table.write_json()]


def test_one_worker_and_four_give_the_same_bits(
    of_four: tuple[Course, pl.DataFrame, CourseRadiomics], tmp_path: Path
) -> None:
    _, table, _ = of_four
    assert set(table["status"]) == {"computed"} and len(table) == 4
    again, content = Course(tmp_path / "site", *THREE, "whole", workers=4).radiomics()
    assert [(one.workers, one.steps) for one in content.series] == [(4, ())]
    assert [again.write_json()] == [table.write_json()]


def test_a_second_run_computes_nothing_and_another_profile_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = Course(tmp_path / "site", "halves")
    begun = tmp_path / "begun"
    faults.plan(monkeypatch, begun, {})
    table, _ = course.radiomics()
    digest = course.published.digest
    course.radiomics()
    assert (faults.tries(begun), course.published.digest) == ({"halves": 1}, digest)
    write_profile(course.folder / "profile.yaml", resegmentation={"range": [-1000, 50]})
    again, content = course.radiomics()
    assert (faults.tries(begun), course.published.digest == digest) == ({"halves": 2}, False)
    # Only the half of 0 HU is left, but the shape keeps all.
    assert (again["stat_max"][0], again["morph_vol_approx"][0]) == (0, table["morph_vol_approx"][0])
    assert of(content, "halves").resegmented_voxels == 32


def test_what_is_too_small_too_large_or_named_is_left_out_with_the_reason(tmp_path: Path) -> None:
    settings = {"min_voxels": 20, "max_voxels": 3000, "skip_rois": ["Left Lung", "table_TOP", "Planes"]}
    course = Course(tmp_path / "site", "halves", "tiny", "whole", "couch", "planes", **settings)
    table, content = course.radiomics()
    assert dict(table.select("structure_id", "reason").iter_rows()) == {
        "halves": "radiomics.skip_rois names it",
        "tiny": "18 voxels, of at least 20 (radiomics.min_voxels)",
        "whole": "3,840 voxels, of at most 3,000 (radiomics.max_voxels)",
        "couch": "radiomics.skip_rois names it",
        "planes": "radiomics.skip_rois names it",
    }
    assert set(table["status"]) == {"left out"}
    assert table["stat_mean"].to_list() == [None] * 5
    assert content.unfinished == ()
    digest = course.published.digest
    course.change(skip_rois=["left LUNG", "TABLE TOP", "planes", "not there"])
    course.radiomics()
    assert course.published.digest == digest, "who is left out is the same"
    course.change(min_voxels=18)
    assert course.materialise().success
    assert course.published.digest != digest


def test_radiomics_that_are_not_wanted_are_an_empty_table(tmp_path: Path) -> None:
    course = Course(tmp_path / "site", "halves", enabled=False)
    table, content = course.radiomics()
    assert (len(table), content.enabled) == (0, False)
    assert {"course", "roi_name", "structure_cropped", "stat_mean", "cm_joint_max_3D_avg"} <= set(
        table.columns
    )
    made = course.instance.get_latest_materialization_event(dg.AssetKey("radiomics"))
    assert made is not None and made.asset_materialization is not None
    assert made.asset_materialization.metadata["not computed"].value == "radiomics.enabled is false"


def test_a_profile_for_another_modality_is_refused(tmp_path: Path) -> None:
    course = Course(tmp_path / "site", "halves")
    write_profile(course.folder / "profile.yaml", modality="MR")
    (failure,) = [one for one in course.materialise().all_events if one.is_step_failure]
    assert "radiomics.params_file is a profile for MR, not for CT" in str(failure.event_specific_data)


def test_workers_that_die_once_are_repeated_and_change_no_row(
    undisturbed: tuple[Course, pl.DataFrame, CourseRadiomics],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, table, _ = undisturbed
    course = Course(tmp_path / "site", *THREE, workers=3)
    begun = tmp_path / "begun"
    faults.plan(monkeypatch, begun, {"halves": "kill", "planes": "memory", "numbers": "disk"}, once=True)
    found, content = course.radiomics()
    assert found.equals(table)
    assert faults.tries(begun) == {"halves": 2, "planes": 2, "numbers": 2}
    told = {step.split(":")[0]: step.split(": ", 2)[2] for step in content.series[0].steps}
    assert told == {
        "halves": "killed, its process was ended by SIGKILL: again at 1 worker",
        "planes": "memory, MemoryError in tests.imaging.radiomics_faults, line"
        f" {_line('raise MemoryError')}: again at 1 worker",
        "numbers": told["numbers"],
    }
    assert told["numbers"].startswith("disk full, OSError (No space left on device)")
    assert told["numbers"].endswith("again at 3 workers")
    assert content.unfinished == ()


def _line(text: str) -> int:
    lines = Path(faults.__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip() == text)


@pytest.mark.slow
def test_a_task_that_hangs_is_ended_and_repeated(
    undisturbed: tuple[Course, pl.DataFrame, CourseRadiomics],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, table, _ = undisturbed
    course = Course(tmp_path / "site", *THREE, task_timeout=8, attempts=9)
    begun = tmp_path / "begun"
    faults.plan(monkeypatch, begun, {"planes": "hang"}, once=True)
    found, content = course.radiomics()
    assert found.equals(table)
    told = [step for step in content.series[0].steps if step.startswith("planes")]
    assert ": time limit, it ran longer than 8 s: again at 1 worker" in told[0]


def test_a_region_that_fails_for_good_is_a_row_and_is_all_that_the_next_run_computes(
    undisturbed: tuple[Course, pl.DataFrame, CourseRadiomics],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, table, _ = undisturbed
    course = Course(tmp_path / "site", *THREE, attempts=2)
    begun = tmp_path / "begun"
    faults.plan(monkeypatch, begun, {"planes": "exit 137", "halves": "memory"})
    found, content = course.radiomics()
    assert faults.tries(begun) == {"halves": 2, "planes": 2, "numbers": 1}
    assert rows(found, "planes", "halves").equals(rows(table, "planes", "halves"))
    for structure, reason in (
        ("planes", "its process ended with exit code 137, on try 2 at 1 worker"),
        ("halves", f"MemoryError in tests.imaging.radiomics_faults, line {_line('raise MemoryError')},"
         " on try 2 at 1 worker"),
    ):  # fmt: skip
        record, row = (
            of(content, structure),
            found.row(by_predicate=pl.col("structure_id") == structure, named=True),
        )
        assert (record.status, record.reason, record.may_pass) == (RegionStatus.FAILED, reason, True)
        assert (row["status"], row["reason"], row["stat_mean"]) == ("failed", reason, None)
    failed = course.published.digest
    faults.plan(monkeypatch, begun, {})
    found, content = course.radiomics()
    assert faults.tries(begun) == {"halves": 3, "planes": 3, "numbers": 1}
    assert found.equals(table)
    assert content.unfinished == ()
    assert course.published.digest == course.published.meta["whole"] != failed
    course.radiomics()
    assert faults.tries(begun) == {"halves": 3, "planes": 3, "numbers": 1}


def test_texts_that_only_sound_like_memory_are_no_reason_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = Course(tmp_path / "site", *THREE)
    begun = tmp_path / "begun"
    texts = ("zoom factor must be positive", "room", "bloom")
    faults.plan(monkeypatch, begun, {one: f"value: {text}" for one, text in zip(THREE, texts, strict=True)})
    found, content = course.radiomics()
    assert faults.tries(begun) == dict.fromkeys(THREE, 1)
    assert found["status"].to_list() == ["failed"] * 3
    assert all(step.endswith(": failed") for step in content.series[0].steps)
    assert len(content.series[0].steps) == 3
    assert content.unfinished == (), "the same code breaks in the same way"
    # The words of an error may name a patient.
    assert not any(text in (course.published.folder / "radiomics.json").read_text() for text in texts)


def test_a_cancelled_run_leaves_no_process_and_nothing_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = Course(tmp_path / "site", "halves", "planes")
    begun = tmp_path / "begun"
    faults.plan(monkeypatch, begun, {"halves": "hang", "planes": "hang"})

    def cancel() -> None:
        wait_for(lambda: len(faults.pids(begun)) == 2, "both regions are at work")
        os.kill(os.getpid(), signal.SIGINT)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    assert not course.materialise().success
    canceller.join()
    assert not any(Path(f"/proc/{pid}").exists() for pid in faults.pids(begun))
    store = course.site.store.root
    assert list((store / ".staging").iterdir()) == []
    assert not list(store.glob("courses/*/*/radiomics"))

"""Radiomics of several series of a course: the analysis region, another modality, images that are damaged."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytest.importorskip("zrad", reason="the imaging extra is not installed")

from mqi_dagster.errors import ConfigurationError, InputError
from mqi_dagster.imaging.course_radiomics import AnalysedSeries, Effort, course_radiomics
from mqi_dagster.imaging.radiomics_choices import choices
from mqi_dagster.imaging.radiomics_files import TABLE, CourseRadiomics
from mqi_dagster.imaging.radiomics_profile import Modality
from mqi_dagster.imaging.structure_files import CourseStructures, RegionRecord, read_structures
from mqi_dagster.imaging.structure_names import read_structure_names
from mqi_dagster.settings.radiotherapy import Radiomics
from tests.imaging.images import image
from tests.imaging.radiomics_course import structures, values, write_profile

LOWER_HALF = RegionRecord(
    name="lower half",
    low_mm=(-math.inf, -math.inf, -math.inf),
    high_mm=(math.inf, math.inf, 13.5),
    from_structures=("couch",),
)
"""Planes 0 to 4 of 3 mm."""


def files(modality: str, *, without: int | None = None) -> list[bytes]:
    made = []
    for plane, pixels in enumerate(np.maximum(values(), 0)):
        if plane != without:
            target = io.BytesIO()
            image(pixels.astype(int), 3.0 * plane, modality=modality, number=plane).save_as(
                target, enforce_file_format=True
            )
            made.append(target.getvalue())
    return made


def settings(folder: Path) -> Radiomics:
    bins: dict[str, object] = {"resegmentation": {}}
    bins |= {key: {"number_of_bins": 8} for key in ("discretisation", "ivh_discretisation")}
    return Radiomics(
        params_file=write_profile(folder / "ct.yaml"),
        mr_params_file=write_profile(folder / "mr.yaml", modality="MR", **bins),
    )


def computed(
    folder: Path, series: Sequence[AnalysedSeries], content: CourseStructures, workers: int = 1
) -> tuple[pl.DataFrame, CourseRadiomics]:
    chosen = choices(
        settings(folder),
        {one.pseudonym: one.modality for one in series},
        content,
        read_structure_names(),
        cropped=True,
    )
    out = folder / "out"
    out.mkdir()
    made = course_radiomics("R.c01", series, content, folder, chosen, Effort(workers), out)
    assert sorted(one.name for one in out.iterdir()) == ["radiomics.json", TABLE]
    return pl.read_parquet(out / TABLE), made


def test_series_are_computed_each_by_its_own_and_cropped_where_the_region_lies(tmp_path: Path) -> None:
    parts = [
        structures(tmp_path, "CT1", "planes", "couch", "halves", region=LOWER_HALF),
        structures(tmp_path, "MR1", "numbers"),
        structures(tmp_path, "MR2", "tiny"),
        structures(tmp_path, "PET", "whole"),
    ]
    everything = tuple(record for part in parts for record in part.structures)
    content = parts[0].model_copy(update={"structures": everything})
    ct, mr, bad = files("CT"), files("MR"), files("MR", without=5)
    series = [
        AnalysedSeries("CT1", Modality.CT, ct),
        AnalysedSeries("MR1", Modality.MR, mr, in_planning_frame=False),
        AnalysedSeries("MR2", Modality.MR, bad),
    ]
    table, made = computed(tmp_path, series, content)
    rows = {row["structure_id"]: row for row in table.iter_rows(named=True)}
    # Of its planes of 0, 10, 20 and 30 HU the last lies beyond.
    planes = rows["planes"]
    assert (planes["stat_mean"], planes["stat_max"], planes["structure_cropped"]) == (10, 20, True)
    assert planes["morph_vol_approx"] == pytest.approx(48 * 3 * 0.5 * 0.8)
    assert rows["halves"]["structure_cropped"] is True
    assert (rows["couch"]["status"], rows["couch"]["structure_cropped"]) == ("left out", True)
    assert rows["couch"]["reason"] == (
        "0 voxels in the analysis region, of at least 27 (radiomics.min_voxels)"
    )
    numbers = rows["numbers"]
    assert (numbers["modality"], numbers["stat_mean"], numbers["structure_cropped"]) == ("MR", 32.5, False)
    assert rows["tiny"]["status"] == "failed"
    assert "not evenly spaced: 3 mm, but 6 mm behind 12 mm" in rows["tiny"]["reason"]
    assert (rows["whole"]["status"], rows["whole"]["modality"]) == ("left out", None)
    assert rows["whole"]["reason"] == "the series that it is on is none that is analysed"
    assert made.unfinished == (), "the same images are damaged in the same way"
    told = {one.series: (one.cropped, one.remarks, one.profile.modality) for one in made.series}
    other_frame = "not cropped: it lies in another Frame of Reference than the analysis region"
    assert told == {
        "CT1": (True, (), "CT"),
        "MR1": (False, (other_frame,), "MR"),
        "MR2": (True, (), "MR"),
    }


def test_a_series_says_where_it_was_to_be_cropped_and_there_is_no_region(tmp_path: Path) -> None:
    content = structures(tmp_path, "CT1", "tiny")
    assert content.region is None
    _, made = computed(tmp_path, [AnalysedSeries("CT1", Modality.CT, files("CT"))], content)
    assert [(one.cropped, one.remarks) for one in made.series] == [
        (False, ("not cropped: there is no analysis region, and features are of whole structures",))
    ]
    plain, names = settings(tmp_path), read_structure_names()
    whole, asked = (choices(plain, {}, content, names, cropped=cropped) for cropped in (False, True))
    assert whole.for_digest(content) != asked.for_digest(content)


@pytest.mark.slow
def test_what_has_too_little_memory_for_two_is_computed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # z-rad and what it needs take 580 MB of address space before they compute anything.
    monkeypatch.setattr("mqi_dagster.imaging.course_radiomics.available_memory_bytes", lambda: 900_000_000)
    content = structures(tmp_path, "CT1", "numbers", "planes")
    series = [AnalysedSeries("CT1", Modality.CT, files("CT"))]
    table, made = computed(tmp_path, series, content, workers=2)
    assert table["stat_mean"].to_list() == [32.5, 15]
    (told,) = made.series
    assert (told.workers, told.memory_bytes) == (2, 900_000_000)
    assert len(told.steps) == 2
    for step in told.steps:
        assert ": try 1 at 2 workers, 450 MB each: memory, " in step
        assert step.endswith(": again at 1 worker")


def test_images_that_have_changed_are_nobodys_result(tmp_path: Path) -> None:
    def changed() -> Iterator[bytes]:
        yield files("CT")[0]
        raise InputError("a file has changed since the course was organised")

    content = structures(tmp_path, "CT1", "numbers")
    with pytest.raises(InputError, match="has changed"):
        computed(tmp_path, [AnalysedSeries("CT1", Modality.CT, changed())], content)


def test_a_region_without_a_limit_on_a_side_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = structures(tmp_path, "CT1", "planes", region=LOWER_HALF)
    assert read_structures(tmp_path) == written


def test_a_digest_tells_what_changes_a_table_and_nothing_else(tmp_path: Path) -> None:
    content = structures(tmp_path, "CT1", "planes", "halves", region=LOWER_HALF)
    names, plain = read_structure_names(), settings(tmp_path)

    def told(cropped: bool = False, **changes: object) -> object:
        changed = plain.model_copy(update=changes)
        found = choices(changed, {"CT1": Modality.CT}, content, names, cropped=cropped)
        return found.for_digest(content)

    same = {"workers": 7, "thread_limit": 3, "sequential": True, "task_timeout": 1.0, "attempts": 1}
    assert told(**same) == told(skip_rois=("nobody",)) == told(mr_params_file=None) == told()
    other = [told(cropped=True), told(skip_rois=("planes",)), told(min_voxels=5), told(max_voxels=5000)]
    other.append(told(params_file=None))
    assert all(one != told() for one in other)
    with pytest.raises(ConfigurationError, match=r"radiomics.params_file is a profile for MR, not for CT"):
        told(params_file=plain.mr_params_file)

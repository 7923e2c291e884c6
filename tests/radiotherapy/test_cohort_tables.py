"""The tables of all courses: every course stands in them, and each is read once for as long as it stays."""

from __future__ import annotations

import hashlib
from pathlib import Path

import polars as pl
import pytest

from tests.radiotherapy.reported_courses import IDENTITY, ReportedCourses, images, made, whole
from tests.radiotherapy.sheets import read_sheets


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportedCourses, list[str]]:
    """Three courses with reports, and their tables."""
    return reported(tmp_path_factory.mktemp("three"), 3)


def reported(folder: Path, count: int) -> tuple[ReportedCourses, list[str]]:
    """Courses with reports, their tables, and their keys in the order of the patients."""
    courses = ReportedCourses(folder)
    patients = [made(number) for number in range(1, count + 1)]
    for one in patients:
        courses.add(one, whole(one))
    found = courses.scan()
    keys = [found[one.patient_id] for one in patients]
    for number, (one, key) in enumerate(zip(patients, keys, strict=True)):
        assert courses.run("course_inventory", key)
        courses.stages(one, key, mean_gy=57.5 + number)
        assert courses.run("course_report", key)
    assert courses.run("cohort_tables")
    return courses, keys


def table(courses: ReportedCourses, name: str) -> pl.DataFrame:
    return pl.read_parquet(cohort_folder(courses) / f"{name}.parquet")


def cohort_folder(courses: ReportedCourses) -> Path:
    digest = courses.metadata("cohort_tables")["digest"]
    return courses.site.store.resolve("_cohort", None, "cohort_tables", digest).folder


def test_every_course_has_its_rows(three: tuple[ReportedCourses, list[str]]) -> None:
    courses, keys = three
    figures = table(courses, "dvh_metrics").sort("DmeanGy")
    assert figures.select("ROI_Name", "DmeanGy", "Volume (cm³)", "made_by").rows() == [
        *[("=Lung_L", 12.0, 0.576, "rules_ct")] * 3,
        ("PTV", 57.5, 0.432, None), ("PTV", 58.5, 0.432, None), ("PTV", 59.5, 0.432, None),
    ]  # fmt: skip
    assert figures.filter(pl.col("ROI_Name") == "PTV")["course"].to_list() == keys
    assert table(courses, "dvh_metrics")["course"].unique(maintain_order=True).to_list() == sorted(keys)
    features = table(courses, "radiomics").filter(pl.col("course") == keys[1])
    assert features.select("roi_name", "status", "morph_volume").rows() == [
        ("PTV", "computed", 431.5), ("=Lung_L", "left out", None),
    ]  # fmt: skip
    structures = table(courses, "structures").filter(pl.col("course") == keys[2])
    shown = structures.select("name", "source", "made_by", "volume_cm3", "voxels", "centre_z_mm", "faults")
    assert shown.rows() == [
        ("External", "automatic", "rules_ct", 10.4, 3456, 7.5, None),
        ("PTV", "clinical", None, 0.432, 144, 7.5, None),
        ("Heart", "clinical", None, 0.0, 0, None, None),
        ("=Lung_L", "automatic", "somebody", 0.576, 192, 7.5, "ends early"),
    ]
    checks = table(courses, "qc_reports").filter(pl.col("course") == keys[0])
    ran = checks.filter((pl.col("asset") == "custom_segmentation") & (pl.col("check") == "models_ran"))
    assert ran.select("verdict", "text").rows() == [
        ("WARNING", "not evaluated: custom_segmentation has not been made")
    ]


def test_a_course_is_one_row_with_what_it_consists_of(three: tuple[ReportedCourses, list[str]]) -> None:
    courses, keys = three
    (row,) = table(courses, "courses").filter(pl.col("course") == keys[0]).rows(named=True)
    verdict = courses.metadata("course_report", keys[0])["verdict"]
    findings = row.pop("findings")
    assert isinstance(findings, int)
    assert row == {
        "course": keys[0],
        "state": "complete",
        "reason": None,
        "in_tables": True,
        "verdict": verdict,
        "series": courses.planning(made(1)),
        "series_because": "the structure set of its plan names it",
        "modality": "CT",
        "images": 6,
        "plans": 1,
        "doses": 1,
        "structure_sets": 1,
        "structures": 4,
        "total_doses": 1,
        "dose_rules": "single_dose (1 used)",
        "prescription": "60 Gy in 30 fractions",
        "prescription_gy": 60.0,
        "fractions_planned": 30,
        "files_not_used": 0,
        "not_made": "custom_segmentation has not been made",
    }


def test_the_workbook_holds_the_same_as_texts_and_numbers(three: tuple[ReportedCourses, list[str]]) -> None:
    courses, keys = three
    sheets = read_sheets(cohort_folder(courses) / "cohort.xlsx")
    assert list(sheets) == [
        "contents", "courses", "dvh_metrics", "radiomics", "structures", "qc_reports", "columns",
    ]  # fmt: skip
    front = sheets["contents"].rows
    assert list(front[1].values()) == ["courses", 3.0, 21.0, "courses", "nothing"]
    assert [row["B"] for row in front[1:5]] == [3.0, 6.0, 6.0, 12.0]
    figures = sheets["dvh_metrics"]
    names = {str(name): letters for letters, name in figures.rows[0].items()}
    assert len(figures.rows) == 7 and figures.frozen_rows == 1
    rows = [(row[names["course"]], row[names["ROI_Name"]], row[names["DmeanGy"]]) for row in figures.rows[1:]]
    assert ("PTV", 58.5) in [row[1:] for row in rows]
    # A structure whose name begins with "=" is no formula, and nothing else is.
    assert ("=Lung_L", 12.0) in [row[1:] for row in rows]
    assert [sheet.formulas for sheet in sheets.values()] == [0] * 7
    assert {row[0] for row in rows} == set(keys)
    assert all(len(sheet.widths) > 0 and min(sheet.widths) >= 9 for sheet in sheets.values())


def test_every_column_is_described_with_its_unit(three: tuple[ReportedCourses, list[str]]) -> None:
    courses, _ = three
    described = table(courses, "columns")
    for name in ("courses", "dvh_metrics", "radiomics", "structures", "qc_reports"):
        own = described.filter(pl.col("table") == name)
        assert own["name"].to_list() == table(courses, name).columns
        assert not own.filter(pl.col("meaning").is_in(["", "not described"])).height
    rows = {(row[0], row[1]): row[2:] for row in described.rows()}
    assert rows["dvh_metrics", "V20Gy (cm³)"] == ("cm³", "volume that gets at least 20 Gy")
    assert rows["dvh_metrics", "D95Gy"] == ("Gy", "dose that 95 % of the volume gets at least")
    assert rows["radiomics", "morph_volume"][0] == "mm3"
    assert "RNU0" in rows["radiomics", "morph_volume"][1]
    assert rows["structures", "volume_cm3"][0] == "cm³"


def test_nothing_names_a_patient(three: tuple[ReportedCourses, list[str]]) -> None:
    courses, _ = three
    for path in cohort_folder(courses).iterdir():
        texts = [path.read_bytes().decode("latin-1")]
        if path.suffix == ".parquet":
            texts.append(pl.read_parquet(path).write_csv())
        if path.suffix == ".xlsx":
            texts.append(str(read_sheets(path)))
        for text in texts:
            assert not [one for one in IDENTITY if one in text], path.name
    texts = [str(courses.metadata("cohort_tables"))]
    assert not [one for one in IDENTITY if one in texts[0]]


def test_unchanged_courses_are_not_read_again_and_a_changed_one_is(tmp_path: Path) -> None:
    courses, keys = reported(tmp_path, 3)
    first = courses.metadata("cohort_tables")
    assert (first["courses read"], first["courses"], first["rows of dvh_metrics"]) == (3, 3, 6)
    assert courses.run("cohort_tables")
    again = courses.metadata("cohort_tables")
    assert (again["digest"], again["courses read"]) == (first["digest"], 0)

    courses.stages(made(2), keys[1], version="2", mean_gy=70.0)
    assert courses.run("course_report", keys[1])
    # What the other courses have made is not needed for it.
    for key in (keys[0], keys[2]):
        for asset in ("dvh", "radiomics", "structures", "course_report"):
            courses.result(asset, key).folder.rename(tmp_path / f"{key}.{asset}")
    assert courses.run("cohort_tables")
    third = courses.metadata("cohort_tables")
    assert third["courses read"] == 1 and third["digest"] != first["digest"]
    means = table(courses, "dvh_metrics").filter(pl.col("ROI_Name") == "PTV").sort("DmeanGy")["DmeanGy"]
    assert means.to_list() == [57.5, 59.5, 70.0]


def test_the_same_courses_give_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    folders = [cohort_folder(reported(tmp_path / name, 1)[0]) for name in ("one", "two")]
    digests = [
        {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.iterdir()
            if path.name != "manifest.json"
        }
        for folder in folders
    ]
    assert digests[0] == digests[1]
    assert sorted(digests[0]) == [
        "cohort.xlsx", "columns.parquet", "courses.parquet", "dvh_metrics.parquet", "qc_reports.parquet",
        "radiomics.parquet", "structures.parquet",
    ]  # fmt: skip


def test_a_course_that_failed_stands_among_the_others(tmp_path: Path) -> None:
    courses, keys = reported(tmp_path, 1)
    broken, waiting = made(8), made(9)
    courses.add(broken, whole(broken))
    courses.add(waiting, [*images(waiting), waiting.plan()])
    found = courses.scan()
    assert courses.run("course_inventory", found[broken.patient_id])
    # A result that is damaged stops the report.
    courses.stages(broken, found[broken.patient_id])
    record = courses.result("structures", found[broken.patient_id]).path("structures.json")
    record.write_bytes(b"{}")
    assert not courses.run("course_report", found[broken.patient_id])
    courses.instance.add_dynamic_partitions("course", ["something else"])
    assert courses.run("cohort_tables")
    rows = {row["course"]: row for row in table(courses, "courses").rows(named=True)}
    assert set(rows) == {keys[0], found[broken.patient_id], found[waiting.patient_id]}
    failed = rows[found[broken.patient_id]]
    assert (failed["state"], failed["in_tables"], failed["verdict"]) == ("failed", False, None)
    assert "differs from its manifest" in failed["reason"]
    assert rows[found[waiting.patient_id]]["state"] == "waiting"
    assert rows[keys[0]]["state"] == "complete"
    assert table(courses, "dvh_metrics")["course"].unique().to_list() == keys
    told = courses.metadata("cohort_tables")
    assert (told["courses"], told["courses in the tables"]) == (3, 1)
    assert told["states"] == "1 complete, 1 failed, 1 waiting"
    assert told["partitions that are no courses"] == 1


def test_a_report_on_earlier_files_gives_no_rows(tmp_path: Path) -> None:
    courses, keys = reported(tmp_path, 1)
    courses.add(made(1), [made(1).plan(2, label="second")])
    courses.scan()
    assert courses.run("course_inventory", keys[0])
    assert courses.run("cohort_tables")
    (row,) = table(courses, "courses").rows(named=True)
    assert (row["state"], row["in_tables"]) == ("waiting", False)
    assert table(courses, "dvh_metrics").height == 0
    assert "DmeanGy" in table(courses, "dvh_metrics").columns


def test_rows_are_of_the_results_that_the_report_was_made_of(tmp_path: Path) -> None:
    courses, keys = reported(tmp_path, 1)
    courses.stages(made(1), keys[0], version="2", mean_gy=99.0)
    assert courses.run("cohort_tables")
    assert table(courses, "dvh_metrics")["DmeanGy"].to_list() == [57.5, 12.0]


def test_a_site_without_courses_has_empty_tables(tmp_path: Path) -> None:
    courses = ReportedCourses(tmp_path)
    assert courses.run("cohort_tables")
    assert table(courses, "courses").height == 0
    assert courses.metadata("cohort_tables")["states"] == "none"

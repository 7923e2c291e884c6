"""What people have typed into DICOM objects and names the patient stands in no result, record or log."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from mqi_dagster.assets.radiotherapy.cohort import cohort_tables
from mqi_dagster.assets.radiotherapy.dvh import dvh
from mqi_dagster.assets.radiotherapy.radiomics import radiomics
from mqi_dagster.assets.radiotherapy.report import course_report
from mqi_dagster.assets.radiotherapy.segmentation import auto_segmentation, custom_segmentation
from mqi_dagster.assets.radiotherapy.structures import structures
from mqi_dagster.lifecycle.lineage import resolve
from tests.assets.course_site import Course
from tests.courses.made_objects import Made, items
from tests.imaging.made_course import GRID, PIXELS, PLANES, dose, drawn, drawn_record
from tests.imaging.shapes import sphere

MADE = Made(7, name="Zweigelt^Quirin", patient_id="KX-48151623", birth_date="19531124")
NAMED = ("zweigelt", "quirin", "48151623", "19531124")
"""In small letters."""
BY_DESIGN = ("RS.dcm", "SEG.dcm", "inventory.json")


def typed(content: str) -> dict[str, Any]:
    """Texts of a header that people type."""
    return {"StudyDescription": f"Zweigelt {content}", "SeriesDescription": f"{content} KX-48151623"}


def files() -> list[bytes]:
    x, y, z = GRID.origin_mm
    images = [
        MADE.image(
            plane,
            ImagePositionPatient=[x, y, z + 2.0 * plane], Rows=PIXELS, Columns=PIXELS, RescaleIntercept=-1000,
            PixelData=(1000).to_bytes(2, "little") * PIXELS**2, **typed("CT"),
        )
        for plane in range(PLANES)
    ]  # fmt: skip
    rois = {"PTV": sphere(GRID, 15.0), "GTV Zweigelt": sphere(GRID, 8.0), "KX48151623": sphere(GRID, 6.0)}
    types = items([{"ReferencedROINumber": n, "RTROIInterpretedType": "GTV"} for n in (2, 3)])
    plans = [
        MADE.plan(dose_gy=40.0, label="Quirin Zweigelt", RTPlanName="Plan of 24.11.1953", **typed("plan")),
        MADE.plan(2, dose_gy=20.0, label="Prostate", RTPlanName="KX-48151623", **typed("plan")),
        MADE.plan(3, dose_gy=10.0, label="Lungs", **typed("plan")),
    ]
    doses = [
        dose(MADE, lambda x, y, z: 40 + 0.1 * x, n, plans=[n], DoseComment="Zweigelt", **typed("dose"))
        for n in (1, 2, 3)
    ]
    observed = {"RTROIObservationsSequence": types}
    structure_set = drawn(MADE, rois, StructureSetLabel="ZWEIGELT_Q", **observed, **typed("set"))
    return [*images, structure_set, *plans, *doses]


def texts_of(path: Path) -> str:
    """What a file holds, unpacked."""
    content = path.read_bytes()
    if path.suffix == ".parquet":
        return str(pl.read_parquet(io.BytesIO(content)).to_dicts())
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    return content.decode("latin-1")


def naming(text: str) -> list[str]:
    return [one for one in NAMED if one in text.lower()]


def test_no_typed_text_names_the_patient(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    course = Course(tmp_path, files(), MADE.uid(10))
    for asset in (auto_segmentation, custom_segmentation, structures, dvh, radiomics, course_report):
        assert course.make(asset).success, asset.key
    resources = dict(course.definitions.resources or {})
    assert dg.materialize([cohort_tables], instance=course.instance, resources=resources).success

    labels = pl.read_parquet(
        resolve(course.instance, course.site.store, "dvh", course.key).path("dvh_metrics.parquet")
    )
    # The plan without a word of the patient keeps its label; the others are called by their place.
    assert set(labels["dose_label"]) == {"plan 1", "plan 2", "Lungs"}
    assert set(labels["rtstruct_label"].drop_nulls()) == {"structure set 1"}
    drawn_names = labels.filter(pl.col("Segmentation_Source") == "clinical")["ROI_OriginalName"]
    assert set(drawn_names) == {"PTV", "ROI 2", "ROI 3"}

    tree, state = tmp_path / "tree", tmp_path / "state"
    kept = [one for one in tmp_path.rglob("*") if one.is_file() and not one.is_relative_to(tree)]
    index = [one for one in kept if one.is_relative_to(state) and "dicom_index" in one.name]
    assert len(index) >= 1 and len(kept) > 20
    found = {
        str(one.relative_to(tmp_path)): named
        for one in kept
        if one not in index and one.name not in BY_DESIGN
        if (named := naming(texts_of(one) + str(one.relative_to(tmp_path))))
    }
    assert found == {}
    runs = course.instance.get_run_ids()
    events = [str(entry) for run in runs for entry in course.instance.all_logs(run)]
    assert len(runs) == 8 and len(events) > 100
    assert naming("".join(events)) == []
    captured = capfd.readouterr()
    assert "ASSET_MATERIALIZATION" in captured.err
    assert naming(captured.out + captured.err) == []


def test_a_label_is_not_shown_where_nothing_is_known_of_the_patient(tmp_path: Path) -> None:
    # An ID of one character and a name of one are too short to be looked for.
    made = Made(8, name="Q", patient_id="7", birth_date="")
    files = [made.image(), made.image(1), drawn(made, {"PTV": sphere(GRID, 8.0)}), made.plan(label="Q 7")]
    course = Course(tmp_path, [*files, dose(made, lambda x, y, z: 40.0 + x)], made.uid(10))
    course.give_structures([drawn_record(made, 1, "PTV", sphere(GRID, 8.0))])
    content, _ = course.measured()
    assert [one.label for one in content.doses] == ["plan 1"]

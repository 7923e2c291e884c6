"""The dose-volume tables of a course: literal figures, and a reason wherever there is none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mqi_dagster.courses.dose_rules import DoseDecision, DoseRule
from mqi_dagster.dose.grid import DoseUnits, from_patient, from_phantom
from mqi_dagster.dose.rt_dose import write_rt_dose
from mqi_dagster.imaging.clinical_goals import Protocol
from mqi_dagster.imaging.course_dvh import DvhRequest, make_dvh, write_empty
from mqi_dagster.imaging.dvh_files import CURVES, METRICS, CourseDvh, read_dvh
from mqi_dagster.imaging.structure_files import RegionRecord, StructureRecord
from mqi_dagster.imaging.total_doses import total_doses
from mqi_dagster.settings import DoseType
from tests.courses.made_objects import Made, items
from tests.dose.dose_cases import request as dose_request
from tests.imaging.made_course import (
    GRID,
    PSEUDONYMS,
    course_grid,
    dose,
    drawn,
    drawn_record,
    images,
    mask_of,
    on_disk,
    published,
    record,
)
from tests.imaging.shapes import Floats, heights, rectangle, sphere

MADE = Made(1)
PTV = sphere(GRID, 15.0)
SPHERE_CM3 = 14.1372


def cube(low: Sequence[float], high: Sequence[float]) -> list[Floats]:
    """A box whose ends lie half-way between planes."""
    return [rectangle(low[:2], high[:2], z) for z in heights(GRID) if low[2] < z < high[2]]


def made(
    folder: Path,
    *objects: bytes,
    rois: dict[str, list[Floats]] | None = None,
    records: Sequence[StructureRecord] = (),
    masks: dict[str, Any] | None = None,
    region: RegionRecord | None = None,
    protocol: Protocol | None = None,
) -> tuple[CourseDvh, pl.DataFrame, pl.DataFrame]:
    """The record and both tables of a course of these doses and plans; a PTV where no contours are given."""
    rois = {"PTV": PTV} if rois is None else rois
    course = on_disk(folder, MADE, [*images(MADE)[:3], drawn(MADE, rois), *objects])
    drawn_records = [drawn_record(MADE, n, name, of) for n, (name, of) in enumerate(rois.items(), start=1)]
    known = {one.id: one for one in [*drawn_records, *records]}
    structures = published(folder / "structures", MADE, list(known.values()), masks, region)
    (folder / "out").mkdir()
    request = DvhRequest(
        course="RAAAAAAAAA.c01",
        inventory=course.inventory,
        structures=structures,
        structures_folder=folder / "structures",
        grid=course_grid(MADE),
        no_grid_because="",
        content=course.content,
        dose_id=PSEUDONYMS.dose,
        step_gy=0.5,
        region=region,
        protocol=protocol,
    )
    content = make_dvh(request, folder / "out")
    assert read_dvh(folder / "out") == content
    tables = (pl.read_parquet(folder / "out" / name) for name in (METRICS, CURVES))
    return (content, *tables)  # type: ignore[return-value]


def only(metrics: pl.DataFrame, **columns: str) -> dict[str, Any]:
    """The one row with these values."""
    (row,) = metrics.filter(**columns).iter_rows(named=True)
    return row


def test_a_sphere_and_a_box_in_a_linear_dose(tmp_path: Path) -> None:
    box = mask_of(lambda x, y, z: (abs(x - 10) < 5) & (abs(y) < 10) & (abs(z) < 10))
    content, metrics, curves = made(
        tmp_path,
        MADE.plan(dose_gy=30.0),
        dose(MADE, lambda x, y, z: 30 + 0.4 * x),
        records=[record("box", MADE)],
        masks={"box": box},
    )
    ptv = only(metrics, ROI_Name="PTV")
    expected = {
        "Volume (cm³)": SPHERE_CM3, "DmeanGy": 30.0, "D95Gy": 25.6242, "D2Gy": 34.9916, "D50Gy": 30.0,
        "Dmean%": 100.0, "D95%": 85.414, "prescription_gy": 30.0, "dose_coverage_percent": 100.0,
        "IntegralDose_Gycm3": 30 * SPHERE_CM3, "V30Gy (cm³)": SPHERE_CM3 / 2, "V30Gy (%)": 50.0,
        # 28.5 Gy is reached above -3.75 mm: (2 + 3 * 0.25 - 0.25³) / 4 of the sphere.
        "V95%Rx (%)": 68.359, "dose_resolution_columns_mm": 3.0,
    }  # fmt: skip
    assert {name: ptv[name] for name in expected} == pytest.approx(expected, rel=2e-3)
    assert ptv["DmeanGy"] == pytest.approx(30.0, rel=5e-4)
    labels = {
        "course": "RAAAAAAAAA.c01", "dose_label": "plan", "dose_rule": "single_dose", "dose_type": "PHYSICAL",
        "ROI_Number": 1, "ROI_OriginalName": "PTV", "Segmentation_Source": "clinical", "made_by": "drawn",
        "rtstruct_label": "drawn", "structure_cropped": False, "cropped_by": None,
        "rx_source": "Target Prescription Dose of the plan", "dose_metric_status": "measured",
        "dose_metric_reason": None, "dose_id": PSEUDONYMS.dose(MADE.uid(40, 1)),
    }  # fmt: skip
    assert {name: ptv[name] for name in labels} == labels
    # 10 by 20 by 20 mm of voxels around x = 10.
    voxels = only(metrics, ROI_Name="box")
    assert voxels["Volume (cm³)"] == pytest.approx(4.0, rel=1e-9)
    assert voxels["DmeanGy"] == pytest.approx(34.0, rel=5e-4)
    assert voxels["D95Gy"] == pytest.approx(32.2, rel=2e-3)
    assert voxels["ROI_Number"] is None
    assert [(one.name, one.status) for one in content.figures] == [("PTV", "measured"), ("box", "measured")]
    (used,) = content.doses
    assert used.maximum_gy == pytest.approx(30 + 0.4 * 41.7, abs=1e-5)
    assert (used.spacing_mm, used.frame_of_reference_fits, used.summed) == ((3.0, 3.0, 3.0), True, False)
    of_ptv = curves.filter(structure_id="clinical-1")
    assert of_ptv["dose_gy"].to_list()[:3] == [0.0, 0.5, 1.0]
    assert of_ptv["volume_percent"][0] == pytest.approx(100.0)
    half = of_ptv.filter(pl.col("dose_gy") == 30.0)
    assert half["volume_percent"].item() == pytest.approx(50.0, abs=0.2)
    assert half["volume_cm3"].item() == pytest.approx(SPHERE_CM3 / 2, rel=2e-3)
    assert of_ptv["volume_percent"][-1] == 0.0


def test_every_column_that_users_of_the_original_know_is_there(tmp_path: Path) -> None:
    _, metrics, curves = made(tmp_path, MADE.plan(), dose(MADE, lambda x, y, z: 20.0 + 0 * x))
    of_doses = ("Dmean", "Dmax", "Dmin", "D95", "D98", "D2", "D50", "Spread", "D1cc", "D0.1cc")
    known = {
        "ROI_Number", "ROI_Name", "ROI_OriginalName", "Segmentation_Source", "structure_cropped",
        "rtstruct_label", "HI", "HI%", "Volume (cm³)", "IntegralDose_Gycm3", "rx_source",
        "dose_resolution_columns_mm", "dose_resolution_rows_mm", "dose_resolution_frames_mm",
        *(f"{name}{unit}" for name in of_doses for unit in ("Gy", "%")),
        *(f"V{level}%Rx ({unit})" for level in (95, 100) for unit in ("cm³", "%")),
        *(f"V{level}Gy ({unit})" for level in range(1, 61) for unit in ("cm³", "%")),
    }  # fmt: skip
    assert known <= set(metrics.columns)
    assert metrics.schema["ROI_Number"] == pl.Int64
    assert metrics.schema["structure_cropped"] == pl.Boolean
    assert {metrics.schema[name] for name in known if name.startswith(("D", "V", "H"))} == {pl.Float64}
    assert curves.columns == ["dose_id", "structure_id", "dose_gy", "volume_cm3", "volume_percent"]


def test_a_boost_is_summed_by_its_rule_and_its_prescriptions_as_well(tmp_path: Path) -> None:
    content, metrics, _ = made(
        tmp_path,
        MADE.plan(dose_gy=50.0),
        MADE.plan(2, dose_gy=10.0, label="Boost", related=("PRIOR", 1)),
        dose(MADE, lambda x, y, z: 50 + 0.2 * y),
        dose(MADE, lambda x, y, z: 10 - 0.2 * y, 2, plans=[2], low_mm=-40.0, spacing_mm=2.5, count=33),
    )
    (used,) = content.doses
    assert (used.rule, used.summed, used.label) == ("primary_boost_summed", True, "plan + Boost")
    assert (used.prescription_gy, used.prescription_source) == (
        60.0, "sum of the Target Prescription Doses of 2 plans",
    )  # fmt: skip
    assert used.spacing_mm == (2.5, 2.5, 2.5)
    row = only(metrics, ROI_Name="PTV")
    figures = [row[name] for name in ("DmeanGy", "DminGy", "DmaxGy", "D95%", "V100%Rx (%)")]
    assert figures == pytest.approx([60.0, 60.0, 60.0, 100.0, 100.0], rel=1e-5)
    assert row["dose_id"] == PSEUDONYMS.dose(MADE.uid(40, 1), MADE.uid(40, 2))


def test_plans_that_say_nothing_of_each_other_are_not_summed(tmp_path: Path) -> None:
    content, metrics, _ = made(
        tmp_path,
        MADE.plan(dose_gy=40.0, label="A"),
        MADE.plan(2, dose_gy=20.0, fractions=10, label="B"),
        dose(MADE, lambda x, y, z: 40 + 0 * x),
        dose(MADE, lambda x, y, z: 20 + 0 * x, 2, plans=[2]),
        protocol=protocol("PTV", "Dmean", at_least=10.0, unit="Gy"),
    )
    found = [(one.label, one.rule.value, one.summed, one.prescription_gy) for one in content.doses]
    assert found == [("A", "ambiguous_no_sum", False, 40.0), ("B", "ambiguous_no_sum", False, 20.0)]
    assert metrics.select("dose_label", "DmeanGy").rows() == [
        ("A", pytest.approx(40.0)), ("B", pytest.approx(20.0)),
    ]  # fmt: skip
    # Of a part of the treatment nothing is met.
    assert [(one.verdict, one.text) for one in content.goals] == [
        ("not judged", "no rule says what the total dose of the course is")
    ] * 2


def test_a_physical_and_an_effective_dose_stay_two(tmp_path: Path) -> None:
    content, metrics, _ = made(
        tmp_path,
        MADE.plan(dose_gy=50.0),
        MADE.plan(2, dose_gy=10.0, label="boost", related=("PRIOR", 1)),
        dose(MADE, lambda x, y, z: 50 + 0 * x),
        dose(MADE, lambda x, y, z: 10 + 0 * x, 2, plans=[2], DoseType="EFFECTIVE"),
    )
    assert [one.dose_type for one in content.doses] == ["PHYSICAL", "EFFECTIVE"]
    assert metrics["DmeanGy"].to_list() == pytest.approx([50.0, 10.0])
    assert metrics["dose_rule"].unique().to_list() == ["ambiguous_no_sum"]


def test_one_dose_of_unknown_type_is_measured_and_its_type_is_left_open(tmp_path: Path) -> None:
    content, metrics, _ = made(tmp_path, MADE.plan(), dose(MADE, lambda x, y, z: 20 + 0 * x, DoseType=None))
    assert [one.dose_type for one in content.doses] == [None]
    assert metrics.select("dose_type", "DmeanGy").rows() == [(None, pytest.approx(20.0))]


def test_doses_of_plans_with_one_label_are_told_apart(tmp_path: Path) -> None:
    content, _, _ = made(
        tmp_path,
        MADE.plan(dose_gy=40.0, label="A"),
        MADE.plan(2, dose_gy=20.0, fractions=10, label="A"),
        dose(MADE, lambda x, y, z: 40 + 0 * x),
        dose(MADE, lambda x, y, z: 20 + 0 * x, 2, plans=[2]),
    )
    assert [one.label for one in content.doses] == [
        f"A ({PSEUDONYMS.dose(MADE.uid(40, number))})" for number in (1, 2)
    ]


def test_a_structure_set_that_cannot_be_read_fails_its_structures_alone(tmp_path: Path) -> None:
    course = on_disk(
        tmp_path,
        MADE,
        [*images(MADE)[:3], drawn(MADE, {"PTV": PTV}), MADE.plan(), dose(MADE, lambda x, y, z: 40 + 0 * x)],
    )
    box = mask_of(lambda x, y, z: (abs(x) < 5) & (abs(y) < 5) & (abs(z) < 5))
    records = [drawn_record(MADE, 1, "PTV", PTV), record("box", MADE)]
    structures = published(tmp_path / "structures", MADE, records, {"box": box})
    (tmp_path / "out").mkdir()

    def content_of(uid: str) -> bytes:
        return b"no structure set" * 20 if uid == MADE.uid(20, 1) else course.content(uid)

    content = make_dvh(
        DvhRequest(
            "RAAAAAAAAA.c01", course.inventory, structures, tmp_path / "structures", course_grid(MADE), "",
            content_of, PSEUDONYMS.dose, 0.5,
        ),
        tmp_path / "out",
    )  # fmt: skip
    assert [(one.name, one.status, one.reason) for one in content.figures] == [
        ("PTV", "failed", "the structure set is not a DICOM file"), ("box", "measured", ""),
    ]  # fmt: skip


def boosted(**changes: object) -> list[bytes]:
    """Two doses that a rule sums."""
    return [
        MADE.plan(dose_gy=50.0),
        MADE.plan(2, dose_gy=10.0, label="boost", related=("PRIOR", 1)),
        dose(MADE, lambda x, y, z: 50 + 0 * x, **changes),
        dose(MADE, lambda x, y, z: 10 + 0 * x, 2, plans=[2], **changes),
    ]


def test_doses_of_unknown_type_are_not_summed(tmp_path: Path) -> None:
    content, metrics, curves = made(tmp_path, *boosted(DoseType=None))
    assert [(one.dose_uid, one.cause.value, one.reason) for one in content.not_used] == [
        (MADE.uid(40, n), "dose_type", "a rule sums it with others, and none states its DoseType")
        for n in (1, 2)
    ]
    assert (content.doses, len(metrics), len(curves)) == ((), 0, 0)
    assert content.empty_because == "no dose of the course can be used"


def test_a_rule_that_would_sum_different_types_is_not_followed(tmp_path: Path) -> None:
    first, second, *_ = boosted()
    types = [
        dose(MADE, lambda x, y, z: 50 + 0 * x),
        dose(MADE, lambda x, y, z: 10 + 0 * x, 2, plans=[2], DoseType="EFFECTIVE"),
    ]
    course = on_disk(tmp_path, MADE, [*images(MADE)[:3], first, second, *types]).inventory
    uids = (MADE.uid(40, 1), MADE.uid(40, 2))
    summing = DoseDecision(rule=DoseRule.BOOST, summed=uids, facts={})
    totals, not_used = total_doses(course.model_copy(update={"dose_decisions": (summing,)}))
    assert totals == []
    assert [(one.dose_uid, one.cause.value, one.reason) for one in not_used] == [
        (uid, "dose_type", "a rule sums doses of different DoseType: EFFECTIVE, PHYSICAL") for uid in uids
    ]


def test_one_beams_dose_has_no_prescription_where_all_of_them_are_there_and_not_summed(
    tmp_path: Path,
) -> None:
    beams = [dose(MADE, lambda x, y, z: 30 + 0 * x, n, plans=[1], summation="BEAM", beam=n) for n in (1, 2)]
    other = [MADE.plan(2, dose_gy=20.0), dose(MADE, lambda x, y, z: 20 + 0 * x, 3, plans=[2])]
    content, _, _ = made(tmp_path, MADE.plan(ion=True), *beams, *other)
    assert [(one.rule.value, one.prescription_gy) for one in content.doses] == [
        ("ambiguous_no_sum", None), ("ambiguous_no_sum", None), ("ambiguous_no_sum", 20.0),
    ]  # fmt: skip


def test_a_sum_of_which_one_part_is_damaged_is_not_made(tmp_path: Path) -> None:
    *rest, _whole = boosted()
    short = dose(MADE, lambda x, y, z: 10 + 0 * x, 2, plans=[2], PixelData=bytes(8))
    content, metrics, _ = made(tmp_path, *rest, short)
    reason = "PixelData: holds 8 bytes instead of 97556"
    assert [(one.cause.value, one.reason) for one in content.not_used] == [("not_summed", reason)] * 2
    assert len(metrics) == 0


@pytest.mark.parametrize(
    ("changes", "cause", "reason"),
    [
        ({"DoseUnits": "RELATIVE"}, "units", "DoseUnits is RELATIVE, not GY"),
        ({"DoseUnits": None}, "units", "DoseUnits is not stated, not GY"),
        ({"DoseType": "ERROR"}, "dose_type", "DoseType is ERROR, neither PHYSICAL nor EFFECTIVE"),
        ({"PixelData": bytes(97556)}, "unreadable", "the dose is zero everywhere"),
        ({"PixelSpacing": [3, 0]}, "unreadable", "PixelSpacing: is not positive"),
    ],
)
def test_a_dose_that_is_none_of_a_patient_in_gray_gives_no_figures(
    tmp_path: Path, changes: dict[str, object], cause: str, reason: str
) -> None:
    content, metrics, _ = made(tmp_path, MADE.plan(), dose(MADE, lambda x, y, z: 20 + 0 * x, **changes))
    assert [(one.cause.value, one.reason) for one in content.not_used] == [(cause, reason)]
    assert (content.doses, len(metrics)) == ((), 0)


def test_one_dose_that_cannot_be_read_leaves_the_other(tmp_path: Path) -> None:
    content, metrics, _ = made(
        tmp_path,
        MADE.plan(dose_gy=40.0, label="A"),
        MADE.plan(2, dose_gy=20.0, fractions=10, label="B"),
        dose(MADE, lambda x, y, z: 40 + 0 * x, PixelData=bytes(8)),
        dose(MADE, lambda x, y, z: 20 + 0 * x, 2, plans=[2]),
    )
    assert [one.dose_uid for one in content.not_used] == [MADE.uid(40, 1)]
    assert metrics.select("dose_label", "DmeanGy").rows() == [("B", pytest.approx(20.0))]


def test_doses_that_a_rule_leaves_out_are_listed_with_the_reason(tmp_path: Path) -> None:
    content, _, _ = made(
        tmp_path,
        MADE.plan(label="A"),
        MADE.plan(2, label="A", related=("PREDECESSOR", 1)),
        MADE.plan(3, label="C", ApprovalStatus="REJECTED"),
        *(dose(MADE, lambda x, y, z: 40 + 0 * x, n, plans=[n]) for n in (1, 2, 3)),
        dose(MADE, lambda x, y, z: 20 + 0 * x, 4, plans=[1], summation="BEAM", beam=1),
    )
    assert [one.dose_uids for one in content.doses] == [(MADE.uid(40, 1),)]
    assert {one.dose_uid: one.reason for one in content.not_used} == {
        MADE.uid(40, 2): "its plan stands in place of another one, whose dose is used",
        MADE.uid(40, 3): "its plan was rejected",
        MADE.uid(40, 4): "it is a part of its plan's own dose, which is used",
    }
    assert {one.cause.value for one in content.not_used} == {"rule"}


def test_a_sum_that_holds_a_rejected_plan_is_not_measured(tmp_path: Path) -> None:
    content, metrics, _ = made(
        tmp_path,
        MADE.plan(dose_gy=40.0, label="A"),
        MADE.plan(2, dose_gy=20.0, label="B", ApprovalStatus="REJECTED"),
        *(dose(MADE, lambda x, y, z: 40 + 0 * x, n, plans=[n]) for n in (1, 2)),
        dose(MADE, lambda x, y, z: 60 + 0 * x, 3, plans=[1, 2], summation="MULTI_PLAN"),
    )
    assert [(one.label, one.rule.value, one.prescription_gy) for one in content.doses] == [
        ("A", "ambiguous_no_sum", 40.0)
    ]
    assert {one.dose_uid: one.reason for one in content.not_used} == {
        MADE.uid(40, 2): "its plan was rejected",
        MADE.uid(40, 3): "it holds the dose of a rejected plan",
    }
    assert metrics["DmeanGy"].to_list() == pytest.approx([40.0])


@pytest.mark.parametrize(
    ("plans", "intent", "source"),
    [
        ([1], None, "the dose is of several plans and names one of them"),
        ([1, 2], "VERIFICATION", "a plan of the dose is not for treatment"),
    ],
)
def test_a_sum_of_which_nobody_knows_what_is_in_it_has_no_prescription(
    tmp_path: Path, plans: list[int], intent: str | None, source: str
) -> None:
    content, _, _ = made(
        tmp_path,
        MADE.plan(dose_gy=40.0),
        MADE.plan(2, dose_gy=20.0, PlanIntent=intent),
        dose(MADE, lambda x, y, z: 60 + 0 * x, 3, plans=plans, summation="MULTI_PLAN"),
    )
    (used,) = content.doses
    assert (used.rule, used.prescription_gy, used.prescription_source) == ("ambiguous_no_sum", None, source)


def test_a_dose_in_another_frame_of_reference_gives_no_figures(tmp_path: Path) -> None:
    moved = dose(MADE, lambda x, y, z: 40 + 0 * x, FrameOfReferenceUID=MADE.uid(8))
    content, metrics, curves = made(tmp_path, MADE.plan(), moved)
    assert [one.frame_of_reference_fits for one in content.doses] == [False]
    row = only(metrics, ROI_Name="PTV")
    assert row["dose_metric_status"] == "other_frame_of_reference"
    assert row["dose_metric_reason"] == "the dose is in another Frame of Reference than the images"
    assert row["Volume (cm³)"] == pytest.approx(SPHERE_CM3, rel=2e-3)
    assert (row["DmeanGy"], row["V20Gy (cm³)"], len(curves)) == (None, None, 0)
    assert [one.status for one in content.figures] == ["other_frame_of_reference"]


def test_a_structure_half_outside_of_the_dose_has_no_figure(tmp_path: Path) -> None:
    # The last of 14 columns is centred at -3.3 mm and reaches to -1.8 mm.
    half = dose(MADE, lambda x, y, z: 40 + 0 * x, columns=14)
    rois = {"PTV": PTV, "right": sphere(GRID, 10.0, (-20, 0, 0)), "left": sphere(GRID, 10.0, (20, 0, 0))}
    content, metrics, curves = made(tmp_path, MADE.plan(), half, rois=rois)
    found = {one.name: (one.status, one.coverage_percent, one.reason) for one in content.figures}
    # (2 − 3h + h³) / 4 of a sphere with h = 1.8 / 15.
    assert found == {
        "PTV": (
            "partly_outside_dose_grid", pytest.approx(41.04, abs=0.3),
            "a part of it lies outside of the dose grid",
        ),
        "right": ("measured", pytest.approx(100.0), ""),
        "left": ("outside_dose_grid", 0.0, "it lies outside of the dose grid"),
    }  # fmt: skip
    assert metrics["DmeanGy"].to_list() == [None, pytest.approx(40.0), None]
    assert curves["structure_id"].unique().to_list() == ["clinical-2"]


def test_without_a_prescription_nothing_is_in_percent_of_it(tmp_path: Path) -> None:
    _, metrics, _ = made(tmp_path, MADE.plan(dose_gy=None), dose(MADE, lambda x, y, z: 40 + 0 * x))
    row = only(metrics, ROI_Name="PTV")
    assert (row["prescription_gy"], row["rx_source"]) == (None, "the plan states no Target Prescription Dose")
    assert [row[name] for name in ("Dmean%", "D95%", "V95%Rx (%)", "V100%Rx (cm³)", "HI%")] == [None] * 5
    assert row["DmeanGy"] == pytest.approx(40.0)


def target(dose_gy: float | None) -> dict[str, object]:
    stated = {} if dose_gy is None else {"TargetPrescriptionDose": dose_gy}
    return {"DoseReferenceNumber": 1, "DoseReferenceType": "TARGET", **stated}


@pytest.mark.parametrize(
    ("doses_gy", "prescription_gy", "source"),
    [
        ([50.0, 60.0, None], 60.0, "highest of 2 Target Prescription Doses of the plan"),
        ([0.0], None, "the plan states no Target Prescription Dose"),
    ],
)
def test_of_several_targets_the_highest_is_prescribed(
    tmp_path: Path, doses_gy: list[float | None], prescription_gy: float | None, source: str
) -> None:
    plan = MADE.plan(DoseReferenceSequence=items([target(one) for one in doses_gy]))
    content, _, _ = made(tmp_path, plan, dose(MADE, lambda x, y, z: 40 + 0 * x))
    (used,) = content.doses
    assert (used.prescription_gy, used.prescription_source) == (prescription_gy, source)


def test_a_sum_of_which_one_plan_prescribes_nothing_has_no_prescription(tmp_path: Path) -> None:
    plans = [MADE.plan(dose_gy=50.0), MADE.plan(2, dose_gy=None, label="boost", related=("PRIOR", 1))]
    content, _, _ = made(tmp_path, *plans, *boosted()[2:])
    (used,) = content.doses
    assert (used.summed, used.prescription_gy) == (True, None)
    assert used.prescription_source == "one of the plans states no Target Prescription Dose"


def test_a_sum_that_holds_a_replan_has_no_prescription(tmp_path: Path) -> None:
    plans = [MADE.plan(dose_gy=50.0), MADE.plan(2, dose_gy=50.0, related=("PREDECESSOR", 1))]
    total = dose(MADE, lambda x, y, z: 48 + 0 * x, 3, plans=[1, 2], summation="MULTI_PLAN")
    content, metrics, _ = made(tmp_path, *plans, total)
    (used,) = content.doses
    assert (used.prescription_gy, used.prescription_source) == (
        None, "a plan of the dose stands in place of another one of it",
    )  # fmt: skip
    row = only(metrics, ROI_Name="PTV")
    assert row["DmeanGy"] == pytest.approx(48.0)
    assert row["D95%"] is None


@pytest.mark.parametrize(
    ("beams", "prescription_gy", "source"),
    [
        ([1], None, "the dose is not that of a whole plan (DoseSummationType BEAM)"),
        ([1, 2], 60.0, "Target Prescription Dose of the plan"),
    ],
)
def test_the_dose_of_one_beam_is_not_held_against_the_plans_prescription(
    tmp_path: Path, beams: list[int], prescription_gy: float | None, source: str
) -> None:
    of_beams = [dose(MADE, lambda x, y, z: 30 + 0 * x, n, plans=[1], summation="BEAM", beam=n) for n in beams]
    content, metrics, _ = made(tmp_path, MADE.plan(ion=True), *of_beams)
    (used,) = content.doses
    assert (used.prescription_gy, used.prescription_source) == (prescription_gy, source)
    assert used.label == ("plan, beam 1" if len(beams) == 1 else "plan, 2 doses")
    assert only(metrics, ROI_Name="PTV")["DmeanGy"] == pytest.approx(30.0 * len(beams))


def test_what_lies_outside_of_the_analysis_region_counts_for_nothing(tmp_path: Path) -> None:
    region = RegionRecord(
        name="head", low_mm=(-np.inf, -np.inf, -5.25), high_mm=(np.inf, np.inf, 7.75), from_structures=("x",)
    )
    rois = {"box": cube((-10, -10, -20), (10, 10, 20)), "inside": cube((-5, -5, -4), (5, 5, 4)),
            "above": cube((-5, -5, 20), (5, 5, 30))}  # fmt: skip
    cut = {"box": 67.5, "inside": 0.0, "above": 100.0}
    records = [
        drawn_record(MADE, n, name, polygons, cut_off_percent=cut[name])
        for n, (name, polygons) in enumerate(rois.items(), start=1)
    ]
    mask = mask_of(lambda x, y, z: (abs(x) < 10) & (abs(y) < 10) & (abs(z) < 20))
    content, metrics, _ = made(
        tmp_path,
        MADE.plan(),
        dose(MADE, lambda x, y, z: 40 + 0.5 * z),
        rois=rois,
        records=[*records, record("voxels", MADE, cut_off_percent=67.5)],
        masks={"voxels": mask},
        region=region,
        protocol=protocol("box", "Dmean", at_most=50.0, unit="Gy"),
    )
    for name, source in (("box", "clinical"), ("voxels", "automatic")):
        row = only(metrics, ROI_Name=name, Segmentation_Source=source)
        # 20 by 20 by 13 mm of 40 mm, whose middle is at z = 1.25.
        assert row["Volume (cm³)"] == pytest.approx(5.2, rel=1e-3)
        assert row["DmeanGy"] == pytest.approx(40.625, rel=1e-3)
        assert row["DmaxGy"] == pytest.approx(40 + 0.5 * 7.75, abs=0.15)
        assert (row["structure_cropped"], row["cropped_by"]) == (True, "analysis region")
    inside = only(metrics, ROI_Name="inside")
    assert (inside["structure_cropped"], inside["Volume (cm³)"]) == (False, pytest.approx(0.8, rel=5e-3))
    above = only(metrics, ROI_Name="above")
    assert (above["dose_metric_status"], above["dose_metric_reason"]) == (
        "empty", "it lies outside of the analysis region",
    )  # fmt: skip
    assert [one.text for one in content.goals] == ["the analysis region cuts the structure"]


def test_a_structure_that_ends_with_the_images_is_said_to_be_cut(tmp_path: Path) -> None:
    records = [drawn_record(MADE, 1, "PTV", PTV, touches_first_or_last_plane=True)]
    _, metrics, _ = made(tmp_path, MADE.plan(), dose(MADE, lambda x, y, z: 40 + 0 * x), records=records)
    row = only(metrics, ROI_Name="PTV")
    assert (row["structure_cropped"], row["cropped_by"]) == (True, "end of the images")


@pytest.mark.parametrize("ends", [{"touches_first_or_last_plane": True}, {"touches_image_edge": True}])
def test_goals_relative_to_a_volume_that_ends_with_the_images_are_not_judged(
    tmp_path: Path, ends: dict[str, bool]
) -> None:
    wanted = [
        ("Dmean", "Gy"), ("D95%", "%"), ("V20Gy", "%"), ("V95%", "%"),
        ("V20Gy", "cm³"), ("D1cc", "Gy"), ("Dmax", "Gy"), ("Dmin", "%"),
    ]  # fmt: skip
    goals = [{"structure": "PTV", "metric": metric, "at_least": 1.0, "unit": unit} for metric, unit in wanted]
    content, _, _ = made(
        tmp_path,
        MADE.plan(dose_gy=40.0),
        dose(MADE, lambda x, y, z: 40 + 0 * x),
        records=[drawn_record(MADE, 1, "PTV", PTV, **ends)],
        protocol=Protocol.model_validate({"name": "made", "version": "1", "goals": goals}),
    )
    cut = "the end of the images cuts the structure: its whole volume is not known"
    assert [(one.goal, one.verdict) for one in content.goals if one.text == cut] == [
        ("Dmean ≥ 1 Gy", "not judged"), ("D95% ≥ 1 %", "not judged"),
        ("V20Gy ≥ 1 %", "not judged"), ("V95% ≥ 1 %", "not judged"),
    ]  # fmt: skip
    assert [(one.goal, one.verdict, one.text) for one in content.goals if one.text != cut] == [
        ("V20Gy ≥ 1 cm³", "met", "14.14 cm³ of the part within the images"),
        ("D1cc ≥ 1 Gy", "met", "40 Gy of the part within the images"),
        ("Dmax ≥ 1 Gy", "met", "40 Gy of the part within the images"),
        ("Dmin ≥ 1 %", "met", "100 % of the part within the images"),
    ]


def test_one_structure_that_fails_leaves_the_others(tmp_path: Path) -> None:
    tilted = [np.array([[0, 0, 0], [10, 0, 0], [10, 10, 5], [0, 10, 5]], float)]
    records = [
        drawn_record(MADE, 2, "tilted", [], volume_cm3=1.0),
        drawn_record(MADE, 9, "gone", [], volume_cm3=1.0),
        drawn_record(MADE, 8, "nothing", [], faults=("no contour encloses anything",)),
        record("elsewhere", MADE, series="SAAAAAAAAA"),
    ]
    rois = {"PTV": PTV}
    course_rois = {"PTV": PTV, "tilted": tilted}
    course = on_disk(
        tmp_path,
        MADE,
        [*images(MADE)[:3], drawn(MADE, course_rois), MADE.plan(), dose(MADE, lambda x, y, z: 40 + 0 * x)],
    )
    structures = published(
        tmp_path / "structures", MADE, [drawn_record(MADE, 1, "PTV", rois["PTV"]), *records]
    )
    (tmp_path / "out").mkdir()
    content = make_dvh(
        DvhRequest(
            "RAAAAAAAAA.c01", course.inventory, structures, tmp_path / "structures", course_grid(MADE), "",
            course.content, PSEUDONYMS.dose, 0.5,
        ),
        tmp_path / "out",
    )  # fmt: skip
    assert [(one.name, one.status, one.reason) for one in content.figures] == [
        ("PTV", "measured", ""),
        ("tilted", "failed", "contour 1 does not lie in a plane parallel to the images"),
        ("gone", "failed", "the structure set does not have this region"),
        ("nothing", "empty", "no contour encloses anything"),
    ]


def protocol(structure: str, metric: str, **limit: object) -> Protocol:
    goal = {"structure": structure, "metric": metric, **limit}
    return Protocol.model_validate({"name": "made", "version": "1", "goals": (goal,)})


def test_goals_are_judged_by_the_structure_that_they_name(tmp_path: Path) -> None:
    goals = [
        {"structure": "PTV", "metric": "D95%", "at_least": 95.0, "unit": "%"},
        {"structure": "PTV", "metric": "Dmax", "at_most": 41.0, "unit": "Gy"},
        {"structure": "cord_original", "metric": "D0.1cc", "at_most": 45.0, "unit": "Gy"},
        {"structure": "twice", "metric": "Dmean", "at_most": 45.0, "unit": "Gy"},
        {"structure": "nowhere", "metric": "Dmean", "at_most": 45.0, "unit": "Gy"},
    ]
    cord = mask_of(lambda x, y, z: (abs(x) < 3) & (abs(y) < 3) & (abs(z) < 20))
    content, _, _ = made(
        tmp_path,
        MADE.plan(dose_gy=40.0),
        dose(MADE, lambda x, y, z: 40 + 0.2 * x),
        records=[
            record("SpinalCord", MADE, original_name="cord_original"),
            # What was drawn is meant, where both are there.
            record("PTV", MADE, id="auto-PTV"),
            *(record("twice", MADE, id=f"twice-{n}") for n in (1, 2)),
        ],
        masks={"SpinalCord": cord, "auto-PTV": cord, "twice-1": cord, "twice-2": cord},
        protocol=Protocol.model_validate({"name": "made", "version": "1", "goals": goals}),
    )
    assert [(one.structure, one.goal, one.verdict) for one in content.goals] == [
        ("PTV", "D95% ≥ 95 %", "missed"),
        ("PTV", "Dmax ≤ 41 Gy", "missed"),
        ("cord_original", "D0.1cc ≤ 45 Gy", "met"),
        ("twice", "Dmean ≤ 45 Gy", "not judged"),
        ("nowhere", "Dmean ≤ 45 Gy", "not judged"),
    ]
    d95, dmax, hottest, twice, nowhere = content.goals
    # 40 - 0.2 * 15 * 0.7293 = 37.81 Gy.
    assert (d95.value, d95.text) == (pytest.approx(94.53, abs=0.05), "94.53 %")
    assert dmax.value == pytest.approx(43.0, abs=0.1)
    assert hottest.value == pytest.approx(40.5, abs=0.1)
    assert twice.text == "more than one structure has this name"
    assert nowhere.text.startswith("there is no such structure (nearest names: ")
    assert {"PTV", "twice", "SpinalCord", "cord_original"} <= set(re.split("[ ,)]+", nowhere.text))


@pytest.mark.parametrize("in_the_patient", [True, False])
def test_a_dose_of_our_own_writer_is_measured_in_the_patient_and_not_in_a_phantom(
    tmp_path: Path, in_the_patient: bool
) -> None:
    group = {
        "FractionGroupNumber": 1,
        "NumberOfFractionsPlanned": 30,
        "ReferencedBeamSequence": items([{"ReferencedBeamNumber": 1}, {"ReferencedBeamNumber": 2}]),
    }
    plan = MADE.plan(ion=True, FractionGroupSequence=items([group]))
    (tmp_path / "plan.dcm").write_bytes(plan)
    z, _, _ = np.meshgrid(np.arange(30), np.arange(40), np.arange(40), indexing="ij")
    of_a_case = from_patient if in_the_patient else from_phantom
    grid = of_a_case(2 + 0.05 * z, (-39, -39, -43.5), (2, 2, 3), DoseUnits.GY)
    request = dose_request(tmp_path / "plan.dcm", beam_number=2, dose_type=DoseType.EFFECTIVE, rbe=1.1)
    write_rt_dose(tmp_path / "dose.dcm", grid, request)
    content, metrics, _ = made(tmp_path, plan, (tmp_path / "dose.dcm").read_bytes())
    (used,) = content.doses
    assert (used.dose_type, used.frame_of_reference_fits) == ("EFFECTIVE", in_the_patient)
    row = only(metrics, ROI_Name="PTV")
    if in_the_patient:
        # 1.1 times the dose in the middle of the frames, 14.5 of which lie below z = 0.
        assert row["DmeanGy"] == pytest.approx(1.1 * (2 + 0.05 * 14.5), rel=5e-4)
        assert row["dose_label"] == "plan, beam 2"
    else:
        assert (row["DmeanGy"], row["dose_metric_status"]) == (None, "other_frame_of_reference")


def test_a_course_without_a_dose_has_tables_without_a_row(tmp_path: Path) -> None:
    content, metrics, curves = made(tmp_path, MADE.plan())
    assert content.empty_because == "the course has no dose"
    assert (len(metrics), len(curves)) == (0, 0)
    assert {"DmeanGy", "ROI_Name"} <= set(metrics.columns)


def test_empty_tables_have_the_same_columns(tmp_path: Path) -> None:
    content = write_empty("switched off", tmp_path)
    assert read_dvh(tmp_path) == content
    assert content.empty_because == "switched off"
    metrics = pl.read_parquet(tmp_path / METRICS)
    assert (len(metrics), metrics.schema["V60Gy (%)"], metrics.schema["course"]) == (0, pl.Float64, pl.String)

"""The rows that one course brings into the tables of all courses, and what each of their columns is.

Labels that people have typed into DICOM objects may name the patient, and stand in none of them; names of
structures do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mqi_dagster.courses.chosen_series import chosen_series
from mqi_dagster.courses.inventory import CourseInventory
from mqi_dagster.files import whole_file
from mqi_dagster.imaging.course_page_tables import rules_of, shown_prescription
from mqi_dagster.imaging.course_results import CourseResults
from mqi_dagster.imaging.dvh_files import CourseDvh
from mqi_dagster.imaging.dvh_table import (
    COVERAGE_COLUMN,
    DECIMALS,
    DOSE_COLUMNS,
    LABEL_COLUMNS,
    REASON_COLUMN,
    STATUS_COLUMN,
    STATUS_MEANING,
    VOLUME_COLUMN,
)
from mqi_dagster.imaging.quality_control import QcReport
from mqi_dagster.imaging.radiomics_profile import columns as radiomics_columns
from mqi_dagster.imaging.structure_files import StructureRecord, StructureSource

COURSES, DVH_METRICS, RADIOMICS = "courses", "dvh_metrics", "radiomics"
STRUCTURES, QC_REPORTS = "structures", "qc_reports"
TABLES = (COURSES, DVH_METRICS, RADIOMICS, STRUCTURES, QC_REPORTS)

_TYPED = ("dose_label", "rtstruct_label")
"""Columns of the dose-volume table that hold what people have typed."""
_MADE_BY = "name of the model, or file of definitions; none of a drawing"


@dataclass(frozen=True, slots=True)
class TableColumn:
    """One column of a table of all courses."""

    name: str
    kind: type[pl.DataType]
    unit: str
    meaning: str


COURSE_STATE = (
    TableColumn("course", pl.String, "", "key of the course"),
    TableColumn("state", pl.String, "", "where it stands: complete, failed, in work or waiting"),
    TableColumn("reason", pl.String, "", "why it has failed or waits"),
    TableColumn(
        "in_tables",
        pl.Boolean,
        "",
        "whether the other tables have rows of it",
    ),
)
COURSE_FACTS = (
    TableColumn("verdict", pl.String, "", "PASS, WARNING or FAIL, the worst of its checks"),
    TableColumn("series", pl.String, "", "pseudonym of the planning series"),
    TableColumn("series_because", pl.String, "", "why it is this one"),
    TableColumn("modality", pl.String, "", "of the planning series"),
    TableColumn("images", pl.Int64, "", "of the planning series"),
    TableColumn("plans", pl.Int64, "", "number of plans"),
    TableColumn("doses", pl.Int64, "", "number of RT Doses"),
    TableColumn("structure_sets", pl.Int64, "", "number of structure sets"),
    TableColumn("structures", pl.Int64, "", "number of structures; none where they were not made"),
    TableColumn("total_doses", pl.Int64, "", "number of total doses that figures were taken of"),
    TableColumn("dose_rules", pl.String, "", "rules by which they were chosen, and of how many doses"),
    TableColumn("prescription", pl.String, "", "what each plan prescribes"),
    TableColumn(
        "prescription_gy", pl.Float64, "Gy", "prescribed dose of the total dose; none where there are several"
    ),
    TableColumn("fractions_planned", pl.Int64, "", "of its plan; none where there are several"),
    TableColumn("findings", pl.Int64, "", "what does not fit in its files"),
    TableColumn("files_not_used", pl.Int64, "", "objects that belong here and are not used"),
    TableColumn("not_made", pl.String, "", "stages that have no result, and why"),
)
STRUCTURE_COLUMNS = (
    TableColumn("course", pl.String, "", "key of the course"),
    TableColumn("series", pl.String, "", "pseudonym of the series on whose grid it is"),
    TableColumn("structure_id", pl.String, "", "of the structure within its course"),
    TableColumn("name", pl.String, "", "name by TG-263 where there is one"),
    TableColumn("original_name", pl.String, "", "name as it was written"),
    TableColumn("naming", pl.String, "", "how the name was found: standard, mapped, ambiguous or unknown"),
    TableColumn("source", pl.String, "", "clinical, automatic, custom_model or derived"),
    TableColumn("made_by", pl.String, "", _MADE_BY),
    TableColumn("interpreted_type", pl.String, "", "RT ROI Interpreted Type (3006,00A4)"),
    TableColumn("volume_cm3", pl.Float64, "cm³", "of contours by their geometry, else of voxels"),
    TableColumn("voxels", pl.Int64, "", "voxels of its mask"),
    TableColumn("centre_x_mm", pl.Float64, "mm", "DICOM x of its centre"),
    TableColumn("centre_y_mm", pl.Float64, "mm", "DICOM y of its centre"),
    TableColumn("centre_z_mm", pl.Float64, "mm", "DICOM z of its centre"),
    TableColumn("touches_first_or_last_plane", pl.Boolean, "", "whether it reaches the first or last image"),
    TableColumn("touches_image_edge", pl.Boolean, "", "whether it reaches the edge of the images"),
    TableColumn("outside_image_cm3", pl.Float64, "cm³", "volume outside of the images"),
    TableColumn("gaps", pl.Int64, "", "places in which contours are missing"),
    TableColumn("cut_off_percent", pl.Float64, "%", "of its volume beyond the analysis region"),
    TableColumn("faults", pl.String, "", "what of it could not be taken, and why"),
)
QC_COLUMNS = (
    TableColumn("course", pl.String, "", "key of the course"),
    TableColumn("overall_status", pl.String, "", "the worst verdict of its checks"),
    TableColumn("asset", pl.String, "", "what the check is of"),
    TableColumn("check", pl.String, "", "name of the check"),
    TableColumn("verdict", pl.String, "", "PASS, WARNING or FAIL"),
    TableColumn("text", pl.String, "", "what was found"),
    TableColumn("advice", pl.String, "", "what to do"),
)
_DVH_COLUMNS = (
    *(
        TableColumn(one.name, one.kind, one.unit, _MADE_BY if one.name == "made_by" else one.meaning)
        for one in LABEL_COLUMNS
        if one.name not in _TYPED
    ),
    TableColumn(VOLUME_COLUMN, pl.Float64, "cm³", "volume of the structure"),
    TableColumn(STATUS_COLUMN, pl.String, "", STATUS_MEANING),
    TableColumn(REASON_COLUMN, pl.String, "", "why there are no doses"),
    TableColumn(COVERAGE_COLUMN, pl.Float64, "%", "share of the volume that lies within the dose grid"),
    *(TableColumn(one.name, pl.Float64, one.unit, one.formula) for one in DOSE_COLUMNS),
)
_RADIOMICS_LABELS = (
    TableColumn("course", pl.String, "", "key of the course"),
    TableColumn("modality", pl.String, "", "of the series"),
    TableColumn("series", pl.String, "", "pseudonym of the series"),
    TableColumn("structure_id", pl.String, "", "of the structure within its course"),
    TableColumn("segmentation_source", pl.String, "", "clinical, automatic, custom_model or derived"),
    TableColumn("roi_name", pl.String, "", "name by TG-263 where there is one"),
    TableColumn("roi_original_name", pl.String, "", "name as it was written"),
    TableColumn("structure_cropped", pl.Boolean, "", "whether a part lies beyond the analysis region"),
    TableColumn("status", pl.String, "", "whether it has features"),
    TableColumn("reason", pl.String, "", "why it has none"),
)


def described_columns() -> dict[str, tuple[TableColumn, ...]]:
    """Every column that a table may have, by table."""
    features = tuple(
        TableColumn(
            one.tag,
            pl.Float64,
            one.unit,
            f"{one.name} ({one.family}), IBSI {one.identifier}"
            + (f"; in pyradiomics {one.pyradiomics}" if one.pyradiomics and not one.difference else ""),
        )
        for one in radiomics_columns()
    )
    return {
        COURSES: (*COURSE_STATE, *COURSE_FACTS),
        DVH_METRICS: _DVH_COLUMNS,
        RADIOMICS: (*_RADIOMICS_LABELS, *features),
        STRUCTURES: STRUCTURE_COLUMNS,
        QC_REPORTS: QC_COLUMNS,
    }


def schema_of(columns: Sequence[TableColumn]) -> dict[str, type[pl.DataType]]:
    """Kinds of columns by name."""
    return {one.name: one.kind for one in columns}


def write_course_tables(
    course: str,
    inventory: CourseInventory,
    planning: str | None,
    results: CourseResults,
    quality: QcReport,
    folder: Path,
) -> None:
    """Write what one course brings into each table, a Parquet file a table; none of what has no rows.

    Args:
        course: Its key.
        inventory: As its report has it.
        planning: Pseudonym of its planning series.
        results: Those that its report was made of.
        quality: Its quality report.
        folder: Where they are written.

    Raises:
        StoreError: A result is damaged.
        OSError: The disk is full, or fails.
    """
    facts = _facts(inventory, planning, results, quality)
    courses = {"course": pl.String} | schema_of(COURSE_FACTS)
    tables = {
        COURSES: pl.DataFrame([{"course": course, **facts}], schema=courses),
        DVH_METRICS: _without_labels(results.dose_metrics),
        RADIOMICS: results.features,
        STRUCTURES: _structures(course, results),
        QC_REPORTS: _checks(course, quality),
    }
    for name, table in tables.items():
        if table is not None and table.height:
            with whole_file(folder / f"{name}.parquet") as stream:
                table.write_parquet(stream)


def _facts(
    inventory: CourseInventory, planning: str | None, results: CourseResults, quality: QcReport
) -> Mapping[str, object]:
    chosen, dvh = chosen_series(inventory), results.dvh
    series = chosen.planning
    plans = [one.found for one in inventory.plans]
    prescribed = [shown_prescription(one) for one in inventory.prescriptions]
    return {
        "verdict": quality.overall_status.value,
        "series": planning,
        "series_because": chosen.reason,
        "modality": None if series is None else series.modality,
        "images": None if series is None else len(series.images),
        "plans": len(plans),
        "doses": len(inventory.doses),
        "structure_sets": len(inventory.structure_sets),
        "structures": None if results.structures is None else len(results.structures.structures),
        "total_doses": None if dvh is None else len(dvh.doses),
        "dose_rules": rules_of(inventory) or None,
        "prescription": "; ".join(prescribed) or None,
        "prescription_gy": _prescription(dvh),
        "fractions_planned": plans[0].fractions_planned if len(plans) == 1 else None,
        "findings": len(inventory.findings),
        "files_not_used": len(inventory.set_aside),
        "not_made": "; ".join(f"{asset} {why}" for asset, why in results.missing.items()) or None,
    }


def _prescription(dvh: CourseDvh | None) -> float | None:
    return dvh.doses[0].prescription_gy if dvh is not None and len(dvh.doses) == 1 else None


def _without_labels(metrics: pl.DataFrame | None) -> pl.DataFrame | None:
    if metrics is None:
        return None
    drawn = pl.col("Segmentation_Source") == StructureSource.CLINICAL.value
    made_by = pl.when(drawn).then(None).otherwise(pl.col("made_by")).alias("made_by")
    return metrics.with_columns(made_by).drop(_TYPED)


def _structures(course: str, results: CourseResults) -> pl.DataFrame | None:
    if results.structures is None:
        return None
    rows = [_structure(course, one) for one in results.structures.structures]
    return pl.DataFrame(rows, schema=schema_of(STRUCTURE_COLUMNS), orient="row")


def _structure(course: str, one: StructureRecord) -> tuple[object, ...]:
    return (
        course,
        one.series,
        one.id,
        one.name,
        one.original_name,
        one.naming.value,
        one.source.value,
        None if one.source is StructureSource.CLINICAL else one.made_by,
        one.interpreted_type or None,
        round(one.volume_cm3, DECIMALS),
        one.voxels,
        *(one.centre_mm or (None, None, None)),
        one.touches_first_or_last_plane,
        one.touches_image_edge,
        one.outside_image_cm3,
        len(one.gaps),
        one.cut_off_percent,
        "; ".join(one.faults) or None,
    )


def _checks(course: str, quality: QcReport) -> pl.DataFrame:
    status = quality.overall_status.value
    rows = [
        (course, status, one.asset, one.name, one.verdict.value, one.text, one.advice)
        for one in quality.checks
    ]
    return pl.DataFrame(rows, schema=schema_of(QC_COLUMNS), orient="row")

"""The columns of the dose-volume table: name, unit and formula of each, and the row of a structure.

The names are those that users of rtpipeline have in their scripts; D and V as in ICRU 83. UIDs stand in
``dvh.json`` beside the table, which may be handed on: its rows have pseudonyms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import polars as pl

from mqi_dagster.imaging.dvh import Dvh

LEAST_COVERED = 0.999
"""Share of a structure that has to lie within the dose grid: of less no figure is known."""
HIGHEST_LEVEL_GY = 60
DECIMALS = 6
"""Of every figure in a table, in its unit: further digits are those of binary fractions alone."""
LEAST_MEDIAN = 0.1
"""Median dose over the prescribed dose, or where there is none over D2%: below it a structure has no HI."""

Number = float | None
Value = Callable[[Dvh, Number], Number]
"""Of a column, by the figures and the prescribed dose [Gy]; None where it is not defined."""


class DoseMetricStatus(StrEnum):
    """Whether the dose figures of a structure could be measured."""

    MEASURED = "measured"
    PARTLY_OUTSIDE = "partly_outside_dose_grid"
    """Part of the structure gets a dose that nobody knows: no figure is given."""
    OUTSIDE = "outside_dose_grid"
    EMPTY = "empty"
    """The structure has no volume."""
    OTHER_FRAME = "other_frame_of_reference"
    """Where the dose lies in the images is not known."""
    FAILED = "failed"
    """The structure cannot be measured."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of numbers."""

    name: str
    unit: str
    formula: str
    value: Value


def _percent(of: Callable[[Dvh], Number]) -> Value:
    def value(dvh: Dvh, rx: Number) -> Number:
        dose = of(dvh)
        return 100 * dose / rx if rx and dose is not None else None

    return value


def _dose(name: str, formula: str, of: Callable[[Dvh], Number]) -> tuple[Column, Column]:
    """A dose in Gy, and in percent of the prescribed one."""
    in_percent = f"{name}Gy / prescribed dose"
    return (
        Column(f"{name}Gy", "Gy", formula, lambda dvh, _: of(dvh)),
        Column(f"{name}%", "% of the prescribed dose", in_percent, _percent(of)),
    )


def _share(percent: float) -> tuple[Column, Column]:
    formula = f"dose that {percent:g} % of the volume gets at least"
    return _dose(f"D{percent:g}", formula, lambda dvh: dvh.dose_at_percent(percent))


def _hottest(volume_cm3: float) -> tuple[Column, Column]:
    def value(dvh: Dvh) -> Number:
        return dvh.dose_at_cm3(volume_cm3) if dvh.volume_cm3 >= volume_cm3 else None

    formula = f"dose that the hottest {volume_cm3:g} cm³ get at least; none of a smaller structure"
    return _dose(f"D{volume_cm3:g}cc", formula, value)


def _volume(name: str, level: str, dose_of: Callable[[Number], Number]) -> tuple[Column, Column]:
    """The volume at a dose in cm³, and in percent of the structure."""

    def volume(dvh: Dvh, rx: Number) -> Number:
        dose = dose_of(rx)
        return None if dose is None else dvh.volume_at(dose)

    def part(dvh: Dvh, rx: Number) -> Number:
        found = volume(dvh, rx)
        return None if found is None else 100 * found / dvh.covered_cm3

    return (
        Column(f"{name} (cm³)", "cm³", f"volume that gets at least {level}", volume),
        Column(f"{name} (%)", "% of the volume", f"{name} (cm³) / volume", part),
    )


def _of_prescription(percent: float) -> tuple[Column, Column]:
    level = f"{percent:g} % of the prescribed dose"
    return _volume(f"V{percent:g}%Rx", level, lambda rx: rx * percent / 100 if rx else None)


def _at(level_gy: int) -> tuple[Column, Column]:
    return _volume(f"V{level_gy}Gy", f"{level_gy} Gy", lambda _: float(level_gy))


def homogeneity(dvh: Dvh, prescription_gy: Number) -> Number:
    """Homogeneity index (D2% - D98%) / D50% (ICRU 83, 3.7.1.3).

    Args:
        dvh: Of the structure.
        prescription_gy: Prescribed dose; None where there is none.

    Returns:
        None where the median dose is below `LEAST_MEDIAN`: the index is for what is to get an even dose.
    """
    hot, median = dvh.dose_at_percent(2), dvh.dose_at_percent(50)
    if median <= 0 or median < LEAST_MEDIAN * (prescription_gy or hot):
        return None
    return (hot - dvh.dose_at_percent(98)) / median


_HI = (
    "(D2Gy - D98Gy) / D50Gy; none where D50Gy is below 10 % of the prescribed dose, or where there is none"
    " below 10 % of D2Gy"
)
DOSE_COLUMNS: tuple[Column, ...] = (
    *_dose("Dmean", "mean dose of the sub-voxels, each by its volume inside", lambda dvh: dvh.mean),
    *_dose("Dmax", "highest dose of a sub-voxel", lambda dvh: dvh.maximum),
    *_dose("Dmin", "lowest dose of a sub-voxel", lambda dvh: dvh.minimum),
    *_share(95),
    *_share(98),
    *_share(2),
    *_share(50),
    *_dose("Spread", "DmaxGy - DminGy", lambda dvh: dvh.maximum - dvh.minimum),
    Column("HI", "", _HI, homogeneity),
    Column("HI%", "", "HI of the percentages", lambda dvh, rx: homogeneity(dvh, rx) if rx else None),
    *_hottest(1),
    *_hottest(0.1),
    Column("IntegralDose_Gycm3", "Gy cm³", "DmeanGy · volume", lambda dvh, _: dvh.integral),
    *_of_prescription(95),
    *_of_prescription(100),
    *(column for level in range(1, HIGHEST_LEVEL_GY + 1) for column in _at(level)),
)  # fmt: skip
VOLUME_COLUMN = "Volume (cm³)"
STATUS_COLUMN, COVERAGE_COLUMN = "dose_metric_status", "dose_coverage_percent"
REASON_COLUMN = "dose_metric_reason"
STATUS_MEANING = f"{', '.join(f'`{one.value}`' for one in DoseMetricStatus)}: all but the first have no doses"
"""Of `STATUS_COLUMN`."""


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """One column that says of what dose and structure a row is."""

    name: str
    kind: type[pl.DataType]
    meaning: str
    unit: str = ""


LABEL_COLUMNS: tuple[LabelColumn, ...] = (
    LabelColumn("course", pl.String, "key of the course"),
    LabelColumn("dose_id", pl.String, "pseudonym of the dose, or of the doses that were summed"),
    LabelColumn(
        "dose_label", pl.String, "labels of its plans; the number of one whose label names the patient"
    ),
    LabelColumn("dose_rule", pl.String, "rule by which it was chosen"),
    LabelColumn("dose_type", pl.String, "PHYSICAL or EFFECTIVE (3004,0004); empty where not stated"),
    LabelColumn("dose_resolution_columns_mm", pl.Float64, "distance of its columns", "mm"),
    LabelColumn("dose_resolution_rows_mm", pl.Float64, "distance of its rows", "mm"),
    LabelColumn("dose_resolution_frames_mm", pl.Float64, "distance of its frames", "mm"),
    LabelColumn("structure_id", pl.String, "the structure, as in structures.json"),
    LabelColumn("ROI_Number", pl.Int64, "ROI Number in its structure set"),
    LabelColumn("ROI_Name", pl.String, "name by TG-263 where there is one"),
    LabelColumn("ROI_OriginalName", pl.String, "name as it was written"),
    LabelColumn("ROI_InterpretedType", pl.String, "RT ROI Interpreted Type (3006,00A4)"),
    LabelColumn("Segmentation_Source", pl.String, "clinical, automatic, custom_model or derived"),
    LabelColumn("made_by", pl.String, "label of the structure set, name of the model, or definitions"),
    LabelColumn("rtstruct_label", pl.String, "label of the structure set of what was drawn"),
    LabelColumn("structure_cropped", pl.Boolean, "whether the figures are of a part of the structure"),
    LabelColumn("cropped_by", pl.String, "what cuts it: the analysis region, the end of the images"),
    LabelColumn("rx_source", pl.String, "where the prescribed dose comes from, or why there is none"),
    LabelColumn("prescription_gy", pl.Float64, "prescribed dose", "Gy"),
)
METRICS_SCHEMA: dict[str, type[pl.DataType]] = {
    **{column.name: column.kind for column in LABEL_COLUMNS},
    VOLUME_COLUMN: pl.Float64,
    STATUS_COLUMN: pl.String,
    REASON_COLUMN: pl.String,
    COVERAGE_COLUMN: pl.Float64,
    **{column.name: pl.Float64 for column in DOSE_COLUMNS},
}
"""Of ``dvh_metrics.parquet``."""


def prescribed(dose_gy: Number) -> Number:
    """A prescribed dose; None where it is none: missing, zero, negative, or no number."""
    return dose_gy if dose_gy is not None and math.isfinite(dose_gy) and dose_gy > 0 else None


def status_of(dvh: Dvh) -> DoseMetricStatus:
    """Whether the dose of the whole structure is known."""
    if not dvh.volume_cm3:
        return DoseMetricStatus.EMPTY
    if not dvh.covered_cm3:
        return DoseMetricStatus.OUTSIDE
    covered = dvh.covered_cm3 >= LEAST_COVERED * dvh.volume_cm3
    return DoseMetricStatus.MEASURED if covered else DoseMetricStatus.PARTLY_OUTSIDE


def figures(dvh: Dvh, prescription_gy: Number) -> dict[str, str | Number]:
    """Every figure of a structure by the name of its column.

    Args:
        dvh: Of the structure.
        prescription_gy: Prescribed dose; without one nothing is given in percent of it.
    """
    status, prescription_gy = status_of(dvh), prescribed(prescription_gy)
    found = without_doses(dvh.volume_cm3, status)
    if dvh.volume_cm3:
        # What lies inside is summed in another order than the whole.
        found[COVERAGE_COLUMN] = _rounded(min(100.0, 100 * dvh.covered_cm3 / dvh.volume_cm3))
    if status is DoseMetricStatus.MEASURED:
        found |= {column.name: _rounded(column.value(dvh, prescription_gy)) for column in DOSE_COLUMNS}
    return found


def _rounded(value: Number) -> Number:
    return None if value is None else round(value, DECIMALS)


def without_doses(volume_cm3: Number, status: DoseMetricStatus) -> dict[str, str | Number]:
    """The same columns of a structure of which no dose is given.

    Args:
        volume_cm3: Its volume, where it is known.
        status: Why there is none.
    """
    return {
        VOLUME_COLUMN: _rounded(volume_cm3),
        STATUS_COLUMN: status.value,
        COVERAGE_COLUMN: None,
        **{column.name: None for column in DOSE_COLUMNS},
    }

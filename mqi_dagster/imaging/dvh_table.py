"""The columns of the dose-volume table: name, unit and formula of each, and the row of a structure.

The names are those that users of rtpipeline have in their scripts; D and V as in ICRU 83.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from mqi_dagster.imaging.dvh import Dvh

LEAST_COVERED = 0.999
"""Share of a structure that has to lie within the dose grid: of less no figure is known."""
HIGHEST_LEVEL_GY = 60

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


@dataclass(frozen=True, slots=True)
class Column:
    """One column of numbers."""

    name: str
    unit: str
    formula: str
    value: Value


def _percent(of: Callable[[Dvh], float]) -> Value:
    return lambda dvh, rx: 100 * of(dvh) / rx if rx else None


def _dose(name: str, formula: str, of: Callable[[Dvh], float]) -> tuple[Column, Column]:
    """A dose in Gy, and in percent of the prescribed one."""
    in_percent = f"{name}Gy / prescribed dose"
    return (
        Column(f"{name}Gy", "Gy", formula, lambda dvh, _: of(dvh)),
        Column(f"{name}%", "% of the prescribed dose", in_percent, _percent(of)),
    )


def _share(percent: float) -> tuple[Column, Column]:
    formula = f"dose that {percent:g} % of the volume gets at least"
    return _dose(f"D{percent:g}", formula, lambda dvh: dvh.dose_at_percent(percent))


def _hottest(volume_cm3: float) -> Column:
    def value(dvh: Dvh, _: Number) -> Number:
        return dvh.dose_at_cm3(volume_cm3) if dvh.volume_cm3 >= volume_cm3 else None

    formula = f"dose that the hottest {volume_cm3:g} cm³ get at least; none of a smaller structure"
    return Column(f"D{volume_cm3:g}ccGy", "Gy", formula, value)


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


def homogeneity(dvh: Dvh) -> Number:
    """Homogeneity index (D2% - D98%) / D50% (ICRU 83, 3.7.1.3); None where the median dose is zero."""
    median = dvh.dose_at_percent(50)
    return (dvh.dose_at_percent(2) - dvh.dose_at_percent(98)) / median if median else None


DOSE_COLUMNS: tuple[Column, ...] = (
    *_dose("Dmean", "mean dose of the sub-voxels, each by its volume inside", lambda dvh: dvh.mean),
    *_dose("Dmax", "highest dose of a sub-voxel", lambda dvh: dvh.maximum),
    *_dose("Dmin", "lowest dose of a sub-voxel", lambda dvh: dvh.minimum),
    *_share(95),
    *_share(98),
    *_share(2),
    *_share(50),
    *_dose("Spread", "DmaxGy - DminGy", lambda dvh: dvh.maximum - dvh.minimum),
    Column("HI", "", "(D2Gy - D98Gy) / D50Gy", lambda dvh, _: homogeneity(dvh)),
    Column("HI%", "", "HI of the percentages", lambda dvh, rx: homogeneity(dvh) if rx else None),
    _hottest(1),
    _hottest(0.1),
    Column("IntegralDose_Gycm3", "Gy cm³", "DmeanGy · volume", lambda dvh, _: dvh.integral),
    *_of_prescription(95),
    *_of_prescription(100),
    *(column for level in range(1, HIGHEST_LEVEL_GY + 1) for column in _at(level)),
)  # fmt: skip
VOLUME_COLUMN = "Volume (cm³)"


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
    measured = status is DoseMetricStatus.MEASURED
    return {
        VOLUME_COLUMN: dvh.volume_cm3,
        "dose_metric_status": status.value,
        "dose_coverage_percent": 100 * dvh.covered_cm3 / dvh.volume_cm3 if dvh.volume_cm3 else None,
        **{column.name: column.value(dvh, prescription_gy) if measured else None for column in DOSE_COLUMNS},
    }

"""Clinical goals: what a protocol asks of the dose to a structure, and whether it is met.

Metrics are written as TG-263 writes them: ``D95%``, ``D0.1cc``, ``V20Gy``, ``V95%``, ``Dmean``, ``Dmax``,
``Dmin``. A goal that cannot be judged says why; it is neither met nor missed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from mqi_dagster.imaging.dvh import Dvh
from mqi_dagster.imaging.dvh_table import DoseMetricStatus, prescribed, status_of
from mqi_dagster.yaml_file import read_yaml, validated

_NUMBER = r"(?P<number>\d{1,5}(?:\.\d{1,4})?)"
_DOSE_AT = re.compile(rf"D{_NUMBER}(?P<unit>%|cc)")
_VOLUME_AT = re.compile(rf"V{_NUMBER}(?P<unit>%|Gy)")
_WHOLE = ("Dmean", "Dmax", "Dmin")


class GoalUnit(StrEnum):
    """Units of a limit."""

    GY = "Gy"
    PERCENT = "%"
    """Of a dose that of the prescribed one, of a volume that of the structure."""
    CM3 = "cm³"


def _metric(text: str) -> str:
    if text not in _WHOLE and not _DOSE_AT.fullmatch(text) and not _VOLUME_AT.fullmatch(text):
        raise ValueError(f"{text[:40]!a} is no metric: D95%, D0.1cc, V20Gy, V95%, Dmean, Dmax or Dmin")
    dose = _DOSE_AT.fullmatch(text)
    if dose and not 0 < float(dose["number"]) <= (100 if dose["unit"] == "%" else math.inf):
        raise ValueError(f"{text} is the dose to no part of a volume")
    return text


Limit = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class Goal(BaseModel):
    """One goal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    structure: str
    metric: Annotated[str, AfterValidator(_metric)]
    at_least: Limit | None = None
    at_most: Limit | None = None
    unit: GoalUnit

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a goal has either at_least or at_most")
        of_dose = self.metric.startswith("D")
        if self.unit is (GoalUnit.CM3 if of_dose else GoalUnit.GY):
            raise ValueError(
                f"{self.metric} is a {'dose' if of_dose else 'volume'}, which has no {self.unit}"
            )
        return self

    @property
    def is_relative_to_volume(self) -> bool:
        """Whether it is a mean over, or a share of, the whole structure: a part says nothing of it."""
        if _VOLUME_AT.fullmatch(self.metric):
            return self.unit is GoalUnit.PERCENT
        dose = _DOSE_AT.fullmatch(self.metric)
        return self.metric == "Dmean" or (dose is not None and dose["unit"] == "%")


class Protocol(BaseModel):
    """A protocol: its goals, by a name and a version that reports show."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: str
    goals: tuple[Goal, ...]


class GoalVerdict(StrEnum):
    """What became of a goal."""

    MET = "met"
    MISSED = "missed"
    NOT_JUDGED = "not judged"


class GoalResult(BaseModel):
    """A goal, and what the plan reaches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    goal: Goal
    verdict: GoalVerdict
    value: float | None = None
    """In the unit of the goal."""
    reason: str = ""
    """Why it was not judged."""


def read_protocol(path: Path) -> Protocol:
    """Read a protocol file.

    Raises:
        ConfigurationError: It is not there, or says something that no protocol says.
    """
    role = f"protocol file {path.name}"
    return validated(Protocol, read_yaml(path, role), role)


def judge(protocol: Protocol, dvhs: Mapping[str, Dvh], prescription_gy: float | None) -> list[GoalResult]:
    """Judge every goal.

    Args:
        protocol: The goals.
        dvhs: By name of the structure.
        prescription_gy: Prescribed dose; None where the plan has none.
    """
    return [_judged(goal, dvhs.get(goal.structure), prescription_gy) for goal in protocol.goals]


def _judged(goal: Goal, dvh: Dvh | None, rx: float | None) -> GoalResult:
    rx = prescribed(rx)

    def not_judged(reason: str) -> GoalResult:
        return GoalResult(goal=goal, verdict=GoalVerdict.NOT_JUDGED, reason=reason)

    if dvh is None:
        return not_judged("there is no such structure")
    status = status_of(dvh)
    if status is not DoseMetricStatus.MEASURED:
        return not_judged(f"its dose is not known: {status.value.replace('_', ' ')}")
    in_percent_of_rx = goal.metric.startswith("D") and goal.unit is GoalUnit.PERCENT
    if rx is None and (in_percent_of_rx or (goal.metric.startswith("V") and goal.metric.endswith("%"))):
        return not_judged("the plan has no prescribed dose")
    volume = _DOSE_AT.fullmatch(goal.metric)
    if volume and volume["unit"] == "cc" and float(volume["number"]) > dvh.volume_cm3:
        return not_judged(f"the structure has {dvh.volume_cm3:.3g} cm³")
    value = _value(goal, dvh, rx or 0.0)
    met = value >= goal.at_least if goal.at_least is not None else value <= (goal.at_most or 0.0)
    return GoalResult(goal=goal, verdict=GoalVerdict.MET if met else GoalVerdict.MISSED, value=value)


def _value(goal: Goal, dvh: Dvh, rx: float) -> float:
    """The metric in the unit of the goal."""
    if found := _VOLUME_AT.fullmatch(goal.metric):
        level = float(found["number"]) * (rx / 100 if found["unit"] == "%" else 1.0)
        volume = dvh.volume_at(level)
        return volume if goal.unit is GoalUnit.CM3 else 100 * volume / dvh.covered_cm3
    if found := _DOSE_AT.fullmatch(goal.metric):
        number = float(found["number"])
        dose = dvh.dose_at_percent(number) if found["unit"] == "%" else dvh.dose_at_cm3(number)
    else:
        dose = {"Dmean": dvh.mean, "Dmax": dvh.maximum, "Dmin": dvh.minimum}[goal.metric]
    return dose if goal.unit is GoalUnit.GY else 100 * dose / rx

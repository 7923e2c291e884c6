"""Which series of a course a model is given: told by modality and by what its card says of each role."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mqi_dagster.courses.inventory import ImageSeries
from mqi_dagster.imaging.models.card import ModelCard, ModelInput


@dataclass(frozen=True, slots=True)
class Application:
    """A model and a series on whose grid its result would be."""

    series: ImageSeries
    inputs: Mapping[str, ImageSeries] = field(default_factory=dict)
    """The series of each role, in the card's order; empty where the model is not for this series."""
    reason: str = ""
    """Why it is not."""


def applications(card: ModelCard, analysed: Sequence[ImageSeries]) -> list[Application]:
    """What a model is run on: each series where it takes one, one set of series where it takes several.

    Roles and series are matched by what the card says of the Series Description, never by their order; and
    series that a model is given together lie in one Frame of Reference.

    Args:
        card: Of the model.
        analysed: The series of a course that are worked on.
    """
    usable = [one for one in analysed if one.modality == card.modality]
    if usable and len(card.inputs) > 1:
        return [_together(card, usable)]
    return [_alone(card, one) for one in analysed]


def _alone(card: ModelCard, series: ImageSeries) -> Application:
    one = card.inputs[0]
    if series.modality != card.modality:
        return Application(series, reason=f"it is for {card.modality}, not for {series.modality}")
    if not _matches(one, series):
        return Application(series, reason=f"the series is not {one.role} by its Series Description")
    return Application(series, {one.role: series})


def _together(card: ModelCard, usable: Sequence[ImageSeries]) -> Application:
    found: dict[str, ImageSeries] = {}
    for one in card.inputs:
        if one.series is None:
            return Application(usable[0], reason=f"its card does not say which series is {one.role}")
        matching = [series for series in usable if _matches(one, series)]
        if len(matching) != 1:
            count = f"{len(matching)} series of the course are" if matching else "no series of the course is"
            return Application(usable[0], reason=f"{count} {one.role} by the Series Description")
        found[one.role] = matching[0]
    first = next(iter(found.values()))
    if len({one.series_uid for one in found.values()}) != len(found):
        return Application(first, reason="one series is several of its roles by the Series Description")
    if len({one.frame_of_reference_uid for one in found.values()}) != 1:
        return Application(first, reason="its series do not lie in one Frame of Reference")
    return Application(first, found)


def _matches(one: ModelInput, series: ImageSeries) -> bool:
    description = (series.description or "").strip()
    return one.series is None or re.fullmatch(one.series, description, re.IGNORECASE) is not None

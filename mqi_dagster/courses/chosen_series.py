"""Which series of a course is analysed: the one that its structures were drawn on, found by references."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date

from mqi_dagster.courses.inventory import CourseInventory, ImageSeries

_ANALYSED = ("CT", "MR")


@dataclass(frozen=True, slots=True)
class ChosenSeries:
    """The series of a course that are worked on."""

    planning: ImageSeries | None
    """The one on whose grid all structures are put; None where there is no series of a CT or MR."""
    reason: str
    """Why it is this one."""
    ambiguous: bool
    """Whether nothing in the files says that it is this one."""
    others: tuple[ImageSeries, ...]
    """Further series of an MR, in the order of their UIDs."""


def chosen_series(inventory: CourseInventory) -> ChosenSeries:
    """Choose the series of a course that are analysed.

    The planning series is the one that the structure sets of its plans name, else any of its structure sets,
    else the only CT, else the only MR. Where several remain, the structure set of the latest day decides, and
    then the number of images; that is said.
    """
    usable = [one for one in inventory.image_series if one.modality in _ANALYSED and one.series_uid]
    planning, reason, ambiguous = _planning(inventory, usable)
    others = tuple(one for one in usable if one is not planning and one.modality == "MR")
    return ChosenSeries(planning, reason, ambiguous, others)


def _planning(
    inventory: CourseInventory, usable: Collection[ImageSeries]
) -> tuple[ImageSeries | None, str, bool]:
    of_plans = {uid for plan in inventory.plans for uid in plan.found.structure_set_uids}
    sets = [one.found for one in inventory.structure_sets]
    in_plans = [one for one in sets if one.sop_instance_uid in of_plans]
    of_a_plan, of_any = "the structure set of its plan names it", "a structure set names it"
    for some, words in ((in_plans, of_a_plan), (sets, of_any)):
        named = {uid for one in some for uid in one.series_uids}
        found = [one for one in usable if one.series_uid in named]
        if len(found) == 1:
            return found[0], words, False
        if found:
            latest = max(some, key=lambda one: (one.structure_set_date or date.min, one.sop_instance_uid))
            newest = [one for one in found if one.series_uid in latest.series_uids]
            return _largest(newest or found), "of several, the latest structure set names it", True
    for modality in _ANALYSED:
        found = [one for one in usable if one.modality == modality]
        if len(found) == 1:
            return found[0], f"it is the only {modality}", False
        if found:
            return _largest(found), f"of {len(found)} series of a {modality}, it has the most images", True
    return None, "the course has no series of a CT or MR", False


def _largest(some: Collection[ImageSeries]) -> ImageSeries:
    return min(some, key=lambda one: (-len(one.images), one.series_uid or ""))

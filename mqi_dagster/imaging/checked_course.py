"""A course as the checks of its inventory look at it: what was published, and what follows from that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mqi_dagster.courses.chosen_series import ChosenSeries, chosen_series
from mqi_dagster.courses.inventory import CourseInventory, FindingCode, ImageSeries
from mqi_dagster.courses.objects import Dose, Plan
from mqi_dagster.errors import ImageError, shown
from mqi_dagster.imaging.course_facts import CourseFacts, DoseFacts, ImageFacts, PlanFacts
from mqi_dagster.imaging.image_grid import ImageGrid, image_series
from mqi_dagster.settings.radiotherapy import QualityControl


@dataclass(frozen=True)
class CheckedCourse:
    """An inventory, the facts of its objects, and what missing objects mean."""

    inventory: CourseInventory
    facts: CourseFacts
    options: QualityControl

    @cached_property
    def chosen(self) -> ChosenSeries:
        """The series that are analysed."""
        return chosen_series(self.inventory)

    @cached_property
    def series(self) -> tuple[CheckedSeries, ...]:
        """All image series, in the order of the inventory."""
        return tuple(
            CheckedSeries(self, number, facts)
            for number, facts in enumerate(self.facts.image_series, start=1)
        )

    @cached_property
    def analysed(self) -> tuple[CheckedSeries, ...]:
        """The planning series first."""
        found = [one for one in self.series if one.is_analysed]
        return tuple(sorted(found, key=lambda one: not one.is_planning))

    @property
    def planning(self) -> CheckedSeries | None:
        """The planning series."""
        return next((one for one in self.series if one.is_planning), None)

    @cached_property
    def plans(self) -> tuple[tuple[str, Plan, PlanFacts], ...]:
        """Each plan with how it is called here."""
        found = [one.found for one in self.inventory.plans]
        return tuple(zip(names_of("plan", len(found)), found, self.facts.plans, strict=True))

    @cached_property
    def doses(self) -> tuple[tuple[str, Dose, DoseFacts], ...]:
        """Each dose with how it is called here."""
        found = [one.found for one in self.inventory.doses]
        return tuple(zip(names_of("dose", len(found)), found, self.facts.doses, strict=True))

    @cached_property
    def used_uids(self) -> frozenset[str]:
        """The doses that make up totals."""
        return frozenset(uid for one in self.inventory.dose_decisions for uid in (*one.used, *one.summed))

    @property
    def used_doses(self) -> list[tuple[str, Dose, DoseFacts]]:
        """The same as `doses` has them."""
        return [one for one in self.doses if one[1].sop_instance_uid in self.used_uids]

    def texts(self, code: FindingCode) -> list[str]:
        """What the inventory says about something that does not fit."""
        return [one.text for one in self.inventory.findings if one.code is code]

    def texts_of_objects(self, code: FindingCode) -> list[str]:
        """The same where it is about one object, which the text calls ``it``."""
        sets = [one.found.sop_instance_uid for one in self.inventory.structure_sets]
        names = dict(zip(sets, names_of("structure set", len(sets)), strict=True))
        names |= {plan.sop_instance_uid: name for name, plan, _ in self.plans}
        names |= {dose.sop_instance_uid: name for name, dose, _ in self.doses}
        return [f"{names[one.uids[0]]}: {one.text}" for one in self.inventory.findings if one.code is code]


@dataclass(frozen=True)
class CheckedSeries:
    """One series of images."""

    course: CheckedCourse
    number: int
    """1 for the first of the inventory."""
    images: tuple[ImageFacts, ...]

    @property
    def found(self) -> ImageSeries:
        """As the inventory has it."""
        return self.course.inventory.image_series[self.number - 1]

    @property
    def is_planning(self) -> bool:
        """Whether it is the planning series."""
        return self.found is self.course.chosen.planning

    @property
    def is_analysed(self) -> bool:
        """Whether it is worked on."""
        return self.is_planning or any(self.found is one for one in self.course.chosen.others)

    @property
    def name(self) -> str:
        """How it is called here."""
        modality = shown(self.found.modality or "image", 16)
        return f"the planning {modality}" if self.is_planning else f"{modality} series {self.number}"

    @property
    def usable(self) -> list[tuple[int, ImageFacts]]:
        """Images that are part of a volume, with their index in the series."""
        return [(index, one) for index, one in enumerate(self.images) if one.geometry is not None]

    @cached_property
    def grid(self) -> ImageGrid | str:
        """The grid of the images, or why there is none."""
        frame = self.found.frame_of_reference_uid or ""
        planes = [image.plane(str(index), frame) for index, image in self.usable]
        try:
            return image_series([plane for plane in planes if plane is not None]).grid
        except ImageError as error:
            return error.message

    @cached_property
    def along_normal(self) -> dict[int, float]:
        """Place of each image along the normal of the first [mm], by its index."""
        if not self.usable or (first := self.usable[0][1].geometry) is None:
            return {}
        normal = np.cross(first.orientation[:3], first.orientation[3:])
        return {
            index: float(np.dot(image.geometry.position_mm, normal))
            for index, image in self.usable
            if image.geometry is not None
        }


def names_of(what: str, count: int) -> list[str]:
    """How objects of one kind are called: in the order of their UIDs, where there are several."""
    return [f"the {what}"] if count == 1 else [f"{what} {number}" for number in range(1, count + 1)]

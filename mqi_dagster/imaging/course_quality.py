"""The checks of an inventory: whether images, plans, structure sets and doses of a course fit each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np
from pydicom.uid import RTIonPlanStorage

from mqi_dagster.courses.dose_rules import DoseRule
from mqi_dagster.courses.inventory import CourseInventory, FindingCode, Reason
from mqi_dagster.courses.objects import Plan
from mqi_dagster.dicom.ct_images import position_name
from mqi_dagster.dicom.elements import COSINE_TOLERANCE
from mqi_dagster.errors import shown
from mqi_dagster.imaging.checked_course import CheckedCourse, names_of
from mqi_dagster.imaging.course_facts import CourseFacts, TargetBox, TargetBy
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.quality_checks import QcResult, Rule, Tally, counted, evaluated
from mqi_dagster.settings.radiotherapy import Missing, QualityControl

LEAST_OF_PRESCRIBED, MOST_OF_PRESCRIBED = 0.8, 2.0
"""Maximum of a total dose over what is prescribed; 2 is that of a radiosurgery to the 50 % isodose."""
IMPLAUSIBLE = 10.0
"""A factor that no prescription explains: cGy are 100, one fraction of many is 1/20 to 1/35."""

_NOT_TREATING = ("VERIFICATION", "MACHINE_QA", "RESEARCH", "SERVICE")
"""Plan Intent (300A,000A), PS3.3 C.8.8.9."""
_AXES = ("sagittal", "coronal", "axial")
"""By the patient axis that the normal of an image runs along: x, y, z."""
_TOTALS = ("PLAN", "MULTI_PLAN")
"""Dose Summation Types of what is compared with a prescription."""


def inventory_quality(
    inventory: CourseInventory, facts: CourseFacts, options: QualityControl
) -> Sequence[QcResult]:
    """Checks of an inventory.

    Args:
        inventory: As published.
        facts: Of its objects, as published beside it.
        options: ``radiotherapy.qc`` of the settings.
    """
    return evaluated("course_inventory", _RULES, CheckedCourse(inventory, facts, options))


def _images_present(course: CheckedCourse, tally: Tally) -> None:
    if course.planning is None:
        tally.fail(course.chosen.reason)
    for series in course.analysed:
        count, least = len(series.usable), course.options.minimum_images
        scouts = sum(image.localizer for image in series.images)
        beside = f" beside {counted(scouts, 'localizer')}" if scouts else ""
        text = f"{series.name} has {counted(count, 'image')} that can be read{beside}"
        if count >= least:
            tally.note(text)
        else:
            (tally.fail if series.is_planning else tally.warn)(f"{text}, fewer than {least}")


def _missing(
    what: str, there: Callable[[CheckedCourse], int], meaning: Callable[[CheckedCourse], Missing]
) -> Rule[CheckedCourse]:
    def rule(course: CheckedCourse, tally: Tally) -> None:
        if count := there(course):
            tally.note(counted(count, what))
        else:
            (tally.fail if meaning(course) is Missing.FAIL else tally.warn)(f"the course has no {what}")

    return rule


def _objects_readable(course: CheckedCourse, tally: Tally) -> None:
    for series in course.series:
        tell = tally.fail if series.is_planning else tally.warn
        faulty = defaultdict[str, list[int]](list)
        for number, image in enumerate(series.images, start=1):
            if image.fault:
                faulty[image.fault].append(number)
        for fault, numbers in faulty.items():
            which = _numbers(numbers)
            tell(f"{which} of {len(series.images)} of {series.name} (by SOP Instance UID): {fault}")
    set_names = names_of("structure set", len(course.facts.structure_sets))
    faults = {
        **{name: one.fault for name, one in zip(set_names, course.facts.structure_sets, strict=True)},
        **{name: facts.fault for name, _, facts in course.plans},
        **{name: facts.fault for name, _, facts in course.doses},
    }
    for name, fault in faults.items():
        if fault:
            tally.fail(f"{name}: {fault}")
    if not (tally.failures or tally.warnings):
        count = sum(len(series.images) for series in course.series)
        tally.note(f"{counted(count, 'image')} and {counted(len(faults), 'other object')}")


def _image_grid(course: CheckedCourse, tally: Tally) -> None:
    for series in course.analysed:
        if isinstance(series.grid, str):
            (tally.fail if series.is_planning else tally.warn)(f"{series.name}: {series.grid}")
        else:
            shape, spacing = series.grid.shape, series.grid.spacing_mm
            tally.note(f"{series.name}: {shape[0]} planes, {spacing[0]:.4g} mm apart")


def _image_orientation(course: CheckedCourse, tally: Tally) -> None:
    for series in course.analysed:
        if isinstance(series.grid, str):
            continue
        normal = np.abs(series.grid.plane_direction)
        along = int(np.argmax(normal))
        tilt = float(np.degrees(np.arccos(min(1.0, normal[along]))))
        straight = normal[along] > 1 - COSINE_TOLERANCE
        kind = _AXES[along] if straight else f"{_AXES[along]}, tilted by {tilt:.3g}°"
        as_wanted = straight and _AXES[along] == "axial"
        (tally.note if as_wanted or not series.is_planning else tally.warn)(f"{series.name} is {kind}")


def _image_order(course: CheckedCourse, tally: Tally) -> None:
    for series in course.analysed:
        images = series.found.images
        by_place = sorted(series.along_normal, key=lambda index: images[index].place)
        numbers = {index: image.instance_number for index, image in series.usable}
        known = {index: number for index, number in numbers.items() if number is not None}
        by_number = sorted(known, key=lambda index: known[index])
        if len(known) < len(numbers):
            missing = len(numbers) - len(known)
            tally.note(f"{series.name}: {counted(missing, 'image')} without an Instance Number")
        elif len(set(known.values())) < len(known):
            tally.warn(f"{series.name}: Instance Numbers stand twice")
        elif not _monotonic([series.along_normal[index] for index in by_number]):
            tally.warn(f"{series.name}: Instance Numbers do not count along the axis of the images")
        else:
            tally.note(f"{series.name}: Instance Numbers count along the axis of the images")
        if not _monotonic([series.along_normal[index] for index in by_place]):
            tally.note(
                f"{series.name}: the order of the files by name is not their order in space;"
                " images are put where their coordinates say"
            )


def _patient_position(course: CheckedCourse, tally: Tally) -> None:
    planning: str | None = None
    for series in course.analysed:
        counts = Counter(image.patient_position for _, image in series.usable)
        stated = sorted(position_name(one) for one in counts if one)
        if len(stated) > 1:
            tell = tally.fail if series.is_planning else tally.warn
            tell(f"the images of {series.name} were taken in positions {' and '.join(stated)}")
        elif counts[""]:
            tally.warn(f"{counted(counts[''], 'image')} of {series.name} do not state the Patient Position")
        elif stated:
            tally.note(f"{series.name}: {stated[0]}")
            planning = stated[0] if series.is_planning else planning
    for name, _, facts in course.plans:
        positions = [position_name(one) for one in facts.patient_positions]
        if len(positions) > 1:
            tally.fail(f"{name} has the patient in positions {' and '.join(positions)}")
        elif positions and planning and positions[0] != planning:
            tally.fail(f"{name} has the patient in position {positions[0]}, its images in {planning}")


def _frame_of_reference(course: CheckedCourse, tally: Tally) -> None:
    for text in course.texts(FindingCode.FRAME_OF_REFERENCE_DIFFERS):
        tally.fail(text)
    frame, planning = course.inventory.frame_of_reference_uid, course.chosen.planning
    if planning is not None and planning.frame_of_reference_uid != frame:
        tally.fail(
            "the planning series lies in another Frame of Reference than structure sets, plans and doses"
        )
    silent = [name for name, dose, _ in course.doses if dose.frame_of_reference_uid is None]
    for name in silent:
        tally.warn(f"{name} states no Frame of Reference")
    for series in course.analysed:
        if not series.is_planning and series.found.frame_of_reference_uid != frame:
            tally.note(f"{series.name} lies in a Frame of Reference of its own")
    if not (tally.failures or tally.warnings):
        tally.note("one Frame of Reference")


def _references(course: CheckedCourse, tally: Tally) -> None:
    for text in course.texts_of_objects(FindingCode.REFERENCE_UNRESOLVED):
        tally.warn(text)
    if course.inventory.doses:
        for text in course.texts(FindingCode.PLAN_WITHOUT_DOSE):
            tally.warn(text)
    if not tally.warnings:
        tally.note("all that is named is there")


def _referenced_images(course: CheckedCourse, tally: Tally) -> None:
    sets = {one.found.sop_instance_uid: one.found for one in course.inventory.structure_sets}
    code = FindingCode.IMAGES_MISSING
    missing = {one.uids[0]: len(one.uids) - 1 for one in course.inventory.findings if one.code is code}
    for (uid, count), text in zip(missing.items(), course.texts_of_objects(code), strict=True):
        if count < len(set(sets[uid].image_uids)):
            tally.fail(text)
        else:
            tally.warn(f"{text}; contours are placed by their coordinates in the Frame of Reference")
    named = sum(len(set(one.image_uids)) for one in sets.values())
    if not missing:
        tally.note(f"{counted(named, 'image')} named by structure sets")


def _beams_and_fractions(course: CheckedCourse, tally: Tally) -> None:
    for name, plan, _ in course.plans:
        for what in _numbering_faults(plan):
            tally.fail(f"{name}: {what}")
        for what in _fraction_doubts(plan):
            tally.warn(f"{name}: {what}")
        if plan.fractions_planned is not None:
            tally.note(
                f"{name}: {counted(plan.fractions_planned, 'fraction')}, {counted(len(plan.beams), 'beam')}"
            )
    plans = {plan.sop_instance_uid: plan for _, plan, _ in course.plans}
    for name, dose, _ in course.doses:
        there = [plans[uid] for uid in dict.fromkeys(dose.plan_uids) if uid in plans]
        if not there or len(there) < len(set(dose.plan_uids)):
            continue
        beams = {beam.number for plan in there for beam in plan.beams}
        groups = {group.number for plan in there for group in plan.fraction_groups}
        for what, named, known in (
            ("beam", dose.beams, beams),
            ("fraction group", dose.fraction_groups, groups),
        ):
            for number in sorted(set(named) - known):
                tally.fail(f"{name} names {what} {number}, which its plan does not have")


def _numbering_faults(plan: Plan) -> Iterator[str]:
    beams = [beam.number for beam in plan.beams]
    groups = [group.number for group in plan.fraction_groups]
    for what, numbers in (("beam", beams), ("fraction group", groups)):
        if None in numbers:
            yield f"a {what} has no number"
        for number, times in Counter(numbers).items():
            if number is not None and times > 1:
                yield f"{what} {number} is there {times} times"
    for group in plan.fraction_groups:
        for beam in group.beams:
            if beam.number not in beams:
                yield f"a fraction group names beam {beam.number}, which the plan does not have"


def _fraction_doubts(plan: Plan) -> Iterator[str]:
    if plan.fractions_planned is None:
        yield "the number of fractions planned is not stated"
    named = {beam.number for group in plan.fraction_groups for beam in group.beams}
    for number in sorted(plan.treatment_beams - named) if named else ():
        yield f"treatment beam {number} is in no fraction group"


def _plan_approval(course: CheckedCourse, tally: Tally) -> None:
    rejected = [name for name, plan, _ in course.plans if plan.approval == "REJECTED"]
    all_rejected = bool(rejected) and len(rejected) == len(course.plans)
    for name, plan, _ in course.plans:
        if plan.approval == "REJECTED":
            (tally.fail if all_rejected else tally.warn)(f"{name} is rejected")
        elif plan.approval == "UNAPPROVED":
            tally.warn(f"{name} is unapproved")
        elif plan.approval == "APPROVED":
            tally.note(f"{name} is approved")
        elif plan.approval is None:
            tally.note(f"{name} does not state its approval")
        else:
            tally.warn(f"{name} has the approval status {shown(plan.approval, 16)}")


def _plan_intent(course: CheckedCourse, tally: Tally) -> None:
    for name, plan, facts in course.plans:
        if plan.intent is None or plan.treats:
            tally.note(f"{name}: {plan.intent.lower() if plan.intent else 'the intent is not stated'}")
            continue
        known = plan.intent in _NOT_TREATING
        kind = plan.intent.lower().replace("_", " ") if known else shown(plan.intent, 16)
        angles = set(facts.gantry_degrees)
        one_angle = len(angles) == 1 and len(facts.gantry_degrees) > 1
        gantry = (
            f"; all its {len(facts.gantry_degrees)} beams are at gantry {angles.pop():g}°"
            if one_angle
            else ""
        )
        tally.warn(f"{name} is a {kind} plan{gantry}")


def _isocentre(course: CheckedCourse, tally: Tally) -> None:
    sets = {
        one.found.sop_instance_uid: facts.targets
        for one, facts in zip(course.inventory.structure_sets, course.facts.structure_sets, strict=True)
    }
    every = [target for targets in sets.values() for target in targets]
    for name, plan, facts in course.plans:
        named = [target for uid in plan.structure_set_uids for target in sets.get(uid, ())]
        targets, by = _told_first(named or every, plan)
        if not targets:
            tally.note(f"{name}: not checked: no structure is a target by its type, the plan or its name")
            continue
        if not facts.isocentres_mm:
            tally.note(f"{name}: not checked: it states no isocentre")
            continue
        which = "" if by is TargetBy.TYPE else f" (by their {by.value})"
        for isocentre in facts.isocentres_mm:
            outside = _distance_mm(isocentre, targets)
            if outside:
                tally.warn(
                    f"the isocentre of {name} lies {outside:.3g} mm outside of the box around the"
                    f" targets{which}"
                )
            else:
                tally.note(f"the isocentre of {name} lies within the box around the targets{which}")


def _told_first(targets: Sequence[TargetBox], plan: Plan) -> tuple[list[TargetBox], TargetBy]:
    """The targets of a plan by what says it first, and what that is."""
    for by in TargetBy:
        found = [one for one in targets if one.by is by]
        if by is TargetBy.PLAN:
            # Of one structure set another plan may name other numbers.
            found = [one for one in found if one.roi_number in plan.target_numbers] or found
        if found:
            return found, by
    return [], TargetBy.TYPE


def _distance_mm(point: Sequence[float], targets: Iterable[TargetBox]) -> float:
    some = list(targets)
    low = np.min([target.low_mm for target in some], axis=0)
    high = np.max([target.high_mm for target in some], axis=0)
    return float(np.linalg.norm(np.maximum(0, np.maximum(low - point, point - high))))


def _dose_type(course: CheckedCourse, tally: Tally) -> None:
    plans = {plan.sop_instance_uid: plan for _, plan, _ in course.plans}
    types = Counter(dose.dose_type for _, dose, _ in course.used_doses if dose.dose_type)
    if len(types) > 1:
        named = " and ".join(f"{count} {shown(kind, 16)}" for kind, count in sorted(types.items()))
        tally.warn(f"doses in use are of several types: {named}")
    for name, dose, _ in course.doses:
        classes = {plans[uid].sop_class_uid for uid in dose.plan_uids if uid in plans}
        ions = classes == {RTIonPlanStorage}
        if dose.dose_type is None:
            tally.warn(f"{name} does not state its type")
        elif dose.dose_type not in ("PHYSICAL", "EFFECTIVE"):
            tally.fail(f"{name} is of the type {shown(dose.dose_type, 16)}")
        elif dose.dose_type == "EFFECTIVE" and classes and not ions:
            tally.warn(f"{name} is EFFECTIVE, though its plan is one of photons or electrons")
        elif ions:
            weighted = "weighted" if dose.dose_type == "EFFECTIVE" else "not weighted"
            tally.note(f"{name} is {dose.dose_type}, {weighted} by biological effect, of an ion plan")
        else:
            tally.note(f"{name} is {dose.dose_type}")


def _dose_units(course: CheckedCourse, tally: Tally) -> None:
    for name, dose, _ in course.doses:
        if dose.units == "GY":
            tally.note(f"{name} is in Gy")
        elif dose.units is None:
            tally.fail(f"{name} does not state its units")
        else:
            tally.fail(f"{name} is in units {shown(dose.units, 16)}")


def _dose_grid(course: CheckedCourse, tally: Tally) -> None:
    planning = course.planning
    images = None if planning is None or isinstance(planning.grid, str) else _box_of(planning.grid)
    for name, dose, facts in course.doses:
        if facts.grid_fault:
            tally.fail(f"{name}: {facts.grid_fault}")
        elif dose.box_mm is None:
            tally.fail(f"{name}: the grid is not described")
        elif images is not None:
            low, high = np.maximum(dose.box_mm[0], images[0]), np.minimum(dose.box_mm[1], images[1])
            if np.any(low > high):
                tally.fail(f"{name} lies beside the images")
            else:
                share = 100 * float(np.prod(high - low) / np.prod(images[1] - images[0]))
                tally.note(f"{name} covers {share:.3g} % of the box around the images")


def _box_of(grid: ImageGrid) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], ...]:
    """Lowest and highest x, y, z of the voxels of a grid, to their outer faces [mm]."""
    ends = np.array(grid.shape) - 0.5
    corners = [np.where(np.array(corner), ends, -0.5) for corner in np.ndindex(2, 2, 2)]
    points = grid.to_patient(corners)
    return points.min(axis=0), points.max(axis=0)


def _dose_scaling(course: CheckedCourse, tally: Tally) -> None:
    prescribed = {
        one.plan_uid: max((target.dose_gy for target in one.targets if target.dose_gy), default=None)
        for one in course.inventory.prescriptions
    }
    for names, uids, lowest, highest, adds_up in _totals(course):
        known = [dose for uid in uids if (dose := prescribed.get(uid)) is not None]
        if not uids or len(known) < len(uids):
            tally.note(f"{names}: maximum {highest:.4g} Gy, beside no known prescription")
            continue
        # Of a plan and what replaced it parts were delivered: the total is between the two and their sum.
        least, most = sum(known) if adds_up else max(known), sum(known)
        rx = f"{most:.4g}" if adds_up else f"{least:.4g} to {most:.4g}"
        text = f"{names}: maximum {highest:.4g} Gy, prescribed {rx} Gy"
        if highest < least / IMPLAUSIBLE or lowest > most * IMPLAUSIBLE:
            tally.fail(text)
        elif highest < LEAST_OF_PRESCRIBED * least or lowest > MOST_OF_PRESCRIBED * most:
            tally.warn(text)
        else:
            tally.note(text)


def _totals(course: CheckedCourse) -> Iterator[tuple[str, frozenset[str], float, float, bool]]:
    """Each total dose: how it is called, its plans, its maximum [Gy] from and to, if prescriptions add up.

    The maximum of a sum is not below the highest and not above the sum of the maxima of its parts.
    """
    known = {
        dose.sop_instance_uid: (name, dose, facts.maximum)
        for name, dose, facts in course.doses
        if facts.maximum is not None and dose.units == "GY"
    }
    for decision in course.inventory.dose_decisions:
        singly = [(uid,) for uid in decision.used]
        for uids in [*singly, decision.summed]:
            parts = [known[uid] for uid in uids if uid in known]
            if not uids or len(parts) < len(uids):
                continue
            if len(parts) == 1 and parts[0][1].summation_type not in _TOTALS:
                continue
            maxima = [maximum for _, _, maximum in parts]
            plans = frozenset(uid for _, dose, _ in parts for uid in dose.plan_uids)
            if len(plans) == 1 and any(dose.summation_type == "MULTI_PLAN" for _, dose, _ in parts):
                plans = frozenset()  # what it is the sum of is not said
            names = " + ".join(name for name, _, _ in parts)
            yield names, plans, max(maxima), sum(maxima), decision.adds_up(plans)


def _dose_rule(course: CheckedCourse, tally: Tally) -> None:
    for decision in course.inventory.dose_decisions:
        count = len(decision.used) + len(decision.not_used)
        if decision.rule is DoseRule.AMBIGUOUS:
            tally.warn(f"nothing says what the total of {counted(count, 'dose')} is ({decision.rule.value})")
        else:
            tally.note(decision.rule.value)


def _chosen_series(course: CheckedCourse, tally: Tally) -> None:
    if course.planning is not None:
        text = f"{course.planning.name}: {course.chosen.reason}"
        (tally.warn if course.chosen.ambiguous else tally.note)(text)


def _copies(course: CheckedCourse, tally: Tally) -> None:
    aside = Counter(one.reason for one in course.inventory.set_aside)
    roles = Counter(
        one.role or "object" for one in course.inventory.set_aside if one.reason is Reason.DIFFERENT_COPIES
    )
    for role, count in sorted(roles.items()):
        one = f"1 copy ({role}) differs from others of its SOP Instance UID"
        several = f"{count} copies of {role}s differ from others of their SOP Instance UID"
        tally.fail(one if count == 1 else several)
    for text in course.texts_of_objects(FindingCode.COPIES_DIFFER):
        tally.fail(text)
    for reason, count in sorted(aside.items()):
        if reason is not Reason.DIFFERENT_COPIES:
            tally.note(f"{counted(count, 'object')} set aside: {reason.value}")
    if not aside and not tally.failures:
        tally.note("no copies")


def _patient_identity(course: CheckedCourse, tally: Tally) -> None:
    for text in course.texts(FindingCode.BIRTH_DATE_DIFFERS):
        tally.fail(text)
    for code in (FindingCode.PATIENT_NAME_DIFFERS, FindingCode.ISSUER_ABSENT):
        for text in course.texts(code):
            tally.warn(text)
    if not (tally.failures or tally.warnings):
        tally.note("one person")


_RULES: dict[str, Rule[CheckedCourse]] = {
    "images_present": _images_present,
    "plan_present": _missing("plan", lambda c: len(c.inventory.plans), lambda c: c.options.missing_plan),
    "dose_present": _missing("dose", lambda c: len(c.inventory.doses), lambda c: c.options.missing_dose),
    "structure_set_present": _missing(
        "structure set", lambda c: len(c.inventory.structure_sets), lambda c: c.options.missing_structure_set
    ),
    "objects_readable": _objects_readable,
    "image_grid": _image_grid,
    "image_orientation": _image_orientation,
    "image_order": _image_order,
    "patient_position": _patient_position,
    "frame_of_reference": _frame_of_reference,
    "references": _references,
    "referenced_images": _referenced_images,
    "beams_and_fractions": _beams_and_fractions,
    "plan_approval": _plan_approval,
    "plan_intent": _plan_intent,
    "isocentre": _isocentre,
    "dose_type": _dose_type,
    "dose_units": _dose_units,
    "dose_grid": _dose_grid,
    "dose_scaling": _dose_scaling,
    "dose_rule": _dose_rule,
    "chosen_series": _chosen_series,
    "copies": _copies,
    "patient_identity": _patient_identity,
}


def _numbers(numbers: Sequence[int]) -> str:
    first = ", ".join(map(str, numbers[:5]))
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"image{'s' if len(numbers) > 1 else ''} {first}{more}"


def _monotonic(places: Collection[float]) -> bool:
    steps = np.diff(list(places))
    return bool(np.all(steps > 0) or np.all(steps < 0))

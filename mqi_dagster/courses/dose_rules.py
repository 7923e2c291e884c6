"""Which doses of a course make up its total dose: a table of rules, each decision with the facts it rests on.

Doses are never summed silently: a sum needs a rule, and a rule needs statements of the objects themselves.
Where none applies, each dose stands by itself and the decision says what was missing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.courses.objects import Dose, Part, Plan, StructureSet

Floats = NDArray[np.float64]

SAME_REGION_OVERLAP = 0.30
"""Two doses lie in one region where their boxes share this part of the smaller one, or more."""
SAME_DOSE_GY = 0.01
"""Prescriptions that differ by less are the same."""

_REPLANS_IN_SUM = "replans_in_sum"
"""Fact of a sum: its plans that stand in place of another one of it."""

_BOOST = re.compile(r"\b(boost|bst|cone ?down|phase ?(?:2|3|ii|iii)|ph ?[23])\b")
_WITHIN = re.compile(r"\b(s?sib|simult\w*|integr\w*|concomitant\w*)\b")
"""What says that a boost is given within the fractions of the plan."""
_DENIED = re.compile(
    r"\b(no|non|not|without|w o|ohne|kein\w*|nicht|sans|pre|before|vor"
    r"|with|mit|incl\w*|inkl\w*|plus|and|und|sum|total|composite)\b"
)
"""What beside a word for a boost says that there is none here, or more than it."""
_REPLAN = re.compile(r"\b(re ?plan\w*|adapt\w*|re ?sim\w*|re ?scan|copy|rev ?\d+|v ?[2-9])\b")
_DERIVED, _ALTERNATIVE = frozenset({"PREDECESSOR"}), frozenset({"ALTERNATIVE"})
"""What a plan calls the one that it replaces, and one that would replace it (PS3.3 C.8.8.9)."""
_BESIDE = frozenset({"PRIOR", "CONCURRENT"})
"""What a plan calls one that is delivered before it, or together with it."""

Fact = str | int | float | None | tuple[str, ...]


class DoseRule(StrEnum):
    """The rules, by the names that stand in inventories and tables."""

    PLAN_DOSE = "plan_dose_used"
    """A plan has a dose of its own; those of its beams or fraction groups are parts of that."""
    BEAMS = "beam_doses_summed"
    """Every treatment beam of the plan has exactly one dose, and the plan has none of its own."""
    FRACTIONS = "fraction_doses_summed"
    """The same of its fraction groups."""
    REJECTED = "rejected_plan_not_used"
    """The plan's Approval Status is REJECTED."""
    SEPARATE_COURSES = "separate_courses_no_sum"
    """Doses lie in different Frames of Reference: each of these is decided by itself."""
    PLAN_SUM = "PLAN_SUM_used"
    """A dose of several plans is there, covers every plan that has a dose, and holds none of a plan that
    was rejected or is not for treatment."""
    SINGLE = "single_dose"
    """One plan has a dose."""
    SEPARATE_REGIONS = "separate_regions_no_sum"
    """Boxes of doses overlap by less than 30 %: each region is decided by itself."""
    REPLAN = "replan_itt_first"
    """A plan stands in place of another: the first one is used, as it was intended."""
    BOOST = "primary_boost_summed"
    """Plans say that they are delivered one after, or beside, the other."""
    AMBIGUOUS = "ambiguous_no_sum"
    """No rule says what the total is: each dose stands by itself, but for one that holds the dose of a
    rejected plan, which is not used."""


class DoseDecision(Part):
    """What was decided about doses of a course, and why."""

    rule: DoseRule
    plan_uid: str | None = None
    """The plan of which this says what its own dose is; None in what says what the total is."""
    summed: tuple[str, ...] = ()
    """SOP Instance UIDs of the doses that are to be summed on one grid."""
    used: tuple[str, ...] = ()
    """Those of which each is a total by itself."""
    not_used: tuple[str, ...] = ()
    """Those that are no part of the total."""
    facts: dict[str, Fact]

    def adds_up(self, plans: Collection[str]) -> bool:
        """Whether what the plans of one of its doses prescribe adds up: not where one replaces another."""
        return len(plans) < 2 or _REPLANS_IN_SUM not in self.facts


class TargetDose(Part):
    """What a plan prescribes to a target."""

    dose_reference_number: int | None
    description: str | None
    roi_number: int | None
    roi_name: str | None
    """From the structure set that the plan refers to."""
    dose_gy: float | None
    """Target Prescription Dose; None where the plan does not state it."""


class Prescription(Part):
    """What a plan prescribes."""

    plan_uid: str
    fractions_planned: int | None
    targets: tuple[TargetDose, ...]


def prescription(plan: Plan, structure_sets: Iterable[StructureSet]) -> Prescription:
    """A plan's prescription from its Dose Reference Sequence and fraction groups, and from nothing else.

    Args:
        plan: The plan.
        structure_sets: Those of its course.
    """
    rois = {
        roi.number: roi.name
        for one in structure_sets
        if one.sop_instance_uid in plan.structure_set_uids
        for roi in one.rois
    }
    return Prescription(
        plan_uid=plan.sop_instance_uid,
        fractions_planned=plan.fractions_planned,
        targets=tuple(
            TargetDose(
                dose_reference_number=one.number,
                description=one.description,
                roi_number=one.roi_number,
                roi_name=None if one.roi_number is None else rois.get(one.roi_number),
                dose_gy=one.target_prescription_dose_gy,
            )
            for one in plan.dose_references
            if one.dose_reference_type == "TARGET"
        ),
    )


def decide_doses(plans: Sequence[Plan], doses: Sequence[Dose]) -> tuple[DoseDecision, ...]:
    """Apply the rules to the doses of a course: first to each plan, then to all plans together."""
    by_uid = {plan.sop_instance_uid: plan for plan in plans}
    of_plan: dict[str, list[Dose]] = {}
    plan_doses, sums, unclear = list[_PlanDose](), list[Dose](), list[Dose]()
    for dose in sorted(doses, key=lambda dose: dose.sop_instance_uid):
        named = set(dose.plan_uids)
        if dose.summation_type == "MULTI_PLAN" or len(named) > 1:
            sums.append(dose)
        elif named:
            of_plan.setdefault(named.pop(), []).append(dose)
        elif dose.summation_type == "PLAN":
            plan_doses.append(_PlanDose(dose.sop_instance_uid, None, (dose,)))
        else:
            unclear.append(dose)
    decisions: list[DoseDecision] = []
    for uid, found in of_plan.items():
        plan = by_uid.get(uid)
        decision = _of_plan(uid, plan, found)
        if decision is not None:
            decisions.append(decision)
        if decision is not None and decision.rule is DoseRule.AMBIGUOUS:
            unclear += found
        elif decision is None or decision.rule is not DoseRule.REJECTED:
            parts = set() if decision is None else set(decision.not_used)
            own = tuple(dose for dose in found if dose.sop_instance_uid not in parts)
            plan_doses.append(_PlanDose(uid, plan, own))
    decisions.sort(key=lambda one: one.plan_uid or "")
    plan_doses.sort(key=lambda one: one.uid)
    return (*decisions, *_decided(_Candidates(tuple(plan_doses), tuple(sums), tuple(unclear), by_uid)))


@dataclass(frozen=True, slots=True)
class _PlanDose:
    """The dose of one plan: one object, or the parts that make it up."""

    uid: str
    plan: Plan | None
    doses: tuple[Dose, ...]

    @property
    def frame(self) -> str | None:
        return self.doses[0].frame_of_reference_uid

    @property
    def boost_word(self) -> str:
        return "" if self.denies_boost else self._word(_BOOST)

    @property
    def denies_boost(self) -> bool:
        """Whether its words say that its boost, if any, is no plan of its own."""
        return bool(self._word(_WITHIN) or (self._word(_BOOST) and self._word(_DENIED)))

    @property
    def replan_word(self) -> str:
        return self._word(_REPLAN)

    def _word(self, pattern: re.Pattern[str]) -> str:
        """The word of its plan's label or name that matches; empty where none does."""
        texts = [] if self.plan is None else [self.plan.label or "", self.plan.name or ""]
        spelled = re.sub("[+&]", " plus ", " ".join(texts).lower())
        found = pattern.search(re.sub(r"[\W_]+", " ", spelled))
        return "" if found is None else found.group()

    def names(self, other: _PlanDose, relationships: frozenset[str]) -> str:
        """As which of these its plan names the plan of another one; empty where it does not."""
        plans = () if self.plan is None or other is self else self.plan.related_plans
        found = (one.relationship for one in plans if one.uid == other.uid)
        return next((one for one in found if one is not None and one in relationships), "")


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Doses of which a total is to be told."""

    plan_doses: tuple[_PlanDose, ...]
    sums: tuple[Dose, ...]
    """Doses of several plans."""
    unclear: tuple[Dose, ...]
    """Doses of plans of which nobody can say what their own dose is."""
    plans: Mapping[str, Plan]
    """Every plan of the course, by SOP Instance UID."""

    @property
    def all(self) -> list[Dose]:
        return [*self.sums, *self.unclear, *(dose for one in self.plan_doses for dose in one.doses)]


@dataclass(frozen=True, slots=True)
class _Verdict:
    decision: DoseDecision
    rest: tuple[_Candidates, ...] = ()
    """What the rules are applied to once more."""


def _decided(candidates: _Candidates) -> Iterator[DoseDecision]:
    if not candidates.all:
        return
    for rule in _RULES:
        verdict = rule(candidates)
        if verdict is not None:
            yield verdict.decision
            for rest in verdict.rest:
                yield from _decided(rest)
            return


def _of_plan(uid: str, plan: Plan | None, doses: Sequence[Dose]) -> DoseDecision | None:
    """What the dose of one plan is; None where it is its only one."""
    if plan is not None and plan.approval == "REJECTED":
        rejected: dict[str, Fact] = {"approval_status": plan.approval}
        return DoseDecision(rule=DoseRule.REJECTED, plan_uid=uid, not_used=_uids(doses), facts=rejected)
    whole = [dose for dose in doses if dose.summation_type == "PLAN"]
    if len(doses) == 1 and whole:
        return None
    kinds = Counter(dose.summation_type or "absent" for dose in doses)
    facts: dict[str, Fact] = {"summation_types": tuple(f"{kind}: {n}" for kind, n in sorted(kinds.items()))}
    if len(whole) == 1:
        rest = [dose for dose in doses if dose is not whole[0]]
        return DoseDecision(
            rule=DoseRule.PLAN_DOSE, plan_uid=uid, used=_uids(whole), not_used=_uids(rest), facts=facts
        )
    for kind, rule in (("BEAM", DoseRule.BEAMS), ("FRACTION", DoseRule.FRACTIONS)):
        if set(kinds) != {kind}:
            continue
        parts = Counter(n for dose in doses for n in (dose.beams if kind == "BEAM" else dose.fraction_groups))
        wanted = _parts_of(plan, kind)
        facts["planned"] = tuple(map(str, sorted(wanted)))
        facts["with_dose"] = tuple(map(str, sorted(parts.elements())))
        facts["differ"] = _differing(doses)
        if wanted and parts == Counter(wanted) and not facts["differ"]:
            return DoseDecision(rule=rule, plan_uid=uid, summed=_uids(doses), facts=facts)
    return DoseDecision(rule=DoseRule.AMBIGUOUS, plan_uid=uid, used=_uids(doses), facts=facts)


def _parts_of(plan: Plan | None, kind: str) -> frozenset[int]:
    if plan is None:
        return frozenset()
    if kind == "BEAM":
        return plan.treatment_beams
    return frozenset(group.number for group in plan.fraction_groups if group.number is not None)


def _separate_courses(candidates: _Candidates) -> _Verdict | None:
    frames = sorted({dose.frame_of_reference_uid or "" for dose in candidates.all})
    if len(frames) == 1:
        return None

    def within(frame: str) -> _Candidates:
        return replace(
            candidates,
            plan_doses=tuple(one for one in candidates.plan_doses if (one.frame or "") == frame),
            sums=tuple(dose for dose in candidates.sums if (dose.frame_of_reference_uid or "") == frame),
            unclear=tuple(
                dose for dose in candidates.unclear if (dose.frame_of_reference_uid or "") == frame
            ),
        )

    facts: dict[str, Fact] = {"frames_of_reference": tuple(frame or "absent" for frame in frames)}
    decision = DoseDecision(rule=DoseRule.SEPARATE_COURSES, facts=facts)
    return _Verdict(decision, tuple(within(frame) for frame in frames))


def _plan_sum(candidates: _Candidates) -> _Verdict | None:
    if not candidates.sums:
        return None
    first = candidates.sums[0]
    named = {uid for dose in candidates.sums for uid in dose.plan_uids}
    with_dose = {one.uid for one in candidates.plan_doses}
    uncovered = with_dose - set(first.plan_uids)
    rejected = {uid for uid in named if (plan := candidates.plans.get(uid)) and plan.approval == "REJECTED"}
    not_for_treatment = {uid for uid in named if (plan := candidates.plans.get(uid)) and not plan.treats}
    facts: dict[str, Fact] = {
        "plan_sums": len(candidates.sums),
        "summation_type": first.summation_type,
        "plans_in_sum": tuple(sorted(set(first.plan_uids))),
        "plans_with_dose_outside": tuple(sorted(uncovered)),
    }
    if rejected:
        facts["rejected_plans_in_sum"] = tuple(sorted(rejected))
    if not_for_treatment:
        facts["plans_in_sum_not_for_treatment"] = tuple(sorted(not_for_treatment))
    summed = [_PlanDose(uid, candidates.plans.get(uid), ()) for uid in sorted(set(first.plan_uids))]
    if replans := tuple(one.uid for one in summed if _replan_evidence(one, summed)):
        facts[_REPLANS_IN_SUM] = replans
    parts = [dose for one in candidates.plan_doses for dose in one.doses]
    covers = len(candidates.sums) == 1 and len(set(first.plan_uids)) > 1 and not uncovered
    if covers and not candidates.unclear and not rejected and not not_for_treatment:
        return _Verdict(
            DoseDecision(rule=DoseRule.PLAN_SUM, used=_uids([first]), not_used=_uids(parts), facts=facts)
        )
    not_used = [dose for dose in candidates.sums if rejected & set(dose.plan_uids)]
    used = [dose for dose in candidates.all if dose not in not_used]
    return _Verdict(
        DoseDecision(rule=DoseRule.AMBIGUOUS, used=_uids(used), not_used=_uids(not_used), facts=facts)
    )


def _unclear(candidates: _Candidates) -> _Verdict | None:
    if not candidates.unclear:
        return None
    facts: dict[str, Fact] = {"doses_of_unclear_plans": len(candidates.unclear)}
    return _Verdict(DoseDecision(rule=DoseRule.AMBIGUOUS, used=_uids(candidates.all), facts=facts))


def _single(candidates: _Candidates) -> _Verdict | None:
    if len(candidates.plan_doses) != 1:
        return None
    (only,) = candidates.plan_doses
    facts: dict[str, Fact] = {"plan": only.uid if only.plan is not None else None}
    if len(only.doses) > 1:
        return _Verdict(DoseDecision(rule=DoseRule.SINGLE, summed=_uids(only.doses), facts=facts))
    return _Verdict(DoseDecision(rule=DoseRule.SINGLE, used=_uids(only.doses), facts=facts))


def _separate_regions(candidates: _Candidates) -> _Verdict | None:
    overlaps = _overlaps(candidates.plan_doses)
    if overlaps is None:
        return None
    regions = [{one.uid} for one in candidates.plan_doses]
    for (first, second), overlap in overlaps.items():
        if overlap >= SAME_REGION_OVERLAP:
            joined = [region for region in regions if first in region or second in region]
            regions = [region for region in regions if region not in joined] + [set().union(*joined)]
    if len(regions) == 1:
        return None
    regions.sort(key=min)
    apart = [
        overlap
        for (first, second), overlap in overlaps.items()
        if not any(first in region and second in region for region in regions)
    ]
    facts: dict[str, Fact] = {"regions": len(regions), "largest_overlap": round(max(apart), 4)}
    rest = tuple(
        replace(candidates, plan_doses=tuple(one for one in candidates.plan_doses if one.uid in region))
        for region in regions
    )
    return _Verdict(DoseDecision(rule=DoseRule.SEPARATE_REGIONS, facts=facts), rest)


def _replan(candidates: _Candidates) -> _Verdict | None:
    every = candidates.plan_doses
    if any(_contradicts_itself(one, every) for one in every):
        return None
    evidence = {one.uid: _replan_evidence(one, every) for one in every}
    later = [one for one in every if evidence[one.uid]]
    first = tuple(one for one in every if not evidence[one.uid])
    if not later or not first:
        return None
    facts: dict[str, Fact] = {
        "replans": tuple(one.uid for one in later),
        "evidence": tuple(evidence[one.uid] for one in later),
    }
    not_used = _uids([dose for one in later for dose in one.doses])
    decision = DoseDecision(rule=DoseRule.REPLAN, not_used=not_used, facts=facts)
    return _Verdict(decision, (replace(candidates, plan_doses=first),))


def _boost(candidates: _Candidates) -> _Verdict | None:
    every = candidates.plan_doses
    if _doubts(every):
        return None
    evidence = {one.uid: _boost_evidence(one, every) for one in every}
    facts: dict[str, Fact] = {
        "primary": tuple(uid for uid, said in evidence.items() if not said),
        "evidence": tuple(said for said in evidence.values() if said),
    }
    return _Verdict(DoseDecision(rule=DoseRule.BOOST, summed=_uids(candidates.all), facts=facts))


def _ambiguous(candidates: _Candidates) -> _Verdict:
    facts: dict[str, Fact] = {"doubts": _doubts(candidates.plan_doses)}
    return _Verdict(DoseDecision(rule=DoseRule.AMBIGUOUS, used=_uids(candidates.all), facts=facts))


def _doubts(every: Sequence[_PlanDose]) -> tuple[str, ...]:
    """What keeps the doses of several plans from being summed."""
    doubts = list(_differing([dose for one in every for dose in one.doses]))
    if _overlaps(every) is None:
        doubts.append("a dose whose grid is not described")
    plans = [one.plan for one in every if one.plan is not None]
    if len(plans) < len(every):
        doubts.append("a dose whose plan is not there")
    if not all(plan.treats for plan in plans):
        doubts.append("a plan that is not for treatment")
    if len({plan.intent for plan in plans if plan.treats and plan.intent is not None}) > 1:
        doubts.append("plans of different intents")
    # A plan that does not state its approval was not approved.
    if len({plan.approval or "UNAPPROVED" for plan in plans}) > 1:
        doubts.append("plans of different approval")
    if any(_contradicts_itself(one, every) for one in every):
        doubts.append("a plan that is called both a boost and a copy of its primary")
    if any(one.replan_word for one in every):
        doubts.append("a replan without the plan that it replaces")
    stated = [one for one in every if any(one.names(other, _BESIDE) for other in every)]
    if any(_same_prescription(a, b) for a, b in combinations(every, 2) if not (a in stated or b in stated)):
        doubts.append("plans that prescribe the same")
    if not (_all_linked(every) or _one_boost_by_word(every)):
        doubts.append("no statement which plan is delivered beside which")
    return tuple(doubts)


def _all_linked(every: Sequence[_PlanDose]) -> bool:
    """Whether statements of the plans themselves link each with all others, if by way of some of them."""
    linked, found = [every[0]], [every[0]]
    while found:
        one = found.pop()
        new = [other for other in every if other not in linked and _beside(one, other)]
        linked += new
        found += new
    return len(linked) == len(every)


def _beside(one: _PlanDose, other: _PlanDose) -> bool:
    """Whether one of two plans says that it is delivered beside or after the other."""
    return bool(one.names(other, _BESIDE) or other.names(one, _BESIDE))


def _one_boost_by_word(every: Sequence[_PlanDose]) -> bool:
    """Whether there are two plans, of which words call one a boost and the other one nothing of that kind."""
    boosts = [one for one in every if one.boost_word]
    return len(every) == 2 and len(boosts) == 1 and not any(one.denies_boost for one in every)


_RULES: tuple[Callable[[_Candidates], _Verdict | None], ...] = (
    _separate_courses,
    _plan_sum,
    _unclear,
    _single,
    _separate_regions,
    _replan,
    _boost,
    _ambiguous,
)
"""In this order; the first that applies decides, and the last one always does."""


def _replan_evidence(one: _PlanDose, every: Sequence[_PlanDose]) -> str:
    """What says that a plan stands in place of another one; empty where nothing does."""
    for other in every:
        if stated := _stands_for(one, other):
            return stated
    originals = [
        other
        for other in every
        if other is not one
        and not other.replan_word
        and not _boost_evidence(other, every)
        and not _earlier(one, other)
    ]
    if not originals or _boost_evidence(one, every):
        return ""
    if one.replan_word:
        return one.replan_word
    for other in originals:
        if _earlier(other, one) and _same_prescription(one, other):
            return "same prescription, later date"
    return ""


def _stands_for(one: _PlanDose, other: _PlanDose) -> str:
    """What states that a plan stands in place of another one; empty where nothing does."""
    return one.names(other, _DERIVED) or other.names(one, _ALTERNATIVE)


def _contradicts_itself(one: _PlanDose, every: Sequence[_PlanDose]) -> bool:
    """Whether a plan is stated to stand for another one and, by statement or word, to be delivered beside it.

    A new version of a boost stands for a boost, which is no contradiction.
    """
    return any(
        _beside(one, other) or (bool(_boost_evidence(one, every)) and not _boost_evidence(other, every))
        for other in every
        if _stands_for(one, other)
    )


def _earlier(one: _PlanDose, other: _PlanDose) -> bool:
    """Whether a plan's date is known to be before that of another."""
    ours, theirs = (None if o.plan is None else o.plan.plan_date for o in (one, other))
    return ours is not None and theirs is not None and ours < theirs


def _boost_evidence(one: _PlanDose, every: Sequence[_PlanDose]) -> str:
    """What says that a plan is delivered beside or after another one; empty where nothing does."""
    stated = (one.names(other, _BESIDE) for other in every)
    return next(filter(None, stated), one.boost_word)


def _same_prescription(one: _PlanDose, other: _PlanDose) -> bool:
    if one.plan is None or other.plan is None or one.plan.fractions_planned is None:
        return False
    ours, theirs = one.plan.target_doses_gy, other.plan.target_doses_gy
    return (
        one.plan.fractions_planned == other.plan.fractions_planned
        and 0 < len(ours) == len(theirs)
        and all(abs(a - b) < SAME_DOSE_GY for a, b in zip(ours, theirs, strict=True))
    )


def _differing(doses: Sequence[Dose]) -> tuple[str, ...]:
    """What keeps doses from being summed: units or types that differ, or units other than gray."""
    faults = []
    if {dose.units for dose in doses} != {"GY"}:
        faults.append("units other than GY")
    if len({dose.dose_type for dose in doses}) > 1:
        faults.append("dose types")
    if len({dose.frame_of_reference_uid for dose in doses}) > 1:
        faults.append("Frames of Reference")
    return tuple(faults)


def _overlaps(every: Sequence[_PlanDose]) -> dict[tuple[str, str], float] | None:
    """For each two plans the part of the smaller dose box that both share; None where a box is not known."""
    boxes = {}
    for one in every:
        own = [dose.box_mm for dose in one.doses]
        known = [box for box in own if box is not None]
        if len(known) < len(own):
            return None
        box = np.min([low for low, _ in known], axis=0), np.max([high for _, high in known], axis=0)
        if np.any(box[1] <= box[0]):
            return None
        boxes[one.uid] = box
    return {(a, b): _overlap(boxes[a], boxes[b]) for a, b in combinations(sorted(boxes), 2)}


def _overlap(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> float:
    """The volume that two boxes share, as a part of the smaller one's volume."""
    shared = np.minimum(first[1], second[1]) - np.maximum(first[0], second[0])
    volumes = [float(np.prod(high - low)) for low, high in (first, second)]
    return float(np.prod(np.clip(shared, 0.0, None))) / min(volumes)


def _uids(doses: Sequence[Dose]) -> tuple[str, ...]:
    return tuple(sorted(dose.sop_instance_uid for dose in doses))

"""Which doses of a course are measured: what the rules of its inventory have chosen, and why the rest is not.

Nothing is summed that no rule sums, nothing in other units than gray is measured, and a sum is of one type of
dose (PS3.3 C.8.8.3). The prescribed dose is that of the plans, and never told from the dose itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mqi_dagster.courses.dose_rules import DoseDecision, DoseRule
from mqi_dagster.courses.inventory import CourseInventory
from mqi_dagster.courses.objects import Dose
from mqi_dagster.errors import shown
from mqi_dagster.imaging.dvh_files import DoseNotUsed, NotUsedCause
from mqi_dagster.imaging.dvh_table import prescribed

DOSE_TYPES = ("PHYSICAL", "EFFECTIVE")
"""Those of a dose that a patient gets; ERROR is a difference of doses."""
_WHOLE = frozenset({"PLAN", "MULTI_PLAN"})
_LEFT_OUT = {
    DoseRule.PLAN_DOSE: "it is a part of its plan's own dose, which is used",
    DoseRule.REJECTED: "its plan was rejected",
    DoseRule.PLAN_SUM: "it is a part of the dose of several plans, which is used",
    DoseRule.AMBIGUOUS: "it holds the dose of a rejected plan",
    DoseRule.REPLAN: "its plan stands in place of another one, whose dose is used",
}
_LONGEST_LABEL = 64


@dataclass(frozen=True, slots=True)
class TotalDose:
    """A dose of a course that is measured, or several that are summed first."""

    rule: DoseRule
    doses: tuple[Dose, ...]
    label: str
    dose_type: str | None
    """Of all of them; None where one alone does not state it."""
    prescription_gy: float | None
    prescription_source: str
    """Where it comes from, or why there is none."""

    @property
    def uids(self) -> tuple[str, ...]:
        """SOP Instance UIDs."""
        return tuple(dose.sop_instance_uid for dose in self.doses)

    @property
    def plan_uids(self) -> tuple[str, ...]:
        """Of the plans that they are of."""
        return _plans_of(self.doses)


def total_doses(inventory: CourseInventory) -> tuple[list[TotalDose], list[DoseNotUsed]]:
    """The doses of a course that are measured, and those that are not, each with its reason."""
    found = {one.found.sop_instance_uid: one.found for one in inventory.doses}
    totals: list[TotalDose] = []
    refused: list[DoseNotUsed] = []
    for decision in inventory.dose_decisions:
        if decision.plan_uid is not None:
            continue
        for uids in (decision.summed, *((uid,) for uid in decision.used)):
            doses = tuple(found[uid] for uid in uids)
            if not doses:
                continue
            fault = _fault(doses)
            if fault is None:
                totals.append(_total(decision, doses, inventory))
            else:
                refused += [DoseNotUsed(dose_uid=uid, cause=fault[0], reason=fault[1]) for uid in uids]
    told = {uid for total in totals for uid in total.uids} | {one.dose_uid for one in refused}
    left_out = {uid: one.rule for one in inventory.dose_decisions for uid in one.not_used}
    for uid in found:
        if uid not in told:
            reason = _LEFT_OUT.get(left_out[uid], "its rule leaves it out") if uid in left_out else ""
            refused.append(DoseNotUsed(dose_uid=uid, reason=reason or "no rule chooses it"))
    return totals, refused


def _fault(doses: Sequence[Dose]) -> tuple[NotUsedCause, str] | None:
    """Why doses are not measured."""
    sum_of = f" (of the {len(doses)} doses of a sum)" if len(doses) > 1 else ""
    units = sorted({dose.units or "not stated" for dose in doses})
    if units != ["GY"]:
        return NotUsedCause.UNITS, f"DoseUnits is {shown(', '.join(units))}{sum_of}, not GY"
    types = sorted({dose.dose_type or "not stated" for dose in doses})
    if len(types) > 1:
        return NotUsedCause.DOSE_TYPE, f"a rule sums doses of different DoseType: {shown(', '.join(types))}"
    if doses[0].dose_type is None:
        reason = "a rule sums it with others, and none states its DoseType"
        return (NotUsedCause.DOSE_TYPE, reason) if sum_of else None
    if doses[0].dose_type not in DOSE_TYPES:
        return NotUsedCause.DOSE_TYPE, f"DoseType is {shown(types[0])}, neither PHYSICAL nor EFFECTIVE"
    return None


def _total(decision: DoseDecision, doses: tuple[Dose, ...], inventory: CourseInventory) -> TotalDose:
    prescription_gy, source = _prescription(doses, inventory)
    if prescription_gy is not None and not decision.adds_up(_plans_of(doses)):
        prescription_gy, source = None, "a plan of the dose stands in place of another one of it"
    return TotalDose(
        rule=decision.rule,
        doses=doses,
        label=_label(doses, inventory),
        dose_type=doses[0].dose_type,
        prescription_gy=prescription_gy,
        prescription_source=source,
    )


def _plans_of(doses: Sequence[Dose]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(uid for dose in doses for uid in dose.plan_uids))


def _label(doses: Sequence[Dose], inventory: CourseInventory) -> str:
    plans = {one.found.sop_instance_uid: one.found for one in inventory.plans}
    names = [
        (plans[uid].label or plans[uid].name or "plan without a label")
        if uid in plans
        else "plan that is not there"
        for uid in _plans_of(doses)
    ]
    label = shown(" + ".join(names) or "dose without a plan", _LONGEST_LABEL)
    if len(doses) > 1:
        return label if len(names) > 1 else f"{label}, {len(doses)} doses"
    beams = ", ".join(map(str, doses[0].beams))
    return f"{label}, beam {beams}" if beams and doses[0].summation_type not in _WHOLE else label


def _prescription(doses: Sequence[Dose], inventory: CourseInventory) -> tuple[float | None, str]:
    """The prescribed dose that belongs to some doses, and where it comes from."""
    plans = _plans_of(doses)
    if not plans:
        return None, "the dose names no plan"
    if len(plans) == 1 and any(dose.summation_type == "MULTI_PLAN" for dose in doses):
        return None, "the dose is of several plans and names one of them"
    known_plans = {one.found.sop_instance_uid: one.found for one in inventory.plans}
    if len(plans) > 1 and not all(known_plans[uid].treats for uid in plans if uid in known_plans):
        return None, "a plan of the dose is not for treatment"
    uids = {dose.sop_instance_uid for dose in doses}
    parts = [plan for plan in plans if not _is_whole(plan, doses, uids, inventory)]
    if parts:
        kinds = sorted({dose.summation_type or "not stated" for dose in doses})
        return None, f"the dose is not that of a whole plan (DoseSummationType {shown(', '.join(kinds))})"
    stated = {
        one.plan_uid: [dose for target in one.targets if (dose := prescribed(target.dose_gy)) is not None]
        for one in inventory.prescriptions
    }
    known = [stated[plan] for plan in plans if plan in stated]
    if len(known) < len(plans):
        return None, "a plan of the dose is not there"
    if not all(known):
        whose = "the plan states" if len(plans) == 1 else "one of the plans states"
        return None, f"{whose} no Target Prescription Dose"
    total = sum(map(max, known))
    if len(plans) > 1:
        several = ", of each the highest" if any(len(one) > 1 for one in known) else ""
        return total, f"sum of the Target Prescription Doses of {len(plans)} plans{several}"
    if len(known[0]) > 1:
        return total, f"highest of {len(known[0])} Target Prescription Doses of the plan"
    return total, "Target Prescription Dose of the plan"


def _is_whole(plan: str, doses: Sequence[Dose], uids: set[str], inventory: CourseInventory) -> bool:
    """Whether doses hold all of a plan's dose."""
    if any(plan in dose.plan_uids and dose.summation_type in _WHOLE for dose in doses):
        return True
    return any(
        decision.plan_uid == plan
        and decision.rule in (DoseRule.BEAMS, DoseRule.FRACTIONS)
        and uids >= set(decision.summed)
        for decision in inventory.dose_decisions
    )

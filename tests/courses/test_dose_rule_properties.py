"""What no rule may do, whatever plans and doses say of themselves."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mqi_dagster.courses.dose_rules import DoseRule, decide_doses
from mqi_dagster.courses.objects import Dose, Plan
from tests.courses.made_objects import Made, items, parsed

MADE = Made(1)
LABELS = ("plan", "boost", "phase 2", "no boost", "SIB boost", "replan", "boost v2")
RELATIONSHIPS = ("PRIOR", "CONCURRENT", "PREDECESSOR", "ALTERNATIVE", "VERIFIED_PLAN")
INTENTS = (None, "CURATIVE", "PALLIATIVE", "VERIFICATION", "MACHINE_QA", "RESEARCH", "SERVICE")
APPROVALS = (None, "APPROVED", "UNAPPROVED", "REJECTED")

PLAN = parsed(MADE.plan())
DOSE = parsed(MADE.dose())
assert isinstance(PLAN, Plan)
assert isinstance(DOSE, Dose)


def link(kind: str, index: int) -> Plan:
    """A plan of which only what it names is of use."""
    found = parsed(
        MADE.plan(9, ReferencedRTPlanSequence=items(
            [{"ReferencedSOPInstanceUID": MADE.uid(30, index), "RTPlanRelationship": kind}]))
    )  # fmt: skip
    assert isinstance(found, Plan)
    return found


LINKS = {(kind, n): link(kind, n).related_plans for kind in RELATIONSHIPS for n in range(1, 5)}


@st.composite
def courses(draw: st.DrawFn) -> tuple[list[Plan], list[Dose]]:
    count = draw(st.integers(1, 4))
    plans = [
        PLAN.model_copy(
            update={
                "sop_instance_uid": MADE.uid(30, n),
                "label": draw(st.sampled_from(LABELS)),
                "intent": draw(st.sampled_from(INTENTS)),
                "approval": draw(st.sampled_from(APPROVALS)),
                "related_plans": draw(st.sampled_from([(), *LINKS.values()])),
            }
        )
        for n in range(1, count + 1)
    ]
    numbers = st.lists(st.integers(1, count + 1), max_size=3, unique=True)
    doses = [
        DOSE.model_copy(
            update={
                "sop_instance_uid": MADE.uid(40, n),
                "summation_type": draw(st.sampled_from(("PLAN", "MULTI_PLAN", "BEAM", None))),
                "plan_uids": tuple(MADE.uid(30, number) for number in draw(numbers)),
                "beams": draw(st.sampled_from(((), (1,), (2,)))),
            }
        )
        for n in range(1, draw(st.integers(1, 5)) + 1)
    ]
    return plans, doses


@given(courses())
@settings(max_examples=400, deadline=None)
def test_no_dose_of_a_rejected_plan_is_used_and_none_of_other_intents_is_summed(
    course: tuple[list[Plan], list[Dose]],
) -> None:
    plans, doses = course
    intents = {one.sop_instance_uid: one.intent for one in plans}
    rejected = {one.sop_instance_uid for one in plans if one.approval == "REJECTED"}
    of = {one.sop_instance_uid: set(one.plan_uids) for one in doses}

    told = set[str]()
    for decision in decide_doses(plans, doses):
        told |= {*decision.summed, *decision.used, *decision.not_used}
        for uid in (*decision.summed, *decision.used):
            assert not of[uid] & rejected
        together = {plan for uid in decision.summed for plan in of[uid]}
        if decision.rule is DoseRule.PLAN_SUM:
            (only,) = decision.used
            assert len(of[only]) > 1
            together = of[only]
        if len(together) > 1:
            stated = {intents[plan] for plan in together if plan in intents} - {None}
            assert stated <= {"CURATIVE", "PALLIATIVE"}
            if decision.summed:
                assert len(stated) <= 1
    assert told == of.keys()

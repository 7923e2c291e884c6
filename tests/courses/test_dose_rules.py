"""The rules for the total dose, at their edges; the plain cases stand in the table of the made tree."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

from mqi_dagster.courses.dose_rules import DoseDecision, decide_doses, prescription
from mqi_dagster.courses.objects import Dose, Plan, StructureSet
from tests.courses.made_objects import Made, items, parsed
from tests.courses.test_made_tree import decided

MADE = Made(1)
_Kind = TypeVar("_Kind", Plan, Dose, StructureSet)


def of(kind: type[_Kind], *contents: bytes) -> list[_Kind]:
    return [found for content in contents if isinstance(found := parsed(content), kind)]


def decisions(*contents: bytes) -> list[str]:
    return [decided(one) for one in all_decisions(*contents)]


def all_decisions(*contents: bytes) -> tuple[DoseDecision, ...]:
    return decide_doses(of(Plan, *contents), of(Dose, *contents))


BOOST = [MADE.plan(1), MADE.plan(2, label="boost", dose_gy=10.0), MADE.dose(1)]
TWO_DOSES = [MADE.dose(1), MADE.dose(2, plans=[2])]


def test_the_order_of_objects_changes_nothing() -> None:
    contents = [*BOOST, MADE.dose(2, plans=[2]), MADE.plan(3, label="replan"), MADE.dose(3, plans=[3])]

    assert all_decisions(*contents) == all_decisions(*reversed(contents))


@pytest.mark.parametrize(
    ("x_mm", "expected"),
    [
        (9.7, ["primary_boost_summed 1+2"]),  # 4.3 mm of 14 mm: 30.7 %
        (9.9, ["separate_regions_no_sum", "single_dose 1", "single_dose 2"]),  # 29.3 %
        (500.0, ["separate_regions_no_sum", "single_dose 1", "single_dose 2"]),
    ],
)
def test_regions_are_one_from_30_percent_of_the_smaller_box_on(x_mm: float, expected: list[str]) -> None:
    assert decisions(*BOOST, MADE.dose(2, plans=[2], x_mm=x_mm)) == expected


def test_a_small_dose_within_a_large_one_is_in_its_region() -> None:
    assert decisions(*BOOST, MADE.dose(2, plans=[2], Rows=3, Columns=3)) == ["primary_boost_summed 1+2"]


def test_regions_may_hold_several_doses() -> None:
    plans = [*BOOST[:2], MADE.plan(3, dose_gy=40.0)]
    doses = [MADE.dose(1), MADE.dose(2, plans=[2]), MADE.dose(3, plans=[3], x_mm=300.0)]

    found = all_decisions(*plans, *doses)

    assert [decided(one) for one in found] == [
        "separate_regions_no_sum",
        "primary_boost_summed 1+2",
        "single_dose 3",
    ]
    assert found[0].facts == {"regions": 2, "largest_overlap": 0.0}


@pytest.mark.parametrize(
    ("changes", "differ"),
    [
        ({"DoseType": "EFFECTIVE"}, ("dose types",)),
        ({"DoseUnits": "RELATIVE"}, ("units other than GY",)),
        ({"DoseUnits": None}, ("units other than GY",)),
    ],
)
def test_doses_that_differ_are_never_summed(changes: dict[str, object], differ: tuple[str, ...]) -> None:
    found = all_decisions(*BOOST, MADE.dose(2, plans=[2], **changes))

    assert [decided(one) for one in found] == ["ambiguous_no_sum 1 2"]
    assert found[0].facts == {"doubts": differ}


def test_a_dose_without_a_grid_is_never_summed() -> None:
    found = all_decisions(*BOOST, MADE.dose(2, plans=[2], GridFrameOffsetVector=None))

    assert [decided(one) for one in found] == ["ambiguous_no_sum 1 2"]
    assert found[0].facts == {"doubts": ("a dose whose grid is not described",)}


def test_relative_doses_are_never_summed() -> None:
    relative = [MADE.dose(n, plans=[n], DoseUnits="RELATIVE") for n in (1, 2)]
    (found,) = all_decisions(*BOOST[:2], *relative)

    assert found.facts == {"doubts": ("units other than GY",)}


def test_planes_are_no_boxes() -> None:
    planes = [MADE.dose(n, plans=[n], GridFrameOffsetVector=[0]) for n in (1, 2)]
    (found,) = all_decisions(*BOOST[:2], *planes)

    assert found.facts == {"doubts": ("a dose whose grid is not described",)}


def test_doses_of_several_frames_are_decided_by_themselves() -> None:
    found = all_decisions(*BOOST, MADE.dose(2, plans=[2], FrameOfReferenceUID=MADE.uid(5)))

    assert [decided(one) for one in found] == ["separate_courses_no_sum", "single_dose 1", "single_dose 2"]
    assert found[0].facts == {"frames_of_reference": (MADE.uid(1), MADE.uid(5))}


@pytest.mark.parametrize(
    "label", ["Boost", "PTV_boost", "BST 10Gy", "Cone down", "phase 2", "PHASE_II", "ph2"]
)
def test_words_that_say_boost(label: str) -> None:
    plans = [MADE.plan(1), MADE.plan(2, label=label, dose_gy=10.0)]
    assert decisions(*plans, *TWO_DOSES) == ["primary_boost_summed 1+2"]


@pytest.mark.parametrize("label", ["boosted", "phase 1", "phase 20", "prostate", "", "subst"])
def test_words_that_do_not(label: str) -> None:
    assert decisions(MADE.plan(1), MADE.plan(2, label=label, dose_gy=10.0), *TWO_DOSES) == [
        "ambiguous_no_sum 1 2"
    ]


@pytest.mark.parametrize(
    "label", ["Replan", "RE-PLAN 1", "adaptive 3", "resim", "Copy of plan", "plan_v2", "rev1"]
)
def test_words_that_say_replan(label: str) -> None:
    assert decisions(MADE.plan(1), MADE.plan(2, label=label, dose_gy=10.0), *TWO_DOSES) == [
        "replan_itt_first -2",
        "single_dose 1",
    ]


def test_the_facts_name_what_was_said() -> None:
    (boost,) = all_decisions(*BOOST, MADE.dose(2, plans=[2]))
    assert boost.facts == {"primary": (MADE.uid(30, 1),), "evidence": ("boost",)}

    replan, _ = all_decisions(MADE.plan(1), MADE.plan(2, day="20240301"), *TWO_DOSES)
    assert replan.facts == {"replans": (MADE.uid(30, 2),), "evidence": ("same prescription, later date",)}


UNSTATED = "no statement which plan is delivered beside which"
REPLAN = "a replan without the plan that it replaces"
THE_SAME = "plans that prescribe the same"


@pytest.mark.parametrize(
    ("labels", "doubts"),
    [
        (("boost a", "boost b"), (UNSTATED,)),
        (("plan a", "plan b"), (UNSTATED,)),
        (("plan", "boost replan"), (REPLAN,)),
        (("boost", "replan"), (REPLAN,)),
        (("plan", "boost", "boost v2"), (REPLAN, THE_SAME, UNSTATED)),
        (("plan", "boost", "phase 2"), (THE_SAME, UNSTATED)),
    ],
)
def test_what_words_alone_do_not_tell_is_not_summed(labels: tuple[str, ...], doubts: tuple[str, ...]) -> None:
    prescribed = (60.0, 10.0, 10.0)
    contents = [MADE.plan(n + 1, label=one, dose_gy=prescribed[n]) for n, one in enumerate(labels)]
    contents += [MADE.dose(n + 1, plans=[n + 1]) for n in range(len(labels))]

    (found,) = all_decisions(*contents)

    assert decided(found).startswith("ambiguous_no_sum 1 2")
    assert found.facts == {"doubts": doubts}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("plan", "no boost"),
        ("boost", "no boost"),
        ("plan", "Prostate w/o boost"),
        ("plan", "Mamma ohne Boost"),
        ("plan", "kein Boost"),
        ("Lung", "Brust SIB Boost"),
        ("boost", "Brust SIB"),
        ("plan", "simultaneous integrated boost"),
        ("plan", "Breast+Boost"),
        ("plan", "Mamma inkl. Boost"),
        ("boost A", "boost B"),
    ],
)
def test_a_boost_that_words_deny_or_put_within_another_plan_is_not_summed(first: str, second: str) -> None:
    plans = [MADE.plan(1, label=first), MADE.plan(2, label=second, dose_gy=10.0)]
    (found,) = all_decisions(*plans, *TWO_DOSES)

    assert decided(found) == "ambiguous_no_sum 1 2"
    assert found.facts == {"doubts": (UNSTATED,)}


def test_of_three_plans_a_word_tells_nothing() -> None:
    plans = [MADE.plan(n, label=label, dose_gy=dose) for n, label, dose in
             ((1, "plan", 50.0), (2, "boost", 10.0), (3, "phase 2", 6.0))]  # fmt: skip
    assert decisions(*plans, *TWO_DOSES, MADE.dose(3, plans=[3])) == ["ambiguous_no_sum 1 2 3"]


@pytest.mark.parametrize("link", [{"label": "boost"}, {"related": ("PRIOR", 1)}], ids=["word", "statement"])
@pytest.mark.parametrize(
    ("of_primary", "of_boost", "expected"),
    [
        ({}, {"PlanIntent": "VERIFICATION"}, "a plan that is not for treatment"),
        ({"PlanIntent": "CURATIVE"}, {"PlanIntent": "MACHINE_QA"}, "a plan that is not for treatment"),
        ({"PlanIntent": "RESEARCH"}, {}, "a plan that is not for treatment"),
        ({"PlanIntent": "CURATIVE"}, {"PlanIntent": "PALLIATIVE"}, "plans of different intents"),
        ({"PlanIntent": "CURATIVE"}, {"PlanIntent": "CURATIVE"}, ""),
        ({"PlanIntent": "PALLIATIVE"}, {}, ""),
        ({"ApprovalStatus": "APPROVED"}, {"ApprovalStatus": "UNAPPROVED"}, "plans of different approval"),
        ({"ApprovalStatus": "APPROVED"}, {}, "plans of different approval"),
        ({"ApprovalStatus": "APPROVED"}, {"ApprovalStatus": "APPROVED"}, ""),
        ({}, {"ApprovalStatus": "UNAPPROVED"}, ""),
    ],
)
def test_a_boost_is_summed_with_a_primary_of_its_intent_and_approval(
    link: dict[str, object], of_primary: dict[str, object], of_boost: dict[str, object], expected: str
) -> None:
    boost = MADE.plan(2, **{"dose_gy": 10.0, **link, **of_boost})  # type: ignore[arg-type]
    (found,) = all_decisions(MADE.plan(1, **of_primary), boost, *TWO_DOSES)  # type: ignore[arg-type]

    if expected:
        assert decided(found) == "ambiguous_no_sum 1 2"
        assert found.facts == {"doubts": (expected,)}
    else:
        assert decided(found) == "primary_boost_summed 1+2"


def test_statements_have_to_link_every_plan() -> None:
    doses = [MADE.dose(n, plans=[n]) for n in (1, 2, 3)]
    each_other = [MADE.plan(2, dose_gy=20.0, related=("CONCURRENT", 3)),
                  MADE.plan(3, dose_gy=9.0, related=("CONCURRENT", 2))]  # fmt: skip
    assert decisions(MADE.plan(1), *each_other, *doses) == ["ambiguous_no_sum 1 2 3"]

    chain = [MADE.plan(2, dose_gy=20.0, related=("PRIOR", 1)),
             MADE.plan(3, dose_gy=9.0, related=("PRIOR", 2))]  # fmt: skip
    assert decisions(MADE.plan(1), *chain, *doses) == ["primary_boost_summed 1+2+3"]


BOTH = "a plan that is called both a boost and a copy of its primary"


@pytest.mark.parametrize(
    "boost",
    [
        MADE.plan(2, label="Boost", dose_gy=10.0, related=("PREDECESSOR", 1)),
        MADE.plan(2, dose_gy=10.0, ReferencedRTPlanSequence=items(
            [{"ReferencedSOPInstanceUID": MADE.uid(30, 1), "RTPlanRelationship": said}
             for said in ("PREDECESSOR", "PRIOR")])),
    ],
    ids=["word", "statement"],
)  # fmt: skip
def test_a_boost_that_was_copied_from_its_primary_is_ambiguous(boost: bytes) -> None:
    (found,) = all_decisions(MADE.plan(1), boost, *TWO_DOSES)

    assert decided(found) == "ambiguous_no_sum 1 2"
    assert found.facts["doubts"] == (BOTH,)


def test_an_alternative_that_is_stated_to_be_delivered_beside_is_ambiguous() -> None:
    plans = [MADE.plan(1, related=("ALTERNATIVE", 2)), MADE.plan(2, dose_gy=9.0, related=("CONCURRENT", 1))]
    (found,) = all_decisions(*plans, *TWO_DOSES)

    assert (decided(found), found.facts) == ("ambiguous_no_sum 1 2", {"doubts": (BOTH,)})


def test_a_new_version_of_a_boost_stands_for_the_boost() -> None:
    boosts = [MADE.plan(2, label="boost", dose_gy=10.0),
              MADE.plan(3, label="boost", dose_gy=10.0, related=("PREDECESSOR", 2))]  # fmt: skip
    assert decisions(MADE.plan(1), *boosts, *TWO_DOSES, MADE.dose(3, plans=[3])) == [
        "replan_itt_first -3",
        "primary_boost_summed 1+2",
    ]


def test_a_replan_is_not_older_than_what_it_replaces() -> None:
    plans = [MADE.plan(1, label="v2", day="20240101"), MADE.plan(2, day="20240301")]
    (found,) = all_decisions(*plans, *TWO_DOSES)

    assert decided(found) == "ambiguous_no_sum 1 2"
    assert found.facts == {"doubts": (REPLAN, THE_SAME, UNSTATED)}


def test_a_replan_by_its_name_needs_the_plan_that_it_replaces() -> None:
    plans = [MADE.plan(1, label="pelvis"), MADE.plan(2, label="pelvis v2", dose_gy=58.0)]
    boost = [MADE.plan(3, label="boost", dose_gy=10.0), MADE.dose(3, plans=[3])]

    assert decisions(*plans, *TWO_DOSES, *boost) == ["replan_itt_first -2", "primary_boost_summed 1+3"]
    assert decisions(plans[1], TWO_DOSES[1], *boost) == ["ambiguous_no_sum 2 3"]


def test_stated_relationships_need_no_words() -> None:
    each_other = [MADE.plan(1, related=("CONCURRENT", 2)), MADE.plan(2, related=("CONCURRENT", 1))]
    assert decisions(*each_other, *TWO_DOSES) == ["primary_boost_summed 1+2"]


def test_the_same_prescription_on_the_same_or_an_unknown_day_is_ambiguous() -> None:
    for day in ("20240115", ""):
        assert decisions(MADE.plan(1), MADE.plan(2, day=day), *TWO_DOSES) == ["ambiguous_no_sum 1 2"]


def test_prescriptions_that_are_not_stated_are_not_the_same() -> None:
    first, second = MADE.plan(1, dose_gy=None), MADE.plan(2, dose_gy=None, day="20240301")
    assert decisions(first, second, *TWO_DOSES) == ["ambiguous_no_sum 1 2"]
    first, second = MADE.plan(1, fractions=None), MADE.plan(2, fractions=None, day="20240301")
    assert decisions(first, second, *TWO_DOSES) == ["ambiguous_no_sum 1 2"]


def test_a_plan_that_another_calls_its_alternative_is_not_used() -> None:
    named = [MADE.plan(1, dose_gy=50.0, related=("ALTERNATIVE", 2)), MADE.plan(2)]
    assert decisions(*named, *TWO_DOSES) == ["replan_itt_first -2", "single_dose 1"]

    each_other = [MADE.plan(1, related=("ALTERNATIVE", 2)), MADE.plan(2, related=("ALTERNATIVE", 1))]
    assert decisions(*each_other, *TWO_DOSES) == ["ambiguous_no_sum 1 2"]


def test_a_relationship_that_says_nothing_of_the_dose_is_none() -> None:
    plans = [MADE.plan(1), MADE.plan(2, dose_gy=10.0, related=("VERIFIED_PLAN", 1))]
    assert decisions(*plans, *TWO_DOSES) == ["ambiguous_no_sum 1 2"]


class TestPlanSums:
    PLANS = (MADE.plan(1), MADE.plan(2, dose_gy=10.0))

    def test_alone(self) -> None:
        assert decisions(*self.PLANS, MADE.dose(3, plans=[1, 2], summation="MULTI_PLAN")) == [
            "PLAN_SUM_used 3"
        ]

    def test_one_that_says_plan_and_names_two_counts(self) -> None:
        assert decisions(*self.PLANS, *TWO_DOSES, MADE.dose(3, plans=[1, 2])) == ["PLAN_SUM_used 3 -1 -2"]

    def test_one_that_names_no_plans_does_not_cover_any(self) -> None:
        total = MADE.dose(3, plans=[], summation="MULTI_PLAN")
        assert decisions(*self.PLANS, *TWO_DOSES, total) == ["ambiguous_no_sum 1 2 3"]

    def test_two_are_ambiguous(self) -> None:
        totals = [MADE.dose(n, plans=[1, 2], summation="MULTI_PLAN") for n in (3, 4)]
        found = all_decisions(*self.PLANS, *totals)

        assert [decided(one) for one in found] == ["ambiguous_no_sum 3 4"]
        assert found[0].facts["plan_sums"] == 2

    def test_one_that_holds_a_rejected_plan_is_never_used(self) -> None:
        plans = [self.PLANS[0], MADE.plan(2, dose_gy=10.0, ApprovalStatus="REJECTED")]
        total = MADE.dose(3, plans=[1, 2], summation="MULTI_PLAN")
        found = all_decisions(*plans, *TWO_DOSES, total)

        assert [decided(one) for one in found] == [
            "rejected_plan_not_used (plan 2) -2",
            "ambiguous_no_sum 1 -3",
        ]
        assert found[1].facts["rejected_plans_in_sum"] == (MADE.uid(30, 2),)
        assert decisions(*plans, total) == ["ambiguous_no_sum -3"]

    @pytest.mark.parametrize(
        "of", [{"related": ("PREDECESSOR", 1)}, {"label": "replan"}, {"day": "20240301"}], ids=str
    )
    def test_one_that_holds_a_plan_and_its_replan_says_so(self, of: dict[str, Any]) -> None:
        total = MADE.dose(3, plans=[1, 2], summation="MULTI_PLAN")
        (found,) = all_decisions(MADE.plan(1), MADE.plan(2, **of), *TWO_DOSES, total)
        assert decided(found) == "PLAN_SUM_used 3 -1 -2"
        assert found.facts["replans_in_sum"] == (MADE.uid(30, 2),)
        (found,) = all_decisions(*self.PLANS, total)
        assert "replans_in_sum" not in found.facts

    def test_one_that_holds_a_plan_of_a_phantom_is_no_total(self) -> None:
        plans = [self.PLANS[0], MADE.plan(2, dose_gy=10.0, PlanIntent="VERIFICATION")]
        found = all_decisions(*plans, *TWO_DOSES, MADE.dose(3, plans=[1, 2], summation="MULTI_PLAN"))

        assert [decided(one) for one in found] == ["ambiguous_no_sum 1 2 3"]
        assert found[0].facts["plans_in_sum_not_for_treatment"] == (MADE.uid(30, 2),)

    def test_one_that_names_one_plan_does_not_beat_the_dose_of_the_plan(self) -> None:
        total = MADE.dose(3, plans=[1], summation="MULTI_PLAN")
        assert decisions(MADE.plan(1), MADE.dose(1), total) == ["ambiguous_no_sum 1 3"]
        assert decisions(MADE.plan(1), total) == ["ambiguous_no_sum 3"]
        rejected = MADE.plan(1, ApprovalStatus="REJECTED")
        assert decisions(rejected, MADE.dose(1), total)[1:] == ["ambiguous_no_sum -3"]


class TestDosesOfOnePlan:
    def test_two_of_the_plan_are_ambiguous(self) -> None:
        assert decisions(MADE.plan(1), MADE.dose(1), MADE.dose(2)) == [
            "ambiguous_no_sum (plan 1) 1 2",
            "ambiguous_no_sum 1 2",
        ]

    def test_beams_count_once_each(self) -> None:
        beams = [MADE.dose(n, summation="BEAM", beam=beam) for n, beam in ((1, 1), (2, 2), (3, 2))]
        found = all_decisions(MADE.plan(1), *beams)

        assert [decided(one) for one in found] == [
            "ambiguous_no_sum (plan 1) 1 2 3",
            "ambiguous_no_sum 1 2 3",
        ]
        assert (found[0].facts["planned"], found[0].facts["with_dose"]) == (("1", "2"), ("1", "2", "2"))

    def test_beams_of_a_plan_that_is_not_there_are_not_summed(self) -> None:
        assert decisions(MADE.dose(1, summation="BEAM", beam=1)) == [
            "ambiguous_no_sum (plan 1) 1",
            "ambiguous_no_sum 1",
        ]

    def test_fraction_groups_are_summed_where_each_has_one(self) -> None:
        groups = items([{"FractionGroupNumber": n, "NumberOfFractionsPlanned": 10} for n in (1, 2)])
        named = [
            items([{"ReferencedSOPInstanceUID": MADE.uid(30, 1),
                    "ReferencedFractionGroupSequence": items([{"ReferencedFractionGroupNumber": n}])}])
            for n in (1, 2)
        ]  # fmt: skip
        plan = MADE.plan(FractionGroupSequence=groups)
        parts = [
            MADE.dose(n, summation="FRACTION", ReferencedRTPlanSequence=one)
            for n, one in zip((1, 2), named, strict=True)
        ]

        assert decisions(plan, *parts) == ["fraction_doses_summed (plan 1) 1+2", "single_dose 1+2"]
        assert decisions(plan, parts[0]) == ["ambiguous_no_sum (plan 1) 1", "ambiguous_no_sum 1"]

    def test_a_dose_of_unknown_kind_is_ambiguous(self) -> None:
        for kind in ("CONTROL_POINT", "RECORD", ""):
            assert decisions(MADE.plan(1), MADE.dose(1, summation=kind))[-1] == "ambiguous_no_sum 1"

    def test_an_unclear_plan_keeps_the_others_from_being_the_total(self) -> None:
        contents = [
            MADE.plan(1),
            MADE.plan(2),
            MADE.dose(1),
            MADE.dose(2, plans=[2]),
            MADE.dose(3, plans=[2]),
        ]
        assert decisions(*contents)[-1] == "ambiguous_no_sum 1 2 3"

    def test_beams_of_a_boost_are_summed_with_the_dose_of_the_primary(self) -> None:
        boost = [MADE.dose(n + 1, plans=[2], summation="BEAM", beam=n) for n in (1, 2)]
        assert decisions(*BOOST, *boost) == ["beam_doses_summed (plan 2) 2+3", "primary_boost_summed 1+2+3"]

    def test_a_rejected_plan_leaves_no_total(self) -> None:
        assert decisions(MADE.plan(ApprovalStatus="REJECTED"), MADE.dose()) == [
            "rejected_plan_not_used (plan 1) -1"
        ]

    def test_one_that_names_no_plan_stands_alone(self) -> None:
        assert decisions(MADE.plan(1), MADE.dose(1, plans=[])) == ["single_dose 1"]
        found = all_decisions(MADE.plan(1), MADE.dose(1), MADE.dose(2, plans=[]))
        assert [decided(one) for one in found] == ["ambiguous_no_sum 1 2"]
        assert "a dose whose plan is not there" in str(found[0].facts["doubts"])


class TestPrescription:
    def test_it_comes_from_dose_references_with_the_name_of_the_region(self) -> None:
        (plan,), sets = of(Plan, MADE.plan(dose_gy=45.0, fractions=25)), of(StructureSet, MADE.structures())

        found = prescription(plan, sets)

        assert (found.fractions_planned, len(found.targets)) == (25, 1)
        assert (found.targets[0].dose_gy, found.targets[0].roi_name) == (45.0, "PTV")

    def test_what_is_absent_stays_absent(self) -> None:
        maximum = items([{"DoseReferenceType": "TARGET", "DeliveryMaximumDose": 66.0},
                         {"DoseReferenceType": "ORGAN_AT_RISK", "TargetPrescriptionDose": 50.0}])  # fmt: skip
        (plan,) = of(Plan, MADE.plan(fractions=None, DoseReferenceSequence=maximum))

        found = prescription(plan, [])

        assert found.fractions_planned is None
        assert [(one.dose_gy, one.roi_name) for one in found.targets] == [(None, None)]

    def test_a_region_of_another_structure_set_gives_no_name(self) -> None:
        (plan,), sets = of(Plan, MADE.plan(structures=2)), of(StructureSet, MADE.structures(1))
        assert prescription(plan, sets).targets[0].roi_name is None

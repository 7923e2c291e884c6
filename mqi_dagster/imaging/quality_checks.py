"""Every check of a course: of which asset, when it passes, what its other verdicts mean, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

_Subject = TypeVar("_Subject")
_MOST_TEXTS = 8
"""Of one check; the others are counted."""


class Verdict(StrEnum):
    """Of a check, and of a course by its worst check."""

    PASS = "PASS"
    WARNING = "WARNING"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """A check of an asset."""

    asset: str
    name: str
    description: str
    """When it passes."""
    warning: str
    """What WARNING means; empty where it is never given."""
    failure: str
    """What FAIL means; empty where it is never given."""
    advice: str
    """What to do where it does not pass."""
    blocking: bool = False
    """Whether FAIL stops what follows, because its numbers would be wrong rather than missing."""


@dataclass(frozen=True, slots=True)
class QcResult:
    """A check that was evaluated."""

    check: Check
    verdict: Verdict
    text: str
    """What was found; names no patient, path or UID."""
    advice: str
    """What to do; empty where it passes."""


_ON_INVENTORY = (
    Check(
        "course_inventory", "images_present",
        "There is a CT or MR to work on, of at least `radiotherapy.qc.minimum_images` images.",
        "A further MR has fewer images.",
        "There is no CT or MR, or the planning series has fewer images.",
        "Export the whole series again.",
    ),
    Check(
        "course_inventory", "plan_present", "The course has a plan.",
        "It has none, and `radiotherapy.qc.missing_plan` is `warn`.",
        "It has none, and `radiotherapy.qc.missing_plan` is `fail`.",
        "Export the plan as well; without it there is no prescription, and no dose can be told to be whole.",
    ),
    Check(
        "course_inventory", "dose_present", "The course has a dose.",
        "It has none, and `radiotherapy.qc.missing_dose` is `warn`.",
        "It has none, and `radiotherapy.qc.missing_dose` is `fail`.",
        "Export the dose as well; without it there are no dose-volume figures.",
    ),
    Check(
        "course_inventory", "structure_set_present", "The course has a structure set.",
        "It has none, and `radiotherapy.qc.missing_structure_set` is `warn`.",
        "It has none, and `radiotherapy.qc.missing_structure_set` is `fail`.",
        "Export the structure set as well; without it there are automatic structures alone.",
    ),
    Check(
        "course_inventory", "objects_readable", "Every object can be read as what it is.",
        "An image of another series than the planning series cannot be read.",
        "An image of the planning series, a structure set, a plan or a dose cannot be read.",
        "Export the objects that are named again.",
    ),
    Check(
        "course_inventory", "image_grid",
        "The images of each analysed series are parallel, complete and evenly spaced.",
        "A further MR is none of this: it is not analysed.",
        "The planning series is none of this: an image is missing, or two lie at one place.",
        "Export the whole series again; two series under one UID have to be separated.",
    ),
    Check(
        "course_inventory", "image_orientation", "The planning series is axial.",
        "It is tilted, coronal or sagittal.", "",
        "Look whether this is the series that was planned on.",
    ),
    Check(
        "course_inventory", "image_order",
        "Instance Numbers, where there are any, count along the axis of the images.",
        "They do not: a program that sorts by them shows another patient; here images lie where they say.",
        "", "Look at the images in other programs with this in mind.",
    ),
    Check(
        "course_inventory", "patient_position",
        "The images of each analysed series have one Patient Position, plans that of the planning series.",
        "The images do not state it, or those of a further MR contradict each other.",
        "The images of the planning series, or a plan and its images, contradict each other.",
        "Find out how the patient lay, and correct what is wrong in the planning system.",
    ),
    Check(
        "course_inventory", "frame_of_reference",
        "Images, structure sets, plans and doses lie in the Frame of Reference of the course.",
        "A dose does not state its Frame of Reference.",
        "One states another Frame of Reference: it may lie elsewhere in the patient.",
        "Export what belongs together from one plan, or register the images and plan again.",
    ),
    Check(
        "course_inventory", "references",
        "Plans, doses and structure sets that are named by others are there, and every plan has a dose.",
        "One is named and is not there, or a plan has no dose.", "",
        "Export what is missing; what is there is linked by its Frame of Reference.",
    ),
    Check(
        "course_inventory", "referenced_images", "The images that structure sets name are there.",
        "None is, in the same Frame of Reference: contours are placed by their coordinates.",
        "Some are there and others are not: the series is not complete.",
        "Look on the page of the course whether the contours fit the images, or export the images that were"
        " drawn on.",
    ),
    Check(
        "course_inventory", "beams_and_fractions",
        "Beams and fraction groups of each plan have numbers of their own, and doses name those that there"
        " are.",
        "Fractions planned are not stated, or a treatment beam is in no fraction group.",
        "Numbers are missing or stand twice, or a beam or fraction group is named that the plan has not.",
        "Export the plan and its dose again, together.",
    ),
    Check(
        "course_inventory", "plan_approval", "No plan is unapproved or rejected.",
        "One is unapproved, or is rejected beside others; no dose of a rejected one, and no sum that"
        " holds it, is used.",
        "Every plan is rejected.",
        "Find out which plan was treated.",
    ),
    Check(
        "course_inventory", "plan_intent", "Every plan is meant to treat a patient, as far as it says.",
        "A plan is for verification, machine QA, research or service: its dose is not that of a treatment.",
        "", "Export the plan that was treated.",
    ),
    Check(
        "course_inventory", "isocentre",
        "Every isocentre lies within the box around the targets; where none is known, it says that it was not"
        " checked. Targets are known by RT ROI Interpreted Type, else by ROI Number in the plan, else by name"
        " (GTV, CTV, PTV, ITV).",
        "One lies outside: half-blocked fields have that, and plans that were moved onto other images.", "",
        "Look on the page of the course whether dose and target fit.",
    ),
    Check(
        "course_inventory", "dose_type",
        "Doses in use are of one type, PHYSICAL, or EFFECTIVE of a plan of protons or ions.",
        "Doses are of several types, do not state it, or are EFFECTIVE of a plan of photons or electrons.",
        "A dose is a difference of doses (ERROR), or of a type that DICOM does not have.",
        "Compare figures only where the type is the same; ask the planning system what it exports.",
    ),
    Check(
        "course_inventory", "dose_units", "Every dose is in Gy.", "",
        "One is relative, or does not state its units: there are no figures in Gy of it.",
        "Export the dose in Gy.",
    ),
    Check(
        "course_inventory", "dose_grid",
        "The grid of every dose is regular, whole and scaled, and shares space with the planning series.", "",
        "Its description, scaling or pixels are missing or wrong, its frames are uneven, it is zero"
        " everywhere, or it lies beside the images.",
        "Export the dose again, as one object with even spacing.",
    ),
    Check(
        "course_inventory", "dose_scaling",
        "The maximum of every dose in use is 0.8 to 2 times what its plans prescribe, where they do.",
        "It is not.",
        "It is less than a tenth or more than ten times of that: another unit or scaling, or one fraction of"
        " many.",
        "Compare the maximum with that in the planning system, and export the dose again.",
        blocking=True,
    ),
    Check(
        "course_inventory", "dose_rule", "A rule says which doses make up the total.",
        "None does: each dose stands by itself.", "",
        "Export a plan sum, or let the plans say how they are related (Referenced RT Plan Sequence).",
    ),
    Check(
        "course_inventory", "chosen_series", "The objects themselves say which series is analysed.",
        "Several are possible: the one of the latest structure set is taken, then the largest.", "",
        "Look whether the series that is named is the one that was planned on; take others out of the tree.",
    ),
    Check(
        "course_inventory", "copies", "No two objects have one SOP Instance UID and different content.", "",
        "Some have, and none of them is used.",
        "Find out which is right, and take the others out of the tree.",
    ),
    Check(
        "course_inventory", "patient_identity", "All objects of the patient ID name one person.",
        "Names differ, or some objects do not say who has issued the ID.",
        "Birth dates differ: two people may have been put together.",
        "Find out whose objects they are; those of another person have to get their own patient ID.",
        blocking=True,
    ),
)  # fmt: skip


def _on_segmentation(asset: str) -> tuple[Check, ...]:
    return (
        Check(
            asset, "models_ran", "Every model that is for the course has made its segmentation.",
            "", "A model has failed.",
            "See the reason; `mqi model check` says whether a model can run. Then run the course again.",
        ),
        Check(
            asset, "volumes_plausible",
            "Every region that was found is as large as its model card says it may be.",
            "A region is larger or smaller: it was cut by the images, or is wrong.", "",
            "Look at the region on the page of the course before its figures are used.",
        ),
        Check(
            asset, "full_resources",
            "No model that made its segmentation had to go on with less than it began with.",
            "A model was repeated with less, for want of memory or because a try ended otherwise; its"
            " segmentation is whole.", "",
            "For want of memory: give the model a GPU with more memory, or let it begin on the processor."
            " Otherwise see why its tries ended.",
        ),
        Check(
            asset, "models_isolated", "No program of a model could reach the network.",
            "One could: the machine permits no network namespace.", "",
            "Permit user namespaces to the account that runs models (`mqi doctor` says whether they are), or"
            " set `radiotherapy.segmentation.require_isolation`, which refuses such a program.",
        ),
    )  # fmt: skip


_ON_STRUCTURES = (
    Check(
        "structures", "structures_taken",
        "Every structure set, segmentation and definition could be taken, and the analysis region found.",
        "Something of them could not be taken, or the region may be another one than was meant.",
        "There is no structure at all.",
        "See the reason, and correct the structure in the planning system or its definition in the settings.",
    ),
    Check(
        "structures", "not_empty",
        "Every structure that was drawn or derived has a volume; a region that a model has not found may have"
        " none.",
        "A structure that was drawn or derived has none.", "A target has none.",
        "Draw it, or delete it in the planning system; of a derived one see its definition and its sources.",
    ),
    Check(
        "structures", "not_doubled", "No structure of one source is there twice, by its name or its extent.",
        "One is there twice: nobody can say which is meant.", "",
        "Delete or rename one of them in the planning system.",
    ),
    Check(
        "structures", "inside_images", "No structure reaches beyond the images.",
        "A part of one does.", "One lies outside as a whole: contours and images do not belong together.",
        "Take the images that were drawn on; figures of what lies outside are not known.",
    ),
    Check(
        "structures", "not_cut",
        "No structure ends with the images, but for the body, bone, air and what supports the patient.",
        "Another one touches the first or last plane, or the edge: a part of it may be missing.", "",
        "Do not use its volume, nor figures relative to it.",
    ),
    Check(
        "structures", "no_gaps", "Contours of every structure follow each other at their usual distance.",
        "Some are farther apart: nothing is taken to be between them.", "",
        "Draw the missing contours, unless the structure is in several parts.",
    ),
    Check(
        "structures", "names_clear", "Every name means one structure.",
        "A name may mean several, and is kept as it is.", "",
        "Add it to the site's table of names (`radiotherapy.structures.names`).",
    ),
    Check(
        "structures", "laterality", "What is called left lies to the left of what is called right.", "",
        "It does not: names, or the images, are the wrong way round.",
        "Look which is wrong before anything is used.",
    ),
)  # fmt: skip

_ON_DVH = (
    Check(
        "dvh", "dvh_made", "There are figures of every dose that a rule chooses, where they are asked for.",
        "A dose that is chosen was not used, there is no structure, or something could not be made.", "",
        "See the reason; which doses make up the total stands in the inventory of the course.",
    ),
    Check(
        "dvh", "coverage", "The dose to every structure but the body is known as a whole.",
        "A structure lies outside of the dose grid, or partly: there are no figures of it.", "",
        "Calculate the dose on a larger grid.",
    ),
    Check(
        "dvh", "figures_dose_type", "All doses that figures were made of are of one known type.",
        "They are of several types, or do not state it.", "",
        "Compare figures only where the type is the same.",
    ),
    Check(
        "dvh", "prescription", "Every dose has one prescribed dose.",
        "One has none: there are no figures in percent of it.", "",
        "Enter the Target Prescription Dose in the planning system and export the plan again.",
    ),
    Check(
        "dvh", "figures_frame", "Every dose lies in the Frame of Reference of the planning series.", "",
        "One does not: dose and structures may not lie over each other.",
        "Do not use its figures; export dose and structures of one plan.",
    ),
    Check(
        "dvh", "goals_met", "Every clinical goal of the protocol is met.",
        "One is missed or could not be judged: a clinical matter, not one of the data.", "",
        "See the table of goals on the page of the course.",
    ),
)  # fmt: skip

_ON_RADIOMICS = (
    Check(
        "radiomics", "features_computed",
        "Features were computed of every structure that is neither left out nor refused by the profile.",
        "The work on a structure failed: its process was killed, starved, or took too long. Or features are"
        " of whole structures, where `radiotherapy.ct_cropping.use_cropped_for_radiomics` asks for those in"
        " the analysis region.", "",
        "Run radiomics again: only what failed is computed; give it more time (radiomics.task_timeout) or"
        " fewer workers. Compare features of whole structures with such alone.",
    ),
)  # fmt: skip

CHECKS: tuple[Check, ...] = (
    *_ON_INVENTORY,
    *_on_segmentation("auto_segmentation"),
    *_on_segmentation("custom_segmentation"),
    *_ON_STRUCTURES,
    *_ON_DVH,
    *_ON_RADIOMICS,
)
"""Every check, in the order of the report."""


def checks_of(asset: str) -> list[Check]:
    """The checks of an asset."""
    return [check for check in CHECKS if check.asset == asset]


def worst(results: Iterable[QcResult]) -> Verdict:
    """The verdict of a course; of one that was not checked at all WARNING."""
    order = list(Verdict)
    return max((one.verdict for one in results), key=order.index, default=Verdict.WARNING)


@dataclass(slots=True)
class Tally:
    """What a rule finds, one text for each thing; the worst decides."""

    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is worth saying and fits."""
    advice: list[str] = field(default_factory=list)
    """What to do about what was found, where the check's own advice is for more than that."""

    def fail(self, text: str, advice: str = "") -> None:
        """Something that makes the course fail."""
        self.failures.append(text)
        self._advise(advice)

    def warn(self, text: str, advice: str = "") -> None:
        """Something that people have to look at."""
        self.warnings.append(text)
        self._advise(advice)

    def _advise(self, advice: str) -> None:
        if advice and advice not in self.advice:
            self.advice.append(advice)

    def note(self, text: str) -> None:
        """Something that fits."""
        self.notes.append(text)

    def result(self, check: Check) -> QcResult:
        """The check by what was found."""
        verdict = Verdict.FAIL if self.failures else Verdict.WARNING if self.warnings else Verdict.PASS
        texts = list(dict.fromkeys([*self.failures, *self.warnings, *self.notes]))
        more = [f"and {len(texts) - _MOST_TEXTS} more"] if len(texts) > _MOST_TEXTS else []
        text = "; ".join([*texts[:_MOST_TEXTS], *more]) or "nothing to check"
        advice = " ".join(self.advice) or check.advice
        return QcResult(check, verdict, text, "" if verdict is Verdict.PASS else advice)


def counted(number: int, what: str) -> str:
    """How many there are of something, as people write it."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


Rule = Callable[[_Subject, Tally], None]
"""Says into the tally what it finds in what an asset has published."""


def evaluated(asset: str, rules: Mapping[str, Rule[_Subject]], subject: _Subject) -> Sequence[QcResult]:
    """Evaluate the checks of an asset.

    Args:
        asset: Its name.
        rules: By the name of the check.
        subject: What it has published.

    Raises:
        KeyError: A check has no rule.
    """
    results = []
    for check in checks_of(asset):
        tally = Tally()
        rules[check.name](subject, tally)
        results.append(tally.result(check))
    return results

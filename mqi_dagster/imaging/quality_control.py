"""Whether a course is fit to be used: rules of segmentations, structures and dose-volume figures; the report.

The checks are evaluated on what each asset has published, in Dagster as asset checks of that asset, and all
of them together in the report of the course. `quality_checks` has the table, `course_quality` the rules of
the inventory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mqi_dagster.errors import StoreError, Where, shown
from mqi_dagster.files import write_whole
from mqi_dagster.imaging.course_facts import TARGET_TYPES
from mqi_dagster.imaging.course_quality import inventory_quality
from mqi_dagster.imaging.dvh_files import CourseDvh, NotUsedCause
from mqi_dagster.imaging.quality_checks import (
    CHECKS,
    Check,
    QcResult,
    Rule,
    Tally,
    Verdict,
    checks_of,
    counted,
    evaluated,
    worst,
)
from mqi_dagster.imaging.radiomics_files import CourseRadiomics, RegionStatus
from mqi_dagster.imaging.segmentation_files import CourseSegmentations, SegmentationState
from mqi_dagster.imaging.structure_files import CourseStructures, StructureRecord, StructureSource
from mqi_dagster.imaging.structure_names import Naming, laterality_faults
from mqi_dagster.processes.causes import WANT_OF_MEMORY
from mqi_dagster.processes.levels import cause_of_less

__all__ = [
    "CHECKS",
    "QC_REPORT",
    "Check",
    "QcReport",
    "QcResult",
    "ReportedCheck",
    "Verdict",
    "checks_of",
    "dvh_quality",
    "inventory_quality",
    "qc_report",
    "radiomics_quality",
    "read_qc_report",
    "segmentation_quality",
    "structures_quality",
    "worst",
    "write_qc_report",
]

QC_REPORT = "qc_report.json"

_REACHING_OUT = ("External", "Bone", "Air", "Couch")
"""Names of structures that any image cuts, in any case."""
_REACHING_OUT_TYPES = ("EXTERNAL", "SUPPORT", "FIXATION", "BOLUS")
"""RT ROI Interpreted Types of the same."""
_ADVICE_BY_SOURCE = {
    StructureSource.CLINICAL: "Draw it, or delete it in the planning system.",
    StructureSource.DERIVED: "See its definition and the structures that it is made of.",
}
"""About an empty structure; what a model has not found may not be there."""
_RADIOMICS_AGAIN = (
    "Run radiomics again: only what failed is computed; give it more time (radiomics.task_timeout) or fewer"
    " workers."
)
_NOT_CROPPED = (
    "Compare these features with those of whole structures alone; where there is no analysis region,"
    " structures_taken says why."
)
_MORE_MEMORY = "Give the model a GPU with more memory, or let it begin on the processor."
_SEE_THE_TRIES = "See why its tries ended: it may have to be given more time, or be mended."
_NOT_EVALUATED = "was not evaluated"
_RUN_IT = "Run the stage of this asset again; what it says of itself stands in its run."


def segmentation_quality(asset: str, content: CourseSegmentations) -> Sequence[QcResult]:
    """Checks of automatic and custom segmentations.

    Args:
        asset: ``auto_segmentation`` or ``custom_segmentation``.
        content: As published.
    """
    return evaluated(asset, _SEGMENTATION_RULES, content)


def structures_quality(content: CourseStructures) -> Sequence[QcResult]:
    """Checks of structures.

    Args:
        content: As published.
    """
    return evaluated("structures", _STRUCTURE_RULES, content)


def dvh_quality(content: CourseDvh) -> Sequence[QcResult]:
    """Checks of dose-volume figures.

    Args:
        content: As published.
    """
    return evaluated("dvh", _DVH_RULES, content)


def radiomics_quality(content: CourseRadiomics) -> Sequence[QcResult]:
    """Checks of radiomics.

    Args:
        content: As published.
    """
    return evaluated("radiomics", {"features_computed": _features_computed}, content)


def _models_ran(content: CourseSegmentations, tally: Tally) -> None:
    counts = Counter(one.state for one in content.segmentations)
    for one in content.segmentations:
        if one.state is SegmentationState.FAILED:
            tally.fail(f"{shown(one.model)} has failed: {shown(one.reason)}")
    tally.note(
        ", ".join(f"{counts[state]} {state.value}" for state in SegmentationState if counts[state])
        or "no model is asked for"
    )


def _volumes_plausible(content: CourseSegmentations, tally: Tally) -> None:
    for one in content.segmentations:
        for region in one.regions:
            name = f"{shown(region.name)} of {shown(one.model)}"
            if not region.voxels:
                tally.note(f"{name} was not found")
            elif region.plausible_cm3 is not None:
                low, high = region.plausible_cm3
                if not low <= region.volume_cm3 <= high:
                    tally.warn(f"{name} has {region.volume_cm3:.5g} cm³, not {low:g} to {high:g} cm³")
    if not tally.warnings:
        tally.note("all volumes are plausible")


def _full_resources(content: CourseSegmentations, tally: Tally) -> None:
    for one in content.segmentations:
        # Of one that has failed models_ran says why.
        if one.state is not SegmentationState.MADE:
            continue
        for step in one.steps:
            cause = cause_of_less(step)
            if cause is not None:
                advice = _MORE_MEMORY if cause in WANT_OF_MEMORY else _SEE_THE_TRIES
                tally.warn(f"{shown(one.model)}: {shown(step)}", advice)
    if not tally.warnings:
        tally.note("no model had to go on with less")


def _models_isolated(content: CourseSegmentations, tally: Tally) -> None:
    for one in content.segmentations:
        if not one.isolated:
            tally.warn(f"the program of {shown(one.model)} ran with the network of its machine")
    if not tally.warnings:
        tally.note("no program had a network")


def _structures_taken(content: CourseStructures, tally: Tally) -> None:
    if not content.structures:
        tally.fail("there is no structure")
    for fault in content.faults:
        tally.warn(shown(fault))
    for one in content.structures:
        for fault in one.faults:
            tally.warn(f"{shown(one.name)}: {shown(fault)}")
    sources = Counter(one.source for one in content.structures)
    tally.note(", ".join(f"{count} {source.value.replace('_', ' ')}" for source, count in sources.items()))
    if content.region is not None:
        tally.note(f"analysis region {shown(content.region.name)}")
        for note in content.region.notes:
            tally.warn(f"analysis region {shown(content.region.name)}: {shown(note)}")
    for note in content.notes:
        tally.note(shown(note))


def _not_empty(content: CourseStructures, tally: Tally) -> None:
    for one in content.structures:
        if not one.is_empty:
            continue
        advice = _ADVICE_BY_SOURCE.get(one.source)
        if advice is None:
            tally.note(f"{shown(one.name)} was not found by {shown(one.made_by)}")
        else:
            tell = tally.fail if one.interpreted_type in TARGET_TYPES else tally.warn
            tell(f"{shown(one.name)} is empty", advice)
    filled = sum(not one.is_empty for one in content.structures)
    tally.note(f"{filled} of {len(content.structures)} have a volume")


def _of_one_source(content: CourseStructures) -> Iterator[list[StructureRecord]]:
    """Structures of one structure set, model or file of definitions, on one series."""
    found = defaultdict[tuple[object, ...], list[StructureRecord]](list)
    for one in content.structures:
        found[one.series, one.source, one.made_by, one.structure_set_uid].append(one)
    yield from found.values()


def _not_doubled(content: CourseStructures, tally: Tally) -> None:
    for some in _of_one_source(content):
        for name, times in Counter(one.original_name for one in some).items():
            if times > 1:
                tally.warn(f"{shown(name)} is there {times} times")
        extents = defaultdict[tuple[object, ...], list[str]](list)
        for one in some:
            if one.voxels and one.centre_mm is not None:
                centre = tuple(round(part, 3) for part in one.centre_mm)
                extents[one.voxels, round(one.volume_cm3, 6), centre].append(one.original_name)
        for names in extents.values():
            if len(set(names)) > 1:
                tally.warn(f"{' and '.join(map(shown, names))} have the same voxels, volume and centre")
    if not tally.warnings:
        tally.note("each is there once")


def _inside_images(content: CourseStructures, tally: Tally) -> None:
    for one in content.structures:
        if one.is_empty:
            continue
        if not one.voxels and one.outside_image_cm3 > 0:
            tally.fail(f"{shown(one.name)} lies outside of the images, with all its {one.volume_cm3:.3g} cm³")
        elif one.outside_image_cm3 > 0:
            tally.warn(f"{shown(one.name)} has {one.outside_image_cm3:.3g} cm³ outside of the images")
    if not (tally.failures or tally.warnings):
        tally.note("all lie within the images")


def _not_cut(content: CourseStructures, tally: Tally) -> None:
    usual = defaultdict[str, list[str]](list)
    for one in content.structures:
        parts = ["the first or last plane"] if one.touches_first_or_last_plane else []
        parts += ["the edge of the images"] if one.touches_image_edge else []
        if not parts:
            continue
        where = " and ".join(parts)
        if _reaches_out(one.name) or one.interpreted_type in _REACHING_OUT_TYPES:
            usual[where].append(shown(one.name))
        else:
            tally.warn(f"{shown(one.name)} touches {where}")
    for where, names in usual.items():
        some = list(dict.fromkeys(names))
        tally.note(f"{_listed(some)} touch{'es' if len(some) == 1 else ''} {where}, as is usual")


def _reaches_out(name: str) -> bool:
    return name.casefold() in {one.casefold() for one in _REACHING_OUT}


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _no_gaps(content: CourseStructures, tally: Tally) -> None:
    for one in content.structures:
        for low, high in one.gaps:
            tally.warn(f"{shown(one.name)} has no contour between {low:.4g} and {high:.4g} mm")
    if not tally.warnings:
        tally.note("no gaps")


def _names_clear(content: CourseStructures, tally: Tally) -> None:
    for one in content.structures:
        if one.naming is Naming.AMBIGUOUS:
            tally.warn(f"{shown(one.original_name)} may mean several structures")
    unknown = sum(one.naming is Naming.UNKNOWN for one in content.structures)
    tally.note(f"{unknown} of {len(content.structures)} names are not in the table, and are kept")


def _laterality(content: CourseStructures, tally: Tally) -> None:
    for some in _of_one_source(content):
        placed = [
            (one.name, one.sided, one.centre_mm)
            for one in some
            if one.sided is not None and one.centre_mm is not None
        ]
        for fault in laterality_faults(placed):
            tally.fail(fault)
    if not tally.failures:
        tally.note("no left and right contradict their names")


def _dvh_made(content: CourseDvh, tally: Tally) -> None:
    if content.empty_because:
        # A course without a dose is told by the checks of its inventory.
        tell = tally.warn if content.doses or content.not_used else tally.note
        tell(f"there are no figures: {shown(content.empty_because)}")
    for one in content.not_used:
        tell = tally.note if one.cause is NotUsedCause.RULE else tally.warn
        tell(f"a dose was not used: {shown(one.reason)}")
    for fault in content.faults:
        tally.warn(shown(fault))
    for dose in content.doses:
        spacing = " × ".join(f"{part:g}" for part in dose.spacing_mm)
        tally.note(f"{dose.rule.value}, {spacing} mm, maximum {dose.maximum_gy:.4g} Gy")


def _coverage(content: CourseDvh, tally: Tally) -> None:
    # It loads SciPy, which the code location does without.
    from mqi_dagster.imaging.dvh_table import DoseMetricStatus

    measured = 0
    for one in content.figures:
        measured += one.status == DoseMetricStatus.MEASURED
        # An empty structure is for the checks of structures.
        if one.status in (DoseMetricStatus.MEASURED, DoseMetricStatus.EMPTY):
            continue
        covered = "" if one.coverage_percent is None else f", {one.coverage_percent:.3g} % inside"
        outside = (DoseMetricStatus.PARTLY_OUTSIDE, DoseMetricStatus.OUTSIDE)
        tell = tally.note if _reaches_out(one.name) and one.status in outside else tally.warn
        tell(f"{shown(one.name)}: {shown(one.reason or one.status)}{covered}")
    tally.note(f"{measured} of {len(content.figures)} measured")


def _figures_dose_type(content: CourseDvh, tally: Tally) -> None:
    types = Counter(one.dose_type for one in content.doses)
    if types[None]:
        tally.warn(f"the type of {types[None]} of {len(content.doses)} doses is not stated")
    known = sorted(shown(kind, 16) for kind in types if kind is not None)
    (tally.warn if len(known) > 1 else tally.note)(" and ".join(known) or "no dose of a known type")


def _prescription(content: CourseDvh, tally: Tally) -> None:
    for one in content.doses:
        if one.prescription_gy is None:
            tally.warn(f"no prescribed dose: {shown(one.prescription_source)}")
        else:
            tally.note(f"{one.prescription_gy:.4g} Gy ({shown(one.prescription_source)})")


def _figures_frame(content: CourseDvh, tally: Tally) -> None:
    wrong = sum(not one.frame_of_reference_fits for one in content.doses)
    if wrong:
        tally.fail(f"{wrong} of {len(content.doses)} doses lie in another Frame of Reference than the images")
    else:
        tally.note(f"{counted(len(content.doses), 'dose')} in the Frame of Reference of the images")


def _goals_met(content: CourseDvh, tally: Tally) -> None:
    # It loads SciPy, which the code location does without.
    from mqi_dagster.imaging.clinical_goals import GoalVerdict

    counts = Counter(one.verdict for one in content.goals)
    for one in content.goals:
        if one.verdict != GoalVerdict.MET:
            tally.warn(f"{shown(one.structure)} {shown(one.goal)} {one.verdict}: {shown(one.text)}")
    tally.note(f"{counts[GoalVerdict.MET]} of {len(content.goals)} met")


def _features_computed(content: CourseRadiomics, tally: Tally) -> None:
    counts = Counter(one.status for one in content.regions)
    for one in content.regions:
        if one.status is RegionStatus.FAILED:
            tally.warn(f"{shown(one.structure_id)} has failed: {shown(one.reason)}", _RADIOMICS_AGAIN)
    for series in content.series:
        for remark in series.remarks:
            tally.warn(f"{series.modality} {series.series}: {shown(remark)}", _NOT_CROPPED)
    words = ", ".join(f"{counts[status]} {status.value}" for status in RegionStatus if counts[status])
    tally.note(words or ("no structures" if content.enabled else "radiomics.enabled is false"))


_SEGMENTATION_RULES: dict[str, Rule[CourseSegmentations]] = {
    "models_ran": _models_ran,
    "volumes_plausible": _volumes_plausible,
    "full_resources": _full_resources,
    "models_isolated": _models_isolated,
}
_STRUCTURE_RULES: dict[str, Rule[CourseStructures]] = {
    "structures_taken": _structures_taken,
    "not_empty": _not_empty,
    "not_doubled": _not_doubled,
    "inside_images": _inside_images,
    "not_cut": _not_cut,
    "no_gaps": _no_gaps,
    "names_clear": _names_clear,
    "laterality": _laterality,
}
_DVH_RULES: dict[str, Rule[CourseDvh]] = {
    "dvh_made": _dvh_made,
    "coverage": _coverage,
    "figures_dose_type": _figures_dose_type,
    "prescription": _prescription,
    "figures_frame": _figures_frame,
    "goals_met": _goals_met,
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReportedCheck(_Part):
    """A check as it stands in ``qc_report.json``."""

    name: str
    asset: str
    verdict: Verdict
    text: str
    """What was found."""
    advice: str
    """What to do; empty where it passes."""


class QcReport(_Part):
    """``qc_report.json``: ``overall_status`` and ``checks``, each with the fields of `ReportedCheck`."""

    overall_status: Verdict
    """The worst of the checks."""
    checks: tuple[ReportedCheck, ...]
    """All of `CHECKS`, in their order."""

    @model_validator(mode="after")
    def _is_the_worst(self) -> Self:
        verdicts = {one.verdict for one in self.checks}
        if self.overall_status is not next((one for one in reversed(Verdict) if one in verdicts), None):
            raise ValueError("overall_status is not the worst of the checks")
        return self


def qc_report(results: Iterable[QcResult]) -> QcReport:
    """The report of a course.

    Args:
        results: Of the checks that were evaluated. The others stand in the report as WARNING: what was not
            looked at has not passed.
    """
    found = {(one.check.asset, one.check.name): one for one in results}
    every = [
        found.get((check.asset, check.name)) or QcResult(check, Verdict.WARNING, _NOT_EVALUATED, _RUN_IT)
        for check in CHECKS
    ]
    return QcReport(
        overall_status=worst(every),
        checks=tuple(
            ReportedCheck(
                name=one.check.name,
                asset=one.check.asset,
                verdict=one.verdict,
                text=one.text,
                advice=one.advice,
            )
            for one in every
        ),
    )


def write_qc_report(results: Iterable[QcResult], path: Path) -> QcReport:
    """Write the report of a course whole.

    Args:
        results: As for `qc_report`.
        path: `QC_REPORT` in the folder of the report.

    Returns:
        What was written.
    """
    report = qc_report(results)
    write_whole(path, report.model_dump_json(indent=1).encode("utf-8"))
    return report


def read_qc_report(path: Path) -> QcReport:
    """Read a report back.

    Raises:
        StoreError: There is none, it is of another version, or contradicts itself.
    """
    try:
        return QcReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise StoreError("the quality report cannot be read", where=Where(kind="quality report")) from None

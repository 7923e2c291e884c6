"""Courses as people ask for them: a list with verdicts, and everything about one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import dagster as dg

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.courses.chosen_series import chosen_series
from mqi_dagster.courses.inventory import CourseInventory
from mqi_dagster.courses.places import Place, file_at
from mqi_dagster.errors import (
    ConfigurationError,
    InfrastructureError,
    InputError,
    KeyRejectedError,
    StoreError,
)
from mqi_dagster.imaging.quality_control import Verdict, checks_of
from mqi_dagster.imaging.segmentation_files import SEGMENTATIONS, SegmentationState, read_segmentations
from mqi_dagster.lifecycle.course import course_in
from mqi_dagster.lifecycle.jobs import course_job
from mqi_dagster.lifecycle.lineage import latest_digest
from mqi_dagster.lifecycle.materialisations import COURSE_REPORT, INVENTORY
from mqi_dagster.lifecycle.stages import CaseState
from mqi_dagster.operations.course_identities import CourseIdentity, identities_of
from mqi_dagster.operations.course_results import made, page_in, quality_in, verdict_in
from mqi_dagster.operations.unit_results import (
    CheckRow,
    QualityRow,
    ResultRow,
    evaluated,
    judged,
    results_of,
    worst_first,
)
from mqi_dagster.partitions import COURSE
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist import CaseStatus, Worklist
from mqi_dagster.worklist.board_rows import StatusRow

_SEGMENTATIONS = ("auto_segmentation", "custom_segmentation")
TABLES = (".parquet", ".csv", ".xlsx")


class CourseRow(StatusRow):
    """A course of the list."""

    row: CaseStatus
    verdict: Verdict | None


class ObjectRow(StatusRow):
    """A plan, dose, structure set or series of a course, with its real place."""

    role: str
    label: str = ""
    """As people have typed it: it may name the patient."""
    words: str
    path: Path
    """Of a series its first image; with the archive's name where it lies in one."""


class AsideRow(StatusRow):
    """Something that belongs to the course and is not used."""

    reason: str
    text: str
    path: Path


class ModelRow(StatusRow):
    """What a model has made of a series."""

    model: str
    version: str
    series: str
    state: SegmentationState
    reason: str
    regions: int
    device: str
    steps: tuple[str, ...]
    """Tries that did not end well, and what was done instead."""
    log: Path | None
    """What the program of a failed one has printed, without paths; None where it is not there any more."""


class FileRow(StatusRow):
    """A file of a course's results, as it lies in the store."""

    asset: str
    name: str
    size: int
    """Bytes."""


class CourseDetails(StatusRow):
    """Everything about one course; the only place where real paths are shown."""

    row: CaseStatus
    patient: CourseIdentity | None = None
    """Whose it is, for scripts alone; None where the index of the tree does not tell."""
    verdict: Verdict | None = None
    page: Path | None = None
    analysed: str | None = None
    """Why the series that is analysed is this one."""
    objects: tuple[ObjectRow, ...] = ()
    doses: tuple[str, ...] = ()
    """What was decided about doses."""
    set_aside: tuple[AsideRow, ...] = ()
    findings: tuple[str, ...] = ()
    results: tuple[ResultRow, ...] = ()
    models: tuple[ModelRow, ...] = ()
    checks: tuple[CheckRow, ...] = ()
    first_cause: str | None = None
    next_step: str | None = None


def course_rows(instance: dg.DagsterInstance, site: Site) -> Iterator[CourseRow]:
    """Every course, the latest arrival first."""
    work = Worklist(instance, site, PIPELINES, site.ledger)
    work.snapshot()
    for row in work.every_case(COURSE):
        report = made(site, row.case, COURSE_REPORT, latest_digest(instance, COURSE_REPORT, row.case))
        yield CourseRow(row=row, verdict=verdict_in(report))


def course_details(instance: dg.DagsterInstance, site: Site, course: str) -> CourseDetails:
    """Everything about one course and its patient, whose status is read for it alone.

    Raises:
        InputError: Nobody knows it.
    """
    work = Worklist(instance, site, PIPELINES, site.ledger)
    work.snapshot()
    row = work.case(course) if COURSE.has(course) else None
    if row is None:
        raise InputError("the course is not known here; `mqi course list` names those that are")
    found = details_of(instance, site, row)
    return found.model_copy(update={"patient": _patient(site, course)})


def details_of(instance: dg.DagsterInstance, site: Site, row: CaseStatus) -> CourseDetails:
    """Everything about one course, but whose it is.

    Args:
        instance: Dagster's records.
        site: The site.
        row: Where it stands.
    """
    course = row.case
    results = tuple(results_of(instance, site, course, course_job.assets))
    digests = {one.asset: one.digest for one in results}
    report = made(site, course, COURSE_REPORT, digests.get(COURSE_REPORT))
    failed = row.state is CaseState.FAILED
    names = {asset: [check.name for check in checks_of(asset)] for asset in digests}
    found = CourseDetails(
        row=row,
        verdict=verdict_in(report),
        page=page_in(report),
        results=results,
        models=tuple(_models(site, course, digests)),
        checks=tuple(evaluated(instance, course, names)),
        first_cause=row.reason if failed else None,
        next_step=row.next_step if failed else None,
    )
    organised = made(site, course, INVENTORY, digests.get(INVENTORY))
    if organised is None:
        return found
    try:
        read = course_in(organised, site, course)
    except (OSError, StoreError):
        words = "its inventory in the store cannot be read: the next run makes it again"
        return found.model_copy(update={"findings": (words,)})
    inventory = read.inventory
    return found.model_copy(
        update={
            "analysed": chosen_series(inventory).reason,
            "objects": tuple(_objects(read.root, inventory)),
            "doses": tuple(_decisions(inventory)),
            "set_aside": tuple(
                AsideRow(reason=one.reason.value, text=one.text, path=_path(read.root, one.place))
                for one in inventory.set_aside
            ),
            "findings": tuple(finding.text for finding in inventory.findings),
        }
    )


def places(details: CourseDetails) -> Iterator[tuple[str, Path]]:
    """Where the files of a course lie, by what they are."""
    for one in details.objects:
        yield one.role, one.path
    for aside in details.set_aside:
        yield f"set aside: {aside.text}", aside.path
    for result in details.results:
        if result.folder is not None:
            yield result.asset, result.folder
    for model in details.models:
        if model.log is not None:
            yield f"log of {model.model}", model.log


def quality_of(site: Site, details: CourseDetails) -> list[QualityRow]:
    """Every check of a course, the worst first: its report's, or before there is one its results'."""
    digest = next((one.digest for one in details.results if one.asset == COURSE_REPORT), None)
    reported = quality_in(made(site, details.row.case, COURSE_REPORT, digest))
    if reported is not None:
        found = [
            QualityRow(asset=one.asset, name=one.name, verdict=one.verdict, text=one.text, advice=one.advice)
            for one in reported.checks
        ]
    else:
        found = [judged(one) for one in details.checks]
    return worst_first(found)


def files_of(site: Site, details: CourseDetails, kinds: tuple[str, ...]) -> Iterator[FileRow]:
    """The files of a course's results whose names end in one of these ways."""
    for result in details.results:
        found = made(site, details.row.case, result.asset, result.digest)
        for name, entry in ({} if found is None else found.manifest.files).items():
            if name.endswith(kinds):
                yield FileRow(asset=result.asset, name=name, size=entry.size)


def course_file(site: Site, details: CourseDetails, asset: str, name: str) -> Path:
    """A file of a result of a course, compared with what was published.

    Raises:
        KeyRejectedError: The course has no such result, or it no such file.
        StoreError: The file is not what was published.
    """
    digest = next((one.digest for one in details.results if one.asset == asset), None)
    found = made(site, details.row.case, asset, digest)
    if found is None or name not in found.manifest.files:
        raise KeyRejectedError("there is no such file")
    found.verify([name])
    return found.path(name)


def _patient(site: Site, course: str) -> CourseIdentity | None:
    try:
        return next(identities_of(site, [course]), None)
    except (ConfigurationError, InfrastructureError, InputError, StoreError):
        # What is wrong with the index, its own scan tells.
        return None


def _models(site: Site, course: str, digests: Mapping[str, str | None]) -> Iterator[ModelRow]:
    for asset in _SEGMENTATIONS:
        published = made(site, course, asset, digests.get(asset))
        if published is None or SEGMENTATIONS not in published.manifest.files:
            continue
        try:
            content = read_segmentations(published.folder)
        except StoreError:
            # The list of results tells that it is there; its own step says what is wrong with it.
            continue
        for one in content.segmentations:
            yield ModelRow(
                model=one.model,
                version=one.version,
                series=one.series,
                state=one.state,
                reason=one.reason,
                regions=len(one.regions),
                device=one.device,
                steps=one.steps,
                log=_log_named(site, course, one.reason),
            )


def _log_named(site: Site, course: str, reason: str) -> Path | None:
    """The log that the reason of a failure names."""
    return next((one for one in (site.engine_logs / course).glob("*.log") if one.name in reason), None)


def _objects(root: Path, inventory: CourseInventory) -> Iterator[ObjectRow]:
    prescribed = {one.plan_uid: one for one in inventory.prescriptions}
    for plan in inventory.plans:
        prescription = prescribed.get(plan.found.sop_instance_uid)
        doses = [] if prescription is None else [one.dose_gy for one in prescription.targets]
        known = [f"{dose:g} Gy" for dose in doses if dose is not None]
        count = plan.found.fractions_planned
        words = [
            ", ".join(known) or "no prescription",
            "no number of fractions" if count is None else f"{count} fractions",
            plan.found.approval or "",
        ]
        label = plan.found.label or "without a label"
        yield ObjectRow(
            role="plan", label=label, words=", ".join(filter(None, words)), path=_path(root, plan.place)
        )
    for dose in inventory.doses:
        facts = (dose.found.summation_type, dose.found.dose_type, dose.found.units)
        words = [fact for fact in facts if fact]
        yield ObjectRow(role="dose", words=", ".join(words), path=_path(root, dose.place))
    for one in inventory.structure_sets:
        yield ObjectRow(
            role="structure set",
            label=one.found.label or "without a label",
            words=f"{len(one.found.rois)} structures",
            path=_path(root, one.place),
        )
    analysed = chosen_series(inventory).planning
    for series in inventory.image_series:
        words = [series.modality or "no modality", f"{len(series.images)} images"]
        words += ["analysed"] if series is analysed else []
        yield ObjectRow(role="series", words=", ".join(words), path=_path(root, series.images[0].place))


def _decisions(inventory: CourseInventory) -> Iterator[str]:
    """Each decision about doses in words, in which doses and plans have their numbers in the inventory."""
    doses = {one.found.sop_instance_uid: number for number, one in enumerate(inventory.doses, start=1)}
    plans = {one.found.sop_instance_uid: number for number, one in enumerate(inventory.plans, start=1)}
    for one in inventory.dose_decisions:
        of = "" if one.plan_uid is None else f" (plan {plans[one.plan_uid]})"
        parts = [
            f"{word} {sign.join(str(doses[uid]) for uid in uids)}"
            for word, sign, uids in (
                ("sum of doses", " + ", one.summed),
                ("dose", ", ", one.used),
                ("not used: dose", ", ", one.not_used),
            )
            if uids
        ]
        yield f"{one.rule.value}{of}: {'; '.join(parts)}"


def _path(root: Path, place: Place) -> Path:
    return file_at(root, place.path) / place.member if place.member else file_at(root, place.path)

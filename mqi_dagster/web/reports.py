"""Everything about one case, course or image set for its page, read once until its row changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from mqi_dagster.errors import InfrastructureError, KeyRejectedError, MqiError
from mqi_dagster.lifecycle.materialisations import COURSE_REPORT
from mqi_dagster.operations.case_report import CaseReport, report_of
from mqi_dagster.operations.course_report import (
    TABLES,
    CourseDetails,
    FileRow,
    details_of,
    files_of,
    quality_of,
)
from mqi_dagster.operations.dose_slices import DoseFacts, DoseSlices
from mqi_dagster.operations.image_set_report import ImageSetDetails, image_set_details
from mqi_dagster.operations.kept import Kept
from mqi_dagster.operations.metadata_pictures import Picture, pictures_of
from mqi_dagster.operations.segmentation_slices import SegmentationFacts, SegmentationSlices
from mqi_dagster.operations.unit_results import QualityRow
from mqi_dagster.partitions import PartitionKind, beam_key
from mqi_dagster.resources.site import Site
from mqi_dagster.web.live import Live
from mqi_dagster.worklist import BeamStatus, CaseStatus
from mqi_dagster.worklist.reading import plain_errors

_KEPT_BYTES, _REPORT_BYTES = 64 << 20, 50_000
_KEPT_COURSES = 200


@dataclass(frozen=True, slots=True)
class CasePage:
    """What the page of a case shows beside its rows."""

    report: CaseReport
    pictures: Mapping[int, Mapping[str, Picture]]
    """Of each beam, by name."""
    doses: Mapping[int, DoseFacts | str]
    """Of each beam that has an RT Dose; in place of what cannot be shown, why."""


@dataclass(frozen=True, slots=True)
class CoursePage:
    """What the page of a course shows beside its row."""

    details: CourseDetails
    checks: Sequence[QualityRow]
    tables: Sequence[FileRow]
    pictures: Sequence[str]
    """Names of the pictures of its report."""


@dataclass(frozen=True, slots=True)
class ImageSetPage:
    """What the page of an image set shows beside its row."""

    details: ImageSetDetails
    slices: SegmentationFacts | str
    """In place of what cannot be shown, why; empty where there is nothing yet."""


def _size(page: CasePage) -> int:
    pictures = (one for of_beam in page.pictures.values() for one in of_beam.values())
    return _REPORT_BYTES + sum(len(one.png) for one in pictures)


class Reports:
    """Reads what the pages of cases, courses and image sets show.

    Args:
        site: The site.
        live: Where everything stands.
    """

    def __init__(self, site: Site, live: Live) -> None:
        self._site, self._live = site, live
        self.slices = DoseSlices(site)
        self._cases = Kept[CasePage](_KEPT_BYTES, _size)
        self._courses = Kept[CoursePage](_KEPT_COURSES)
        self._image_sets = Kept[ImageSetPage](_KEPT_COURSES)
        self.regions = SegmentationSlices(site)
        self._rows: tuple[int, dict[str, CaseStatus], dict[str, list[BeamStatus]]] = (-1, {}, {})

    @property
    def instance(self) -> dg.DagsterInstance:
        """Dagster's records; InfrastructureError while they are away."""
        found = self._live.instance
        if found is None:
            raise InfrastructureError(self._live.seen.error or "the records are away: try again in a minute")
        return found

    def rows(self, kind: PartitionKind, key: str) -> tuple[CaseStatus, list[BeamStatus]]:
        """Where a case or a course stands, and its beams by number.

        Raises:
            KeyRejectedError: Nobody knows it.
            InfrastructureError: Nothing was read yet.
        """
        seen = self._live.seen
        if seen.work is None:
            raise InfrastructureError(seen.error or "the records are being read: try again in a minute")
        version, units, parts = self._rows
        if version != seen.version:
            units, parts = {one.case: one for one in seen.work.cases}, {}
            for beam in seen.work.beams:
                parts.setdefault(beam.case, []).append(beam)
            self._rows = seen.version, units, parts
        if not kind.has(key) or key not in units:
            raise KeyRejectedError(f"the {kind.name.replace('_', ' ')} is not known here")
        return units[key], sorted(parts.get(key, ()), key=lambda one: one.number)

    def deeds(self) -> int:
        """Number of the newest row of the audit: what a page tells of people's deeds is of then."""
        try:
            newest = self._site.ledger.audit.newest(1)
        except InfrastructureError:
            return 0
        return newest[0].number if newest else 0

    def case(self, row: CaseStatus, beams: Sequence[BeamStatus]) -> CasePage:
        """What the page of a case shows.

        Raises:
            InfrastructureError: Something is away.
            StoreError: A result is damaged.
        """
        return self._cases.get((row.case, _mark(row, beams)), lambda: self._case(row, beams))

    def course(self, row: CaseStatus) -> CoursePage:
        """What the page of a course shows; errors as `case`."""
        return self._courses.get((row.case, _mark(row, ())), lambda: self._course(row))

    def image_set(self, row: CaseStatus) -> ImageSetPage:
        """What the page of an image set shows; errors as `case`."""
        return self._image_sets.get((row.case, _mark(row, ())), lambda: self._image_set(row))

    def _image_set(self, row: CaseStatus) -> ImageSetPage:
        with plain_errors():
            details = image_set_details(self.instance, self._site, row.case)
        slices: SegmentationFacts | str = ""
        if details.found is not None and details.facts is not None:
            try:
                slices = self.regions.facts(self.instance, row.case)
            except MqiError as error:
                slices = error.message
        return ImageSetPage(details, slices)

    def _course(self, row: CaseStatus) -> CoursePage:
        with plain_errors():
            details = details_of(self.instance, self._site, row)
        tables, pictures = (tuple(files_of(self._site, details, kinds)) for kinds in (TABLES, (".png",)))
        report = [one.name.removesuffix(".png") for one in pictures if one.asset == COURSE_REPORT]
        return CoursePage(details, quality_of(self._site, details), tables, report)

    def _case(self, row: CaseStatus, beams: Sequence[BeamStatus]) -> CasePage:
        instance = self.instance
        with plain_errors():
            report = report_of(instance, self._site, row, beams)
            keys = {one.result.beam: beam_key(row.case, one.result.beam) for one in report.beams}
            doses: dict[int, DoseFacts | str] = {}
            for one in report.beams:
                if "rt_dose" in one.result.digests:
                    try:
                        doses[one.result.beam] = self.slices.facts(instance, keys[one.result.beam])
                    except MqiError as error:
                        doses[one.result.beam] = error.message
            pictures = {number: pictures_of(instance, key) for number, key in keys.items()}
        return CasePage(report, pictures, doses)


def _mark(row: CaseStatus, beams: Sequence[BeamStatus]) -> tuple[object, ...]:
    """What changes with anything that is to be read anew: not how far a simulation has come."""
    rows: tuple[CaseStatus | BeamStatus, ...] = (row, *beams)
    marks = tuple((one.state, one.stage, one.reason, one.run) for one in rows)
    return (*marks, *((one.attempt, one.job, one.job_state) for one in beams))

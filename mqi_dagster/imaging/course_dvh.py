"""The dose-volume tables of a course: which doses, of which structures, and what is said where there is none.

Doses are those that the rules of the inventory have chosen. A structure that was drawn is measured by its
contours, any other one by its voxels. One dose and one structure are in memory at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from mqi_dagster.courses.dose_rules import DoseRule
from mqi_dagster.courses.inventory import CourseInventory
from mqi_dagster.dose.grid import DoseGrid
from mqi_dagster.dose.stored_image import read_dose
from mqi_dagster.errors import DicomError, DoseError, ImageError, MqiError, Where
from mqi_dagster.files import whole_file
from mqi_dagster.imaging import clinical_goals
from mqi_dagster.imaging.clinical_goals import Goal, GoalVerdict, Protocol, judge
from mqi_dagster.imaging.contours import Layer, contours_on
from mqi_dagster.imaging.dose_sum import summed
from mqi_dagster.imaging.dvh import Dvh, dose_volume
from mqi_dagster.imaging.dvh_files import (
    CURVE_COLUMNS,
    CURVES,
    METRICS,
    CourseDvh,
    DoseNotUsed,
    DoseUsed,
    GoalResult,
    NotUsedCause,
    StructureFigures,
    write_dvh,
)
from mqi_dagster.imaging.dvh_table import (
    COVERAGE_COLUMN,
    DECIMALS,
    METRICS_SCHEMA,
    REASON_COLUMN,
    STATUS_COLUMN,
    DoseMetricStatus,
    figures,
    without_doses,
)
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.structure_files import (
    MASKS,
    CourseStructures,
    RegionRecord,
    StructureRecord,
    StructureSource,
    read_mask,
)
from mqi_dagster.imaging.structure_names import nearest_names
from mqi_dagster.imaging.structure_set import Roi, read_structure_set
from mqi_dagster.imaging.sub_voxels import layers_within, mask_layers
from mqi_dagster.imaging.total_doses import TotalDose, total_doses

CURVES_SCHEMA: dict[str, type[pl.DataType]] = dict(
    zip(CURVE_COLUMNS, (pl.String, pl.String, pl.Float64, pl.Float64, pl.Float64), strict=True)
)
"""Of ``dvh_curves.parquet``: doses in Gy, volumes that get at least these in cm³ and in percent."""
_REASONS = {
    DoseMetricStatus.MEASURED: "",
    DoseMetricStatus.PARTLY_OUTSIDE: "a part of it lies outside of the dose grid",
    DoseMetricStatus.OUTSIDE: "it lies outside of the dose grid",
    DoseMetricStatus.EMPTY: "it has no volume",
    DoseMetricStatus.OTHER_FRAME: "the dose is in another Frame of Reference than the images",
}
_WHERE = Where(kind="dvh")


@dataclass(frozen=True, slots=True)
class DvhRequest:
    """What the tables of a course are made of."""

    course: str
    """Its key."""
    inventory: CourseInventory
    structures: CourseStructures
    structures_folder: Path
    """With their masks."""
    grid: ImageGrid | None
    """Of the planning series; None where there is none."""
    no_grid_because: str
    """Why there is none."""
    content: Callable[[str], bytes]
    """The file of an object, by its SOP Instance UID."""
    dose_id: Callable[..., str]
    """Pseudonym of some SOP Instance UIDs."""
    step_gy: float
    """Between points of a curve."""
    region: RegionRecord | None = None
    """In which figures are taken; None: of whole structures."""
    protocol: Protocol | None = None
    faults: tuple[str, ...] = ()
    """What is known to be wrong beforehand."""


def make_dvh(request: DvhRequest, folder: Path) -> CourseDvh:
    """Make the tables and the record of a course.

    Args:
        request: Of what.
        folder: Where they are written.

    Raises:
        InputError: A file has changed since the course was organised.
        StoreError: A mask is damaged.
        OSError: The disk does not take, or give, a file.
    """
    totals, not_used = total_doses(request.inventory)
    records = [one for one in request.structures.structures if one.series == request.structures.planning]
    labels = Counter(total.label for total in totals)
    tables, doses, goals = _Tables(), list[DoseUsed](), list[GoalResult]()
    for total in totals:
        dose_id = request.dose_id(*total.uids)
        try:
            if request.grid is None:
                raise ImageError(request.no_grid_because, where=_WHERE)
            dose = _read(total, request.content)
        except (DicomError, DoseError, ImageError) as error:
            not_used += [
                DoseNotUsed(dose_uid=uid, cause=_cause(error, total), reason=_words(error))
                for uid in total.uids
            ]
            continue
        label = f"{total.label} ({dose_id})" if labels[total.label] > 1 else total.label
        used = _used(total, dose, dose_id, label, request.grid)
        doses.append(used)
        tables.begin(request.course, used)
        judged = _Goals(request.protocol, records, used, request.region)
        for record, found, reason in _measured(request, records, used, dose, request.grid):
            tables.add(record, found, reason, request.region, request.step_gy)
            judged.add(record, found, reason)
        goals += judged.results()
        del dose  # so that it is gone before the next one is read
    content = CourseDvh(
        doses=tuple(doses),
        not_used=tuple(sorted(not_used, key=lambda one: one.dose_uid)),
        figures=tuple(tables.figures),
        goals=tuple(goals),
        faults=request.faults,
        empty_because="" if tables.figures else _why_empty(request, totals, doses),
    )
    tables.write(folder)
    write_dvh(content, folder)
    return content


def write_empty(because: str, folder: Path) -> CourseDvh:
    """The tables without a row, and a record that says why.

    Args:
        because: Why.
        folder: Where they are written.
    """
    content = CourseDvh(doses=(), not_used=(), figures=(), empty_because=because)
    _Tables().write(folder)
    write_dvh(content, folder)
    return content


def _why_empty(request: DvhRequest, totals: list[TotalDose], doses: list[DoseUsed]) -> str:
    if not request.inventory.doses:
        return "the course has no dose"
    if request.grid is None:
        return request.no_grid_because
    return "the planning series has no structure" if doses else "no dose of the course can be used"


def _words(error: MqiError) -> str:
    return f"{error.message} ({error.first_cause})" if error.first_cause else error.message


def _cause(error: MqiError, total: TotalDose) -> NotUsedCause:
    if isinstance(error, ImageError):
        return NotUsedCause.NO_IMAGES
    return NotUsedCause.NOT_SUMMED if len(total.doses) > 1 else NotUsedCause.UNREADABLE


def _read(total: TotalDose, content: Callable[[str], bytes]) -> DoseGrid:
    """The dose, summed where it is a sum.

    Raises:
        DoseError: One cannot be read, or they do not add up.
    """
    return summed([read_dose(content(uid)) for uid in total.uids])


def _used(total: TotalDose, dose: DoseGrid, dose_id: str, label: str, grid: ImageGrid) -> DoseUsed:
    frames = {one.frame_of_reference_uid for one in total.doses}
    return DoseUsed(
        dose_id=dose_id,
        label=label,
        dose_uids=total.uids,
        plan_uids=total.plan_uids,
        rule=total.rule,
        summed=len(total.doses) > 1,
        dose_type=total.dose_type,
        prescription_gy=total.prescription_gy,
        prescription_source=total.prescription_source,
        frame_of_reference_fits=frames == {grid.frame_of_reference_uid},
        spacing_mm=(dose.column_spacing_mm, dose.row_spacing_mm, dose.frame_spacing_mm),
        maximum_gy=round(float(dose.values.max()), DECIMALS),
    )


Found = Dvh | DoseMetricStatus
"""What was measured, or why nothing was."""


def _measured(
    request: DvhRequest, records: list[StructureRecord], used: DoseUsed, dose: DoseGrid, grid: ImageGrid
) -> Iterator[tuple[StructureRecord, Found, str]]:
    """Each structure with what was measured of it, and the reason where nothing was."""
    for record, roi, fault in _with_contours(request, records):
        if not used.frame_of_reference_fits:
            yield record, DoseMetricStatus.OTHER_FRAME, ""
        elif record.is_empty:
            yield record, DoseMetricStatus.EMPTY, "; ".join(record.faults)
        elif fault:
            yield record, DoseMetricStatus.FAILED, fault
        else:
            try:
                layers = _layers(record, roi, request, grid)
                found = dose_volume(layers, grid, dose)
            except (ImageError, DoseError) as error:
                yield record, DoseMetricStatus.FAILED, _words(error)
                continue
            outside = "it lies outside of the analysis region" if request.region is not None else ""
            yield record, found, "" if found.volume_cm3 else outside


def _with_contours(
    request: DvhRequest, records: Iterable[StructureRecord]
) -> Iterator[tuple[StructureRecord, Roi | None, str]]:
    """Each structure, with its contours where it was drawn, one structure set after the other."""
    of_sets: dict[str, list[StructureRecord]] = {}
    others: list[StructureRecord] = []
    for record in records:
        if record.source is StructureSource.CLINICAL and record.structure_set_uid is not None:
            of_sets.setdefault(record.structure_set_uid, []).append(record)
        else:
            others.append(record)
    for uid, drawn in of_sets.items():
        try:
            rois = {roi.number: roi for roi in read_structure_set(request.content(uid)).rois}
        except DicomError as error:
            yield from ((record, None, f"the structure set {_words(error)}") for record in drawn)
            continue
        for record in drawn:
            roi = None if record.roi_number is None else rois.get(record.roi_number)
            yield record, roi, "" if roi is not None else "the structure set does not have this region"
    yield from ((record, None, "") for record in others)


def _layers(
    record: StructureRecord, roi: Roi | None, request: DvhRequest, grid: ImageGrid
) -> Iterable[Layer]:
    if roi is None:
        mask = read_mask(request.structures_folder / MASKS / f"{record.id}.npz", grid)
        layers: Iterable[Layer] = mask_layers(mask, grid)
    else:
        layers = contours_on(grid, roi.contours_mm).layers()
    region = request.region
    return layers if region is None else layers_within(layers, grid, region.low_mm, region.high_mm)


def cropped_by(record: StructureRecord, region: RegionRecord | None) -> tuple[str, ...]:
    """What cuts a structure, so that its figures are of a part.

    Args:
        record: The structure.
        region: In which figures are taken.
    """
    by_region = region is not None and bool(record.cut_off_percent)
    return (
        *(("analysis region",) if by_region else ()),
        *(("end of the images",) if _ends_with_images(record) else ()),
    )


def _ends_with_images(record: StructureRecord) -> bool:
    return record.touches_first_or_last_plane or record.touches_image_edge


@dataclass(slots=True)
class _Tables:
    """The rows of the tables, and the same in short for the record."""

    figures: list[StructureFigures] = field(default_factory=list)
    _rows: list[dict[str, object]] = field(default_factory=list)
    _curves: list[pl.DataFrame] = field(default_factory=list)
    _dose: dict[str, object] = field(default_factory=dict)
    _prescription_gy: float | None = None

    def begin(self, course: str, used: DoseUsed) -> None:
        """Go on with another dose."""
        self._prescription_gy = used.prescription_gy
        columns_mm, rows_mm, frames_mm = used.spacing_mm
        self._dose = {
            "course": course,
            "dose_id": used.dose_id,
            "dose_label": used.label,
            "dose_rule": used.rule.value,
            "dose_type": used.dose_type,
            "dose_resolution_columns_mm": columns_mm,
            "dose_resolution_rows_mm": rows_mm,
            "dose_resolution_frames_mm": frames_mm,
            "rx_source": used.prescription_source,
            "prescription_gy": used.prescription_gy,
        }

    def add(
        self,
        record: StructureRecord,
        found: Found,
        reason: str,
        region: RegionRecord | None,
        step_gy: float,
    ) -> None:
        """Add a structure and the dose of now."""
        if isinstance(found, Dvh):
            values = figures(found, self._prescription_gy)
        else:
            values = without_doses(record.volume_cm3, found)
        status = DoseMetricStatus(str(values[STATUS_COLUMN]))
        reason = reason or _REASONS.get(status, "")
        cut = cropped_by(record, region)
        drawn = record.source is StructureSource.CLINICAL
        self._rows.append(
            {
                **self._dose,
                "structure_id": record.id,
                "ROI_Number": record.roi_number,
                "ROI_Name": record.name,
                "ROI_OriginalName": record.original_name,
                "ROI_InterpretedType": record.interpreted_type or None,
                "Segmentation_Source": record.source.value,
                "made_by": record.made_by,
                "rtstruct_label": record.made_by if drawn else None,
                "structure_cropped": bool(cut),
                "cropped_by": ", ".join(cut) or None,
                **values,
                REASON_COLUMN: reason or None,
            }
        )
        coverage = values[COVERAGE_COLUMN]
        self.figures.append(
            StructureFigures(
                dose_id=str(self._dose["dose_id"]),
                structure_id=record.id,
                name=record.name,
                status=status.value,
                coverage_percent=None if coverage is None else float(coverage),
                cropped=bool(cut),
                reason=reason,
            )
        )
        if isinstance(found, Dvh) and status is DoseMetricStatus.MEASURED:
            doses_gy, volumes_cm3 = found.curve(step_gy)
            percents = 100 * volumes_cm3 / found.covered_cm3
            points = [part.round(DECIMALS) for part in (doses_gy, volumes_cm3, percents)]
            ids = ([one] * len(doses_gy) for one in (self._dose["dose_id"], record.id))
            self._curves.append(
                pl.DataFrame(dict(zip(CURVE_COLUMNS, (*ids, *points), strict=True)), schema=CURVES_SCHEMA)
            )

    def write(self, folder: Path) -> None:
        """Write both tables."""
        curves = pl.concat([pl.DataFrame(schema=CURVES_SCHEMA), *self._curves])
        metrics = pl.DataFrame(self._rows, schema=METRICS_SCHEMA)
        for table, name in ((metrics, METRICS), (curves, CURVES)):
            with whole_file(folder / name) as stream:
                table.write_parquet(stream)


class _Goals:
    """The goals of a protocol and one dose, each judged when its structure comes along.

    Args:
        protocol: None where the site has none.
        records: The structures.
        used: The dose.
        region: In which figures are taken.
    """

    def __init__(
        self,
        protocol: Protocol | None,
        records: list[StructureRecord],
        used: DoseUsed,
        region: RegionRecord | None,
    ) -> None:
        self._goals = () if protocol is None else protocol.goals
        self._protocol = protocol
        self._used = used
        self._region = region
        self._meant = [_meant(goal.structure, records) for goal in self._goals]
        self._there = {name for one in records for name in (one.name, one.original_name)}
        self._judged: dict[int, clinical_goals.GoalResult] = {}
        self._of_a_part: set[int] = set()

    def add(self, record: StructureRecord, found: Found, reason: str) -> None:
        """Judge what is asked of a structure."""
        for number, goal in enumerate(self._goals):
            if [one.id for one in self._meant[number]] == [record.id]:
                self._judged[number] = self._result(goal, record, found, reason)
                if _ends_with_images(record):
                    self._of_a_part.add(number)

    def _result(
        self, goal: Goal, record: StructureRecord, found: Found, reason: str
    ) -> clinical_goals.GoalResult:
        if self._used.rule is DoseRule.AMBIGUOUS:
            return _not_judged(goal, "no rule says what the total dose of the course is")
        if self._region is not None and record.cut_off_percent:
            return _not_judged(goal, "the analysis region cuts the structure")
        if isinstance(found, DoseMetricStatus):
            return _not_judged(goal, reason or _REASONS[found])
        if goal.is_relative_to_volume and _ends_with_images(record):
            return _not_judged(
                goal, "the end of the images cuts the structure: its whole volume is not known"
            )
        assert self._protocol is not None
        alone = self._protocol.model_copy(update={"goals": (goal,)})
        return judge(alone, {goal.structure: found}, self._used.prescription_gy)[0]

    def results(self) -> list[GoalResult]:
        """All of them, in the order of the protocol."""
        return [
            self._shown(
                goal,
                self._judged.get(number) or _not_judged(goal, self._no_structure(goal, meant)),
                " of the part within the images" if number in self._of_a_part else "",
            )
            for number, (goal, meant) in enumerate(zip(self._goals, self._meant, strict=True))
        ]

    def _no_structure(self, goal: Goal, meant: list[StructureRecord]) -> str:
        if meant:
            return "more than one structure has this name"
        return f"there is no such structure{nearest_names(goal.structure, self._there)}"

    def _shown(self, goal: Goal, result: clinical_goals.GoalResult, part: str) -> GoalResult:
        least, limit = ("≥", goal.at_least) if goal.at_least is not None else ("≤", goal.at_most)
        value = "" if result.value is None else f"{result.value:.4g} {goal.unit.value}{part}"
        return GoalResult(
            dose_id=self._used.dose_id,
            structure=goal.structure,
            goal=f"{goal.metric} {least} {limit:g} {goal.unit.value}",
            value=result.value,
            unit=goal.unit.value,
            verdict=result.verdict.value,
            text=result.reason or value,
        )


def _not_judged(goal: Goal, reason: str) -> clinical_goals.GoalResult:
    return clinical_goals.GoalResult(goal=goal, verdict=GoalVerdict.NOT_JUDGED, reason=reason)


def _meant(name: str, records: Iterable[StructureRecord]) -> list[StructureRecord]:
    """The structures that a goal may mean: by either name, and what was drawn before anything else."""
    found = [one for one in records if name in (one.name, one.original_name)]
    drawn = [one for one in found if one.source is StructureSource.CLINICAL]
    return drawn or found

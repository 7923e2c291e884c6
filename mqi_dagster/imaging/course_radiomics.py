"""Radiomics of a course: the features of every structure, each computed in a process of its own.

Of each series in turn the values are read once and each structure's surroundings are written into a folder of
its own; then the series is given back and the processes begin. A structure whose process fails for good is a
row with the reason.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mqi_dagster.backoff import Backoff
from mqi_dagster.errors import DicomError, ImageError, InputError, MqiError
from mqi_dagster.files import whole_file
from mqi_dagster.imaging.image_volume import ImageVolume, read_volume
from mqi_dagster.imaging.radiomics import RadiomicsResult, cut_region
from mqi_dagster.imaging.radiomics_choices import RadiomicsChoices, versions
from mqi_dagster.imaging.radiomics_files import (
    TABLE,
    TEXT_COLUMNS,
    CourseRadiomics,
    RegionStatus,
    SeriesRadiomics,
    StructureRadiomics,
    read_radiomics,
    write_radiomics,
)
from mqi_dagster.imaging.radiomics_profile import Modality, RadiomicsProfile
from mqi_dagster.imaging.radiomics_task import read_result, run_region, write_task
from mqi_dagster.imaging.region import AnalysisRegion
from mqi_dagster.imaging.structure_files import MASKS, CourseStructures, StructureRecord, read_mask
from mqi_dagster.processes.errors import TaskFailedError
from mqi_dagster.processes.pool import BACKOFF, TaskResults, run_tasks
from mqi_dagster.processes.progress import Progress
from mqi_dagster.processes.worker_counts import available_memory_bytes

Mask = NDArray[np.bool_]
_TASKS = "tasks"
NO_REGION = "not cropped: there is no analysis region, and features are of whole structures"


@dataclass(frozen=True, slots=True)
class AnalysedSeries:
    """A series whose structures are computed."""

    pseudonym: str
    modality: Modality
    images: Iterable[bytes]
    """Its files, read one at a time, and only where a structure is computed."""
    in_planning_frame: bool = True
    """Whether it lies in the Frame of Reference of the planning series, as the analysis region does."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done at once and how often; no feature depends on it."""

    workers: int
    threads: int = 1
    timeout_seconds: float | None = None
    attempts: int = 3
    backoff: Backoff = BACKOFF
    progress: Callable[[Progress], None] | None = None


@dataclass(slots=True)
class _Computed:
    """What became of the structures so far, by series and id."""

    records: dict[tuple[str, str], StructureRadiomics] = field(default_factory=dict)
    features: dict[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)

    def note(self, record: StructureRadiomics, features: Mapping[str, float] | None = None) -> None:
        self.records[record.series, record.structure_id] = record
        self.features[record.series, record.structure_id] = features or {}

    def has(self, structure: StructureRecord) -> bool:
        return (structure.series, structure.id) in self.records


def course_radiomics(
    course: str,
    series: Sequence[AnalysedSeries],
    structures: CourseStructures,
    published: Path,
    chosen: RadiomicsChoices,
    effort: Effort,
    folder: Path,
    *,
    earlier: Path | None = None,
) -> CourseRadiomics:
    """Compute the features of every structure of a course, and write table and record.

    Args:
        course: Its key.
        series: Those that are analysed.
        structures: Those of the course.
        published: Folder of their masks.
        chosen: What is computed.
        effort: How much at once.
        folder: Where table and record are written, and meanwhile the tasks.
        earlier: Folder of a result of the same choices, images and structures in which some had failed:
            what it has is taken over.

    Raises:
        StoreError: A mask cannot be read, or is on another grid than its series.
        InputError: An image is not what it was when the course was organised.
        OSError: The disk is full, or fails.
    """
    done = _Computed() if earlier is None else _taken_over(earlier, chosen)
    told: list[SeriesRadiomics] = []
    for one in series:
        own = [structure for structure in structures.structures if structure.series == one.pseudonym]
        told.append(_of_series(one, own, published, chosen, effort, folder / _TASKS, done))
    for structure in structures.structures:
        if not done.has(structure):
            reason = "the series that it is on is none that is analysed"
            done.note(_left_out(structure, reason))
    regions = [done.records[one.series, one.id] for one in structures.structures]
    content = CourseRadiomics(enabled=True, versions=versions(), series=tuple(told), regions=tuple(regions))
    modalities = {one.pseudonym: one.modality.value for one in series}
    rows = [
        (
            course,
            modalities.get(structure.series),
            structure.series,
            structure.id,
            structure.source.value,
            structure.name,
            structure.original_name,
            region.cropped,
            region.status.value,
            region.reason,
            *(done.features[structure.series, structure.id].get(one.tag) for one in chosen.columns),
        )
        for structure, region in zip(structures.structures, regions, strict=True)
    ]
    _write_table(rows, chosen, folder)
    write_radiomics(content, folder)
    return content


def no_radiomics(chosen: RadiomicsChoices, folder: Path) -> CourseRadiomics:
    """Write an empty table and its record, where nothing is to be computed."""
    content = CourseRadiomics(enabled=False, versions={})
    _write_table([], chosen, folder)
    write_radiomics(content, folder)
    return content


def _write_table(rows: Sequence[tuple[object, ...]], chosen: RadiomicsChoices, folder: Path) -> None:
    schema: dict[str, type[pl.DataType]] = dict.fromkeys(TEXT_COLUMNS, pl.String)
    schema["structure_cropped"] = pl.Boolean
    schema |= {one.tag: pl.Float64 for one in chosen.columns}
    with whole_file(folder / TABLE) as stream:
        pl.DataFrame(rows, schema=schema, orient="row").write_parquet(stream)


def _taken_over(earlier: Path, chosen: RadiomicsChoices) -> _Computed:
    done = _Computed()
    tags = [one.tag for one in chosen.columns]
    table = pl.read_parquet(earlier / TABLE)
    rows = {(row["series"], row["structure_id"]): row for row in table.iter_rows(named=True)}
    for record in read_radiomics(earlier).regions:
        if not record.may_pass:
            row = rows[record.series, record.structure_id]
            done.note(record, {tag: row[tag] for tag in tags if row[tag] is not None})
    return done


def _of_series(
    series: AnalysedSeries,
    structures: Sequence[StructureRecord],
    published: Path,
    chosen: RadiomicsChoices,
    effort: Effort,
    tasks: Path,
    done: _Computed,
) -> SeriesRadiomics:
    begin = time.monotonic()
    profile = chosen.profiles[series.modality]
    cropped = chosen.region is not None and series.in_planning_frame
    remarks = [NO_REGION] if chosen.no_region else []
    if chosen.region is not None and not cropped:
        remarks.append("not cropped: it lies in another Frame of Reference than the analysis region")
    for structure in structures:
        if structure.id in chosen.skipped and not done.has(structure):
            done.note(_left_out(structure, chosen.skipped[structure.id]))
    waiting = [structure for structure in structures if not done.has(structure)]
    results, memory = TaskResults(), None
    try:
        written = _write_tasks(series, waiting, published, chosen, profile, cropped, tasks, done)
        if written:
            # The series is given back by now.
            memory = available_memory_bytes()
            results = run_tasks(
                {one: {"folder": str(tasks / one)} for one in written},
                run_region,
                label="Radiomics",
                workers=effort.workers,
                memory_bytes=memory,
                timeout_seconds=effort.timeout_seconds,
                attempts=effort.attempts,
                threads=effort.threads,
                backoff=effort.backoff,
                progress=effort.progress,
            )
        for started in written.values():
            record, features = _outcome(started, results, tasks / started.structure_id)
            done.note(record, features)
    finally:
        shutil.rmtree(tasks, ignore_errors=True)
    return SeriesRadiomics(
        series=series.pseudonym,
        modality=series.modality,
        profile=profile,
        cropped=cropped,
        remarks=tuple(remarks),
        workers=effort.workers,
        memory_bytes=memory,
        steps=tuple(str(step) for step in results.steps),
        seconds=round(time.monotonic() - begin, 3),
    )


def _write_tasks(
    series: AnalysedSeries,
    structures: Sequence[StructureRecord],
    published: Path,
    chosen: RadiomicsChoices,
    profile: RadiomicsProfile,
    cropped: bool,
    tasks: Path,
    done: _Computed,
) -> dict[str, StructureRadiomics]:
    """Write the tasks of a series, one region at a time; what there is no task for is noted."""
    if not structures:
        return {}
    try:
        volume = read_volume(series.images)
    except (DicomError, ImageError) as error:
        for structure in structures:
            reason = f"its series cannot be read: {error.message}"
            done.note(_record(structure, RegionStatus.FAILED, reason=reason))
        return {}
    inside = _inside(chosen, volume) if cropped else None
    written = {}
    for structure in structures:
        mask = read_mask(published / MASKS / f"{structure.id}.npz", volume.grid)
        whole = int(np.count_nonzero(mask))
        if inside is not None:
            mask &= inside
        voxels = int(np.count_nonzero(mask))
        reason = _size_fault(voxels, whole, chosen)
        started = _record(
            structure, RegionStatus.LEFT_OUT, reason=reason, cropped=voxels < whole, voxels=voxels
        )
        if reason:
            done.note(started)
            continue
        folder = tasks / structure.id
        folder.mkdir(parents=True)
        region = cut_region(volume.values, mask, volume.grid.spacing_mm, profile)
        write_task(folder, region, profile)
        written[structure.id] = started
    return written


def _inside(chosen: RadiomicsChoices, volume: ImageVolume) -> Mask:
    assert chosen.region is not None
    box = chosen.region
    return AnalysisRegion(box.name, box.low_mm, box.high_mm, {}, ()).mask_on(volume.grid)


def _size_fault(voxels: int, whole: int, chosen: RadiomicsChoices) -> str:
    where = " in the analysis region" if voxels < whole else ""
    if voxels < chosen.min_voxels:
        return f"{voxels:,} voxels{where}, of at least {chosen.min_voxels:,} (radiomics.min_voxels)"
    if voxels > chosen.max_voxels:
        return f"{voxels:,} voxels{where}, of at most {chosen.max_voxels:,} (radiomics.max_voxels)"
    return ""


def _outcome(
    started: StructureRadiomics, results: TaskResults, folder: Path
) -> tuple[StructureRadiomics, Mapping[str, float]]:
    error = results.errors.get(started.structure_id)
    if error is None:
        try:
            return _of_result(started, read_result(folder))
        except InputError as unread:
            error = unread
    return _failed(started, error), {}


def _failed(started: StructureRadiomics, error: MqiError) -> StructureRadiomics:
    # Code that breaks on its input does so again; all else may be of this machine and this moment.
    changes = {
        "status": RegionStatus.FAILED,
        "reason": error.message,
        "may_pass": not isinstance(error, TaskFailedError),
    }
    return started.model_copy(update=changes)


def _of_result(
    started: StructureRadiomics, result: RadiomicsResult
) -> tuple[StructureRadiomics, Mapping[str, float]]:
    missing: dict[str, list[str]] = defaultdict(list)
    for tag, reason in result.not_computed.items():
        missing[reason].append(tag)
    facts = result.facts
    none = not result.features
    record = StructureRadiomics(
        series=started.series,
        structure_id=started.structure_id,
        status=RegionStatus.NO_FEATURES if none else RegionStatus.COMPUTED,
        reason="; ".join(missing) if none else "",
        cropped=started.cropped,
        voxels=facts.voxels,
        touches_edge=facts.touches_edge,
        resampled_voxels=facts.resampled_voxels,
        resegmented_voxels=facts.resegmented_voxels,
        grey_levels=facts.grey_levels,
        planes=facts.planes,
        planes_left_out=facts.planes_left_out,
        not_computed={} if none else {reason: tuple(tags) for reason, tags in missing.items()},
    )
    return record, result.features


def _left_out(structure: StructureRecord, reason: str) -> StructureRadiomics:
    return _record(structure, RegionStatus.LEFT_OUT, reason=reason)


def _record(
    structure: StructureRecord,
    status: RegionStatus,
    *,
    reason: str,
    cropped: bool = False,
    voxels: int | None = None,
) -> StructureRadiomics:
    return StructureRadiomics(
        series=structure.series,
        structure_id=structure.id,
        status=status,
        reason=reason,
        cropped=cropped,
        voxels=voxels,
    )

"""The report of a course: its page for people, its quality report, and pictures of it.

Whatever is missing is said on the page, and why; a check that could not be evaluated is a warning. Labels and
descriptions that people have typed into DICOM objects may name the patient, and stand nowhere here; names of
structures do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mqi_dagster import __version__
from mqi_dagster.courses.chosen_series import chosen_series
from mqi_dagster.courses.inventory import CourseInventory
from mqi_dagster.dose.grid import DoseGrid
from mqi_dagster.dose.stored_image import read_dose
from mqi_dagster.errors import DicomError, DoseError, ImageError
from mqi_dagster.files import write_whole
from mqi_dagster.imaging.course_facts import CourseFacts
from mqi_dagster.imaging.course_page import (
    STRUCTURE_COLOURS,
    CoursePage,
    PageCheck,
    PageCurve,
    PageStructure,
    is_axial,
    page_html,
    window_of,
)
from mqi_dagster.imaging.course_page_tables import (
    dose_names,
    page_tables,
    rules_of,
    shown_prescription,
    structure_names,
)
from mqi_dagster.imaging.course_results import STAGES, CourseResults
from mqi_dagster.imaging.dose_sum import summed
from mqi_dagster.imaging.dvh_files import DoseUsed
from mqi_dagster.imaging.image_volume import ImageVolume, read_volume
from mqi_dagster.imaging.quality_control import (
    QC_REPORT,
    QcReport,
    QcResult,
    ReportedCheck,
    Verdict,
    checks_of,
    dvh_quality,
    inventory_quality,
    radiomics_quality,
    segmentation_quality,
    structures_quality,
    write_qc_report,
)
from mqi_dagster.imaging.structure_files import MASKS, StructureRecord, read_mask
from mqi_dagster.pictures.course import Slice, course_slices
from mqi_dagster.pictures.dvh import DvhCurve, dvh_curves
from mqi_dagster.pictures.style import CT_WINDOWS, Window
from mqi_dagster.settings.radiotherapy import QualityControl

PAGE = "course.html"
SLICES_PICTURE, DVH_PICTURE = "slices.png", "dvh.png"
"""Small, for Dagster's pages; there is none of what there is nothing to show of."""

_TARGETS = ("PTV", "CTV", "GTV")
"""RT ROI Interpreted Types that a page begins with, and with which names of targets begin (TG-263)."""
_WHOLE_BODY = "EXTERNAL"
_OF_PRESCRIPTION: tuple[int, ...] = (30, 50, 80, 95, 100, 107)
_OF_MAXIMUM: tuple[int, ...] = (20, 40, 60, 80, 95)


@dataclass(frozen=True, slots=True)
class CourseSource:
    """What a report is made of."""

    key: str
    """Of the course."""
    inventory: CourseInventory
    facts: CourseFacts
    """What its objects say that its quality depends on."""
    content: Callable[[str], bytes]
    """Gives the file of an object by its SOP Instance UID, verified."""
    planning: str | None
    """Pseudonym of the planning series; None where there is none."""
    results: CourseResults
    qc: QualityControl
    """``radiotherapy.qc`` of the settings."""
    provenance: Sequence[tuple[str, str]] = ()
    """What the results do not say of their origin themselves."""


def write_report(source: CourseSource, folder: Path) -> QcReport:
    """Write the page, the quality report and the pictures of a course into a folder.

    Returns:
        The quality report.

    Raises:
        StoreError: A result is damaged.
        InputError: An image or dose is not what it was when the course was organised.
        OSError: The disk is full, or fails.
    """
    quality = write_qc_report(quality_of(source), folder / QC_REPORT)
    report = _Report(source)
    write_whole(folder / PAGE, page_html(report.page(quality)).encode("utf-8"))
    for name, picture in report.pictures():
        write_whole(folder / name, picture)
    return quality


def quality_of(source: CourseSource) -> list[QcResult]:
    """Every check of a course; one of a result that is missing is a warning."""
    results, found = source.results, [*inventory_quality(source.inventory, source.facts, source.qc)]
    for asset in STAGES:
        if asset in results.missing:
            text = f"not evaluated: {asset} {results.missing[asset]}"
            advice = f"Make {asset}, then the report"
            found += [QcResult(check, Verdict.WARNING, text, advice) for check in checks_of(asset)]
        elif asset in results.segmentations:
            found += segmentation_quality(asset, results.segmentations[asset])
    if results.structures is not None:
        found += structures_quality(results.structures)
    if results.dvh is not None:
        found += dvh_quality(results.dvh)
    if results.radiomics is not None:
        found += radiomics_quality(results.radiomics)
    return found


@dataclass
class _Report:
    """The data of one report, each read once; images, masks and dose are no more than one course's."""

    source: CourseSource

    @cached_property
    def volume(self) -> ImageVolume | str:
        """The planning series, or why it cannot be drawn."""
        planning = chosen_series(self.source.inventory).planning
        if planning is None:
            return "There is no series of a CT or MR: nothing can be drawn"
        uids = [image.sop_instance_uid for image in planning.images]
        try:
            return read_volume(self.source.content(uid) for uid in uids)
        except (DicomError, ImageError) as error:
            return f"The planning series cannot be drawn: {error.message}"

    @cached_property
    def drawn(self) -> Mapping[str, StructureRecord]:
        """The structures that are drawn, by id: targets first, the whole body last."""
        structures = self.source.results.structures
        if structures is None or isinstance(self.volume, str):
            return {}
        there = [
            one for one in structures.structures if one.series == self.source.planning and one.voxels > 0
        ]
        return {one.id: one for one in sorted(there, key=_rank)}

    @cached_property
    def colours(self) -> Mapping[str, str]:
        """Of each structure, by id."""
        return {
            id_: STRUCTURE_COLOURS[place % len(STRUCTURE_COLOURS)] for place, id_ in enumerate(self.drawn)
        }

    @cached_property
    def dose_names(self) -> Mapping[str, str]:
        """What each total dose is called, by id."""
        return {} if self.source.results.dvh is None else dose_names(self.source.results.dvh)

    @cached_property
    def shown_dose(self) -> tuple[DoseUsed | None, DoseGrid | str]:
        """The dose that is drawn, or why none is."""
        record = self.source.results.dvh
        if record is None:
            return None, "There are no dose-volume figures, and no dose is drawn"
        if not record.doses:
            return None, f"No dose is drawn: {record.empty_because or 'none was used'}"
        used = next((one for one in record.doses if one.frame_of_reference_fits), record.doses[0])
        name = self.dose_names[used.dose_id]
        if not used.frame_of_reference_fits:
            return used, f"{name} lies in another Frame of Reference than the images: it is not drawn"
        doses = [self._dose(uid) for uid in used.dose_uids]
        grids = [one for one in doses if isinstance(one, DoseGrid)]
        faults = [one for one in doses if isinstance(one, str)]
        if not faults:
            try:
                return used, summed(grids)
            except DoseError as error:
                faults = [error.message]
        return used, f"{name} is not drawn: {faults[0]}"

    def _dose(self, uid: str) -> DoseGrid | str:
        if uid not in {one.found.sop_instance_uid for one in self.source.inventory.doses}:
            return "it is no part of the course any more: the dose-volume figures are of earlier files"
        try:
            return read_dose(self.source.content(uid))
        except (DicomError, DoseError) as error:
            return error.message

    def mask(self, id_: str) -> NDArray[np.bool_]:
        """The mask of a structure that is drawn."""
        assert not isinstance(self.volume, str)
        folder = self.source.results.folders["structures"] / MASKS
        return read_mask(folder / f"{id_}.npz", self.volume.grid)

    def page(self, quality: QcReport) -> CoursePage:
        """What the page shows."""
        results, volume = self.source.results, self.volume
        used, dose = self.shown_dose
        there = None if isinstance(volume, str) else volume
        drawable = dose if isinstance(dose, DoseGrid) and there is not None else None
        return CoursePage(
            title=f"Course {self.source.key}",
            verdict=quality.overall_status.value,
            about=self._about(there),
            notes=[*_failed(quality), *self._notes()],
            grid=there.grid if there else None,
            image=there.values if there else None,
            value_unit=there.unit if there else "",
            windows=_windows(there) if there else (),
            structures=[
                PageStructure(
                    one.name, one.source.value.replace("_", " "), self.colours[id_], partial(self.mask, id_)
                )
                for id_, one in self.drawn.items()
            ],
            dose=drawable,
            levels=_levels(drawable, used) if drawable is not None and used is not None else {},
            curves=self.curves,
            curves_note=""
            if used is None
            else f"Of {self.dose_names[used.dose_id]}. Figures of every dose stand in the tables.",
            tables=page_tables(self.source.inventory, results, self.source.planning),
            checks=[
                PageCheck(_check_name(one), one.verdict.value, one.text, one.advice)
                for one in sorted(quality.checks, key=_worst_first)
            ],
            provenance=self._provenance(),
        )

    def _about(self, volume: ImageVolume | None) -> list[str]:
        inventory = self.source.inventory
        found = []
        if volume is not None:
            planes, rows, columns = volume.grid.shape
            mm = " × ".join(f"{one:.4g}" for one in reversed(volume.grid.spacing_mm))
            found.append(f"{volume.modality}, {planes} images of {columns} × {rows} pixels, {mm} mm")
        counts = (
            (len(inventory.plans), "plan"),
            (len(inventory.doses), "dose"),
            (len(inventory.structure_sets), "structure set"),
        )
        found += [f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts]
        return [*found, *(shown_prescription(one) for one in inventory.prescriptions)]

    def _notes(self) -> list[str]:
        results, chosen = self.source.results, chosen_series(self.source.inventory)
        notes = [f"{asset.replace('_', ' ')} {why}." for asset, why in results.missing.items()]
        if isinstance(self.volume, str):
            notes.append(f"{self.volume}.")
        if chosen.ambiguous:
            notes.append(f"Nothing in the files says which series is the planning series: {chosen.reason}.")
        structures, dvh = results.structures, results.dvh
        if structures is not None:
            if not structures.structures:
                notes.append("There are no structures.")
            elsewhere = sum(one.series != self.source.planning for one in structures.structures)
            if elsewhere:
                notes.append(f"Structures on other series, {elsewhere} of them, stand in the table alone.")
            notes += [f"Structures: {fault}." for fault in structures.faults]
        used, dose = self.shown_dose
        if isinstance(dose, str) and dvh is not None:
            notes.append(f"{dose}.")
        if used is not None and used.dose_type == "EFFECTIVE":
            notes.append(f"{self.dose_names[used.dose_id]} is an effective dose: RBE-weighted, not physical.")
        if dvh is not None:
            notes += [f"Dose and volume: {fault}." for fault in (dvh.empty_because, *dvh.faults) if fault]
            if len(dvh.doses) > 1:
                notes.append(
                    f"The course has {len(dvh.doses)} total doses, which nothing says are to be added up;"
                    " one of them is drawn."
                )
        radiomics = results.radiomics
        if radiomics is not None and not radiomics.enabled:
            notes.append("Radiomics are switched off in the settings.")
        return [_sentence(one) for one in notes]

    @cached_property
    def curves(self) -> list[PageCurve]:
        """The curves of the dose that is drawn."""
        used, table = self.shown_dose[0], self.source.results.dose_curves
        if used is None or table is None:
            return []
        places = {id_: place for place, id_ in enumerate(self.drawn)}
        structures = self.source.results.structures
        names = {} if structures is None else structure_names(structures)
        found = []
        known = table.filter(table["dose_id"] == used.dose_id).drop_nulls(["dose_gy", "volume_percent"])
        for (id_,), points in known.group_by("structure_id", maintain_order=True):
            curve = PageCurve(
                self.colours.get(str(id_), "#9aa4af"),
                [round(one, 3) for one in points["dose_gy"].to_list()],
                [round(one, 3) for one in points["volume_percent"].to_list()],
                places.get(str(id_)),
                names.get(str(id_), str(id_)),
            )
            found.append(curve)
        return sorted(found, key=lambda one: len(places) if one.structure is None else one.structure)

    def _provenance(self) -> list[tuple[str, str]]:
        inventory, results = self.source.inventory, self.source.results
        rows = [("software", f"mqi_dagster {__version__}"), *self.source.provenance]
        rows.append(
            ("planning series", f"{self.source.planning or 'none'}: {chosen_series(inventory).reason}")
        )
        rows.append(("dose rules", rules_of(inventory) or "there is no dose"))
        region = results.structures.region if results.structures is not None else None
        if region is not None:
            low, high = (
                ", ".join(f"{one:.0f}" for one in corner) for corner in (region.low_mm, region.high_mm)
            )
            rows.append(("analysis region", f"{region.name}, from ({low}) to ({high}) mm"))
        for kind in results.segmentations.values():
            for one in kind.segmentations:
                limits = "; ".join(one.limits) or "no limits stated"
                rows.append((f"model {one.model} {one.version}", f"{one.family}; {one.state}. {limits}"))
        if results.radiomics is not None:
            versions = results.radiomics.versions
            rows += [(f"radiomics: {name}", version) for name, version in versions.items()]
        return list(dict.fromkeys(rows))

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """Slices and curves as PNG, by name of the file."""
        if not isinstance(self.volume, str):
            window = _windows(self.volume)[0]
            yield SLICES_PICTURE, course_slices(self._slices(self.volume), window.low, window.high)
        if self.curves:
            used = self.shown_dose[0]
            curves = [
                DvhCurve(curve.name, np.asarray(curve.doses, float), np.asarray(curve.percent, float))
                for curve in self.curves
            ]
            yield DVH_PICTURE, dvh_curves(curves, "Dose and volume", used.prescription_gy if used else None)

    def _slices(self, volume: ImageVolume) -> list[Slice]:
        at: list[int] = [count // 2 for count in volume.grid.shape]
        if self.drawn:
            first = self.mask(next(iter(self.drawn)))
            at = [int(np.median(np.flatnonzero(first.any(axis=axes)))) for axes in ((1, 2), (0, 2), (0, 1))]
        outlines: list[list[tuple[str, NDArray[np.bool_]]]] = [[], [], []]
        for id_, colour in self.colours.items():
            mask = self.mask(id_)
            for axis in range(3):
                outlines[axis].append((colour, np.take(mask, at[axis], axis=axis)))
        planes, rows, columns = volume.grid.spacing_mm
        spacings = ((rows, columns), (planes, columns), (planes, rows))
        return [
            Slice(
                f"{name} {at[axis] + 1}/{volume.grid.shape[axis]}",
                np.take(volume.values, at[axis], axis=axis),
                spacings[axis],
                outlines[axis],
                rises=axis > 0,
            )
            for axis, name in enumerate(_views(volume))
        ]


def _check_name(one: ReportedCheck) -> str:
    return f"{one.asset}: {one.name}".replace("_", " ")


def _worst_first(one: ReportedCheck) -> int:
    return -list(Verdict).index(one.verdict)


def _failed(quality: QcReport) -> list[str]:
    """What has made a course fail, to stand before all else."""
    failed = [one for one in quality.checks if one.verdict is Verdict.FAIL]
    return [f"FAIL, {_check_name(one)}: {one.text}" for one in failed]


def _views(volume: ImageVolume) -> tuple[str, str, str]:
    if is_axial(volume.grid):
        return "axial", "coronal", "sagittal"
    return "image", "across rows", "across columns"


def _rank(structure: StructureRecord) -> int:
    if structure.interpreted_type in _TARGETS or structure.name.upper().startswith(_TARGETS):
        return 0
    is_body = structure.interpreted_type == _WHOLE_BODY or structure.name.upper() in (_WHOLE_BODY, "BODY")
    return 2 if is_body else 1


def _windows(volume: ImageVolume) -> tuple[Window, ...]:
    return CT_WINDOWS if volume.unit == "HU" else window_of(volume.values)


def _levels(dose: DoseGrid, used: DoseUsed) -> dict[str, float]:
    """The isodoses: in percent of the prescribed dose, or where there is none of the maximum."""
    highest = float(dose.values.max())
    whole, percents, of = used.prescription_gy, _OF_PRESCRIPTION, ""
    if whole is None:
        whole, percents, of = highest, _OF_MAXIMUM, " of the maximum"
    levels = {f"{one} %{of} ({whole * one / 100:.4g} Gy)": whole * one / 100 for one in percents}
    return {label: level for label, level in levels.items() if 0 < level <= highest}


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].replace("..", ".")

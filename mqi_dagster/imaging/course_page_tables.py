"""The tables on the page of a course: doses, structures, figures, goals, models, radiomics, unused files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from mqi_dagster.courses.dose_rules import Prescription
from mqi_dagster.courses.inventory import CourseInventory
from mqi_dagster.imaging.course_page import PageTable
from mqi_dagster.imaging.course_results import CourseResults
from mqi_dagster.imaging.dvh_files import CourseDvh, DoseUsed, StructureFigures
from mqi_dagster.imaging.quality_checks import counted
from mqi_dagster.imaging.structure_files import CourseStructures, StructureRecord, StructureSource
from mqi_dagster.imaging.structure_names import Naming

_NONE = "–"
_FIGURES = (
    *("Volume (cm³)", "DmeanGy", "DmaxGy", "DminGy", "D98Gy", "D95Gy", "D50Gy", "D2Gy", "D0.1ccGy", "HI"),
    *("V95%Rx (%)", "V100%Rx (%)"),
)
"""The columns of the dose-volume table that a page has room for."""


def page_tables(inventory: CourseInventory, results: CourseResults, planning: str | None) -> list[PageTable]:
    """Every table of a page that has a row.

    Args:
        inventory: Of the course.
        results: Of its stages.
        planning: Pseudonym of the planning series.
    """
    found = [
        *_plans(inventory),
        *_doses(results.dvh, inventory),
        *_figures(results),
        *_goals(results.dvh),
        *_structures(results, planning),
        *_models(results),
        *_radiomics(results),
        *_inventory(inventory),
    ]
    return [table for table in found if table.rows]


def shown_prescription(one: Prescription) -> str:
    """What a plan prescribes, in words."""
    doses = [target.dose_gy for target in one.targets if target.dose_gy is not None]
    stated = " and ".join(f"{dose:g} Gy" for dose in dict.fromkeys(doses)) or "no prescribed dose"
    fractions = one.fractions_planned
    return stated if fractions is None else f"{stated} in {counted(fractions, 'fraction')}"


def rules_of(inventory: CourseInventory) -> str:
    """The rules by which the doses of a course were chosen, each with what it has chosen."""
    told = []
    for one in inventory.dose_decisions:
        parts = [
            f"{len(uids)} {what}"
            for uids, what in ((one.summed, "summed"), (one.used, "used"), (one.not_used, "not used"))
            if uids
        ]
        told.append(f"{one.rule.value} ({', '.join(parts) or 'nothing'})")
    return "; ".join(told)


def dose_names(dvh: CourseDvh) -> dict[str, str]:
    """What each total dose is called, by id; its own label was typed by people."""
    return {one.dose_id: f"dose {number}" for number, one in enumerate(dvh.doses, start=1)}


def structure_names(structures: CourseStructures) -> dict[str, str]:
    """What each structure is called, by id: with its source where another one has the same name."""
    counts = Counter(one.name for one in structures.structures)
    return {
        one.id: one.name if counts[one.name] == 1 else f"{one.name} ({_source(one)})"
        for one in structures.structures
    }


def _plans(inventory: CourseInventory) -> Iterator[PageTable]:
    rows = []
    prescriptions = {one.plan_uid: one for one in inventory.prescriptions}
    for number, one in enumerate((plan.found for plan in inventory.plans), start=1):
        prescribed = prescriptions.get(one.sop_instance_uid)
        rows.append(
            [
                f"plan {number}",
                _NONE if prescribed is None else shown_prescription(prescribed),
                str(len(one.treatment_beams)),
                one.intent or _NONE,
                one.approval or _NONE,
            ]
        )
    columns = ["plan", "prescription", "treatment beams", "intent", "approval"]
    yield PageTable("Plans", columns, rows, texts={1, 3, 4})


def _doses(dvh: CourseDvh | None, inventory: CourseInventory) -> Iterator[PageTable]:
    if dvh is None:
        return
    columns = ["dose", "of", "rule", "type", "prescribed [Gy]", "prescription from"]
    columns += ["maximum [Gy]", "grid [mm]"]
    names = dose_names(dvh)
    plans = {one.found.sop_instance_uid: number for number, one in enumerate(inventory.plans, start=1)}
    rows = [[names[one.dose_id], *_dose(one, plans)] for one in dvh.doses]
    yield PageTable("Doses", columns, rows, texts={1, 2, 3, 5})
    place = {one.found.sop_instance_uid: number for number, one in enumerate(inventory.doses, start=1)}
    unused = [[f"RT Dose {place.get(one.dose_uid, '?')}", one.reason] for one in dvh.not_used]
    note = "Numbered as in the inventory of the course."
    yield PageTable("RT Doses that give no figures", ["RT Dose", "why"], unused, texts={1}, note=note)


def _dose(one: DoseUsed, plans: Mapping[str, int]) -> list[str]:
    of = [f"plan {plans[uid]}" if uid in plans else "a plan that is not there" for uid in one.plan_uids]
    summed = f", {len(one.dose_uids)} RT Doses summed" if one.summed else ""
    grid = " × ".join(f"{size:.3g}" for size in one.spacing_mm)
    return [
        (" + ".join(of) or "no plan") + summed,
        one.rule.value,
        one.dose_type or "not stated",
        _number(one.prescription_gy),
        one.prescription_source,
        _number(one.maximum_gy),
        grid,
    ]


def _figures(results: CourseResults) -> Iterator[PageTable]:
    metrics, dvh, structures = results.dose_metrics, results.dvh, results.structures
    if metrics is None or dvh is None:
        return
    names = {} if structures is None else structure_names(structures)
    places = {id_: place for place, id_ in enumerate(names)}
    doses = dose_names(dvh)
    columns = [name for name in _FIGURES if name in metrics.columns]
    for dose in dvh.doses:
        states = {one.structure_id: one for one in dvh.figures if one.dose_id == dose.dose_id}
        rows = []
        own = metrics.filter(metrics["dose_id"] == dose.dose_id).rows(named=True)
        for row in sorted(own, key=lambda row: places.get(row["structure_id"], len(places))):
            id_ = row["structure_id"]
            state = states.get(id_)
            name = names.get(id_) or (state.name if state is not None else id_)
            words = _NONE if state is None else _state(state, row.get("cropped_by"))
            rows.append([name, *(_number(row[column]) for column in columns), words])
        yield PageTable(
            f"Dose and volume: {doses[dose.dose_id]}",
            ["structure", *columns, "state"],
            rows,
            texts={len(columns) + 1},
            note="D and V as in ICRU 83; every column with its formula stands in the table of all courses.",
        )


def _state(one: StructureFigures, cropped_by: str | None) -> str:
    words = one.status.replace("_", " ")
    if one.reason:
        return f"{words}: {one.reason}"
    return f"{words}, of a part: cut by the {cropped_by}" if cropped_by else words


def _goals(dvh: CourseDvh | None) -> Iterator[PageTable]:
    if dvh is None:
        return
    labels = dose_names(dvh)
    rows = [
        [
            one.structure,
            one.goal,
            _NONE if one.value is None else f"{one.value:.4g} {one.unit}",
            one.verdict,
            labels.get(one.dose_id, one.dose_id),
            one.text,
        ]
        for one in dvh.goals
    ]
    columns = ["structure", "goal", "reached", "result", "dose", "remark"]
    yield PageTable("Clinical goals", columns, rows, texts={1, 3, 4, 5})


def _structures(results: CourseResults, planning: str | None) -> Iterator[PageTable]:
    if results.structures is None:
        return
    cropped = any(one.cut_off_percent is not None for one in results.structures.structures)
    columns = [
        "structure",
        "named",
        "source",
        "volume [cm³]",
        *(["cut off [%]"] if cropped else []),
        "remarks",
    ]
    rows = [
        [
            one.name,
            one.original_name,
            _source(one),
            _number(one.volume_cm3),
            *([_number(one.cut_off_percent)] if cropped else []),
            "; ".join(_remarks(one, planning)) or _NONE,
        ]
        for one in results.structures.structures
    ]
    note = "“cut off” is the part of a volume that lies beyond the analysis region." if cropped else ""
    yield PageTable("Structures", columns, rows, texts={1, 2, len(columns) - 1}, note=note)


def _source(one: StructureRecord) -> str:
    # The label of a structure set was typed by people.
    if one.source is StructureSource.CLINICAL:
        return "clinical"
    return f"{one.source.value.replace('_', ' ')}: {one.made_by}"


def _remarks(one: StructureRecord, planning: str | None) -> Iterator[str]:
    if one.series != planning:
        yield f"on series {one.series}"
    if one.is_empty:
        yield "empty"
    if one.naming is Naming.AMBIGUOUS:
        yield "its name may mean several structures"
    if one.touches_first_or_last_plane:
        yield "reaches the first or last image"
    if one.touches_image_edge:
        yield "reaches the edge of the images"
    if one.outside_image_cm3:
        yield f"{one.outside_image_cm3:.3g} cm³ lie outside of the images"
    if one.gaps:
        yield f"contours are missing in {counted(len(one.gaps), 'gap')}"
    yield from one.faults


def _models(results: CourseResults) -> Iterator[PageTable]:
    rows = [
        [
            f"{one.model} {one.version}",
            one.series,
            one.state.value,
            str(len(one.regions)),
            one.device or _NONE,
            "; ".join([*([one.reason] if one.reason else []), *one.steps]) or _NONE,
        ]
        for kind in results.segmentations.values()
        for one in kind.segmentations
    ]
    columns = ["model", "series", "state", "regions", "device", "remarks"]
    yield PageTable("Segmentation models", columns, rows, texts={1, 2, 4, 5})


def _radiomics(results: CourseResults) -> Iterator[PageTable]:
    if results.radiomics is None:
        return
    found = Counter((one.status.value, one.reason) for one in results.radiomics.regions)
    rows = [[status, str(count), reason or _NONE] for (status, reason), count in sorted(found.items())]
    features = "The features of every structure stand in the table of all courses."
    yield PageTable("Radiomics", ["state", "structures", "why"], rows, texts={2}, note=features)


def _inventory(inventory: CourseInventory) -> Iterator[PageTable]:
    findings = [[one.text] for one in inventory.findings]
    yield PageTable("Findings in the files of the course", ["finding"], findings)
    aside = Counter((one.reason.value, one.role or _NONE) for one in inventory.set_aside)
    rows = [[reason, role, str(count)] for (reason, role), count in sorted(aside.items())]
    yield PageTable("Files that are not used", ["reason", "kind", "files"], rows, texts={1})


def _number(value: object) -> str:
    if not isinstance(value, int | float):
        return _NONE
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"

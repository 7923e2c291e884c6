"""What the checks of segmentations, structures and dose-volume figures say, and the report of a course."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from mqi_dagster.courses.dose_rules import DoseRule
from mqi_dagster.errors import StoreError
from mqi_dagster.imaging.dvh_files import (
    CourseDvh,
    DoseNotUsed,
    DoseUsed,
    GoalResult,
    NotUsedCause,
    StructureFigures,
)
from mqi_dagster.imaging.quality_control import (
    CHECKS,
    QcResult,
    Verdict,
    checks_of,
    dvh_quality,
    qc_report,
    radiomics_quality,
    read_qc_report,
    segmentation_quality,
    structures_quality,
    worst,
    write_qc_report,
)
from mqi_dagster.imaging.radiomics_files import (
    CourseRadiomics,
    RegionStatus,
    SeriesRadiomics,
    StructureRadiomics,
)
from mqi_dagster.imaging.radiomics_profile import PACKAGED_RADIOMICS, read_profile
from mqi_dagster.imaging.segmentation_files import (
    CourseSegmentations,
    SegmentationState,
    SegmentedRegion,
)
from mqi_dagster.imaging.segmentation_files import Segmentation as Made
from mqi_dagster.imaging.structure_files import (
    CourseStructures,
    RegionRecord,
    StructureRecord,
    StructureSource,
)
from mqi_dagster.imaging.structure_names import Naming
from mqi_dagster.processes.causes import Cause
from mqi_dagster.processes.levels import Device, Level, Step

PASS, WARNING, FAIL = Verdict.PASS, Verdict.WARNING, Verdict.FAIL


def region(voxels: int = 1000, volume: float = 1200.0) -> SegmentedRegion:
    return SegmentedRegion(
        label=1,
        name="Liver",
        voxels=voxels,
        volume_cm3=volume,
        plausible_cm3=(500, 3000),
        code=("10200004", "SCT", "Liver"),
        category=("123037004", "SCT", "Anatomical Structure"),
    )


def step(cause: Cause, device: Device, then: Device | None) -> str:
    after = None if then is None else Level(1, then)
    return str(Step("organs on S0", 1, Level(1, device), None, cause, "it said so", after))


def made(
    state: SegmentationState = SegmentationState.MADE,
    reason: str = "",
    regions: tuple[SegmentedRegion, ...] = (region(),),
    steps: tuple[str, ...] = (),
    isolated: bool = True,
) -> CourseSegmentations:
    one = Made(
        series="S0",
        model="organs",
        version="1",
        state=state,
        reason=reason,
        regions=regions,
        steps=steps,
        isolated=isolated,
    )
    return CourseSegmentations(segmentations=(one,))


SEGMENTATIONS: dict[str, tuple[str, CourseSegmentations, Verdict, str]] = {
    "made": ("models_ran", made(), PASS, "1 made"),
    "none asked for": (
        "models_ran", CourseSegmentations(segmentations=()), PASS, "no model is asked for"
    ),
    "not for this course": (
        "models_ran", made(SegmentationState.NOT_APPLICABLE, "it is for MR", ()), PASS, "1 not applicable"
    ),
    "failed": (
        "models_ran", made(SegmentationState.FAILED, "its weights are not there", ()), FAIL,
        "organs has failed: its weights are not there",
    ),
    "plausible": ("volumes_plausible", made(), PASS, "all volumes are plausible"),
    "not found": (
        "volumes_plausible", made(regions=(region(0, 0.0),)), PASS, "Liver of organs was not found"
    ),
    "too small": (
        "volumes_plausible", made(regions=(region(9, 12.5),)), WARNING,
        "Liver of organs has 12.5 cm³, not 500 to 3000 cm³",
    ),
    "too large": (
        "volumes_plausible", made(regions=(region(9, 3000.5),)), WARNING, "Liver of organs has 3000.5 cm³"
    ),
    "at once": ("full_resources", made(), PASS, "no model had to go on with less"),
    "with less": (
        "full_resources", made(steps=(step(Cause.GPU_MEMORY, Device.GPU, Device.GPU_IN_PIECES),)), WARNING,
        "organs: organs on S0: try 1 at 1 worker on gpu: GPU memory, it said so: again at 1 worker on gpu in"
        " pieces",
    ),
    "again with as much": (
        "full_resources", made(steps=(step(Cause.CRASHED, Device.GPU, Device.GPU),)), PASS,
        "no model had to go on with less",
    ),
    "failed with all it could be given": (
        "full_resources",
        made(
            SegmentationState.FAILED, "its weights are not there", (),
            steps=(
                step(Cause.GPU_MEMORY, Device.GPU, Device.CPU), step(Cause.ERROR, Device.CPU, None),
            ),
        ),
        PASS, "no model had to go on with less",
    ),
    "kept from the network": ("models_isolated", made(), PASS, "no program had a network"),
    "with the network": (
        "models_isolated", made(isolated=False), WARNING,
        "the program of organs ran with the network of its machine",
    ),
}  # fmt: skip


@pytest.mark.parametrize("asset", ["auto_segmentation", "custom_segmentation"])
@pytest.mark.parametrize("case", SEGMENTATIONS)
def test_segmentations(case: str, asset: str) -> None:
    check, content, verdict, text = SEGMENTATIONS[case]
    require(segmentation_quality(asset, content), asset, check, verdict, text)


def structure(
    name: str = "Liver",
    original: str = "",
    source: StructureSource = StructureSource.CLINICAL,
    made_by: str = "drawn",
    interpreted_type: str = "ORGAN",
    naming: Naming = Naming.STANDARD,
    volume: float = 20.0,
    voxels: int = 400,
    x: float = 0.0,
    touches_plane: bool = False,
    touches_edge: bool = False,
    outside: float = 0.0,
    gaps: tuple[tuple[float, float], ...] = (),
    faults: tuple[str, ...] = (),
) -> StructureRecord:
    return StructureRecord(
        id=f"{source.value}-{name}",
        series="S0",
        name=name,
        original_name=original or name,
        naming=naming,
        sided=(name[:-2], name[-1]) if name[-2:] in ("_L", "_R") else None,
        source=source,
        made_by=made_by,
        structure_set_uid="1.2.3",
        interpreted_type=interpreted_type,
        volume_cm3=volume,
        voxels=voxels,
        centre_mm=(x, 0.0, 0.0) if voxels else None,
        touches_first_or_last_plane=touches_plane,
        touches_image_edge=touches_edge,
        outside_image_cm3=outside,
        gaps=gaps,
        faults=faults,
    )


def course(
    *structures: StructureRecord,
    faults: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    region_notes: tuple[str, ...] = (),
) -> CourseStructures:
    region = RegionRecord(
        name="thorax", low_mm=(0, 0, 0), high_mm=(1, 1, 1), from_structures=("Lungs",), notes=region_notes
    )
    return CourseStructures(planning="S0", structures=structures, region=region, faults=faults, notes=notes)


AUTOMATIC = StructureSource.AUTOMATIC
STRUCTURES: dict[str, tuple[str, CourseStructures, Verdict, str]] = {
    "taken": (
        "structures_taken", course(structure(), structure("Lungs", source=AUTOMATIC)), PASS,
        "1 clinical, 1 automatic; analysis region thorax",
    ),
    "none": ("structures_taken", course(), FAIL, "there is no structure"),
    "a fault of a set": (
        "structures_taken", course(structure(), faults=("no region thorax: there are no Lungs",)), WARNING,
        "no region thorax: there are no Lungs",
    ),
    "a fault of a structure": (
        "structures_taken", course(structure(faults=("contour 3 has 2 points",))), WARNING,
        "Liver: contour 3 has 2 points",
    ),
    "another region than was meant": (
        "structures_taken", course(structure(), region_notes=("Lungs touches the last plane",)), WARNING,
        "analysis region thorax: Lungs touches the last plane",
    ),
    "taken otherwise than the files say": (
        "structures_taken", course(structure(), notes=("the set names other images",)), PASS,
        "the set names other images",
    ),
    "filled": ("not_empty", course(structure()), PASS, "1 of 1 have a volume"),
    "empty": ("not_empty", course(structure(volume=0, voxels=0)), WARNING, "Liver is empty"),
    "what a model has not found": (
        "not_empty", course(structure(), structure("Couch", source=AUTOMATIC, made_by="rules", volume=0,
        voxels=0)), PASS, "Couch was not found by rules; 1 of 2 have a volume",
    ),
    "a derived one that is empty": (
        "not_empty", course(structure("Ring", source=StructureSource.DERIVED, volume=0, voxels=0)), WARNING,
        "Ring is empty",
    ),
    "an empty target": (
        "not_empty", course(structure("PTV", interpreted_type="PTV", volume=0, voxels=0)), FAIL,
        "PTV is empty",
    ),
    "each once": (
        "not_doubled", course(structure(), structure(source=AUTOMATIC), structure("Heart", x=9)), PASS,
        "each is there once",
    ),
    "almost one extent": (
        "not_doubled", course(structure(), structure("Heart", x=0.4)), PASS, "each is there once"
    ),
    "a name twice": (
        "not_doubled", course(structure(), structure(x=9)), WARNING, "Liver is there 2 times"
    ),
    "an extent twice": (
        "not_doubled", course(structure(), structure("Liver copy")), WARNING,
        "Liver and Liver copy have the same voxels, volume and centre",
    ),
    "inside": ("inside_images", course(structure()), PASS, "all lie within the images"),
    "partly outside": (
        "inside_images", course(structure(outside=2.5)), WARNING, "Liver has 2.5 cm³ outside of the images"
    ),
    "wholly outside": (
        "inside_images", course(structure(voxels=0, outside=20)), FAIL,
        "Liver lies outside of the images, with all its 20 cm³",
    ),
    "the body": (
        "not_cut", course(structure("External", touches_plane=True)), PASS,
        "External touches the first or last plane",
    ),
    "a couch": (
        "not_cut", course(structure("table", interpreted_type="SUPPORT", touches_edge=True)), PASS, "table"
    ),
    "what any image cuts": (
        "not_cut",
        course(
            structure("External", touches_plane=True), structure("AIR", touches_plane=True),
            structure("Bone", touches_plane=True), structure("Couch", touches_plane=True, touches_edge=True),
        ),
        PASS,
        "External, AIR and Bone touch the first or last plane, as is usual;"
        " Couch touches the first or last plane and the edge of the images, as is usual",
    ),
    "cut": (
        "not_cut", course(structure(touches_plane=True, touches_edge=True)), WARNING,
        "Liver touches the first or last plane and the edge of the images",
    ),
    "without gaps": ("no_gaps", course(structure()), PASS, "no gaps"),
    "with a gap": (
        "no_gaps", course(structure(gaps=((3.0, 9.0),))), WARNING,
        "Liver has no contour between 3 and 9 mm",
    ),
    "known names": (
        "names_clear", course(structure(), structure("zzz", naming=Naming.UNKNOWN)), PASS,
        "1 of 2 names are not in the table",
    ),
    "an ambiguous name": (
        "names_clear", course(structure("lung", naming=Naming.AMBIGUOUS)), WARNING,
        "lung may mean several structures",
    ),
    "left on the left": (
        "laterality", course(structure("Lung_L", x=60), structure("Lung_R", x=-60)), PASS, "no left and right"
    ),
    "left on the right": (
        "laterality", course(structure("Lung_L", x=-60), structure("Lung_R", x=60)), FAIL,
        "Lung_L lies 120 mm to the right of Lung_R",
    ),
    "one of two of a name on the right": (
        "laterality", course(structure("Lung_L", x=-60), structure("Lung_L", x=60), structure("Lung_R", x=0)),
        FAIL, "Lung_L lies 60 mm to the right of Lung_R",
    ),
    "sides of two sources": (
        "laterality", course(structure("Lung_L", x=-60), structure("Lung_R", x=60, source=AUTOMATIC)), PASS,
        "no left and right",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STRUCTURES)
def test_structures(case: str) -> None:
    check, content, verdict, text = STRUCTURES[case]
    require(structures_quality(content), "structures", check, verdict, text)


def dose(
    dose_type: str | None = "PHYSICAL", prescription: float | None = 60.0, fits: bool = True
) -> DoseUsed:
    return DoseUsed(
        dose_id="D0",
        label="dose",
        dose_uids=("1.2.3",),
        plan_uids=("1.2.4",),
        rule=DoseRule.SINGLE,
        summed=False,
        dose_type=dose_type,
        prescription_gy=prescription,
        prescription_source="Target Prescription Dose" if prescription else "the plan states none",
        frame_of_reference_fits=fits,
        spacing_mm=(2.0, 2.0, 2.5),
        maximum_gy=62.5,
    )


def figures(
    status: str = "measured", name: str = "Liver", coverage: float | None = 100.0, reason: str = ""
) -> StructureFigures:
    return StructureFigures(
        dose_id="D0",
        structure_id="a",
        name=name,
        status=status,
        coverage_percent=coverage,
        cropped=False,
        reason=reason,
    )


def dvh(
    *doses: DoseUsed,
    of: Sequence[StructureFigures] = (figures(),),
    not_used: str = "",
    cause: NotUsedCause = NotUsedCause.UNITS,
    because: str = "",
    goal: GoalResult | None = None,
    fault: str = "",
) -> CourseDvh:
    return CourseDvh(
        doses=doses,
        not_used=(DoseNotUsed(dose_uid="1.2.9", reason=not_used, cause=cause),) if not_used else (),
        figures=tuple(of),
        goals=() if goal is None else (goal,),
        faults=(fault,) if fault else (),
        empty_because=because,
    )


def goal(verdict: str, text: str) -> GoalResult:
    return GoalResult(
        dose_id="D0",
        structure="Cord",
        goal="Dmax <= 45 Gy",
        value=47.0,
        unit="Gy",
        verdict=verdict,
        text=text,
    )


DVH: dict[str, tuple[str, CourseDvh, Verdict, str]] = {
    "made": ("dvh_made", dvh(dose()), PASS, "single_dose, 2 × 2 × 2.5 mm, maximum 62.5 Gy"),
    "switched off": (
        "dvh_made", dvh(of=(), because="it is switched off"), PASS, "there are no figures: it is switched off"
    ),
    "no dose that can be used": (
        "dvh_made", dvh(of=(), because="no dose can be used", not_used="DoseUnits is RELATIVE"), WARNING,
        "there are no figures: no dose can be used; a dose was not used: DoseUnits is RELATIVE",
    ),
    "no structure": (
        "dvh_made", dvh(dose(), of=(), because="there is no structure"), WARNING, "there is no structure"
    ),
    "a dose that was not used": (
        "dvh_made", dvh(dose(), not_used="it is relative"), WARNING, "a dose was not used: it is relative"
    ),
    "a dose that a rule leaves out": (
        "dvh_made", dvh(dose(), not_used="its plan was rejected", cause=NotUsedCause.RULE), PASS,
        "a dose was not used: its plan was rejected",
    ),
    "a fault": ("dvh_made", dvh(dose(), fault="the goals have no PTV"), WARNING, "the goals have no PTV"),
    "covered": ("coverage", dvh(dose()), PASS, "1 of 1 measured"),
    "the body": (
        "coverage", dvh(dose(), of=[figures("partly_outside_dose_grid", "External", 40.0)]), PASS,
        "External: partly_outside_dose_grid, 40 % inside",
    ),
    "an empty structure": ("coverage", dvh(dose(), of=[figures("empty")]), PASS, "0 of 1 measured"),
    "partly outside": (
        "coverage", dvh(dose(), of=[figures("partly_outside_dose_grid", coverage=81.25)]), WARNING,
        "Liver: partly_outside_dose_grid, 81.2 % inside",
    ),
    "outside": (
        "coverage", dvh(dose(), of=[figures("outside_dose_grid", coverage=None)]), WARNING,
        "Liver: outside_dose_grid",
    ),
    "the body that cannot be measured": (
        "coverage", dvh(dose(), of=[figures("failed", "External", None, "its mask is damaged")]), WARNING,
        "External: its mask is damaged",
    ),
    "protons": ("figures_dose_type", dvh(dose("EFFECTIVE"), dose("EFFECTIVE")), PASS, "EFFECTIVE"),
    "two types": (
        "figures_dose_type", dvh(dose("EFFECTIVE"), dose()), WARNING, "EFFECTIVE and PHYSICAL"
    ),
    "no type": (
        "figures_dose_type", dvh(dose(None), dose()), WARNING, "the type of 1 of 2 doses is not stated"
    ),
    "prescribed": ("prescription", dvh(dose()), PASS, "60 Gy (Target Prescription Dose)"),
    "not prescribed": (
        "prescription", dvh(dose(prescription=None)), WARNING, "no prescribed dose: the plan states none"
    ),
    "one frame": ("figures_frame", dvh(dose()), PASS, "1 dose in the Frame of Reference"),
    "another frame": (
        "figures_frame", dvh(dose(), dose(fits=False)), FAIL, "1 of 2 doses lie in another Frame of Reference"
    ),
    "no goals": ("goals_met", dvh(dose()), PASS, "0 of 0 met"),
    "met": ("goals_met", dvh(dose(), goal=goal("met", "")), PASS, "1 of 1 met"),
    "missed": (
        "goals_met", dvh(dose(), goal=goal("missed", "47 Gy")), WARNING, "Cord Dmax <= 45 Gy missed: 47 Gy"
    ),
    "not judged": (
        "goals_met", dvh(dose(), goal=goal("not judged", "there is no such structure")), WARNING,
        "not judged: there is no such structure",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DVH)
def test_dose_volume_figures(case: str) -> None:
    check, content, verdict, text = DVH[case]
    require(dvh_quality(content), "dvh", check, verdict, text)


def require(results: Sequence[QcResult], asset: str, check: str, verdict: Verdict, text: str) -> None:
    assert [one.check for one in results] == checks_of(asset)
    (found,) = [one for one in results if one.check.name == check]
    assert (found.verdict, text in found.text) == (verdict, True), found.text
    assert bool(found.advice) is (verdict is not PASS)


def radiomics(*regions: StructureRadiomics, enabled: bool = True, remark: str = "") -> CourseRadiomics:
    series = SeriesRadiomics(
        series="S1",
        modality="CT",
        profile=read_profile(PACKAGED_RADIOMICS / "ct.yaml"),
        cropped=False,
        remarks=(remark,) if remark else (),
        workers=1,
        seconds=1.0,
    )
    return CourseRadiomics(enabled=enabled, versions={}, series=(series,), regions=regions)


def region(name: str, status: RegionStatus, reason: str = "") -> StructureRadiomics:
    return StructureRadiomics(series="S1", structure_id=name, status=status, reason=reason)


RADIOMICS = {
    "all": (
        "features_computed",
        radiomics(region("a", RegionStatus.COMPUTED), region("b", RegionStatus.LEFT_OUT, "skip_rois")),
        PASS, "1 computed, 1 left out",
    ),
    "switched off": ("features_computed", radiomics(enabled=False), PASS, "radiomics.enabled is false"),
    "not cropped": (
        "features_computed",
        radiomics(region("a", RegionStatus.COMPUTED), remark="not cropped: there is no analysis region"),
        WARNING, "CT S1: not cropped: there is no analysis region; 1 computed",
    ),
    "one failed": (
        "features_computed",
        radiomics(region("a", RegionStatus.COMPUTED), region("b", RegionStatus.FAILED, "it took too long")),
        WARNING, "b has failed: it took too long; 1 computed, 1 failed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RADIOMICS)
def test_radiomics(case: str) -> None:
    check, content, verdict, text = RADIOMICS[case]
    require(radiomics_quality(content), "radiomics", check, verdict, text)


def test_every_check_has_content_that_does_not_pass_it() -> None:
    tables = {
        "auto_segmentation": SEGMENTATIONS,
        "structures": STRUCTURES,
        "dvh": DVH,
        "radiomics": RADIOMICS,
    }
    for asset, cases in tables.items():
        passing = {check for check, _, verdict, _ in cases.values() if verdict is PASS}
        failing = {check for check, _, verdict, _ in cases.values() if verdict is not PASS}
        assert passing == failing == {check.name for check in checks_of(asset)}


def test_what_to_do_is_said_of_what_was_found() -> None:
    derived = structure("Ring", source=StructureSource.DERIVED, volume=0, voxels=0)
    (empty,) = [one for one in structures_quality(course(derived)) if one.check.name == "not_empty"]
    assert empty.advice == "See its definition and the structures that it is made of."
    crashed = made(steps=(step(Cause.CRASHED, Device.GPU, Device.CPU),))
    (less,) = [
        one
        for one in segmentation_quality("auto_segmentation", crashed)
        if one.check.name == "full_resources"
    ]
    assert (less.verdict, "memory" in less.advice) == (WARNING, False)


def test_many_findings_are_counted_and_not_all_quoted() -> None:
    many = course(*(structure(f"R{number}", volume=0, voxels=0) for number in range(12)))
    found = structures_quality(many)[1].text
    assert found.endswith("R7 is empty; and 5 more")


def results(verdict: Verdict) -> list[QcResult]:
    """All checks pass but one."""
    return [
        QcResult(check, PASS, "fits", "") if check is not CHECKS[2]
        else QcResult(check, verdict, "does not fit", "" if verdict is PASS else "do this")
        for check in CHECKS
    ]  # fmt: skip


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_report_is_as_good_as_its_worst_check(verdict: Verdict, tmp_path: Path) -> None:
    path = tmp_path / "qc_report.json"
    written = write_qc_report(results(verdict), path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["overall_status"] == verdict.value
    assert len(content["checks"]) == len(CHECKS)
    assert content["checks"][2] == {
        "name": "dose_present",
        "asset": "course_inventory",
        "verdict": verdict.value,
        "text": "does not fit",
        "advice": "" if verdict is PASS else "do this",
    }
    assert read_qc_report(path) == written


def test_what_was_not_evaluated_has_not_passed() -> None:
    report = qc_report(results(PASS)[:-1])
    assert report.overall_status is WARNING
    assert (report.checks[-1].name, report.checks[-1].text) == ("features_computed", "was not evaluated")
    assert worst([]) is WARNING


@pytest.mark.parametrize("what", ["nothing", "no JSON", "better than its worst check"])
def test_a_report_that_cannot_be_trusted_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "qc_report.json"
    if what == "no JSON":
        path.write_text("{")
    if what == "better than its worst check":
        write_qc_report(results(FAIL), path)
        path.write_text(path.read_text().replace('"overall_status": "FAIL"', '"overall_status": "PASS"'))
    with pytest.raises(StoreError, match="the quality report cannot be read"):
        read_qc_report(path)

"""What the checks of an inventory say of made courses, each with one thing that is wrong."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.imaging.quality_control import Verdict, checks_of, worst
from mqi_dagster.lifecycle.course import read_once
from tests.courses.made_objects import encoded, items
from tests.imaging.course_checks import (
    MADE,
    beams,
    checked,
    drawn,
    evaluated,
    fraction_groups,
    images,
    organised,
    structures,
    written,
)
from tests.imaging.test_head_phantom import ARCHIVE

PASS, WARNING, FAIL = Verdict.PASS, Verdict.WARNING, Verdict.FAIL
SOUND = {
    "images_present": "the planning CT has 5 images that can be read",
    "plan_present": "1 plan",
    "dose_present": "1 dose",
    "structure_set_present": "1 structure set",
    "objects_readable": "5 images and 3 other objects",
    "image_grid": "the planning CT: 5 planes, 3 mm apart",
    "image_orientation": "the planning CT is axial",
    "image_order": "the planning CT: Instance Numbers count along the axis of the images",
    "patient_position": "the planning CT: HFS",
    "frame_of_reference": "one Frame of Reference",
    "references": "all that is named is there",
    "referenced_images": "5 images named by structure sets",
    "beams_and_fractions": "the plan: 30 fractions, 3 beams",
    "plan_approval": "the plan is approved",
    "plan_intent": "the plan: curative",
    "isocentre": "the plan: not checked: no structure is a target by its type, the plan or its name",
    "dose_type": "the dose is PHYSICAL",
    "dose_units": "the dose is in Gy",
    "dose_grid": "the dose covers 11.7 % of the box around the images",
    "dose_scaling": "the dose: maximum 62 Gy, prescribed 60 Gy",
    "dose_rule": "single_dose",
    "chosen_series": "the planning CT: the structure set of its plan names it",
    "copies": "no copies",
    "patient_identity": "one person",
}


def sound() -> list[bytes]:
    plan = MADE.plan(ApprovalStatus="APPROVED", PlanIntent="CURATIVE")
    return [*images(), structures(), plan, MADE.dose()]


def test_a_sound_course_passes_every_check(tmp_path: Path) -> None:
    found = evaluated(tmp_path, sound())
    # Names of made files say nothing of the order of the images.
    told = {name: one.text.removesuffix(BY_NAME) for name, one in found.items()}
    assert told == SOUND
    assert {one.verdict for one in found.values()} == {PASS}
    assert {one.advice for one in found.values()} == {""}
    assert list(found) == [check.name for check in checks_of("course_inventory")]


BY_NAME = (
    "; the planning CT: the order of the files by name is not their order in space;"
    " images are put where their coordinates say"
)


def with_plan(**changes: object) -> list[bytes]:
    return [*images(), structures(), MADE.plan(**changes), MADE.dose()]


def with_dose(**changes: object) -> list[bytes]:
    return [*images(), structures(), MADE.plan(), MADE.dose(**changes)]


def of(*images_: bytes) -> list[bytes]:
    return [*images_, structures(), MADE.plan(), MADE.dose()]


def changed(index: int, **changes: object) -> list[bytes]:
    """One of the images is another."""
    found = images()
    found[index] = MADE.image(index, **changes)
    return of(*found)


def pixels(gy: float) -> dict[str, object]:
    return {"PixelData": np.full((2, 8, 8), round(1000 * gy), dtype="<u2").tobytes()}


def numbered(*numbers: int | None) -> list[Dataset]:
    return items([{} if number is None else {"BeamNumber": number} for number in numbers])


def in_another_encoding(content: bytes) -> bytes:
    return encoded({one.keyword: one.value for one in read_dicom(content)}, implicit=True)


def prescribed_to(number: int) -> dict[str, object]:
    """The dose reference of a plan to a target by its ROI Number."""
    reference = {
        "DoseReferenceNumber": 1,
        "DoseReferenceStructureType": "VOLUME",
        "DoseReferenceType": "TARGET",
        "ReferencedROINumber": number,
        "TargetPrescriptionDose": 60,
    }
    return {"DoseReferenceSequence": items([reference])}


MR = {"modality": "MR", "FrameOfReferenceUID": MADE.uid(9)}
TILTED = [1, 0, 0, 0, 0.8, 0.6]

CASES: dict[str, tuple[str, Callable[[], list[bytes]], Verdict, str]] = {
    "no images": (
        "images_present", lambda: sound()[5:], FAIL, "the course has no series of a CT or MR"
    ),
    "two images": (
        "images_present", lambda: of(*images()[:2]), FAIL,
        "the planning CT has 2 images that can be read, fewer than 3",
    ),
    "two images of a further MR": (
        "images_present",
        lambda: [*sound(), *(MADE.image(n, series=11, **MR) for n in (0, 1)), MADE.registration(MADE.uid(9))],
        WARNING, "MR series 2 has 2 images that can be read, fewer than 3",
    ),
    "no plan": ("plan_present", lambda: [*images(), structures(), MADE.dose()], WARNING, "has no plan"),
    "no dose": ("dose_present", lambda: sound()[:-1], WARNING, "has no dose"),
    "no structure set": (
        "structure_set_present", lambda: [*images(), MADE.plan(), MADE.dose()], WARNING, "no structure set"
    ),
    "a damaged image": (
        "objects_readable", lambda: of(*images()[:2], MADE.image(2)[:-20], *images()[3:]), FAIL,
        "image 3 of 5 of the planning CT (by SOP Instance UID): is cut off",
    ),
    "pixels missing": (
        "objects_readable", lambda: changed(1, PixelData=bytes(64)), FAIL,
        "image 2 of 5 of the planning CT (by SOP Instance UID): has 64 bytes of pixels instead of 128",
    ),
    "a CT without a rescale": (
        "objects_readable", lambda: changed(0, RescaleSlope=None), FAIL, "image 1 of 5 of the planning CT"
    ),
    "a damaged image of another series": (
        "objects_readable", lambda: [*sound(), MADE.image(0, series=12)[:-20]], WARNING,
        "image 1 of 1 of CT series 2 (by SOP Instance UID): is cut off",
    ),
    "an Enhanced CT": (
        "objects_readable", lambda: changed(0, SOPClassUID=uid.EnhancedCTImageStorage), FAIL,
        "is no CT Image (an Enhanced one has to be exported image by image)",
    ),
    "a middle image missing": (
        "image_grid", lambda: of(*images()[:2], *images()[3:]), FAIL,
        "the images are not evenly spaced: 3 mm, but 6 mm behind 3 mm",
    ),
    "two images at one place": (
        "image_grid", lambda: changed(2, ImagePositionPatient=[0, 0, 3]), FAIL,
        "1 of 5 images lie where another one lies",
    ),
    "an image turned": (
        "image_grid", lambda: changed(2, ImageOrientationPatient=TILTED), FAIL,
        "1 of 5 images are turned against the first",
    ),
    "a sagittal series": (
        "image_orientation",
        lambda: of(
            *(
                MADE.image(
                    n, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=[3 * n, 0, 0]
                )
                for n in range(5)
            )
        ),
        WARNING, "the planning CT is sagittal",
    ),
    "a tilted series": (
        "image_orientation",
        lambda: of(
            *(
                MADE.image(
                    n, ImageOrientationPatient=TILTED, ImagePositionPatient=[0, -1.8 * n, 2.4 * n]
                )
                for n in range(5)
            )
        ),
        WARNING, "the planning CT is axial, tilted by 36.9°",
    ),
    "numbers that do not count along the axis": (
        "image_order", lambda: changed(0, InstanceNumber=9), WARNING,
        "Instance Numbers do not count along the axis of the images",
    ),
    "a number twice": (
        "image_order", lambda: changed(0, InstanceNumber=2), WARNING, "Instance Numbers stand twice"
    ),
    "an image without a number": (
        "image_order", lambda: changed(0, InstanceNumber=None), PASS, "1 image without an Instance Number"
    ),
    "files whose names say nothing": ("image_order", sound, PASS, BY_NAME),
    "positions that differ": (
        "patient_position", lambda: changed(0, PatientPosition="HFP"), FAIL,
        "the images of the planning CT were taken in positions HFP and HFS",
    ),
    "positions of a further MR that differ": (
        "patient_position",
        lambda: [
            *sound(), MADE.registration(MADE.uid(9)),
            *(MADE.image(n, series=11, PatientPosition=one, **MR) for n, one in enumerate(("HFS", "FFP"))),
        ],
        WARNING, "the images of MR series 2 were taken in positions FFP and HFS",
    ),
    "a position that is not stated": (
        "patient_position", lambda: changed(0, PatientPosition=None), WARNING,
        "1 image of the planning CT do not state the Patient Position",
    ),
    "a plan in another position": (
        "patient_position",
        lambda: with_plan(PatientSetupSequence=items([{"PatientPosition": "FFS"}])), FAIL,
        "the plan has the patient in position FFS, its images in HFS",
    ),
    "a plan in the same position": (
        "patient_position", lambda: with_plan(PatientSetupSequence=items([{"PatientPosition": "HFS"}])),
        PASS, "the planning CT: HFS",
    ),
    "a dose of another Frame of Reference": (
        "frame_of_reference", lambda: with_dose(FrameOfReferenceUID=MADE.uid(8)), FAIL,
        "a dose states another Frame of Reference than the objects that it names",
    ),
    "a dose of no Frame of Reference": (
        "frame_of_reference", lambda: with_dose(FrameOfReferenceUID=None), WARNING,
        "the dose states no Frame of Reference",
    ),
    "a plan that is not there": (
        "references", lambda: [*images(), structures(), MADE.dose()], WARNING,
        "the dose: 1 of 1 plans that it names are not in the tree",
    ),
    "a plan without a dose": (
        "references", lambda: [*sound(), MADE.plan(2)], WARNING, "1 of 2 plans have no dose here"
    ),
    "images of another export": (
        "referenced_images",
        lambda: of(*(MADE.image(n, SOPInstanceUID=MADE.uid(13, n + 1)) for n in range(5))),
        WARNING, "the structure set: 5 of 5 images that it names are not in the tree; contours are placed by",
    ),
    "the last image missing": (
        "referenced_images", lambda: of(*images()[:4]), FAIL,
        "the structure set: 1 of 5 images that it names are not in the tree",
    ),
    "a beam twice": (
        "beams_and_fractions", lambda: with_plan(BeamSequence=numbered(1, 1)), FAIL,
        "the plan: beam 1 is there 2 times",
    ),
    "a beam without a number": (
        "beams_and_fractions", lambda: with_plan(BeamSequence=numbered(1, None)), FAIL, "a beam has no number"
    ),
    "a fraction group twice": (
        "beams_and_fractions",
        lambda: with_plan(**fraction_groups(1, 1)), FAIL,
        "fraction group 1 is there 2 times",
    ),
    "a beam that a fraction group names": (
        "beams_and_fractions",
        lambda: with_plan(**fraction_groups(1, beams=(1, 2, 7))), FAIL,
        "a fraction group names beam 7, which the plan does not have",
    ),
    "a beam in no fraction group": (
        "beams_and_fractions",
        lambda: with_plan(**fraction_groups(1, beams=(1,))), WARNING,
        "treatment beam 2 is in no fraction group",
    ),
    "no fractions": (
        "beams_and_fractions", lambda: with_plan(fractions=None), WARNING,
        "the number of fractions planned is not stated",
    ),
    "a dose of a beam that is not there": (
        "beams_and_fractions",
        lambda: [*images(), structures(), MADE.plan(), MADE.dose(summation="BEAM", beam=4)], FAIL,
        "the dose names beam 4, which its plan does not have",
    ),
    "a dose of plans that are not all there": (
        "beams_and_fractions",
        lambda: [*images(), structures(), MADE.plan(), MADE.dose(plans=[1, 7], beam=4)], PASS,
        "the plan: 30 fractions, 3 beams",
    ),
    "a rejected plan": (
        "plan_approval", lambda: with_plan(ApprovalStatus="REJECTED"), FAIL, "the plan is rejected"
    ),
    "a rejected plan beside another": (
        "plan_approval", lambda: [*sound(), MADE.plan(2, ApprovalStatus="REJECTED"), MADE.dose(2, plans=[2])],
        WARNING, "plan 2 is rejected",
    ),
    "an unapproved plan": (
        "plan_approval", lambda: with_plan(ApprovalStatus="UNAPPROVED"), WARNING, "the plan is unapproved"
    ),
    "an approval that is not stated": (
        "plan_approval", with_plan, PASS, "the plan does not state its approval"
    ),
    "a verification plan": (
        "plan_intent", lambda: with_plan(PlanIntent="VERIFICATION", **beams(0, 0)), WARNING,
        "the plan is a verification plan; all its 2 beams are at gantry 0°",
    ),
    "a research plan of two angles": (
        "plan_intent", lambda: with_plan(PlanIntent="RESEARCH", **beams(0, 90)), WARNING,
        "the plan is a research plan",
    ),
    "an isocentre in the target": (
        "isocentre", lambda: [*images(), drawn(1, 6), MADE.plan(**beams(0)), MADE.dose()], PASS,
        "the isocentre of the plan lies within the box around the targets",
    ),
    "an isocentre beside the target": (
        "isocentre",
        lambda: [*images(), drawn(1, 6), MADE.plan(**beams(0, isocentre=(10, 9, 6))), MADE.dose()], WARNING,
        "the isocentre of the plan lies 5 mm outside of the box around the targets",
    ),
    "an isocentre beside what has the name of a target": (
        "isocentre",
        lambda: [
            *images(), drawn(1, 6, kind=None, name="GTV-1"),
            MADE.plan(**beams(0, isocentre=(10, 9, 6)), **prescribed_to(2)), MADE.dose(),
        ],
        WARNING, "the isocentre of the plan lies 5 mm outside of the box around the targets (by their name)",
    ),
    "an isocentre beside the target that the plan names": (
        "isocentre",
        lambda: [
            *images(), drawn(1, 6, kind=None, name="Boost"),
            MADE.plan(**beams(0, isocentre=(10, 9, 6)), **prescribed_to(1)), MADE.dose(),
        ],
        WARNING, "outside of the box around the targets (by their number in the plan)",
    ),
    "a target that the plan does not name": (
        "isocentre",
        lambda: [
            *images(), drawn(1, 6, kind=None, name="Boost"),
            MADE.plan(**beams(0, isocentre=(10, 9, 6)), **prescribed_to(2)), MADE.dose(),
        ],
        PASS, "the plan: not checked: no structure is a target by its type, the plan or its name",
    ),
    "a ring with the name of a target": (
        "isocentre",
        lambda: [
            *images(), drawn(1, 6, kind="AVOIDANCE", name="PTV ring"),
            MADE.plan(**beams(0), **prescribed_to(2)), MADE.dose(),
        ],
        PASS, "the plan: not checked: no structure is a target by its type, the plan or its name",
    ),
    "no isocentre": (
        "isocentre", lambda: [*images(), drawn(1, 6), MADE.plan(), MADE.dose()], PASS,
        "the plan: not checked: it states no isocentre",
    ),
    "an isocentre in the target of another structure set": (
        "isocentre",
        lambda: [
            *images(), drawn(1, 6), drawn(8, 12, 2), MADE.plan(**beams(0, isocentre=(10, 9, 6))), MADE.dose()
        ],
        WARNING, "the isocentre of the plan lies 5 mm outside of the box around the targets",
    ),
    "an EFFECTIVE dose of protons": (
        "dose_type",
        lambda: [*images(), structures(), MADE.plan(ion=True), MADE.dose(DoseType="EFFECTIVE")], PASS,
        "the dose is EFFECTIVE, weighted by biological effect, of an ion plan",
    ),
    "a PHYSICAL dose of protons": (
        "dose_type", lambda: [*images(), structures(), MADE.plan(ion=True), MADE.dose()], PASS,
        "the dose is PHYSICAL, not weighted by biological effect, of an ion plan",
    ),
    "an EFFECTIVE dose of photons": (
        "dose_type", lambda: with_dose(DoseType="EFFECTIVE"), WARNING,
        "the dose is EFFECTIVE, though its plan is one of photons or electrons",
    ),
    "doses of two types": (
        "dose_type",
        lambda: [*sound(), MADE.plan(2, ion=True), MADE.dose(2, plans=[2], DoseType="EFFECTIVE")], WARNING,
        "doses in use are of several types: 1 EFFECTIVE and 1 PHYSICAL",
    ),
    "another type that is not used": (
        "dose_type",
        lambda: [
            *sound(), MADE.plan(2, ion=True, label="Re-plan"),
            MADE.dose(2, plans=[2], DoseType="EFFECTIVE"),
        ],
        PASS, "dose 1 is PHYSICAL; dose 2 is EFFECTIVE, weighted by biological effect, of an ion plan",
    ),
    "a type that is not stated": (
        "dose_type", lambda: with_dose(DoseType=None), WARNING, "the dose does not state its type"
    ),
    "a difference of doses": (
        "dose_type", lambda: with_dose(DoseType="ERROR"), FAIL, "the dose is of the type ERROR"
    ),
    "a relative dose": (
        "dose_units", lambda: with_dose(DoseUnits="RELATIVE"), FAIL, "the dose is in units RELATIVE"
    ),
    "units that are not stated": (
        "dose_units", lambda: with_dose(DoseUnits=None), FAIL, "the dose does not state its units"
    ),
    "uneven frames": (
        "dose_grid",
        lambda: with_dose(
            NumberOfFrames=3, GridFrameOffsetVector=[0, 2, 5], PixelData=np.ones((3, 8, 8), "<u2").tobytes()
        ),
        FAIL, "the dose: GridFrameOffsetVector: does not rise in equal steps",
    ),
    "no scaling": (
        "dose_grid", lambda: with_dose(DoseGridScaling=None), FAIL, "the dose: DoseGridScaling: is missing"
    ),
    "no pixels": (
        "dose_grid", lambda: with_dose(PixelData=None), FAIL,
        "the dose: PixelData: holds 0 bytes instead of 256",
    ),
    "a dose beside the images": (
        "dose_grid", lambda: with_dose(ImagePositionPatient=[0, 100, 0]), FAIL,
        "the dose lies beside the images",
    ),
    "a dose of one plane": (
        "dose_grid",
        lambda: with_dose(
            NumberOfFrames=1, GridFrameOffsetVector=[0], PixelData=np.ones((8, 8), "<u2").tobytes()
        ),
        PASS, "the dose covers 0 % of the box around the images",
    ),
    "a dose in cGy": (
        "dose_scaling", lambda: with_dose(DoseGridScaling="0.1"), FAIL,
        "the dose: maximum 6200 Gy, prescribed 60 Gy",
    ),
    "one fraction of thirty": (
        "dose_scaling", lambda: with_dose(**pixels(2)), FAIL, "the dose: maximum 2 Gy, prescribed 60 Gy"
    ),
    "half of what is prescribed": (
        "dose_scaling", lambda: with_dose(**pixels(30)), WARNING, "the dose: maximum 30 Gy, prescribed 60 Gy"
    ),
    "a dose of nothing": (
        "dose_grid", lambda: with_dose(**pixels(0)), FAIL, "the dose: the dose is zero everywhere"
    ),
    "no prescription": (
        "dose_scaling",
        lambda: [*images(), structures(), MADE.plan(dose_gy=None), MADE.dose()], PASS,
        "the dose: maximum 62 Gy, beside no known prescription",
    ),
    "a boost": (
        "dose_scaling",
        lambda: [
            *sound(), MADE.plan(2, dose_gy=9.0, label="boost", ApprovalStatus="APPROVED"),
            MADE.dose(2, plans=[2], **pixels(9)),
        ],
        PASS, "dose 1 + dose 2: maximum 71 Gy, prescribed 69 Gy",
    ),
    "a sum of a plan and its replan": (
        "dose_scaling",
        lambda: [
            *sound(), MADE.plan(2, related=("PREDECESSOR", 1), ApprovalStatus="APPROVED"),
            MADE.dose(2, plans=[1, 2], summation="MULTI_PLAN", **pixels(62)),
        ],
        PASS, "dose 2: maximum 62 Gy, prescribed 60 to 120 Gy",
    ),
    "beams of which each is a part": (
        "dose_scaling",
        lambda: [
            *images(), structures(), MADE.plan(),
            *(MADE.dose(n, summation="BEAM", beam=n, **pixels(31)) for n in (1, 2)),
        ],
        PASS, "dose 1 + dose 2: maximum 62 Gy, prescribed 60 Gy",
    ),
    "one beam of two": (
        "dose_scaling",
        lambda: [
            *images(), structures(), MADE.plan(), MADE.dose(1, summation="BEAM", beam=1, **pixels(31))
        ],
        PASS, "nothing to check",
    ),
    "plans that say nothing of each other": (
        "dose_rule",
        lambda: [*sound(), MADE.plan(2, dose_gy=20.0, fractions=10), MADE.dose(2, plans=[2])], WARNING,
        "nothing says what the total of 2 doses is (ambiguous_no_sum)",
    ),
    "two CTs of which none is named": (
        "chosen_series",
        lambda: [*images(), *(MADE.image(n, series=12) for n in range(3)), MADE.plan(), MADE.dose()], WARNING,
        "the planning CT: of 2 series of a CT, it has the most images",
    ),
    "the same object twice": (
        "copies", lambda: [*sound(), in_another_encoding(sound()[6])], PASS, "1 object set aside: equal copy"
    ),
    "other pixels under one UID": (
        "copies", lambda: [*sound(), MADE.image(1, PixelData=bytes(128))], FAIL,
        "2 copies of images differ from others of their SOP Instance UID",
    ),
    "another name": (
        "patient_identity", lambda: with_plan(PatientName="Another^Name"), WARNING,
        "the objects of this patient ID bear 2 different names",
    ),
    "another birth date": (
        "patient_identity", lambda: with_plan(PatientBirthDate="19610202"), FAIL,
        "the objects of this patient ID bear 2 different birth dates",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said_by_its_check(case: str, tmp_path: Path) -> None:
    check, objects, verdict, text = CASES[case]
    found = evaluated(tmp_path, objects())[check]
    assert (found.verdict, text in found.text) == (verdict, True), found.text
    assert bool(found.advice) is (verdict is not PASS)


def test_every_check_has_a_course_that_does_not_pass_it() -> None:
    failing = {check for check, _, verdict, _ in CASES.values() if verdict is not PASS}
    assert failing == set(SOUND)


@pytest.mark.parametrize("what", ["plan", "dose", "structure_set"])
def test_what_a_missing_object_means_is_for_the_settings(what: str, tmp_path: Path) -> None:
    without = {"plan": 6, "dose": 7, "structure_set": 5}[what]
    objects = [one for index, one in enumerate(sound()) if index != without]
    found = evaluated(tmp_path, objects, **{f"missing_{what}": "fail"})
    assert found[f"{what}_present"].verdict is FAIL


def test_images_alone_are_no_course_that_passes(tmp_path: Path) -> None:
    course, facts = organised(written(tmp_path, [*images(), structures()]), tmp_path / "index.sqlite")
    found = checked(course, facts)
    assert worst(found.values()) is WARNING
    assert {name for name, one in found.items() if one.verdict is not PASS} == {
        "plan_present",
        "dose_present",
    }
    # Images without a structure set as well are no course in the index.
    alone = checked(
        course.model_copy(update={"structure_sets": ()}), facts.model_copy(update={"structure_sets": ()})
    )
    assert worst(alone.values()) is WARNING
    assert alone["structure_set_present"].text == "the course has no structure set"


def test_a_member_of_an_archive_that_cannot_be_read_any_more_is_a_fact_as_well(tmp_path: Path) -> None:
    root = written(tmp_path, [*images()[1:], structures(), MADE.plan(), MADE.dose()])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("first", images()[0])
    (root / "packed.zip").write_bytes(packed.getvalue())
    course, _ = organised(root, tmp_path / "index.sqlite")
    damaged = packed.getvalue().replace(images()[0], images()[0][:-1] + b"x")
    (root / "packed.zip").write_bytes(damaged)

    contents, facts = read_once(root, course, "R0.c01")

    # As long as the archive is the same, what is made of it is the same, and no longer.
    marked = [one for one in contents.values() if one.startswith("unreadable")]
    assert marked == [f"unreadable {hashlib.sha256(damaged).hexdigest()}"]
    found = checked(course, facts)["objects_readable"]
    assert (found.verdict, found.text) == (
        FAIL,
        "image 1 of 5 of the planning CT (by SOP Instance UID):"
        " is a damaged or encrypted member of its archive",
    )


def test_no_text_names_the_patient_or_a_uid(tmp_path: Path) -> None:
    for number, (_, objects, _, _) in enumerate(CASES.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        for one in evaluated(folder, objects()).values():
            words = f"{one.text} {one.advice}"
            assert not any(part in words for part in ("1.2.826", "ID001", "Made", "Another", str(tmp_path)))


@pytest.mark.skipif(not ARCHIVE.is_file(), reason="the head phantom is not here")
def test_the_traps_of_the_head_phantom_are_told(tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    found = checked(*organised(tmp_path.resolve() / "head_phantom", tmp_path / "index.sqlite"))
    told = {name: one.text for name, one in found.items() if one.verdict is not PASS}
    assert told == {
        "dose_present": "the course has no dose",
        "references": "the plan: 1 of 1 structure sets that it names are not in the tree",
        "referenced_images": "the structure set: 177 of 177 images that it names are not in the tree;"
        " contours are placed by their coordinates in the Frame of Reference",
        "plan_intent": "the plan is a verification plan; all its 3 beams are at gantry 0°",
        "isocentre": "the isocentre of the plan lies 3.73 mm outside of the box around the targets",
    }
    assert found["image_order"].text.endswith(BY_NAME)
    assert found["image_grid"].text == "the planning CT: 177 planes, 1.5 mm apart"

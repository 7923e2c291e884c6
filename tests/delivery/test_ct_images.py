"""What lies in a case folder beside plan and deliveries: no image is lost, none is taken that is unfit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from mqi_dagster.delivery.discovery import arrival_of
from mqi_dagster.delivery.validation import build_manifest, check_case
from mqi_dagster.delivery.validation_findings import Severity
from mqi_dagster.errors import DeliveryError
from mqi_dagster.machine import Machines
from mqi_dagster.settings import Intake
from mqi_dagster.settings.engine_profiles import built_in_profiles
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest
from tests.delivery.delivery_cases import surveyed
from tests.dicom.dicom_files import headless, without_preamble


@pytest.fixture
def case(tmp_path: Path, machines: Machines) -> Path:
    """One beam on G2 and a CT of 12 slices, 10 mm apart: a cube of water of 60 mm."""
    request = DeliveryRequest(
        plan=BuiltInPlan(beams=1, layers=1, spots=4, layer_seconds=0.05),
        ct="water",
        ct_cube_mm=60,
        ct_voxel_mm=10,
    )
    return simulate_delivery(request, machines.named("G2"), tmp_path / "inbox").folder


def slices(case: Path) -> list[Path]:
    return sorted((case / "CT").iterdir())


def at_height(case: Path) -> list[Path]:
    return sorted(slices(case), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))


def faults(case: Path, machines: Machines, profile: str | None = None) -> list[str]:
    used = None if profile is None else built_in_profiles()[profile]
    check = check_case(surveyed(case), machines, used)
    every = [*check.findings, *(finding for part in check.fractions for finding in part.findings)]
    return [str(finding) for finding in every if finding.severity is Severity.ERROR]


def notes(case: Path, machines: Machines) -> list[str]:
    return [
        str(finding)
        for finding in check_case(surveyed(case), machines).findings
        if finding.severity is Severity.NOTE
    ]


def change(path: Path, alter: Callable[[Dataset], object]) -> None:
    dataset = pydicom.dcmread(path)
    alter(dataset)
    dataset.save_as(path, enforce_file_format=True)


def test_a_ct_as_it_should_be_passes(case: Path, machines: Machines) -> None:
    assert faults(case, machines) == []
    assert check_case(surveyed(case), machines).ct_images == 12


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda content: b"", "is not a DICOM file: it is empty"),
        (lambda content: content[:250], "has no SOP class: it is cut off or damaged"),
        (lambda content: content[:-20], "is cut off: it ends within an element"),
        (lambda content: b"\0" * len(content), "is not a DICOM file"),
    ],
    ids=["empty", "header cut", "pixels cut", "zeros"],
)
@pytest.mark.parametrize("named", ["as written", "IM0000", "2.25.1"])
def test_an_image_that_cannot_be_read_refuses_the_case(
    case: Path, machines: Machines, damage: Callable[[bytes], bytes], fault: str, named: str
) -> None:
    files = slices(case)
    for index, path in enumerate(files):
        if named != "as written":
            files[index] = path.rename(path.with_name(f"{named}{index + 10}"))
    files[6].write_bytes(damage(files[6].read_bytes()))
    found = faults(case, machines)
    assert len(found) == 1
    assert found[0].startswith(f"CT: image 7 of 12 in the order of names {fault}")
    with pytest.raises(DeliveryError, match="image 7 of 12"):
        build_manifest(surveyed(case), surveyed(case).fractions[0], "P1.fx0001", 1, machines)


@pytest.mark.parametrize("named", ["{}.dcm", "IM{}", "1.2.840.{}", "{}.img"])
def test_a_ct_of_which_nothing_can_be_read_never_becomes_water(
    case: Path, machines: Machines, named: str
) -> None:
    for index, path in enumerate(slices(case)):
        path.write_bytes(b"")
        path.rename(path.with_name(named.format(index + 10)))
    (fault,) = faults(case, machines)
    assert fault == (
        "CT: file 1 of 12 that should be images, in the order of names, is not a DICOM file: it is empty;"
        " 11 more cannot be used either"
    )


@pytest.mark.parametrize(
    "change_head",
    [
        without_preamble,
        lambda content: headless(content, implicit=True),
        lambda content: headless(content, implicit=False),
    ],
    ids=["without preamble", "implicit", "explicit"],
)
def test_headless_images_are_images(
    case: Path, machines: Machines, change_head: Callable[[bytes], bytes]
) -> None:
    for path in slices(case):
        path.write_bytes(change_head(path.read_bytes()))
    assert faults(case, machines) == []
    assert check_case(surveyed(case), machines).ct_images == 12


def test_what_is_no_image_is_named_and_refuses_nothing(case: Path, machines: Machines) -> None:
    (case / "README.txt").write_text("from the archive")
    (case / "CT" / "protocol.pdf").write_bytes(b"%PDF-1.4\0\0")
    (case / "CT" / "Thumbs.db").write_bytes(b"")
    (case / "CT" / "LIESMICH").write_text("words")
    structures = pydicom.dcmread(slices(case)[0])
    structures.SOPClassUID = structures.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    del structures.PixelData
    structures.save_as(case / "RS.dcm", enforce_file_format=True)
    assert faults(case, machines) == []
    assert notes(case, machines) == [
        "4 files in the case folder are not used: 1 RT Structure Set Storage, 3 not DICOM"
    ]
    manifest = build_manifest(surveyed(case), surveyed(case).fractions[0], "P1.fx0001", 1, machines)
    assert sorted(path.name for path in manifest.unused) == [
        "LIESMICH",
        "README.txt",
        "RS.dcm",
        "protocol.pdf",
    ]
    assert len(manifest.ct_series) == 12


def test_a_marker_file_is_no_part_of_the_case(case: Path) -> None:
    (case / "_CASE_READY").write_bytes(b"")
    (case / "DONE").write_bytes(b"")
    assert [path.name for path in arrival_of(case).unused_files] == ["DONE"]
    assert [path.name for path in arrival_of(case, Intake(marker="DONE")).unused_files] == ["_CASE_READY"]
    assert arrival_of(case).unreadable_files == ()


def test_the_fingerprint_changes_when_an_unreadable_image_goes(case: Path) -> None:
    broken = slices(case)[3]
    broken.write_bytes(b"")
    with_it = surveyed(case)
    before = with_it.fingerprint(with_it.fractions[0])
    broken.unlink()
    without = surveyed(case)
    assert without.fingerprint(without.fractions[0]) != before


def other_series(case: Path) -> None:
    change(slices(case)[0], lambda image: setattr(image, "SeriesInstanceUID", "2.25.9"))


def oblique(case: Path) -> None:
    for path in slices(case):
        change(
            path,
            lambda image: setattr(image, "ImageOrientationPatient", [0.9962, 0.0872, 0, -0.0872, 0.9962, 0]),
        )


def coronal(case: Path) -> None:
    for path in slices(case):
        change(path, lambda image: setattr(image, "ImageOrientationPatient", [1, 0, 0, 0, 0, -1]))


def flipped(case: Path) -> None:
    for path in slices(case):
        change(path, lambda image: setattr(image, "ImageOrientationPatient", [-1, 0, 0, 0, -1, 0]))


def missing(case: Path) -> None:
    at_height(case)[5].unlink()


def doubled(case: Path) -> None:
    place = pydicom.dcmread(at_height(case)[5]).ImagePositionPatient
    change(at_height(case)[6], lambda image: setattr(image, "ImagePositionPatient", list(place)))


def shifted(case: Path) -> None:
    x, y, z = (float(v) for v in pydicom.dcmread(slices(case)[5]).ImagePositionPatient)
    change(slices(case)[5], lambda image: setattr(image, "ImagePositionPatient", [x + 0.5, y, z]))


def other_spacing(case: Path) -> None:
    change(slices(case)[5], lambda image: setattr(image, "PixelSpacing", [10, 9]))


def single(case: Path) -> None:
    for path in slices(case)[1:]:
        path.unlink()


def air(case: Path) -> None:
    for path in slices(case):
        change(path, lambda image: setattr(image, "RescaleIntercept", "-2048"))


def enhanced(case: Path) -> None:
    def alter(image: Dataset) -> None:
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"

    change(slices(case)[0], alter)


def without_slope(case: Path) -> None:
    change(slices(case)[0], lambda image: delattr(image, "RescaleSlope"))


def in_other_units(case: Path) -> None:
    change(slices(case)[0], lambda image: setattr(image, "RescaleType", "US"))


def localizer(path: Path) -> None:
    def alter(image: Dataset) -> None:
        image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        image.SOPInstanceUID, image.SeriesInstanceUID = "2.25.99", "2.25.98"
        image.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    change(path, alter)


def vast(case: Path) -> None:
    for path in slices(case):
        change(path, lambda image: setattr(image, "PixelSpacing", [5.0, 5e4]))


UNFIT: list[tuple[Callable[[Path], None], str]] = [
    (other_series, "CT: the images are of 2 series; a case has one"),
    (oblique, "CT: 12 of 12 images are not axial in the order of the patient's axes"),
    (coronal, "CT: 12 of 12 images are not axial in the order of the patient's axes"),
    (flipped, "CT: 12 of 12 images are not axial in the order of the patient's axes"),
    (missing, "CT: the slices are not evenly spaced: 10 to 20 mm; one may be missing"),
    (doubled, "CT: 1 of 12 images lie where another one lies"),
    (shifted, "CT: the slices are shifted against each other"),
    (other_spacing, "CT: the images differ in size or pixel spacing"),
    (single, "CT: there is one slice alone, which has no thickness"),
    (air, "CT: the images hold nothing but air"),
    (enhanced, "CT: image 1 of 12 in the order of names is no CT Image (an Enhanced CT"),
    (without_slope, "CT: image 1 of 12 in the order of names has no RescaleSlope"),
    (vast, "CT: the images reach over "),
    (in_other_units, "CT: image 1 of 12 in the order of names holds other values than Hounsfield units"),
]


@pytest.mark.parametrize(("make", "fault"), UNFIT, ids=[make.__name__ for make, _ in UNFIT])
def test_a_ct_in_which_no_dose_can_be_simulated_is_refused_at_intake(
    case: Path, machines: Machines, make: Callable[[Path], None], fault: str
) -> None:
    make(case)
    found = faults(case, machines)
    assert len(found) == 1
    assert found[0].startswith(fault)


def test_where_the_engine_simulates_in_water_a_ct_that_is_unfit_is_a_note(
    case: Path, machines: Machines
) -> None:
    oblique(case)
    assert faults(case, machines, "moqui") == []
    assert len(faults(case, machines, "embedded")) == 1


def test_a_localizer_beside_the_slices_is_set_aside(case: Path, machines: Machines) -> None:
    scout = case / "CT" / "scout.dcm"
    scout.write_bytes(slices(case)[0].read_bytes())
    localizer(scout)
    assert faults(case, machines) == []
    assert notes(case, machines) == ["CT: 1 localizer is set aside: no slice of the scan"]
    manifest = build_manifest(surveyed(case), surveyed(case).fractions[0], "P1.fx0001", 1, machines)
    assert "scout.dcm" not in [entry.path.name for entry in manifest.ct_series]
    assert len(manifest.ct_series) == 12


def test_localizers_alone_are_no_ct_and_no_water(case: Path, machines: Machines) -> None:
    for path in slices(case)[1:]:
        path.unlink()
    localizer(slices(case)[0])
    assert faults(case, machines) == ["CT: there is no image beside the localizers"]


@pytest.mark.parametrize("position", ["FFS", "HFP", "FFP"])
def test_a_plan_in_another_position_than_its_images_is_refused(
    case: Path, machines: Machines, position: str
) -> None:
    change(
        next(case.glob("RP.*.dcm")),
        lambda plan: setattr(plan.PatientSetupSequence[0], "PatientPosition", position),
    )
    assert faults(case, machines) == [
        f"RT plan: beam 2 is treated in patient position {position};"
        " only head first supine (HFS) is supported"
    ]


def test_images_in_another_position_are_refused(case: Path, machines: Machines) -> None:
    for path in slices(case)[:2]:
        change(path, lambda image: setattr(image, "PatientPosition", "HFP"))
    assert faults(case, machines) == [
        "CT: 2 of 12 images were taken in position HFP; only head first supine (HFS) is supported"
    ]


def test_a_plan_without_a_position_is_refused_with_images_and_taken_without(
    case: Path, machines: Machines
) -> None:
    change(next(case.glob("RP.*.dcm")), lambda plan: delattr(plan, "PatientSetupSequence"))
    change(
        next(case.glob("RP.*.dcm")),
        lambda plan: [beam.pop("ReferencedPatientSetupNumber", None) for beam in plan.IonBeamSequence],
    )
    (fault,) = faults(case, machines)
    assert "does not say how the patient lies" in fault
    assert faults(case, machines, "moqui") == []
    for path in slices(case):
        path.unlink()
    assert faults(case, machines) == []


def test_what_the_dose_is_without_is_named_at_intake(tmp_path: Path, machines: Machines) -> None:
    plan = BuiltInPlan(beams=1, layers=1, spots=4, layer_seconds=0.05, aperture=True)
    made = simulate_delivery(DeliveryRequest(plan=plan), machines.named("G2"), tmp_path / "inbox")
    assert faults(made.folder, machines) == []
    assert notes(made.folder, machines) == ["RT plan: beam 2: the dose is without its block and MLC"]


def archived(kind: str) -> bytes:
    """The beginning of an archive, as its format has it."""
    if kind == "tar":
        return b"CT/IM0001".ljust(257, b"\0") + b"ustar\x0000" + bytes(248)
    begin = {
        "zip": b"PK\x03\x04",
        "gz": b"\x1f\x8b\x08",
        "7z": b"7z\xbc\xaf'\x1c",
        "rar": b"Rar!\x1a\x07\x01",
    }
    return begin[kind] + bytes(64)


def without_images(case: Path) -> None:
    for path in slices(case):
        path.unlink()
    (case / "CT").rmdir()


@pytest.mark.parametrize("place", ["CT.{}", "export/ct.{}", "exported"])
@pytest.mark.parametrize("kind", ["zip", "tar", "gz", "7z", "rar"])
def test_a_ct_that_is_still_packed_never_becomes_water(
    case: Path, machines: Machines, kind: str, place: str
) -> None:
    without_images(case)
    assert faults(case, machines) == []
    path = case / place.format(kind)
    path.parent.mkdir(exist_ok=True)
    before = surveyed(case)
    path.write_bytes(archived(kind))
    said = "an archive that may hold images lies in the case folder, and no image: unpack it or take it away"
    assert faults(case, machines) == [f"CT: {said}"]
    seen = surveyed(case)
    with pytest.raises(DeliveryError, match="unpack it or take it away"):
        build_manifest(seen, seen.fractions[0], "P1.fx0001", 1, machines)
    # Whoever takes it away has the case taken in again by that.
    assert seen.fingerprint(seen.fractions[0]) != before.fingerprint(before.fractions[0])


def test_an_archive_beside_images_is_a_note_and_so_is_a_document(case: Path, machines: Machines) -> None:
    (case / "CT.zip").write_bytes(archived("zip"))
    assert faults(case, machines) == []
    assert notes(case, machines) == ["1 file in the case folder is not used: 1 not DICOM"]
    without_images(case)
    (case / "CT.zip").rename(case / "report.docx")
    assert faults(case, machines) == []
    assert notes(case, machines) == ["1 file in the case folder is not used: 1 not DICOM"]


def test_where_every_dose_is_in_water_an_archive_is_a_note(case: Path, machines: Machines) -> None:
    without_images(case)
    for name in ("CT.zip", "CT2.zip"):
        (case / name).write_bytes(archived("zip"))
    check = check_case(surveyed(case), machines, built_in_profiles()["moqui"])
    assert [str(one) for one in check.findings] == [
        "CT: 2 archives that may hold images lie in the case folder, and no image: unpack them or take them"
        " away; the engine in use simulates in water"
    ]

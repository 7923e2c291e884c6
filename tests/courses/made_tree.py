"""A tree of 40 made courses with what real trees hold beside them, and what is to be found in it."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pydicom
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset

from tests.courses.made_objects import Made, encoded


def write_tree(root: Path) -> None:
    """Write the tree."""
    for number in range(1, 41):
        for content in _courses(Made(number)):
            Made(number).at(root).write(content)
    _write_more(root)


def _courses(made: Made) -> list[bytes]:
    match made.number:
        case 11:  # two plans that say nothing of each other
            return [*made.whole(), made.plan(2, dose_gy=20.0, fractions=10), made.dose(2, plans=[2])]
        case 12:
            return [*made.whole(), made.plan(2, dose_gy=10.0, label="Boost_PTV2"), made.dose(2, plans=[2])]
        case 13:
            return [*made.whole(), made.plan(2, dose_gy=10.0, related=("PRIOR", 1)), made.dose(2, plans=[2])]
        case 14:
            return [*made.whole(), made.plan(2, related=("CONCURRENT", 1)), made.dose(2, plans=[2])]
        case 15:
            return [*made.whole(), made.plan(2, related=("PREDECESSOR", 1)), made.dose(2, plans=[2])]
        case 16:
            return [*made.whole(), made.plan(2, dose_gy=58.0, label="Re-plan"), made.dose(2, plans=[2])]
        case 17:  # the same prescription at a later date
            return [*made.whole(), made.plan(2, day="20240301"), made.dose(2, plans=[2])]
        case 18:
            replan, boost = made.plan(2, label="adapted"), made.plan(3, dose_gy=9.0, label="cone-down")
            return [*made.whole(), replan, boost, made.dose(2, plans=[2]), made.dose(3, plans=[3])]
        case 19:
            total = made.dose(3, plans=[1, 2], summation="MULTI_PLAN")
            return [*made.whole(), made.plan(2, dose_gy=9.0), made.dose(2, plans=[2]), total]
        case 20:  # the sum leaves a plan out
            total = made.dose(4, plans=[1, 2], summation="MULTI_PLAN")
            plans = [made.plan(2, dose_gy=9.0), made.plan(3, dose_gy=8.0)]
            return [*made.whole(), *plans, made.dose(2, plans=[2]), made.dose(3, plans=[3]), total]
        case 21:
            return [
                *made.whole(),
                made.plan(2, dose_gy=9.0, label="boost"),
                made.dose(2, plans=[2], x_mm=10.0),
            ]
        case 22:
            beams = [made.dose(n, summation="BEAM", beam=n) for n in (1, 2)]
            return [*made.whole()[:4], made.plan(ion=True), *beams]
        case 23:
            return [*made.whole()[:4], made.plan(ion=True), made.dose(1, summation="BEAM", beam=1)]
        case 24:
            return [*made.whole(), *(made.dose(n + 1, summation="BEAM", beam=n) for n in (1, 2))]
        case 25:
            return [*made.whole(), made.plan(2, ApprovalStatus="REJECTED"), made.dose(2, plans=[2])]
        case 26:  # no plan
            return [*made.whole()[:4], made.dose()]
        case 27:  # no dose
            return made.whole()[:5]
        case 28:  # no structure set
            return [*made.whole()[:3], made.plan(), made.dose()]
        case 29:  # neither plan nor dose
            return made.whole()[:4]
        case 30:  # one image of three is not there
            return made.whole()[1:]
        case 31:  # the same twice, once in another encoding
            again = pydicom.dcmread(io.BytesIO(made.plan()))
            return [*made.whole(), encoded({one.keyword: one.value for one in again}, implicit=True)]
        case 32:  # other pixels under the same UID
            return [*made.whole(), made.image(1, PixelData=bytes(128))]
        case 33:
            return [*made.whole(), made.plan(dose_gy=66.0)]
        case 34:  # the name of the first patient
            return Made(34, name="Made^Number1").whole()
        case 35 | 36:  # one ID of two issuers
            return Made(made.number, patient_id="SHARED", issuer=f"clinic {made.number}").whole()
        case 37 | 38:  # one patient, two Frames of Reference
            return Made(made.number, patient_id="TWO", name="Made^Two").whole()
        case 39:  # another name, another kind of dose
            second = Made(39, name="Someone^Else", birth_date="19610202")
            return [
                *made.whole(),
                second.plan(2, dose_gy=9.0, label="boost"),
                made.dose(2, plans=[2], DoseType="EFFECTIVE"),
            ]
        case 40:
            magnetic = [
                made.image(n, series=11, modality="MR", FrameOfReferenceUID=made.uid(9)) for n in (0, 1)
            ]
            moved = made.dose(FrameOfReferenceUID=made.uid(8))
            return [*made.whole()[:5], moved, *magnetic, made.registration(made.uid(9)), made.record()]
        case _:
            return made.whole()


def _write_more(root: Path) -> None:
    fifth = Made(5).at(root)
    for n in range(2):  # a study of its own, of the same patient
        fifth.write(fifth.image(n, series=90, FrameOfReferenceUID=fifth.uid(99)), f"unrelated/{n}")
    fifth.write(fifth.report(), "unrelated/report")
    fifth.write(fifth.image(7, series=91, PatientID=""), "unrelated/nobody")
    fifth.write(fifth.plan(7)[:-20], "damaged/cut off")
    fifth.write(b"not one", "damaged/named.dcm")
    fifth.write("Grüße\n".encode(), "notes/readme.txt")
    fifth.write(b"", "notes/empty")
    fifth.write(_dicomdir(), "DICOMDIR")
    (root / "notes" / "link").symlink_to("/etc/hostname")
    sixth = Made(6)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ct/4", sixth.image(3))
        archive.writestr("../evil", sixth.image(4))
        archive.writestr("/root/evil", sixth.image(5))
        archive.writestr("C:\\evil", sixth.image(6))
        archive.writestr("readme", "stray")
    fifth.write(packed.getvalue(), "packed/more.zip")
    other = io.BytesIO()
    with tarfile.open(fileobj=other, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    fifth.write(other.getvalue(), "packed/more.tar")


def _dicomdir() -> bytes:
    directory = FileDataset("", {}, preamble=b"\0" * 128, file_meta=FileMetaDataset())
    directory.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    directory.FileSetID = "MADE"
    target = io.BytesIO()
    directory.save_as(target, enforce_file_format=True)
    return target.getvalue()


WHOLE = "CT 3 | sets 1 | plans 1 | doses 1 | 60 Gy in 30 | single_dose 1"

COURSES = {
    **dict.fromkeys([*range(1, 11), 34, 35, 36, 37, 38], WHOLE),
    6: "CT 4 | sets 1 | plans 1 | doses 1 | 60 Gy in 30 | single_dose 1",
    11: "CT 3 | sets 1 | plans 2 | doses 2 | 60 Gy in 30, 20 Gy in 10 | ambiguous_no_sum 1 2",
    12: "CT 3 | sets 1 | plans 2 | doses 2 | 60 Gy in 30, 10 Gy in 30 | primary_boost_summed 1+2",
    13: "CT 3 | sets 1 | plans 2 | doses 2 | 60 Gy in 30, 10 Gy in 30 | primary_boost_summed 1+2",
    14: "CT 3 | sets 1 | plans 2 | doses 2 | 60 Gy in 30, 60 Gy in 30 | primary_boost_summed 1+2",
    15: "CT 3 | sets 1 | plans 2 | doses 2 | 60 Gy in 30, 60 Gy in 30 | replan_itt_first -2, single_dose 1",
    16: "CT 3 | sets 1 | plans 2 | doses 2 | 60 Gy in 30, 58 Gy in 30 | replan_itt_first -2, single_dose 1",
    17: "CT 3 | sets 1 | plans 2 | doses 2 | 60 Gy in 30, 60 Gy in 30 | replan_itt_first -2, single_dose 1",
    18: "CT 3 | sets 1 | plans 3 | doses 3 | 60 Gy in 30, 60 Gy in 30, 9 Gy in 30"
    " | replan_itt_first -2, primary_boost_summed 1+3",
    19: "CT 3 | sets 1 | plans 2 | doses 3 | 60 Gy in 30, 9 Gy in 30 | PLAN_SUM_used 3 -1 -2",
    20: "CT 3 | sets 1 | plans 3 | doses 4 | 60 Gy in 30, 9 Gy in 30, 8 Gy in 30 | ambiguous_no_sum 1 2 3 4",
    21: "CT 3 | sets 1 | plans 2 | doses 2 | 60 Gy in 30, 9 Gy in 30"
    " | separate_regions_no_sum, single_dose 1, single_dose 2",
    22: "CT 3 | sets 1 | plans 1 | doses 2 | 60 Gy in 30 | beam_doses_summed (plan 1) 1+2, single_dose 1+2",
    23: "CT 3 | sets 1 | plans 1 | doses 1 | 60 Gy in 30 | ambiguous_no_sum (plan 1) 1, ambiguous_no_sum 1",
    24: "CT 3 | sets 1 | plans 1 | doses 3 | 60 Gy in 30 | plan_dose_used (plan 1) 1 -2 -3, single_dose 1",
    25: "CT 3 | sets 1 | plans 2 | doses 2 | 60 Gy in 30, 60 Gy in 30"
    " | rejected_plan_not_used (plan 2) -2, single_dose 1",
    26: "CT 3 | sets 1 | plans 0 | doses 1 | | single_dose 1 | reference_unresolved: 1 of 1 plans",
    27: "CT 3 | sets 1 | plans 1 | doses 0 | 60 Gy in 30 | | plan_without_dose: 1 of 1 plans",
    28: "CT 3 | sets 0 | plans 1 | doses 1 | 60 Gy in 30 | single_dose 1"
    " | reference_unresolved: 1 of 1 structure sets",
    29: "CT 3 | sets 1 | plans 0 | doses 0 | |",
    30: "CT 2 | sets 1 | plans 1 | doses 1 | 60 Gy in 30 | single_dose 1 | images_missing: 1 of 3 images",
    31: f"{WHOLE} | set aside: equal copy of plan",
    32: "CT 2 | sets 1 | plans 1 | doses 1 | 60 Gy in 30 | single_dose 1 | copies_differ: 1 of 3 images"
    " | set aside: copies that differ of image, copies that differ of image",
    33: "CT 3 | sets 1 | plans 0 | doses 1 | | single_dose 1 | copies_differ: 1 of 1 plans"
    " | set aside: copies that differ of plan, copies that differ of plan",
    39: "CT 3 | sets 1 | plans 2 | doses 2 | 60 Gy in 30, 9 Gy in 30 | ambiguous_no_sum 1 2"
    " | patient_name_differs, birth_date_differs",
    40: "CT 3, MR 2 by registration | sets 1 | plans 1 | doses 1 | registrations 1 | others 1 | 60 Gy in 30"
    " | single_dose 1 | frame_of_reference_differs",
}
"""By number of the course. Doses of a decision: ``1+2`` is summed, ``1`` used, ``-1`` not used."""

SET_ASIDE = {
    ("DICOMDIR", ""): "DICOMDIR",
    ("damaged/cut off", ""): "damaged",
    ("damaged/named.dcm", ""): "damaged",
    ("notes/empty", ""): "stray file",
    ("notes/link", ""): "link",
    ("notes/readme.txt", ""): "stray file",
    ("packed/more.tar", ""): "archive that is not opened",
    ("packed/more.zip", ""): "archive",
    ("packed/more.zip", "../evil"): "refused member",
    ("packed/more.zip", "/root/evil"): "refused member",
    ("packed/more.zip", "C:\\evil"): "refused member",
    ("packed/more.zip", "readme"): "stray file",
    ("unrelated/0", ""): "no course",
    ("unrelated/1", ""): "no course",
    ("unrelated/nobody", ""): "no patient ID",
    ("unrelated/report", ""): "no Frame of Reference",
}
"""What belongs to no course, by path and member."""

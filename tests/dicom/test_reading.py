"""The one reader: files with and without a head give the same values, damaged ones one typed error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from mqi_dagster.dicom.kinds import DicomKind, dicom_kind
from mqi_dagster.dicom.reading import decoding, read_dicom
from mqi_dagster.dose.rt_dose import write_rt_dose
from mqi_dagster.errors import DicomError
from mqi_dagster.machine import Machines
from mqi_dagster.plan.reading import read_ion_plan
from mqi_dagster.plan.reduced import write_reduced_plan
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest
from tests.dicom.dicom_files import deflated, headless, make_headless, nested, whole, without_preamble
from tests.dose.dose_cases import phantom_grid, request, write_plan

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"

HEADS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "whole": (lambda content: content, EXPLICIT),
    "without preamble": (without_preamble, EXPLICIT),
    "headless, implicit": (lambda content: headless(content, implicit=True), IMPLICIT),
    "headless, explicit": (lambda content: headless(content, implicit=False), EXPLICIT),
    "deflated": (deflated, "1.2.840.10008.1.2.1.99"),
}


def kind_of(path: Path) -> DicomKind:
    status = path.stat()
    return dicom_kind(path, status.st_size, status.st_mtime_ns)


@pytest.mark.parametrize("head", HEADS)
def test_the_head_of_a_file_changes_nothing(tmp_path: Path, head: str) -> None:
    change, syntax = HEADS[head]
    path = tmp_path / "image"
    path.write_bytes(change(whole(Rows=7, PixelData=b"")))
    for dataset in (read_dicom(path), read_dicom(path.read_bytes()), read_dicom(path, only=("Rows",))):
        with decoding():
            assert dataset.Rows == 7
            assert dataset.file_meta.TransferSyntaxUID == syntax
    assert kind_of(path) is DicomKind.CT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a DICOM file: it is empty"),
        (b"README", "is not a DICOM file"),
        (deflated(whole())[:-9], "is not a DICOM file, or a damaged one"),
        (whole(PatientComments="w" * 400)[:-9], "is cut off: it ends within an element"),
        (headless(whole(PatientComments="w" * 400), implicit=True)[:-9], "is cut off"),
        (nested(3000), "is not a DICOM file, or a damaged one"),
    ],
    ids=["empty", "text", "deflated, cut", "cut", "headless, cut", "3000 nested sequences"],
)
def test_what_cannot_be_read_is_one_error(content: bytes, message: str) -> None:
    with pytest.raises(DicomError) as caught:
        read_dicom(content)
    assert caught.value.message.startswith(message)
    assert "SYNTH001" not in str(caught.value)


def test_a_damaged_value_is_the_same_error_when_it_is_asked_for() -> None:
    content = whole(Rows=7).replace(
        b"US\x02\x00\x07\x00", b"US\x02\x00\x07\x00\x28\x00\x11\x00US\x01\x00\x07"
    )
    with pytest.raises(DicomError, match="holds damaged elements"), decoding():
        _ = read_dicom(content).Columns


def test_a_disk_that_does_not_give_a_file_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_dicom(tmp_path / "absent.dcm")
    with pytest.raises(IsADirectoryError):
        read_dicom(tmp_path, only=("SOPClassUID",))


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a", whole("1.2.840.10008.5.1.4.1.1.481.8"), DicomKind.ION_PLAN),
        ("a", whole("1.2.840.10008.5.1.4.1.1.481.3"), DicomKind.OTHER),
        ("a.txt", whole(), DicomKind.CT),
        ("a.dcm", b"", DicomKind.UNREADABLE),
        ("a", b"", DicomKind.UNKNOWN),
        ("a", deflated(whole())[:-9], DicomKind.UNREADABLE),
        ("a.txt", b"words", DicomKind.TEXT),
        ("a", whole()[:300], DicomKind.UNREADABLE),
    ],
)
def test_a_kind_is_told_by_the_content(tmp_path: Path, name: str, content: bytes, kind: DicomKind) -> None:
    (tmp_path / name).write_bytes(content)
    assert kind_of(tmp_path / name) is kind


@pytest.mark.parametrize("name", ["CT_small.dcm", "rtplan.dcm", "ExplVR_LitEndNoMeta.dcm"])
def test_files_of_pydicom_s_own_tests_are_read(name: str) -> None:
    path = Path(str(get_testdata_file(name)))
    with decoding():
        read, expected = read_dicom(path), pydicom.dcmread(path, force=True)
        assert read.SOPInstanceUID == expected.SOPInstanceUID
        assert len(read) == len(expected) > 10


@pytest.mark.parametrize("implicit", [True, False])
def test_a_headless_plan_goes_the_whole_way(tmp_path: Path, machines: Machines, implicit: bool) -> None:
    plan = BuiltInPlan(layers=2, spots=4, layer_seconds=0.1)
    case = simulate_delivery(DeliveryRequest(plan=plan), machines.named("G2"), tmp_path / "inbox")
    shutil.copyfile(case.plan_path, tmp_path / "whole.dcm")
    make_headless(case.plan_path, implicit=implicit)
    for source in ("whole", "headless"):
        path = case.plan_path if source == "headless" else tmp_path / "whole.dcm"
        number = read_ion_plan(path).beams[0].number
        write_reduced_plan(path, tmp_path / f"{source}.reduced", number)
        write_rt_dose(tmp_path / f"{source}.dose", phantom_grid(), request(path, beam_number=number))
    assert (tmp_path / "headless.reduced").read_bytes() == (tmp_path / "whole.reduced").read_bytes()
    assert (tmp_path / "headless.dose").read_bytes() == (tmp_path / "whole.dose").read_bytes()


def test_the_dose_of_a_headless_plan_keeps_its_names(tmp_path: Path) -> None:
    path = make_headless(write_plan(tmp_path / "plan.dcm"))
    write_rt_dose(tmp_path / "dose.dcm", phantom_grid(), request(path))
    assert pydicom.dcmread(tmp_path / "dose.dcm").PatientName == "Marker^김"

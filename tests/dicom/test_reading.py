"""The one reader: files with and without a head give the same values, damaged ones one typed error."""

from __future__ import annotations

import resource
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from mqi_dagster.dicom import reading
from mqi_dagster.dicom.kinds import DicomKind, dicom_kind
from mqi_dagster.dicom.proof import can_be_read
from mqi_dagster.dicom.reading import decoding, read_dicom
from mqi_dagster.dose.rt_dose import write_rt_dose
from mqi_dagster.errors import DicomError, PlanError
from mqi_dagster.machine import Machines
from mqi_dagster.plan.reading import read_ion_plan
from mqi_dagster.plan.reduced import write_reduced_plan
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest
from tests.delivery.bad_entries import damaged_vr, deflate_bomb, nested_sequences, plan
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


def test_a_deflate_bomb_is_refused_without_being_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LARGEST_BYTES", 4_000_000)
    bomb = tmp_path / "RP.dcm"
    bomb.write_bytes(deflate_bomb(100_000_000))
    assert bomb.stat().st_size < 1_000_000
    tracemalloc.start()
    assert kind_of(bomb) is DicomKind.UNREADABLE
    with pytest.raises(
        PlanError, match=r"^RT plan: the plan has \d,\d{3},\d{3} bytes, more than 4,000,000 are"
    ):
        read_ion_plan(bomb)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 12_000_000


@pytest.mark.slow
def test_a_deflate_bomb_of_six_gigabytes_costs_no_memory(tmp_path: Path) -> None:
    bomb = tmp_path / "RP.dcm"
    bomb.write_bytes(deflate_bomb(6_000_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PlanError, match=r"more than 268,435,456 are not read$"):
        read_ion_plan(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_sparse_file_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "RP.dcm"
    path.write_bytes(plan())
    with path.open("r+b") as stream:
        stream.truncate(10_000_000_000)
    with pytest.raises(DicomError, match=r"^has 10,000,000,000 bytes, more than 268,435,456 are not read$"):
        read_dicom(path, only=("Rows",))
    assert kind_of(path) is DicomKind.ION_PLAN


def test_what_would_need_too_much_memory_is_tried_by_a_child_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Empty elements of 8 bytes each, of which a reader keeps hundreds.
    content = plan() + b"".join(
        struct.pack("<HH2sH", 0x0009 + 2 * (tag >> 15), 0x1000 + (tag & 0x7FFF), b"CS", 0)
        for tag in range(300_000)
    )
    asked = []
    monkeypatch.setattr(reading, "can_be_read", lambda bytes_: asked.append(len(bytes_)) or False)
    path = tmp_path / "RP.dcm"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(DicomError, match=r"^cannot be read within 20 s and 1,000 MB of memory$"):
            read_dicom(path)
    assert asked == [len(content)]


def test_the_child_tells_what_needs_too_much(tmp_path: Path) -> None:
    assert can_be_read(plan(PatientComments="w" * 1000))
    assert not can_be_read(plan(PatientComments="w" * 60_000_000), memory_bytes=50_000_000)


@pytest.mark.parametrize(
    "content", [nested_sequences(), damaged_vr(), plan()[:-40]], ids=["nested", "vr", "cut"]
)
def test_damage_behind_the_head_leaves_a_plan_a_plan(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "RP.dcm"
    path.write_bytes(content)
    assert kind_of(path) in (DicomKind.ION_PLAN, DicomKind.UNREADABLE)
    with pytest.raises(PlanError):
        read_ion_plan(path)

"""The index: what is read again and what is not, what is refused, and what a bad file does to the others."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mqi_dagster.courses import places, scanning
from mqi_dagster.courses.dicom_index import DicomIndex, PatientKey, ScanProgress, ScanStage
from mqi_dagster.courses.places import Place, file_at, path_text, read_placed
from mqi_dagster.courses.scanning import Seen, in_processes, lost_file, read_files
from mqi_dagster.errors import InfrastructureError, InputsAwayError, Retry, StoreError
from tests.courses.made_objects import Made
from tests.waiting import wait_for


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "tree"
    folder.mkdir()
    return folder


@pytest.fixture
def index(root: Path, tmp_path: Path) -> Iterator[DicomIndex]:
    with closing(DicomIndex(tmp_path / "index.sqlite", root)) as opened:
        yield opened


def kinds(index: DicomIndex) -> dict[str, str]:
    """Kinds of what is no object, by path and member."""
    return {one.place.path + (f"!{one.place.member}" if one.place.member else ""): one.kind.value
            for one in index.other_entries()}  # fmt: skip


def copies(index: DicomIndex, patient: str = "ID001") -> dict[str, str]:
    """What objects are beside their copies, by path."""
    return {one.place.path: one.copies.value for one in index.objects(PatientKey(patient, None))}


def test_a_file_is_opened_again_when_its_size_or_time_changed(root: Path, index: DicomIndex) -> None:
    made = Made(1).at(root)
    first, second = made.write(made.image(0), "first"), made.write(made.image(1), "second")
    assert index.scan().opened == 2

    os.utime(first, ns=(1, 1))
    assert index.scan().opened == 1
    second.write_bytes(made.plan())
    assert index.scan().opened == 1
    roles = {one.place.path: one.found.role for one in index.objects(PatientKey("ID001", None))}
    assert roles == {"first": "image", "second": "plan"}


def test_the_state_of_a_patient_changes_with_its_objects_and_with_copies_elsewhere(
    root: Path, index: DicomIndex
) -> None:
    one, other = Made(1).at(root), Made(2).at(root)
    first = one.write(one.image(0), "first")
    other.write(other.image(0), "other")

    def states() -> tuple[str, str]:
        index.scan()
        return index.state(PatientKey("ID001", None)), index.state(PatientKey("ID002", None))

    begun = states()
    assert states() == begun
    os.utime(first, ns=(1, 1))
    touched = states()
    assert touched[0] != begun[0] and touched[1] == begun[1]
    # Another patient's object under the same UID: neither is used any more.
    copied = Made(1, patient_id="ID002").at(root).write(one.image(0, PatientID="ID002"), "copy")
    both = states()
    assert both[0] != touched[0] and both[1] != touched[1]
    copied.unlink()
    assert states() == touched


def test_progress_is_told_after_what_is_committed(root: Path, index: DicomIndex) -> None:
    made = Made(1).at(root)
    for n in range(100):
        made.write(made.image(n), f"{n:03d}")
    told: list[ScanProgress] = []

    made.write(made.image(0), "again")
    index.scan(progress=told.append, clock=iter([10.0, 26.0, 30.3, 40.0, 41.0]).__next__)

    headers, copies = ScanStage.HEADERS, ScanStage.COPIES
    assert told == [
        ScanProgress(headers, done=0, total=101, elapsed_s=0.0, eta_s=None),
        ScanProgress(headers, done=64, total=101, elapsed_s=16.0, eta_s=9.25),
        ScanProgress(headers, done=101, total=101, elapsed_s=pytest.approx(20.3), eta_s=0.0),
        ScanProgress(copies, done=0, total=2, elapsed_s=0.0, eta_s=None),
        ScanProgress(copies, done=2, total=2, elapsed_s=1.0, eta_s=0.0),
    ]


def test_times_that_no_database_holds_are_kept(root: Path, index: DicomIndex) -> None:
    made = Made(1).at(root)
    file = made.write(made.image(), "image")
    os.utime(file, ns=(10**19, 10**19))  # the year 2286, in nanoseconds more than 63 bits

    assert index.scan().opened == 1
    assert index.scan().opened == 0


def test_several_processes_find_what_one_finds(root: Path, index: DicomIndex, tmp_path: Path) -> None:
    made = Made(1).at(root)
    for n in range(520):
        made.write(made.image(n, PixelData=None), f"{n:03d}")
    index.scan(workers=2)

    with closing(DicomIndex(tmp_path / "other.sqlite", root)) as other:
        other.scan(workers=1)
        assert index.objects(PatientKey("ID001", None)) == other.objects(PatientKey("ID001", None))


def test_a_file_that_kills_its_reader_is_named_and_the_others_are_read() -> None:
    seen = [Seen(f"{n}", 0, 0) for n in range(6)]

    answers = list(in_processes(_dying_at_three, Path("/"), iter([seen[:4], seen[4:]]), 2, lost_file))

    reasons = {
        one.seen.path: one.entries[0].reason if one.entries else "" for batch in answers for one in batch
    }
    assert reasons == {
        "0": "",
        "1": "",
        "2": "",
        "3": "the process that read it was killed",
        "4": "",
        "5": "",
    }


def _dying_at_three(root: Path, files: Sequence[Seen]) -> list[object]:
    from mqi_dagster.courses.scanning import FileReading

    if any(one.path == "3" for one in files):
        os.kill(os.getpid(), signal.SIGKILL)
    return [FileReading(one, ()) for one in files]


def test_processes_that_do_not_start_are_no_fault_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "_begin", _ending)

    with pytest.raises(InfrastructureError, match="no process lives long enough to read a file"):
        list(in_processes(read_files, Path("/"), iter([[Seen("0", 0, 0)]]), 2, lost_file))


def _ending(_: int) -> None:
    os._exit(1)


_PARENT = """
import sys
from pathlib import Path
from mqi_dagster.courses.scanning import in_processes, lost_file
from tests.courses.test_dicom_index import _hanging

if __name__ == "__main__":
    list(in_processes(_hanging, Path(sys.argv[1]), iter([["0"], ["1"]]), 2, lost_file))
"""


def _hanging(root: Path, tasks: Sequence[str]) -> list[object]:
    (root / tasks[0]).write_text(f"{os.getpid()}\n")
    signal.pause()
    return []


def test_readers_end_with_the_scan_that_wanted_them(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment)
    files = [tmp_path / "0", tmp_path / "1"]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files), "both readers")
    readers = [int(file.read_text()) for file in files]

    parent.kill()
    parent.wait()

    wait_for(lambda: not any(_runs(pid) for pid in readers), "the end of both readers")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_what_is_below_a_folder_that_cannot_be_listed_stays(
    root: Path, index: DicomIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(1).at(root)
    made.write(made.image(0), "shut/first")
    made.write(made.image(1), "shut-not/second")
    index.scan()
    (root / "shut-not" / "second").unlink()
    listed = os.scandir

    def refusing(folder: bytes) -> object:
        if folder.endswith(b"/shut"):
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    assert index.scan().removed == 1

    assert copies(index) == {"shut/first": "none"}
    assert kinds(index) == {"shut": "not given by the disk"}
    monkeypatch.undo()
    assert (index.scan().opened, kinds(index)) == (0, {})


def test_a_file_that_the_disk_does_not_give_is_asked_for_again(
    root: Path, index: DicomIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(1).at(root)
    made.write(made.image(), "image")
    with monkeypatch.context() as trouble:
        trouble.setattr(Path, "open", _input_output_error)
        index.scan()
    assert kinds(index) == {"image": "not given by the disk"}

    assert index.scan().opened == 1
    assert kinds(index) == {}


def _input_output_error(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


def test_a_root_that_is_away_leaves_the_index_as_it_was(root: Path, index: DicomIndex) -> None:
    made = Made(1).at(root)
    made.write(made.image(), "image")
    index.scan()
    root.rename(root.with_name("elsewhere"))

    with pytest.raises(InputsAwayError) as caught:
        index.scan()

    assert str(caught.value) == "DICOM root: cannot be listed (first cause: No such file or directory)"
    assert copies(index) == {"image": "none"}


def test_a_share_that_is_not_mounted_empties_no_index(root: Path, index: DicomIndex) -> None:
    made = Made(1).at(root)
    assert index.scan().files == 0
    image = made.write(made.image(), "image")
    index.scan()
    content = image.read_bytes()
    image.unlink()

    with pytest.raises(InputsAwayError, match="is empty and was not: a share that is not mounted"):
        index.scan()

    assert copies(index) == {"image": "none"}
    image.write_bytes(content)
    assert index.scan().removed == 0


def test_the_index_and_what_is_left_out_are_not_looked_at(root: Path) -> None:
    made = Made(1).at(root)
    made.write(made.image(), "in/image")
    made.write(made.plan(), "out/plan")
    with closing(DicomIndex(root / "index.sqlite", root)) as index:
        assert index.scan(without=[root / "out"]).files == 1
        assert index.scan(without=[root / "out"]).files == 1


def test_names_that_are_no_text_are_kept(root: Path, index: DicomIndex) -> None:
    name = os.fsdecode(b"caf\xe9")
    made = Made(1).at(root)
    made.write(made.image(), name)
    made.write(made.plan(), "percent:%20")

    index.scan()

    assert set(copies(index)) == {"percent:caf%E9", "percent:percent%3A%2520"}
    assert file_at(root, "percent:caf%E9") == root / name
    assert read_placed(root, Place(path="percent:percent%3A%2520")).Modality == "RTPLAN"
    assert index.scan().opened == 0
    assert path_text("é/ü".encode()) == "é/ü"


def test_links_are_not_followed(root: Path, index: DicomIndex, tmp_path: Path) -> None:
    outside = Made(1).at(tmp_path / "outside")
    outside.write(outside.image(), "image")
    (root / "file").symlink_to(tmp_path / "outside" / "image")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root)

    assert index.scan().opened == 0
    assert kinds(index) == {"file": "link", "folder": "link", "loop": "link"}


def test_what_is_no_file_is_not_opened(root: Path, index: DicomIndex) -> None:
    os.mkfifo(root / "pipe")

    assert index.scan().opened == 0
    assert kinds(index) == {"pipe": "stray file"}


def test_the_index_is_for_its_owner(index: DicomIndex, root: Path, tmp_path: Path) -> None:
    Made(1).at(root).write(Made(1).image())
    index.scan()

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("index.sqlite*")}
    assert set(modes.values()) == {0o600}
    assert "index.sqlite-wal" in modes


def test_an_index_of_another_version_is_made_anew(root: Path, tmp_path: Path) -> None:
    Made(1).at(root).write(Made(1).image(), "image")
    path = tmp_path / "index.sqlite"
    with closing(DicomIndex(path, root)) as index:
        index.scan()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 0")

    with closing(DicomIndex(path, root)) as index:
        assert index.patients() == []
        assert index.scan().opened == 1


def test_another_database_stays_untouched(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()

    with pytest.raises(StoreError, match="another database stands where the index should"):
        DicomIndex(path, root)

    assert path.read_bytes() == before


def test_a_damaged_index_says_what_to_do(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(b"no database at all, and longer than its header" * 10)

    with pytest.raises(StoreError, match="remove it and scan again"):
        DicomIndex(path, root)


def test_a_full_disk_is_waited_for_and_loses_nothing(root: Path, index: DicomIndex) -> None:
    made = Made(1).at(root)
    for n in range(100):
        made.write(made.image(n), f"{n:03d}")
    pages = index._database.execute("PRAGMA page_count").fetchone()[0]
    index._database.execute(f"PRAGMA max_page_count = {pages + 12}")

    with pytest.raises(InfrastructureError) as caught:
        index.scan()

    assert caught.value.retry is Retry.FOREVER
    assert caught.value.first_cause == "database or disk is full"
    index._database.execute("PRAGMA max_page_count = 1000000")
    index.scan()
    assert len(index.objects(PatientKey("ID001", None))) == 100


def test_two_scans_at_once_do_not_harm_each_other(root: Path, index: DicomIndex, tmp_path: Path) -> None:
    made = Made(1).at(root)
    for n in range(100):
        made.write(made.image(n), f"{n:03d}")
    with closing(DicomIndex(tmp_path / "index.sqlite", root)) as other:
        index.scan(progress=lambda progress: None if progress.done != 64 else (other.scan(), None)[1])

        assert len(other.objects(PatientKey("ID001", None))) == 100
    assert (index.scan().opened, len(index.objects(PatientKey("ID001", None)))) == (0, 100)


def test_objects_without_issuer_are_of_the_one_issuer_there_is(root: Path, index: DicomIndex) -> None:
    for number, issuer in ((1, None), (2, "clinic")):
        made = Made(number, patient_id="SHARED", issuer=issuer).at(root)
        made.write(made.plan())
    index.scan()
    assert index.patients() == [PatientKey("SHARED", "clinic")]
    assert len(index.objects(PatientKey("SHARED", "clinic"))) == 2

    third = Made(3, patient_id="SHARED", issuer="practice").at(root)
    third.write(third.plan())
    index.scan()
    found = {patient.issuer: len(index.objects(patient)) for patient in index.patients()}
    assert found == {None: 1, "clinic": 1, "practice": 1}


class TestCopies:
    def test_equal_ones_are_told_from_different_ones(self, root: Path, index: DicomIndex) -> None:
        made = Made(1).at(root)
        for name in ("b/equal", "a/equal"):
            made.write(made.image(0), name)
        made.write(made.image(1), "c/one")
        made.write(made.image(1, PixelData=bytes(128)), "d/another")

        assert index.scan().compared == 4

        assert copies(index) == {
            "a/equal": "kept",
            "b/equal": "equal",
            "c/one": "different",
            "d/another": "different",
        }

    def test_one_that_cannot_be_read_whole_is_not_taken_for_equal(
        self, root: Path, index: DicomIndex
    ) -> None:
        made = Made(1).at(root)
        whole = made.image(0)
        made.write(whole, "whole")
        made.write(whole[:-10], "cut off in its pixels")

        index.scan()

        assert copies(index) == {"cut off in its pixels": "different", "whole": "different"}

    def test_two_that_cannot_be_read_whole_are_not_equal(self, root: Path, index: DicomIndex) -> None:
        made = Made(1).at(root)
        for name in ("one", "another"):
            made.write(made.image(0)[:-10], name)

        index.scan()

        assert copies(index) == {"one": "different", "another": "different"}

    def test_a_later_copy_is_compared_and_its_end_restores_the_first(
        self, root: Path, index: DicomIndex
    ) -> None:
        made = Made(1).at(root)
        made.write(made.image(0), "first")
        index.scan()
        second = made.write(made.image(0, PixelData=bytes(128)), "second")
        assert index.scan().compared == 2
        assert copies(index) == {"first": "different", "second": "different"}

        second.unlink()
        index.scan()

        assert copies(index) == {"first": "none"}

    def test_a_copy_in_an_archive_counts(self, root: Path, index: DicomIndex) -> None:
        made = Made(1).at(root)
        made.write(made.image(0), "image")
        made.write(zipped({"image": made.image(0)}), "more.zip")

        index.scan()

        assert copies(index) == {"image": "kept", "more.zip": "equal"}


class TestArchives:
    def test_members_are_read_one_by_one(self, root: Path, index: DicomIndex) -> None:
        made = Made(1).at(root)
        members = {
            "good": made.image(0),
            "cut off": made.plan()[:-20],
            "named.dcm": b"no DICOM file",
            "..\\evil": made.image(1),
            "inner.zip": zipped({"x": b"y"}),
        }
        made.write(zipped(members), "some.zip")

        assert index.scan().opened == 1

        assert [one.place.member for one in index.objects(PatientKey("ID001", None))] == ["good"]
        assert kinds(index) == {
            "some.zip": "archive",
            "some.zip!cut off": "damaged",
            "some.zip!named.dcm": "damaged",
            "some.zip!..\\evil": "refused member",
            "some.zip!inner.zip": "archive that is not opened",
        }
        assert index.scan().opened == 0

    def test_bombs_are_refused(self, root: Path, index: DicomIndex) -> None:
        made = Made(1).at(root)
        one = zipped({"bomb": made.image(0) + bytes(16 << 20), "good": made.plan()})
        made.write(one, "bomb.zip")
        made.write(zipped({"padded": os.urandom(1 << 18), "bomb": bytes(16 << 20)}), "member.zip")

        index.scan()

        found = {one.place.path + one.place.member: one.reason for one in index.other_entries()}
        assert found["bomb.zip"] == "is an archive that inflates more than 200 times"
        assert found["member.zipbomb"] == "inflates more than 200 times"
        assert found["member.zippadded"] == "is not a DICOM file"

    def test_too_many_members_or_too_large_a_directory_are_refused(
        self, root: Path, index: DicomIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(places, "MOST_MEMBERS", 2)
        monkeypatch.setattr(places, "LARGEST_DIRECTORY_BYTES", 200)
        made = Made(1).at(root)
        made.write(zipped(dict.fromkeys("abc", b"")), "many.zip")
        made.write(zipped({"long" * 60: b""}), "large.zip")

        index.scan()

        reasons = {one.place.path: one.reason for one in index.other_entries()}
        assert reasons == {
            "many.zip": "is an archive of 3 members, more than 2",
            "large.zip": "is an archive whose directory is beyond all measure",
        }

    def test_doubled_names_links_and_passwords_are_refused(self, root: Path, index: DicomIndex) -> None:
        made = Made(1).at(root)
        content = io.BytesIO()
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(content, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(link, "/etc/passwd")
            archive.writestr("twice", made.image(0))
            archive.writestr("twice", made.image(1))
            archive.writestr("secret", made.plan())
        coded = content.getvalue()
        for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = [n for n in range(len(coded)) if coded.startswith(header, n)][-1] + flags
            coded = coded[:at] + b"\x01" + coded[at + 1 :]
        made.write(coded, "some.zip")

        index.scan()

        assert {one.place.member: one.reason for one in index.other_entries() if one.place.member} == {
            "link": "is a link",
            "twice": "has a name that 2 members of its archive have",
            "secret": "is a damaged or encrypted member of its archive (first cause: RuntimeError)",
        }

    @pytest.mark.parametrize(
        "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    )
    def test_a_damaged_member_stops_no_other(self, root: Path, index: DicomIndex, method: int) -> None:
        made = Made(1).at(root)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", method) as archive:
            archive.writestr("bad", made.image(0))
            archive.writestr("good", made.image(1))
        packed = content.getvalue()
        at = packed.index(b"bad") + 60
        made.write(packed[:at] + b"\xff" * 20 + packed[at + 20 :], "some.zip")

        index.scan()

        assert [one.place.member for one in index.objects(PatientKey("ID001", None))] == ["good"]
        assert kinds(index) == {"some.zip": "archive", "some.zip!bad": "damaged"}

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cut=st.integers(0, 400), at=st.integers(0, 400), value=st.binary(min_size=1, max_size=4))
    def test_a_damaged_archive_is_an_entry(self, tmp_path: Path, cut: int, at: int, value: bytes) -> None:
        content = zipped({"a": b"a" * 50, "b": b"DICM" * 20})
        damaged = (content[:at] + value + content[at + len(value) :])[: len(content) - cut]
        (tmp_path / "some").write_bytes(damaged)

        (reading,) = read_files(tmp_path, [Seen("some", len(damaged), 0)])

        assert reading.entries[0].found is None


def _changed(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


FOREIGN = st.one_of(
    st.binary(max_size=300),
    st.binary(max_size=300).map(lambda rest: bytes(128) + b"DICM" + rest),
    st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=8)).map(
        lambda change: _changed(Made(1).plan(), *change)
    ),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=FOREIGN)
@example(content=_changed(Made(1).plan(), 162, b"A"))  # the file meta information, read last, is damaged
def test_foreign_bytes_are_an_entry(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some").write_bytes(content)

    (reading,) = read_files(tmp_path, [Seen("some", len(content), 0)])

    assert len(reading.entries) == 1
    assert (reading.entries[0].found is None) == bool(reading.entries[0].reason)


def zipped(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()

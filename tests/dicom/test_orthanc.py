"""An Orthanc as a source: everything that it takes is copied once, and what it deletes stays here."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from mqi_dagster.dicom import orthanc
from mqi_dagster.dicom.orthanc import Orthanc, OrthancCounts, follow
from mqi_dagster.errors import ConfigurationError, InfrastructureError, InputsAwayError, UnreachableError
from mqi_dagster.settings.radiotherapy import OrthancSource, Radiotherapy
from tests.courses.made_objects import Made
from tests.dicom.orthanc_server import Server, StandIn, running_orthanc, stand_in


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    with running_orthanc(tmp_path / "orthanc") as server:
        yield server


def looked(server: Server | StandIn, folder: Path) -> OrthancCounts:
    (folder / "tree").mkdir(exist_ok=True)
    return follow(Orthanc(server.source), folder / "tree", folder / "followed.json")


def copies(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in (folder / "tree" / "orthanc").iterdir())


@pytest.mark.gate
@pytest.mark.slow
def test_what_an_orthanc_takes_is_copied_once_and_what_it_deletes_stays(
    server: Server, tmp_path: Path
) -> None:
    objects = Made(1).whole()
    first, *_ = server.store(*objects[:4])
    assert looked(server, tmp_path) == OrthancCounts(copied=4, only_here=0)
    assert copies(tmp_path) == sorted(objects[:4])
    assert looked(server, tmp_path) == OrthancCounts(copied=0, only_here=0)
    server.store(*objects[4:])
    assert looked(server, tmp_path) == OrthancCounts(copied=2, only_here=0)
    server.delete(first)
    assert looked(server, tmp_path) == OrthancCounts(copied=0, only_here=1)
    assert copies(tmp_path) == sorted(objects)
    # Started anew, on the same database.
    server.stop()
    with pytest.raises(UnreachableError, match="it cannot be reached: Connection refused"):
        looked(server, tmp_path)
    server.start()
    server.store(Made(2).plan())
    assert looked(server, tmp_path) == OrthancCounts(copied=1, only_here=1)
    names = [path.name for path in (tmp_path / "tree" / "orthanc").iterdir()]
    assert all(len(name) == 68 and name.endswith(".dcm") for name in names)
    assert not any("ID001" in name or "1.2.826" in name for name in names)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "tree" / "orthanc").iterdir()} == {0o600}


@pytest.mark.slow
def test_an_orthanc_that_has_forgotten_its_changes_is_compared_whole(server: Server, tmp_path: Path) -> None:
    server.store(*Made(1).whole()[:2])
    server.forget_changes()
    assert looked(server, tmp_path).copied == 2
    followed = json.loads((tmp_path / "followed.json").read_text())
    (tmp_path / "followed.json").write_text(json.dumps({**followed, "last": 10_000}))
    server.store(Made(1).plan())
    assert looked(server, tmp_path).copied == 1
    (tmp_path / "followed.json").unlink()
    assert looked(server, tmp_path).copied == 0


@pytest.mark.slow
def test_a_look_that_was_cut_short_goes_on_where_it_stood(server: Server, tmp_path: Path) -> None:
    server.store(*Made(1).whole())
    (tmp_path / "tree").mkdir()
    left = iter([True, True, False])
    record = tmp_path / "followed.json"
    found = follow(Orthanc(server.source), tmp_path / "tree", record, goes_on=lambda: next(left))
    assert found.copied == 2
    left = iter([True, False])
    found = follow(Orthanc(server.source), tmp_path / "tree", record, goes_on=lambda: next(left))
    assert found.copied == 1
    assert looked(server, tmp_path).copied == 3
    assert looked(server, tmp_path).copied == 0


@pytest.mark.slow
def test_an_object_that_replaces_another_is_copied_again(tmp_path: Path) -> None:
    with running_orthanc(tmp_path / "orthanc", OverwriteInstances=True) as server:
        server.store(Made(1).plan())
        looked(server, tmp_path)
        other = Made(1).plan(label="other")
        server.store(other)
        assert looked(server, tmp_path).copied == 1
        assert copies(tmp_path) == [other]


@pytest.mark.slow
def test_two_patients_objects_of_one_uid_are_two_copies(server: Server, tmp_path: Path) -> None:
    server.store(Made(1).plan(), Made(1, patient_id="ANOTHER").plan())
    assert looked(server, tmp_path).copied == 2


@pytest.mark.slow
def test_an_orthanc_that_keeps_no_md5_is_copied_by_size(tmp_path: Path) -> None:
    with running_orthanc(tmp_path / "orthanc", StoreMD5ForAttachments=False) as server:
        server.store(*Made(1).whole())
        assert looked(server, tmp_path).copied == 6
        assert looked(server, tmp_path).copied == 0


@pytest.mark.slow
def test_a_wrong_password_is_the_site_s_to_mend(server: Server, tmp_path: Path) -> None:
    source = server.source
    assert source.password_file is not None
    source.password_file.write_text("another")
    with pytest.raises(ConfigurationError, match=r"refuses the user: radiotherapy\.orthanc\.user"):
        Orthanc(source).version()


def test_a_password_that_others_can_read_is_refused(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    password.chmod(0o644)
    with pytest.raises(ConfigurationError, match="mode 0644, open to others"):
        Orthanc(OrthancSource(url="http://127.0.0.1:1", user="u", password_file=password))


ONE = "11111111-22222222-33333333-44444444-55555555"


def holding(shown: StandIn, content: bytes, md5: str | None) -> None:
    """Have a stand-in hold one object."""
    shown.answers["/changes?last"] = 200, b'{"Changes": [], "Done": true, "Last": 7}'
    shown.answers["/instances?since=0&limit=200"] = 200, json.dumps([ONE]).encode()
    shown.answers["/instances?since=1&limit=200"] = 200, b"[]"
    shown.answers["/statistics"] = 200, b'{"CountInstances": 1}'
    shown.answers["/changes?since=7&limit=200"] = 200, b'{"Changes": [], "Done": true, "Last": 7}'
    shown.answers[f"/instances/{ONE}/file"] = 200, content
    if md5 is not None:
        shown.answers[f"/instances/{ONE}/attachments/dicom/md5"] = 200, md5.encode()


def test_a_file_that_is_not_what_orthanc_says_is_not_kept(tmp_path: Path) -> None:
    with stand_in() as shown:
        holding(shown, b"other bytes", hashlib.md5(b"these bytes").hexdigest())
        found = looked(shown, tmp_path)
        assert (found.copied, found.failed) == (0, 1) and "otherwise than Orthanc says" in found.why
        assert not (tmp_path / "tree" / "orthanc").exists()
        holding(shown, b"these bytes", hashlib.md5(b"these bytes").hexdigest())
        assert looked(shown, tmp_path).copied == 1


def test_nothing_is_copied_below_the_mount_point_of_a_share_that_goes_away(tmp_path: Path) -> None:
    with stand_in() as shown:
        holding(shown, b"these bytes", hashlib.md5(b"these bytes").hexdigest())
        tree, record = tmp_path / "tree", tmp_path / "followed.json"
        with pytest.raises(InputsAwayError, match="the tree is away"):
            follow(Orthanc(shown.source), tree, record)
        tree.mkdir()

        def unmounted() -> bool:
            tree.rename(tmp_path / "share")
            tree.mkdir()
            return True

        with pytest.raises(InputsAwayError, match="another folder is in its place"):
            follow(Orthanc(shown.source), tree, record, goes_on=unmounted)
        assert list(tree.iterdir()) == []


def test_copies_that_are_gone_are_made_again(tmp_path: Path) -> None:
    with stand_in() as shown:
        holding(shown, b"these bytes", hashlib.md5(b"these bytes").hexdigest())
        assert looked(shown, tmp_path).copied == 1
        assert looked(shown, tmp_path).copied == 0
        shutil.rmtree(tmp_path / "tree" / "orthanc")
        assert looked(shown, tmp_path).copied == 1


def test_a_file_of_another_size_is_not_kept(tmp_path: Path) -> None:
    with stand_in() as shown:
        holding(shown, b"bytes", None)
        shown.answers[f"/instances/{ONE}/attachments/dicom/size"] = 200, b"6"
        found = looked(shown, tmp_path)
        assert (found.copied, found.failed) == (0, 1) and "otherwise than Orthanc says" in found.why


def test_an_object_that_orthanc_cannot_give_keeps_no_other_waiting_and_is_asked_for_again(
    tmp_path: Path,
) -> None:
    other, third = f"0{ONE[1:]}", f"2{ONE[1:]}"
    with stand_in() as shown:
        holding(shown, b"these bytes", hashlib.md5(b"these bytes").hexdigest())
        shown.answers["/instances?since=0&limit=200"] = 200, json.dumps([other, ONE]).encode()
        shown.answers["/instances?since=2&limit=200"] = 200, b"[]"
        shown.answers[f"/instances/{other}/attachments/dicom/md5"] = 500, b""
        assert looked(shown, tmp_path) == OrthancCounts(1, 0, 1, "it answers HTTP 500")
        new = [{"ChangeType": "NewInstance", "ID": third, "Seq": 8}]
        changes = json.dumps({"Changes": new, "Done": True, "Last": 8}).encode()
        shown.answers["/changes?since=7&limit=200"] = 200, changes
        shown.answers["/changes?since=8&limit=200"] = 200, b'{"Changes": [], "Done": true, "Last": 8}'
        shown.answers[f"/instances/{third}/file"] = 500, b""
        assert looked(shown, tmp_path) == OrthancCounts(0, 0, 2, "it answers HTTP 500")
        del shown.answers[f"/instances/{other}/attachments/dicom/md5"]
        shown.answers[f"/instances/{other}/file"] = 200, b"those bytes"
        assert looked(shown, tmp_path).copied == 1
        shown.answers[f"/instances/{third}/file"] = 200, b"the third bytes"
        assert looked(shown, tmp_path).copied == 1
        assert looked(shown, tmp_path) == OrthancCounts(0, 2)
        assert copies(tmp_path) == [b"the third bytes", b"these bytes", b"those bytes"]


def test_an_orthanc_that_gives_none_of_its_objects_is_at_fault_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orthanc, "_FAILED_AT_MOST", 0)
    with stand_in() as shown:
        holding(shown, b"these bytes", None)
        shown.answers[f"/instances/{ONE}/file"] = 503, b""
        with pytest.raises(UnreachableError, match="it answers HTTP 503"):
            looked(shown, tmp_path)


def test_an_answer_that_ends_early_is_no_answer(tmp_path: Path) -> None:
    with stand_in() as shown:
        holding(shown, b"bytes", None)
        shown.length = 1000
        with pytest.raises(UnreachableError):
            looked(shown, tmp_path)


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (500, UnreachableError, "it answers HTTP 500"),
        (302, UnreachableError, "it answers HTTP 302"),
        (401, ConfigurationError, "refuses the user"),
    ],
)
def test_what_is_answered_instead_is_told(
    tmp_path: Path, status: int, error: type[Exception], words: str
) -> None:
    with stand_in() as shown, stand_in() as elsewhere:
        shown.answers["/changes?last"] = status, b""
        shown.headers["Location"] = f"http://127.0.0.1:{elsewhere.port}/"
        with pytest.raises(error, match=words):
            looked(shown, tmp_path)
        assert elsewhere.asked == [], "a password goes to no other address"


def test_what_is_no_orthanc_is_told(tmp_path: Path) -> None:
    with stand_in() as shown:
        shown.answers["/changes?last"] = 200, b"<html>"
        with pytest.raises(InfrastructureError, match="cannot be understood"):
            looked(shown, tmp_path)


def test_an_identifier_that_is_none_leads_nowhere(tmp_path: Path) -> None:
    with stand_in() as shown:
        holding(shown, b"bytes", None)
        shown.answers["/instances?since=0&limit=200"] = 200, b'["../../secret"]'
        with pytest.raises(InfrastructureError, match="none of Orthanc's"):
            looked(shown, tmp_path)


@pytest.mark.parametrize("url", ["http://pacs.clinic:8042", "http://10.0.0.7:8042", "http://127.0.0.1.evil"])
def test_patients_go_unencrypted_to_this_machine_alone(url: str) -> None:
    with pytest.raises(ValidationError, match="to another machine https"):
        OrthancSource(url=url)
    assert OrthancSource(url=url, allow_http=True).url == url
    assert OrthancSource(url=url.replace("http", "https")).allow_http is False


def test_an_orthanc_needs_a_tree_to_be_copied_into() -> None:
    with pytest.raises(ValidationError, match="dicom_root names the tree"):
        Radiotherapy.model_validate({"orthanc": {"url": "http://localhost:8042"}})

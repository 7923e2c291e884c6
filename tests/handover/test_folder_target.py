"""Hand-over to a folder: whole, verified, repeatable."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from mqi_dagster.errors import ConfigurationError, HandoverError, Retry
from mqi_dagster.handover.access import access_of
from mqi_dagster.handover.folder import FolderTarget
from mqi_dagster.handover.naming import beam_folder, case_folder
from mqi_dagster.settings import Handover


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(b"dose" * 1000)
    (source / "b").write_bytes(b"plane")
    return {"rt_dose.dcm": source / "a", "csv/01.csv": source / "b"}


def test_every_file_is_at_the_target_with_its_checksum_in_the_receipt(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    root = tmp_path / "target"
    receipt = FolderTarget(root).deliver("P1.fx0001/b02", files)

    assert (root / "P1.fx0001/b02/rt_dose.dcm").read_bytes() == b"dose" * 1000
    written = json.loads((root / "P1.fx0001/b02/receipt.json").read_text())
    by_name = {entry["name"]: entry for entry in written["entries"]}
    assert by_name["P1.fx0001/b02/csv/01.csv"] == {
        "name": "P1.fx0001/b02/csv/01.csv",
        "size": 5,
        "sha256": hashlib.sha256(b"plane").hexdigest(),
    }
    assert len(receipt.entries) == 2
    assert not list(root.rglob("*.part"))


def test_a_second_delivery_leaves_equal_files_as_they_are(tmp_path: Path, files: dict[str, Path]) -> None:
    target = FolderTarget(tmp_path / "target")
    first = target.deliver("c/b", files)
    stands = tmp_path / "target/c/b/rt_dose.dcm"
    inode = stands.stat().st_ino
    assert target.deliver("c/b", files) == first
    assert stands.stat().st_ino == inode


def test_what_is_not_handed_over_any_more_goes_unless_somebody_changed_it(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    target = FolderTarget(tmp_path / "target")
    target.deliver("c/b", files | {"old.dcm": files["csv/01.csv"]})
    (tmp_path / "target/c/b/note.txt").write_text("a person's own")
    (tmp_path / "target/c/b/csv/01.csv").write_bytes(b"a person's own")

    target.deliver("c/b", {"rt_dose.dcm": files["rt_dose.dcm"]})

    names = {p.relative_to(tmp_path / "target/c/b").as_posix() for p in (tmp_path / "target").rglob("*.*")}
    assert names == {"rt_dose.dcm", "receipt.json", "note.txt", "csv/01.csv"}


def test_a_damaged_copy_at_the_target_is_replaced(tmp_path: Path, files: dict[str, Path]) -> None:
    target = FolderTarget(tmp_path / "target")
    target.deliver("c/b", files)
    stands = tmp_path / "target/c/b/rt_dose.dcm"
    stands.write_bytes(b"half")
    target.deliver("c/b", files)
    assert stands.read_bytes() == b"dose" * 1000


def test_a_target_that_cannot_be_written_is_tried_again_and_names_no_path(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(HandoverError) as raised:
        FolderTarget(tmp_path / "file" / "below").deliver("c/b", files)
    assert raised.value.retry is Retry.FOREVER
    assert str(tmp_path) not in str(raised.value)


@pytest.mark.parametrize("folder", ["../out", "/absolute", "a/../../b"])
def test_nothing_is_written_outside_the_target(tmp_path: Path, files: dict[str, Path], folder: str) -> None:
    with pytest.raises(HandoverError):
        FolderTarget(tmp_path / "target").deliver(folder, files)
    assert not (tmp_path / "out").exists()


def test_the_marker_can_be_withdrawn_and_set_again(tmp_path: Path) -> None:
    target = FolderTarget(tmp_path)
    entry = target.state("c", "_COMPLETE", b"yes\n")
    assert (entry.name, entry.size) == ("c/_COMPLETE", 4)
    target.withdraw("c", "_COMPLETE")
    target.withdraw("c", "_COMPLETE")
    assert not (tmp_path / "c/_COMPLETE").exists()


@pytest.mark.parametrize(
    ("template", "beam", "case"),
    [
        ("<case>/<beam>/", "P1.fx0001/P1.fx0001__b02", "P1.fx0001"),
        ("qa/<case>/beam_<beam_number>/", "qa/P1.fx0001/beam_02", "qa/P1.fx0001"),
        ("<case>_<beam_number>", "P1.fx0001_02", "P1.fx0001"),
        ("out/<case>-<beam_number>/", "out/P1.fx0001-02", "out/P1.fx0001"),
    ],
)
def test_names_at_the_target_follow_the_template(template: str, beam: str, case: str) -> None:
    assert beam_folder(template, "P1.fx0001", "P1.fx0001__b02", 2) == beam
    assert case_folder(template, "P1.fx0001") == case


def test_what_stands_there_with_more_rights_than_it_would_get_now_loses_them(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    target = FolderTarget(tmp_path / "target")
    target.deliver("c/b", files)
    stands = tmp_path / "target/c/b/rt_dose.dcm"
    stands.chmod(0o644)
    inode = stands.stat().st_ino
    target.deliver("c/b", files)
    assert (stands.stat().st_mode & 0o777, stands.stat().st_ino) == (0o600, inode)


def test_a_group_that_is_not_on_this_machine_is_named() -> None:
    settings = Handover.model_validate({"access": "group", "group": "no_such_group"})
    with pytest.raises(ConfigurationError, match="no_such_group"):
        access_of(settings)
    with pytest.raises(ValidationError, match="access: group"):
        Handover.model_validate({"group": "staff"})

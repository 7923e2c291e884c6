"""One entry of the inbox decides about itself alone, and is shown with its reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mqi_dagster.delivery import discovery
from mqi_dagster.delivery.discovery import CaseFolder, arrival_of, find_arrivals
from mqi_dagster.delivery.inbox_tree import SeenFolder
from mqi_dagster.errors import DeliveryError
from mqi_dagster.settings import Intake
from tests.delivery.bad_entries import (
    BEAM,
    delivery,
    far_time,
    name_not_utf8,
    nested_folders,
    on_tmpfs,
    plan,
)

NOW = datetime(2026, 1, 6, tzinfo=UTC)


def good(inbox: Path, name: str = "good") -> Path:
    delivery(inbox / name / BEAM)
    (inbox / name / "RP.dcm").write_bytes(plan())
    for path in [inbox / name, *(inbox / name).rglob("*")]:
        os.utime(path, (1.7e9, 1.7e9))
    return inbox / name


def found(inbox: Path, intake: Intake | None = None) -> dict[str, CaseFolder]:
    return {arrival.relative: arrival for arrival in find_arrivals(inbox, intake or Intake(), NOW)}


def test_folders_nested_without_end_are_shown_and_stop_nothing(tmp_path: Path) -> None:
    good(tmp_path)
    with nested_folders(tmp_path) as looped:
        arrivals = found(tmp_path)
        with pytest.raises(DeliveryError, match=r"nested more than 32 deep \(intake.max_folder_depth\)"):
            arrival_of(looped)
    assert arrivals.pop("good").ready
    ((name, refused),) = arrivals.items()
    assert name == "/".join(["copyloop", *"a" * 32])
    assert not refused.ready
    assert refused.reason == "cannot be read: folders are nested more than 32 deep (intake.max_folder_depth)"


def test_a_case_with_folders_nested_without_end_is_refused_alone(tmp_path: Path) -> None:
    good(tmp_path)
    with nested_folders(good(tmp_path, "looped"), 40):
        arrivals = found(tmp_path)
        deeper = found(tmp_path, Intake(stable_seconds=0, max_folder_depth=60))
    assert [arrivals[name].ready for name in ("good", "looped")] == [True, False]
    assert "nested more than 32 deep" in arrivals["looped"].reason
    assert list(arrivals) == ["good", "looped"]
    assert deeper["looped"].ready


@pytest.fixture
def tmpfs() -> Iterator[Path]:
    folder = on_tmpfs("bad-entries")
    yield folder
    shutil.rmtree(folder)


def test_a_time_that_no_calendar_has_is_told_and_stops_nothing(tmpfs: Path) -> None:
    good(tmpfs)
    far_time(good(tmpfs, "far"))
    arrivals = found(tmpfs)
    assert arrivals["good"].ready
    assert not arrivals["far"].ready
    assert arrivals["far"].reason == (
        "the time of a file lies beyond the year 9999: copy it again, or set its time"
    )
    assert arrival_of(tmpfs / "far").ready


def test_a_time_before_every_calendar_is_old(tmpfs: Path) -> None:
    info = good(tmpfs) / BEAM / "PlanInfo.txt"
    os.utime(info, (-9e10, -9e10))
    assert found(tmpfs)["good"].ready


def test_a_name_that_is_not_utf8_is_told_and_stops_nothing(tmp_path: Path) -> None:
    good(tmp_path)
    name = name_not_utf8(tmp_path).name
    (good(tmp_path, "inside") / os.fsdecode(b"\xff.txt")).touch()
    arrivals = found(tmp_path, Intake(stable_seconds=0))
    assert arrivals["good"].ready
    for refused in (name, "inside"):
        assert not arrivals[refused].ready
        assert arrivals[refused].reason == "the name of a file or folder in it is not UTF-8: rename it"


def test_a_file_that_no_beam_can_have_written_is_refused_before_it_is_read(tmp_path: Path) -> None:
    good(tmp_path)
    for name, role in (("1.ptn", "a record"), ("1.mgn", "a machine plan"), ("PLANINFO.TXT", "a PlanInfo")):
        case = good(tmp_path, name)
        with (case / BEAM / name).open("wb") as stream:
            stream.truncate(10_000_000_000)
        os.utime(case / BEAM / name, (1.7e9, 1.7e9))
        reason = f"{role} in it has 10,000,000,000 bytes, more than 500 MB (intake.max_record_mb)"
        assert found(tmp_path)[name].reason == reason
        with pytest.raises(DeliveryError) as refused:
            arrival_of(case)
        assert refused.value.message == reason
    assert found(tmp_path)["good"].ready


def test_an_entry_on_which_our_code_breaks_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        good(tmp_path, name)
    real = discovery.machine_time

    def breaks(name: str, zone: object) -> object:
        if name == "b":
            raise ZeroDivisionError("Hong^Gildong")
        return real(name, zone)  # type: ignore[arg-type]

    monkeypatch.setattr(discovery, "machine_time", breaks)
    for folder in (tmp_path / "b").rglob("PlanInfo.txt"):
        folder.unlink()
    (tmp_path / "b" / BEAM).rmdir()
    arrivals = found(tmp_path)
    assert [(name, one.ready) for name, one in arrivals.items()] == [("a", True), ("b", False), ("c", True)]
    assert arrivals["b"].reason == "cannot be read: our code breaks on it (ZeroDivisionError)"


def test_a_folder_deep_enough_for_any_recursion_is_walked(tmp_path: Path) -> None:
    top = folder = SeenFolder(str(tmp_path))
    for depth in range(5000):
        folder.folders = [SeenFolder(f"{tmp_path}/{depth}", depth + 1, folder)]
        (folder,) = folder.folders
    assert sum(1 for _ in top.walk()) == 5001

"""The look at the source of courses, in a process of its own: what it finds, and what stops it, is told."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.lifecycle.health import folders
from mqi_dagster.resources.dicom_source import ScanProcess, look, read_record
from mqi_dagster.sensors import courses
from tests.chain.course_site import CourseSite
from tests.waiting import wait_for

ORTHANC = {"radiotherapy": {"orthanc": {"url": "http://127.0.0.1:9"}}}
"""Nobody listens there."""


def problems(site: CourseSite) -> list[tuple[str, str]]:
    found = [one for one in folders(site.site) if one.kind is AlarmKind.DICOM_AWAY]
    return [(one.subject, one.text) for one in found]


def test_an_orthanc_that_is_away_keeps_no_tree_waiting_and_is_an_alarm_after_a_while(tmp_path: Path) -> None:
    site = CourseSite(tmp_path, ORTHANC)
    site.write(1)
    assert len(site.tick()) == 1
    assert problems(site) == [], "it may be started anew just now"
    state = site.site.settings.paths.state
    content = json.loads((state / "dicom_scan.json").read_text())
    since = datetime.now(UTC) - timedelta(hours=1)
    content["orthanc"]["since"] = since.isoformat()
    (state / "dicom_scan.json").write_text(json.dumps(content))
    site.tick()
    ((subject, text),) = problems(site)
    assert subject == "orthanc"
    assert text.startswith("Orthanc: it cannot be reached: Connection refused. What it takes is copied once")
    record = read_record(state)
    assert record is not None and record.orthanc is not None
    assert record.orthanc.since == since, "of the first failure in a row"
    site.change({"radiotherapy": {"orthanc": None}})
    site.tick()
    assert problems(site) == []


def test_a_tick_does_not_wait_for_the_end_of_a_long_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = CourseSite(tmp_path)
    site.write(1)
    monkeypatch.setattr(courses, "SECONDS_PER_TICK", 0.0)
    first = site.evaluated("dicom_arrivals")
    assert (first.skip_message or "").startswith("the tree is being looked at: ")
    assert not first.run_requests
    monkeypatch.undo()
    assert len(site.tick()) == 1


def test_a_look_that_is_killed_is_told_and_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = CourseSite(tmp_path)
    site.write(1)

    class Killed(ScanProcess):
        def __init__(self, settings_file: Path) -> None:
            super().__init__(settings_file)
            os.kill(self._process.pid, signal.SIGKILL)

    monkeypatch.setattr(courses, "ScanProcess", Killed)
    assert site.tick() == []
    assert site.said == "the process that looks at it was killed (signal 9)"
    assert [subject for subject, _ in problems(site)] == ["dicom_root"]
    monkeypatch.undo()
    assert len(site.tick()) == 1
    assert problems(site) == []


def test_a_look_dies_with_the_process_that_wanted_it(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    child = os.fork()
    if child == 0:
        started = ScanProcess(site.settings_file)
        (tmp_path / "pid").write_text(str(started._process.pid))
        os._exit(0)
    os.waitpid(child, 0)
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the look has ended with who wanted it")


def test_our_own_folders_within_the_tree_are_not_looked_at(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1)
    site.change({"radiotherapy": {"dicom_root": str(tmp_path)}})
    record = look(site.site.settings)
    assert record.tree is None
    again = look(site.site.settings)
    assert (again.files, again.opened) == (record.files, 0)


@pytest.mark.slow
def test_an_index_that_is_damaged_is_an_alarm_that_says_what_to_do(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1)
    site.tick()
    index = site.site.settings.paths.state / "dicom_index.db"
    for left in index.parent.glob("dicom_index.db-*"):
        left.unlink()
    index.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    assert site.tick() == []
    ((subject, text),) = problems(site)
    assert subject == "dicom_root" and "remove it and scan again" in text
    index.unlink()
    assert site.tick() == [], "the same courses"
    assert problems(site) == []

"""Entries that scripts make, each beside a good case: refused in sight, and nothing else waits for them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mqi_dagster.delivery.discovery import CaseFolder, arrival_of, find_arrivals
from mqi_dagster.delivery.survey import survey_arrival
from mqi_dagster.delivery.validation import check_case
from mqi_dagster.errors import DeliveryError
from mqi_dagster.machine import Machines
from mqi_dagster.settings import Intake
from tests.delivery.bad_entries import on_tmpfs
from tests.delivery.delivery_cases import BEAM_2, HOUR, SEOUL, STUDY, qa_copy
from tests.faults.fault_scripts import made

SOON = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def inbox(shared: Path) -> Iterator[Path]:
    folder = on_tmpfs("fault-scripts")
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def found(shared: Path, inbox: Path, made_folder: Path) -> CaseFolder:
    """The entry as the inbox shows it, beside a case that is ready."""
    qa_copy(shared / "cases" / "qa_9spots_g2" / STUDY, inbox, BEAM_2)
    other, bad = find_arrivals(inbox, Intake(), SOON)
    if bad.folder != made_folder and made_folder not in bad.folder.parents:
        other, bad = bad, other
    assert other.ready
    return bad


def test_a_truncated_deflated_plan_fails_in_sight(shared: Path, inbox: Path, machines: Machines) -> None:
    bad = found(shared, inbox, made(shared, "truncated_deflated_plan", inbox))
    assert bad.ready
    survey = survey_arrival(bad, SEOUL, HOUR)
    assert survey.source is None
    check = check_case(survey, machines)
    assert not check.passed
    assert [(finding.kind, finding.code) for finding in check.findings if finding.kind] == [
        ("RT plan", "plan")
    ]


def test_folders_within_themselves_are_refused(shared: Path, inbox: Path) -> None:
    folder = made(shared, "folder_loop_1100_deep", inbox)
    bad = found(shared, inbox, folder)
    assert not bad.ready
    assert "nested more than 32 deep (intake.max_folder_depth)" in bad.reason
    with pytest.raises(DeliveryError, match=r"intake\.max_folder_depth"):
        arrival_of(folder)


def test_a_time_beyond_the_year_9999_waits_with_its_reason(
    shared: Path, inbox: Path, machines: Machines
) -> None:
    bad = found(shared, inbox, made(shared, "mtime_beyond_9999", inbox))
    assert not bad.ready
    assert bad.reason == "the time of a file lies beyond the year 9999: copy it again, or set its time"
    assert check_case(survey_arrival(arrival_of(bad.folder), SEOUL, HOUR), machines).passed
    copy = shutil.copytree(bad.folder, inbox.parent / f"{inbox.name}-copy", copy_function=shutil.copyfile)
    try:
        assert arrival_of(copy).ready
    finally:
        shutil.rmtree(copy)

"""Plans and images that were read in part, or not at all, without a word: each named or as delivered."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqi_dagster.delivery.validation import CaseCheck, check_case
from mqi_dagster.delivery.validation_findings import Severity
from mqi_dagster.machine import Machines
from tests.delivery.delivery_cases import surveyed
from tests.faults.fault_scripts import made


def check(shared: Path, tmp_path: Path, machines: Machines, script: str, *arguments: str) -> CaseCheck:
    return check_case(surveyed(made(shared, script, tmp_path, *arguments)), machines)


def errors(found: CaseCheck) -> list[str]:
    return [str(finding) for finding in found.findings if finding.severity is Severity.ERROR]


@pytest.mark.parametrize("kind", ["all", "truncated"])
def test_slices_that_cannot_be_read_refuse_the_case(
    shared: Path, tmp_path: Path, machines: Machines, kind: str
) -> None:
    found = check(shared, tmp_path, machines, "ct_slices_not_read", kind)
    (fault,) = errors(found)
    assert not found.passed
    assert "1 of 60" in fault and "59 more cannot be used either" in fault


@pytest.mark.parametrize("kind", ["no_preamble", "bare"])
def test_headless_slices_are_read(shared: Path, tmp_path: Path, machines: Machines, kind: str) -> None:
    found = check(shared, tmp_path, machines, "ct_slices_not_read", kind)
    assert found.passed
    assert found.ct_images == 60


def test_a_headless_plan_is_read(shared: Path, tmp_path: Path, machines: Machines) -> None:
    found = check(shared, tmp_path, machines, "plan_without_meta_header")
    assert found.passed
    assert [beam.number for beam in found.fractions[0].beams] == [2, 3, 4, 5]


def test_a_deflated_plan_that_is_cut_is_named(shared: Path, tmp_path: Path, machines: Machines) -> None:
    found = check(shared, tmp_path, machines, "truncated_deflated_plan")
    assert errors(found)[0].startswith("RT plan: the plan is not a DICOM file, or a damaged one")
    assert not found.passed


def test_a_plan_that_treats_feet_first_is_refused(shared: Path, tmp_path: Path, machines: Machines) -> None:
    found = check(shared, tmp_path, machines, "treated_feet_first", "FFS")
    assert not found.passed
    assert errors(found)[0].startswith("RT plan: beam 2 is treated in patient position FFS")


def test_the_same_plan_head_first_passes(shared: Path, tmp_path: Path, machines: Machines) -> None:
    assert check(shared, tmp_path, machines, "treated_feet_first", "HFS").passed


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("bolus", "has a bolus, which is not supported"),
        ("lateral_spreader", "has a lateral spreading device that is no magnet, which is not supported"),
        ("counts", "says 1 wedges, but describes 0"),
    ],
)
def test_a_device_that_no_engine_models_is_refused(
    shared: Path, tmp_path: Path, machines: Machines, kind: str, fault: str
) -> None:
    found = check(shared, tmp_path, machines, "devices_not_noticed", kind)
    assert not found.passed
    assert errors(found)[0] == f"beam 2, RT plan: {fault}"

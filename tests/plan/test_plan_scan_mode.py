"""Scan Mode (300A,0308): line scanning and spot scanning are told apart, and every other one is refused."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from mqi_dagster.errors import PlanError
from mqi_dagster.plan.model import ScanMode
from mqi_dagster.plan.reading import read_ion_plan

from .conftest import ion_beam, ion_plan

SPOTS = [(0.0, 0.0, 1.0), (5.0, 0.0, 1.0)]


def _plan(folder: Path, mode: str | None, kind: str | None = None) -> Path:
    beam = ion_beam(2, "2S", [(150.0, 2.0, SPOTS)])
    del beam.ScanMode
    if mode is not None:
        beam.ScanMode = mode
    if kind is not None:
        beam.ModulatedScanModeType = kind
    path = folder / "plan.dcm"
    ion_plan([beam], {2: 2.0}).save_as(path, implicit_vr=True, little_endian=True)
    return path


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [
        ("LINE", None, ScanMode.LINE),
        ("MODULATED", None, ScanMode.MODULATED),
        ("MODULATED_SPEC", "STATIONARY", ScanMode.MODULATED),
    ],
)
def test_the_plan_says_how_a_beam_is_scanned(
    mode: str, kind: str | None, expected: ScanMode, tmp_path: Path
) -> None:
    assert read_ion_plan(_plan(tmp_path, mode, kind)).beam(2).scan_mode is expected


@pytest.mark.parametrize(
    ("mode", "kind", "named"),
    [
        ("UNIFORM", None, "scan mode is UNIFORM,"),
        ("NONE", None, "scan mode is NONE,"),
        ("SPIRAL", None, "scan mode is SPIRAL,"),
        (None, None, r"scan mode is \(missing\),"),
        ("", None, r"scan mode is \(missing\),"),
        ("MODULATED_SPEC", "LEADING", "MODULATED_SPEC with type LEADING,"),
        ("MODULATED_SPEC", None, r"MODULATED_SPEC with type \(missing\),"),
    ],
)
def test_another_mode_is_refused_by_name(
    mode: str | None, kind: str | None, named: str, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=named) as caught:
        read_ion_plan(_plan(tmp_path, mode, kind))
    assert caught.value.where.beam == "2"


def test_real_plans_say_what_their_machines_do(shared: Path) -> None:
    (qa,) = (shared / "cases" / "qa_9spots_g2").glob("*/RP*.dcm")
    assert {beam.scan_mode for beam in read_ion_plan(qa).beams} == {ScanMode.LINE}
    vendors = sorted((shared / "cases" / "ion_plans").glob("*.dcm"))
    assert len(vendors) == 4
    for path in vendors:
        assert {beam.scan_mode for beam in read_ion_plan(path).beams} == {ScanMode.MODULATED}
        assert {str(beam.ScanMode) for beam in pydicom.dcmread(path).IonBeamSequence} == {"MODULATED"}

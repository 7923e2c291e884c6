"""dciodvfy, which knows PS3.3 and nothing of this program, finds no error in an RT Dose."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mqi_dagster.dose.grid import DoseGrid, DoseUnits, from_patient, plane_from_phantom
from mqi_dagster.dose.rt_dose import write_rt_dose
from mqi_dagster.settings import DoseType, SummationType
from tests.chain.chain import PLAN, Chain
from tests.dose.dose_cases import phantom_grid, request

pytestmark = pytest.mark.slow

RANDOM = np.random.default_rng(7)
GRIDS = {
    "phantom": phantom_grid(),
    "plane": plane_from_phantom(RANDOM.random((1, 7, 9)), (-4, -3, 0), (1, 1, 2), DoseUnits.GY),
    "CT": from_patient(RANDOM.random((3, 7, 9)), (-4.5, -3, 0), (2, 2, 2), DoseUnits.RELATIVE),
}


def complaints(path: Path) -> list[str]:
    """Its errors; it tells the name of the IOD where it has understood the file."""
    program = shutil.which("dciodvfy")
    assert program is not None, "install Debian's package dicom3tools (tests/system-packages)"
    done = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert "RTDose" in said, said
    return [line for line in said if line.startswith(("Error", "Abort"))]


@pytest.mark.parametrize("summation", SummationType)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_no_error_in_any_kind_of_dose(
    tmp_path: Path, plan_path: Path, grid: DoseGrid, summation: SummationType
) -> None:
    made = request(plan_path, bits=16, summation=summation, dose_type=DoseType.EFFECTIVE)
    write_rt_dose(tmp_path / "dose.dcm", grid, made)
    assert complaints(tmp_path / "dose.dcm") == []


def test_it_finds_what_is_wrong(tmp_path: Path, plan_path: Path) -> None:
    write_rt_dose(tmp_path / "dose.dcm", phantom_grid(), request(plan_path, bits=16))
    dataset = pydicom.dcmread(tmp_path / "dose.dcm")
    del dataset.DoseType
    del dataset.ReferencedRTPlanSequence
    dataset.save_as(tmp_path / "dose.dcm")
    found = complaints(tmp_path / "dose.dcm")
    assert any("DoseType" in line for line in found), found
    assert any("ReferencedRTPlanSequence" in line for line in found), found


def test_no_error_in_what_a_site_hands_over(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    chain.deliver(plan=PLAN)
    chain.tick_sensors(rounds=2)
    files = sorted(chain.handover.rglob("*.dcm"))
    assert len(files) == 4
    assert {path.name: complaints(path) for path in files} == {"rt_dose.dcm": [], "rt_dose_plane.dcm": []}


def test_no_error_in_doses_of_other_vendors_plans(tmp_path: Path, shared: Path) -> None:
    plans = [*(shared / "cases" / "ion_plans").glob("*.dcm")]
    assert len(plans) == 4
    for plan in plans:
        write_rt_dose(tmp_path / "dose.dcm", GRIDS["CT"], request(plan, beam_number=1, bits=16))
        assert complaints(tmp_path / "dose.dcm") == [], plan.name

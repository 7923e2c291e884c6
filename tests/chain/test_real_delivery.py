"""The QA delivery of four single-energy beams, from records to RT Doses, with MCsquare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from mqi_dagster.delivery.summary import read_summary
from mqi_dagster.embedded_engine.install import Installation
from tests.chain.chain import Chain

RANGES_MM = {110.0: 91.38, 150.0: 157.71, 190.0: 237.65, 230.0: 329.46}
"""PSTAR CSDA ranges of protons in liquid water by energy [MeV], NIST."""


def own_r80(path: Path) -> float:
    """R80 of the integral depth dose, in ten lines of the test's own; the surface is at DICOM y = -20 mm."""
    dose = pydicom.dcmread(path)
    curve = dose.pixel_array.astype(float).sum(axis=(0, 2))
    depth = float(dose.ImagePositionPatient[1]) + 20.0 + float(dose.PixelSpacing[0]) * np.arange(curve.size)
    peak = int(curve.argmax())
    level = 0.8 * curve[peak]
    after = peak + int(np.argmax(curve[peak:] < level))
    share = (curve[after - 1] - level) / (curve[after - 1] - curve[after])
    return float(depth[after - 1] + share * (depth[after] - depth[after - 1]))


def whole_case(
    folder: Path, case_folder: Path, settings: dict[str, Any], secret: str, order: list[int]
) -> Chain:
    chain = Chain(folder, settings, given=case_folder, secret=secret)
    case, outcome = chain.run_intake()
    assert outcome.success, outcome.error
    for run in chain.run_beams(case, order):
        assert run.success, run.error
    assert chain.conclude(case).success
    return chain


def check_case(chain: Chain, numbers: list[int]) -> None:
    (case,) = chain.cases()
    summary = chain.summary(case)
    assert [beam["beam"] for beam in summary["beams"]] == numbers
    assert sum(beam["layers"] for beam in summary["beams"]) == 36
    for beam in summary["beams"]:
        assert beam["mu_ratio"] == pytest.approx(0.990, abs=0.001)
    energies = []
    for number in numbers:
        key = f"{case}__b{number:02d}"
        (folder,) = (
            p for p in chain.data.glob(f"cases/{case}/b{number:02d}/interpreted_csvs/*") if not p.is_symlink()
        )
        interpreted = read_summary(folder)
        for layer in interpreted.layers:
            assert layer.position_difference_mm is not None
            assert np.hypot(*layer.position_difference_mm) < 0.3
        (energy,) = {round(layer.energy_mev) for layer in interpreted.layers}
        energies.append(float(energy))
        (dose,) = chain.handover.glob(f"*/{key}/rt_dose.dcm")
        assert own_r80(dose) == pytest.approx(RANGES_MM[float(energy)], abs=1.0)
        assert chain.metadata("rt_dose", key)["R80 [mm]"] == pytest.approx(RANGES_MM[float(energy)], abs=1.0)
    assert sorted(energies) == [110.0, 150.0, 190.0, 230.0]


def rt_doses(chain: Chain, number: int) -> list[bytes]:
    """Every DICOM object of a beam."""
    found = [path.read_bytes() for path in sorted(chain.handover.glob(f"*/*__b{number:02d}/*.dcm"))]
    assert found
    return found


def run_once_more(first: Chain, settings: dict[str, Any], case_folder: Path, folder: Path) -> None:
    """A third time into a folder that has the results: no engine starts."""
    again = whole_case(folder, case_folder, settings, "11" * 32, [2, 3, 4, 5])
    assert again.engine_starts() == first.engine_starts() == 4


REDUCED = {
    "histories": 20000,
    "phantom": {"dimension": [50, 50, 180], "unit_mm": [4, 4, 2], "position_mm": [-100, -100, -339]},
    "uncertainty_maximum_percent": 90.0,
}


@pytest.mark.parametrize(
    ("qa", "order"),
    [
        pytest.param("generated", [5], marks=[pytest.mark.slow, pytest.mark.gate]),
        pytest.param("real", [5, 3, 4, 2], marks=pytest.mark.slow),
    ],
    indirect=["qa"],
)
def test_the_delivery_with_few_histories(
    mcsquare: Installation, qa: Path, order: list[int], tmp_path: Path
) -> None:
    settings, case_folder = {"engine": REDUCED}, qa.parent
    first = whole_case(tmp_path / "one", case_folder, settings, "11" * 32, [2, 3, 4, 5])
    check_case(first, [2, 3, 4, 5])
    second = Chain(tmp_path / "two", settings, given=case_folder, secret="22" * 32)
    case, outcome = second.run_intake()
    assert outcome.success, outcome.error
    assert case not in first.cases()
    for run in second.run_beams(case, order):
        assert run.success, run.error
    assert second.engine_starts() == len(order)
    for number in order:
        assert rt_doses(first, number) == rt_doses(second, number)
    run_once_more(first, settings, case_folder, tmp_path / "one")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_real_delivery_as_configured_by_default(
    mcsquare: Installation, shared: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"engine": {}}
    case_folder = shared / "cases" / "qa_9spots_g2"
    first = whole_case(tmp_path / "one", case_folder, settings, "11" * 32, [2, 3, 4, 5])
    check_case(first, [2, 3, 4, 5])
    # One beam is enough here: with few histories all of them are simulated twice, in another order.
    second = Chain(tmp_path / "two", settings, given=case_folder, secret="22" * 32)
    case, outcome = second.run_intake()
    assert outcome.success, outcome.error
    (run,) = second.run_beams(case, [5])
    assert run.success, run.error
    (dose,) = second.handover.glob(f"{case}/{case}__b05/rt_dose.dcm")
    (before,) = first.handover.glob("*/*__b05/rt_dose.dcm")
    assert case not in first.cases()
    assert dose.read_bytes() == before.read_bytes()
    run_once_more(first, settings, case_folder, tmp_path / "one")

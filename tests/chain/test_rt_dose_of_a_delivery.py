"""The RT Dose of a delivery: a session of a beam, at the machine's time, with its range in any phantom."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mqi_dagster.synthetic.request import Layout
from tests.chain.chain import ONE_BEAM, PHANTOM, Chain, quick_engine


def own_r80(dose: pydicom.FileDataset, surface_y_mm: float) -> float:
    """R80 of the integral depth dose, in a few lines of the test's own."""
    curve = dose.pixel_array.astype(float).sum(axis=(0, 2))
    depth = float(dose.ImagePositionPatient[1]) - surface_y_mm
    steps = depth + float(dose.PixelSpacing[0]) * np.arange(curve.size)
    last = int(np.flatnonzero(curve >= 0.8 * curve.max())[-1])
    share = (curve[last] - 0.8 * curve.max()) / (curve[last] - curve[last + 1])
    return float(steps[last] + share * (steps[last + 1] - steps[last]))


def the_dose(chain: Chain, case: str) -> pydicom.FileDataset:
    (path,) = chain.handover.glob(f"{case}/*/rt_dose.dcm")
    return pydicom.dcmread(path)


def test_two_fractions_are_two_sessions_at_their_own_times(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", {"site": {"timezone": "America/New_York"}})
    for day in (5, 6):
        chain.deliver(plan=ONE_BEAM, layout=Layout.MACHINE, start=datetime(2026, 1, day, 9, 7, 5))
        chain.tick_sensors(rounds=2)
    found = []
    for case in chain.runs_of("intake"):
        dose = the_dose(chain, case)
        assert (dose.DoseSummationType, dose.BitsAllocated) == ("BEAM_SESSION", 16)
        found.append(
            (dose.TreatmentDate, dose.TreatmentTime[:6], dose.SeriesDate, dose.CurrentFractionNumber)
        )
    assert found == [("20260105", "090705", "20260105", 1), ("20260106", "090705", "20260106", 2)]


@pytest.mark.usefixtures("as_in_production")
def test_the_range_is_told_also_without_the_plane_of_two_centimetres(tmp_path: Path) -> None:
    engine = quick_engine() | {"phantom": PHANTOM | {"two_centimeter_mode": False}}
    chain = Chain(tmp_path / "site", {"engine": engine})
    chain.deliver(plan=ONE_BEAM)
    chain.tick_sensors(rounds=2)
    (key,) = chain.runs_of("beam")
    assert not list(chain.handover.rglob("rt_dose_plane.dcm"))
    # The box ends 35 mm above the isocentre and is water up to there: DICOM y = -35 mm.
    expected = own_r80(the_dose(chain, key.partition("__")[0]), -35.0)
    assert 90.0 < expected < 130.0
    metadata = chain.metadata("rt_dose", key)
    assert metadata["R80 [mm]"] == pytest.approx(expected, abs=0.051)
    assert {"depth dose", "lateral profiles"} <= metadata.keys()

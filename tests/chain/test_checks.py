"""A failing check stops the way of a beam at that place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from mqi_dagster.assets.proton import rt_dose
from mqi_dagster.errors import DoseError
from tests.chain.chain import Chain, deliver


def test_limits_that_the_delivery_misses_fail_the_intake_and_start_no_beam(tmp_path: Path) -> None:
    # The simulated deliveries have 0.988 of the planned monitor units.
    chain = Chain(tmp_path / "site", {"interpretation": {"mu_ratio_minimum": 0.995}})
    chain.deliver()
    chain.tick_sensors(rounds=2)

    ((job, _, outcome),) = chain.runs
    assert job == "intake"
    assert not outcome.success
    assert "logged/planned MU outside the limits: beam 2: 0.988" in outcome.error
    assert chain.instance.get_dynamic_partitions("beam") == []
    assert chain.handed_over_files() == []


def test_a_file_that_changes_after_the_manifest_fails_its_check_and_stops_the_beam(tmp_path: Path) -> None:
    case = deliver(tmp_path / "in")
    chain = Chain(tmp_path / "site", given=case.folder)
    key, outcome = chain.run_intake()
    assert outcome.checks == {"case_manifest.integrity": True}
    record = sorted(case.deliveries[0].folder.glob("*.ptn"))[0]
    content = np.frombuffer(record.read_bytes(), ">u2").copy()
    content[4::8] += 1
    record.write_bytes(content.tobytes())

    (beam,) = chain.run_beams(key, [2])

    assert not beam.success
    assert beam.code == "input"
    assert f"beam {key}__b02, record" in beam.error
    assert "the file changed after the case was taken in" in beam.error
    assert chain.assets_in_store() == ["_case/case_manifest"]
    assert chain.leftovers() == []

    again = chain.run("intake", key)
    assert again.success
    assert chain.run_beams(key, [2])[0].success


def test_a_manifest_made_without_its_check_starts_no_beam(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    chain.deliver()
    (case,) = [request.partition_key for request in chain.tick("case_arrivals", launch=False)]
    assert case is not None
    outcome = chain.run_asset("case_manifest", case)
    assert outcome.success
    assert outcome.checks == {}
    assert chain.tick("beams_to_simulate") == []
    assert chain.instance.get_dynamic_partitions("beam") == []


def test_a_failing_rt_dose_check_hands_nothing_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(tmp_path / "site", given=deliver(tmp_path / "in").folder)
    case, _ = chain.run_intake()
    calls = []
    real = rt_dose.verify

    def fails_at_the_check(*arguments: object) -> object:
        # The asset verifies before publishing; the second look is the check's.
        calls.append(1)
        if len(calls) == 2:
            raise DoseError("PixelData: differs by more than half of DoseGridScaling")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rt_dose, "verify", fails_at_the_check)
    (beam,) = chain.run_beams(case, [2])

    assert not beam.success
    assert beam.checks["rt_dose.readback"] is False
    assert chain.handed_over_files() == []
    assert "b02/handed_over" not in chain.assets_in_store()

    monkeypatch.undo()
    alone = chain.run_asset("handed_over", f"{case}__b02")
    assert not alone.success
    assert "the latest rt_dose has not passed the check readback" in alone.error
    assert chain.handed_over_files() == []


def test_a_tampered_rt_dose_is_made_again_and_never_handed_over(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", given=deliver(tmp_path / "in").folder)
    case, _ = chain.run_intake()
    assert chain.run_beams(case, [2])[0].success
    (good,) = (path for path in chain.handover.rglob("rt_dose.dcm"))
    expected = good.read_bytes()
    (stored,) = (p for p in chain.data.glob("cases/*/b02/rt_dose/*/rt_dose.dcm") if not p.parent.is_symlink())
    dataset = pydicom.dcmread(stored)
    dataset.DoseGridScaling = 2 * float(dataset.DoseGridScaling)
    stored.chmod(0o600)
    dataset.save_as(stored)

    alone = chain.run_asset("handed_over", f"{case}__b02")
    assert not alone.success
    assert alone.code == "store"

    assert chain.run_beams(case, [2])[0].success
    assert stored.read_bytes() == expected
    assert good.read_bytes() == expected
    assert chain.engine_starts() == 1


def test_an_uncertainty_above_the_limit_stops_the_beam(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", given=deliver(tmp_path / "in").folder)
    # The test engine reports 1.50 %.
    chain.change({"engine": {"uncertainty_maximum_percent": 1.4}})
    case, _ = chain.run_intake()
    (beam,) = chain.run_beams(case, [2])
    assert not beam.success
    assert beam.checks["raw_dose.uncertainty"] is False
    assert beam.checks["raw_dose.engine_output"] is True
    assert chain.handed_over_files() == []

"""A site's own command in place of either conversion goes through the same checks as ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from mqi_dagster.synthetic.delivery import SimulatedCase
from mqi_dagster.synthetic.request import BuiltInPlan
from tests.chain.chain import ENGINES, Chain, deliver

PLAN = BuiltInPlan(beams=1, layers=2, spots=9, layer_seconds=0.05, energies_mev=(140.0,))


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> SimulatedCase:
    """One beam of two layers, the second in range code 3."""
    return deliver(tmp_path_factory.mktemp("in") / "in", "range-code:beam=2,layer=2,code=3", plan=PLAN)


def interpreter(mode: str, timeout: float = 60.0) -> dict[str, Any]:
    argv = [
        sys.executable,
        str(ENGINES / "site_interpreter.py"),
        mode,
        *("{input}", "{plan}", "{beam_number}", "{output}"),
    ]
    return {"interpretation": {"command": {"argv": argv, "timeout_seconds": timeout}}}


def converter(mode: str, timeout: float = 60.0) -> dict[str, Any]:
    argv = [
        sys.executable,
        str(ENGINES / "site_converter.py"),
        mode,
        *("{raw_dose}", "{plan}", "{beam_number}", "{output}"),
    ]
    return {"rt_dose": {"command": {"argv": argv, "timeout_seconds": timeout}}}


def one_beam(tmp_path: Path, delivered: SimulatedCase, settings: dict[str, Any]) -> tuple[Chain, str, Any]:
    chain = Chain(tmp_path / "site", settings, given=delivered.folder)
    case, outcome = chain.run_intake()
    assert outcome.success, outcome.error
    (beam,) = chain.run_beams(case, [2])
    return chain, f"{case}__b02", beam


def test_the_csvs_of_a_sites_own_interpreter_are_taken(tmp_path: Path, delivered: SimulatedCase) -> None:
    own, key, beam = one_beam(tmp_path / "own", delivered, interpreter("good"))
    assert beam.success, beam.error
    assert beam.checks["interpreted_csvs.counts"] is True
    built_in, _, reference = one_beam(tmp_path / "built-in", delivered, {})
    assert reference.success
    found, expected = own.metadata("interpreted_csvs", key), built_in.metadata("interpreted_csvs", key)
    assert found["digest"] != expected["digest"]
    assert found["samples"] == expected["samples"] > 100
    assert found["MU ratio"] == pytest.approx(0.988, abs=1e-3)
    assert own.metadata("raw_dose", key)["protons"] == pytest.approx(
        built_in.metadata("raw_dose", key)["protons"], rel=1e-5
    )


def test_the_rt_dose_of_a_sites_own_converter_is_taken(tmp_path: Path, delivered: SimulatedCase) -> None:
    own, _, beam = one_beam(tmp_path / "own", delivered, converter("good"))
    assert beam.success, beam.error
    assert beam.checks["rt_dose.readback"] is True
    built_in, _, _ = one_beam(tmp_path / "built-in", delivered, {"rt_dose": {"bits": 32}})
    (mine,) = own.handover.rglob("rt_dose.dcm")
    (theirs,) = built_in.handover.rglob("rt_dose.dcm")
    found, expected = pydicom.dcmread(mine), pydicom.dcmread(theirs)
    assert found.SOPInstanceUID != expected.SOPInstanceUID
    np.testing.assert_allclose(
        found.pixel_array * float(found.DoseGridScaling),
        expected.pixel_array * float(expected.DoseGridScaling),
        rtol=1e-6,
        atol=1e-12,
    )


INTERPRETER_FAULTS = {
    "hang": ("command", "ran longer than 1 s (its timeout_seconds)"),
    "nothing": ("command", "has ended well but left nothing where it should"),
    "elsewhere": ("command", "left nothing where it should"),
    "exit-3": ("command", "failed with exit code 3: the converter has no licence"),
    "half-the-counts": ("delivery", "within 0.1 %"),
}
CONVERTER_FAULTS = {
    "hang": ("command", "ran longer than 1 s (its timeout_seconds)"),
    "nothing": ("command", "has ended well but left nothing where it should"),
    "elsewhere": ("command", "left nothing where it should"),
    "too-much": ("dose", "PixelData"),
    "other-beam": ("dose", "ReferencedBeamNumber"),
}


@pytest.mark.parametrize("mode", INTERPRETER_FAULTS)
def test_a_faulty_interpreter_is_a_typed_failure(mode: str, tmp_path: Path, delivered: SimulatedCase) -> None:
    code, cause = INTERPRETER_FAULTS[mode]
    chain, key, beam = one_beam(tmp_path, delivered, interpreter(mode, 1.0 if mode == "hang" else 60.0))
    assert not beam.success
    assert beam.code == code
    assert f"beam {key}" in beam.error
    assert cause in beam.error
    assert str(tmp_path) not in beam.error
    assert chain.assets_in_store() == ["_case/case_manifest"]
    assert chain.leftovers() == []
    assert chain.engine_starts() == 0


@pytest.mark.parametrize("mode", CONVERTER_FAULTS)
def test_a_faulty_converter_is_a_typed_failure(mode: str, tmp_path: Path, delivered: SimulatedCase) -> None:
    code, cause = CONVERTER_FAULTS[mode]
    chain, key, beam = one_beam(tmp_path, delivered, converter(mode, 1.0 if mode == "hang" else 60.0))
    assert not beam.success
    assert beam.code == code
    assert f"beam {key}" in beam.error
    assert cause in beam.error
    assert str(tmp_path) not in beam.error
    assert "b02/rt_dose" not in chain.assets_in_store()
    assert chain.handed_over_files() == []
    # What a command puts beside its folder is its own affair; nothing of ours stays.
    assert chain.leftovers() == (["elsewhere"] if mode == "elsewhere" else [])

"""Beams in the water phantom, with the real MCsquare."""

from __future__ import annotations

import re
from math import erf, sqrt
from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.embedded_engine.command import run
from mqi_dagster.embedded_engine.install import Installation
from mqi_dagster.errors import EngineError
from mqi_dagster.machine import BeamModel, Machine
from mqi_dagster.plan.reading import read_ion_plan
from mqi_dagster.synthetic.plans import built_in_plan
from tests.embedded_engine.embedded_depth import r80, read_raw
from tests.embedded_engine.embedded_job import Beam, write_job

PSTAR_CSDA_MM = {70.0: 40.80, 110.0: 91.38, 150.0: 157.71, 190.0: 237.65, 230.0: 329.46}


def water_r80(folder: Path) -> float:
    """R80 from the water surface, at z = 20 mm in the engine's frame, along -z."""
    values, edge, spacing = read_raw(folder / "Dose" / "1G000_1_Dose.mhd")
    depth = 20.0 - (edge[2] + spacing[2] * (np.arange(values.shape[0]) + 0.5))
    return r80(depth[::-1], values.sum(axis=(1, 2))[::-1])


@pytest.mark.parametrize("energy", PSTAR_CSDA_MM)
def test_the_range_in_water_is_that_of_pstar(
    energy: float, mcsquare: Installation, generic: Machine, tmp_path: Path
) -> None:
    run(write_job(tmp_path, Beam({energy: [(0.0, 0.0, 1000)]}), generic, histories=10000))
    assert water_r80(tmp_path) == pytest.approx(PSTAR_CSDA_MM[energy], abs=1.0)


def test_the_built_in_plan_stops_at_the_range_of_its_highest_energy(
    mcsquare: Installation, generic: Machine, tmp_path: Path
) -> None:
    built_in_plan(generic).save_as(tmp_path / "plan.dcm", enforce_file_format=True)
    beams = read_ion_plan(tmp_path / "plan.dcm").beams
    for beam, energy in zip(beams, (110.0, 150.0, 190.0), strict=True):
        # All spots on the axis: the depth dose is the same, and the test's small phantom holds it.
        layers = {layer.energy_mev: [(0.0, 0.0, round(1e5 * layer.meterset_mu))] for layer in beam.layers}
        folder = tmp_path / str(beam.number)
        run(write_job(folder, Beam(layers), generic, histories=10000))
        assert water_r80(folder) == pytest.approx(PSTAR_CSDA_MM[energy], abs=1.5)


def test_a_range_shifter_shortens_the_range_by_its_thickness(
    mcsquare: Installation, generic: Machine, tmp_path: Path
) -> None:
    beam = Beam({150.0: [(0.0, 0.0, 1000)]}, shifter="RS_3CM", snout=300.0)
    run(write_job(tmp_path, beam, generic, histories=10000))
    assert water_r80(tmp_path) == pytest.approx(157.71 - 34.3, abs=1.0)


def test_spots_land_where_the_plan_says_and_the_dose_is_absolute(
    mcsquare: Installation, generic: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Three spots that no turn or mirror image of the pattern covers; counts 1 : 2 : 4.
    spots = [(30.0, 10.0, 1000), (-25.0, -15.0, 2000), (20.0, -35.0, 4000)]
    run(write_job(tmp_path, Beam({110.0: spots}), generic, histories=30000))
    plane, edge, spacing = read_raw(tmp_path / "Dose" / "1G000_2_Dose.mhd")
    assert plane.shape == (1, 60, 60)
    assert edge[2] == -1.0
    y, x = (edge[a] + spacing[a] * (np.arange(60) + 0.5) for a in (1, 0))
    sums = []
    for spot_x, spot_y, _ in spots:
        near = plane[0] * (np.hypot(x[None, :] - spot_x, y[:, None] - spot_y) < 17)
        assert (near * x[None, :]).sum() / near.sum() == pytest.approx(spot_x, abs=0.3)
        assert (near * y[:, None]).sum() / near.sum() == pytest.approx(spot_y, abs=0.3)
        sums.append(near.sum())
    assert sums[1] / sums[0] == pytest.approx(2.0, rel=0.06)
    assert sums[2] / sums[0] == pytest.approx(4.0, rel=0.06)

    box, edge, _ = read_raw(tmp_path / "Dose" / "1G000_1_Dose.mhd")
    assert edge.tolist() == [-60.0, -60.0, -379.0]
    np.testing.assert_array_equal(box[189], plane[0])
    # 7000 counts of 1e-5 MU with 2.7e6 + 0.2 * 0.8e6 protons each at 110 MeV; 2 mm voxels of water.
    protons = 7000 * 1e-5 * 2.86e6
    kilograms = np.full(200, 8e-6)
    kilograms[199] = 4e-6  # half of the voxel from 19 to 21 mm lies under water
    joules = (box.sum(axis=(1, 2)) * kilograms).sum()
    # What is missing left with neutrons and gammas, or as energy lost in the air before.
    assert joules / (protons * 110e6 * 1.602176634e-19) == pytest.approx(0.96, abs=0.03)

    said = capsys.readouterr().out
    assert "Uploading particles with batch.. : Particle count --> 30000 with 20 batches" in said
    batches = re.findall(r"Generating particles for \((\d+) of 20 batches\) in CPU \.\.", said)
    assert [int(b) for b in batches] == list(range(1, 21))
    assert "Total beamlets (Spots) : 3\nTotal histories (Particles) : 30000\n" in said
    uncertainty = re.search(r"Uncertainty \(mean above half maximum\) : (\d+\.\d+) %", said)
    assert uncertainty is not None and 3 < float(uncertainty[1]) < 30


def test_the_same_job_gives_the_same_bits_on_any_number_of_threads(
    mcsquare: Installation, generic: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doses = []
    for name, threads, seed in (("one", "1", -7), ("two", "2", -7), ("again", "2", -7), ("other", "2", 8)):
        beam = Beam({70.0: [(0.0, 5.0, 10)]}, tps={"EmbeddedShards": 3, "RandomSeed": seed})
        tps = write_job(tmp_path / name, beam, generic, histories=1600)
        monkeypatch.setenv("MQI_ENGINE_THREADS", threads)
        run(tps)
        doses.append((tmp_path / name / "Dose" / "1G000_1_Dose.raw").read_bytes())
    assert doses[0] == doses[1] == doses[2]
    assert doses[3] != doses[0]


def test_relative_protons_per_mu_change_the_scale_only(
    mcsquare: Installation, generic: Machine, tmp_path: Path
) -> None:
    tables = generic.beam_model.protons_per_mu
    faint = tables.model_copy(update={"value": tuple(v * 1e-12 for v in tables.value)})
    model = generic.beam_model.model_copy(update={"protons_per_mu": faint})
    relative = generic.model_copy(update={"beam_model": model})
    doses = []
    for name, machine in (("환자 1", generic), ("relative", relative)):
        beam = Beam({70.0: [(0.0, 0.0, 7), (8.0, 0.0, 9)]}, name="1G180:TX")
        run(write_job(tmp_path / name, beam, machine, histories=1600))
        doses.append(read_raw(tmp_path / name / "Dose" / "1G180:TX_1_Dose.mhd")[0])
    np.testing.assert_allclose(doses[1], doses[0] * 1e-12, rtol=1e-6)


def test_the_spot_in_the_dose_has_the_sizes_and_the_halo_of_the_machine_file(
    mcsquare: Installation, generic: Machine, tmp_path: Path
) -> None:
    def table(value: float) -> dict[str, list[float]]:
        return {"energy_mev": [60.0, 250.0], "value": [value, value]}

    content = generic.beam_model.model_dump(mode="json") | {
        "spot_sigma_mm": table(3.0),
        "spot_sigma_y_mm": table(5.0),
        "angular_spread_rad": table(0.003),
        "correlation_y": table(0.5),
        "second_gaussian": {
            "weight": table(0.25),
            "spot_sigma_mm": table(14.0),
            "angular_spread_rad": table(0.004),
        },
    }
    machine = generic.model_copy(update={"beam_model": BeamModel.model_validate(content)})
    box = {"PhantomDimX": 100, "PhantomDimY": 100, "PhantomDimZ": 5, "PhantomUnitX": 1, "PhantomUnitY": 1}
    box |= {"PhantomPositionX": -50, "PhantomPositionY": -50, "PhantomPositionZ": -10}
    beam = Beam({150.0: [(0.0, 0.0, 1000)]}, tps={**box, "TwoCentimeterMode": "false"})
    run(write_job(tmp_path, beam, machine, histories=20000))
    values, edge, spacing = read_raw(tmp_path / "Dose" / "1G000_1_Dose.mhd")
    assert spacing.tolist() == [1.0, 1.0, 2.0]
    assert edge[2] + 2.0 * values.shape[0] == 0.0  # the box begins at the isocentre
    at = edge[0] + np.arange(100) + 0.5
    surface = values[-1]
    for axis, sigma in ((1, 3.0), (0, 5.0)):
        profile = surface.sum(axis=1 - axis)
        for half in (3.0, 6.0):
            within = profile[np.abs(at) < half].sum() / profile.sum()
            expected = 0.75 * erf(half / sigma / sqrt(2.0)) + 0.25 * erf(half / 14.0 / sqrt(2.0))
            assert within == pytest.approx(expected, abs=0.02)


def test_a_field_beside_the_phantom_fails(mcsquare: Installation, generic: Machine, tmp_path: Path) -> None:
    tps = write_job(tmp_path, Beam({70.0: [(90.0, 0.0, 10)]}), generic, histories=1600)
    with pytest.raises(EngineError, match=r"\d+\.\d % of the protons were generated outside the geometry"):
        run(tps)
    assert not (tmp_path / "Dose").exists()
    assert not list(tmp_path.glob(".mcsquare*"))


def test_an_uncorrelated_beam_would_start_outside_the_geometry(
    mcsquare: Installation, generic: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqi_dagster.embedded_engine.bdl.CORRELATION", 0.0)
    tps = write_job(tmp_path, Beam({70.0: [(0.0, 0.0, 10)]}), generic, histories=1600)
    with pytest.raises(EngineError, match="generated outside the geometry"):
        run(tps)


def test_a_box_without_two_centimetres_is_water_up_to_its_edge(
    mcsquare: Installation, generic: Machine, tmp_path: Path
) -> None:
    beam = Beam({70.0: [(0.0, 0.0, 10)]}, tps={"TwoCentimeterMode": "false", "PhantomDimZ": 60})
    run(write_job(tmp_path, beam, generic, histories=50000))
    values, edge, spacing = read_raw(tmp_path / "Dose" / "1G000_1_Dose.mhd")
    depth = -259.0 - (edge[2] + spacing[2] * (np.arange(60) + 0.5))
    assert r80(depth[::-1], values.sum(axis=(1, 2))[::-1]) == pytest.approx(40.80, abs=1.0)
    assert not (tmp_path / "Dose" / "1G000_2_Dose.raw").exists()

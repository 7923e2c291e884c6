"""Plans of other vendors and a real QA plan: every expectation is a number written down here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from mqi_dagster.errors import PlanError
from mqi_dagster.plan.model import PlanBeam, PlanRangeShifter
from mqi_dagster.plan.reading import read_ion_plan
from tests.vendor_plans import EVERY, TWINS, Vendor

QA_STUDY = "1.2.826.0.1.3680043.8.498.11718508086177127965967566896639452400"


def check_layer(
    beam: PlanBeam,
    number: int,
    *,
    energy: float,
    mu: float,
    spots: int,
    first: tuple[float, float, float],
    last: tuple[float, float, float],
) -> None:
    """Compares a layer with literal values; ``first`` and ``last`` are x, y, MU of a spot."""
    layer = beam.layer(number)
    assert layer.energy_mev == energy
    assert layer.meterset_mu == pytest.approx(mu, abs=1e-6)
    assert layer.positions_mm.shape == (spots, 2)
    assert layer.spot_mu.shape == (spots,)
    assert layer.spot_mu.sum() == pytest.approx(mu, abs=1e-6)
    for index, (x, y, spot_mu) in ((0, first), (-1, last)):
        assert tuple(layer.positions_mm[index]) == pytest.approx((x, y), abs=1e-6)
        assert layer.spot_mu[index] == pytest.approx(spot_mu, abs=1e-6)


def test_eclipse_single_energy_scales_weights_to_the_beam_meterset(shared: Path) -> None:
    plan = read_ion_plan(shared / "cases/ion_plans/eclipse_mono_323_spots.dcm")
    assert plan.sop_instance_uid == "1.2.246.352.71.5.37402163639.178320.20221207095327"
    assert plan.patient_id == "test_LETworkshop"
    assert plan.fraction_group_number == 1
    (beam,) = plan.beams
    assert (beam.number, beam.name, beam.machine_name) == (1, "Field 1", "TR2")
    assert beam.isocenter_mm == (0.0, -80.0, 0.0)
    assert (beam.gantry_angle_deg, beam.couch_angle_deg) == (0.0, 0.0)
    assert beam.snout_position_mm == pytest.approx(127.823380, abs=1e-6)
    assert beam.meterset_mu == pytest.approx(58414.5492229546, abs=1e-9)
    assert len(beam.layers) == 1
    check_layer(
        beam,
        1,
        energy=160.0,
        mu=58414.5492229546,
        spots=323,
        first=(46.9813613892, -48.3658103943, 180.849998),
        last=(-46.9813613892, 48.3658103943, 180.849998),
    )


def test_eclipse_spread_out_peak(shared: Path) -> None:
    plan = read_ion_plan(shared / "cases/ion_plans/eclipse_sobp_3468_spots.dcm")
    (beam,) = plan.beams
    assert beam.machine_name == "TR2"
    assert len(beam.layers) == 12
    assert sum(len(layer.spot_mu) for layer in beam.layers) == 3468
    assert beam.meterset_mu == pytest.approx(17571.2003322833, abs=1e-9)
    assert sum(layer.meterset_mu for layer in beam.layers) == pytest.approx(17571.2003322833, abs=1e-6)
    check_layer(
        beam,
        1,
        energy=149.419,
        mu=6745.260128524,
        spots=289,
        first=(47.6078834534, -44.4496307373, 23.340000),
        last=(-47.6078834534, 44.4496307373, 23.340000),
    )
    check_layer(
        beam,
        12,
        energy=113.119,
        mu=459.510002672,
        spots=289,
        first=(47.6078834534, -44.4496307373, 1.590000),
        last=(-47.6078834534, 44.4496307373, 1.590000),
    )


def test_raystation_ramp_has_two_opposed_beams(shared: Path) -> None:
    plan = read_ion_plan(shared / "cases/ion_plans/raystation_ramp_2_beams.dcm")
    assert [(beam.number, beam.name, beam.gantry_angle_deg) for beam in plan.beams] == [
        (1, "b1", 90.0),
        (2, "b2", 270.0),
    ]
    for beam in plan.beams:
        assert beam.machine_name == "TR3"
        assert beam.meterset_mu == 40545.5
        assert beam.snout_position_mm == 421.0
        assert beam.range_shifters == ()
        assert len(beam.layers) == 17
        assert sum(len(layer.spot_mu) for layer in beam.layers) == 7708
        check_layer(
            beam,
            1,
            energy=134.4,
            mu=1441.085,
            spots=490,
            first=(-52.2589988708, 55.3810005188, 3.022977),
            last=(-49.5069999695, -54.2639999390, 3.323525),
        )
        check_layer(
            beam,
            17,
            energy=84.9,
            mu=990.01,
            spots=277,
            first=(-23.5799999237, 55.2970008850, 2.153441),
            last=(56.1819992065, -53.2519989014, 2.226496),
        )


def test_raystation_spread_out_peak_behind_a_range_shifter(shared: Path) -> None:
    plan = read_ion_plan(shared / "cases/ion_plans/raystation_sobp5_7912_spots.dcm")
    (beam,) = plan.beams
    assert (beam.name, beam.machine_name) == ("sobp5", "TR3")
    assert beam.isocenter_mm == (0.1297463, -17.07186, 0.0)
    assert beam.meterset_mu == pytest.approx(63606.62, abs=1e-9)
    (shifter,) = beam.range_shifters
    assert isinstance(shifter, PlanRangeShifter)
    assert (shifter.number, shifter.shifter_id) == (0, "RS_3CM")
    assert shifter.isocenter_distance_mm == pytest.approx(173.8, abs=1e-4)
    assert shifter.water_equivalent_thickness_mm == pytest.approx(34.3, abs=1e-4)
    assert len(beam.layers) == 27
    assert sum(len(layer.spot_mu) for layer in beam.layers) == 7912
    check_layer(
        beam,
        1,
        energy=171.8,
        mu=6036.347,
        spots=178,
        first=(-49.4269981384, 54.4690017700, 43.141243),
        last=(50.8610000610, -54.9000015259, 49.079575),
    )
    check_layer(
        beam,
        27,
        energy=82.7,
        mu=567.72,
        spots=170,
        first=(-54.9090003967, -44.8330001831, 3.926476),
        last=(54.3839988708, -41.5120010376, 2.522442),
    )


def test_qa_plan_keeps_nine_layers_of_one_energy(qa: Path) -> None:
    (path,) = qa.glob("RP.*.dcm")
    plan = read_ion_plan(path)
    assert plan.study_instance_uid == QA_STUDY
    assert plan.patient_id == "QA0001"
    assert [(beam.number, beam.name) for beam in plan.beams] == [
        (2, "2S110"),
        (3, "3S150"),
        (4, "4S190"),
        (5, "5S230"),
    ]
    for beam, energy in zip(plan.beams, (110.0, 150.0, 190.0, 230.0), strict=True):
        assert beam.machine_name == "G2"
        assert beam.meterset_mu == 9.0
        assert [layer.number for layer in beam.layers] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assert [layer.control_point_index for layer in beam.layers] == [0, 2, 4, 6, 8, 10, 12, 14, 16]
        check_layer(beam, 1, energy=energy, mu=1.0, spots=2, first=(-50, 50, 0), last=(-50, 50, 1))
        check_layer(beam, 9, energy=energy, mu=1.0, spots=2, first=(50, -50, 0), last=(50, -50, 1))
        corners = np.array([layer.positions_mm[1] for layer in beam.layers])
        assert {tuple(corner) for corner in corners} == {(x, y) for x in (-50, 0, 50) for y in (-50, 0, 50)}


@pytest.mark.parametrize(("vendor_plan", "vendor"), EVERY[: len(TWINS)], indirect=["vendor_plan"])
def test_the_twins_are_read_as_they_were_made(vendor_plan: Path, vendor: Vendor) -> None:
    plan = read_ion_plan(vendor_plan)
    references = pydicom.dcmread(vendor_plan).FractionGroupSequence[0].ReferencedBeamSequence
    planned = [float(reference.BeamMeterset) for reference in references]
    assert plan.patient_id == "VENDOR7"
    assert [(beam.number, beam.name) for beam in plan.beams] == [(n, f"b{n}") for n in vendor.beams]
    for beam, meterset, gantry in zip(plan.beams, planned, vendor.gantry_deg, strict=True):
        assert (beam.machine_name, beam.gantry_angle_deg) == (vendor.machine, gantry)
        assert beam.meterset_mu == pytest.approx(meterset)
        assert [layer.energy_mev for layer in beam.layers] == [150.0, 146.0, 142.0][: vendor.layers]
        assert sum(layer.meterset_mu for layer in beam.layers) == pytest.approx(meterset, rel=1e-6)
        assert sum(len(layer.spot_mu) for layer in beam.layers) == vendor.spots
        # 75 MU deepest: 0.05 s at 1500 MU/s, give or take the spots' own shares.
        assert beam.layers[0].meterset_mu == pytest.approx(75.0, rel=0.3)
        assert [shifter.shifter_id for shifter in beam.range_shifters] == (
            [vendor.range_shifter] if vendor.range_shifter else []
        )


@pytest.mark.parametrize(
    "vendor_plan",
    ["eclipse", "raystation_shifter", pytest.param("eclipse_sobp_3468_spots", marks=pytest.mark.slow)],
    indirect=True,
)
def test_a_truncated_vendors_plan_is_refused_wherever_it_ends(vendor_plan: Path, tmp_path: Path) -> None:
    require_refused_wherever_it_ends(vendor_plan, tmp_path)


def test_a_truncated_qa_plan_is_refused_wherever_it_ends(qa: Path, tmp_path: Path) -> None:
    (plan,) = qa.glob("RP.*.dcm")
    require_refused_wherever_it_ends(plan, tmp_path)


def require_refused_wherever_it_ends(path: Path, tmp_path: Path) -> None:
    raw = path.read_bytes()
    whole = read_ion_plan(path)
    cut_file = tmp_path / "cut.dcm"
    refused = 0
    for cut in range(0, len(raw), len(raw) // 60):
        cut_file.write_bytes(raw[:cut])
        try:
            cut_plan = read_ion_plan(cut_file)
        except PlanError:
            refused += 1
            continue
        assert [beam.number for beam in cut_plan.beams] == [beam.number for beam in whole.beams]
        for beam, other in zip(whole.beams, cut_plan.beams, strict=True):
            assert [(a.number, a.energy_mev, a.spot_mu.tolist()) for a in beam.layers] == [
                (b.number, b.energy_mev, b.spot_mu.tolist()) for b in other.layers
            ]
    assert refused > 40

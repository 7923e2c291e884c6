"""Delivered against planned: injected errors of known size are found and named with their layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mqi_dagster.delivery.compared_beam import compare_beam
from mqi_dagster.delivery.comparison_figures import LayerComparison
from mqi_dagster.delivery.interpretation import interpret_beam, read_summary
from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.delivery.validation import build_manifest, check_case
from mqi_dagster.delivery.verdict import DeliveryVerdict, judge, limits_of
from mqi_dagster.machine import MachineDeliveryLimits, Machines
from mqi_dagster.plan.reading import read_ion_plan
from mqi_dagster.settings import CsvDialect, DeliveryLimits, Interpretation
from mqi_dagster.synthetic.defects import parse_defect
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest

from .delivery_cases import BEAM_2, qa_copy, surveyed

LIMITS = DeliveryLimits.model_validate({})
EXACT: dict[str, Any] = {"lag_us": (0.0, 0.0), "noise_mm": (0.0, 0.0), "count_noise": 0.0, "mu_ratio": 1.0}

Deliver = Callable[..., tuple[DeliveryVerdict, tuple[LayerComparison, ...]]]


def manifest_of(folder: Path, machines: Machines) -> CaseManifest:
    survey = surveyed(folder)
    return build_manifest(survey, survey.fractions[0], "P1.fx0001", 1, machines)


def compared(
    folder: Path, machines: Machines, beam: int = 2
) -> tuple[DeliveryVerdict, tuple[LayerComparison, ...]]:
    manifest = manifest_of(folder, machines)
    plan_beam = read_ion_plan(manifest.plan.path).beam(beam)
    machine = machines.named(plan_beam.machine_name)
    layers = compare_beam(manifest.beam(beam), plan_beam, machine)
    return judge(layers, limits_of(LIMITS, machine)), layers


@pytest.fixture(params=["LINE", "MODULATED"])
def deliver(request: pytest.FixtureRequest, machines: Machines, tmp_path: Path) -> Deliver:
    """Delivers a beam of four layers of 25 spots to G2 with a defect, and compares it."""

    def call(*defects: str, **options: Any) -> tuple[DeliveryVerdict, tuple[LayerComparison, ...]]:
        plan = BuiltInPlan(beams=1, layers=4, spots=25, layer_seconds=0.3, scan_mode=request.param)
        wanted = DeliveryRequest(plan=plan, defects=tuple(parse_defect(text) for text in defects), **options)
        case = simulate_delivery(wanted, machines.named("G2"), tmp_path / "inbox")
        return compared(case.folder, machines)

    return call


def test_a_delivery_with_the_noise_of_real_ones_is_as_planned(deliver: Deliver) -> None:
    verdict, layers = deliver()
    assert (verdict.as_planned, verdict.text, verdict.findings) == (True, "as planned", ())
    for layer in layers:
        assert layer.follows_timeline
        assert layer.mean_mm is not None and layer.sd_mm is not None and layer.p95_mm is not None
        assert abs(layer.mean_mm.x) < 0.05 and abs(layer.mean_mm.y) < 0.05
        assert layer.sd_mm.x == pytest.approx(0.20, abs=0.04)
        assert layer.sd_mm.y == pytest.approx(0.14, abs=0.03)
        assert layer.p95_mm.x == pytest.approx(1.96 * 0.20, abs=0.08)
        assert layer.ratio == pytest.approx(0.988, abs=1e-4)
        assert layer.off_plan_percent == 0.0
        assert layer.beam_off_percent < 0.3


@pytest.mark.parametrize(("x", "y"), [(2.0, 0.0), (0.0, -2.0), (4 / 3, 0.0)])
def test_a_shift_of_one_layer_is_found_to_a_twentieth_of_a_millimetre(
    deliver: Deliver, x: float, y: float
) -> None:
    verdict, layers = deliver(f"shifted-spots:beam=2,layer=3,x={x},y={y}")
    mean = layers[2].mean_mm
    assert mean is not None
    assert mean.x == pytest.approx(x, abs=0.05)
    assert mean.y == pytest.approx(y, abs=0.05)
    said = f"{x:+.1f} mm in x" if x else f"{y:+.1f} mm in y"
    assert verdict.text == f"layer 3: shifted by {said}"


def test_a_shift_in_both_axes_is_said_in_one_sentence(deliver: Deliver) -> None:
    verdict, _ = deliver("shifted-spots:beam=2,layer=1,x=4,y=3")
    assert verdict.text == "layer 1: shifted by +4.0 mm in x and +3.0 mm in y"


@pytest.mark.parametrize(("percent", "said"), [(5, "+5.0 %"), (9, "+9.0 %"), (80, "+80 %"), (-6, "-6.0 %")])
def test_monitor_units_of_one_layer_are_found_to_a_fifth_of_a_percent(
    deliver: Deliver, percent: float, said: str
) -> None:
    verdict, layers = deliver(f"mu-error:beam=2,layer=3,percent={percent}")
    assert layers[2].ratio is not None
    assert 100 * (layers[2].ratio / 0.988 - 1) == pytest.approx(percent, abs=0.2)
    assert verdict.text == f"layer 3: {said} MU"


@pytest.mark.parametrize(
    ("ratio", "said"), [(1.09, "all 4 layers: +9.0 % MU in the whole beam"), (1.02, "as planned")]
)
def test_what_the_whole_beam_has_too_much_is_not_as_planned(
    deliver: Deliver, ratio: float, said: str
) -> None:
    assert deliver(mu_ratio=ratio)[0].text == said


def test_a_small_error_of_the_monitor_units_is_as_planned(deliver: Deliver) -> None:
    assert deliver("mu-error:beam=2,layer=3,percent=2")[0].as_planned


@pytest.mark.parametrize(("defect", "said"), [("mirrored-x", "x mirrored"), ("swapped-axes", "axes swapped")])
def test_mirrored_and_swapped_axes_are_named(deliver: Deliver, defect: str, said: str) -> None:
    verdict, layers = deliver(f"{defect}:beam=2,layer=2")
    assert verdict.text == f"layer 2: {said}"
    assert [layer.transform for layer in layers] == [None, said, None, None]
    assert layers[1].sd_mm is not None and layers[1].sd_mm.x > 15


def test_one_missing_spot_is_named(deliver: Deliver) -> None:
    verdict, layers = deliver("missing-spot:beam=2,layer=2,spot=9")
    assert layers[1].missing_spots == (9,)
    assert "layer 2: spot 9 missing" in verdict.text
    assert {finding.layer for finding in verdict.findings} == {2}
    assert [layer.missing_spots for layer in layers if layer.number != 2] == [(), (), ()]


def test_one_extra_spot_is_named(deliver: Deliver) -> None:
    verdict, layers = deliver("extra-spot:beam=2,layer=2,spot=9,x=6,y=20")
    (extra,) = layers[1].extra
    assert extra.mu == pytest.approx(layers[1].planned_mu * 0.05, rel=0.4)
    assert "layer 2: an extra spot at" in verdict.text
    assert layers[1].missing_spots == ()
    assert {finding.layer for finding in verdict.findings} == {2}


@pytest.mark.parametrize("other", [10, 15])
def test_a_swapped_pair_of_spots_is_named(deliver: Deliver, other: int) -> None:
    verdict, layers = deliver(f"swapped-spots:beam=2,layer=2,spot=9,other={other}")
    assert layers[1].swapped_spots == ((9, other),)
    assert verdict.text == f"layer 2: spots 9 and {other} swapped"


def test_one_percent_of_dose_with_the_beam_off_is_named(deliver: Deliver) -> None:
    verdict, layers = deliver("beam-off-dose:beam=2,layer=2,percent=1")
    assert layers[1].beam_off_percent == pytest.approx(1.0, abs=0.05)
    assert verdict.text == "layer 2: 1.0 % of its dose with the beam off"


def test_several_errors_are_told_each_with_its_layer(deliver: Deliver) -> None:
    verdict, _ = deliver(
        "mirrored-x:beam=2,layer=1", "shifted-spots:beam=2,layer=2,x=2", "mu-error:beam=2,layer=4,percent=20"
    )
    assert verdict.text == "layer 1: x mirrored; layer 2: shifted by +2.0 mm in x; layer 4: +20 % MU"


def test_what_all_layers_share_is_told_once(deliver: Deliver) -> None:
    verdict, _ = deliver(*(f"mirrored-x:beam=2,layer={layer}" for layer in (1, 2, 3, 4)))
    assert verdict.text == "all 4 layers: x mirrored"


@pytest.mark.parametrize("defect", ["resumed:beam=2,layer=2", "split-layer:beam=2,layer=2"])
def test_an_interrupted_beam_is_as_planned_once_it_was_resumed(deliver: Deliver, defect: str) -> None:
    verdict, layers = deliver(defect)
    assert verdict.as_planned
    assert all(layer.missing_spots == () and layer.extra == () for layer in layers)


def rewritten(case: Path, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Path:
    """The case with the record of its first layer changed."""
    record = sorted(case.rglob("*.ptn"))[0]
    words = np.frombuffer(record.read_bytes(), dtype=">u2").reshape(-1, 8).astype(np.int64)
    record.write_bytes(change(words).astype(">u2").tobytes())
    return case


@pytest.mark.parametrize("mode", ["LINE", "MODULATED"])
def test_a_pause_within_a_layer_is_as_planned_and_a_flickering_beam_is_not(
    mode: Any, machines: Machines, tmp_path: Path
) -> None:
    plan = BuiltInPlan(beams=1, layers=1, spots=81, layer_seconds=0.3, scan_mode=mode)

    def case(name: str) -> Path:
        return simulate_delivery(DeliveryRequest(plan=plan), machines.named("G2"), tmp_path / name).folder

    def paused(words: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        (on,) = np.nonzero((words[:, 7] & 0xC000) == 0xC000)
        return np.insert(words, on[len(on) * 2 // 5], np.repeat(words[:1], 400, axis=0), axis=0)

    def flickering(words: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        (on,) = np.nonzero((words[:, 7] & 0xC000) == 0xC000)
        for first in range(40, len(on) - 40, 15):
            words[on[first : first + 2], 0] += 2700  # about 20 mm
        return words

    assert compared(rewritten(case("paused"), paused), machines)[0].text == "as planned"
    verdict, (layer,) = compared(rewritten(case("flickering"), flickering), machines)
    assert 10.0 < layer.off_plan_percent < 15.0
    assert "% of its dose lies off the planned path" in verdict.text


def test_a_true_spot_delivery_has_no_error(machines: Machines, tmp_path: Path) -> None:
    plan = BuiltInPlan(beams=1, layers=2, spots=25, layer_seconds=0.3, scan_mode="MODULATED")
    case = simulate_delivery(DeliveryRequest(plan=plan, **EXACT), machines.named("G2"), tmp_path / "inbox")
    verdict, layers = compared(case.folder, machines)
    assert verdict.as_planned
    for layer in layers:
        for figure in (layer.mean_mm, layer.sd_mm, layer.p95_mm, layer.maximum_mm):
            # The record's own steps are 0.0073 and 0.0071 mm.
            assert figure is not None and abs(figure.x) < 0.004 and abs(figure.y) < 0.004
        assert layer.ratio == pytest.approx(1.0, abs=1e-5)
        assert layer.off_plan_percent == 0.0
        assert layer.spot_mu == ()


def test_a_vendors_spots_are_as_planned(machines: Machines, shared: Path, tmp_path: Path) -> None:
    plan = shared / "cases" / "ion_plans" / "eclipse_sobp_3468_spots.dcm"
    wanted = DeliveryRequest(plan=plan, patient_id="SYNTH9", max_layers=2)
    case = simulate_delivery(wanted, machines.named("TR2"), tmp_path / "inbox")
    verdict, layers = compared(case.folder, machines, beam=1)
    assert verdict.as_planned
    assert all(layer.follows_timeline and layer.spots > 250 for layer in layers)


def test_the_qa_delivery_is_as_planned(machines: Machines, qa: Path) -> None:
    for beam in (2, 3, 4, 5):
        verdict, layers = compared(qa, machines, beam)
        assert verdict.text == "as planned"
        assert len(layers) == 9
        for layer in layers:
            assert layer.mean_mm is not None
            assert abs(layer.mean_mm.x) < 0.05 and abs(layer.mean_mm.y) < 0.05


@pytest.mark.parametrize("in_capitals", [False, True])
def test_a_mirrored_qa_delivery_is_taken_in_and_named(
    machines: Machines, qa: Path, tmp_path: Path, in_capitals: bool
) -> None:
    case = qa_copy(qa, tmp_path, BEAM_2)
    for path in case.glob("*/*.ptn"):
        words = np.frombuffer(path.read_bytes(), dtype=">u2").reshape(-1, 8).astype(np.int64)
        on = (words[:, 7] & 0xC000) == 0xC000
        words[on, 0] = 2 * 24576 - words[on, 0]
        path.write_bytes(np.clip(words, 0, 65535).astype(">u2").tobytes())
    for path in list((case / BEAM_2).iterdir()) if in_capitals else []:
        path.rename(path.with_name(path.name.upper()))
    check = check_case(surveyed(case), machines)
    assert check.passed and not check.as_planned
    (beam,) = check.fractions[0].beams
    assert beam.delivery is not None
    # The three spots on the axis show nothing of it.
    assert {finding.words for finding in beam.delivery.findings} == {"x mirrored"}
    assert len(beam.delivery.findings) == 6


def test_a_machine_may_have_limits_of_its_own(machines: Machines) -> None:
    machine = machines.named("G2").model_copy(
        update={"delivery_check": MachineDeliveryLimits(position_mean_mm=0.3)}
    )
    limits = limits_of(LIMITS, machine)
    assert (limits.position_mean_mm, limits.layer_mu_percent) == (0.3, 3.0)
    assert limits_of(LIMITS, machines.named("G2")) == LIMITS


def test_the_figures_and_the_table_of_spots_stand_beside_the_csvs(machines: Machines, tmp_path: Path) -> None:
    plan = BuiltInPlan(beams=1, layers=2, spots=9, layer_seconds=0.1, scan_mode="MODULATED")
    wanted = DeliveryRequest(plan=plan, defects=(parse_defect("shifted-spots:beam=2,layer=2,x=2"),), **EXACT)
    case = simulate_delivery(wanted, machines.named("G2"), tmp_path / "inbox")
    manifest = manifest_of(case.folder, machines)
    plan_beam = read_ion_plan(manifest.plan.path).beam(2)
    interpret_beam(
        manifest.beam(2),
        plan_beam,
        machines.named("G2"),
        Interpretation.model_validate({}),
        CsvDialect.ROWS,
        tmp_path / "out",
    )
    delivery = read_summary(tmp_path / "out").layers[1].delivery
    assert delivery is not None and delivery.mean_mm is not None
    assert delivery.mean_mm.x == pytest.approx(2.0, abs=0.01)
    table = pl.read_parquet(tmp_path / "out" / "spots.parquet")
    assert table.columns == [
        "layer", "spot", "x_mm", "y_mm", "planned_mu", "delivered_mu", "samples", "dx_mm", "dy_mm",
    ]  # fmt: skip
    assert table["layer"].to_list() == [1] * 9 + [2] * 9
    moved = table.filter((pl.col("layer") == 2) & (pl.col("delivered_mu") > 0))
    assert moved["dx_mm"].to_numpy() == pytest.approx(np.full(len(moved), 2.0), abs=0.01)
    assert moved["delivered_mu"].to_numpy() == pytest.approx(moved["planned_mu"].to_numpy(), abs=1e-6)

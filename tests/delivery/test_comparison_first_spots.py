"""Delivered against planned: other dose rates, noisy records, dose on the first spot, parts of a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mqi_dagster.delivery.comparison_figures import LayerComparison
from mqi_dagster.delivery.verdict import DeliveryVerdict
from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.machine import Machine, Machines
from mqi_dagster.synthetic.defects import parse_defect
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.plans import built_in_plan
from mqi_dagster.synthetic.record import Encoding, LayerDelivery, encode_record
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest
from mqi_dagster.synthetic.source import scanning_points, source_beams, spot_map
from mqi_dagster.synthetic.timeline import SpotTimeline, planned_timeline

from .test_comparison import compared

Floats = NDArray[np.float64]
Spots = Callable[[Floats, Floats], tuple[Floats, Floats]]
Seen = tuple[DeliveryVerdict, LayerComparison]


def with_spots(plan: Dataset, change: Spots) -> Dataset:
    """The plan with the spots of each layer changed; a layer keeps its monitor units."""
    beam = plan.IonBeamSequence[1]
    for index in scanning_points(beam):
        start, end = beam.IonControlPointSequence[index : index + 2]
        given = float(end.CumulativeMetersetWeight) - float(start.CumulativeMetersetWeight)
        positions, mu = change(*spot_map(start))
        count = str(len(mu)).encode()
        for point, weights in ((start, mu / mu.sum() * given), (end, np.zeros(len(mu)))):
            block = point.private_block(0x300B, "IMPAC")
            block[0x92].value = count + b" " * (len(count) % 2)
            block[0x94].value = positions.astype("<f4").tobytes()
            block[0x96].value = weights.astype("<f4").tobytes()
    return plan


def dosed_first(positions: Floats, mu: Floats) -> tuple[Floats, Floats]:
    """The first spot carries as much dose as the strongest one."""
    return positions[1:], np.concatenate([[mu.max()], mu[2:]])


def one_spot(positions: Floats, mu: Floats) -> tuple[Floats, Floats]:
    return positions[:1], mu[1:2]


def delivered(
    folder: Path,
    machines: Machines,
    *defects: str,
    mode: Any = "LINE",
    spots: Spots | None = None,
    change: Callable[[LayerDelivery, Machine, bool], LayerDelivery] | None = None,
    **options: Any,
) -> Seen:
    """Layer 2 of a beam of four, compared; delivered as its plan and the defects say, and then changed."""
    machine = machines.named("G2")
    plan = BuiltInPlan(beams=1, layers=4, spots=25, layer_seconds=0.3, scan_mode=mode)
    request = DeliveryRequest(plan=plan, defects=tuple(parse_defect(text) for text in defects), **options)
    if spots is not None:
        with_spots(built_in_plan(machine, plan), spots).save_as(folder / "plan.dcm", enforce_file_format=True)
        request = request.model_copy(update={"plan": folder / "plan.dcm"})
    case = simulate_delivery(request, machine, folder / "inbox")
    if change is not None:
        (beam,) = source_beams(read_dicom(case.plan_path.read_bytes()))
        layer = beam.layers[1]
        timeline = planned_timeline(layer, machine.timing, stops=beam.stops)
        doing = change(LayerDelivery(layer, timeline), machine, beam.stops)
        encoding = Encoding(machine, request, np.random.default_rng(1))
        sorted(case.folder.rglob("*.ptn"))[1].write_bytes(encode_record(doing, encoding).tobytes())
    verdict, layers = compared(case.folder, machines)
    return verdict, layers[1]


def later(stretch: Callable[[Floats], Floats]) -> Callable[[LayerDelivery, Machine, bool], LayerDelivery]:
    """Each line lasts longer by a factor, which may depend on the share of the layer that is over."""

    def change(doing: LayerDelivery, machine: Machine, stops: bool) -> LayerDelivery:
        ends = doing.timeline.spot_s
        lasts = np.diff(ends) * stretch((ends[1:] + ends[:-1]) / 2 / ends[-1])
        rate = doing.timeline.rate_mu_s / float(stretch(np.zeros(1))[0])
        return replace(doing, timeline=SpotTimeline(np.concatenate([[0.0], np.cumsum(lasts)]), rate))

    return change


def given(spots: Spots) -> Callable[[LayerDelivery, Machine, bool], LayerDelivery]:
    """Other spots than planned are given, at the planned dose rate."""

    def change(doing: LayerDelivery, machine: Machine, stops: bool) -> LayerDelivery:
        positions, mu = spots(doing.layer.positions_mm, doing.layer.spot_mu)
        layer = replace(doing.layer, positions_mm=positions, spot_mu=mu)
        rate = doing.timeline.rate_mu_s
        timeline = planned_timeline(layer, machine.timing, stops=stops, rate_mu_s=rate)
        return replace(doing, layer=layer, timeline=timeline)

    return change


def close(layer: LayerComparison) -> tuple[float, float]:
    """The greater of the mean differences, and of the standard deviations, of both axes [mm]."""
    assert layer.mean_mm is not None and layer.sd_mm is not None
    return max(abs(layer.mean_mm.x), abs(layer.mean_mm.y)), max(layer.sd_mm.x, layer.sd_mm.y)


@pytest.mark.parametrize("spots", [None, dosed_first], ids=["first without dose", "first with dose"])
@pytest.mark.parametrize(
    "stretch",
    [
        lambda share: np.full(len(share), 1 / 1.3),
        lambda share: np.full(len(share), 1 / 0.7),
        lambda share: np.full(len(share), 1.03),
        lambda share: 1 + 0.2 * np.sin(2 * np.pi * share),
    ],
    ids=["30 % more", "30 % less", "3 % less", "varying by 20 %"],
)
def test_a_line_scanned_layer_at_another_dose_rate_is_as_planned(
    machines: Machines, tmp_path: Path, stretch: Callable[[Floats], Floats], spots: Spots | None
) -> None:
    verdict, layer = delivered(tmp_path, machines, spots=spots, change=later(stretch))
    assert verdict.text == "as planned"
    assert not layer.follows_timeline
    mean, sd = close(layer)
    assert mean < 0.03 and sd < 0.25
    assert (layer.missing_spots, layer.extra, layer.off_plan_percent) == ((), (), 0.0)


def test_a_shift_is_found_at_another_dose_rate_too(machines: Machines, tmp_path: Path) -> None:
    def change(doing: LayerDelivery, machine: Machine, stops: bool) -> LayerDelivery:
        slower = later(lambda share: np.full(len(share), 1.25))(doing, machine, stops)
        return replace(slower, shift_mm=(2.0, 0.0))

    verdict, layer = delivered(tmp_path, machines, change=change)
    assert verdict.text == "layer 2: shifted by +2.0 mm in x"
    assert layer.mean_mm is not None
    assert layer.mean_mm.x == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("mode", ["LINE", "MODULATED"])
@pytest.mark.parametrize("spots", [None, dosed_first], ids=["first without dose", "first with dose"])
def test_noise_of_a_millimetre_is_no_missing_or_extra_spot(
    machines: Machines, tmp_path: Path, mode: str, spots: Spots | None
) -> None:
    verdict, layer = delivered(tmp_path, machines, mode=mode, spots=spots, noise_mm=(1.0, 1.0))
    assert "missing" not in verdict.text and "extra" not in verdict.text and "MU" not in verdict.text
    mean, sd = close(layer)
    assert mean < 0.1
    assert sd == pytest.approx(1.0, abs=0.06)
    assert layer.off_plan_percent == 0.0


def test_a_missing_spot_is_named_alone_in_a_noisy_line_scanned_layer(
    machines: Machines, tmp_path: Path
) -> None:
    _, layer = delivered(tmp_path, machines, "missing-spot:beam=2,layer=2,spot=9", noise_mm=(1.0, 1.0))
    assert (layer.missing_spots, layer.extra) == ((9,), ())


@pytest.mark.parametrize("mode", ["LINE", "MODULATED"])
@pytest.mark.parametrize("spot", [1, 2, 9])
def test_a_missing_spot_of_a_layer_that_begins_with_dose_is_named_alone(
    machines: Machines, tmp_path: Path, mode: str, spot: int
) -> None:
    verdict, layer = delivered(
        tmp_path, machines, f"missing-spot:beam=2,layer=2,spot={spot}", mode=mode, spots=dosed_first
    )
    assert (layer.missing_spots, layer.extra) == ((spot,), ())
    # The monitor units that the layer lacks are said as well.
    assert [finding.words for finding in verdict.findings][1:] == [f"spot {spot} missing"]
    assert close(layer)[0] < 0.05


@pytest.mark.parametrize("mode", ["LINE", "MODULATED"])
def test_dose_on_a_first_spot_that_was_to_get_none_is_an_extra_spot(
    machines: Machines, tmp_path: Path, mode: str
) -> None:
    change = given(lambda positions, mu: (positions, np.concatenate([mu[1:2], mu[1:]])))
    verdict, layer = delivered(tmp_path, machines, mode=mode, change=change)
    (extra,) = layer.extra
    assert (extra.x_mm, extra.y_mm) == pytest.approx((-17.99, 17.99), abs=0.01)
    assert layer.missing_spots == ()
    assert "an extra spot at x -18.0, y +18.0 mm before spot 1" in verdict.text
    assert close(layer)[0] < 0.05


@pytest.mark.parametrize("mode", ["LINE", "MODULATED"])
@pytest.mark.parametrize("spots", [None, dosed_first], ids=["first without dose", "first with dose"])
def test_a_spot_before_the_first_one_is_an_extra_spot(
    machines: Machines, tmp_path: Path, mode: str, spots: Spots | None
) -> None:
    change = given(
        lambda positions, mu: (
            np.vstack([positions[:1] + np.array([6, 20]), positions]),
            np.concatenate([mu[1:2], mu]),
        )
    )
    verdict, layer = delivered(tmp_path, machines, mode=mode, spots=spots, change=change)
    (extra,) = layer.extra
    assert extra.after_spot == 0
    assert layer.missing_spots == ()
    assert "mm before spot 1" in verdict.text and "shifted" not in verdict.text
    assert close(layer)[0] < 0.05


@pytest.mark.parametrize("mode", ["LINE", "MODULATED"])
@pytest.mark.parametrize(("factor", "said"), [(2.0, "+100 %"), (0.5, "-50 %")])
def test_monitor_units_of_the_first_spot_are_found(
    machines: Machines, tmp_path: Path, mode: str, factor: float, said: str
) -> None:
    change = given(lambda positions, mu: (positions, np.concatenate([factor * mu[:1], mu[1:]])))
    verdict, layer = delivered(tmp_path, machines, mode=mode, spots=dosed_first, change=change)
    assert layer.missing_spots == ()
    assert [spot.spot for spot in layer.spot_mu if abs(spot.ratio - 1) > 0.2] == [1]
    # A line-scanned record loses some dose to the rise of the beam, all of it on the first spot.
    assert layer.spot_mu[0].ratio == pytest.approx(factor, abs=0.06)
    if mode == "MODULATED":
        assert f"spot 1 with {said} MU" in verdict.text


@pytest.mark.parametrize("mode", ["LINE", "MODULATED"])
def test_a_single_spot_is_as_planned_and_a_second_one_beside_it_is_extra(
    machines: Machines, tmp_path: Path, mode: str
) -> None:
    for name in ("clean", "extra"):
        (tmp_path / name).mkdir()
    assert delivered(tmp_path / "clean", machines, mode=mode, spots=one_spot)[0].text == "as planned"
    defect = "extra-spot:beam=2,layer=2,spot=1,x=5,y=7"
    verdict, layer = delivered(tmp_path / "extra", machines, defect, mode=mode, spots=one_spot)
    (extra,) = layer.extra
    assert (extra.after_spot, layer.missing_spots) == (1, ())
    assert "layer 2: an extra spot at x -1" in verdict.text and "off the planned path" not in verdict.text


def test_of_two_spots_a_missing_first_one_is_no_shift(machines: Machines, tmp_path: Path) -> None:
    verdict, layer = delivered(
        tmp_path,
        machines,
        "missing-spot:beam=2,layer=2,spot=1",
        mode="MODULATED",
        spots=lambda positions, mu: (positions[1:3], mu[1:3]),
    )
    assert layer.missing_spots == (1,)
    assert "shifted" not in verdict.text


@pytest.mark.parametrize("mode", ["LINE", "MODULATED"])
@pytest.mark.parametrize("share", [0.2, 0.6])
@pytest.mark.parametrize(
    ("defect", "said"),
    [
        ("mirrored-x", "x mirrored"),
        ("swapped-axes", "axes swapped"),
        ("shifted-spots", "shifted by +40.0 mm in x"),
    ],
)
def test_the_rest_of_a_layer_far_from_its_place_is_taken_in_and_named(
    machines: Machines, tmp_path: Path, mode: str, share: float, defect: str, said: str
) -> None:
    verdict, _ = delivered(
        tmp_path,
        machines,
        f"{defect}:beam=2,layer=2" + (",x=40" if defect == "shifted-spots" else ""),
        f"split-layer:beam=2,layer=2,share={share}",
        mode=mode,
        spots=lambda positions, mu: (positions + np.array([50.0, -20.0]), mu),
    )
    assert verdict.text == f"layer 2: {said}"

"""The planned timeline of a resumed layer, and what positions are compared with it."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.delivery.manifest import InputFile, LayerEntry, RecordPart
from mqi_dagster.delivery.planned_timeline import PlannedTimeline, PositionComparison, planned_timeline
from mqi_dagster.delivery.summary import TimelineSource
from mqi_dagster.errors import DeliveryError
from mqi_dagster.machine import Machine, Machines
from mqi_dagster.plan.model import PlanLayer, ScanMode

LAYER = PlanLayer(
    number=7,
    control_point_index=12,
    energy_mev=150.0,
    meterset_mu=0.003,
    positions_mm=np.array([[0.0, 0.0], [5.997, 0.0], [11.994, 0.0]]),
    spot_mu=np.array([0.0, 0.001, 0.002]),
)
# G2: 5.445e-3 mm a step; 5.997 mm are 1101.4 steps.
WHOLE = [(0, 32768, 0), (19100, 32768, 1), (19500, 33869, 1), (20100, 34971, 0), (30100, 32768, 0)]
REST_OF_IT = [(0, 32768, 0), (19100, 33869, 1), (19700, 34971, 0), (29700, 32768, 0)]


@pytest.fixture
def g2(machines: Machines) -> Machine:
    return machines.named("G2")


def _part(folder: Path, delivery: int, records: list[tuple[int, int, int]]) -> RecordPart:
    content = b"".join(struct.pack(">I5H", t, 0, 0, x, 32768, flag) for t, x, flag in records)
    path = folder / f"{delivery}.mgn"
    path.write_bytes(content)
    file = InputFile(path=path, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    return RecordPart(delivery=delivery, range_code=2, rows=1, record=file, machine_plan=file)


def _entry(*parts: RecordPart) -> LayerEntry:
    return LayerEntry(number=7, energy_mev=150.0, planned_mu=0.003, delivered_mu=0.0, parts=parts)


def test_the_machines_own_times_go_before_the_model(tmp_path: Path, g2: Machine) -> None:
    timeline = planned_timeline(_entry(_part(tmp_path, 1, WHOLE)), LAYER, g2, ScanMode.LINE)
    assert timeline.source is TimelineSource.MACHINE_PLAN
    assert timeline.time_s == pytest.approx([0, 400e-6, 1000e-6], abs=1e-9)
    assert timeline.positions_mm[:, 0].tolist() == [0.0, 5.997, 11.994]
    assert timeline.cumulative_mu == pytest.approx([0, 0.001, 0.003])


def test_without_one_the_model_plans(g2: Machine) -> None:
    timeline = planned_timeline(None, LAYER, g2, ScanMode.LINE)
    assert timeline.source is TimelineSource.TIMING_MODEL
    assert timeline.time_s == pytest.approx([0, 300e-6, 900e-6], abs=1e-9)


def test_a_resumed_layer_whose_first_machine_plan_is_a_part_falls_back_to_the_model(
    tmp_path: Path, g2: Machine
) -> None:
    first, second = _part(tmp_path, 1, REST_OF_IT), _part(tmp_path, 2, WHOLE)
    assert (
        planned_timeline(_entry(first, second), LAYER, g2, ScanMode.LINE).source
        is TimelineSource.TIMING_MODEL
    )
    assert (
        planned_timeline(_entry(second, first), LAYER, g2, ScanMode.LINE).source
        is TimelineSource.MACHINE_PLAN
    )
    with pytest.raises(DeliveryError, match="has 2 spots, the plan 3"):
        planned_timeline(_entry(first), LAYER, g2, ScanMode.LINE)


def test_positions_are_compared_at_equal_times_and_held_at_the_end() -> None:
    timeline = PlannedTimeline(
        TimelineSource.TIMING_MODEL,
        np.array([0.0, 1.0, 2.0]),
        np.array([[0.0, 0.0], [20.0, 0.0], [20.0, -8.0]]),
        np.array([0.0, 1.0, 2.0]),
        ScanMode.LINE,
    )
    comparison = PositionComparison(timeline)
    comparison.add(0, np.array([0.0, 0.1]), np.array([[300.0, 9.0], [250.0, 9.0]]), np.ones(2))
    comparison.add(0, np.array([0.25, 1.5, 9.0]), np.array([[5.5, 0.0], [20.0, -4.2], [20, -8]]), np.ones(3))
    assert comparison.samples == 3
    assert comparison.mean_mm == pytest.approx((0.5 / 3, -0.2 / 3))
    comparison.add(1, np.array([0.0]), np.array([[99.0, 99.0]]), np.ones(1))
    assert comparison.samples == 3


def test_in_spot_scanning_the_beam_travels_without_dose_and_stands_at_each_spot(g2: Machine) -> None:
    timeline = planned_timeline(None, LAYER, g2, ScanMode.MODULATED)
    rate = 3.91 + (150 - 70) / 160 * (20 - 3.91)
    first, second = 0.001 / rate, 0.002 / rate
    travel = 300e-6
    assert timeline.time_s == pytest.approx(
        [0, 0, travel, travel + first, 2 * travel + first, 2 * travel + first + second], abs=1e-9
    )
    assert timeline.positions_mm[:, 0].tolist() == [0, 0, 5.997, 5.997, 11.994, 11.994]
    assert timeline.cumulative_mu == pytest.approx([0, 0, 0, 0.001, 0.001, 0.003])


def test_in_spot_scanning_the_machine_plan_holds_the_ends_of_the_spots(tmp_path: Path, g2: Machine) -> None:
    timeline = planned_timeline(_entry(_part(tmp_path, 1, WHOLE)), LAYER, g2, ScanMode.MODULATED)
    assert timeline.source is TimelineSource.MACHINE_PLAN
    assert timeline.time_s == pytest.approx([0, 0, 300e-6, 400e-6, 700e-6, 1000e-6], abs=1e-9)


def test_a_sample_of_spot_scanning_lies_where_its_dose_was_given(g2: Machine) -> None:
    timeline = planned_timeline(None, LAYER, g2, ScanMode.MODULATED)
    # Half a monitor unit of the second spot was given since the sample before, then the beam left it.
    on_its_way = float(timeline.time_s[3]) + 100e-6
    time_s = np.array([on_its_way, on_its_way + 60e-6])
    mu = np.array([0.001, 0.001])
    positions = timeline.sampled(time_s, np.array([0.0005, 0.001]), mu)
    assert positions[:, 0] == pytest.approx([5.997, 5.997 + 5.997 * 160 / 300], abs=1e-6)

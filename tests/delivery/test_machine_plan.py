"""The machine plan: records of 14 bytes, spots between start and end, times from the first spot."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.delivery.machine_plan import read_machine_plan
from mqi_dagster.errors import DeliveryError
from mqi_dagster.machine import Machines

THREE_SPOTS = [
    (0, 32768, 32768, 0),
    (19100, 32768, 32868, 1),
    (19400, 33768, 32768, 1),
    (20900, 31768, 32668, 0),
    (30900, 32768, 32768, 0),
]


def _file(folder: Path, records: list[tuple[int, int, int, int]]) -> Path:
    path = folder / "QA0001_secret.mgn"
    path.write_bytes(b"".join(struct.pack(">I5H", t, 1, 2, x, y, flag) for t, x, y, flag in records))
    return path


def test_spots_have_the_machines_times_and_positions(tmp_path: Path, machines: Machines) -> None:
    plan = read_machine_plan(_file(tmp_path, THREE_SPOTS), machines.named("G2").preset)
    assert plan.time_s.tolist() == pytest.approx([0.0, 0.0003, 0.0018], abs=1e-12)
    assert plan.positions_mm == pytest.approx(
        np.array([[0, 0.71411], [5.445, 0], [-5.445, -0.71411]]), abs=1e-9
    )


def test_the_preset_is_that_of_the_machine(tmp_path: Path, machines: Machines) -> None:
    plan = read_machine_plan(_file(tmp_path, THREE_SPOTS), machines.named("G1").preset)
    assert plan.positions_mm[0] == pytest.approx([0.0054705, 0.5878806], abs=1e-9)


def test_a_single_spot_is_a_plan(tmp_path: Path, machines: Machines) -> None:
    records = [THREE_SPOTS[0], (19100, 32768, 32768, 0), THREE_SPOTS[-1]]
    plan = read_machine_plan(_file(tmp_path, records), machines.named("G2").preset)
    assert plan.time_s.tolist() == [0.0]


@pytest.mark.parametrize(
    "records",
    [
        [],
        THREE_SPOTS[:1],
        THREE_SPOTS[:2],
        THREE_SPOTS[:3],
        THREE_SPOTS[:-1],
        [THREE_SPOTS[0], THREE_SPOTS[2], THREE_SPOTS[1], *THREE_SPOTS[3:]],
        [(5, 32768, 32768, 0), *THREE_SPOTS[1:]],
    ],
    ids=["empty", "start", "no end", "lost tail", "lost end", "times descend", "late start"],
)
def test_damage_is_refused(
    tmp_path: Path, machines: Machines, records: list[tuple[int, int, int, int]]
) -> None:
    with pytest.raises(DeliveryError) as caught:
        read_machine_plan(_file(tmp_path, records), machines.named("G2").preset)
    assert caught.value.where.kind == "machine plan"
    assert "secret" not in str(caught.value)


def test_a_part_of_a_record_is_refused(tmp_path: Path, machines: Machines) -> None:
    path = _file(tmp_path, THREE_SPOTS)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DeliveryError, match="cut short"):
        read_machine_plan(path, machines.named("G2").preset)


@pytest.mark.parametrize(
    ("qa", "seconds"),
    [("generated", 0.7143), pytest.param("real", 0.3601, marks=pytest.mark.slow)],
    indirect=["qa"],
)
def test_a_machine_plan_is_within_its_step_of_the_plan(qa: Path, machines: Machines, seconds: float) -> None:
    path = qa / "2026010510100000" / "02_QA0001_001_002_001.mgn"
    plan = read_machine_plan(path, machines.named("G2").preset)
    assert plan.time_s.tolist() == pytest.approx([0.0, seconds], abs=1e-9)
    assert plan.positions_mm == pytest.approx(np.array([[-50.0, 50.0], [-50.0, 50.0]]), abs=0.005)

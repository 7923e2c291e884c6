"""Cases that the tests of the simulator share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mqi_dagster.machine import Machine, Machines
from mqi_dagster.synthetic.defects import parse_defect
from mqi_dagster.synthetic.delivery import SimulatedCase, simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest

Simulate = Callable[..., SimulatedCase]


@pytest.fixture
def g2(machines: Machines) -> Machine:
    return machines.named("G2")


@pytest.fixture
def simulate(g2: Machine, tmp_path: Path) -> Simulate:
    """A small case of three beams with four layers on G2; each call into an inbox of its own."""
    made: list[int] = []

    def call(
        *defects: str, machine: Machine = g2, inbox: Path | None = None, **options: Any
    ) -> SimulatedCase:
        made.append(1)
        values: dict[str, Any] = {"plan": BuiltInPlan(layers=4, spots=9, layer_seconds=0.1)}
        values |= options | {"defects": tuple(parse_defect(text) for text in defects)}
        return simulate_delivery(DeliveryRequest(**values), machine, inbox or tmp_path / f"inbox{len(made)}")

    return call

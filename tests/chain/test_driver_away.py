"""A driver that is away, or a GPU that is lost: beams wait in sight and go on by themselves; none fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mqi_dagster.execution import gpus
from mqi_dagster.execution.gpus import Gpu
from mqi_dagster.operations.instance import instance_settings, pool_limit
from mqi_dagster.resources import gpu_pool
from tests.chain.chain import Chain, deliver, quick_engine
from tests.chain.ended_runs import evaluate
from tests.chain.waiting_beams import once_it_waits

A, B = Gpu(0, "GPU-a", "A5000", 24564), Gpu(1, "GPU-b", "A5000", 24564)
DECLARED = {
    "gpus": [
        {"index": 0, "uuid": "GPU-a", "memory_mb": 24000},
        {"index": 1, "uuid": "GPU-b", "memory_mb": 24000},
    ]
}


class Driver:
    """Stands in for NVML: what it sees now."""

    def __init__(self, *seen: Gpu) -> None:
        self.seen = list(seen)

    def look(self) -> list[Gpu]:
        return list(self.seen)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver(A, B)
    monkeypatch.setattr(gpu_pool, "local_gpus", made.look)
    monkeypatch.setattr(gpu_pool, "local_gpus", made.look)
    monkeypatch.setattr(gpus, "nvml_is_installed", lambda: True)
    return made


def site(tmp_path: Path, execution: dict[str, Any] | None = None) -> tuple[Chain, str]:
    """A site whose engine needs a GPU, and a beam of it; its monitor has looked once."""
    engine = quick_engine()
    engine["profiles"]["test"]["needs_gpu"] = True
    settings = {"engine": engine, "execution": execution or {}}
    chain = Chain(tmp_path / "site", settings, given=deliver(tmp_path / "in").folder)
    case, outcome = chain.run_intake()
    assert outcome.success
    evaluate(chain, "gpu_monitor")
    return chain, case


def run_until_it_waits(chain: Chain, case: str, then: Callable[[], None]) -> str:
    """Run beam 2; once it says why it waits, do something, and it succeeds. What it said."""
    with once_it_waits(chain, f"{case}__b02", then) as said:
        (outcome,) = chain.run_beams(case, [2])
    assert outcome.success, outcome.error
    return said[0]


@pytest.mark.parametrize("execution", [{}, DECLARED], ids=["as NVML says", "declared"])
def test_beams_wait_for_a_driver_that_is_away_and_go_on_when_it_is_back(
    tmp_path: Path, driver: Driver, execution: dict[str, Any]
) -> None:
    chain, case = site(tmp_path, execution)
    driver.seen = []
    said = run_until_it_waits(chain, case, lambda: driver.seen.extend([A, B]))
    assert said.startswith("no free slot: 2 not seen since 20")
    assert "gpu0 (GPU-a), gpu1 (GPU-b)" in said and "nvidia-smi" in said
    assert chain.engine_starts() == 1
    assert all(slot.usable for slot in chain.site.ledger.slots.all())


@pytest.mark.parametrize("execution", [{}, DECLARED], ids=["as NVML says", "declared"])
def test_one_lost_gpu_keeps_no_beam_from_the_others(
    tmp_path: Path, driver: Driver, execution: dict[str, Any]
) -> None:
    chain, case = site(tmp_path, execution)
    # NVML counts the one that is left from 0.
    driver.seen = [Gpu(0, "GPU-b", "A5000", 24564)]
    for outcome in chain.run_beams(case, [2, 3]):
        assert outcome.success, outcome.error
    stand = {slot.uuid: (slot.usable, slot.lost) for slot in chain.site.ledger.slots.all()}
    assert stand == {"GPU-a": (False, True), "GPU-b": (True, False)}


def test_the_monitor_notes_a_loss_while_nobody_simulates(tmp_path: Path, driver: Driver) -> None:
    chain, _ = site(tmp_path)
    driver.seen = [A]
    evaluate(chain, "gpu_monitor")
    assert [slot.uuid for slot in chain.site.ledger.slots.all() if slot.lost] == ["GPU-b"]
    driver.seen = [A, B]
    evaluate(chain, "gpu_monitor")
    assert [slot.uuid for slot in chain.site.ledger.slots.all() if slot.lost] == []


@pytest.mark.parametrize("execution", [{}, DECLARED], ids=["as NVML says", "declared"])
def test_services_that_start_without_the_driver_keep_the_limits(
    tmp_path: Path, driver: Driver, execution: dict[str, Any]
) -> None:
    chain, _ = site(tmp_path, execution)
    ledger, settings = chain.site.ledger, chain.site.settings
    driver.seen = []
    assert pool_limit(settings, ledger) == 4, "two GPUs, and two runs may wait"
    content = instance_settings(settings, None, ledger)
    assert content["concurrency"]["runs"]["tag_concurrency_limits"][0] == {"key": "mqi/gpu", "limit": 4}


def test_a_machine_that_never_had_a_gpu_is_a_wrong_setting(tmp_path: Path, driver: Driver) -> None:
    driver.seen = []
    chain, case = site(tmp_path)
    (outcome,) = chain.run_beams(case, [2])
    assert outcome.code == "configuration"
    assert "needs 1 GPUs for a beam, 0 are here" in outcome.error

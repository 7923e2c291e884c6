"""kill -9 of a worker or of its engine: nothing lives on, the slot is free, the retry gives the dose."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mqi_dagster.embedded_engine.install import Installation
from mqi_dagster.synthetic.request import BuiltInPlan
from tests.chain.chain import Chain, deliver, mcsquare_engine, quick_engine
from tests.chain.processes import alive, descendants, worker_of
from tests.waiting import wait_for


def dose_bytes(chain: Chain, key: str) -> bytes:
    (path,) = chain.handover.glob(f"*/{key}/rt_dose.dcm")
    return path.read_bytes()


def require_dead(processes: dict[int, str]) -> None:
    wait_for(lambda: not alive(processes), "no process lives on")


def chain_of(
    tmp_path: Path, engine: dict[str, Any], instance: dg.DagsterInstance, plan: BuiltInPlan
) -> Chain:
    return Chain(
        tmp_path / "site",
        {"engine": engine, "execution": {"heartbeat_seconds": 0.5, "stale_seconds": 5}},
        given=deliver(tmp_path / "in", plan=plan).folder,
        instance=instance,
    )


QUICK_PLAN = BuiltInPlan(beams=2, layers=1, spots=9, layer_seconds=0.05, energies_mev=(120.0, 150.0))
MC_PLAN = BuiltInPlan(beams=1, layers=1, spots=4, layer_seconds=0.02, energies_mev=(120.0,))


@pytest.mark.parametrize(
    "reported",
    [pytest.param(True, id="Dagster knows", marks=pytest.mark.slow), pytest.param(False, id="nobody knows")],
)
def test_after_the_death_of_a_worker_the_retry_succeeds(
    tmp_path: Path, disk_instance: dg.DagsterInstance, reported: bool
) -> None:
    trace = tmp_path / "trace"
    chain = chain_of(
        tmp_path, quick_engine("--seconds", "60", "--trace", str(trace)), disk_instance, QUICK_PLAN
    )
    case, _ = chain.run_intake()
    key = f"{case}__b02"
    disk_instance.add_dynamic_partitions("beam", [key])
    with worker_of(chain, tmp_path / "dagster", "beam", key) as worker:
        wait_for(trace.exists, "the engine runs")
        wait_for(lambda: any(lease.job_id for lease in chain.site.ledger.leases.all()), "the job is known")
        running = descendants(worker.pid)
        assert any("quick.py" in command for command in running.values())
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        require_dead(running)
    assert chain.handed_over_files() == []
    if reported:
        for record in disk_instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
            disk_instance.report_run_failed(record.dagster_run)

    chain.change({"engine": {"profiles": {"test": quick_engine()["profiles"]["test"]}}})
    # The one slot is free for another beam as well.
    other, again = chain.run_beams(case, [3, 2])

    assert other.success, other.error
    assert again.success, again.error
    assert chain.site.ledger.leases.all() == []
    attempts = [(a.number, a.outcome) for a in chain.site.ledger.attempts.history(key)]
    # A lost worker costs no budget: the attempt is continued.
    assert attempts == [(1, "succeeded")]

    undisturbed = Chain(tmp_path / "undisturbed", {"engine": quick_engine()}, given=chain.given)
    undisturbed.run_intake()
    undisturbed.run_beams(case, [2])
    assert dose_bytes(chain, key) == dose_bytes(undisturbed, key)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "engine"])
def test_no_mcsquare_outlives_its_worker_or_its_engine(
    tmp_path: Path, disk_instance: dg.DagsterInstance, mcsquare: Installation, victim: str
) -> None:
    chain = chain_of(tmp_path, mcsquare_engine(2e6), disk_instance, MC_PLAN)
    case, _ = chain.run_intake()
    key = f"{case}__b02"
    disk_instance.add_dynamic_partitions("beam", [key])

    with worker_of(chain, tmp_path / "dagster", "beam", key) as worker:
        wait_for(
            lambda: any("MCsquare" in text for text in descendants(worker.pid).values()), "MCsquare runs", 200
        )
        wait_for(lambda: any(lease.job_id for lease in chain.site.ledger.leases.all()), "the job is known")
        running = descendants(worker.pid)
        if victim == "worker":
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            require_dead(running)
        else:
            (engine,) = (pid for pid, command in running.items() if "mqi-engine" in command)
            os.kill(engine, signal.SIGKILL)
            require_dead(running)
            assert worker.wait(200) == 1
            assert chain.site.ledger.leases.all() == []
            (attempt,) = chain.site.ledger.attempts.history(key)
            assert attempt.outcome == "failed"
            assert "exit code -9" in (attempt.cause or "")
    assert chain.handed_over_files() == []

    chain.change({"engine": {"histories": 20000}})
    (again,) = chain.run_beams(case, [2])
    assert again.success, again.error
    assert chain.site.ledger.leases.all() == []

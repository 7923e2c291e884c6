"""Runs are dead when their worker is, whatever clocks and heartbeats say; what ended runs hold goes."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mqi_dagster.compute.waiting import wait_for_slot
from mqi_dagster.execution.processes import process_id
from mqi_dagster.ledger.availability import Need
from mqi_dagster.ledger.leases import Lease
from mqi_dagster.ledger.slots import SlotKind
from mqi_dagster.resources import gpu_pool
from mqi_dagster.resources.gpu_pool import GpuPool, this_host
from mqi_dagster.sensors.reaper import NO_SIGN_SECONDS, end_dead_runs
from tests.chain.chain import Chain
from tests.chain.ended_runs import BEAM, evaluate, started
from tests.chain.waiting_beams import once_it_waits

WORKER = """
import sys, time
from pathlib import Path
from mqi_dagster.execution.sign_of_life import SignsOfLife
SignsOfLife(Path(sys.argv[1])).give(sys.argv[2])
print("given", flush=True)
time.sleep(300)
"""


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "site", {"execution": {"slots": 2, "stale_seconds": 60}})


@contextmanager
def worker_of(chain: Chain, run: dg.DagsterRun) -> Iterator[subprocess.Popen[str]]:
    """A process that is the worker of a run."""
    folder = chain.site.settings.paths.state / "workers"
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), run.run_id], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "given\n"
        yield process
    finally:
        process.kill()
        process.wait()


def lease_of(chain: Chain, run: dg.DagsterRun, *, age_seconds: float = 0.0) -> Lease:
    """A lease of a run, as old as a test wants."""
    GpuPool(chain.site).declare()
    ledger = chain.site.ledger
    with pytest.MonkeyPatch.context() as then:
        then.setattr(ledger, "_clock", lambda: datetime.now(UTC) - timedelta(seconds=age_seconds))
        lease = ledger.acquire(BEAM, run.run_id, Need(SlotKind.CPU), stale_after=timedelta(seconds=60))
    assert isinstance(lease, Lease)
    return lease


def status(chain: Chain, run: dg.DagsterRun) -> str:
    found = chain.instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status.value


def test_a_run_whose_worker_is_gone_is_ended_and_goes_on(chain: Chain) -> None:
    run = started(chain)
    lease_of(chain, run)
    with worker_of(chain, run):
        evaluate(chain, "reaper")
        assert status(chain, run) == "STARTED"
    evaluate(chain, "reaper")
    assert status(chain, run) == "FAILURE"
    assert chain.site.ledger.leases() == []
    (request,) = evaluate(chain, "run_outcomes")
    assert request.tags["mqi/retry_of"] == run.run_id
    evaluate(chain, "reaper")
    assert chain.site.signs_of_life.known() == [], "no sign of an ended run stays"


@pytest.mark.parametrize("age", [3600.0, -3600.0], ids=["silent or clock forward", "clock set back"])
def test_a_living_worker_keeps_run_and_lease_however_stale_its_heartbeat(chain: Chain, age: float) -> None:
    run = started(chain)
    lease = lease_of(chain, run, age_seconds=age)
    assert lease.is_stale(datetime.now(UTC), timedelta(seconds=60))
    with worker_of(chain, run):
        for _ in range(3):
            evaluate(chain, "reaper")
        assert status(chain, run) == "STARTED"
        assert chain.site.ledger.lease_of(BEAM) == lease
        assert not GpuPool(chain.site).job_ended(lease), "nor does any other beam get its slot"


def test_a_run_that_is_being_cancelled_without_a_worker_is_cancelled(chain: Chain) -> None:
    run = started(chain)
    with worker_of(chain, run):
        chain.instance.report_run_canceling(run)
        evaluate(chain, "reaper")
        assert status(chain, run) == "CANCELING"
    evaluate(chain, "reaper")
    assert status(chain, run) == "CANCELED"
    assert evaluate(chain, "run_outcomes") == []


def test_a_run_without_any_sign_is_given_time_and_its_heartbeat_counts(chain: Chain) -> None:
    crashed, old = started(chain), started(chain, partition=BEAM)
    lease_of(chain, old)
    now, seen = [1000.0], dict[str, float]()

    def look() -> int:
        return end_dead_runs(chain.instance, chain.site, seen, print, lambda: now[0])

    assert look() == 0
    now[0] += NO_SIGN_SECONDS - 1
    assert look() == 0
    now[0] += 2
    assert look() == 1
    assert (status(chain, crashed), status(chain, old)) == ("FAILURE", "STARTED")
    chain.site.ledger.release(chain.site.ledger.leases()[0])
    lease_of(chain, old, age_seconds=3600)
    assert look() == 1
    assert status(chain, old) == "FAILURE"
    assert look() == 0
    assert seen == {}


def test_a_run_in_a_terminal_is_left_alone(chain: Chain) -> None:
    from dagster._core.test_utils import create_run_for_test

    run = create_run_for_test(chain.instance, "beam", status=dg.DagsterRunStatus.STARTED)
    seen = dict[str, float]()
    for moment in (0.0, 1e6):
        assert end_dead_runs(chain.instance, chain.site, seen, print, lambda now=moment: now) == 0
    assert status(chain, run) == "STARTED"


@pytest.mark.parametrize("status_now", [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
def test_a_run_of_a_terminal_that_was_killed_is_ended_by_its_sign(
    chain: Chain, status_now: dg.DagsterRunStatus
) -> None:
    from dagster._core.test_utils import create_run_for_test

    run = create_run_for_test(chain.instance, "beam", status=status_now)
    with worker_of(chain, run):
        evaluate(chain, "reaper")
        assert status(chain, run) == status_now.value
    evaluate(chain, "reaper")
    assert status(chain, run) == "FAILURE"
    evaluate(chain, "reaper")
    assert chain.site.signs_of_life.known() == []


@pytest.mark.parametrize("worker", ["gone", "living"])
def test_what_a_run_held_under_another_name_of_this_machine_is_freed_with_its_end(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, worker: str
) -> None:
    run = started(chain)
    with monkeypatch.context() as before:
        before.setattr(gpu_pool, "this_host", lambda: "before")
        lease = lease_of(chain, run, age_seconds=3600)
    assert lease.host == "before"
    GpuPool(chain.site).free_ended(chain.instance)
    assert chain.site.ledger.leases() == [lease], "its run may be at work on another machine"
    with worker_of(chain, run):
        chain.instance.report_run_failed(run)
        if worker == "living":
            GpuPool(chain.site).free_ended(chain.instance)
            assert chain.site.ledger.leases() == [lease]
    GpuPool(chain.site).free_ended(chain.instance)
    assert chain.site.ledger.leases() == []


class Step:
    """What `wait_for_slot` knows of the step that it is called in."""

    def __init__(self, chain: Chain, run: dg.DagsterRun) -> None:
        self.instance, self.run, self.log = chain.instance, run, logging.getLogger("step")


def wait_until_said(chain: Chain, run: dg.DagsterRun, then: Callable[[], None]) -> tuple[Lease, str]:
    """The slot that a run gets once it has said why it waits, and something was done; and what it said."""
    step: Any = Step(chain, run)
    with once_it_waits(chain, BEAM, then) as said:
        lease = wait_for_slot(step, chain.site, GpuPool(chain.site), BEAM)
    return lease, said[0]


def test_a_silent_worker_that_lives_keeps_its_beam_from_another_run(chain: Chain) -> None:
    first, second = started(chain), started(chain)
    lease = lease_of(chain, first, age_seconds=3600)
    with worker_of(chain, first) as worker:

        def end() -> None:
            assert chain.site.ledger.lease_of(BEAM) == lease
            worker.kill()

        found, said = wait_until_said(chain, second, end)
    assert said.startswith(f"run {first.run_id} has the beam and is silent")
    assert (found.owner, found.token > lease.token) == (second.run_id, True)


def test_an_engine_without_its_worker_keeps_its_beam_from_another_run(chain: Chain) -> None:
    first, second = started(chain), started(chain)
    engine = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        lease = lease_of(chain, first, age_seconds=3600)
        with pytest.MonkeyPatch.context() as then:
            then.setattr(chain.site.ledger, "_clock", lambda: datetime.now(UTC) - timedelta(seconds=3600))
            lease = chain.site.ledger.set_job(lease, "local", process_id(engine.pid))

        def end() -> None:
            assert chain.site.ledger.lease_of(BEAM) == lease
            engine.kill()
            engine.wait()

        found, said = wait_until_said(chain, second, end)
    finally:
        engine.kill()
        engine.wait()
    assert "is silent" in said
    assert found.owner == second.run_id


def test_a_beam_that_holds_a_slot_elsewhere_says_so(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = started(chain), started(chain)
    with monkeypatch.context() as before:
        before.setattr(gpu_pool, "this_host", lambda: "before")
        lease_of(chain, first)
    found, said = wait_until_said(chain, second, lambda: chain.instance.report_run_failed(first))
    assert said == f"the beam still holds a slot of before, until its run {first.run_id} has ended"
    assert (found.owner, found.host) == (second.run_id, this_host())


def test_one_run_that_cannot_be_looked_at_keeps_no_other_waiting(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, dead = started(chain), started(chain)
    for run in (broken, dead):
        with worker_of(chain, run):
            pass
    real = chain.instance.get_run_by_id

    def get(run_id: str) -> dg.DagsterRun | None:
        if run_id == broken.run_id:
            raise OSError(5, "Input/output error", "/dagster/Hong^Gildong")
        return real(run_id)

    said: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(chain.instance, "get_run_by_id", get)
        assert end_dead_runs(chain.instance, chain.site, {}, said.append) == 1
    assert status(chain, dead) == "FAILURE"
    (words,) = said
    assert "Input/output error" in words and "Hong" not in words


@pytest.mark.parametrize(("age", "kept"), [(0.0, 1), (61.0, 0)])
def test_what_a_deleted_run_held_is_free_again_once_its_heartbeat_is_stale(
    chain: Chain, age: float, kept: int
) -> None:
    run = started(chain)
    lease_of(chain, run, age_seconds=age)
    chain.instance.delete_run(run.run_id)
    GpuPool(chain.site).free_ended(chain.instance)
    assert len(chain.site.ledger.leases()) == kept

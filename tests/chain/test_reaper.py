"""Runs are dead when their worker is, whatever clocks and heartbeats say; what ended runs hold goes.

Started runs are ended by the daemon's own run monitoring, which asks the launcher of the site's instance.
"""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._daemon.monitoring import execute_run_monitoring_iteration

from mqi_dagster.compute.run_launcher import NO_SIGN_SECONDS, RunLauncher
from mqi_dagster.compute.run_workers import IN_WORK, end_dead_runs
from mqi_dagster.compute.slots import wait_for_slot
from mqi_dagster.execution import sign_of_life
from mqi_dagster.execution.processes import process_id
from mqi_dagster.ledger.leases import Lease, Need
from mqi_dagster.ledger.slots import SlotKind
from mqi_dagster.lifecycle.failures import first_cause
from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.resources import gpu_pool
from mqi_dagster.resources.gpu_pool import GpuPool, this_host
from mqi_dagster.resources.site import SETTINGS_VARIABLE
from tests.chain.chain import Chain
from tests.chain.ended_runs import BEAM, evaluate, made, started
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
def chain(tmp_path: Path, empty_instance: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chain]:
    """A site with the instance that its services open."""
    made = Chain(tmp_path / "site", {"execution": {"slots": 2, "stale_seconds": 60}})
    monkeypatch.setenv(SETTINGS_VARIABLE, str(made.settings_file))
    settings = made.site.settings
    shutil.copytree(empty_instance, settings.paths.dagster_home)
    write_instance(settings)
    with open_instance(settings) as made.instance:
        yield made


class Daemon:
    """What the run monitoring knows of the daemon that it is part of."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance

    def create_request_context(self) -> None:
        """Only needed to resume a run, which is not done here."""


def monitor(chain: Chain) -> list[str]:
    """One look of the daemon's run monitoring; what it could not do."""
    daemon: Any = Daemon(chain.instance)
    errors = execute_run_monitoring_iteration(daemon, logging.getLogger("monitoring"))
    return [error.message for error in errors if error is not None]


def look(chain: Chain) -> None:
    """One look of everything that ends dead runs and frees what they hold."""
    assert monitor(chain) == []
    evaluate(chain, "reaper")


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
        then.setattr(ledger.database, "clock", lambda: datetime.now(UTC) - timedelta(seconds=age_seconds))
        lease = ledger.leases.acquire(BEAM, run.run_id, Need(SlotKind.CPU), stale_after=timedelta(seconds=60))
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
        look(chain)
        assert status(chain, run) == "STARTED"
    look(chain)
    assert status(chain, run) == "FAILURE"
    assert chain.site.ledger.leases.all() == []
    cause = first_cause(chain.instance, run.run_id)
    assert (cause.code, cause.again) == (None, True)
    assert cause.text == "the run ended without an error of its own: its worker is gone"
    (request,) = evaluate(chain, "run_outcomes")
    assert request.tags["mqi/retry_of"] == run.run_id
    evaluate(chain, "reaper")
    assert chain.site.signs_of_life.known() == [], "no sign of an ended run stays"


def test_where_the_launcher_of_a_site_cannot_tell_the_reaper_ends_dead_runs(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunLauncher, "supports_check_run_worker_health", False)
    run = started(chain)
    with worker_of(chain, run):
        look(chain)
        assert status(chain, run) == "STARTED"
    look(chain)
    assert status(chain, run) == "FAILURE"


@pytest.mark.parametrize("age", [3600.0, -3600.0], ids=["silent or clock forward", "clock set back"])
def test_a_living_worker_keeps_run_and_lease_however_stale_its_heartbeat(chain: Chain, age: float) -> None:
    run = started(chain)
    lease = lease_of(chain, run, age_seconds=age)
    assert lease.is_stale(datetime.now(UTC), timedelta(seconds=60))
    with worker_of(chain, run):
        for _ in range(3):
            look(chain)
        assert status(chain, run) == "STARTED"
        assert chain.site.ledger.leases.get(BEAM) == lease
        assert not GpuPool(chain.site).job_ended(lease), "nor does any other beam get its slot"


def test_a_stopped_worker_keeps_its_run(chain: Chain) -> None:
    run = started(chain)
    lease_of(chain, run, age_seconds=3600)
    with worker_of(chain, run) as worker:
        worker.send_signal(signal.SIGSTOP)
        look(chain)
        assert status(chain, run) == "STARTED"
        worker.send_signal(signal.SIGCONT)


def test_a_worker_is_known_by_its_lock_wherever_its_process_is_counted(chain: Chain) -> None:
    """Another container of the same site has other pids, and sees the same locks."""
    run = started(chain)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    message = f"Started process for run (pid: {gone.pid})."
    chain.instance.report_engine_event(message, run, EngineEventData.in_process(gone.pid))
    with worker_of(chain, run):
        look(chain)
        assert status(chain, run) == "STARTED"
        chain.instance.report_run_canceling(run)
        look(chain)
        assert status(chain, run) == "CANCELING"


def test_a_run_that_is_being_cancelled_without_a_worker_is_cancelled(chain: Chain) -> None:
    run = started(chain)
    with worker_of(chain, run):
        chain.instance.report_run_canceling(run)
        look(chain)
        assert status(chain, run) == "CANCELING"
    look(chain)
    assert status(chain, run) == "CANCELED"
    assert evaluate(chain, "run_outcomes") == []


def test_a_run_without_any_sign_is_given_time_and_its_heartbeat_counts(chain: Chain) -> None:
    crashed, old = started(chain), started(chain, partition=BEAM)
    lease_of(chain, old)
    now = [1000.0]
    launcher = chain.instance.run_launcher
    assert isinstance(launcher, RunLauncher)
    launcher._monotonic = lambda: now[0]

    def states() -> tuple[str, str]:
        look(chain)
        return status(chain, crashed), status(chain, old)

    assert states() == ("STARTED", "STARTED")
    now[0] += NO_SIGN_SECONDS - 1
    assert states() == ("STARTED", "STARTED")
    now[0] += 2
    assert states() == ("FAILURE", "STARTED")
    chain.site.ledger.leases.release(chain.site.ledger.leases.all()[0])
    lease_of(chain, old, age_seconds=3600)
    assert states() == ("FAILURE", "FAILURE")


def test_a_run_that_gives_its_sign_late_is_given_time_again_if_it_loses_it(chain: Chain) -> None:
    run = started(chain)
    launcher = chain.instance.run_launcher
    assert isinstance(launcher, RunLauncher)
    launcher._monotonic = lambda: 0.0
    look(chain)
    launcher._monotonic = lambda: 1e6
    with worker_of(chain, run):
        look(chain)
        assert status(chain, run) == "STARTED"


def test_a_run_in_a_terminal_is_left_alone(chain: Chain) -> None:
    from dagster._core.test_utils import create_run_for_test

    run = create_run_for_test(chain.instance, "beam", status=dg.DagsterRunStatus.STARTED)
    launcher = chain.instance.run_launcher
    assert isinstance(launcher, RunLauncher)
    for moment in (0.0, 1e6):
        launcher._monotonic = lambda now=moment: now  # type: ignore[misc]
        look(chain)
    assert status(chain, run) == "STARTED"


def test_a_disk_that_cannot_be_read_ends_no_run(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = started(chain), started(chain)
    with worker_of(chain, run), worker_of(chain, other):
        pass
    real = sign_of_life.is_held

    def held(path: Path) -> bool | None:
        if path.name == run.run_id:
            raise OSError(5, "Input/output error", "/site/Hong^Gildong")
        return real(path)

    monkeypatch.setattr(sign_of_life, "is_held", held)
    (words,) = monitor(chain)
    assert "Input/output error" in words and "Hong" not in words
    assert (status(chain, run), status(chain, other)) == ("STARTED", "FAILURE")


def launched(chain: Chain, run: dg.DagsterRun) -> None:
    """It was handed to a worker, as the run monitoring counts from."""
    if run.status is dg.DagsterRunStatus.STARTING:
        event = DagsterEvent(event_type_value="PIPELINE_STARTING", job_name=run.job_name)
        chain.instance.report_dagster_event(event, run.run_id)


def test_a_run_that_dies_while_it_starts_is_ended_by_the_pid_that_it_has_told(chain: Chain) -> None:
    dead, silent = (made(chain, "beam", BEAM, dg.DagsterRunStatus.STARTING, {}) for _ in range(2))
    for run in (dead, silent):
        launched(chain, run)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        message = f"Started process for run (pid: {worker.pid})."
        chain.instance.report_engine_event(message, dead, EngineEventData.in_process(worker.pid))
        look(chain)
        assert (status(chain, dead), status(chain, silent)) == ("STARTING", "STARTING")
        worker.communicate(b"\n")
    look(chain)
    assert (status(chain, dead), status(chain, silent)) == ("FAILURE", "STARTING")


@pytest.mark.parametrize("status_now", [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
def test_a_run_of_a_terminal_that_was_killed_is_ended_by_its_sign(
    chain: Chain, status_now: dg.DagsterRunStatus
) -> None:
    from dagster._core.test_utils import create_run_for_test

    run = create_run_for_test(chain.instance, "beam", status=status_now)
    launched(chain, run)
    with worker_of(chain, run):
        look(chain)
        assert status(chain, run) == status_now.value
    look(chain)
    assert status(chain, run) == "FAILURE"
    look(chain)
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
    assert chain.site.ledger.leases.all() == [lease], "its run may be at work on another machine"
    with worker_of(chain, run):
        chain.instance.report_run_failed(run)
        if worker == "living":
            GpuPool(chain.site).free_ended(chain.instance)
            assert chain.site.ledger.leases.all() == [lease]
    GpuPool(chain.site).free_ended(chain.instance)
    assert chain.site.ledger.leases.all() == []


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
            assert chain.site.ledger.leases.get(BEAM) == lease
            worker.kill()

        found, said = wait_until_said(chain, second, end)
    assert said.startswith(f"run {first.run_id} has it and is silent")
    assert (found.owner, found.token > lease.token) == (second.run_id, True)


def test_an_engine_without_its_worker_keeps_its_beam_from_another_run(chain: Chain) -> None:
    first, second = started(chain), started(chain)
    engine = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        lease = lease_of(chain, first, age_seconds=3600)
        with pytest.MonkeyPatch.context() as then:
            then.setattr(
                chain.site.ledger.database, "clock", lambda: datetime.now(UTC) - timedelta(seconds=3600)
            )
            lease = chain.site.ledger.leases.set_job(lease, "local", process_id(engine.pid))

        def end() -> None:
            assert chain.site.ledger.leases.get(BEAM) == lease
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
    assert said == f"it still holds a slot of before, until its run {first.run_id} has ended"
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
        assert end_dead_runs(chain.instance, chain.site, IN_WORK, said.append) == 1
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
    assert len(chain.site.ledger.leases.all()) == kept

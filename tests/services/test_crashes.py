"""Crashes that nobody reports: the worker of a run and the code location that would have told of it."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import dagster as dg
import pytest

from mqi_dagster.ledger.alarms import AlarmKind
from tests.services.stack import HOLD, Stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STALE_SECONDS = 5
TERMINATE = """
mutation Terminate($runId: String!) {
  terminateRun(runId: $runId, terminatePolicy: SAFE_TERMINATE) { __typename }
}
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Stack]:
    """A site of its own: these tests leave nothing for others."""
    made = Stack(tmp_path / "stack", {"execution": {"retry_seconds": 1}})
    with made.running():
        yield made


def engine_of(site: Stack) -> int:
    """The one engine that runs now, once it has begun its work."""

    def at_work() -> list[int]:
        alive = site.engines()
        return [pid for what, pid, _, _ in site.traced() if what == "start" and pid in alive]

    return int(wait_for(at_work, "an engine runs", 240, report=site.report)[-1])


def worker_of(engine: int) -> int:
    """The run worker that started an engine."""
    return int(Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[1])


def stand_still(site: Stack, worker: int) -> None:
    """Stop a worker between two of its writes: within one it would keep every other writer out of a file."""
    databases = [site.site / "state" / "ledger.sqlite", *(site.site / "dagster").rglob("*.db")]

    def stopped_between() -> bool:
        os.kill(worker, signal.SIGSTOP)
        if any(is_locked(path) for path in databases):
            os.kill(worker, signal.SIGCONT)
            return False
        return True

    wait_for(stopped_between, "a moment in which the worker does not write")


def is_locked(database: Path) -> bool:
    """Whether somebody else writes into an SQLite file for longer than a moment."""
    with closing(sqlite3.connect(database, timeout=2, isolation_level=None)) as probe:
        try:
            probe.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        probe.execute("ROLLBACK")
    return False


def test_after_a_machine_crash_the_beam_is_taken_up_again_with_the_same_attempt(site: Stack) -> None:
    site.steer(seconds=HOLD)
    case = site.case_of(site.deliver(seed=71, beams=1))
    engine = engine_of(site)
    (crashed,) = site.runs("beam")
    lease = site.ledger().leases.get(f"{case}__b02")
    assert lease is not None and lease.owner == crashed.run_id
    start_again = site.crash("code", worker_of(engine))
    wait_for(lambda: engine not in site.engines(), "the engine dies with its worker")
    site.steer(seconds=0.3)
    start_again()
    wait_for(lambda: site.answers("code"), "the code location is there again")
    wait_for(lambda: len(site.runs("beam")) == 2, "the beam is taken up again", report=site.report)
    wait_for(lambda: len(site.starts()) == 2, "an engine runs again", report=site.report)
    site.wait_for_conclusion(case)
    first, second = site.runs("beam")
    assert (first.run_id, first.status) == (crashed.run_id, dg.DagsterRunStatus.FAILURE)
    assert second.status is dg.DagsterRunStatus.SUCCESS
    assert second.tags["mqi/retry_of"] == first.run_id
    attempts = [(one.number, one.outcome) for one in site.ledger().attempts.history(f"{case}__b02")]
    assert attempts == [(1, "succeeded")]
    assert site.ledger().leases.all() == []
    # A code location that is slow to come back is one of its own; what goes on by itself is none.
    assert {alarm.kind for alarm in site.ledger().alarms.all()} <= {AlarmKind.CODE_AWAY}
    assert site.materialised("interpreted_csvs") == {f"{case}__b02": 1}, "a finished step is not repeated"


def test_a_worker_that_stands_still_longer_than_its_heartbeat_keeps_its_run(site: Stack) -> None:
    site.steer(seconds=HOLD)
    case = site.case_of(site.deliver(seed=72, beams=1))
    worker = worker_of(engine_of(site))
    stand_still(site, worker)
    try:
        lease = site.ledger().leases.get(f"{case}__b02")
        assert lease is not None
        stale = lease.heartbeat_at.timestamp() + STALE_SECONDS
        wait_for(lambda: len(site.ticks_since("reaper", stale)) >= 3, "the reaper has looked three times")
        assert site.ledger().leases.get(f"{case}__b02") == lease
        assert [run.status for run in site.runs("beam")] == [dg.DagsterRunStatus.STARTED]
    finally:
        os.kill(worker, signal.SIGCONT)
    site.steer()
    site.wait_for_conclusion(case)
    assert [run.status for run in site.runs("beam")] == [dg.DagsterRunStatus.SUCCESS]
    assert len(site.starts()) == 1


def test_a_cancelled_run_whose_worker_is_gone_is_ended_and_frees_its_slot(site: Stack) -> None:
    site.steer(seconds=HOLD)
    case = site.case_of(site.deliver(seed=73, beams=1))
    worker = worker_of(engine_of(site))
    (run,) = site.runs("beam")
    stand_still(site, worker)
    # The pages wait for the worker, which cannot answer.
    with suppress(TimeoutError):
        site.graphql(TERMINATE, runId=run.run_id)
    wait_for(
        lambda: site.runs("beam")[0].status is dg.DagsterRunStatus.CANCELING,
        "the run is being cancelled",
        report=site.report,
    )
    site.crash("code", worker)()
    wait_for(lambda: not site.unfinished(), "the run has ended", report=site.report)
    wait_for(lambda: site.ledger().leases.all() == [], "the slot is free", report=site.report)
    assert [run.status for run in site.runs("beam")] == [dg.DagsterRunStatus.CANCELED]
    assert site.concluded(case) == 0
    assert site.ledger().alarms.open() == []


def test_an_engine_that_fails_for_good_is_an_alarm_with_its_cause_until_it_succeeds(site: Stack) -> None:
    site.steer(seconds=0, failing=("1G000:TX",))
    case = site.case_of(site.deliver(seed=74, beams=1))
    (alarm,) = wait_for(lambda: site.ledger().alarms.open(), "an alarm", 240, report=site.report)
    assert (alarm.kind, alarm.subject, alarm.count) == ("beam_failed", f"{case}__b02", 1)
    assert "exit code" in alarm.text and "mqi case retry" in alarm.text
    assert [run.status for run in site.runs("beam")] == [dg.DagsterRunStatus.FAILURE]
    site.steer()
    site._mqi("case", "retry", case, "--site", str(site.site))
    site.wait_for_conclusion(case)
    wait_for(lambda: not site.ledger().alarms.open(), "the alarm is cleared", report=site.report)

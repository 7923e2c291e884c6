"""What a job's end says to whoever waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mqi_dagster.execution.job import JobHandle, JobState, JobStatus, LogPiece
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.engine_log import EngineLog
from mqi_dagster.hpc.errors import ConnectError
from mqi_dagster.hpc.executor import SlurmExecutor
from mqi_dagster.hpc.polling import PollResult, QueueRecord, parse_result
from mqi_dagster.hpc.verdict import judge
from mqi_dagster.ledger.database import sqlite_url
from mqi_dagster.ledger.ledger import Ledger
from tests.hpc.hpc_cases import (
    BEAM,
    FOLDER,
    JOB_ID,
    KEY,
    NAME,
    NOW,
    SUBMITTED,
    make_job,
    make_row,
    make_slurm,
    result_text,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(sqlite_url(tmp_path / "ledger.db"))
    yield opened
    opened.close()


def ended(ledger: Ledger, nowhere: Connection, code: int, good: tuple[int, ...] = (0,)) -> JobStatus:
    """The state of a job that has left a result with an exit code."""
    slurm = make_slurm()
    result = parse_result(result_text(exit_code=code))
    assert result is not None
    look = PollResult({}, {}, {(FOLDER, JOB_ID): result}, {})
    ledger.jobs.reserve("hpc", KEY, BEAM, "P1.fx0001/b01")
    ledger.jobs.mark_submitted("hpc", KEY, JOB_ID)
    ledger.jobs.observe("hpc", [judge(make_row(submitted=SUBMITTED), FOLDER, look, slurm.intervals, NOW)])
    executor = SlurmExecutor("hpc", nowhere.host, slurm, ledger, "moqui_tps.in")
    job = make_job(Path("/x"), success_exit_codes=good)
    return executor.poll(job, JobHandle("hpc", JOB_ID))


def test_a_setup_that_failed_is_not_told_as_an_end_of_the_engine(ledger: Ledger, nowhere: Connection) -> None:
    found = ended(ledger, nowhere, 95)
    assert (found.state, found.exit_code) == (JobState.FAILED, None), "the profile knows nothing of this code"
    assert found.reason.startswith("the modules or scripts of the settings could not be loaded")


def test_another_exit_code_is_the_engines(ledger: Ledger, nowhere: Connection) -> None:
    assert ended(ledger, nowhere, 3) == JobStatus(JobState.FAILED, 3, "ended with exit code 3")


def test_a_job_that_waits_for_a_silent_cluster_raises_an_alarm_after_a_while(
    ledger: Ledger, nowhere: Connection
) -> None:
    ledger.jobs.reserve("hpc", KEY, BEAM, "P1.fx0001/b01")
    ledger.jobs.mark_submitted("hpc", KEY, JOB_ID)
    turn = ledger.clusters.take_turn("hpc", shortest=timedelta(seconds=10), hold=timedelta(minutes=5))
    assert turn is not None
    hour = timedelta(hours=1)
    ledger.clusters.end_turn(turn, next_in=hour, interval=hour, failure="no route")
    at_once = make_slurm(intervals={"alarm_seconds": 1e-6})
    alarms = []
    for slurm in (make_slurm(), at_once):
        executor = SlurmExecutor("hpc", nowhere.host, slurm, ledger, "moqui_tps.in")
        status = executor.poll(make_job(Path("/x")), JobHandle("hpc", JOB_ID))
        assert status.state is JobState.WAITING
        alarms.append(status.alarm)
    assert alarms[0] == ""
    assert alarms[1].startswith("cluster hpc has not answered since ")
    assert alarms[1].endswith("UTC: no route")


def test_a_log_that_cannot_be_read_has_the_cluster_asked_at_once(
    ledger: Ledger, nowhere: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> LogPiece:
        raise ConnectError("no route")

    monkeypatch.setattr(EngineLog, "read", away)
    slurm, hour = make_slurm(), timedelta(hours=1)
    ledger.jobs.reserve("hpc", KEY, BEAM, "P1.fx0001/b01")
    ledger.jobs.mark_submitted("hpc", KEY, JOB_ID)
    runs = PollResult({JOB_ID: QueueRecord("RUNNING", "None", NAME, KEY, SUBMITTED, "n1")}, {}, {}, {})
    ledger.jobs.observe("hpc", [judge(make_row(submitted=SUBMITTED), FOLDER, runs, slurm.intervals, NOW)])
    executor = SlurmExecutor("hpc", nowhere.host, slurm, ledger, "moqui_tps.in")
    for failure, due in ((None, True), ("no route", False)):
        ledger.clusters.poll_soon("hpc")
        turn = ledger.clusters.take_turn("hpc", shortest=hour, hold=hour)
        assert turn is not None
        ledger.clusters.end_turn(turn, next_in=hour, interval=hour, failure=failure)
        with pytest.raises(ConnectError):
            executor.tail(make_job(Path("/x")), JobHandle("hpc", JOB_ID), 0)
        again = ledger.clusters.take_turn("hpc", shortest=hour, hold=hour)
        assert (again is not None) is due, "one that is known to be silent is asked more and more seldom"
        if again is not None:
            ledger.clusters.leave_turn(again)

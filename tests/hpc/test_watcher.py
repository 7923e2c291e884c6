"""The shared look: what it writes down, when the next one is due, and that no answer changes no job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from mqi_dagster.hpc import watcher
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import ConnectError, SchedulerUnavailableError
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.hpc.polling import PollResult, QueueRecord, Result, parse_result
from mqi_dagster.hpc.watcher import Watcher
from mqi_dagster.ledger.cluster_jobs import ClusterJobState as State
from mqi_dagster.ledger.database import sqlite_url
from mqi_dagster.ledger.ledger import Ledger
from tests.hpc.hpc_cases import BEAM, NAME, NOW, ROOT, SUBMITTED, make_slurm, result_text


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Cluster:
    """What a look sees, and what was asked after."""

    def __init__(self) -> None:
        self.queue: dict[str, QueueRecord] = {}
        self.results: dict[tuple[str, str], Result] = {}
        self.fails: BaseException | None = None
        self.asked: list[list[str]] = []

    def look(self, connection: Connection, jobs: Iterable[tuple[str, JobFolder]]) -> PollResult:
        self.asked.append(sorted(job_id for job_id, _ in jobs))
        if self.fails is not None:
            raise self.fails
        return PollResult(self.queue, {}, self.results, {})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    opened = Ledger.open(sqlite_url(tmp_path / "ledger.db"), clock)
    yield opened
    opened.close()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(watcher, "poll_jobs", made.look)
    return made


@pytest.fixture
def watching(ledger: Ledger, cluster: Cluster, clock: Clock, nowhere: Connection) -> Watcher:
    slurm = make_slurm(intervals={"poll_seconds": 10, "poll_maximum_seconds": 30})
    return Watcher("hpc", nowhere, slurm, ledger, clock)


def submitted(ledger: Ledger, cluster: Cluster, number: int, state: str = "RUNNING") -> None:
    key, job_id = f"d{number}-1", str(100 + number)
    ledger.jobs.reserve("hpc", key, BEAM, "P1.fx0001/b01")
    ledger.jobs.mark_submitted("hpc", key, job_id)
    cluster.queue[job_id] = QueueRecord(state, "None", NAME, key, SUBMITTED, "n1")


def states(ledger: Ledger) -> list[State]:
    return [job.state for job in ledger.jobs.all("hpc")]


def test_one_look_asks_after_every_open_job_and_no_other(
    ledger: Ledger, cluster: Cluster, watching: Watcher
) -> None:
    for number in range(3):
        submitted(ledger, cluster, number)
    ledger.jobs.reserve("hpc", "d9-1", BEAM, "P1.fx0001/b01")
    ledger.jobs.reserve("other", "d8-1", BEAM, "P1.fx0001/b01")
    ledger.jobs.mark_submitted("other", "d8-1", "108")
    assert watching.poll_if_due() is True
    assert cluster.asked == [["100", "101", "102"]]
    assert states(ledger) == [State.RUNNING] * 3 + [State.RESERVED]


def test_two_jobs_of_one_id_are_each_judged_by_their_own_folder(
    ledger: Ledger, cluster: Cluster, watching: Watcher
) -> None:
    # A controller that was restarted without its state gives out an id again.
    for beam, code in (("b01", 3), ("b02", 0)):
        key, place = f"{beam}-1", f"P1.fx0001/{beam}"
        ledger.jobs.reserve("hpc", key, f"P1.fx0001__{beam}", place)
        ledger.jobs.mark_submitted("hpc", key, "100")
        found = parse_result(result_text(exit_code=code))
        assert found is not None
        cluster.results[f"{ROOT}/{place}/{key}", "100"] = found
    assert watching.poll_if_due() is True
    ends = {job.key: (job.state, job.exit_code) for job in ledger.jobs.all("hpc")}
    assert ends == {"b01-1": (State.FAILED, 3), "b02-1": (State.SUCCEEDED, 0)}


def test_without_jobs_the_cluster_is_not_asked(cluster: Cluster, watching: Watcher) -> None:
    assert watching.poll_if_due() is True
    assert cluster.asked == []


def test_a_cluster_without_jobs_is_asked_by_who_wants_to_know_whether_it_answers(
    ledger: Ledger, cluster: Cluster, watching: Watcher, clock: Clock
) -> None:
    cluster.fails = ConnectError("no route")
    watching.look()
    look = ledger.clusters.get("hpc")
    assert look is not None and (look.failing_since, look.failure) == (NOW, "no route")
    cluster.fails = None
    clock.forward(30)
    for _ in range(3):
        watching.look()
        clock.forward(9.5)
    look = ledger.clusters.get("hpc")
    assert look is not None and (look.failing_since, look.interval_seconds) == (None, 10)
    assert cluster.asked == [[]] * 4
    submitted(ledger, cluster, 0)
    watching.look()
    assert len(cluster.asked) == 4, "its job's run asks"


def test_looks_grow_rarer_while_nothing_changes_and_not_beyond_the_limit(
    ledger: Ledger, cluster: Cluster, watching: Watcher, clock: Clock
) -> None:
    submitted(ledger, cluster, 0)
    looks = []
    for second in range(140):
        if watching.poll_if_due():
            looks.append(second)
        clock.forward(1)
    assert looks == [0, 10, 25, 48, 78, 108, 138]
    cluster.queue["100"] = QueueRecord("COMPLETING", "None", NAME, "d0-1", SUBMITTED, "n1")
    clock.forward(30)
    assert watching.poll_if_due() is True
    clock.forward(11)
    assert watching.poll_if_due() is True, "something had changed"


def test_a_look_without_an_answer_changes_no_job_and_is_noted(
    ledger: Ledger, cluster: Cluster, watching: Watcher, clock: Clock
) -> None:
    submitted(ledger, cluster, 0)
    assert watching.poll_if_due() is True
    before = ledger.jobs.all("hpc")
    cluster.queue.clear()
    for failure in (SchedulerUnavailableError("squeue does not answer"), ConnectError("no route")):
        cluster.fails = failure
        for _ in range(10):
            clock.forward(60)
            assert watching.poll_if_due() is False
    assert ledger.jobs.all("hpc") == before, "for as long as it takes"
    look = ledger.clusters.get("hpc")
    assert look is not None
    assert (look.failing_since, look.failure) == (NOW + timedelta(seconds=60), "no route")
    assert (look.polled_at, look.interval_seconds) == (NOW, 30)
    cluster.fails = None
    clock.forward(60)
    assert watching.poll_if_due() is True
    look = ledger.clusters.get("hpc")
    assert look is not None and (look.failing_since, look.failure) == (None, "")
    assert states(ledger) == [State.RUNNING], "the silence begins when the queue has answered"


def test_who_is_interrupted_gives_the_turn_back_at_once(
    ledger: Ledger, cluster: Cluster, watching: Watcher
) -> None:
    submitted(ledger, cluster, 0)
    cluster.fails = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        watching.poll_if_due()
    look = ledger.clusters.get("hpc")
    assert look is not None and look.polled_at is None, "nothing was seen"
    cluster.fails = ConnectError("no route")
    assert watching.poll_if_due() is False
    cluster.fails = KeyboardInterrupt()
    ledger.clusters.poll_soon("hpc")
    with pytest.raises(KeyboardInterrupt):
        watching.poll_if_due()
    look = ledger.clusters.get("hpc")
    assert look is not None and (look.failing_since, look.failure) == (NOW, "no route")
    cluster.fails = None
    assert watching.poll_if_due() is True
    assert states(ledger) == [State.RUNNING]

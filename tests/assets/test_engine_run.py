"""The engine's job seen from the step: submitted until it exists, watched and its log read to the end.

The executor is a fake that answers as the test has laid down; the real ones have tests of their own.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import cast

import dagster as dg
import pytest

from mqi_dagster.compute.engine_run import EngineRun
from mqi_dagster.compute.progress import LiveProgress
from mqi_dagster.compute.retrying import Retrying
from mqi_dagster.engine_contract.progress import EngineProgress
from mqi_dagster.errors import (
    ConfigurationError,
    EngineError,
    InfrastructureError,
    LeaseLostError,
    UnreachableError,
)
from mqi_dagster.execution.job import Job, JobHandle, JobState, JobStatus, LogPiece
from mqi_dagster.hpc.errors import ConnectError, HostKeyError, IntegrityError, SubmitRejectedError
from mqi_dagster.settings import Intervals

LOG = logging.getLogger("engine-run")
WAITING, RUNNING = JobStatus(JobState.WAITING, reason="Priority"), JobStatus(JobState.RUNNING)
SUCCEEDED = JobStatus(JobState.SUCCEEDED, 0)
LOST = JobStatus(JobState.LOST, reason="the node has failed")


class FakeExecutor:
    """Answers one call after the other with what is laid down; an exception is raised.

    Args:
        polls: What the polls see.
        submits: What is raised by submissions before one works.
        log: The engine's log: what can be read of it at each poll.
        piece: The most that one reading gives.
    """

    name = "fake"
    poll_seconds = 1.0

    def __init__(
        self,
        polls: Sequence[JobStatus | BaseException] = (SUCCEEDED,),
        submits: Sequence[BaseException] = (),
        log: Sequence[bytes] = (b"",),
        *,
        piece: int = 65_536,
        goes_on: bool = True,
    ) -> None:
        self.goes_on = goes_on
        """Whether its jobs go on without their worker, on a machine that may be away."""
        self.intervals = Intervals.model_validate({}) if goes_on else None
        self.engine_folder = PurePosixPath("/elsewhere") if goes_on else None
        self.calls: list[str] = []
        self.alarms: list[str] = []
        self.tails: list[BaseException] = []
        self.starts: list[int] = []
        """Of the job, one after the other as the log is read."""
        self.clears: str | BaseException = ""
        self._polls, self._submits = list(polls), list(submits)
        self._log, self._piece, self._readable = list(log), piece, b""
        self._jobs = self._start = 0

    def submit(self, job: Job) -> JobHandle:
        self.calls.append("submit")
        if self._submits:
            raise self._submits.pop(0)
        self._jobs += 1
        return JobHandle(self.name, str(99 + self._jobs))

    def poll(self, job: Job, handle: JobHandle) -> JobStatus:
        self.calls.append(f"poll {handle.job_id}")
        if self._log:
            self._readable = self._log.pop(0)
        seen = self._polls.pop(0)
        if isinstance(seen, BaseException):
            raise seen
        return replace(seen, alarm=self.alarms.pop(0)) if self.alarms else seen

    def tail(self, job: Job, handle: JobHandle, offset: int) -> LogPiece:
        if self.tails:
            raise self.tails.pop(0)
        start = self.starts.pop(0) if self.starts else self._start
        if start != self._start:
            self._start, offset = start, 0
        return LogPiece(self._readable[offset : offset + self._piece], start)

    def fetch(self, job: Job, handle: JobHandle) -> dict[str, Path]:
        self.calls.append(f"fetch {handle.job_id}")
        if self._submits:
            raise self._submits.pop(0)
        return {"Dose/box.raw": job.directory / "Dose/box.raw"}

    def leave(self, job: Job, handle: JobHandle | None, *, cancelled: bool) -> bool:
        goes_on = self.goes_on and not cancelled
        if not goes_on:
            self.calls.append(f"cancel {handle.job_id if handle else 'whatever there is'}")
        return goes_on

    def clear(self, job: Job, handle: JobHandle) -> str:
        if isinstance(self.clears, BaseException):
            raise self.clears
        return self.clears

    def give_up(self, job: Job, reason: str) -> None:
        self.calls.append(f"give up: {reason}")

    def answer(self, argv: Sequence[str]) -> str:
        return ""

    def fails_next(self, *errors: BaseException) -> None:
        self._submits = list(errors)


class Told:
    """What people were told of the beam's progress."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.events: list[EngineProgress] = []

    def waiting(self, phase: str, reason: str) -> None:
        self.words.append(f"{phase}: {reason}")

    def started(self, slot: str, job_id: str, key: str) -> None:
        self.words.append(f"started {job_id} ({key}) on {slot}")

    def running(self, message: str) -> None:
        self.words.append(f"running {message}".strip())

    def event(self, event: EngineProgress) -> None:
        self.events.append(event)


class Bench:
    """A step around a fake executor, in which no time passes."""

    def __init__(self, folder: Path, executor: FakeExecutor) -> None:
        self.told = Told()
        self.noted: list[str] = []
        self.slept = 0.0
        self.check: Callable[[], None] = lambda: None
        self.log = folder / "engine.log"
        job = Job(
            key="d1-1",
            name="P1.fx0001__b01",
            parents=("P1.fx0001", "b01"),
            directory=folder,
            manifest={},
            argv=("engine",),
            outputs=("Dose/box.raw",),
            log="engine.log",
            timeout_seconds=60.0,
        )
        log = cast("dg.DagsterLogManager", LOG)
        self.run = EngineRun(
            log,
            executor,
            job,
            cast("LiveProgress", self.told),
            Retrying(
                log,
                executor.intervals,
                lambda _: self.check(),
                clock=lambda: self.slept,
                sleep=self.sleep,
            ),
            lambda: self.check(),
            lambda handle: self.noted.append(handle.job_id),
            "hpc/gpu0",
        )

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


@pytest.fixture
def bench(tmp_path: Path) -> Callable[[FakeExecutor], Bench]:
    return functools.partial(Bench, tmp_path)


Make = Callable[[FakeExecutor], Bench]


def passed_on() -> None:
    raise LeaseLostError("passed on")


def test_a_job_is_submitted_noted_and_watched_to_its_end(bench: Make) -> None:
    executor = FakeExecutor([WAITING, WAITING, RUNNING, SUCCEEDED])
    on = bench(executor)
    assert on.run.run() == SUCCEEDED
    assert executor.calls == ["submit", "poll 100", "poll 100", "poll 100", "poll 100"]
    assert on.noted == ["100"]
    assert on.told.words == ["started 100 (d1-1) on hpc/gpu0", "queued: Priority", "running"], "each once"
    assert on.slept == pytest.approx(3.0)
    assert on.run.in_flight is False


def test_a_lost_job_is_submitted_again_and_noted_again(bench: Make, caplog: pytest.LogCaptureFixture) -> None:
    executor = FakeExecutor(
        [RUNNING, LOST, LOST, RUNNING, SUCCEEDED], log=[b"", b"old\n", b"", b"", b"new\n"]
    )
    on = bench(executor)
    assert on.run.run() == SUCCEEDED
    assert executor.calls == [
        *("submit", "poll 100", "poll 100"),
        *("submit", "poll 101"),
        *("submit", "poll 102", "poll 102"),
    ]
    assert on.noted == ["100", "101", "102"]
    assert "submitting: the node has failed" in on.told.words
    assert on.log.read_bytes() == b"old\nnew\n", "what the lost one said stays"
    assert on.slept >= 2 + 4, "each time a little later"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.TIMED_OUT, JobState.CANCELLED])
def test_any_other_end_is_not_submitted_again(bench: Make, state: JobState) -> None:
    executor = FakeExecutor([JobStatus(state, 3, "why")])
    on = bench(executor)
    assert on.run.run() == JobStatus(state, 3, "why")
    assert executor.calls.count("submit") == 1


def test_the_log_is_read_to_its_end_in_pieces_and_written_down(bench: Make) -> None:
    lines = [
        f"Generating particles for ({number} of 10 batches) in CPU ..\n".encode() for number in range(1, 11)
    ]
    whole = b"".join(lines) + b"Total histories (Particles) : 107940"
    executor = FakeExecutor([RUNNING, RUNNING, SUCCEEDED], log=[b"", whole[:100], whole], piece=64)
    on = bench(executor)
    on.run.run()
    assert on.log.read_bytes() == whole
    assert sorted({event.batch for event in on.told.events if event.batch}) == list(range(1, 11))
    assert on.run.parser.histories == 107940, "also a last line without an end"


def test_the_log_of_a_start_that_is_over_is_not_of_the_result(bench: Make) -> None:
    first = b"Total histories (Particles) : 5\nhalf a line"
    second = b"Total histories (Particles) : 107940\nend\n"
    executor = FakeExecutor([RUNNING, WAITING, RUNNING, SUCCEEDED], log=[first, b"", second[:40], second])
    executor.starts = [0, 0, 1, 1]
    on = bench(executor)
    assert on.run.run() == SUCCEEDED
    assert on.run.parser.histories == 107940
    assert on.log.read_bytes() == second


def test_a_local_log_is_the_engines_own_and_not_written_twice(bench: Make) -> None:
    executor = FakeExecutor([SUCCEEDED], log=[b"Total histories (Particles) : 5\n"], goes_on=False)
    on = bench(executor)
    on.run.run()
    assert on.run.parser.histories == 5
    assert not on.log.exists()


def test_a_log_that_cannot_be_read_now_is_read_later(bench: Make) -> None:
    executor = FakeExecutor([RUNNING, SUCCEEDED], log=[b"one\n", b"one\ntwo\n"])
    executor.tails = [ConnectError("away"), ConnectError("away"), ConnectError("away")]
    on = bench(executor)
    assert on.run.run() == SUCCEEDED
    assert on.log.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("error", [ConnectError("away"), UnreachableError("away"), IntegrityError("damaged")])
def test_a_submission_without_an_answer_is_made_again(bench: Make, error: Exception) -> None:
    executor = FakeExecutor([SUCCEEDED], submits=[error, error, error])
    on = bench(executor)
    assert on.run.run() == SUCCEEDED
    assert executor.calls.count("submit") == 4
    assert on.noted == ["100"]


@pytest.mark.parametrize(
    "error",
    [SubmitRejectedError("no such partition"), HostKeyError("another key"), ConfigurationError("wrong")],
)
def test_after_a_definite_refusal_nothing_is_in_flight(bench: Make, error: Exception) -> None:
    on = bench(FakeExecutor(submits=[error]))
    with pytest.raises(type(error)):
        on.run.run()
    assert (on.run.in_flight, on.noted) == (False, [])


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(1), InfrastructureError("the ledger")])
def test_after_an_interrupted_submission_a_job_may_be_in_flight(
    bench: Make, interrupt: BaseException
) -> None:
    executor = FakeExecutor(submits=[interrupt])
    on = bench(executor)
    if isinstance(interrupt, InfrastructureError):
        # It counts as unanswered, and while this worker waits its lease passes on.
        on.check = passed_on
    with pytest.raises((LeaseLostError, KeyboardInterrupt, SystemExit)):
        on.run.run()
    assert on.run.in_flight is True
    assert on.run.leave(cancelled=True) is False
    assert executor.calls[-1] == "cancel whatever there is"
    assert on.run.in_flight is False


def test_a_machine_that_cannot_be_away_is_asked_once(bench: Make) -> None:
    executor = FakeExecutor(submits=[InfrastructureError("no process")], goes_on=False)
    on = bench(executor)
    with pytest.raises(InfrastructureError):
        on.run.run()
    assert (executor.calls, on.slept) == (["submit"], 0.0)
    assert on.run.leave(cancelled=False) is False
    assert on.run.in_flight is False


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InfrastructureError("the ledger"), EngineError("x")])
def test_whatever_interrupts_the_watching_leaves_the_job_in_flight(bench: Make, error: BaseException) -> None:
    executor = FakeExecutor([RUNNING, error])
    on = bench(executor)
    with pytest.raises(type(error)):
        on.run.run()
    assert on.run.in_flight is True
    assert on.run.leave(cancelled=True) is False
    assert executor.calls[-1] == "cancel 100"


@pytest.mark.parametrize(("goes_on", "calls"), [(True, 0), (False, 1)])
def test_a_worker_that_stops_leaves_a_job_that_can_go_on_to_the_next_run(
    bench: Make, goes_on: bool, calls: int
) -> None:
    executor = FakeExecutor([RUNNING, KeyboardInterrupt()], goes_on=goes_on)
    on = bench(executor)
    with pytest.raises(KeyboardInterrupt):
        on.run.run()
    assert on.run.leave(cancelled=False) is goes_on
    assert on.run.in_flight is goes_on
    assert executor.calls.count("cancel 100") == calls


def test_who_has_lost_the_lease_stops_without_touching_the_job(bench: Make) -> None:
    executor = FakeExecutor([RUNNING] * 100)
    on = bench(executor)

    def check() -> None:
        if on.slept > 5:
            raise LeaseLostError("passed on")

    on.check = check
    with pytest.raises(LeaseLostError):
        on.run.run()
    assert on.run.in_flight is True
    assert not any(call.startswith("cancel") for call in executor.calls)


def test_outputs_are_fetched_until_they_are_here(bench: Make) -> None:
    executor = FakeExecutor([SUCCEEDED])
    on = bench(executor)
    on.run.run()
    executor.fails_next(ConnectError("away"), IntegrityError("damaged"))
    assert list(on.run.fetch()) == ["Dose/box.raw"]
    executor.fails_next(EngineError("the engine has ended without output 1"))
    with pytest.raises(EngineError):
        on.run.fetch()


@pytest.mark.parametrize(
    "error", [ConnectError("away"), HostKeyError("another key"), IntegrityError("damaged")]
)
def test_a_folder_that_cannot_be_removed_now_is_a_warning(
    bench: Make, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    executor = FakeExecutor([SUCCEEDED])
    on = bench(executor)
    on.run.run()
    executor.clears = error
    on.run.clear()
    (record,) = caplog.records
    assert (record.levelname, str(error) in record.getMessage()) == ("WARNING", True)


def test_alarms_reach_the_log_once(bench: Make, caplog: pytest.LogCaptureFixture) -> None:
    executor = FakeExecutor([WAITING] * 5 + [SUCCEEDED])
    executor.alarms = ["", "held", "held", "", "held"]
    on = bench(executor)
    on.run.run()
    assert [record.getMessage() for record in caplog.records] == ["held", "held"], "and again when it is back"
    executor.clears = "the quota is full"
    on.run.clear()
    assert (caplog.records[-1].levelname, caplog.records[-1].getMessage()) == ("ERROR", "the quota is full")


def test_without_a_submission_there_is_nothing_to_fetch(bench: Make) -> None:
    with pytest.raises(InfrastructureError, match="no job"):
        bench(FakeExecutor()).run.fetch()

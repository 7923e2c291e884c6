"""Many tasks at once, each in a process of its own that may die without taking another one with it.

The processes are started, limited in time and ended by pebble, one with a pipe of its own for every try:
workers that share a pipe also share its locks, and one that is killed while it holds one stops the others.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction

from pebble import ProcessExpired, concurrent

from mqi_dagster.backoff import Backoff
from mqi_dagster.errors import MqiError, Where
from mqi_dagster.processes.causes import MAY_PASS, Cause, cause_of_exception, cause_of_exit, exit_words
from mqi_dagster.processes.errors import (
    DiskIsFullError,
    TaskEndedError,
    TaskFailedError,
    TaskMemoryError,
    TaskStoppedError,
)
from mqi_dagster.processes.levels import Device, Level, Step, next_level
from mqi_dagster.processes.progress import Progress
from mqi_dagster.processes.task import run_task
from mqi_dagster.processes.worker_counts import THREAD_VARIABLES

_LOOK_SECONDS = 0.1
BACKOFF = Backoff(first_seconds=1.0, longest_seconds=60.0, jitter=0.5)
_SPAWN = multiprocessing.get_context("spawn")
_ERRORS: dict[Cause, type[MqiError]] = {
    Cause.MEMORY: TaskMemoryError,
    Cause.GPU_MEMORY: TaskMemoryError,
    Cause.KILLED: TaskEndedError,
    Cause.CRASHED: TaskEndedError,
    Cause.TIME_LIMIT: TaskEndedError,
    Cause.DISK_FULL: DiskIsFullError,
    Cause.ERROR: TaskFailedError,
}
_log = logging.getLogger(__name__)
_environment = threading.Lock()


@dataclass(frozen=True, slots=True)
class TaskResults:
    """What became of each task, by its key: it has either a result or an error."""

    results: dict[str, object] = field(default_factory=dict)
    errors: dict[str, MqiError] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    """Every try that did not end well, in the order of their ends."""


@dataclass(slots=True)
class _Task:
    key: str
    arguments: str
    level: Level
    attempt: int = 0
    not_before: float = 0.0

    @property
    def share(self) -> Fraction:
        return Fraction(1, self.level.workers)


@dataclass(frozen=True, slots=True)
class _End:
    cause: Cause | None = None
    reason: str = ""
    result: object = None
    error: MqiError | None = None


def run_tasks(
    tasks: Mapping[str, Mapping[str, object]],
    function: Callable[..., object],
    *,
    label: str,
    workers: int,
    device: Device | None = None,
    memory_bytes: int | None = None,
    timeout_seconds: float | None = None,
    attempts: int = 3,
    threads: int = 1,
    backoff: Backoff = BACKOFF,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> TaskResults:
    """Do every task in a process of its own, and again with less where it was too much.

    A task that ends for want of memory, or is killed, is done again at the next lower level (`step_down`): it
    gets twice the share, so that half as many of its kind run at once. What crashes or hangs is done again
    alone. The others go on as they are. Tasks with greater shares run once the smaller ones are through.

    Args:
        tasks: Keyword arguments of the function by task; they and the results are what JSON can hold. The
            keys are logged: no identifier of a patient is in them.
        function: A function that its module's import path names. What it starts itself has to be tied to it.
        label: What the tasks are, for people: ``Radiomics``.
        workers: How many run at once, at least 1.
        device: Where a model starts on the ladder of devices; the function gets it as ``device``.
        memory_bytes: Memory for all of them together, of which each process may use its share (RLIMIT_AS).
            None: no limit. A process that uses CUDA needs None: it reserves far more than it uses.
        timeout_seconds: Longest that one try may take.
        attempts: How often a task is tried that is killed, crashes, hangs or finds the disk full. Steps down
            for want of memory are taken beyond that.
        threads: Threads that the numerical libraries may use in each process.
        backoff: Waits before another try where less is not what helps.
        progress: Is told of each task that has ended.
        stop: Ends the work once it is set: what runs is killed.

    Returns:
        The results and errors by task, and the steps in between.

    Raises:
        ValueError: The function is not one of a module, or a number is below 1.
        TypeError: An argument is nothing that JSON can hold.
    """
    if min(workers, attempts, threads) < 1:
        raise ValueError("workers, attempts and threads are at least 1")
    if "." in function.__qualname__ or "<" in function.__qualname__ or function.__module__ == "__main__":
        raise ValueError("the function of tasks must be one that a module's import path names")
    level = Level(min(workers, len(tasks)) or 1, device)
    waiting = [_Task(key, json.dumps(dict(arguments)), level) for key, arguments in tasks.items()]
    return _Run(function, label, memory_bytes, timeout_seconds, attempts, threads, backoff).do(
        waiting, progress, stop or threading.Event()
    )


@dataclass(slots=True)
class _Run:
    function: Callable[..., object]
    label: str
    memory_bytes: int | None
    timeout_seconds: float | None
    attempts: int
    threads: int
    backoff: Backoff
    running: dict[Future[str], _Task] = field(default_factory=dict)
    processes: set[str] = field(default_factory=set)
    """Names of all processes that were started."""

    def do(
        self, waiting: list[_Task], progress: Callable[[Progress], None] | None, stop: threading.Event
    ) -> TaskResults:
        done = TaskResults()
        total = len(waiting)
        begin = time.monotonic()
        try:
            while (waiting or self.running) and not stop.is_set():
                for task in self._that_fit(waiting):
                    waiting.remove(task)
                    self.running[self._start(task)] = task
                if not self.running:
                    stop.wait(_LOOK_SECONDS)
                for future in wait(self.running, _LOOK_SECONDS, FIRST_COMPLETED).done:
                    task = self.running.pop(future)
                    if self._again(task, self._end_of(future), done):
                        waiting.append(task)
                        waiting.sort(key=lambda one: one.share)
                        continue
                    ended = len(done.results) + len(done.errors)
                    now = Progress(self.label, ended, total, time.monotonic() - begin)
                    _log.info("%s", now)
                    if progress is not None:
                        progress(now)
        finally:
            self._kill_all()
        for task in (*waiting, *self.running.values()):
            done.errors[task.key] = TaskStoppedError("stopped before it was done", where=self._where)
        return done

    def _that_fit(self, waiting: list[_Task]) -> list[_Task]:
        """The next tasks, smallest shares first: all that runs at once makes up one whole at the most."""
        free = 1 - sum((task.share for task in self.running.values()), Fraction(0))
        now = time.monotonic()
        fitting = []
        for task in waiting:
            if task.share > free:
                break
            if task.not_before <= now:
                free -= task.share
                fitting.append(task)
        return fitting

    def _start(self, task: _Task) -> Future[str]:
        task.attempt += 1
        name = secrets.token_hex(8)
        self.processes.add(name)
        # pebble reads `context`, though its annotations say `mp_context`.
        start: Callable[..., Future[str]] = concurrent.process(  # type: ignore[call-overload]
            name=name, daemon=False, timeout=self.timeout_seconds, context=_SPAWN
        )(run_task)
        where = (os.getpid(), self.function.__module__, self.function.__qualname__)
        try:
            with _thread_limits(self.threads):
                return start(*where, task.arguments, task.level.device, self._memory_of(task))
        except OSError as error:
            lost: Future[str] = Future()
            lost.set_exception(error)
            return lost

    def _memory_of(self, task: _Task) -> int | None:
        return None if self.memory_bytes is None else self.memory_bytes // task.level.workers

    def _end_of(self, future: Future[str]) -> _End:
        error = future.exception()
        match error:
            case None:
                answer = json.loads(future.result())
                if "cause" in answer:
                    return _End(Cause(answer["cause"]), answer["reason"])
                return _End(result=answer["result"])
            case MqiError():
                # pebble adds the child's traceback, whose texts may name what must not be shown.
                error.__cause__ = None
                return _End(Cause.ERROR, error.message, error=error)
            case ProcessExpired():
                return _End(cause_of_exit(error.exitcode), exit_words(error.exitcode))
            case TimeoutError():
                return _End(Cause.TIME_LIMIT, f"it ran longer than {self.timeout_seconds:g} s")
            case OSError():
                cause = cause_of_exception(error)
                reason = f"no process can be started: {error.strerror or type(error).__name__}"
                return _End(Cause.CRASHED if cause is Cause.ERROR else cause, reason)
        return _End(cause_of_exception(error), type(error).__name__)

    def _again(self, task: _Task, end: _End, done: TaskResults) -> bool:
        """Note how a try of a task has ended; whether another one follows."""
        if end.cause is None:
            done.results[task.key] = end.result
            return False
        level = next_level(task.level, end.cause, retry=task.attempt < self.attempts)
        step = Step(task.key, task.attempt, task.level, self._memory_of(task), end.cause, end.reason, level)
        done.steps.append(step)
        _log.warning("%s: %s", self.label, step)
        if level is None:
            done.errors[task.key] = end.error or _ERRORS[end.cause](
                f"{end.reason}, on try {task.attempt} at {task.level}", where=self._where
            )
            return False
        task.level = level
        if end.cause in MAY_PASS:
            task.not_before = time.monotonic() + self.backoff.seconds(task.attempt)
        return True

    def _kill_all(self) -> None:
        ours = [one for one in multiprocessing.active_children() if one.name in self.processes]
        for process in ours:
            process.kill()
        for process in ours:
            process.join()

    @property
    def _where(self) -> Where:
        return Where(kind=self.label)


@contextmanager
def _thread_limits(threads: int) -> Iterator[None]:
    """What is started meanwhile has these limits in its environment, before it imports anything."""
    with _environment:
        before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

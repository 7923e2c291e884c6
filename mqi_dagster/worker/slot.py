"""One slot of a worker: it asks for a job, runs it under a lease that it keeps alive, and gives it back."""

from __future__ import annotations

import logging
import shutil
import tarfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from mqi_dagster.backoff import Backoff
from mqi_dagster.errors import InfrastructureError, LeaseLostError, MqiError, UnreachableError
from mqi_dagster.execution.job import Job, JobStatus
from mqi_dagster.execution.local import LocalExecutor
from mqi_dagster.execution.work import LARGEST_PIECE, Device, End, Ended, Heartbeat, Offer
from mqi_dagster.files import sha256_file
from mqi_dagster.worker.configuration import Configuration
from mqi_dagster.worker.programs import Programs
from mqi_dagster.worker.ways import Way, made_output

_LOG = logging.getLogger("mqi-worker")
_BACKOFF = Backoff(1.0, 60.0, jitter=0.5)
_LONGEST_BEAT_SECONDS = 10.0
_POLL_SECONDS = 0.2
_LOG_PIECE = LARGEST_PIECE // 8
_NOTHING = Ended()
T = TypeVar("T")


class Stopping:
    """How the worker is told to stop: ask for nothing more, or give everything back at once."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.now = threading.Event()


class GivenUpError(Exception):
    """The job is not wanted here any more."""


class Heart:
    """Keeps a lease alive from a thread of its own, and sends what the job has printed.

    Args:
        way: To the server.
        offer: The job.
        worker: Name of the worker.
        device: The slot.
        stopping: Whether the worker has to stop at once.
    """

    def __init__(self, way: Way, offer: Offer, worker: str, device: Device, stopping: Stopping) -> None:
        self._way = way
        self._offer = offer
        self._worker = worker
        self._device = device if device.kind == "gpu" else None
        self._stopping = stopping
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heart-{offer.id[:8]}", daemon=True)
        self._sent = 0
        self.phase = "fetching its inputs"
        self.logs: list[Path] = []
        """Whose contents, one after the other, are the log of the job."""
        self.lost = self.cancelled = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def check(self, pause_seconds: float = 0.0) -> None:
        """Stop who works for a lease that is over; waits a while for that.

        Raises:
            GivenUpError: It is over, cancelled, or the worker has to stop at once.
        """
        if self._stopping.now.wait(pause_seconds) or self.lost or self.cancelled:
            raise GivenUpError

    def send_log(self) -> None:
        """Send all that was printed; UnreachableError where that does not get through."""
        while self._pulse():
            continue

    def _beat(self) -> None:
        every = 0.0
        while not self._stop.wait(every):
            every = min(self._offer.lease_seconds / 4, _LONGEST_BEAT_SECONDS)
            try:
                self._pulse()
            except LeaseLostError:
                self.lost = True
                return
            except MqiError as error:
                _LOG.warning("job %s: a heartbeat did not get through: %s", self._offer.id[:8], error.message)

    def _pulse(self) -> bool:
        """One heartbeat; whether it has brought something of the log on its way."""
        with self._lock:
            text = self._printed(self._sent)
            told = Heartbeat(
                phase=self.phase,
                worker=self._worker,
                device=self._device,
                offset=self._sent,
                log=text.decode("latin-1"),
            )
            pulse = self._way.beat(self._offer, told)
            goes_on, self._sent = pulse.log_bytes > self._sent, pulse.log_bytes
            self.cancelled |= not pulse.goes_on
            return goes_on

    def _printed(self, offset: int) -> bytes:
        for path in list(self.logs):
            size = path.stat().st_size if path.is_file() else 0
            if offset < size:
                with path.open("rb") as stream:
                    stream.seek(offset)
                    return stream.read(_LOG_PIECE)
            offset -= size
        return b""


class Slot:
    """One slot; `run` is the whole life of its thread.

    Args:
        number: Among the worker's devices.
        configuration: Of the worker.
        programs: What this computer can run.
        way: To the server.
        stopping: Whether to stop.
    """

    def __init__(
        self, number: int, configuration: Configuration, programs: Programs, way: Way, stopping: Stopping
    ) -> None:
        self._number = number
        self._device = programs.devices[number]
        self._configuration = configuration
        self._programs = programs
        self._way = way
        self._stopping = stopping
        self._folder = configuration.work / "jobs" / str(number)
        # Its thread outlives every job that it starts.
        self._executor = LocalExecutor(configuration.work / "state" / str(number), any_thread=True)

    def run(self) -> None:
        """Ask for jobs and run them until the worker stops."""
        self._executor.end_leftovers()
        failures, said = 0, ""
        while not self._stopping.asked.is_set():
            try:
                offer = self._way.claim(
                    self._programs.capabilities(), self._number, self._stopping.asked.wait
                )
                said, good = "", True
            except MqiError as error:
                if error.message != said:
                    _LOG.warning("asking for work: %s", error.message)
                offer, said, good = None, error.message, False
            if offer is not None and self._stopping.asked.is_set():
                self._give_back(offer)
            elif offer is not None:
                good = self._work(offer)
            failures = 0 if good else failures + 1
            if failures:
                self._stopping.asked.wait(_BACKOFF.seconds(failures))

    def _work(self, offer: Offer) -> bool:
        """Do a job; False where this computer is to blame that it was not done."""
        name = offer.id[:8]
        _LOG.info("job %s: %s on %s%d", name, offer.work.needs.program, self._device.kind, self._device.index)
        shutil.rmtree(self._folder, ignore_errors=True)
        heart = Heart(self._way, offer, self._configuration.name, self._device, self._stopping)
        try:
            with heart:
                end, ended = self._done(offer, heart)
                self._repeated(heart, heart.send_log)
                self._repeated(heart, lambda: self._way.give_back(offer, end, ended))
            _LOG.info("job %s: %s%s", name, end.value, f", {ended.reason}" if ended.reason else "")
            return not ended.infrastructure
        except (GivenUpError, LeaseLostError):
            why = "it is cancelled" if heart.cancelled else "the worker stops"
            _LOG.warning("job %s is given up: %s", name, "its lease is over" if heart.lost else why)
            if not heart.lost:
                self._give_back(offer)
            return True
        except MqiError as error:
            _LOG.error("job %s is given up: %s", name, error.message)
            self._give_back(offer, End.FAIL, Ended(reason=error.message[:500], infrastructure=True))
            return False
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _give_back(self, offer: Offer, end: End = End.RELEASE, ended: Ended = _NOTHING) -> None:
        try:
            self._way.give_back(offer, end, ended)
        except MqiError as error:
            # Its lease ends by itself.
            _LOG.info("job %s: not given back: %s", offer.id[:8], error.message)

    def _repeated(self, heart: Heart, call: Callable[[], T]) -> T:
        """The result of a call, however long the way is cut."""
        failures = 0
        while True:
            heart.check()
            try:
                return call()
            except UnreachableError as error:
                failures += 1
                _LOG.warning("%s", error.message)
                heart.check(_BACKOFF.seconds(failures))

    def _done(self, offer: Offer, heart: Heart) -> tuple[End, Ended]:
        try:
            work = self._fetched(offer, heart)
            heart.phase = "at work"
            end, ended = self._programs.run(
                offer,
                self._device,
                work,
                lambda job: self._tried(job, heart),
                lambda line: self._say(line, work, heart),
            )
            if end is End.FAIL:
                return end, ended
            heart.phase = "sending its outputs"
            for number, output in enumerate(offer.outputs, start=1):
                made = made_output(work / output)
                self._repeated(heart, partial(self._way.output, offer, number, work / output, made))
            return end, ended
        except (LeaseLostError, GivenUpError):
            raise
        except MqiError as error:
            return End.FAIL, Ended(reason=error.message[:500], infrastructure=True)
        except OSError as error:
            return End.FAIL, Ended(reason=f"the disk of the worker: {error.strerror}", infrastructure=True)

    def _fetched(self, offer: Offer, heart: Heart) -> Path:
        """The folder of a job with its verified inputs."""
        work, packed = self._folder / "work", self._folder / "inputs.tar"
        work.mkdir(mode=0o700, parents=True)
        self._repeated(heart, lambda: self._way.inputs(offer, packed))
        try:
            with tarfile.open(packed) as inputs:
                inputs.extractall(work, filter="data")
        except tarfile.TarError:
            raise InfrastructureError("the inputs were damaged on their way") from None
        packed.unlink()
        there = {path.relative_to(work).as_posix(): path for path in work.rglob("*") if path.is_file()}
        if there.keys() != offer.manifest.keys() or any(
            sha256_file(path) != offer.manifest[name] for name, path in there.items()
        ):
            raise InfrastructureError("the inputs are not those of the manifest")
        return work

    def _tried(self, job: Job, heart: Heart) -> JobStatus:
        heart.logs.append(job.directory / job.log)
        handle = self._executor.submit(job)
        try:
            while not (status := self._executor.poll(job, handle)).state.ended:
                heart.check(_POLL_SECONDS)
            return status
        finally:
            self._executor.cancel(job, handle)
            self._executor.clear(job, handle)

    @staticmethod
    def _say(line: str, work: Path, heart: Heart) -> None:
        path = work / f"said.{len(heart.logs)}"
        path.write_text(f"{line}\n", encoding="utf-8")
        heart.logs.append(path)
        _LOG.warning("%s", line)

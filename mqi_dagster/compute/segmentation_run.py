"""One model and one series: from the slot to the verified label map, with less where it was too much."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from mqi_dagster.backoff import Backoff
from mqi_dagster.compute.job_run import JobRun
from mqi_dagster.compute.leased_work import LeasedWork
from mqi_dagster.compute.retrying import Retrying
from mqi_dagster.compute.slots import GPU_VARIABLE, wait_for_slot
from mqi_dagster.errors import EngineError, InfrastructureError, JobCancelledError, StoreError, Where, shown
from mqi_dagster.execution.job import Executor, Job, JobState, JobStatus
from mqi_dagster.execution.scrub import Scrubber
from mqi_dagster.files import sha256_file
from mqi_dagster.imaging.models.card import Model, ModelCard
from mqi_dagster.imaging.models.job_files import (
    INPUTS,
    JOB,
    OUTPUTS,
    JobOptions,
    MadeRecord,
    ModelJob,
    failure_in,
    made_regions,
    read_record,
    write_job,
)
from mqi_dagster.imaging.models.model_errors import LONGEST_LOG, ModelError
from mqi_dagster.imaging.segmentation_files import SegmentedRegion
from mqi_dagster.ledger.leases import AtOnce
from mqi_dagster.ledger.slots import SlotKind
from mqi_dagster.lifecycle.stages import WorkPhase
from mqi_dagster.processes.causes import MAY_PASS, Cause, cause_of_exit, cause_of_text, exit_words
from mqi_dagster.processes.levels import Device, Level, Step, next_level, step_down
from mqi_dagster.processes.worker_counts import THREAD_VARIABLES, processors
from mqi_dagster.resources.gpu_pool import GpuPool
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import Slurm
from mqi_dagster.settings.radiotherapy import ModelDevice, Segmentation

LOG_NAME = "model.log"
LABEL_MAP, RECORD = "segmentation.nii.gz", "segmentation.json"
_PROGRAM = ("-P", "-m", "mqi_dagster.imaging.models.segment_job")
_BACKOFF = Backoff(1.0, 60.0, jitter=0.5)
"""Waits before another try where less is not what helps."""
_ON_A_GPU = (Device.GPU, Device.GPU_IN_PIECES)
_LINES_TOLD, _LONGEST_LINE = 5, 150
"""Of what a program has printed, that stand in the reason of its failure."""


@dataclass(frozen=True, slots=True)
class ModelTask:
    """A model, and the images that it is given."""

    key: str
    """Of the course or image set."""
    name: str
    """Model and series, for people."""
    number: str
    """Which of how many of them it is: ``2 of 3``."""
    digest: str
    """Of what it makes."""
    model: Model
    images: Mapping[str, Path]
    """NIfTI file of each role, in the card's order."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of a model and its series."""

    steps: tuple[Step, ...]
    """Tries that did not end well."""
    regions: tuple[SegmentedRegion, ...] = ()
    record: MadeRecord | None = None
    """None where it has failed."""
    said: str = ""
    """What its program has printed at last, and the name of its log."""

    @property
    def reason(self) -> str:
        """Why it has failed; empty where it has not."""
        if self.record is not None or not self.steps:
            return ""
        first, last = self.steps[0].reason, self.steps[-1].reason
        return f"{last}{self.said}" + ("" if first == last else f" (first cause: {first})")


class TryFailedError(ModelError):
    """One try of a model has failed.

    Args:
        message: Why.
        cause: As the step down judges it.
    """

    said = ""
    """What its program has printed at last, and the name of its log."""

    def __init__(self, message: str, cause: Cause) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class ModelRuns:
    """How the models of a course or an image set are run."""

    context: dg.AssetExecutionContext
    site: Site
    executor: Executor
    pool: GpuPool
    options: Segmentation
    threads: int
    """Of one model."""
    at_once: AtOnce

    @classmethod
    def of(
        cls,
        context: dg.AssetExecutionContext,
        site: Site,
        pool: GpuPool,
        options: Segmentation,
        at_once: AtOnce,
    ) -> "ModelRuns":
        """On the host that the options name, each with its share of the processors."""
        cluster = site.settings.slurm_of(options.host)
        share = max(1, processors() // at_once.most) if cluster is None else cluster[1].cpus
        executor = site.executor_on(options.host) or site.local_executor
        return cls(context, site, executor, pool, options, options.proc_threads or share, at_once)

    def run(self, task: ModelTask, target: Path) -> Tried:
        """Run a model until it is done, or until there is nothing lower to try it at.

        Args:
            task: The model and its images.
            target: Where the label map and its record go.

        Raises:
            InfrastructureError: The machine was lost, or its disk is full.
            JobCancelledError: Somebody has cancelled the job.
            ConfigurationError: There is no GPU; or the program of a job cannot be started at all.
        """
        steps: list[Step] = []
        level = begins_at(task.model.card, self.options)
        while True:
            attempt = len(steps) + 1
            try:
                regions, record = self._tried(task, level, target)
            except TryFailedError as error:
                retry = attempt < self.site.settings.execution.attempts
                after = lower(level, error.cause, task.model.card, self.options, retry=retry)
                step = Step(task.name, attempt, level, None, error.cause, error.message, after)
                self.context.log.warning("Segmentation: %s", step)
                steps.append(step)
                if after is None:
                    return Tried(tuple(steps), said=error.said)
                if error.cause in MAY_PASS:
                    Retrying(self.context.log, None).sleep(_BACKOFF.seconds(attempt))
                level = after
                continue
            return Tried(tuple(steps), regions, record)

    def _tried(
        self, task: ModelTask, level: Level, target: Path
    ) -> tuple[tuple[SegmentedRegion, ...], MadeRecord]:
        work = _ModelTry(self, task, level)
        work.acquire()
        with work:
            return work.segment(target)


def begins_at(card: ModelCard, options: Segmentation) -> Level:
    """Where a model is tried first: on the GPU only where the settings say so and it can use one."""
    can = card.rules is None and (card.command is None or "gpu" in card.command.device_words)
    if options.device is not ModelDevice.GPU or not can:
        return Level(1, Device.CPU)
    return Level(1, Device.GPU_IN_PIECES if options.force_split and card.in_pieces else Device.GPU)


def lower(level: Level, cause: Cause, card: ModelCard, options: Segmentation, *, retry: bool) -> Level | None:
    """The level of a model's next try; None where it has failed. See `next_level`.

    A model that has no pieces goes past them, and none goes on on the processor where the settings forbid it.
    """
    after = next_level(level, cause, retry=retry)
    if after is not None and after.device is Device.GPU_IN_PIECES and not card.in_pieces:
        after = step_down(after, cause) or (level if cause in MAY_PASS and retry else None)
    leaves_gpu = after is not None and after.device is Device.CPU and level.device in _ON_A_GPU
    return None if leaves_gpu and not options.allow_fallback else after


class _ModelRun(JobRun):
    """A job that is watched for its last words."""

    said = b""

    def log_begins(self) -> None:
        self.said = b""

    def log_goes_on(self, text: bytes) -> None:
        self.said = (self.said + text)[-2 * LONGEST_LOG :]


class _ModelTry(LeasedWork[_ModelRun]):
    """One try of a model at one level, as a context manager."""

    def __init__(self, runs: ModelRuns, task: ModelTask, level: Level) -> None:
        super().__init__(
            runs.context,
            runs.site,
            runs.executor,
            task.key,
            task.digest,
            Where(case=task.key, kind=f"model {task.model.card.name}"),
            Scrubber(),
            log_name=LOG_NAME,
            at_work=WorkPhase.SEGMENTING,
            run_type=_ModelRun,
            label=f"{task.name}, {task.number}",
        )
        self._runs = runs
        self._task = task
        self._level = level

    def acquire(self) -> None:
        """Wait for a slot of the kind that the level is for."""
        gpu, memory = self._level.device in _ON_A_GPU, self._task.model.card.memory.gpu_mb
        pool, at_once = self._runs.pool, self._runs.at_once
        self._lease = wait_for_slot(
            self._context,
            self._site,
            pool,
            self._key,
            lambda: pool.declare_for_model(
                self._runs.options.host, gpu=gpu, gpu_memory_mb=memory, at_once=at_once
            ),
        )

    def segment(self, target: Path) -> tuple[tuple[SegmentedRegion, ...], MadeRecord]:
        """Run the job, verify what it has left, and move it to its place.

        Raises:
            TryFailedError: The model has failed, or what it has left is not valid.
            InfrastructureError: The machine was lost, or its disk is full.
            JobCancelledError: Somebody has cancelled the job.
        """
        assert self._progress is not None
        job = self._prepared()
        run = self._watching(job)
        status = run.run()
        try:
            self._raise_failure(status, run.said.decode(errors="replace"))
        except TryFailedError as error:
            error.said = self._last_words(run.said)
            raise
        except InfrastructureError as error:
            # The attempt is repeated under the same key, and must not find this job again.
            self._executor.give_up(job, error.message)
            raise
        self._progress.phase(WorkPhase.VERIFYING)
        try:
            fetched = run.fetch()
            first = next(iter(self._task.images.values()))
            regions = made_regions(self._task.model, first, fetched[f"{OUTPUTS}/{LABEL_MAP}"])
            record = read_record(fetched[f"{OUTPUTS}/{RECORD}"])
        except (ModelError, EngineError, StoreError) as error:
            raise TryFailedError(error.message, Cause.ERROR) from None
        target.mkdir(parents=True, exist_ok=True)
        for name in (LABEL_MAP, RECORD):
            shutil.move(fetched[f"{OUTPUTS}/{name}"], target / name)
        run.clear()
        self._progress.done(phase=WorkPhase.SEGMENTED)
        return regions, record

    def _prepared(self) -> Job:
        assert self._attempt is not None
        (self.work / INPUTS).mkdir(parents=True, mode=0o700)
        (self.work / OUTPUTS).mkdir()
        (self.work / "tmp").mkdir()
        inputs = {f"{INPUTS}/{role}.nii.gz": path for role, path in self._task.images.items()}
        for name, path in inputs.items():
            try:
                # The same file under another name; the job gives its program copies.
                os.link(path, self.work / name)
            except OSError:
                # It lies on another disk.
                shutil.copyfile(path, self.work / name)
        card = self._task.model.card
        told = ModelJob(
            model=card.name, card_sha256=card.digest(), root=self._models, options=self._options()
        )
        write_job(told, self.work)
        return Job(
            key=self._job_key,
            name=self._key,
            parents=(self._key, "models"),
            directory=self.work,
            manifest={name: sha256_file(self.work / name) for name in (*inputs, JOB)},
            argv=(sys.executable, *_PROGRAM) if self._slurm is None else self._slurm.model_command or (),
            outputs=(f"{OUTPUTS}/{LABEL_MAP}", f"{OUTPUTS}/{RECORD}"),
            log=LOG_NAME,
            timeout_seconds=self._runs.options.timeout_seconds,
            environment=self._environment(),
        )

    @property
    def _slurm(self) -> Slurm | None:
        """Of the cluster on which it runs."""
        cluster = self._site.settings.slurm_of(self._runs.options.host)
        return None if cluster is None else cluster[1]

    @property
    def _models(self) -> str | None:
        """Folder in which the model lies where the job runs."""
        if self._slurm is None:
            return str(self._task.model.folder.parent)
        return self._slurm.models

    @property
    def _gpu(self) -> str | None:
        if self._slurm is not None or self._held.kind is not SlotKind.GPU:
            return None
        return ",".join(slot.uuid for slot in self._held.slots)

    def _options(self) -> JobOptions:
        wanted, level = self._runs.options, self._level.device
        split = wanted.force_split and self._task.model.card.in_pieces
        return JobOptions(
            device="gpu" if level in _ON_A_GPU else "cpu",
            threads=self._runs.threads,
            in_pieces=split or level is Device.GPU_IN_PIECES,
            gpu=self._gpu,
            require_isolation=wanted.require_isolation,
            nr_threads_resample=wanted.nr_threads_resample,
            nr_threads_save=wanted.nr_threads_save,
            num_proc_preprocessing=wanted.num_proc_preprocessing,
            num_proc_export=wanted.num_proc_export,
        )

    def _environment(self) -> dict[str, str]:
        threads = dict.fromkeys(THREAD_VARIABLES, str(self._runs.threads))
        if self._slurm is not None:
            return threads
        # Where this code is not installed but only found by it, the job has to find it as well.
        ours = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        return {
            **ours,
            **threads,
            GPU_VARIABLE: self._gpu or "",
            # What a killed job has left there goes with its folder.
            "TMPDIR": str(self.work / "tmp"),
        }

    def _last_words(self, printed: bytes) -> str:
        """What the program has printed at last, the last line first, without paths; and where the rest is."""
        log = printed.decode(errors="replace")
        # The first line may be cut, and its path would not be seen as one.
        whole = log.partition("\n")[2] if len(printed) >= LONGEST_LOG else log
        lines = [line.strip() for line in self._scrubber.text(whole).splitlines() if line.strip()]
        if failure_in(log) is not None:
            lines.pop()
        last, *before = [shown(line, _LONGEST_LINE) for line in lines[: -1 - _LINES_TOLD : -1]] or [""]
        words = f": {last}" if last else ""
        words += f" (before it: {' | '.join(reversed(before))})" if before else ""
        if last and self._attempt is not None and (self.work / self._log_name).is_file():
            words += f"; log: {self._attempt.job_key}.log"
        return words

    def _raise_failure(self, status: JobStatus, log: str) -> None:
        match status.state:
            case JobState.SUCCEEDED:
                return
            case JobState.TIMED_OUT:
                reason = f"{status.reason} (radiotherapy.segmentation.timeout_seconds)"
                raise TryFailedError(reason, Cause.TIME_LIMIT)
            case JobState.CANCELLED:
                raise JobCancelledError(status.reason)
        told = failure_in(log)
        if told is not None and (told.infrastructure or told.cause is Cause.DISK_FULL):
            raise InfrastructureError(told.reason)
        if told is not None:
            raise TryFailedError(told.reason, told.cause)
        if status.out_of_memory:
            # The next job of this digest is given more.
            raise TryFailedError(status.reason, Cause.KILLED)
        ended = exit_words(status.exit_code) if status.exit_code else status.reason
        raise TryFailedError(ended, cause_of_text(log) or cause_of_exit(status.exit_code))

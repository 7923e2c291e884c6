"""The programs of a worker: what it offers, and running one for a job, a model with less where it has to."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mqi_dagster.errors import ConfigurationError, MqiError
from mqi_dagster.execution.gpus import local_gpus
from mqi_dagster.execution.job import MARK, Job, JobState, JobStatus
from mqi_dagster.execution.processes import ask, resolve_program
from mqi_dagster.execution.work import SEGMENT, Capabilities, Device, End, Ended, GpuNeed, Offer, OfferedModel
from mqi_dagster.imaging.models.card import PACKAGED_MODELS, FoundModel, find_models
from mqi_dagster.imaging.models.job_files import failure_in, read_job, write_job
from mqi_dagster.imaging.models.model_errors import LONGEST_LOG
from mqi_dagster.processes import levels
from mqi_dagster.processes.causes import WANT_OF_MEMORY, Cause, cause_of_exit, cause_of_text, exit_words
from mqi_dagster.processes.worker_counts import THREAD_VARIABLES, available_memory_bytes, processors
from mqi_dagster.worker.configuration import Configuration

_LOG = logging.getLogger("mqi-worker")
_SEGMENT_COMMAND = (sys.executable, "-P", "-m", "mqi_dagster.imaging.models.segment_job")
_ENGINE_THREADS = "MQI_ENGINE_THREADS"
_GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"

Start = Callable[[Job], JobStatus]
"""Runs a job to its end; its log is kept."""


class Programs:
    """What this computer can run.

    Args:
        configuration: Of the worker.

    Raises:
        ConfigurationError: There is no GPU, and it is to do nothing without one.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self.devices = _devices(configuration)
        self._threads = configuration.threads or max(1, processors() // len(self.devices))
        self.problems = list[str]()
        """Why programs or models are not offered, in words."""
        versions = {name: self._version(name) for name in configuration.programs}
        self._versions = {name: version for name, version in versions.items() if version is not None}
        if SEGMENT not in versions and importlib.util.find_spec("SimpleITK") is not None:
            self._versions[SEGMENT] = ""

    def _version(self, name: str) -> str | None:
        program = self._configuration.programs[name]
        try:
            resolve_program(program.command[0])
            if program.version_command is None:
                return ""
            done = ask(program.version_command)
            done.check_returncode()
            return done.stdout.strip()
        except (MqiError, OSError, subprocess.SubprocessError) as error:
            reason = error.message if isinstance(error, MqiError) else "its version_command fails"
            self.problems.append(f"the program {name} is not offered: {reason}")
            return None

    def found_models(self) -> list[FoundModel]:
        """Every model of this computer, usable or with the reason why not."""
        own = self._configuration.models
        return find_models([PACKAGED_MODELS, *([] if own is None else [own])])

    def capabilities(self) -> Capabilities:
        """What this worker offers, with its GPUs as they are."""
        used = {one.uuid: one.used_mb for one in local_gpus()} if self.devices[0].kind == "gpu" else {}
        models = [
            OfferedModel(name=one.card.name, version=one.card.version, card_sha256=one.card.digest())
            for one in (self.found_models() if SEGMENT in self._versions else ())
            if one.card is not None and not one.reason
        ]
        return Capabilities(
            worker=self._configuration.name,
            programs=self._versions,
            models=tuple(models),
            memory_mb=available_memory_bytes() >> 20,
            devices=tuple(one.model_copy(update={"used_mb": used.get(one.uuid)}) for one in self.devices),
        )

    def run(
        self, offer: Offer, device: Device, folder: Path, start: Start, say: Callable[[str], None]
    ) -> tuple[End, Ended]:
        """Run the program of a job, whose inputs lie in its folder; how it has ended.

        Args:
            offer: The job.
            device: The slot that it has.
            folder: Its folder.
            start: Runs one try of it.
            say: Adds a line to its log.
        """
        for name in offer.work.marked:
            text = (folder / name).read_bytes()
            (folder / name).write_bytes(text.replace(MARK.encode(), os.fsencode(folder)))
        for name in offer.outputs:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tmp").mkdir(exist_ok=True)
        if offer.work.needs.program == SEGMENT:
            return _Ladder(self, offer, device, folder, start, say).climb_down()
        return _ended(start(self.job(offer, device, folder, 1)))

    def job(self, offer: Offer, device: Device, folder: Path, number: int) -> Job:
        """A try of a job, as this computer runs it."""
        gpu = device.uuid if device.kind == "gpu" else ""
        ours = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        return Job(
            key=f"{offer.id}-{number}",
            name="work",
            parents=(),
            directory=folder,
            manifest={},
            argv=self._command(offer, folder),
            outputs=offer.outputs,
            log=f"log.{number}",
            timeout_seconds=offer.timeout_seconds,
            environment={
                **ours,
                **dict.fromkeys((*THREAD_VARIABLES, _ENGINE_THREADS), str(self._threads)),
                _GPU_VARIABLE: gpu,
                "TMPDIR": str(folder / "tmp"),
            },
            success_exit_codes=offer.success_exit_codes,
        )

    def _command(self, offer: Offer, folder: Path) -> tuple[str, ...]:
        program = self._configuration.programs.get(offer.work.needs.program)
        if program is None and offer.work.needs.program != SEGMENT:
            raise ConfigurationError(f"this worker has no program {offer.work.needs.program}")
        command = _SEGMENT_COMMAND if program is None else program.command
        places = {name: str(folder / value) for name, value in offer.work.arguments.items()}
        for name, place in {**places, "folder": str(folder)}.items():
            command = tuple(part.replace(f"{{{name}}}", place) for part in command)
        return command

    @property
    def threads(self) -> int:
        """Threads of a job."""
        return self._threads

    @property
    def models(self) -> str | None:
        """Folder of this computer's models."""
        return None if self._configuration.models is None else str(self._configuration.models)


def _ended(status: JobStatus, steps: Sequence[str] = (), **more: bool) -> tuple[End, Ended]:
    """How a program has ended, as it is told."""
    timed_out, reason = status.state is JobState.TIMED_OUT, status.reason[:500]
    told = tuple(step[:500] for step in steps)
    ended = Ended(exit_code=status.exit_code, reason=reason, timed_out=timed_out, steps=told, **more)
    return (End.COMPLETE if status.state is JobState.SUCCEEDED else End.FAIL), ended


@dataclass(frozen=True, slots=True)
class _Ladder:
    """A segmentation model: on the GPU, in pieces, on the processor."""

    programs: Programs
    offer: Offer
    device: Device
    folder: Path
    start: Start
    say: Callable[[str], None]

    def climb_down(self) -> tuple[End, Ended]:
        told, needs, steps = read_job(self.folder), self.offer.work.needs, list[str]()
        model = next((one.card for one in self.programs.found_models() if one.name == told.model), None)
        pieces = model is not None and model.in_pieces
        on_gpu = self.device.kind == "gpu" and needs.gpu is not GpuNeed.NO
        begins = levels.Device.GPU_IN_PIECES if told.options.in_pieces and pieces else levels.Device.GPU
        level = levels.Level(1, begins if on_gpu else levels.Device.CPU)
        if needs.gpu is not GpuNeed.NO and not on_gpu:
            self.say("there is no GPU here: the model runs on the processor")
        while True:
            number = len(steps) + 1
            options = {
                "device": "gpu" if level.device in levels.ON_A_GPU else "cpu",
                "in_pieces": level.device is levels.Device.GPU_IN_PIECES or told.options.in_pieces,
                "gpu": self.device.uuid or None,
                "threads": self.programs.threads,
            }
            changed = {"root": self.programs.models, "options": told.options.model_copy(update=options)}
            write_job(told.model_copy(update=changed), self.folder)
            status = self.start(self.programs.job(self.offer, self.device, self.folder, number))
            if status.state is JobState.SUCCEEDED:
                return _ended(status, steps)
            cause, reason, infrastructure = self._cause(status, number)
            after = (
                None
                if infrastructure
                else levels.next_model_level(
                    level, cause, in_pieces=pieces, allow_cpu=needs.gpu is not GpuNeed.NEEDED, retry=False
                )
            )
            if after is None:
                memory = cause in WANT_OF_MEMORY
                return _ended(status, steps, out_of_memory=memory, infrastructure=infrastructure)
            steps.append(str(levels.Step(told.model, number, level, None, cause, reason, after)))
            self.say(steps[-1])
            level = after

    def _cause(self, status: JobStatus, number: int) -> tuple[Cause, str, bool]:
        """Why a try has failed, in words, and whether this computer is to blame."""
        if status.state is JobState.TIMED_OUT:
            return Cause.TIME_LIMIT, status.reason, False
        log = self.folder / f"log.{number}"
        text = log.read_bytes()[-LONGEST_LOG:].decode(errors="replace") if log.is_file() else ""
        if (told := failure_in(text)) is not None:
            return told.cause, told.reason, told.infrastructure or told.cause is Cause.DISK_FULL
        ended = exit_words(status.exit_code) if status.exit_code else status.reason
        return cause_of_text(text) or cause_of_exit(status.exit_code), ended, False


def _devices(configuration: Configuration) -> tuple[Device, ...]:
    wanted = configuration.device
    gpus = [] if wanted == "cpu" else local_gpus()
    if unknown := sorted(set(configuration.gpus) - {one.uuid for one in gpus}):
        raise ConfigurationError(f"gpus: this computer shows no GPU {unknown[0]}")
    devices = tuple(
        Device(kind="gpu", index=one.index, uuid=one.uuid, name=one.name, memory_mb=one.memory_mb or 0)
        for one in gpus
        if one.uuid in (configuration.gpus or (one.uuid,))
    )
    if not devices and wanted == "gpu":
        words = "device is gpu, and this computer shows no GPU (does nvidia-smi list one?)"
        if configuration.without_gpu == "refuse":
            raise ConfigurationError(f"{words}; to work on the processor instead: without_gpu: cpu")
        _LOG.warning("%s: it works on the processor (without_gpu)", words)
    return devices or tuple(Device(kind="cpu", index=index) for index in range(configuration.slots))

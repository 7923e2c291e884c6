"""Work that a computer asks for: what it is offered, what it answers, and by which names.

The server names a program, never a command: what a program is on a worker's computer, that computer says.
Who holds a lease shows it with everything that it sends; whoever has another one is refused.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

API = "/api/v1/work"
LEASE_HEADER = "mqi-lease"
WORK_ID = r"[0-9a-f]{32}"
LARGEST_PIECE = 1 << 20
"""Bytes of an output that are sent at once."""
LONGEST_LOG = 64 << 20
"""Bytes of a job's log that are kept."""
LONGEST_WAIT_SECONDS = 50.0
SEGMENT, ENGINE = "segment", "engine"
"""The programs that this platform asks for: a segmentation model, and a Monte Carlo engine."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ProgramName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,49}$")]
WorkerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Words = Annotated[str, Field(max_length=500)]


class Part(BaseModel):
    """A part of what server and worker tell each other."""

    model_config = ConfigDict(frozen=True)


class GpuNeed(StrEnum):
    """What a job makes of a GPU."""

    NO = "no"
    WANTED = "wanted"
    """It begins there, and goes on on the processor where there is none with enough memory."""
    NEEDED = "needed"


class Device(Part):
    """One slot of a worker: a GPU, or a share of the processor."""

    kind: Literal["cpu", "gpu"]
    index: Annotated[int, Field(ge=0, lt=1000)]
    uuid: Annotated[str, Field(max_length=100)] = ""
    name: Annotated[str, Field(max_length=100)] = ""
    memory_mb: Annotated[int, Field(ge=0)] = 0
    used_mb: int | None = None


class OfferedModel(Part):
    """A segmentation model that a worker can run."""

    name: Annotated[str, Field(max_length=64)]
    version: Annotated[str, Field(max_length=64)]
    card_sha256: Sha256


class Capabilities(Part):
    """A worker: its slots, and what it can run in one of them."""

    worker: WorkerName
    programs: dict[ProgramName, Annotated[str, Field(max_length=200)]]
    """Version by program; empty where it tells none."""
    models: Annotated[tuple[OfferedModel, ...], Field(max_length=1000)] = ()
    memory_mb: Annotated[int, Field(ge=0)] = 0
    """Of a slot."""
    devices: Annotated[tuple[Device, ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        named = [one.uuid for one in self.devices if one.uuid]
        if len({(one.kind, one.index) for one in self.devices}) != len(self.devices) or len(
            set(named)
        ) != len(named):
            raise ValueError("devices: one stands there twice")
        return self


class Needs(Part):
    """What a job needs of a worker."""

    program: ProgramName
    version: str = ""
    """Empty for any; a worker that tells none is taken at its word that it has the right one."""
    model: str = ""
    card_sha256: str = ""
    gpu: GpuNeed = GpuNeed.NO
    gpu_memory_mb: int = 0
    memory_mb: int = 0

    def lacking(self, has: Capabilities, device: Device) -> str:
        """What a slot of a worker lacks for it; empty where it lacks nothing."""
        if self.program not in has.programs:
            return f"the program {self.program}"
        told = has.programs[self.program]
        if self.version and told and told != self.version:
            return f"version {self.version} of the program {self.program}"
        if self.model and self.card_sha256 not in {
            one.card_sha256 for one in has.models if one.name == self.model
        }:
            return f"the model {self.model} with the card that it has here"
        if self.gpu is GpuNeed.NEEDED and not self.fits_gpu(device):
            return f"a GPU with {self.gpu_memory_mb} MB" if self.gpu_memory_mb else "a GPU"
        return f"{self.memory_mb} MB of memory" if has.memory_mb < self.memory_mb else ""

    def fits_gpu(self, device: Device) -> bool:
        """Whether a slot is a GPU that is large enough."""
        return device.kind == "gpu" and device.memory_mb >= self.gpu_memory_mb


class Work(Part):
    """A job in the words of those who ask for it."""

    needs: Needs
    arguments: dict[str, str] = {}
    """What stands for a placeholder of the worker's command: names of inputs."""
    marked: tuple[str, ...] = ()
    """Inputs in which `job.MARK` stands for the job's folder."""


class Request(Part):
    """What a worker is told of a job."""

    work: Work
    manifest: dict[str, Sha256]
    """SHA-256 of every input by its path below the job's folder."""
    outputs: tuple[str, ...]
    timeout_seconds: float
    success_exit_codes: tuple[int, ...]

    @model_validator(mode="after")
    def _below(self) -> Self:
        for name in (*self.manifest, *self.outputs, *self.work.marked, *self.work.arguments.values()):
            path = PurePosixPath(name)
            if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
                raise ValueError("a file lies outside the job's folder")
        return self


class Offer(Request):
    """A job that a worker is given, and its lease."""

    id: Annotated[str, Field(pattern=f"^{WORK_ID}$")]
    lease: str
    lease_seconds: float
    """So long a lease lasts without a heartbeat."""


class Hello(Part):
    """Who answers."""

    site: str


class Claim(Part):
    """A worker asks for a job."""

    id: Annotated[str, Field(pattern=f"^{WORK_ID}$")]
    """By which an answer that was lost is given again: a new one after each that was received."""
    has: Capabilities
    slot: int | None = None
    """Number of the device, from 0, that is free; None where the worker only tells of itself."""
    wait_seconds: Annotated[float, Field(ge=0, le=LONGEST_WAIT_SECONDS)] = 0.0

    @model_validator(mode="after")
    def _known_slot(self) -> Self:
        if self.slot is not None and not 0 <= self.slot < len(self.has.devices):
            raise ValueError("slot: there is no such device")
        return self

    @property
    def device(self) -> Device | None:
        """The slot that is free."""
        return None if self.slot is None else self.has.devices[self.slot]


class Heartbeat(Part):
    """A worker is at work on a job."""

    phase: Words
    worker: WorkerName | None = None
    device: Device | None = None
    """The GPU that it works on, as it is."""
    offset: Annotated[int, Field(ge=0)] = 0
    log: Annotated[str, Field(max_length=LARGEST_PIECE // 8, pattern=r"^[\x00-\xff]*$")] = ""
    """What the program has printed from ``offset`` on, its bytes as Latin-1."""


class Pulse(Part):
    """What a heartbeat is answered."""

    goes_on: bool
    """False where somebody has cancelled the job: the worker ends it and gives it back."""
    log_bytes: int
    """What is here of the log: from there on it goes on."""


class End(StrEnum):
    """How a worker gives a job back."""

    COMPLETE = "complete"
    FAIL = "fail"
    RELEASE = "release"
    """Unharmed: it counts as never taken."""


class Ended(Part):
    """How a worker's try of a job has ended."""

    exit_code: int | None = None
    reason: Words = ""
    """Of a failure."""
    timed_out: bool = False
    out_of_memory: bool = False
    infrastructure: bool = False
    """Whether the worker's computer is to blame: another one is given the job."""
    steps: Annotated[tuple[Words, ...], Field(max_length=20)] = ()
    """Tries within the job that went on with less, in words."""


class MadeOutput(Part):
    """An output that has arrived whole."""

    size: int
    sha256: Sha256


class Received(Part):
    """What is here of an output, once a piece of it was sent."""

    size: int


class Result(Part):
    """What is known of a job by its worker."""

    outputs: dict[int, MadeOutput] = {}
    """By number, from 1."""
    ended: Ended | None = None

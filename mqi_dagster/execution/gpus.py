"""The GPUs of this machine: what NVML sees of them, or what the settings declare where there is no NVML.

Whose a process on a GPU is, is decided by its pid alone. It is ours where it is, or descends from, a process
of an engine's process group or session: the job ids in the leases name those. A compute process that holds no
memory is a display server's and counts for nothing. Every other one is foreign: also one whose memory the
driver does not tell, and one that lives in another container, whose pid means nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pynvml

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.execution.processes import descends_from, living_members
from mqi_dagster.settings import DeclaredGpu

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ComputeProcess:
    """A process that computes on a GPU."""

    pid: int
    used_bytes: int | None
    """Memory it holds on the GPU; None where the driver does not tell."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU at one sample; None where its driver does not tell."""

    index: int
    uuid: str
    name: str
    memory_mb: int | None
    used_mb: int | None = None
    utilisation_percent: int | None = None
    temperature_c: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    processes: tuple[ComputeProcess, ...] = ()


def local_gpus() -> list[Gpu]:
    """Every GPU of this machine that answers, empty where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            # One that has fallen off the bus must not hide the others.
            with suppress(pynvml.NVMLError):
                found.append(_gpu_at(index, pynvml.nvmlDeviceGetHandleByIndex(index)))
        return found
    finally:
        pynvml.nvmlShutdown()


def nvml_is_installed() -> bool:
    """Whether this machine has NVML, also where its driver does not answer now."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return False
    except pynvml.NVMLError:
        return True
    pynvml.nvmlShutdown()
    return True


def _gpu_at(index: int, handle: Any) -> Gpu:
    memory = _told(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    rates = _told(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    clock = pynvml.nvmlDeviceGetClockInfo
    return Gpu(
        index=index,
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        name=str(pynvml.nvmlDeviceGetName(handle)),
        memory_mb=None if memory is None else int(memory.total) >> 20,
        used_mb=None if memory is None else int(memory.used) >> 20,
        utilisation_percent=None if rates is None else int(rates.gpu),
        temperature_c=_told(
            lambda: int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
        ),
        sm_clock_mhz=_told(lambda: int(clock(handle, pynvml.NVML_CLOCK_SM))),
        memory_clock_mhz=_told(lambda: int(clock(handle, pynvml.NVML_CLOCK_MEM))),
        processes=tuple(
            ComputeProcess(int(one.pid), None if one.usedGpuMemory is None else int(one.usedGpuMemory))
            for one in _told(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) or ()
        ),
    )


def _told(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except pynvml.NVMLError_NotSupported:
        return None


def foreign(processes: Iterable[ComputeProcess], engines: Collection[str]) -> int:
    """How many of the processes on a GPU are neither an engine of this site nor hold nothing.

    Args:
        processes: On one GPU.
        engines: Job ids of the engines that run under a lease.

    Raises:
        InfrastructureError: A job id is not that of a process.
    """
    holding = [one.pid for one in processes if one.used_bytes != 0]
    if not holding:
        return 0
    ours = {pid for job_id in engines for pid in living_members(job_id)}
    return sum(not descends_from(pid, ours) for pid in holding)


def pool_gpus(declared: Sequence[DeclaredGpu], seen: Sequence[Gpu]) -> list[Gpu]:
    """The GPUs of the pool: those that are declared, or without a declaration all that are seen.

    Args:
        declared: ``execution.gpus``.
        seen: What NVML sees.

    Raises:
        ConfigurationError: The declaration contradicts what NVML sees.
    """
    if not declared:
        return list(seen)
    if not seen:
        return [Gpu(one.index, one.uuid, "declared", one.memory_mb) for one in declared]
    known = {gpu.uuid: gpu for gpu in seen}
    for one in declared:
        gpu = known.get(one.uuid)
        if gpu is None:
            raise ConfigurationError(f"execution.gpus: NVML sees no GPU {one.uuid} here")
        if gpu.index != one.index:
            raise ConfigurationError(
                f"execution.gpus: NVML gives {one.uuid} the index {gpu.index}, not {one.index}"
            )
        if gpu.memory_mb is not None and one.memory_mb > gpu.memory_mb:
            raise ConfigurationError(
                f"execution.gpus: {one.uuid} has {gpu.memory_mb} MB, not {one.memory_mb} MB"
            )
    return [known[one.uuid] for one in declared]


def present_gpus(declared: Sequence[DeclaredGpu], seen: Sequence[Gpu]) -> list[Gpu]:
    """The GPUs of the pool that are there now; what is declared and not seen is left out.

    A driver that is away, or a GPU that is lost, is no wrong declaration: whoever needs it waits for it.
    Where a GPU is lost, NVML counts the others anew: each is known by its UUID and keeps its declared index.

    Args:
        declared: ``execution.gpus``.
        seen: What NVML sees.

    Raises:
        ConfigurationError: A GPU has less memory than is declared.
    """
    if not declared or (not seen and not nvml_is_installed()):
        return pool_gpus(declared, seen)
    known = {gpu.uuid: gpu for gpu in seen}
    there = [one for one in declared if one.uuid in known]
    renumbered = [replace(known[one.uuid], index=one.index) for one in there]
    return pool_gpus(there, renumbered) if there else []

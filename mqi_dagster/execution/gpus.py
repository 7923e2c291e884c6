"""The GPUs of this machine, asked through NVML."""

from __future__ import annotations

from dataclasses import dataclass

import pynvml


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML shows it."""

    index: int
    uuid: str
    name: str
    memory_mb: int


def local_gpus() -> list[Gpu]:
    """Every GPU of this machine, empty where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            found.append(
                Gpu(
                    index,
                    str(pynvml.nvmlDeviceGetUUID(handle)),
                    str(pynvml.nvmlDeviceGetName(handle)),
                    int(memory.total) >> 20,
                )
            )
        return found
    finally:
        pynvml.nvmlShutdown()

"""The GPUs of a host without Slurm, asked through its nvidia-smi."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mqi_dagster.execution.gpus import ComputeProcess, Gpu
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import AnswerError
from mqi_dagster.hpc.shell import require, run

_GPU = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.used",
    "utilization.gpu",
    "temperature.gpu",
    "clocks.sm",
    "clocks.mem",
)
_PROCESS = ("gpu_uuid", "pid", "used_memory")
_FORMAT = "--format=csv,noheader,nounits"
_NOTHING = "No devices were found"
_NOT_REPORTED = {"[N/A]", "N/A", "[Not Supported]"}
_NUMBER = re.compile(r"[0-9]{1,9}")
_UUID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")


def gpus_of_host(connection: Connection) -> list[Gpu]:
    """Every GPU of a host with the processes that compute on it.

    Raises:
        UnreachableError: No answer.
        RemoteCommandError: nvidia-smi fails.
        AnswerError: It says something that is not understood.
    """

    def ask(what: str, fields: Sequence[str]) -> str:
        argv = ["env", "LC_ALL=C", "nvidia-smi", f"--query-{what}={','.join(fields)}", _FORMAT]
        return require(run(connection, argv), "nvidia-smi fails").text

    return parse_gpus(ask("gpu", _GPU), ask("compute-apps", _PROCESS))


def parse_gpus(gpus: str, processes: str) -> list[Gpu]:
    """GPUs from the two answers of nvidia-smi.

    Args:
        gpus: One line a GPU.
        processes: One line a process and GPU.

    Raises:
        AnswerError: A line is not understood; names it.
    """
    on: dict[str, list[ComputeProcess]] = {}
    for line in _lines(processes):
        fields = line.split(", ")
        if len(fields) != len(_PROCESS) or not _UUID.fullmatch(fields[0]):
            raise AnswerError(f"nvidia-smi lists a process as {line[:80]!r}")
        used = _number("used_memory", fields[2])
        process = ComputeProcess(_required("pid", fields[1]), None if used is None else used << 20)
        on.setdefault(fields[0], []).append(process)
    return [_gpu(line, on) for line in _lines(gpus)]


def _lines(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [] if lines == [_NOTHING] else lines


def _gpu(line: str, processes: dict[str, list[ComputeProcess]]) -> Gpu:
    fields = line.split(", ")
    after = len(_GPU) - 3
    # The name alone may hold a comma.
    if len(fields) < len(_GPU) or not _UUID.fullmatch(fields[1]):
        raise AnswerError(f"nvidia-smi lists a GPU as {line[:80]!r}")
    memory, used, rate, temperature, sm_clock, memory_clock = (
        _number(name, text) for name, text in zip(_GPU[3:], fields[-after:], strict=True)
    )
    return Gpu(
        index=_required("index", fields[0]),
        uuid=fields[1],
        name=", ".join(fields[2:-after]),
        memory_mb=memory,
        used_mb=used,
        utilisation_percent=rate,
        temperature_c=temperature,
        sm_clock_mhz=sm_clock,
        memory_clock_mhz=memory_clock,
        processes=tuple(processes.get(fields[1], ())),
    )


def _number(name: str, text: str) -> int | None:
    if text in _NOT_REPORTED:
        return None
    if not _NUMBER.fullmatch(text):
        raise AnswerError(f"nvidia-smi says {text[:40]!r} for {name}")
    return int(text)


def _required(name: str, text: str) -> int:
    number = _number(name, text)
    if number is None:
        raise AnswerError(f"nvidia-smi does not tell {name}")
    return number
